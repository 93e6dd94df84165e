//! What a connection is doing, as far as its time is limited: seen from its bytes on the one side and its
//! requests on the other.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Version};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ServerLimits;

/// Looked at at least so often within the time for a head.
const LOOKS: u32 = 4;

/// What TLS says of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MutualTls {
    /// Certificates are not asked for.
    Off,
    /// It has shown one of a trusted authority.
    Shown,
    /// It has shown none.
    Missing,
}

/// Goes with every request: what is known of its connection, and a way to vouch for it.
#[derive(Clone)]
pub struct Caller {
    activity: Arc<Activity>,
    /// What TLS says of it.
    pub mutual: MutualTls,
    /// Where it comes from, as far as the system tells.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// Whether it has shown a valid token before.
    pub fn is_trusted(&self) -> bool {
        self.activity.lock().trusted
    }

    /// It has shown a valid token.
    pub fn vouch(&self) {
        self.activity.lock().trusted = true;
    }
}

/// The state of one connection.
pub struct Activity {
    limits: ServerLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// When the last request ended, or the connection was opened.
    idle_since: Instant,
    /// When the first byte came of what is no whole head yet.
    head_since: Option<Instant>,
    /// Whether there was a request at all.
    asked: bool,
    trusted: bool,
    http2: bool,
}

impl State {
    /// When the connection has had all its time, unless something happens.
    fn over_at(&self, limits: &ServerLimits) -> Option<Instant> {
        if self.running > 0 {
            return None;
        }
        // What comes on an HTTP/2 connection between requests may be a ping.
        let head = self.head_since.filter(|_| !(self.http2 && self.trusted)).map(|since| since + limits.head);
        let idle = match (self.asked, self.trusted) {
            (false, _) => limits.head,
            (true, false) => limits.unknown_idle,
            (true, true) => limits.idle,
        };
        let idle = self.idle_since + idle;
        Some(head.map_or(idle, |head| head.min(idle)))
    }
}

impl Activity {
    /// A connection just opened.
    pub fn new(limits: ServerLimits) -> Self {
        let state = State {
            running: 0,
            idle_since: Instant::now(),
            head_since: None,
            asked: false,
            trusted: false,
            http2: false,
        };
        Self { limits, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way; a poisoned lock holds whole values.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How long until it is worth looking whether the connection's time is over: it may become shorter
    /// meanwhile, when a head begins.
    pub fn next_look(&self) -> Duration {
        let at_most = self.limits.head / LOOKS;
        let over_at = self.lock().over_at(&self.limits);
        over_at.map_or(at_most, |at| at.saturating_duration_since(Instant::now()).min(at_most))
    }

    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.lock().over_at(&self.limits).is_some_and(|at| at <= Instant::now())
    }

    fn bytes_came(&self) {
        let mut state = self.lock();
        if state.running == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    fn begins(&self, version: Version) {
        let mut state = self.lock();
        state.running = state.running.saturating_add(1);
        state.head_since = None;
        state.asked = true;
        state.http2 = version == Version::HTTP_2;
    }

    fn ended(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        state.idle_since = Instant::now();
    }
}

/// Ends a request also when its future is dropped.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// The router, counting what runs.
pub struct Counted {
    router: TowerToHyperService<Router>,
    caller: Caller,
}

impl Counted {
    /// For one connection.
    pub fn new(router: Router, activity: Arc<Activity>, mutual: MutualTls, address: Option<IpAddr>) -> Self {
        Self { router: TowerToHyperService::new(router), caller: Caller { activity, mutual, address } }
    }
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.caller.activity.begins(request.version());
        let running = Running(Arc::clone(&self.caller.activity));
        request.extensions_mut().insert(self.caller.clone());
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(running);
            answer
        })
    }
}

/// A stream that notes when something was read.
pub struct Noted<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Noted<S> {
    /// Around a stream.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_came();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ServerLimits = ServerLimits::new(1, Duration::from_secs(10));

    fn over_after(state: &State) -> Option<Duration> {
        state.over_at(&LIMITS).map(|at| at - state.idle_since)
    }

    #[test]
    fn time_is_short_for_strangers_and_for_half_a_head_and_long_for_those_with_a_token() {
        let opened = Instant::now();
        let new = || State {
            running: 0,
            idle_since: opened,
            head_since: None,
            asked: false,
            trusted: false,
            http2: false,
        };
        let later = Some(opened + Duration::from_secs(30));
        for (state, expected_s) in [
            (new(), Some(10)),
            // Bytes don't buy time.
            (State { head_since: later, ..new() }, Some(10)),
            (State { asked: true, ..new() }, Some(60)),
            (State { asked: true, head_since: later, ..new() }, Some(40)),
            (State { asked: true, trusted: true, ..new() }, Some(7_200)),
            (State { asked: true, trusted: true, head_since: later, ..new() }, Some(40)),
            // A ping is no half head.
            (State { asked: true, trusted: true, http2: true, head_since: later, ..new() }, Some(7_200)),
            (State { asked: true, http2: true, head_since: later, ..new() }, Some(40)),
            (State { running: 1, asked: true, ..new() }, None),
        ] {
            assert_eq!(over_after(&state), expected_s.map(Duration::from_secs), "{state:?}");
        }
    }
}
