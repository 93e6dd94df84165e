use super::*;
use crate::headers::serialize;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn of(pairs: &[(&str, &str)], dialect: Dialect) -> Recognised {
    recognise(&Headers::parse(serialize(pairs)).unwrap(), dialect)
}

fn posted(path: &str) -> Recognised {
    of(&[(":method", "POST"), (":path", path)], Dialect::Openai)
}

#[test]
fn a_spelling_is_no_way_around_the_budget() {
    let chat = Recognised::Metered(Route::new(Api::OpenaiChat, Dialect::Openai));
    let other = Recognised::Unknown(PathClass::Other);
    for (method, path, expected) in [
        ("POST", "/v1/chat/completions", &chat),
        ("POST", "/v1/chat/completions?stream=1&x=%2F", &chat),
        ("POST", "/v1/chat/completions#x", &chat),
        ("POST", "/v1/chat/completions/", &chat),
        ("POST", "//v1//chat/completions", &chat),
        ("POST", "/v1/chat/%63ompletions", &chat),
        ("POST", "/v1%2Fchat%2fcompletions", &chat),
        ("POST", "/v1/x/../chat/./completions", &chat),
        ("POST", "/../v1/chat/completions", &chat),
        ("POST", "/chat/completions", &chat),
        ("POST", "/api/v1/chat/completions", &chat),
        ("POST", "/v1beta/openai/chat/completions", &chat),
        ("GET", "/v1/chat/completions", &Recognised::Free),
        ("HEAD", "/", &Recognised::Free),
        ("OPTIONS", "/v1/chat/completions", &Recognised::Free),
        ("DELETE", "/v1/chat/completions/abc", &Recognised::Free),
        ("CONNECT", "", &Recognised::Upgrade),
        ("POST", "/v1/chat/completions/abc", &other),
        ("PUT", "/v1/chat/completions", &other),
        ("post", "/v1/chat/completions", &other),
        ("", "", &Recognised::Unknown(PathClass::Root)),
        ("POST", "/v1/chat/completions%", &other),
        ("POST", "/v1/chat/completions%zz", &other),
        ("POST", "/v1/chat/%ff", &other),
        // What only ends like a free call, or does so for one reader and not for another.
        ("POST", "/v1/chat/completions/files", &other),
        ("POST", "/v1/chat/completions%3F/files", &other),
        ("POST", "/v1/chat/completions%23/files", &other),
        ("POST", "/v1/chat/completions;/files", &other),
        ("POST", "/v1/chat/completions/..;/files", &other),
        ("POST", "/v1/chat/completions%3b/../files", &other),
        ("POST", "/v1/chat/completions%00/files", &other),
        ("POST", "/v1/chat/completions%0d%0a", &other),
        ("POST", "/v1/chat/completions%5c..%5cfiles", &other),
        ("POST", "/v1/chat/completions/../../files", &other),
        ("POST", "/v1/chat%2Fcompletions%2F..%2F..%2Ffiles", &other),
        ("POST", "/v1/files#/../chat/completions", &other),
        ("POST", "/v1/responses/tokenize", &other),
        ("POST", "/chat/v1/files", &other),
        ("POST", "/x/y/v1/files", &other),
        ("POST", "/x%2Fy/v1/files", &other),
        ("POST", "/responses/batches/b/cancel", &other),
        ("POST", "/v1/responses/a%252F..%252Fb/cancel", &other),
        ("POST", "/v1/chat/completions/models/m:countTokens", &other),
        ("POST", "/model/m/converse/count-tokens", &other),
    ] {
        let got = of(&[(":method", method), (":path", path)], Dialect::Openai);
        assert_eq!(got, *expected, "{method} {path}");
    }
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let overridden = [(":method", "GET"), (":path", "/v1/x"), (name, "POST")];
        assert_eq!(of(&overridden, Dialect::Openai), other, "{name}");
    }
    let upgrade = [(":method", "GET"), (":path", "/v1/realtime"), ("upgrade", "websocket")];
    assert_eq!(of(&upgrade, Dialect::Openai), Recognised::Upgrade);
    let offer = [(":method", "POST"), (":path", "/v1/chat/completions"), ("upgrade", "h2c")];
    assert_eq!(of(&offer, Dialect::Openai), chat);
}

