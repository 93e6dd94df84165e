//! What a request is when it is no call that can be metered: a label for its path, and the shape of
//! answer that its sender understands.

use purser_protocol::Api;

use crate::config::Dialect;

/// The kind of a path that is not metered: few, so that they can be labels of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathClass {
    /// No path.
    Root,
    /// Realtime sessions and calls.
    Realtime,
    /// Assistants, threads and runs.
    Assistants,
    /// Video generation.
    Videos,
    /// Fine-tuning and tuning jobs.
    Tuning,
    /// Stored vectors, caches and containers, which cost by time.
    Storage,
    /// Embeddings in shapes that nobody knows.
    Embeddings,
    /// Answers in other shapes: prediction, agents, interactions.
    Predictions,
    /// Anything else.
    Other,
}

impl PathClass {
    /// Every class, in the order of [`PathClass::index`].
    pub const ALL: [Self; 9] = [
        Self::Root,
        Self::Realtime,
        Self::Assistants,
        Self::Videos,
        Self::Tuning,
        Self::Storage,
        Self::Embeddings,
        Self::Predictions,
        Self::Other,
    ];

    /// Its place in [`PathClass::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Realtime => "realtime",
            Self::Assistants => "assistants",
            Self::Videos => "videos",
            Self::Tuning => "tuning",
            Self::Storage => "storage",
            Self::Embeddings => "embeddings",
            Self::Predictions => "predictions",
            Self::Other => "other",
        }
    }

    /// The class of a path. The first segment that says something counts; a verb after a colon is
    /// looked at, too.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        if parts.is_empty() {
            return Self::Root;
        }
        let words = parts.iter().flat_map(|part| part.split(':'));
        words.into_iter().find_map(Self::of_word).unwrap_or(Self::Other)
    }

    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "realtime" => Self::Realtime,
            "assistants" | "threads" => Self::Assistants,
            "videos" | "predictLongRunning" => Self::Videos,
            "fine_tuning" | "fine-tunes" | "tuningJobs" => Self::Tuning,
            "vector_stores" | "cachedContents" | "containers" => Self::Storage,
            "embed" | "embeddings" | "asyncBatchEmbedContent" => Self::Embeddings,
            "predict" | "rawPredict" | "streamRawPredict" | "interactions" | "agents" | "async-invoke" => {
                Self::Predictions
            }
            _ => return None,
        })
    }
}

/// The shape of an error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `{"error":{"message","type","param","code"}}`
    Openai,
    /// `{"type":"error","error":{"type","message"}}`
    Anthropic,
    /// `{"error":{"code","message","status"}}`
    Gemini,
    /// `{"message"}`, the class in a header
    Bedrock,
    /// `{"message"}`
    Cohere,
    /// `{"error":"…"}`
    Ollama,
}

impl Family {
    /// The family of an API.
    #[must_use]
    pub const fn of(api: Api) -> Self {
        match api {
            Api::OpenaiChat
            | Api::OpenaiResponses
            | Api::OpenaiCompletions
            | Api::OpenaiEmbeddings
            | Api::OpenaiImages
            | Api::OpenaiAudio
            | Api::OpenaiBatches => Self::Openai,
            Api::AnthropicMessages | Api::AnthropicBatches => Self::Anthropic,
            Api::GeminiGenerate | Api::GeminiEmbed => Self::Gemini,
            Api::BedrockConverse | Api::BedrockInvoke => Self::Bedrock,
            Api::CohereChat | Api::CohereEmbed | Api::Rerank => Self::Cohere,
            Api::Ollama | Api::OllamaEmbed => Self::Ollama,
        }
    }

    /// The family of a request that is no known call: by what its path looks like, else by what the
    /// provider speaks.
    #[must_use]
    pub fn guess(parts: &[&str], dialect: Dialect) -> Self {
        match parts {
            ["model", ..] => Self::Bedrock,
            [.., "messages"] | [.., "messages", _] => Self::Anthropic,
            [.., last] if last.contains(':') => Self::Gemini,
            ["v2", ..] => Self::Cohere,
            _ => match dialect {
                Dialect::Openai | Dialect::Compatible | Dialect::Mistral | Dialect::Openrouter => {
                    Self::Openai
                }
                Dialect::Anthropic => Self::Anthropic,
                Dialect::Gemini => Self::Gemini,
                Dialect::Bedrock => Self::Bedrock,
                Dialect::Cohere => Self::Cohere,
                Dialect::Ollama => Self::Ollama,
            },
        }
    }
}
