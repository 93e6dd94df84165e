//! Where each API's requests say what decides their cost.

use purser_protocol::Api;

use crate::api::Route;
use crate::config::Dialect;

/// Where a request says whether its answer is a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFlag {
    /// The member `stream`; absent means the value here.
    Body(bool),
    /// The path alone; its body has no say.
    Path,
}

/// Where an API's requests say what decides their cost. All names are of members of the body.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Every member that is looked at.
    pub keys: &'static [&'static str],
    /// Those that hold text and media.
    pub content: &'static [&'static str],
    /// The caps on output. With several the larger bounds all: servers differ in which one wins.
    pub caps: &'static [&'static str],
    /// Members that hold caps one level down, and the caps' names there.
    pub cap_holders: (&'static [&'static str], &'static [&'static str]),
    /// How many answers are asked for; the larger counts. In the cap's holder if there is one.
    pub choices: &'static [&'static str],
    /// Members that bring in what the body doesn't hold.
    pub context: &'static [&'static str],
    /// The stream flag.
    pub stream: StreamFlag,
    /// What is generated is not text, or nothing is: the output takes no tokens to speak of.
    pub has_no_output: bool,
    /// The cap that is written in when the request has none; empty where there is no such thing.
    pub own_cap: &'static str,
}

const NONE: &[&str] = &[];

/// Members of routers: other models to fall back to, and settings that are kept there.
const ELSEWHERE: &[&str] = &["models", "fallbacks", "preset"];

const PLAIN: Shape = Shape {
    keys: &["model", "stream"],
    content: NONE,
    caps: NONE,
    cap_holders: (NONE, NONE),
    choices: NONE,
    context: NONE,
    stream: StreamFlag::Body(false),
    has_no_output: false,
    own_cap: "",
};

const CHAT: Shape = Shape {
    keys: &[
        "model",
        "stream",
        "stream_options",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "messages",
        "tools",
        "web_search_options",
        "plugins",
        "service_tier",
        "reasoning_effort",
        "models",
        "fallbacks",
        "preset",
    ],
    content: &["messages"],
    context: ELSEWHERE,
    caps: &["max_completion_tokens", "max_tokens"],
    choices: &["n"],
    own_cap: "max_completion_tokens",
    ..PLAIN
};

const RESPONSES: Shape = Shape {
    keys: &[
        "model",
        "stream",
        "max_output_tokens",
        "input",
        "previous_response_id",
        "conversation",
        "prompt",
        "background",
        "tools",
        "plugins",
        "service_tier",
        "context_management",
        "reasoning",
        "models",
        "fallbacks",
        "preset",
    ],
    content: &["input"],
    caps: &["max_output_tokens"],
    context: &["previous_response_id", "conversation", "prompt", "models", "fallbacks", "preset"],
    own_cap: "max_output_tokens",
    ..PLAIN
};

const COMPLETIONS: Shape = Shape {
    keys: &[
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "n",
        "best_of",
        "prompt",
        "service_tier",
        "models",
        "fallbacks",
        "preset",
    ],
    caps: &["max_tokens"],
    context: ELSEWHERE,
    choices: &["n", "best_of"],
    own_cap: "max_tokens",
    ..PLAIN
};

const MESSAGES: Shape = Shape {
    keys: &[
        "model",
        "stream",
        "max_tokens",
        "messages",
        "container",
        "context_management",
        "thinking",
        "tools",
        "mcp_servers",
        "plugins",
        "service_tier",
        "models",
        "fallbacks",
        "preset",
    ],
    content: &["messages"],
    caps: &["max_tokens"],
    context: &["container", "models", "fallbacks", "preset"],
    own_cap: "max_tokens",
    ..PLAIN
};

