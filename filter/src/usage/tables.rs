//! How each provider tells its usage, as data.

use super::Place::{In, Key, Labelled};
use super::{Slot, Table};

const BASE: Table = Table {
    fields: &[],
    needed: &[Slot::Input, Slot::Output],
    units: &[],
    input_includes_cache: true,
    output_includes_reasoning: true,
    merges: false,
    decimals: false,
    output_is_images: false,
};

const IN: &str = "prompt_tokens_details";
const OUT: &str = "completion_tokens_details";

/// OpenAI Chat and Completions, and those who copy them.
pub const CHAT: Table = Table {
    fields: &[
        (Key("prompt_tokens"), Slot::Input),
        (Key("completion_tokens"), Slot::Output),
        // DeepSeek's own name for it.
        (Key("prompt_cache_hit_tokens"), Slot::Cached),
        (In(IN, "cached_tokens"), Slot::Cached),
        (In(IN, "cache_write_tokens"), Slot::Write),
        (In(IN, "audio_tokens"), Slot::AudioIn),
        (In(IN, "image_tokens"), Slot::ImageIn),
        (In(OUT, "reasoning_tokens"), Slot::Reasoning),
        (In(OUT, "audio_tokens"), Slot::AudioOut),
        (In(OUT, "image_tokens"), Slot::ImageOut),
    ],
    units: &[
        (In("server_tool_use", "web_search_requests"), "web_search_requests"),
        (Key("num_search_queries"), "search_queries"),
    ],
    ..BASE
};

/// Embeddings, and rerank where it counts tokens.
pub const EMBEDDINGS: Table = Table {
    fields: &[(Key("total_tokens"), Slot::Input), (Key("prompt_tokens"), Slot::Input)],
    needed: &[Slot::Input],
    ..BASE
};

const RESPONSES_FIELDS: [(super::Place, Slot); 9] = [
    (Key("input_tokens"), Slot::Input),
    (Key("output_tokens"), Slot::Output),
    (In("input_tokens_details", "cached_tokens"), Slot::Cached),
    (In("input_tokens_details", "cache_write_tokens"), Slot::Write),
    (In("input_tokens_details", "audio_tokens"), Slot::AudioIn),
    (In("input_tokens_details", "image_tokens"), Slot::ImageIn),
    (In("output_tokens_details", "reasoning_tokens"), Slot::Reasoning),
    (In("output_tokens_details", "audio_tokens"), Slot::AudioOut),
    (In("output_tokens_details", "image_tokens"), Slot::ImageOut),
];

/// OpenAI Responses.
pub const RESPONSES: Table = Table { fields: &RESPONSES_FIELDS, ..BASE };

/// OpenAI Images.
pub const IMAGES: Table = Table { fields: &RESPONSES_FIELDS, output_is_images: true, ..BASE };

/// OpenAI Audio, where it tells tokens; and seconds where it doesn't.
pub const TRANSCRIPTION: Table = Table {
    fields: &[
        (Key("input_tokens"), Slot::Input),
        (Key("output_tokens"), Slot::Output),
        (In("input_token_details", "audio_tokens"), Slot::AudioIn),
        (In("output_token_details", "audio_tokens"), Slot::AudioOut),
    ],
    units: &[(Key("seconds"), "audio_seconds")],
    ..BASE
};

/// Anthropic. Its counts add up, and come in two or more events.
pub const ANTHROPIC: Table = Table {
    fields: &[
        (Key("input_tokens"), Slot::Input),
        (Key("cache_read_input_tokens"), Slot::Cached),
        (Key("cache_creation_input_tokens"), Slot::Write),
        (In("cache_creation", "ephemeral_5m_input_tokens"), Slot::Write5m),
        (In("cache_creation", "ephemeral_1h_input_tokens"), Slot::Write1h),
        (Key("output_tokens"), Slot::Output),
        (In("output_tokens_details", "thinking_tokens"), Slot::Reasoning),
    ],
    units: &[
        (In("server_tool_use", "web_search_requests"), "web_search_requests"),
        (In("server_tool_use", "web_fetch_requests"), "web_fetch_requests"),
        (In("server_tool_use", "code_execution_requests"), "code_execution_requests"),
    ],
    input_includes_cache: false,
    merges: true,
    ..BASE
};

