//! Tokens and durations of calls, by the names of OpenTelemetry's conventions for generative AI
//! (`gen_ai.client.token.usage`, `gen_ai.client.operation.duration`) as Prometheus writes them.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, METRICS};
use crate::tracker::model::NewEntry;

/// Bounds of tokens, as the conventions recommend them.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Bounds of durations, seconds, as the conventions recommend them.
const SECONDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// The figures.
pub struct GenAi {
    tokens: Family<Labels<4>, Histogram, fn() -> Histogram>,
    seconds: Family<Labels<3>, Histogram, fn() -> Histogram>,
}

impl Default for GenAi {
    fn default() -> Self {
        Self {
            tokens: Family::new_with_constructor(|| Histogram::new(TOKENS)),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        }
    }
}

impl GenAi {
    /// Under their own names, without ours before them.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let help = "Tokens of a call, by type: input and output, caches and reasoning included";
        registry.register("gen_ai_client_token_usage", help, self.tokens.clone());
        let help = "From a call's arrival to its end";
        registry.register_with_unit(
            "gen_ai_client_operation_duration",
            help,
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry
    }
}

/// Notes a call that was settled: its tokens if its usage came back, and how long it took.
pub fn settled(entry: &NewEntry) {
    if entry.cause != "settled" {
        return;
    }
    let subject = &entry.subject;
    let known = METRICS.bounded(&METRICS.models, "model", &format!("{} {}", subject.provider, subject.model));
    // Together with the model, so that their number is bounded with it.
    let (provider, model) = known.split_once(' ').unwrap_or(("other", "other"));
    let labels = [
        ("gen_ai_operation_name", operation(&subject.api).to_owned()),
        ("gen_ai_provider_name", self::provider(provider).to_owned()),
        ("gen_ai_request_model", model.to_owned()),
    ];
    if let Some(ms) = entry.facts.duration_ms.and_then(|ms| u64::try_from(ms).ok()) {
        let seconds = std::time::Duration::from_millis(ms).as_secs_f64();
        METRICS.gen_ai.seconds.get_or_create(&labels).observe(seconds);
    }
    if entry.facts.usage_quality == "none" {
        return;
    }
    let usage = &entry.facts.usage;
    let input = [
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.audio_input_tokens,
        usage.image_input_tokens,
    ];
    let output =
        [usage.output_tokens, usage.reasoning_tokens, usage.audio_output_tokens, usage.image_output_tokens];
    let [operation, provider, model] = labels;
    for (kind, counts) in [("input", input.as_slice()), ("output", output.as_slice())] {
        let sum = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let labels =
            [operation.clone(), provider.clone(), model.clone(), ("gen_ai_token_type", kind.to_owned())];
        // Beyond four thousand million tokens nobody counts one by one.
        METRICS.gen_ai.tokens.get_or_create(&labels).observe(u32::try_from(sum).unwrap_or(u32::MAX).into());
    }
}

/// The conventions' name of what is done.
fn operation(api: &str) -> &'static str {
    match api {
        "openai_completions" => "text_completion",
        "openai_embeddings" | "gemini_embed" | "cohere_embed" | "ollama_embed" => "embeddings",
        "gemini_generate" | "openai_images" | "openai_audio" => "generate_content",
        "rerank" => "rerank",
        _ => "chat",
    }
}

/// The conventions' name of who bills, where they have one.
fn provider(name: &str) -> &str {
    match name {
        "bedrock" => "aws.bedrock",
        "azure" => "azure.ai.openai",
        "gemini" => "gcp.gemini",
        "vertex" => "gcp.vertex_ai",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        other => other,
    }
}
