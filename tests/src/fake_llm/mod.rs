//! A fake LLM provider that speaks the APIs of the real ones and keeps a bill of its own.
//!
//! Nothing here is shared with the parts under test: tokens, prices, arithmetic and framing are its
//! own, so that comparing its bill with the ledger compares two independent computations.
//!
//! # Endpoints
//! | endpoint | does |
//! |---|---|
//! | `POST` to a path of an API below | answers, plain or streaming |
//! | `GET /v1/models` | lists OpenAI's chat models |
//! | `GET /billed` | the bill: total and rows, in nano-USD |
//! | `GET /requests` | what it received: attempts, headers, bodies |
//! | `POST /gate/{name}` | opens the gate of that name |
//! | `GET /healthz` | 200 |
//!
//! # APIs
//! | path | API |
//! |---|---|
//! | `/v1/chat/completions` | OpenAI's Chat Completions, or as Mistral (`mistral-…`), DeepSeek (`deepseek-…`) or vLLM (a model with a slash) answer there |
//! | `/v1/responses`, `/openai/responses` | OpenAI's Responses; with `background` it bills all and tells nothing |
//! | `/v1/completions`, `/v1/embeddings` | OpenAI's Completions and Embeddings |
//! | `/openai/deployments/{name}/…` | Azure; a deployment's name ends in its model's |
//! | `/api/v1/chat/completions` | OpenRouter |
//! | `/v1beta/openai/chat/completions` | Gemini, as OpenAI |
//! | `/v1/messages`, `…/publishers/anthropic/models/{model}:rawPredict` | Anthropic's Messages |
//! | `…/models/{model}:generateContent`, `:streamGenerateContent` | Gemini |
//! | `/model/{model}/converse`, `/converse-stream`, `/invoke`, `/invoke-with-response-stream` | Bedrock |
//! | `/v2/chat`, `/v1/chat` | Cohere |
//! | `/api/chat`, `/api/generate` | Ollama |
//! | `/v1/images/generations`, `/v1/images/edits` | OpenAI's images: `gpt-image-1` by tokens, others by the image |
//! | `/v1/audio/speech`, `/v1/audio/transcriptions` | OpenAI's audio: `whisper-1` by the second of 100 bytes, `gpt-4o-transcribe` by tokens, speech by the character |
//! | `/v1/embed`, `/v2/embed`, `/api/embed`, `/api/embeddings`, `…:embedContent`, `…:batchEmbedContents` | embeddings of Cohere, Ollama, Gemini |
//! | `/v1/rerank`, `/v2/rerank` | Cohere's rerank, by the search of 100 documents |
//! | `/v1/batches`, `/v1/messages/batches` | takes on work and bills nothing for it here |
//! | `/v1/messages/count_tokens`, `:countTokens` | counts, and bills nothing |
//!
//! # Usage rule
//! Tokens follow from the request alone:
//! - prompt: 3, plus for each message 4 and a quarter of its text's UTF-8 bytes, rounded up (the
//!   text is a string content, or the `text` parts of a list content, joined). Instructions beside
//!   the messages count as a message; a text to embed or to complete counts as one without the 3;
//! - of the prompt, in this order and as far as it goes: `x-fake-cached-tokens`,
//!   `x-fake-cache-write-5m-tokens`, `x-fake-cache-write-1h-tokens`, `x-fake-audio-input-tokens`;
//! - output of each choice: first `x-fake-reasoning-tokens`, then one token for each of
//!   `x-fake-words` words. The API's output cap caps their sum, and a capped answer says so;
//! - the output is that of all choices, reasoning included, those not shown (`best_of`) included.
//!
//! # What is billed
//! Each class of tokens at the model's rate ([`price`]), and pieces, rounded up to a nano-USD once an answer. An
//! error answer bills nothing. A stream that ends early, whoever ends it, bills its prompt and what
//! was produced up to then; a plain call whose caller leaves before the answer bills its prompt. The
//! model billed is the one the answer names, or the one asked for if the answer's name has no price.
//!
//! # Request headers
//! See [`controls::Controls`] for the switches and [`controls::Fault`] for the faults.

pub mod answer;
mod anthropic;
mod apis;
mod batches;
mod bedrock;
pub mod bill;
mod call;
mod cohere;
mod cohere_older;
pub mod controls;
mod event_stream;
pub mod gates;
mod gemini;
mod media;
mod ollama;
mod openai_chat;
mod openai_chat_wire;
mod openai_completions;
mod openai_embeddings;
mod openai_responses;
pub mod price;
pub mod received;
mod router;
pub(crate) mod serve;
pub(crate) mod stream;
mod vectors;
mod wire;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_apis;
#[cfg(test)]
mod tests_of_pieces;

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
