//! The answer a request gets, and its shapes on the wire.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::chat::ChatRequest;
use super::controls::{Controls, Fault, MAX_WORDS};

/// The vocabulary, with words whose UTF-8 is longer than a byte a letter.
const WORDS: [&str; 12] = [
    "Money",
    "is",
    "counted",
    "in",
    "whole",
    "nano-dollars;",
    "naïve",
    "floats",
    "数え間違い",
    "cost",
    "real",
    "cents. 🙂",
];

/// Makes the parts of an answer that differ from answer to answer.
#[derive(Debug, Default)]
pub struct IdSource(AtomicU64);

/// Tokens of an answer as OpenAI counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt, cached tokens included.
    pub prompt: u64,
    /// Of these, read from the cache.
    pub cached: u64,
    /// Reasoning of each choice.
    pub reasoning_per_choice: u64,
    /// Words of each choice, a token each.
    pub words_per_choice: u64,
    /// Choices.
    pub choices: u64,
}

/// An answer, decided before its first byte is sent.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `chatcmpl-…`.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model it names.
    pub model: String,
    /// `fp_…`.
    pub fingerprint: String,
    /// Its tokens.
    pub tokens: Tokens,
    /// `stop`, or `length` when a cap cut it.
    pub finish_reason: &'static str,
}

impl IdSource {
    fn next_seed(&self) -> String {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_nanos());
        format!("{now}/{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// FNV-1a followed by the finaliser of splitmix64: spread well enough for names.
fn hash(seed: &str, salt: u64) -> u64 {
    let fnv = seed.bytes().fold(0xcbf2_9ce4_8422_2325 ^ salt, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Answer {
    /// Decides the answer by the rules in [`super`].
    #[must_use]
    pub fn decide(request: &ChatRequest, controls: &Controls, ids: &IdSource) -> Self {
        let seed = controls.seed.clone().unwrap_or_else(|| ids.next_seed());
        let cap = request.output_cap().unwrap_or(u64::MAX);
        let wanted_words = if controls.has(Fault::Endless) { MAX_WORDS } else { controls.words };
        let reasoning_per_choice = controls.reasoning_tokens.min(cap);
        let words_per_choice = wanted_words.min(cap - reasoning_per_choice);
        let cut = reasoning_per_choice + words_per_choice < controls.reasoning_tokens + wanted_words;
        let prompt = request.prompt_tokens();
        Self {
            id: format!("chatcmpl-{:016x}{:016x}", hash(&seed, 1), hash(&seed, 2)),
            created: 1_700_000_000 + hash(&seed, 3) % 100_000_000,
            model: controls.model.clone().unwrap_or_else(|| request.model.clone()),
            fingerprint: format!("fp_{:010x}", hash(&seed, 4) >> 24),
            tokens: Tokens {
                prompt,
                cached: controls.cached_tokens.min(prompt),
                reasoning_per_choice,
                words_per_choice,
                choices: request.choices(),
            },
            finish_reason: if cut { "length" } else { "stop" },
        }
    }

    /// The text that word number `word` adds: itself, after a space unless it is the first.
    #[must_use]
    pub fn word(word: u64) -> String {
        let text = usize::try_from(word).ok().and_then(|word| WORDS.get(word % WORDS.len())).unwrap_or(&"…");
        let space = if word == 0 { "" } else { " " };
        format!("{space}{text}")
    }

    /// The body of a plain answer.
    #[must_use]
    pub fn plain(&self, with_usage: bool) -> Vec<u8> {
        let content: String = (0..self.tokens.words_per_choice).map(Self::word).collect();
        let choice = |index| PlainChoice {
            index,
            message: Message { role: "assistant", content: &content, refusal: None, annotations: [] },
            logprobs: None,
            finish_reason: self.finish_reason,
        };
        let body = Plain {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: (0..self.tokens.choices).map(choice).collect(),
            usage: with_usage.then(|| self.tokens.usage()),
            service_tier: "default",
            system_fingerprint: &self.fingerprint,
        };
        // Serialising to memory has no error to give; an empty body would fail every comparison.
        serde_json::to_vec_pretty(&body).unwrap_or_default()
    }

    /// One event of a stream. `usage` is absent without `stream_options.include_usage`, else null
    /// on every event but the last.
    #[must_use]
    pub fn event(&self, choices: &[StreamChoice], usage: Option<Option<Usage>>) -> String {
        let filler = format!("{:x}", hash(&self.id, choices.len() as u64));
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            service_tier: "default",
            system_fingerprint: &self.fingerprint,
            choices,
            usage,
            obfuscation: &filler,
        };
        let json = serde_json::to_string(&chunk).unwrap_or_default();
        format!("data: {json}\n\n")
    }
}

impl Tokens {
    /// The `usage` object.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let reasoning_tokens = self.choices * self.reasoning_per_choice;
        let completion_tokens = reasoning_tokens + self.choices * self.words_per_choice;
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens,
            total_tokens: self.prompt + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens: self.cached, audio_tokens: 0 },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens,
                audio_tokens: 0,
                accepted_prediction_tokens: 0,
                rejected_prediction_tokens: 0,
            },
        }
    }
}

/// An error body in OpenAI's shape.
#[must_use]
pub fn error_body(status: StatusCode, message: &str, code: Option<&str>) -> Value {
    let kind = match status.as_u16() {
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

#[derive(Serialize)]
struct Plain<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<PlainChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    service_tier: &'static str,
    system_fingerprint: &'a str,
}

#[derive(Serialize)]
struct PlainChoice<'a> {
    index: u64,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
    annotations: [(); 0],
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    service_tier: &'static str,
    system_fingerprint: &'a str,
    choices: &'a [StreamChoice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    obfuscation: &'a str,
}

/// A choice in a stream's event.
#[derive(Debug, Clone, Serialize)]
pub struct StreamChoice {
    /// Which of the answers asked for.
    pub index: u64,
    /// What it adds.
    pub delta: Delta,
    /// Always null here.
    pub logprobs: Option<()>,
    /// Why it ended, in its last event.
    pub finish_reason: Option<&'static str>,
}

/// What an event adds to a choice.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Delta {
    /// Its first event.
    Role {
        /// `assistant`.
        role: &'static str,
        /// Empty.
        content: &'static str,
        /// Always null here.
        refusal: Option<()>,
    },
    /// A word.
    Content {
        /// The text added.
        content: String,
    },
    /// Its last event.
    Nothing {},
}

/// The `usage` object, as OpenAI sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Prompt, cached tokens included.
    pub prompt_tokens: u64,
    /// Output of all choices, reasoning included.
    pub completion_tokens: u64,
    /// The sum of both.
    pub total_tokens: u64,
    /// What is inside `prompt_tokens`.
    pub prompt_tokens_details: PromptDetails,
    /// What is inside `completion_tokens`.
    pub completion_tokens_details: CompletionDetails,
}

/// What is inside `prompt_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptDetails {
    /// Read from the cache.
    pub cached_tokens: u64,
    /// Always 0 here.
    pub audio_tokens: u64,
}

/// What is inside `completion_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompletionDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: u64,
    /// Always 0 here.
    pub audio_tokens: u64,
    /// Always 0 here.
    pub accepted_prediction_tokens: u64,
    /// Always 0 here.
    pub rejected_prediction_tokens: u64,
}
