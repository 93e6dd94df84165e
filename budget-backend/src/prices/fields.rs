//! What the fields of the community's price file mean to us. A field that isn't here is unknown, and the
//! import says so instead of guessing.

/// What a field is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A rate per token: class (index in [`crate::pricing::CLASSES`]), size threshold in tokens, tier.
    Rate(usize, Option<u64>, Option<String>),
    /// A rate by the piece.
    Unit(&'static str),
    /// `{search_context_size_low, …_medium, …_high}` per search.
    SearchContext,
    /// A list of ranges with rates.
    TieredPricing,
    /// Rates in certain hours; the list price is that of the others.
    OffPeak,
    /// Factors by name, or switches of the caller's library.
    ProviderSpecific,
    /// A factor of this name.
    Multiplier(&'static str),
    /// Money that depends on something no call tells: a price we can't apply.
    Unpriceable,
    /// Who bills.
    Provider,
    /// `chat`, `embedding` and so on.
    Mode,
    /// Where the figures are from.
    Source,
    /// Whether the model reasons.
    Reasons,
    /// Says nothing about what a call costs, or says it a second time in another currency.
    Irrelevant,
    /// Not known.
    Unknown,
}

/// Fields per token, and the class each is of.
const RATES: [(&str, usize); 11] = [
    ("input_cost_per_token", 0),
    ("cache_read_input_token_cost", 1),
    ("input_cost_per_token_cache_hit", 1),
    ("cache_creation_input_token_cost", 2),
    ("cache_creation_input_token_cost_above_1hr", 3),
    ("output_cost_per_token", 4),
    ("output_cost_per_reasoning_token", 5),
    ("input_cost_per_audio_token", 6),
    ("output_cost_per_audio_token", 7),
    ("input_cost_per_image_token", 8),
    ("output_cost_per_image_token", 9),
];

const TIERS: [(&str, &str); 6] = [
    ("_priority", "priority"),
    ("_flex", "flex"),
    ("_batches", "batch"),
    ("_ultrafast", "ultrafast"),
    ("_balanced", "balanced"),
    ("_decisions", "decisions"),
];

/// Fields by the piece, and what filters call the piece. `input_cost_per_second` and `…_query` depend on
/// the mode.
const UNITS: [(&str, &str); 14] = [
    ("cache_read_input_audio_token_cost", "cached_audio_input_tokens"),
    ("cache_read_input_image_token_cost", "cached_image_input_tokens"),
    ("cache_creation_input_audio_token_cost", "cache_write_audio_input_tokens"),
    ("input_cost_per_request", "requests"),
    ("output_cost_per_image", "images"),
    ("input_cost_per_image", "input_images"),
    ("input_cost_per_character", "input_characters"),
    ("output_cost_per_character", "output_characters"),
    ("ocr_cost_per_page", "pages"),
    ("annotation_cost_per_page", "annotated_pages"),
    ("code_interpreter_cost_per_session", "code_interpreter_sessions"),
    ("google_maps_grounding_cost_per_query", "google_maps_requests"),
    ("citation_cost_per_token", "citation_tokens"),
    ("input_cost_per_text_message", "text_messages"),
];

/// Money that no call tells us enough to apply, with whatever suffix of size, tier or format.
const UNPRICEABLE: [&str; 18] = [
    "cache_creation_input_audio_token_cost",
    "cache_read_input_audio_token_cost",
    "cache_read_input_image_token_cost",
    "cost_per_second",
    "explicit_cache_read_input_token_cost",
    "guardrail_cost_per_unit",
    "input_cost_per_audio_per_second",
    "input_cost_per_character_above",
    "input_cost_per_image_above",
    "input_cost_per_pixel",
    "input_cost_per_video",
    "ocr_cost_per_credit",
    "ocr_cost_per_page_batches",
    "annotation_cost_per_page_batches",
    "output_cost_per_image_",
    "output_cost_per_pixel",
    "output_cost_per_video",
    "output_cost_per_character_above",
];

const IRRELEVANT: [&str; 43] = [
    "audio_transcription_config",
    "bedrock_converse_supports_strict_tools",
    "bedrock_output_config_effort_ceiling",
    "comment",
    "computer_use_input_cost_per_1k_tokens",
    "computer_use_output_cost_per_1k_tokens",
    "default_reasoning_effort",
    "deprecation_date",
    "gemini_audio_only_live",
    "gemini_native_audio",
    // The same price once more, in the provider's own currency.
    "input_dbu_cost_per_token",
    "output_dbu_cost_per_token",
    "max_audio_length_hours",
    "max_audio_per_prompt",
    "max_document_chunks_per_query",
    "max_images_per_prompt",
    "max_input_tokens",
    "max_output_tokens",
    "max_pdf_size_mb",
    "max_query_tokens",
    "max_tokens",
    "max_tokens_per_document_chunk",
    "max_video_length",
    "max_videos_per_prompt",
    "metadata",
    "output_vector_size",
    "prompt_cache_min_tokens",
    "reasoning_effort_levels",
    "rpd",
    "rpm",
    "rules",
    // So many searches are free, over an account and a day: no call tells which.
    "search_free_requests",
    "thinking_always_on",
    "token_count_framing",
    "token_count_model",
    "token_count_tokenizer",
    "tpm",
    "use_openai_responses_path",
    "uses_embed_content",
    "vertex_ai_audio_api",
    "web_search_billing_unit",
    "supported_regions",
    "supported_endpoints",
];

/// Starts of names of what a model can do.
const ABILITIES: [&str; 2] = ["supports_", "supported_"];

/// What a field of an entry in a mode is.
#[must_use]
pub fn field(name: &str, mode: &str) -> Field {
    match name {
        "litellm_provider" => return Field::Provider,
        "mode" => return Field::Mode,
        "source" => return Field::Source,
        "supports_reasoning" => return Field::Reasons,
        "search_context_cost_per_query" => return Field::SearchContext,
        "tiered_pricing" => return Field::TieredPricing,
        "off_peak_pricing" => return Field::OffPeak,
        "provider_specific_entry" => return Field::ProviderSpecific,
        "regional_processing_uplift_multiplier_us" => return Field::Multiplier("us"),
        "regional_processing_uplift_multiplier_eu" => return Field::Multiplier("eu"),
        "regional_endpoint_uplift_multiplier" => return Field::Multiplier("regional"),
        // Seconds of what is heard are counted; of what is made, or of a machine's time, they aren't.
        // A recording's price may stand as that of what is heard or of what is written down.
        "input_cost_per_second" | "output_cost_per_second" if mode == "audio_transcription" => {
            return Field::Unit("audio_seconds");
        }
        "input_cost_per_query" if mode == "rerank" => return Field::Unit("search_units"),
        "input_cost_per_query" => return Field::Unit("queries"),
        _ => {}
    }
    if let Some(rate) = rate(name) {
        return rate;
    }
    if let Some((_, unit)) = UNITS.iter().find(|(field, _)| *field == name) {
        return Field::Unit(unit);
    }
    if UNPRICEABLE.iter().any(|start| name.starts_with(start))
        || name.starts_with("input_cost_per_second")
        || name.starts_with("output_cost_per_second")
    {
        return Field::Unpriceable;
    }
    if IRRELEVANT.contains(&name) || ABILITIES.iter().any(|start| name.starts_with(start)) {
        return Field::Irrelevant;
    }
    Field::Unknown
}

/// `input_cost_per_token[_above_272k_tokens][_flex]` and its like.
fn rate(name: &str) -> Option<Field> {
    let (rest, tier) = TIERS
        .iter()
        .find_map(|(suffix, tier)| name.strip_suffix(suffix).map(|rest| (rest, Some((*tier).to_owned()))))
        .unwrap_or((name, None));
    let (base, above) = match rest.strip_suffix("k_tokens").and_then(|rest| rest.rsplit_once("_above_")) {
        Some((base, thousands)) => (base, Some(threshold(thousands)?)),
        None => (rest, None),
    };
    let (_, class) = RATES.iter().find(|(field, _)| *field == base)?;
    Some(Field::Rate(*class, above, tier))
}

/// `200` of `_above_200k_tokens`, in tokens; written one way only.
fn threshold(thousands: &str) -> Option<u64> {
    let plain = thousands.bytes().all(|byte| byte.is_ascii_digit()) && !thousands.starts_with('0');
    if plain { thousands.parse::<u64>().ok()?.checked_mul(1_000) } else { None }
}

/// Whether an unknown field looks as if it were about money.
#[must_use]
pub fn is_about_money(name: &str) -> bool {
    ["cost", "price", "pricing", "multiplier", "fee"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_suffixes_are_taken_apart() {
        let tier = |name: &str| Some(name.to_owned());
        for (name, expected) in [
            ("input_cost_per_token", Field::Rate(0, None, None)),
            ("output_cost_per_token_batches", Field::Rate(4, None, tier("batch"))),
            ("input_cost_per_token_above_200k_tokens", Field::Rate(0, Some(200_000), None)),
            (
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
                Field::Rate(3, Some(200_000), None),
            ),
            ("cache_creation_input_token_cost_above_1hr", Field::Rate(3, None, None)),
            ("output_cost_per_token_above_272k_tokens_flex", Field::Rate(4, Some(272_000), tier("flex"))),
            ("input_cost_per_token_above_xk_tokens", Field::Unknown),
            ("input_cost_per_token_above_+200k_tokens", Field::Unknown),
            ("input_cost_per_token_above_0200k_tokens", Field::Unknown),
            ("input_cost_per_token_above_k_tokens", Field::Unknown),
            ("input_cost_per_token_above_272k_tokens_turbo", Field::Unknown),
            ("output_cost_per_image", Field::Unit("images")),
            ("output_cost_per_image_4K", Field::Unpriceable),
            ("output_cost_per_second_480p", Field::Unpriceable),
            ("supports_telepathy", Field::Irrelevant),
            ("input_cost_per_thought", Field::Unknown),
        ] {
            assert_eq!(field(name, "chat"), expected, "{name}");
        }
        assert_eq!(field("input_cost_per_second", "audio_transcription"), Field::Unit("audio_seconds"));
        assert_eq!(field("output_cost_per_second", "audio_transcription"), Field::Unit("audio_seconds"));
        assert_eq!(field("output_cost_per_second_hd", "audio_transcription"), Field::Unpriceable);
        assert_eq!(field("input_cost_per_second", "chat"), Field::Unpriceable);
        assert_eq!(field("input_cost_per_query", "rerank"), Field::Unit("search_units"));
    }
}
