//! Requests on a few connections, one after the other on each, and what they cost.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use system_tests::harness::envoy::Envoy;
use system_tests::harness::{wait_until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::machine;
use crate::servers::{Servers, contains};

/// What is asked again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain call with a body of so many bytes.
    Plain(usize),
    /// A stream of so many events, for an app that did not ask for usage: the filter edits each.
    EditedStream(usize),
    /// The same for an app that asked for usage itself: the filter only reads.
    ReadStream(usize),
}

impl Kind {
    /// The name in the table.
    pub fn name(self) -> String {
        match self {
            Self::Plain(bytes @ 0..1_000_000) => format!("request of {} KB", bytes / 1_000),
            Self::Plain(bytes) => format!("request of {} MB", bytes / 1_000_000),
            Self::EditedStream(_) => "streamed chunk, edited".to_owned(),
            Self::ReadStream(_) => "streamed chunk, read only".to_owned(),
        }
    }

    /// What one request's cost is divided by.
    pub const fn parts(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::EditedStream(events) | Self::ReadStream(events) => events,
        }
    }

    /// Connections side by side. A proxy that is woken for one request at a time mostly pays for waking.
    const fn connections(self) -> usize {
        match self {
            Self::Plain(0..10_000) => 16,
            Self::Plain(0..500_000) => 4,
            // The one stream's events are asked for one by one.
            Self::Plain(_) | Self::EditedStream(_) | Self::ReadStream(_) => 1,
        }
    }

    fn request(self) -> Vec<u8> {
        let body = match self {
            Self::Plain(bytes) => chat("", bytes),
            Self::EditedStream(_) => chat(r#""stream":true,"#, 1_000),
            Self::ReadStream(_) => chat(r#""stream":true,"stream_options":{"include_usage":true},"#, 1_000),
        };
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: llm.example\r\ncontent-type: application/json\r\n\
             x-budget-org: acme\r\nx-budget-team: research\r\nx-budget-user: ann\r\n\
             authorization: Bearer sk-bench\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }
}

/// A chat of about so many bytes: turns of some 500 bytes, with the quotes and line breaks of real text.
fn chat(flags: &str, bytes: usize) -> String {
    let turn = format!(
        r#"{{"role":"user","content":"{}"}}"#,
        "She asked: \\\"what did it cost?\\\" and nobody knew.\\nCaf\u{e9} prices, too. ".repeat(6)
    );
    let mut body = format!(r#"{{"model":"gpt-4o-mini",{flags}"max_tokens":100,"messages":[{turn}"#);
    while body.len() + turn.len() + 3 < bytes {
        body.push(',');
        body.push_str(&turn);
    }
    body.push_str("]}");
    body
}

/// A running Envoy with one of the filters.
pub struct Subject {
    /// The proxy.
    pub envoy: Envoy,
    /// Whether its filter settles calls.
    pub settles: bool,
}

impl Subject {
    /// Sends `count` requests; the CPU time that the proxy took, nanoseconds.
    pub async fn measure(&self, servers: &Servers, kind: Kind, count: usize) -> u64 {
        let pid = self.envoy.pid();
        let mut clients = Vec::new();
        for _ in 0..kind.connections() {
            clients.push(Client::connect(self.envoy.egress).await);
        }
        let request = kind.request();
        // The first opens connections and fills caches.
        self.run(&mut clients, servers, kind, &request, kind.connections()).await;
        let before_ns = machine::cpu_ns(pid);
        self.run(&mut clients, servers, kind, &request, count).await;
        machine::cpu_ns(pid).saturating_sub(before_ns)
    }

    /// Sends requests, and waits until what the filter has to tell of them is told.
    async fn run(&self, clients: &mut [Client], servers: &Servers, kind: Kind, request: &[u8], count: usize) {
        let settled_before = servers.settled.load(Ordering::Relaxed);
        let is_edited = self.settles && matches!(kind, Kind::EditedStream(_));
        let each = count.div_ceil(clients.len());
        let loads = clients.iter_mut().enumerate().map(async |(number, client)| {
            for _ in number * each..count.min((number + 1) * each) {
                match kind {
                    Kind::Plain(_) => within("an answer", client.call(request)).await,
                    Kind::EditedStream(events) | Kind::ReadStream(events) => {
                        client.stream(servers, request, events, is_edited).await;
                    }
                }
            }
        });
        join_all(loads).await;
        let expected = settled_before + u64::try_from(count).expect("a count");
        if self.settles {
            wait_until("the settlements", async || {
                let settled = servers.settled.load(Ordering::Relaxed);
                if settled >= expected { Ok(()) } else { Err(format!("{settled} of {expected}")) }
            })
            .await;
        }
    }
}

struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(addr: SocketAddr) -> Self {
        let socket = within("a connection", TcpStream::connect(addr)).await.expect("a connection to Envoy");
        socket.set_nodelay(true).expect("an open connection");
        Self { socket, buffer: Vec::new() }
    }

    async fn send(&mut self, request: &[u8]) {
        self.buffer.clear();
        self.socket.write_all(request).await.expect("Envoy takes a request");
    }

    async fn more(&mut self) {
        let read = self.socket.read_buf(&mut self.buffer).await.expect("Envoy answers");
        assert!(read > 0, "Envoy closed the connection: {}", String::from_utf8_lossy(&self.buffer));
    }

    /// A call with a plain answer.
    async fn call(&mut self, request: &[u8]) {
        self.send(request).await;
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..at]).to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                break at + 4 + length.expect("an announced length");
            }
            self.more().await;
        };
        while self.buffer.len() < end {
            self.more().await;
        }
    }

    /// A call with a streamed answer, each event asked for when the one before is there.
    async fn stream(&mut self, servers: &Servers, request: &[u8], events: usize, is_edited: bool) {
        self.send(request).await;
        while !contains(&self.buffer, b"\r\n\r\n") {
            within("the head of an answer", self.more()).await;
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.buffer));
        for number in 0..=events {
            self.buffer.clear();
            servers.next_event.add_permits(1);
            let end: &[u8] = if number < events { b"\n\n\r\n" } else { b"\r\n0\r\n\r\n" };
            while !self.buffer.ends_with(end) {
                within("an event", self.more()).await;
            }
            let says_usage = contains(&self.buffer, b"\"usage\"");
            assert_eq!(says_usage, !is_edited, "{}", String::from_utf8_lossy(&self.buffer));
        }
    }
}
