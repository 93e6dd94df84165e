//! A PostgreSQL of the storm's own, so that nobody else's is killed.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use system_tests::harness::PATIENCE;
use system_tests::harness::backend::ReservedPort;
use system_tests::harness::process::Process;
use tempfile::TempDir;
use tokio::process::Command;

const USER: &str = "purser";
const PASSWORD: &str = "storm-of-its-own";

/// The server. Its processes and its data go with this value.
#[derive(Debug)]
pub struct Postgres {
    port: ReservedPort,
    programs: PathBuf,
    folder: TempDir,
    process: Option<Process>,
    frozen: Vec<Pid>,
}

impl Postgres {
    /// Makes a cluster and starts its server.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("purser-chaos").tempdir().expect("a folder");
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("the password's file");
        if let Some(user) = server_user() {
            let mut chown = std::process::Command::new("chown");
            chown.args(["-R", user]).arg(folder.path());
            assert!(chown.status().is_ok_and(|status| status.success()), "{chown:?}");
        }
        let programs = programs();
        let mut initdb = as_server_user(&programs.join("initdb"));
        initdb
            .args(["--auth=scram-sha-256", "--no-sync", "--no-locale", "--encoding=UTF8"])
            .args(["--username", USER, "--pwfile"])
            .arg(&password)
            .arg("-D")
            .arg(folder.path().join("data"));
        let made = initdb.output().await.expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = ReservedPort::take();
        let mut server = Self { port, programs, folder, process: None, frozen: Vec::new() };
        server.restart().await;
        assert!(
            server.pids().len() > 1,
            "the kernel doesn't list a process's children, which are to be killed"
        );
        server
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// A URL of its database by way of `addr`.
    pub fn url(addr: SocketAddr) -> String {
        format!("postgres://{USER}:{PASSWORD}@{addr}/postgres")
    }

    /// Connections for questions, past every link.
    pub fn pool(&self) -> PgPool {
        let options: PgConnectOptions = Self::url(self.addr()).parse().expect("a URL");
        PgPoolOptions::new().max_connections(3).connect_lazy_with(options)
    }

    /// Starts the server and waits until it takes connections. What is left of a killed one may keep it
    /// from starting for a moment.
    pub async fn restart(&mut self) {
        let started = Instant::now();
        loop {
            self.process = Some(self.spawn());
            if self.is_up(started).await {
                return;
            }
            let log = self.process.as_ref().map(Process::tail).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE * 3, "PostgreSQL does not start:\n{log}");
        }
    }

    fn spawn(&self) -> Process {
        let mut command = as_server_user(&self.programs.join("postgres"));
        command.arg("-D").arg(self.folder.path().join("data"));
        let port = format!("port={}", self.addr().port());
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=60", &port]
        {
            command.args(["-c", setting]);
        }
        command.stdout(Stdio::null());
        Process::start("postgresql", &mut command, self.folder.path().join("log"))
    }

    /// Whether the process that was started comes to answer questions, instead of ending.
    async fn is_up(&mut self, started: Instant) -> bool {
        let pool = self.pool();
        while started.elapsed() < PATIENCE * 3 {
            let ended = self
                .process
                .as_mut()
                .is_none_or(|process| process.child().try_wait().is_ok_and(|status| status.is_some()));
            if ended {
                break;
            }
            if sqlx::query("SELECT 1").execute(&pool).await.is_ok() {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        false
    }

    /// Kills every process of it, as a power cut of its machine would.
    pub async fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Stops every process of it where it is.
    pub fn freeze(&mut self) {
        self.frozen = self.signal_all(Signal::SIGSTOP);
    }

    /// Lets them go on.
    pub fn thaw(&mut self) {
        for pid in self.frozen.drain(..) {
            let _gone = kill(pid, Signal::SIGCONT);
        }
    }

    /// Sends a signal to the server and its children. The server is stopped first, so that they can't
    /// become more meanwhile.
    fn signal_all(&self, signal: Signal) -> Vec<Pid> {
        let Some(server) = self.process.as_ref().map(Process::pid) else { return Vec::new() };
        let pid = |pid: u32| i32::try_from(pid).map_or(Pid::from_raw(i32::MAX), Pid::from_raw);
        let _gone = kill(pid(server), Signal::SIGSTOP);
        let all = std::iter::once(server).chain(children(server)).map(pid);
        all.filter(|pid| kill(*pid, signal).is_ok()).collect()
    }

    /// The server and its children.
    pub fn pids(&self) -> Vec<u32> {
        let Some(server) = self.process.as_ref().map(Process::pid) else { return Vec::new() };
        std::iter::once(server).chain(children(server)).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.signal_all(Signal::SIGKILL);
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Who runs the server: it refuses to be root's.
fn server_user() -> Option<&'static str> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        return None;
    }
    let exists = |user: &&str| {
        let asked = std::process::Command::new("id").arg("-u").arg(user).output();
        asked.is_ok_and(|output| output.status.success())
    };
    Some(["postgres", USER].into_iter().find(exists).expect("a user for PostgreSQL; `make setup` makes one"))
}

fn as_server_user(program: &Path) -> Command {
    let Some(user) = server_user() else { return Command::new(program) };
    let group = std::process::Command::new("id").args(["-g", user]).output().expect("`id` starts");
    let group = String::from_utf8_lossy(&group.stdout).trim().to_owned();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", &group, "--init-groups", "--"]).arg(program).current_dir("/");
    command
}

/// The folder of the server's programs.
fn programs() -> PathBuf {
    let config = std::process::Command::new("pg_config").arg("--bindir").output();
    let asked = config.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = asked.into_iter().chain(installed.map(|entry| entry.path().join("bin")));
    let mut folders = folders.chain(std::env::split_paths(&path).collect::<Vec<_>>());
    folders
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .expect("PostgreSQL's own programs; `make setup` installs them")
}
