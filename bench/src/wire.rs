//! The servers of a run: HTTP/1.1 on loopback, as little of it as will do.

use std::convert::Infallible;
use std::io::Write as _;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A body, whole or as it comes about.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// When the request arrived at the provider, [`crate::clock::now_ns`]; in its answer.
pub const ARRIVED_HEADER: &str = "x-bench-arrived-ns";
/// How long the provider shall think before it answers, microseconds; in the request.
pub const DELAY_HEADER: &str = "x-bench-delay-us";
/// How many events the provider shall stream; in the request.
pub const EVENTS_HEADER: &str = "x-bench-events";
/// The time between two of them, microseconds; in the request.
pub const GAP_HEADER: &str = "x-bench-gap-us";

/// A body that is there already.
#[must_use]
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// A number in a request's header.
#[must_use]
pub fn number(request: &Request<Incoming>, header: &str) -> Option<u64> {
    request.headers().get(header)?.to_str().ok()?.parse().ok()
}

/// Serves on a free port of loopback until the process ends, and prints where.
///
/// # Errors
/// When it can't listen.
pub async fn serve<A, F>(answer: A) -> Result<(), String>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| error.to_string())?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening on {addr}");
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    loop {
        // One that went away before it was accepted is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _slower = stream.set_nodelay(true);
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            // A connection that breaks off is its other end's to report.
            let _broken = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
