//! Which API a path names.

use super::call::{Call, ErrorShape, Refusal, Script};
use super::wire::{Wire, wire};
use super::{
    anthropic, batches, bedrock, cohere, cohere_older, gemini, media, ollama, openai_chat,
    openai_completions, openai_embeddings, openai_responses, vectors,
};

/// The APIs in which the provider itself may search the web.
pub const SEARCHING: [&str; 2] = ["anthropic_messages", "openai_responses"];

/// Decides the answer to a call.
pub type Decide = fn(&Call) -> Result<Script, Refusal>;
/// Counts what a call would read.
pub type Count = fn(&Call) -> Result<Wire, Refusal>;

/// An API: how it answers and how it refuses.
pub struct Api {
    pub errors: ErrorShape,
    pub decide: Decide,
    /// An answer that costs nothing, instead.
    pub free: Option<Count>,
}

const fn api(errors: ErrorShape, decide: Decide) -> Api {
    Api { errors, decide, free: None }
}

/// The API behind a path that is posted to.
pub fn find(path: &str) -> Option<Api> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let found = match segments.as_slice() {
        ["openai", "deployments", _, rest @ ..] => azure(rest)?,
        ["v1beta", "openai", rest @ ..] => openai(rest, openai_chat::gemini)?,
        ["openai", "responses"] => api(ErrorShape::OpenAi, openai_responses::decide),
        ["openai", "v1", rest @ ..] => openai(rest, openai_chat::openai)?,
        ["api", "v1", "messages"] => api(ErrorShape::Anthropic, anthropic::decide),
        ["api", "v1", rest @ ..] => openai(rest, openai_chat::openrouter)?,
        ["v1", "messages"] | ["anthropic", "v1", "messages"] => api(ErrorShape::Anthropic, anthropic::decide),
        ["v1", "messages", "count_tokens"] | ["anthropic", "v1", "messages", "count_tokens"] => {
            Api { free: Some(anthropic::count), ..api(ErrorShape::Anthropic, anthropic::decide) }
        }
        ["api", "chat"] => api(ErrorShape::Ollama, ollama::chat),
        ["v1", "messages", "batches"] => {
            Api { free: Some(batches::anthropic), ..api(ErrorShape::Anthropic, anthropic::decide) }
        }
        ["v1", "batches"] => {
            Api { free: Some(batches::openai), ..api(ErrorShape::OpenAi, anthropic::decide) }
        }
        ["api", "generate"] => api(ErrorShape::Ollama, ollama::generate),
        ["api", "embed" | "embeddings"] => api(ErrorShape::Ollama, vectors::ollama),
        ["v1", "chat"] => api(ErrorShape::Cohere, cohere_older::decide),
        ["v2", "chat"] => api(ErrorShape::Cohere, cohere::decide),
        ["v1" | "v2", "embed"] => api(ErrorShape::Cohere, vectors::cohere),
        ["v1" | "v2", "rerank"] => api(ErrorShape::Cohere, vectors::rerank),
        ["model", _, action] => api(ErrorShape::Aws, bedrock::action(action)?),
        [.., "publishers", "anthropic", "models", call] if call.ends_with("awPredict") => {
            api(ErrorShape::Anthropic, anthropic::vertex)
        }
        [.., "models", call] if call.contains(':') => google(call)?,
        ["v1", rest @ ..] | rest => openai(rest, openai_chat::by_model)?,
    };
    Some(found)
}

fn openai(rest: &[&str], chat: Decide) -> Option<Api> {
    let decide: Decide = match rest {
        ["chat", "completions"] => chat,
        ["responses"] => openai_responses::decide,
        ["completions"] => openai_completions::decide,
        ["embeddings"] => openai_embeddings::decide,
        ["images", "generations"] => media::images,
        ["images", "edits"] => media::edits,
        ["audio", "speech"] => media::speech,
        ["audio", "transcriptions"] => media::transcription,
        _ => return None,
    };
    Some(api(ErrorShape::OpenAi, decide))
}

fn azure(rest: &[&str]) -> Option<Api> {
    let decide: Decide = match rest {
        ["chat", "completions"] => openai_chat::azure,
        ["completions"] => openai_completions::azure,
        ["embeddings"] => openai_embeddings::azure,
        _ => return None,
    };
    Some(api(ErrorShape::OpenAi, decide))
}

fn google(call: &str) -> Option<Api> {
    let (_, verb) = call.rsplit_once(':')?;
    match verb {
        "generateContent" | "streamGenerateContent" => Some(api(ErrorShape::Gemini, gemini::decide)),
        "embedContent" | "batchEmbedContents" => Some(api(ErrorShape::Gemini, vectors::gemini)),
        "countTokens" => Some(Api { free: Some(gemini::count), ..api(ErrorShape::Gemini, gemini::decide) }),
        _ => None,
    }
}

/// The tier that an answer says it was served at.
pub fn service_tier(call: &Call, default: &'static str) -> Wire {
    let tier = call.controls.service_tier.as_deref().unwrap_or(default);
    wire!(tier)
}
