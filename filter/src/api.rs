//! Which API a request speaks, from its method, path and upgrade headers.

mod class;
mod free;
pub(crate) mod path;
#[cfg(test)]
mod tests;

use purser_protocol::Api;

pub use class::{Family, PathClass};

use crate::config::Dialect;
use crate::headers::Headers;

/// What a request is, before its body is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognised {
    /// A call that costs money and can be metered.
    Metered(Route),
    /// It costs nothing: a method that only reads or deletes, a token count, a file.
    Free,
    /// It wants to leave HTTP for a protocol that can't be metered.
    Upgrade,
    /// Anything else that may cost money.
    Unknown(PathClass),
}

/// What method and path say about a metered call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The API spoken.
    pub api: Api,
    /// How its provider departs from it.
    pub dialect: Dialect,
    /// The model, where the path names it.
    pub model: Option<String>,
    /// Whether the answer is a stream, where the path says so.
    pub stream: Option<bool>,
    /// The provider refuses to be asked for usage in a stream.
    pub no_usage_switch: bool,
    /// It asks for speech, which is billed by what it says.
    pub is_speech: bool,
}

impl Route {
    /// A route whose path says no more than the API.
    #[must_use]
    pub fn new(api: Api, dialect: Dialect) -> Self {
        let no_usage_switch = dialect == Dialect::Mistral;
        Self { api, dialect, model: None, stream: None, no_usage_switch, is_speech: false }
    }

    fn of_model(self, model: String) -> Self {
        Self { model: Some(model), ..self }
    }

    fn streaming(self, stream: bool) -> Self {
        Self { stream: Some(stream), ..self }
    }
}

