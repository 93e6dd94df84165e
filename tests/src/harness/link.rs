//! A TCP proxy between two parts, which breaks, delays or silences what goes through it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pieces that may be on their way on one connection each way; more wait at their sender.
const PIECES_ON_THE_WAY: usize = 64;
const PIECE_BYTES: usize = 16 * 1024;

/// How a link is just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes at once.
    Fair,
    /// Everything passes, each piece so much later.
    Slow(Duration),
    /// Nothing passes, and nothing breaks.
    Silent,
    /// Every connection breaks.
    Cut,
}

/// A link. Its ports are closed with it.
#[derive(Debug)]
pub struct Link {
    weather: watch::Sender<Weather>,
    fronts: JoinSet<()>,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// One without a port yet, in fair weather.
    #[must_use]
    pub fn new() -> Self {
        Self { weather: watch::Sender::new(Weather::Fair), fronts: JoinSet::new() }
    }

    /// A port that leads to `target`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn front(&mut self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let weather = self.weather.subscribe();
        self.fronts.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((client, _)) => {
                        connections.spawn(connection(client, target, weather.clone()));
                    }
                    // Out of file descriptors, most likely: that passes.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        addr
    }

    /// Changes what becomes of everything that is or comes on the way.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn connection(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut storm = weather.clone();
    tokio::select! {
        _ = storm.wait_for(|weather| *weather == Weather::Cut) => {}
        () = both_ways(client, target, weather) => {}
    }
}

async fn both_ways(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    // Whoever connects to nobody finds the connection closed.
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Best effort: without it answers only arrive later.
    let _nodelay = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = carry(from_client, to_server, weather.clone());
    let back = carry(from_server, to_client, weather);
    tokio::pin!(there, back);
    // An end is passed on to the other side, which may still have something to say; a break is one for both.
    tokio::select! {
        ended = &mut there => if ended { back.await; },
        ended = &mut back => if ended { there.await; },
    }
}

/// Carries bytes in order, each piece when its time has come. Gives whether they came to their end.
async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, weather: watch::Receiver<Weather>) -> bool {
    let (pieces, on_the_way) = mpsc::channel(PIECES_ON_THE_WAY);
    let taken = take(from, pieces, weather.clone());
    let (ended, delivered) = tokio::join!(taken, deliver(on_the_way, to, weather));
    ended && delivered
}

async fn take(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    weather: watch::Receiver<Weather>,
) -> bool {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return false };
        let later = match *weather.borrow() {
            Weather::Slow(delay) => delay,
            _ => Duration::ZERO,
        };
        let piece = buffer[..length].to_vec();
        if pieces.send((Instant::now() + later, piece)).await.is_err() {
            return false;
        }
        if length == 0 {
            return true;
        }
    }
}

/// An empty piece is the end.
async fn deliver(
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> bool {
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        if weather.wait_for(|weather| *weather != Weather::Silent).await.is_err() {
            return false;
        }
        if piece.is_empty() {
            return to.shutdown().await.is_ok();
        }
        if to.write_all(&piece).await.is_err() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = socket.into_split();
                    let _ended = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        addr
    }

    async fn say(socket: &mut TcpStream, word: &[u8; 4]) -> std::io::Result<Duration> {
        let started = Instant::now();
        socket.write_all(word).await?;
        let mut heard = [0; 4];
        socket.read_exact(&mut heard).await?;
        assert_eq!(&heard, word);
        Ok(started.elapsed())
    }

    #[tokio::test]
    async fn weather_does_what_it_says() {
        let mut link = Link::new();
        let front = link.front(echo().await).await;
        let mut socket = TcpStream::connect(front).await.unwrap();
        say(&mut socket, b"fair").await.unwrap();

        link.set(Weather::Slow(Duration::from_millis(60)));
        assert!(say(&mut socket, b"slow").await.unwrap() >= Duration::from_millis(120));

        link.set(Weather::Silent);
        socket.write_all(b"dumb").await.unwrap();
        let mut heard = [0; 4];
        let nothing = tokio::time::timeout(Duration::from_millis(100), socket.read_exact(&mut heard)).await;
        assert!(nothing.is_err(), "heard {heard:?}");
        link.set(Weather::Fair);
        socket.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"dumb");

        link.set(Weather::Cut);
        assert!(say(&mut socket, b"gone").await.is_err());
        let mut other = TcpStream::connect(front).await.unwrap();
        assert!(say(&mut other, b"gone").await.is_err());

        link.set(Weather::Fair);
        let mut other = TcpStream::connect(front).await.unwrap();
        say(&mut other, b"back").await.unwrap();
        other.shutdown().await.unwrap();
        assert_eq!(other.read(&mut heard).await.unwrap(), 0, "an end is passed on");
    }
}
