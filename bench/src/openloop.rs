//! Calls that go out when they are due, whatever became of those before, each timed from when it was
//! due: a stall shows in every call that fell due during it.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::call;
use crate::clock::now_ns;
use crate::wire::ARRIVED_HEADER;

/// Longest that a call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The header with which the filter says that a call went out without a verdict.
const FAILED_OPEN_HEADER: &str = "x-purser-failed-open";

/// What became of one call, nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// From when it was due to the end of its answer.
    pub latency_ns: u64,
    /// From when it was due until the provider had it.
    pub to_provider_ns: u64,
    /// Whether it went out without a verdict.
    pub unchecked: bool,
}

/// A client as an app has one: connections are kept, and calls are bounded.
///
/// # Errors
/// When it can't be made.
pub fn client() -> Result<Client, String> {
    let client = Client::builder().no_proxy().timeout(PATIENCE).tcp_nodelay(true).build();
    client.map_err(|error| error.to_string())
}

/// The call, to be sent.
pub fn request(client: &Client, to: SocketAddr, body: String) -> RequestBuilder {
    let mut request = client.post(format!("http://{to}{}", call::PATH)).body(body);
    for (name, value) in call::HEADERS {
        request = request.header(name, value);
    }
    request
}

/// When the provider had the call, by its answer.
///
/// # Errors
/// When the answer doesn't say.
pub fn arrived_ns(response: &reqwest::Response) -> Result<u64, String> {
    let value = response.headers().get(ARRIVED_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    value.ok_or_else(|| format!("an answer with status {} without {ARRIVED_HEADER}", response.status()))
}

/// Sends `requests`, each when it is due from the start, and waits for all answers.
///
/// # Errors
/// When a call gets no answer, or one that isn't the provider's.
pub async fn run(requests: Vec<(Duration, RequestBuilder)>) -> Result<Vec<Timing>, String> {
    let calls = requests.len();
    let started_ns = now_ns();
    let at = |after: Duration| started_ns.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
    let requests = requests.into_iter().map(|(after, request)| (at(after), request)).collect();
    let mut sent = each_when_due(requests, one);
    let mut timings = Vec::with_capacity(calls);
    while let Some(call) = sent.recv().await {
        timings.push(call.await.map_err(|error| format!("a call: {error}"))??);
    }
    Ok(timings)
}

/// Starts `what` for each item when it is due by [`now_ns`]. A thread of its own keeps the time: the
/// runtime's timer ticks in whole milliseconds.
pub fn each_when_due<T, F, R>(
    items: Vec<(u64, T)>,
    what: fn(u64, T) -> F,
) -> mpsc::UnboundedReceiver<JoinHandle<R>>
where
    T: Send + 'static,
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let (sender, sent) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        for (due_ns, item) in items {
            std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns())));
            // The run may have been given up.
            if sender.send(runtime.spawn(what(due_ns, item))).is_err() {
                return;
            }
        }
    });
    sent
}

async fn one(due_ns: u64, request: RequestBuilder) -> Result<Timing, String> {
    let response = request.send().await.map_err(|error| format!("a call: {error}"))?;
    let arrived_ns = arrived_ns(&response)?;
    let unchecked = response.headers().contains_key(FAILED_OPEN_HEADER);
    response.bytes().await.map_err(|error| format!("a call's answer: {error}"))?;
    Ok(Timing {
        latency_ns: now_ns().saturating_sub(due_ns),
        to_provider_ns: arrived_ns.saturating_sub(due_ns),
        unchecked,
    })
}