/// Recognises a request to a provider that speaks `dialect`. The path may carry a query; spellings
/// that a server may take for the same path (percent-encoded letters, doubled or trailing slashes,
/// dot segments) count as that path, so that a spelling is no way around the budget. What stands
/// before a known path (`/api`, `/openai/deployments/x`, a gateway's prefix) doesn't change what it is.
#[must_use]
pub fn recognise(headers: &Headers, dialect: Dialect) -> Recognised {
    let method = headers.get(":method").unwrap_or_default();
    let path = headers.get(":path").unwrap_or_default();
    // Proxies and servers pass over an offer of HTTP/2, which some clients make with every call.
    let mut upgrades =
        headers.all("upgrade").filter(|value| !value.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    if method == b"CONNECT" || upgrades.next().is_some() || headers.get(":protocol").is_some() {
        return Recognised::Upgrade;
    }
    let segments = path::plain_segments(path);
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    // Some servers take the method from a header.
    let overridden = METHOD_HEADERS.iter().any(|name| headers.get(name).is_some());
    match method {
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"DELETE" if !overridden => Recognised::Free,
        b"POST" => post(&parts, path, dialect),
        _ => Recognised::Unknown(PathClass::of(&parts)),
    }
}

const METHOD_HEADERS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// The shape of answers that a request's sender understands, whatever it is.
#[must_use]
pub fn family(headers: &Headers, dialect: Dialect) -> Family {
    let segments = path::plain_segments(headers.get(":path").unwrap_or_default());
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    Family::guess(&parts, dialect)
}

fn post(parts: &[&str], path: &[u8], dialect: Dialect) -> Recognised {
    // Servers cut a path at these, or take them for a part of its name.
    if parts.iter().any(|part| part.contains(['?', '#', ';', '\\']) || part.contains(char::is_control)) {
        return Recognised::Unknown(PathClass::of(parts));
    }
    if free::is_free(parts, dialect) && path::is_literal(path) {
        return Recognised::Free;
    }
    let route = verb_route(parts, dialect)
        .or_else(|| bedrock_route(parts))
        .or_else(|| openai_route(parts, path, dialect))
        .or_else(|| plain_api(parts, dialect).map(|api| Route::new(api, dialect)));
    route.map_or_else(|| Recognised::Unknown(PathClass::of(parts)), Recognised::Metered)
}

/// `models/NAME:verb`: Gemini, and others' models on Vertex.
fn verb_route(parts: &[&str], dialect: Dialect) -> Option<Route> {
    let [before @ .., "models" | "tunedModels" | "endpoints", last] = parts else {
        return None;
    };
    let (model, verb) = last.rsplit_once(':')?;
    let route = match (verb, before) {
        ("generateContent", _) => Route::new(Api::GeminiGenerate, dialect).streaming(false),
        ("streamGenerateContent", _) => Route::new(Api::GeminiGenerate, dialect).streaming(true),
        ("embedContent" | "batchEmbedContents", _) => Route::new(Api::GeminiEmbed, dialect),
        // The body may ask for a stream under this verb, too.
        ("rawPredict", [.., "publishers", "anthropic"]) => Route::new(Api::AnthropicMessages, dialect),
        ("streamRawPredict", [.., "publishers", "anthropic"]) => {
            Route::new(Api::AnthropicMessages, dialect).streaming(true)
        }
        ("rawPredict" | "streamRawPredict", [.., "publishers", "mistralai"]) => {
            Route::new(Api::OpenaiChat, Dialect::Mistral)
        }
        _ => return None,
    };
    Some(route.of_model(model.to_owned()))
}

/// `/model/ID/…`; an id may be an ARN with slashes in it.
fn bedrock_route(parts: &[&str]) -> Option<Route> {
    let ["model", id @ .., verb] = parts else {
        return None;
    };
    let (api, streams) = match *verb {
        "converse" => (Api::BedrockConverse, false),
        "converse-stream" => (Api::BedrockConverse, true),
        "invoke" => (Api::BedrockInvoke, false),
        "invoke-with-response-stream" => (Api::BedrockInvoke, true),
        _ => return None,
    };
    let route = Route::new(api, Dialect::Bedrock).of_model(id.join("/")).streaming(streams);
    (!id.is_empty()).then_some(route)
}

/// OpenAI's paths, with a deployment in them or not.
fn openai_route(parts: &[&str], path: &[u8], dialect: Dialect) -> Option<Route> {
    let api = match parts {
        [.., "chat", "completions"] => Api::OpenaiChat,
        [.., "completions"] => Api::OpenaiCompletions,
        [.., "responses"] => Api::OpenaiResponses,
        // Ollama has an older path of that name.
        ["api", "embeddings"] => Api::OllamaEmbed,
        [.., "embeddings"] => Api::OpenaiEmbeddings,
        [.., "images", "generations" | "edits" | "variations"] => Api::OpenaiImages,
        [.., "audio", "speech" | "transcriptions" | "translations"] => Api::OpenaiAudio,
        _ => return None,
    };
    let mut route = Route::new(api, dialect);
    route.is_speech = parts.ends_with(&["audio", "speech"]);
    if let [.., "deployments", name, _] | [.., "deployments", name, _, _] = parts {
        route.model = Some((*name).to_owned());
        // Anywhere else a version in the query says nothing.
        route.no_usage_switch |= dialect == Dialect::Openai && is_older_azure(path);
    }
    Some(route)
}

/// Azure's versions before `stream_options` refuse it.
fn is_older_azure(path: &[u8]) -> bool {
    let query = path.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    let named = query.split(|byte| *byte == b'&').filter_map(|pair| pair.strip_prefix(b"api-version="));
    let mut versions = named.peekable();
    // Of several any may be the one that counts.
    versions.peek().is_some()
        && versions.all(|version| {
            version.first().is_some_and(u8::is_ascii_digit) && version < b"2024-09-01".as_slice()
        })
}

fn plain_api(parts: &[&str], dialect: Dialect) -> Option<Api> {
    Some(match parts {
        // Not any `messages`: a thread of OpenAI's assistants has some, too, and they are no calls.
        [.., "v1", "messages"] => Api::AnthropicMessages,
        [.., "messages", "batches"] => Api::AnthropicBatches,
        [.., "batches"] => Api::OpenaiBatches,
        [.., "v2", "chat"] => Api::CohereChat,
        // Others may call anything so.
        [.., "v1", "chat"] if dialect == Dialect::Cohere => Api::CohereChat,
        [.., "v1" | "v2", "embed"] => Api::CohereEmbed,
        [.., "rerank"] => Api::Rerank,
        [.., "api", "chat" | "generate"] => Api::Ollama,
        [.., "api", "embed"] => Api::OllamaEmbed,
        _ => return None,
    })
}