const AUDIO: (&str, &str) = ("modality", "AUDIO");
const IMAGE: (&str, &str) = ("modality", "IMAGE");
const VIDEO: (&str, &str) = ("modality", "VIDEO");

/// Gemini. The prompt includes what was cached; thoughts stand beside the answer.
pub const GEMINI: Table = Table {
    fields: &[
        (Key("promptTokenCount"), Slot::Input),
        (Key("cachedContentTokenCount"), Slot::Cached),
        (Key("toolUsePromptTokenCount"), Slot::ToolInput),
        (Key("candidatesTokenCount"), Slot::Output),
        (Key("thoughtsTokenCount"), Slot::Reasoning),
        (Key("totalTokenCount"), Slot::Total),
        (Labelled("promptTokensDetails", AUDIO, "tokenCount"), Slot::AudioIn),
        (Labelled("promptTokensDetails", IMAGE, "tokenCount"), Slot::ImageIn),
        (Labelled("candidatesTokensDetails", AUDIO, "tokenCount"), Slot::AudioOut),
        (Labelled("candidatesTokensDetails", IMAGE, "tokenCount"), Slot::ImageOut),
    ],
    needed: &[Slot::Input],
    // Which of the tokens counted above are video.
    units: &[
        (Labelled("promptTokensDetails", VIDEO, "tokenCount"), "video_input_tokens"),
        (Labelled("candidatesTokensDetails", VIDEO, "tokenCount"), "video_output_tokens"),
    ],
    output_includes_reasoning: false,
    merges: true,
    ..BASE
};

/// Bedrock Converse: adds up as Anthropic's does.
pub const CONVERSE: Table = Table {
    fields: &[
        (Key("inputTokens"), Slot::Input),
        (Key("outputTokens"), Slot::Output),
        (Key("cacheReadInputTokenCount"), Slot::Cached),
        (Key("cacheWriteInputTokenCount"), Slot::Write),
        (Key("cacheReadInputTokens"), Slot::Cached),
        (Key("cacheWriteInputTokens"), Slot::Write),
        (Labelled("cacheDetails", ("ttl", "5m"), "inputTokens"), Slot::Write5m),
        (Labelled("cacheDetails", ("ttl", "1h"), "inputTokens"), Slot::Write1h),
    ],
    input_includes_cache: false,
    ..BASE
};

/// What Bedrock adds to the last chunk of an invocation's stream.
pub const INVOCATION: Table = Table {
    fields: &[
        (Key("inputTokenCount"), Slot::Input),
        (Key("outputTokenCount"), Slot::Output),
        (Key("cacheReadInputTokenCount"), Slot::Cached),
        (Key("cacheWriteInputTokenCount"), Slot::Write),
    ],
    input_includes_cache: false,
    ..BASE
};

/// Llama on Bedrock.
pub const LLAMA: Table = Table {
    fields: &[(Key("prompt_token_count"), Slot::Input), (Key("generation_token_count"), Slot::Output)],
    ..BASE
};

/// Cohere: what it bills, not what it counts. Of what was in its cache it only tells how much it was.
pub const COHERE: Table = Table {
    fields: &[
        (In("billed_units", "input_tokens"), Slot::Input),
        (In("billed_units", "image_tokens"), Slot::ImageIn),
        (In("billed_units", "output_tokens"), Slot::Output),
        (Key("cached_tokens"), Slot::Cached),
    ],
    needed: &[Slot::Input],
    units: &[
        (In("billed_units", "search_units"), "search_units"),
        (In("billed_units", "images"), "input_images"),
    ],
    decimals: true,
    ..BASE
};

/// Ollama, which leaves out the prompt when it had it in its cache.
pub const OLLAMA: Table = Table {
    fields: &[(Key("prompt_eval_count"), Slot::Input), (Key("eval_count"), Slot::Output)],
    needed: &[Slot::Output],
    ..BASE
};
