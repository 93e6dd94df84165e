//! The listener: what `axum::serve` leaves open is bounded here. Connections are counted; one that sends
//! no whole head in time is cut, whatever it dribbles; HTTP/2 has limits on streams and resets; TLS is
//! optional. When told to stop it takes no new connection and lets the running requests finish.
//!
//! A connection that an Envoy keeps for later must not be cut under it: the next call would find it gone.
//! So the time for a head runs from its first byte, and a caller that has shown a token may be idle for
//! longer than Envoy keeps a connection. Whoever has not is let go of soon.

mod activity;
pub mod limits;
pub mod presence;
pub mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use activity::{Activity, Counted, Noted};
pub use activity::{Caller, MutualTls};
use tls::Tls;

/// Largest head of a request, bytes, HTTP/1 and HTTP/2.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most bytes kept of one HTTP/1 connection.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Requests that one HTTP/2 connection may have under way: an Envoy worker sends all of its own over one.
const MAX_STREAMS: u32 = 1_024;

/// Bytes of bodies that an HTTP/2 connection may have on the way: one body each, and some together.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Streams reset by the client, or for its mistakes, before the connection is given up.
const MAX_PENDING_RESETS: usize = 50;
const MAX_ERROR_RESETS: usize = 100;

/// How often a silent HTTP/2 client is asked whether it still lives, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_LIMIT: Duration = Duration::from_secs(20);

/// How long nothing is accepted after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that connections are refused.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// What a client without a place is told before its connection is closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nx-purser-backend: 1\r\nconnection: close\r\n\
    content-type: application/problem+json\r\ncontent-length: 82\r\n\r\n\
    {\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections here\"}\n";

/// How long and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at once; more are closed with 503.
    pub connections: usize,
    /// From the first byte of a head, or from the opening of a connection, to the head's end; a
    /// handshake takes no longer either.
    pub head: Duration,
    /// How long a client may keep an idle connection that has shown no token.
    pub unknown_idle: Duration,
    /// How long a client with a token may.
    pub idle: Duration,
}

impl ServerLimits {
    /// With the two that operators choose.
    #[must_use]
    pub const fn new(connections: usize, head: Duration) -> Self {
        // Two hours: Envoy lets go of an idle connection after one.
        Self { connections, head, unknown_idle: Duration::from_secs(60), idle: Duration::from_secs(7_200) }
    }
}

/// What every connection needs.
struct Shared {
    router: Router,
    limits: ServerLimits,
    stopping: watch::Receiver<bool>,
}

/// Serves until `stop`; then finishes what runs, for `finish_limit` at most. Gives whether all finished.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    tls: Option<Tls>,
    stop: impl Future<Output = ()> + Send,
    finish_limit: Duration,
) -> bool {
    let (stopping, stopped) = watch::channel(false);
    let shared = Arc::new(Shared { router, limits, stopping: stopped });
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut complained: Option<Instant> = None;
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                wait_after(&error).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            connections.spawn(connection(socket, place, Arc::clone(&shared), tls.clone()));
        } else {
            if tls.is_none() {
                // As much as fits into the socket's own buffer, which is all of it.
                let _sent = socket.try_write(FULL);
            }
            if complained.is_none_or(|at| at.elapsed() > COMPLAINT_INTERVAL) {
                complained = Some(Instant::now());
                tracing::warn!(
                    limit = limits.connections,
                    "connections are refused: as many as allowed are open"
                );
            }
        }
    }
    drop(listener);
    let _all_gone = stopping.send(true);
    drop(shared);
    let finished = async { while connections.join_next().await.is_some() {} };
    let all = tokio::time::timeout(finish_limit, finished).await.is_ok();
    connections.shutdown().await;
    all
}

/// A client that went away while it waited is no reason to pause; a lack of descriptors is.
async fn wait_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "no connection can be accepted just now");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn connection(socket: TcpStream, _place: OwnedSemaphorePermit, shared: Arc<Shared>, tls: Option<Tls>) {
    let _without = socket.set_nodelay(true);
    let address = socket.peer_addr().ok().map(|peer| peer.ip());
    let Some(tls) = tls else { return exchange(socket, MutualTls::Off, address, &shared).await };
    match tokio::time::timeout(shared.limits.head, tls.accept(socket)).await {
        Ok(Ok((stream, mutual))) => exchange(stream, mutual, address, &shared).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Serves one connection to its end.
async fn exchange<S>(stream: S, mutual: MutualTls, address: Option<IpAddr>, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(shared.limits));
    let service = Counted::new(shared.router.clone(), Arc::clone(&activity), mutual, address);
    let builder = builder();
    let io = TokioIo::new(Noted::new(stream, Arc::clone(&activity)));
    let mut serving = std::pin::pin!(builder.serve_connection(io, service));
    let mut stopping = shared.stopping.clone();
    let mut told = *stopping.borrow();
    if told {
        serving.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            _changed = stopping.changed(), if !told => {
                told = true;
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(activity.next_look()) => {
                if activity.is_over() {
                    tracing::debug!("a connection was cut: no request in time");
                    return;
                }
            }
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT);
    builder
}

/// As many connections as the process's descriptors allow beside what it needs itself.
#[must_use]
pub fn affordable_connections(wanted: usize, needed_elsewhere: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let affordable = open_files(&text).map_or(wanted, |files| files.saturating_sub(needed_elsewhere).max(1));
    if affordable < wanted {
        tracing::info!(
            affordable,
            wanted,
            "fewer connections than configured: raise the limit of open files"
        );
    }
    affordable.min(wanted)
}

fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_a_whole_answer() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let line = "Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(&format!("Limit Soft\nMax processes 5 6 processes\n{line}")), Some(1_024));
        assert_eq!(open_files("Max open files            unlimited            unlimited files"), None);
    }
}
