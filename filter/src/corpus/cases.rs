//! The cases, compiled in so that they run where there are no files.

/// What a case's files hold.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub request: &'static [u8],
    pub response: &'static [u8],
    pub expected: &'static str,
    /// The bodies as they must come out, to the app and to the upstream, where they differ.
    pub edited: Option<(&'static [u8], &'static [u8])>,
}

macro_rules! file {
    ($include:ident, $name:literal, $file:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/", $name, "/", $file))
    };
}

macro_rules! case {
    ($name:literal, $edited:expr) => {
        Case {
            name: $name,
            request: file!(include_bytes, $name, "request.http"),
            response: file!(include_bytes, $name, "response.http"),
            expected: file!(include_str, $name, "expected.json"),
            edited: $edited,
        }
    };
}

macro_rules! cases {
    (untouched: $($untouched:literal,)* edited: $($edited:literal,)*) => {
        &[
            $(case!($untouched, None),)*
            $(case!($edited, Some((
                file!(include_bytes, $edited, "expected_to_app"),
                file!(include_bytes, $edited, "expected_to_upstream"),
            ))),)*
        ]
    };
}

/// Every folder of the corpus.
#[rustfmt::skip]
pub const ALL: &[Case] = cases! {
    untouched:
        "openai_chat/plain",
        "openai_chat/stream_asked",
        "openai_chat/client_gone",
        "openai_chat/error_event",
        "openai_chat/error_status",
        "openai_chat/mistral",
        "openai_chat/deepseek_keepalive",
        "openai_chat/openrouter",
        "openai_chat/vllm_continuous",
        "openai_chat/gemini_compatible",
        "openai_chat/audio",
        "openai_chat/compressed",
        "openai_responses/plain_tools",
        "openai_responses/item_reference",
        "openai_responses/stream",
        "openai_responses/incomplete",
        "openai_responses/cut",
        "openai_responses/background",
        "openai_completions/plain",
        "openai_embeddings/plain",
        "openai_embeddings/azure_without_usage",
        "openai_images/plain",
        "openai_images/edit_form",
        "openai_images/without_usage",
        "openai_images/stream",
        "openai_audio/transcription_tokens",
        "openai_audio/transcription_seconds",
        "openai_audio/speech",
        "openai_batches/created",
        "anthropic_messages/plain_cache",
        "anthropic_messages/stream",
        "anthropic_messages/stream_server_tools",
        "anthropic_messages/error_event",
        "anthropic_messages/client_gone",
        "anthropic_messages/gone_after_last_usage",
        "anthropic_messages/gateway_zero_first",
        "anthropic_messages/vertex",
        "anthropic_messages/error_status",
        "anthropic_messages/fast_in_us",
        "anthropic_messages/priority",
        "anthropic_batches/created",
        "gemini_generate/plain",
        "gemini_generate/stream_sse",
        "gemini_generate/stream_array",
        "gemini_generate/stream_cut",
        "gemini_generate/blocked",
        "gemini_generate/grounded_cached",
        "gemini_generate/vertex_flex_grounded",
        "gemini_embed/without_usage",
        "gemini_embed/batch",
        "bedrock_converse/plain",
        "bedrock_converse/stream",
        "bedrock_converse/exception",
        "bedrock_converse/error_status",
        "bedrock_converse/bearer_arn",
        "bedrock_invoke/claude",
        "bedrock_invoke/claude_stream",
        "bedrock_invoke/compressed_headers",
        "bedrock_invoke/llama",
        "bedrock_invoke/llama_stream",
        "bedrock_invoke/titan_headers",
        "bedrock_invoke/nova",
        "cohere_chat/plain",
        "cohere_chat/stream",
        "cohere_chat/stream_cut",
        "cohere_chat/cached",
        "cohere_chat/older_plain",
        "cohere_chat/older_stream",
        "cohere_chat/older_stream_cut",
        "cohere_embed/plain",
        "cohere_embed/images",
        "rerank/cohere",
        "rerank/tokens",
        "ollama/chat_stream",
        "ollama/chat_cut",
        "ollama/generate_plain",
        "ollama_embed/plain",
        "ollama_embed/older",
        "anthropic_messages/last_usage_null",
        "anthropic_messages/last_usage_empty",
        "anthropic_messages/last_usage_negative",
        "anthropic_messages/last_usage_decimal",
        "anthropic_messages/last_usage_missing",
        "anthropic_messages/no_last_delta",
        "anthropic_messages/error_first",
        "anthropic_messages/compaction",
        "anthropic_messages/compaction_unreadable",
        "gemini_generate/only_total",
        "gemini_generate/negative_candidates",
        "gemini_generate/without_output",
        "gemini_generate/total_without_output",
        "cohere_chat/without_output",
        "openai_responses/zero_first",
        "openai_responses/failed_first",
        "openai_chat/zero_along_the_way",
        "openai_chat/usage_beyond_any_call",
        "openai_chat/error_first_then_done",
        "openai_chat/error_after_text_then_done",
        "openai_chat/error_plain",
        "openai_chat/cited_search",
        "openai_chat/cited_search_stream",
        "bedrock_converse/exception_first",
        "ollama/error_first",
    edited:
        "openai_chat/stream_not_asked",
        "openai_chat/stream_of_wrong_type",
        "openai_chat/stream_as_if_signed",
        "openai_chat/tools_crlf",
        "openai_chat/azure",
        "openai_completions/stream_not_asked",
        "openai_chat/usage_in_several_lines",
};