const GEMINI: Shape = Shape {
    keys: &["contents", "generationConfig", "generation_config", "cachedContent", "cached_content", "tools"],
    content: &["contents"],
    cap_holders: (&["generationConfig", "generation_config"], &["maxOutputTokens", "max_output_tokens"]),
    choices: &["candidateCount", "candidate_count"],
    context: &["cachedContent", "cached_content"],
    stream: StreamFlag::Path,
    own_cap: "maxOutputTokens",
    ..PLAIN
};

const CONVERSE: Shape = Shape {
    keys: &["messages", "inferenceConfig", "additionalModelRequestFields"],
    content: &["messages"],
    cap_holders: (&["inferenceConfig"], &["maxTokens"]),
    stream: StreamFlag::Path,
    own_cap: "maxTokens",
    ..PLAIN
};

const INVOKE: Shape = Shape {
    keys: &[
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "max_gen_len",
        "inferenceConfig",
        "textGenerationConfig",
        "n",
        "tools",
        "thinking",
    ],
    content: &["messages"],
    caps: &["max_tokens", "max_completion_tokens", "max_gen_len"],
    cap_holders: (
        &["inferenceConfig", "textGenerationConfig"],
        &["maxTokens", "max_new_tokens", "maxTokenCount"],
    ),
    stream: StreamFlag::Path,
    ..PLAIN
};

const COHERE: Shape = Shape {
    keys: &["model", "stream", "max_tokens", "messages", "conversation_id", "connectors"],
    content: &["messages"],
    caps: &["max_tokens"],
    context: &["conversation_id", "connectors"],
    own_cap: "max_tokens",
    ..PLAIN
};

const EMBED: Shape = Shape { keys: &["model"], stream: StreamFlag::Path, has_no_output: true, ..PLAIN };

const OLLAMA: Shape = Shape {
    keys: &["model", "stream", "options", "messages", "images", "context"],
    content: &["messages", "images"],
    cap_holders: (&["options"], &["num_predict"]),
    stream: StreamFlag::Body(true),
    own_cap: "num_predict",
    ..PLAIN
};

/// Others than OpenAI know the cap by its older name only; some refuse the newer one.
const COMPATIBLE_CHAT: Shape = Shape { own_cap: "max_tokens", ..CHAT };

const COHERE_EMBED: Shape =
    Shape { keys: &["model", "images", "inputs"], content: &["images", "inputs"], ..EMBED };

const GEMINI_EMBED: Shape =
    Shape { keys: &["content", "requests"], content: &["content", "requests"], ..EMBED };

const IMAGES: Shape = Shape { keys: &["model", "stream", "n"], choices: &["n"], ..PLAIN };

const AUDIO: Shape = Shape { keys: &["model", "stream", "input"], ..PLAIN };

const FILE_BATCH: Shape = Shape { keys: NONE, stream: StreamFlag::Path, ..PLAIN };

const BATCH: Shape = Shape { keys: &["requests"], stream: StreamFlag::Path, ..PLAIN };

/// The shape of a route's requests.
#[must_use]
pub fn of(route: &Route) -> &'static Shape {
    match route.api {
        Api::OpenaiChat if route.dialect == Dialect::Openai => &CHAT,
        Api::OpenaiChat => &COMPATIBLE_CHAT,
        Api::OpenaiResponses => &RESPONSES,
        Api::OpenaiCompletions => &COMPLETIONS,
        Api::OpenaiEmbeddings | Api::Rerank | Api::OllamaEmbed => &EMBED,
        Api::CohereEmbed => &COHERE_EMBED,
        Api::GeminiEmbed => &GEMINI_EMBED,
        Api::OpenaiImages => &IMAGES,
        Api::OpenaiAudio => &AUDIO,
        Api::OpenaiBatches => &FILE_BATCH,
        Api::AnthropicBatches => &BATCH,
        Api::AnthropicMessages => &MESSAGES,
        Api::GeminiGenerate => &GEMINI,
        Api::BedrockConverse => &CONVERSE,
        Api::BedrockInvoke => &INVOKE,
        Api::CohereChat => &COHERE,
        Api::Ollama => &OLLAMA,
    }
}
