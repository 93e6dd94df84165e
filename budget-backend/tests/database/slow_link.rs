//! A link to the database that is as slow as a test wants: a TCP proxy in front of PostgreSQL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Pieces that may be on their way on one connection; more wait at the server.
const PIECES_ON_THE_WAY: usize = 256;

/// Adds a delay to every round trip by keeping each answer for that long. Answers that follow each
/// other closely are kept side by side, as on a long wire, not one after another. Ends with its test's
/// runtime.
pub struct SlowLink {
    addr: SocketAddr,
    delay_us: Arc<AtomicU64>,
    flowing: watch::Sender<bool>,
}

impl SlowLink {
    /// A link to the server of `pool`.
    pub async fn start(pool: &PgPool, delay: Duration) -> Self {
        let server = pool.connect_options();
        let upstream = (server.get_host().to_owned(), server.get_port());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let link = Self { addr, delay_us: Arc::default(), flowing: watch::Sender::new(true) };
        link.set_delay(delay);
        let (delay_us, flowing) = (Arc::clone(&link.delay_us), link.flowing.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(upstream.clone()).await.expect("the server behind the link");
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, Arc::default(), flowing.clone()));
                tokio::spawn(carry(from_server, to_client, Arc::clone(&delay_us), flowing.clone()));
            }
        });
        link
    }

    /// From now on answers are kept for this long.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros().try_into().unwrap(), Ordering::Relaxed);
    }

    /// Stops carrying anything in either direction, or goes on with what has waited.
    pub fn set_flowing(&self, flowing: bool) {
        self.flowing.send_replace(flowing);
    }

    /// How to reach the database of `pool` over the link.
    pub fn options(&self, pool: &PgPool) -> PgConnectOptions {
        pool.connect_options().as_ref().clone().host("127.0.0.1").port(self.addr.port())
    }

    /// The same as a URL.
    pub fn url(&self, pool: &PgPool) -> String {
        let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names the test server");
        let (credentials, _) = server.rsplit_once('@').expect("DATABASE_URL has a user");
        let database = pool.connect_options();
        format!("{credentials}@{}/{}", self.addr, database.get_database().unwrap())
    }

    /// The same for the sync client.
    pub fn sync_config(&self, pool: &PgPool) -> postgres::Config {
        self.url(pool).parse().unwrap()
    }
}

/// Carries bytes in order, each piece when its delay is over, until either side closes.
async fn carry(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    delay_us: Arc<AtomicU64>,
    flowing: watch::Receiver<bool>,
) {
    let (pieces, on_the_way) = mpsc::channel(PIECES_ON_THE_WAY);
    tokio::spawn(deliver(on_the_way, to, flowing));
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + Duration::from_micros(delay_us.load(Ordering::Relaxed));
        if pieces.send((due, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn deliver(
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut flowing: watch::Receiver<bool>,
) {
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        if flowing.wait_for(|flowing| *flowing).await.is_err() || to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