#[test]
fn each_path_has_its_api() {
    let vertex = "/v1/projects/p/locations/r/publishers";
    for (path, api, model, stream) in [
        ("/v1/responses", Api::OpenaiResponses, None, None),
        ("/openai/responses?api-version=2025-04-01-preview", Api::OpenaiResponses, None, None),
        ("/openai/v1/responses", Api::OpenaiResponses, None, None),
        ("/v1/completions", Api::OpenaiCompletions, None, None),
        ("/v1/embeddings", Api::OpenaiEmbeddings, None, None),
        ("/v1/images/edits", Api::OpenaiImages, None, None),
        ("/v1/audio/transcriptions", Api::OpenaiAudio, None, None),
        ("/v1/batches", Api::OpenaiBatches, None, None),
        ("/openai/deployments/our-4o/chat/completions", Api::OpenaiChat, Some("our-4o"), None),
        ("/openai/deployments/e/embeddings?api-version=x", Api::OpenaiEmbeddings, Some("e"), None),
        ("/v1/messages?beta=true", Api::AnthropicMessages, None, None),
        ("/anthropic/v1/messages", Api::AnthropicMessages, None, None),
        ("/api/v1/messages", Api::AnthropicMessages, None, None),
        ("/v1/messages/batches", Api::AnthropicBatches, None, None),
        (
            &format!("{vertex}/anthropic/models/claude-x@20250929:streamRawPredict"),
            Api::AnthropicMessages,
            Some("claude-x@20250929"),
            Some(true),
        ),
        (&format!("{vertex}/anthropic/models/c:rawPredict"), Api::AnthropicMessages, Some("c"), None),
        ("/v1beta/models/g-2.5:generateContent", Api::GeminiGenerate, Some("g-2.5"), Some(false)),
        ("/v1beta/models/g%3AstreamGenerateContent?alt=sse", Api::GeminiGenerate, Some("g"), Some(true)),
        (&format!("{vertex}/google/models/g:generateContent"), Api::GeminiGenerate, Some("g"), Some(false)),
        ("/model/us.a.claude-v1%3A0/converse", Api::BedrockConverse, Some("us.a.claude-v1:0"), Some(false)),
        ("/model/m/converse-stream", Api::BedrockConverse, Some("m"), Some(true)),
        ("/model/arn%3Aaws%3Ax%2Fy/invoke", Api::BedrockInvoke, Some("arn:aws:x/y"), Some(false)),
        ("/model/m/invoke-with-response-stream", Api::BedrockInvoke, Some("m"), Some(true)),
        ("/v2/chat", Api::CohereChat, None, None),
        ("/v2/rerank", Api::Rerank, None, None),
        ("/api/chat", Api::Ollama, None, None),
        ("/api/generate", Api::Ollama, None, None),
        ("/api/embed", Api::OllamaEmbed, None, None),
        ("/api/embeddings", Api::OllamaEmbed, None, None),
        ("/v1/embed", Api::CohereEmbed, None, None),
        ("/v2/embed", Api::CohereEmbed, None, None),
        ("/v1beta/models/g:embedContent", Api::GeminiEmbed, Some("g"), None),
        ("/v1beta/models/g:batchEmbedContents", Api::GeminiEmbed, Some("g"), None),
    ] {
        let Recognised::Metered(route) = posted(path) else { panic!("{path}") };
        assert_eq!((route.api, route.model.as_deref(), route.stream), (api, model, stream), "{path}");
    }
}

