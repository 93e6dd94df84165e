//! A fake LLM provider, shaped like OpenAI's Chat Completions, that keeps a bill of its own.
//!
//! Nothing here is shared with the parts under test: tokens, prices and arithmetic are its own, so
//! that comparing its bill with the ledger compares two independent computations.
//!
//! # Endpoints
//! | endpoint | does |
//! |---|---|
//! | `POST /v1/chat/completions` | answers, plain or streaming |
//! | `GET /v1/models` | lists the models it knows |
//! | `GET /billed` | the bill: total and rows, in nano-USD |
//! | `GET /requests` | what it received: attempts, headers, bodies |
//! | `POST /gate/{name}` | opens the gate of that name |
//! | `GET /healthz` | 200 |
//!
//! # Usage rule
//! Tokens follow from the request alone:
//! - prompt: 3, plus for each message 4 and a quarter of its text's UTF-8 bytes, rounded up (the
//!   text is a string content, or the `text` parts of a list content, joined);
//! - cached: `x-fake-cached-tokens`, at most the prompt;
//! - output of each choice: first `x-fake-reasoning-tokens`, then one token for each of
//!   `x-fake-words` words. `max_completion_tokens`, else `max_tokens`, caps their sum, and a capped
//!   answer says `finish_reason: "length"`;
//! - `completion_tokens` is the output of all `n` choices, reasoning included.
//!
//! # What is billed
//! Uncached prompt, cached prompt and output at the model's rates ([`price`]), rounded up to a
//! nano-USD once an answer. An error answer bills nothing. A stream that ends early, whoever ends
//! it, bills its prompt and what was produced up to then; a plain call whose caller leaves before
//! the answer bills its prompt. The model billed is the one the answer names, or the one asked for
//! if the answer's name has no price.
//!
//! # Request headers
//! See [`controls::Controls`] for the switches and [`controls::Fault`] for the faults.

pub mod answer;
pub mod bill;
pub mod chat;
pub mod controls;
pub mod gates;
pub mod price;
pub mod received;
mod router;
pub(crate) mod serve;
pub(crate) mod stream;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What all requests of one fake provider share.
#[derive(Debug, Default)]
pub struct State {
    /// What it would bill.
    pub bill: Arc<bill::Bill>,
    /// What it received.
    pub received: received::ReceivedLog,
    /// The gates that hold answers back.
    pub gates: gates::Gates,
    ids: answer::IdSource,
}

/// A running fake provider. Dropping it closes its connections and stops it.
#[derive(Debug)]
pub struct FakeLlm {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its bill, its log and its gates.
    pub state: Arc<State>,
    server: JoinHandle<()>,
}

impl FakeLlm {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// When no socket can be had.
    pub async fn start() -> io::Result<Self> {
        Self::listen(TcpListener::bind(("127.0.0.1", 0)).await?)
    }

    /// Starts one on a socket.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn listen(listener: TcpListener) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let state = Arc::new(State::default());
        let server = tokio::spawn(serve::serve(listener, router::router(Arc::clone(&state))));
        Ok(Self { addr, state, server })
    }

    /// Serves until the process ends.
    pub async fn wait(mut self) {
        // The accept loop has no end of its own; a join error means that it was aborted.
        let _ended = (&mut self.server).await;
    }

    /// What it would bill so far.
    #[must_use]
    pub fn billed(&self) -> bill::BillView {
        self.state.bill.view()
    }

    /// What it received so far.
    #[must_use]
    pub fn received(&self) -> received::ReceivedView {
        self.state.received.view()
    }
}

impl Drop for FakeLlm {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A lock whose holder panicked still guards consistent data: no method here panics midway.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
