//! The two ends of a call, as cheap as they can be: a provider whose answers are always the same, and a
//! backend that allows and records everything. HTTP/1.1, kept alive, with announced lengths.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use purser_protocol::{MARKER_HEADER, MARKER_VALUE, SETTLEMENTS_PATH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 65_536;

const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"gpt-4o-mini-2024-07-18","#,
    r#""choices":[{"index":0,"message":{"role":"assistant","content":"Budgets are checked before a call goes "#,
    r#"out, because afterwards the money is gone.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":112,"completion_tokens":41,"total_tokens":153,"prompt_tokens_details":"#,
    r#"{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"#,
    r#""service_tier":"default"}"#,
);

/// An event as OpenAI sends it to one who asked for usage.
const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
    r#""model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_bench","#,
    r#""choices":[{"index":0,"delta":{"content":" budgets"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n",
);

const LAST_EVENTS: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"#,
    r#""model":"gpt-4o-mini-2024-07-18","choices":[],"#,
    r#""usage":{"prompt_tokens":112,"completion_tokens":500,"total_tokens":612}}"#,
    "\n\ndata: [DONE]\n\n",
);

/// What the load and the servers share.
#[derive(Debug)]
pub struct Servers {
    /// The provider.
    pub upstream: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// One permit lets the provider send one event of a stream. Each is sent only when the one before has
    /// arrived, so that each reaches the filter in a chunk of its own.
    pub next_event: Arc<Semaphore>,
    /// Settlements that came in.
    pub settled: Arc<AtomicU64>,
}

impl Servers {
    /// Starts both. A stream has `events` events before its last.
    pub async fn start(events: usize) -> Self {
        let next_event = Arc::new(Semaphore::new(0));
        let settled = Arc::new(AtomicU64::new(0));
        let (upstream, at) = listen().await;
        let permits = Arc::clone(&next_event);
        tokio::spawn(accept(upstream, move |socket| provide(socket, Arc::clone(&permits), events)));
        let (backend, backend_at) = listen().await;
        let count = Arc::clone(&settled);
        tokio::spawn(accept(backend, move |socket| decide(socket, Arc::clone(&count))));
        Self { upstream: at, backend: backend_at, next_event, settled }
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    (listener, addr)
}

async fn accept<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let serving = serve(socket);
        tokio::spawn(async move {
            // A connection that breaks fails the request on it, and the client says so.
            let _broken = serving.await;
        });
    }
}

/// A request's head and body.
struct Received {
    head: String,
    body: Vec<u8>,
}

/// Reads the next request; nothing when the connection is closed. `rest` is what came of the one after.
async fn receive(socket: &mut TcpStream, rest: &mut Vec<u8>) -> std::io::Result<Option<Received>> {
    let head_end = loop {
        if let Some(at) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if rest.len() > MAX_HEAD_BYTES || socket.read_buf(rest).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = rest.split_off(head_end);
    let head = String::from_utf8_lossy(rest).to_ascii_lowercase();
    rest.clear();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.expect("a request with an announced length");
    body.reserve(length.saturating_sub(body.len()));
    while body.len() < length {
        if socket.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    *rest = body.split_off(length);
    Ok(Some(Received { head, body }))
}

fn response(content_type: &str, more: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn provide(mut socket: TcpStream, next_event: Arc<Semaphore>, events: usize) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let answer = response("application/json", "", ANSWER);
    let mut rest = Vec::new();
    while let Some(request) = receive(&mut socket, &mut rest).await? {
        let streams = br#""stream":true"#;
        if !request.body.get(..200.min(request.body.len())).is_some_and(|head| contains(head, streams)) {
            socket.write_all(answer.as_bytes()).await?;
            continue;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await?;
        let event = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
        for _ in 0..events {
            next_event.acquire().await.expect("never closed").forget();
            socket.write_all(event.as_bytes()).await?;
        }
        next_event.acquire().await.expect("never closed").forget();
        let last = format!("{:x}\r\n{LAST_EVENTS}\r\n0\r\n\r\n", LAST_EVENTS.len());
        socket.write_all(last.as_bytes()).await?;
    }
    Ok(())
}

async fn decide(mut socket: TcpStream, settled: Arc<AtomicU64>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let marker = format!("{MARKER_HEADER}: {MARKER_VALUE}\r\n");
    let mut rest = Vec::new();
    while let Some(request) = receive(&mut socket, &mut rest).await? {
        let ids = hold_ids(&request.body);
        let body = if request.head.starts_with(&format!("post {SETTLEMENTS_PATH}")) {
            settled.fetch_add(u64::try_from(ids.len()).expect("a short batch"), Ordering::Relaxed);
            let results: Vec<String> =
                ids.iter().map(|id| format!(r#"{{"hold_id":"{id}","outcome":"recorded"}}"#)).collect();
            format!(r#"{{"version":1,"results":[{}]}}"#, results.join(","))
        } else {
            let id = ids.first().expect("a hold has an id");
            let left = |tier: &str| {
                format!(
                    r#"{{"tier":"{tier}","window":"month","limit_nanousd":9000000000,"remaining_nanousd":8000000000}}"#
                )
            };
            format!(
                r#"{{"version":1,"hold_id":"{id}","verdict":"allow","held_nanousd":100000,"remaining":[{},{},{}]}}"#,
                left("org"),
                left("team"),
                left("user")
            )
        };
        socket.write_all(response("application/json", &marker, &body).as_bytes()).await?;
    }
    Ok(())
}

/// The hold ids in a message, in order.
fn hold_ids(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body);
    let after = text.split(r#""hold_id":""#).skip(1);
    after.filter_map(|rest| rest.split_once('"').map(|(id, _)| id.to_owned())).collect()
}

/// Whether a part stands in a text.
#[must_use]
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