#[test]
fn what_costs_nothing_passes() {
    let vertex = "/v1/projects/p/locations/r/publishers";
    for (path, dialect) in [
        ("/v1/messages/count_tokens?beta=true", Dialect::Anthropic),
        ("/v1/messages/batches/msgbatch_1/cancel", Dialect::Anthropic),
        ("/v1/responses/input_tokens", Dialect::Openai),
        ("/v1/responses/resp_1/cancel", Dialect::Openai),
        ("/v1/batches/b/cancel", Dialect::Openai),
        ("/v1/files", Dialect::Openai),
        ("/openai/files?api-version=2024-10-21", Dialect::Openai),
        ("/openai/v1/files/", Dialect::Openai),
        ("/v1/uploads/u/parts", Dialect::Openai),
        ("/v1/moderations", Dialect::Mistral),
        ("/v1beta/models/g:countTokens", Dialect::Gemini),
        ("/v1beta/models/g-2.5%3AcountTokens", Dialect::Gemini),
        (&format!("{vertex}/google/models/g:countTokens"), Dialect::Gemini),
        (&format!("{vertex}/anthropic/models/count-tokens:rawPredict"), Dialect::Gemini),
        ("/v1/projects/p/locations/r/endpoints/7:computeTokens", Dialect::Gemini),
        ("/model/m/count-tokens", Dialect::Bedrock),
        ("/model/arn%3Aaws%3Ab%2Fm/count-tokens", Dialect::Bedrock),
        ("/api/show", Dialect::Ollama),
        ("/v1/tokenize", Dialect::Cohere),
        ("/tokenize", Dialect::Compatible),
        // Behind a gateway's prefix.
        ("/gemini/v1beta/models/g:countTokens", Dialect::Gemini),
        ("/mistral/v1/files", Dialect::Mistral),
        ("/bedrock/model/m/count-tokens", Dialect::Bedrock),
    ] {
        assert_eq!(of(&[(":method", "POST"), (":path", path)], dialect), Recognised::Free, "{path}");
    }
}

#[test]
fn what_is_not_metered_has_one_of_a_few_labels() {
    for (path, class) in [
        ("/", PathClass::Root),
        ("/v1/realtime/sessions", PathClass::Realtime),
        ("/v1/threads/t/messages", PathClass::Assistants),
        ("/v1/videos", PathClass::Videos),
        ("/v1/fine_tuning/jobs", PathClass::Tuning),
        ("/v1beta/cachedContents", PathClass::Storage),
        ("/v1/vector_stores/v/files", PathClass::Storage),
        ("/embed", PathClass::Embeddings),
        ("/v1beta/models/g:asyncBatchEmbedContent", PathClass::Embeddings),
        // Cohere's, and of others nobody knows what it is.
        ("/v1/chat", PathClass::Other),
        ("/v1/projects/p/publishers/meta/models/m:rawPredict", PathClass::Predictions),
        ("/v1/anything", PathClass::Other),
    ] {
        assert_eq!(posted(path), Recognised::Unknown(class), "{path}");
    }
    let older = of(&[(":method", "POST"), (":path", "/v1/chat")], Dialect::Cohere);
    assert_eq!(older, Recognised::Metered(Route::new(Api::CohereChat, Dialect::Cohere)));
    for (index, class) in PathClass::ALL.into_iter().enumerate() {
        assert_eq!(class.index(), index, "{}", class.as_str());
    }
}

#[test]
fn usage_is_not_asked_of_those_who_refuse_to_be() {
    for (path, dialect, refuses) in [
        ("/v1/chat/completions", Dialect::Openai, false),
        ("/v1/chat/completions", Dialect::Mistral, true),
        ("/v1/projects/p/publishers/mistralai/models/m:streamRawPredict", Dialect::Gemini, true),
        ("/openai/deployments/d/chat/completions?api-version=2024-02-01", Dialect::Openai, true),
        ("/openai/deployments/d/chat/completions?x=1&api-version=2024-10-21", Dialect::Openai, false),
        ("/openai/deployments/d/chat/completions?api-version=preview", Dialect::Openai, false),
        // Not Azure's path, or not its server: the query is the app's own.
        ("/v1/chat/completions?api-version=2024-02-01", Dialect::Openai, false),
        ("/openai/deployments/d/chat/completions?api-version=2024-02-01", Dialect::Compatible, false),
        (
            "/openai/deployments/d/chat/completions?api-version=2024-02-01&api-version=2024-10-21",
            Dialect::Openai,
            false,
        ),
    ] {
        let Recognised::Metered(route) = of(&[(":method", "POST"), (":path", path)], dialect) else {
            panic!("{path}")
        };
        assert_eq!(route.no_usage_switch, refuses, "{path} {dialect:?}");
    }
}
