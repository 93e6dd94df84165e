//! A mount and network namespace of its own: loopback only, every port free, and names that resolve
//! as a test says.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::tls_front::Tap;
use super::{environment, within};

/// Brings loopback up; `ip` may not be installed.
const LOOPBACK_UP: &str = "import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x41))";

/// What runs first in the namespaces and keeps them: until its standard input ends.
const HOLDER: &str = r#"mount --bind "$1" /etc/hosts && "$2" -c "$3" && echo ready && exec cat"#;

/// The namespaces, until this is dropped and what was started there has ended.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    taps: Mutex<Vec<Tap>>,
}

impl Namespace {
    /// Makes them, where `hosts` is `/etc/hosts`. `Err` tells why this machine doesn't let us.
    ///
    /// # Errors
    /// When namespaces are not permitted, or `unshare` and `nsenter` are not there.
    ///
    /// # Panics
    /// When they are permitted, but something in them fails.
    pub async fn create(hosts: &Path) -> Result<Arc<Self>, String> {
        permitted().await?;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", HOLDER, "sh"])
            .arg(hosts)
            .args([&environment("SDK_PYTHON"), LOOPBACK_UP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start unshare: {error}"));
        let stdout = holder.stdout.take().unwrap_or_else(|| panic!("no standard output"));
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let read = within("the namespaces", reader.read_line(&mut line)).await;
        assert!(read.is_ok() && line == "ready\n", "no namespaces: {line:?}");
        Ok(Arc::new(Self { holder, taps: Mutex::default() }))
    }

    fn pid(&self) -> u32 {
        self.holder.id().unwrap_or_else(|| panic!("the namespaces' first process has ended"))
    }

    /// A program in both namespaces.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let folder = format!("/proc/{}/ns", self.pid());
        command.arg(format!("--net={folder}/net")).arg(format!("--mount={folder}/mnt"));
        command.args(["--", program]);
        command
    }

    /// A program in this network with names of its own.
    #[must_use]
    pub fn command_with_hosts(&self, hosts: &Path, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).args(["--", "unshare", "--mount"]);
        command.args(["sh", "-c", r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#, "sh"]);
        command.arg(hosts).arg(program);
        command
    }

    /// A socket that listens in this network; it is served from outside.
    ///
    /// # Panics
    /// When the address can't be had.
    #[must_use]
    pub fn listen(&self, addr: SocketAddr) -> TcpListener {
        let listener = self.inside(|| {
            let listener = std::net::TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.and_then(TcpListener::from_std);
        listener.unwrap_or_else(|error| panic!("cannot listen on {addr} in the namespace: {error}"))
    }

    /// Lets this network reach an address outside; returns where.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn outward(&self, target: SocketAddr) -> SocketAddr {
        let listener = self.listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        self.bridge(Tap::on(listener, move || TcpStream::connect(target)))
    }

    /// Lets the outside reach an address in this network; returns where.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn inward(self: &Arc<Self>, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("no port: {error}"));
        let namespace = Arc::downgrade(self);
        self.bridge(Tap::on(listener, move || {
            let connected = namespace.upgrade().map(|namespace| namespace.connect(target));
            std::future::ready(connected.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into())))
        }))
    }

    /// Connects to an address in this network.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.inside(|| {
            let socket = std::net::TcpStream::connect(target)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        TcpStream::from_std(socket)
    }

    fn bridge(&self, tap: Tap) -> SocketAddr {
        let addr = tap.addr;
        self.taps.lock().unwrap_or_else(PoisonError::into_inner).push(tap);
        addr
    }

    /// Does something in this network. A socket stays where it was made, a thread where it went: so
    /// the thread is one of its own.
    fn inside<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let path = format!("/proc/{}/ns/net", self.pid());
        let enter_and_act = || {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            act()
        };
        let done = std::thread::scope(|scope| scope.spawn(enter_and_act).join());
        done.unwrap_or_else(|_| panic!("a thread in the namespace panicked"))
    }
}

async fn permitted() -> Result<(), String> {
    for program in ["unshare", "nsenter"] {
        let mut command = Command::new(program);
        let arguments: &[&str] = if program == "unshare" {
            &["--mount", "--net", "true"]
        } else {
            &["--net=/proc/self/ns/net", "true"]
        };
        let output = within(program, command.args(arguments).output()).await;
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
    }
    Ok(())
}
