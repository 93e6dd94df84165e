//! What stands before others on the way: a server that ends TLS, and taps that keep what passes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::tls::Certificate;

/// Most bytes that a tap keeps of each direction.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// What a client asked for when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The name (SNI).
    pub server_name: Option<String>,
    /// The protocol agreed on (ALPN).
    pub protocol: Option<String>,
}

/// Ends TLS with a certificate before a server that speaks plain TCP.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens.
    pub addr: SocketAddr,
    greetings: Arc<Mutex<Vec<Greeting>>>,
    server: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one on a free loopback port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(certificate: &Certificate, target: SocketAddr) -> Self {
        Self::on(loopback().await, certificate, target)
    }

    /// Starts one on a socket.
    ///
    /// # Panics
    /// When the socket has no address.
    #[must_use]
    pub fn on(listener: TcpListener, certificate: &Certificate, target: SocketAddr) -> Self {
        let (addr, acceptor) = (address(&listener), certificate.acceptor());
        let greetings = Arc::<Mutex<Vec<Greeting>>>::default();
        let seen = Arc::clone(&greetings);
        let server = tokio::spawn(accept(listener, move |socket| {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            async move {
                let mut stream = acceptor.accept(socket).await?;
                let session = stream.get_ref().1;
                let protocol = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
                lock(&seen)
                    .push(Greeting { server_name: session.server_name().map(str::to_owned), protocol });
                let mut target = TcpStream::connect(target).await?;
                copy_bidirectional(&mut stream, &mut target).await.map(drop)
            }
        }));
        Self { addr, greetings, server }
    }

    /// What its clients asked for so far. Handshakes that failed are not among them.
    #[must_use]
    pub fn greetings(&self) -> Vec<Greeting> {
        lock(&self.greetings).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The bytes of one direction after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// From whoever connected.
    pub sent: Vec<u8>,
    /// To whoever connected.
    pub received: Vec<u8>,
}

/// Passes connections on and keeps the first mebibyte of what passes.
#[derive(Debug)]
pub struct Tap {
    /// Where it listens.
    pub addr: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    server: JoinHandle<()>,
}

impl Tap {
    /// Starts one on a free loopback port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(target: SocketAddr) -> Self {
        Self::on(loopback().await, move || TcpStream::connect(target))
    }

    /// Starts one on a socket; `connect` reaches the other side.
    ///
    /// # Panics
    /// When the socket has no address.
    #[must_use]
    pub fn on<F>(listener: TcpListener, connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        let (addr, kept) = (address(&listener), Arc::<Mutex<Kept>>::default());
        let keep = Arc::clone(&kept);
        let server = tokio::spawn(accept(listener, move |socket| {
            let (target, keep) = (connect(), Arc::clone(&keep));
            async move { pass(socket, target.await?, &keep).await }
        }));
        Self { addr, kept, server }
    }

    /// What passed so far.
    #[must_use]
    pub fn kept(&self) -> Kept {
        lock(&self.kept).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass(socket: TcpStream, target: TcpStream, kept: &Mutex<Kept>) -> io::Result<()> {
    let ((from, to), (back, forth)) = (socket.into_split(), target.into_split());
    let there = copy(from, forth, |bytes| keep(&mut lock(kept).sent, bytes));
    let here = copy(back, to, |bytes| keep(&mut lock(kept).received, bytes));
    tokio::try_join!(there, here).map(drop)
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut keep: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        // Before it goes on: who has got an answer finds it here.
        keep(bytes);
        to.write_all(bytes).await?;
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_KEPT_BYTES.saturating_sub(kept.len());
    kept.extend(bytes.iter().take(room));
}

/// Serves each connection in a task of its own, until the listener is dropped.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Best effort: without it words only arrive later.
        let _nodelay = socket.set_nodelay(true);
        // An error is a peer that left, or one that was refused: the test sees that at its own end.
        connections.spawn(serve(socket));
    }
}

async fn loopback() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    listener.unwrap_or_else(|error| panic!("no port: {error}"))
}

fn address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or_else(|error| panic!("no address: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
