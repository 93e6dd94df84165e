//! The APIs that are metered.

use serde::{Deserialize, Serialize};

/// The API a call speaks. Decides how its usage reads and which shape a denial has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// OpenAI Chat Completions, `POST /v1/chat/completions`; also as Azure, Mistral, DeepSeek, OpenRouter, vLLM
    /// and Gemini's compatible path speak it.
    OpenaiChat,
    /// OpenAI Responses, `POST /v1/responses`.
    OpenaiResponses,
    /// OpenAI Completions, the older API: `POST /v1/completions`.
    OpenaiCompletions,
    /// OpenAI Embeddings, `POST /v1/embeddings`.
    OpenaiEmbeddings,
    /// OpenAI Images: generations, edits and variations.
    OpenaiImages,
    /// OpenAI Audio: speech, transcriptions and translations.
    OpenaiAudio,
    /// OpenAI Batches, `POST /v1/batches`: the work is in a file, its usage never comes on the call.
    OpenaiBatches,
    /// Anthropic Messages, `POST /v1/messages`, also on Vertex.
    AnthropicMessages,
    /// Anthropic Message Batches: usage never comes on the call.
    AnthropicBatches,
    /// Gemini `generateContent` and `streamGenerateContent`, on AI Studio and Vertex.
    GeminiGenerate,
    /// Bedrock `Converse` and `ConverseStream`.
    BedrockConverse,
    /// Bedrock `InvokeModel`, with and without a stream: the vendor's own JSON.
    BedrockInvoke,
    /// Cohere Chat, `POST /v2/chat` and the older `/v1/chat`.
    CohereChat,
    /// Rerank, as Cohere and those who copy it have it.
    Rerank,
    /// Ollama's own `POST /api/chat` and `/api/generate`.
    Ollama,
    /// Gemini `embedContent` and `batchEmbedContents`.
    GeminiEmbed,
    /// Cohere Embed, `POST /v1/embed` and `/v2/embed`.
    CohereEmbed,
    /// Ollama's own `POST /api/embed` and `/api/embeddings`.
    OllamaEmbed,
}

impl Api {
    /// Every API.
    pub const ALL: [Self; 18] = [
        Self::OpenaiChat,
        Self::OpenaiResponses,
        Self::OpenaiCompletions,
        Self::OpenaiEmbeddings,
        Self::OpenaiImages,
        Self::OpenaiAudio,
        Self::OpenaiBatches,
        Self::AnthropicMessages,
        Self::AnthropicBatches,
        Self::GeminiGenerate,
        Self::BedrockConverse,
        Self::BedrockInvoke,
        Self::CohereChat,
        Self::Rerank,
        Self::Ollama,
        Self::GeminiEmbed,
        Self::CohereEmbed,
        Self::OllamaEmbed,
    ];

    /// The name on the wire and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenaiChat => "openai_chat",
            Self::OpenaiResponses => "openai_responses",
            Self::OpenaiCompletions => "openai_completions",
            Self::OpenaiEmbeddings => "openai_embeddings",
            Self::OpenaiImages => "openai_images",
            Self::OpenaiAudio => "openai_audio",
            Self::OpenaiBatches => "openai_batches",
            Self::AnthropicMessages => "anthropic_messages",
            Self::AnthropicBatches => "anthropic_batches",
            Self::GeminiGenerate => "gemini_generate",
            Self::BedrockConverse => "bedrock_converse",
            Self::BedrockInvoke => "bedrock_invoke",
            Self::CohereChat => "cohere_chat",
            Self::Rerank => "rerank",
            Self::Ollama => "ollama",
            Self::GeminiEmbed => "gemini_embed",
            Self::CohereEmbed => "cohere_embed",
            Self::OllamaEmbed => "ollama_embed",
        }
    }
}
