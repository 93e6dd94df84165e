//! The other APIs of the fake provider over a real socket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use serde_json::{Value, json};

use super::FakeLlm;
use super::bill::BilledRow;

struct Caller {
    fake: FakeLlm,
    http: reqwest::Client,
}

impl Caller {
    async fn start() -> Self {
        let fake = FakeLlm::start().await.expect("a free port");
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { fake, http }
    }

    async fn send(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Response {
        let mut request = self.http.post(format!("http://{}{path}", self.fake.addr)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    async fn json(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Value {
        let response = self.send(path, body, headers).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    async fn text(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> String {
        let response = self.send(path, body, headers).await;
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.expect("text")
    }

    fn last_billed(&self) -> BilledRow {
        self.fake.billed().rows.last().cloned().expect("a row")
    }
}

/// Every class there is: 3 words, 2 of reasoning, and a prompt in parts.
const CLASSES: [(&str, &str); 5] = [
    ("x-fake-words", "3"),
    ("x-fake-reasoning-tokens", "2"),
    ("x-fake-cached-tokens", "4"),
    ("x-fake-cache-write-5m-tokens", "2"),
    ("x-fake-cache-write-1h-tokens", "1"),
];

fn chat(model: &str, more: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "ping ping ping"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// The JSON of each `data:` line.
fn data(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The last thing at `pointer` in a list of objects.
fn last<'a>(objects: &'a [Value], pointer: &str) -> &'a Value {
    let found = objects.iter().rev().find_map(|object| object.pointer(pointer));
    found.unwrap_or_else(|| panic!("no {pointer} in {objects:?}"))
}

fn assert_classes(row: &BilledRow) {
    let tokens = row.tokens;
    // 3 + 4 + 14 / 4, rounded up.
    let input = [tokens.input_tokens, tokens.cached_tokens, tokens.cache_write_5m_tokens];
    assert_eq!(input, [11 - 7, 4, 2], "{row:?}");
    assert_eq!((tokens.cache_write_1h_tokens, tokens.output_tokens), (1, 5), "{row:?}");
    assert_eq!((tokens.reasoning_tokens, row.complete), (2, true), "{row:?}");
}

#[tokio::test]
async fn responses_tell_usage_in_their_last_event() {
    let caller = Caller::start().await;
    let input = json!([{"role": "user", "content": "ping ping ping"}]);
    let body = json!({"model": "gpt-4o-mini", "input": input});
    let plain = caller.json("/v1/responses", &body, &CLASSES).await;
    let usage = json!({
        "input_tokens": 11, "input_tokens_details": {"cache_write_tokens": 3, "cached_tokens": 4},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 16,
    });
    assert_eq!(plain["usage"], usage);
    assert_classes(&caller.last_billed());
    let body = json!({"model": "gpt-4o-mini", "input": input, "stream": true});
    let events = data(&caller.text("/v1/responses", &body, &CLASSES).await);
    assert_eq!(events.last().map(|event| &event["type"]), Some(&json!("response.completed")));
    assert_eq!(last(&events, "/response/usage"), &usage);
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).map(Some).collect::<Vec<_>>());
    assert_classes(&caller.last_billed());
    let failed = caller.text("/v1/responses", &body, &[("x-fake-fault", "error-in-stream")]).await;
    assert_eq!(data(&failed).last().map(|event| &event["type"]), Some(&json!("response.failed")));
}

#[tokio::test]
async fn completions_bill_every_prompt_and_what_best_of_hides() {
    let caller = Caller::start().await;
    let body = json!({
        "model": "gpt-3.5-turbo-instruct", "prompt": ["ping", "pingpingp"], "n": 2, "best_of": 3,
        "max_tokens": 2,
    });
    let plain = caller.json("/v1/completions", &body, &[]).await;
    assert_eq!(plain["choices"].as_array().map(Vec::len), Some(4));
    // 4 + 1 and 4 + 3 of the prompts; 2 prompts × 3 candidates × 2 tokens.
    assert_eq!(plain["usage"]["prompt_tokens"], 12);
    assert_eq!(plain["usage"]["completion_tokens"], 12);
    let tokens = caller.last_billed().tokens;
    assert_eq!((tokens.input_tokens, tokens.output_tokens), (12, 12));
}

#[tokio::test]
async fn embeddings_are_the_same_in_both_encodings() {
    let caller = Caller::start().await;
    let body = |format: &str| json!({"model": "text-embedding-3-small", "input": ["a", "bcdef"], "encoding_format": format});
    let floats = caller.json("/v1/embeddings", &body("float"), &[]).await;
    let packed = caller.json("/v1/embeddings", &body("base64"), &[]).await;
    for index in 0..2 {
        let bytes = STANDARD.decode(packed["data"][index]["embedding"].as_str().expect("text"));
        let bytes = bytes.expect("base64");
        let unpacked: Vec<Value> = bytes
            .chunks_exact(4)
            .map(|four| json!(f32::from_le_bytes(four.try_into().expect("four bytes"))))
            .collect();
        assert_eq!(json!(unpacked), floats["data"][index]["embedding"]);
    }
    assert_eq!(floats["usage"], json!({"prompt_tokens": 11, "total_tokens": 11}));
    assert_eq!(caller.last_billed().tokens.input_tokens, 11);
}

#[tokio::test]
async fn messages_add_up_and_repeat_their_usage() {
    let caller = Caller::start().await;
    let body = chat("claude-sonnet-4-5", json!({"max_tokens": 64}));
    let plain = caller.json("/v1/messages", &body, &CLASSES).await;
    for (field, count) in [
        ("input_tokens", 4),
        ("cache_read_input_tokens", 4),
        ("cache_creation_input_tokens", 3),
        ("output_tokens", 5),
    ] {
        assert_eq!(plain["usage"][field], count, "{plain}");
    }
    assert_classes(&caller.last_billed());
    let body = chat("claude-sonnet-4-5", json!({"max_tokens": 64, "stream": true}));
    let searching = [&CLASSES[..], &[("x-fake-web-searches", "2")]].concat();
    let text = caller.text("/v1/messages", &body, &searching).await;
    assert!(text.starts_with("event: message_start\ndata: {"), "{text}");
    assert!(text.contains("event: ping\n"), "{text}");
    let events = data(&text);
    let split = json!({"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 1});
    assert_eq!(events[0]["message"]["usage"]["cache_creation"], split);
    let deltas: Vec<_> = events.iter().filter(|event| event["type"] == "message_delta").collect();
    assert_eq!(deltas.len(), 2, "{text}");
    assert_eq!(deltas[1]["usage"]["output_tokens"], 5);
    assert_eq!(deltas[1]["usage"]["server_tool_use"]["web_search_requests"], 2);
    let row = caller.last_billed();
    assert_classes(&row);
    assert_eq!(row.web_searches, 2);
    let failed = caller.text("/v1/messages", &body, &[("x-fake-fault", "error-in-stream")]).await;
    assert!(failed.contains("event: error\ndata: {\"type\":\"error\""), "{failed}");
    let vertex =
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict";
    assert_eq!(data(&caller.text(vertex, &body, &searching).await).len(), events.len());
    assert_eq!(caller.last_billed().model, "claude-sonnet-4-5-20250929");
}

#[tokio::test]
async fn gemini_counts_thoughts_beside_the_candidates() {
    let caller = Caller::start().await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "ping ping ping"}]}]});
    let path = "/v1beta/models/gemini-2.5-flash";
    let usage = json!({
        "promptTokenCount": 11, "candidatesTokenCount": 3, "totalTokenCount": 16,
        "cachedContentTokenCount": 4, "thoughtsTokenCount": 2,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 11}],
    });
    let plain = caller.json(&format!("{path}:generateContent"), &body, &CLASSES).await;
    assert_eq!(plain["usageMetadata"], usage);
    let events = caller.text(&format!("{path}:streamGenerateContent?alt=sse"), &body, &CLASSES).await;
    assert!(events.ends_with("}\r\n\r\n") && events.split("\r\n\r\n").count() == 6, "{events}");
    assert_eq!(last(&data(&events), "/usageMetadata"), &usage);
    assert_classes(&caller.last_billed());
    let array = caller.text(&format!("{path}:streamGenerateContent"), &body, &CLASSES).await;
    let array: Vec<Value> = serde_json::from_str(&array).expect("a JSON array");
    assert_eq!(array, data(&events).into_iter().zip(&array).map(same_but_id).collect::<Vec<_>>());
    let failing = [("x-fake-fault", "error-in-stream")];
    let failed = caller.text(&format!("{path}:streamGenerateContent"), &body, &failing).await;
    let failed: Vec<Value> = serde_json::from_str(&failed).expect("a JSON array");
    assert_eq!(last(&failed, "/error/status"), "UNAVAILABLE");
    let counted = caller.json(&format!("{path}:countTokens"), &body, &[]).await;
    assert_eq!(counted, json!({"totalTokens": 11}));
}

/// An event with the id of the array's element.
fn same_but_id((mut event, element): (Value, &Value)) -> Value {
    event["responseId"] = element["responseId"].clone();
    event
}

/// The frames of a binary event stream, lengths and checksums checked: type and payload.
fn frames(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let checksum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_be_bytes()
    };
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = |from: usize| u32::from_be_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
        let (total, headers) = (length(0) as usize, length(4) as usize);
        assert_eq!(bytes[8..12], checksum(&bytes[..8]));
        assert_eq!(bytes[total - 4..total], checksum(&bytes[..total - 4]));
        let head = String::from_utf8_lossy(&bytes[12..12 + headers]).into_owned();
        let payload = serde_json::from_slice(&bytes[12 + headers..total - 4]).expect("JSON");
        frames.push((head, payload));
        bytes = &bytes[total..];
    }
    frames
}

#[tokio::test]
async fn bedrock_frames_its_streams() {
    let caller = Caller::start().await;
    let model = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0";
    let body = json!({"messages": [{"role": "user", "content": [{"text": "ping ping ping"}]}]});
    let usage = json!({
        "inputTokens": 4, "outputTokens": 5, "totalTokens": 16, "cacheReadInputTokens": 4,
        "cacheWriteInputTokens": 3,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 2}, {"ttl": "1h", "inputTokens": 1}],
    });
    let plain = caller.json(&format!("{model}/converse"), &body, &CLASSES).await;
    assert_eq!(plain["usage"], usage);
    let chunked = [&CLASSES[..], &[("x-fake-chunk-bytes", "7")]].concat();
    let response = caller.send(&format!("{model}/converse-stream"), &body, &chunked).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.amazon.eventstream");
    let stream = frames(&response.bytes().await.expect("bytes"));
    let (head, metadata) = stream.last().expect("frames");
    assert!(head.contains(":event-type\u{7}\0\u{8}metadata"), "{head:?}");
    assert_eq!(metadata["usage"], usage);
    assert_classes(&caller.last_billed());
    let body = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [{"role": "user", "content": "ping ping ping"}]});
    let stream = caller.send(&format!("{model}/invoke-with-response-stream"), &body, &CLASSES).await;
    let stream = frames(&stream.bytes().await.expect("bytes"));
    let events: Vec<Value> = stream
        .iter()
        .map(|(_, payload)| STANDARD.decode(payload["bytes"].as_str().expect("text")).expect("base64"))
        .map(|json| serde_json::from_slice(&json).expect("JSON"))
        .collect();
    assert_eq!(last(&events, "/amazon-bedrock-invocationMetrics/outputTokenCount"), 5);
    assert_classes(&caller.last_billed());
    let failing = [("x-fake-fault", "error-in-stream")];
    let failed = caller.send(&format!("{model}/invoke-with-response-stream"), &body, &failing).await;
    let failed = frames(&failed.bytes().await.expect("bytes"));
    assert!(failed.last().expect("frames").0.contains("exception"), "{failed:?}");
}

#[tokio::test]
async fn cohere_bills_less_than_it_counts_and_ollama_streams_lines() {
    let caller = Caller::start().await;
    let words = [("x-fake-words", "3")];
    let plain = caller.json("/v2/chat", &chat("command-r-08-2024", json!({})), &words).await;
    assert_eq!(plain["usage"]["billed_units"], json!({"input_tokens": 11.0, "output_tokens": 3.0}));
    assert_eq!(plain["usage"]["tokens"]["input_tokens"], 77.0);
    let stream = caller.text("/v2/chat", &chat("command-r-08-2024", json!({"stream": true})), &words).await;
    assert_eq!(last(&data(&stream), "/delta/usage"), &plain["usage"]);
    assert_eq!(caller.last_billed().tokens.input_tokens, 11);

    let plain = caller.json("/api/chat", &chat("llama3.2", json!({"stream": false})), &words).await;
    assert_eq!((&plain["prompt_eval_count"], &plain["eval_count"]), (&json!(11), &json!(3)));
    let lines = caller.text("/api/chat", &chat("llama3.2", json!({})), &words).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!((&lines[4]["done"], &lines[4]["eval_count"]), (&json!(true), &json!(3)));
    let generated = json!({"model": "llama3.2", "prompt": "ping", "stream": false});
    assert_eq!(caller.json("/api/generate", &generated, &words).await["prompt_eval_count"], 8);
}

#[tokio::test]
async fn each_vendor_of_openais_api_has_its_ways() {
    let caller = Caller::start().await;
    let words = [("x-fake-words", "2")];
    let path = "/v1/chat/completions";
    let streaming = json!({"stream": true});
    let with_usage = json!({"stream": true, "stream_options": {"include_usage": true}});

    let azure = "/openai/deployments/prod-gpt-4o-mini/chat/completions?api-version=2024-10-21";
    let chunks = data(&caller.text(azure, &chat("", streaming.clone()), &words).await);
    assert_eq!(chunks[0]["choices"], json!([]));
    assert!(chunks[0]["prompt_filter_results"].is_array() && chunks[0].get("usage").is_none());
    assert_eq!(chunks[1]["model"], "gpt-4o-mini");

    let refused = caller.send(path, &chat("mistral-small-latest", with_usage.clone()), &words).await;
    assert_eq!(refused.status(), 422);
    let chunks = data(&caller.text(path, &chat("mistral-small-latest", streaming.clone()), &words).await);
    assert_eq!(chunks.last().map(|chunk| &chunk["usage"]["completion_tokens"]), Some(&json!(2)));

    let text = caller.text(path, &chat("deepseek-chat", json!({})), &words).await;
    assert!(text.starts_with("\n\n\n{"), "{text}");
    let text = caller.text(path, &chat("deepseek-chat", streaming.clone()), &words).await;
    assert!(text.starts_with(": keep-alive\n\n"), "{text}");
    assert_eq!(last(&data(&text), "/usage/prompt_cache_miss_tokens"), 11);

    let openrouter = "/api/v1/chat/completions";
    let text = caller.text(openrouter, &chat("openai/gpt-4o-mini", streaming), &words).await;
    assert!(text.starts_with(": OPENROUTER PROCESSING\n\n"), "{text}");
    // 11 × 150 + 2 × 600 nano-USD.
    assert_eq!(last(&data(&text), "/usage/cost"), 0.000_002_85);
    assert_eq!(caller.last_billed().amount_nanousd, 2_850);

    let options =
        json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let vllm = chat("meta-llama/Llama-3.1-8B-Instruct", options);
    let chunks = data(&caller.text(path, &vllm, &words).await);
    let counts: Vec<_> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counts, [Some(0), Some(1), Some(2), Some(2), Some(2)]);

    let gemini = chat("gemini-2.5-flash", with_usage);
    let chunks = data(&caller.text("/v1beta/openai/chat/completions", &gemini, &words).await);
    assert_eq!(last(&chunks, "/usage/total_tokens"), 13);
}

#[tokio::test]
async fn errors_have_each_providers_shape_and_bill_nothing() {
    let caller = Caller::start().await;
    let failing = [("x-fake-status", "429")];
    for (path, pointer, expected) in [
        ("/v1/responses", "/error/type", "requests"),
        ("/v1/messages", "/error/type", "rate_limit_error"),
        ("/v1/models/gemini-2.5-flash:generateContent", "/error/status", "RESOURCE_EXHAUSTED"),
        ("/model/m/converse", "/message", "The fake provider was told to fail."),
        ("/v2/chat", "/message", "The fake provider was told to fail."),
        ("/api/chat", "/error", "The fake provider was told to fail."),
    ] {
        let response = caller.send(path, &json!({}), &failing).await;
        assert_eq!(response.status(), 429, "{path}");
        let class = response.headers().get("x-amzn-errortype").cloned();
        assert_eq!(class.is_some(), path.starts_with("/model/"), "{path}");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body.pointer(pointer), Some(&json!(expected)), "{path}: {body}");
    }
    assert_eq!(caller.fake.billed().rows, []);
}

#[tokio::test]
async fn faults_break_every_stream_in_its_middle() {
    let caller = Caller::start().await;
    let contents = json!({"contents": [{"parts": [{"text": "ping ping ping"}]}]});
    let converse = json!({"messages": [{"content": [{"text": "ping ping ping"}]}]});
    let streaming = |more: Value| chat("claude-haiku-4-5", more);
    let cases = [
        ("/v1/responses", json!({"model": "gpt-4o-mini", "input": "ping ping ping", "stream": true})),
        ("/v1/completions", json!({"model": "gpt-3.5-turbo-instruct", "prompt": "x", "stream": true})),
        ("/v1/messages", streaming(json!({"max_tokens": 64, "stream": true}))),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", contents.clone()),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", contents),
        ("/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/converse-stream", converse),
        ("/v2/chat", chat("command-r-08-2024", json!({"stream": true}))),
        ("/api/chat", chat("llama3.2", json!({}))),
    ];
    for (path, body) in &cases {
        let response = caller.send(path, body, &[("x-fake-fault", "cut"), ("x-fake-words", "6")]).await;
        assert!(response.bytes().await.is_err(), "{path}");
        let row = caller.last_billed();
        assert_eq!((row.complete, row.tokens.output_tokens), (false, 3), "{path}");
        let whole = caller.send(path, body, &[("x-fake-seed", "s")]).await.bytes().await.expect("bytes");
        let pieces = [("x-fake-seed", "s"), ("x-fake-chunk-bytes", "3")];
        let in_pieces = caller.send(path, body, &pieces).await.bytes().await.expect("bytes");
        assert_eq!(whole, in_pieces, "{path}");
        let buffered = [("x-fake-seed", "s"), ("x-fake-buffered", "1")];
        let buffered = caller.send(path, body, &buffered).await;
        assert_eq!(buffered.content_length(), Some(whole.len() as u64), "{path}");
        let unknown = caller.text(path, body, &[("x-fake-fault", "no-usage")]).await;
        assert!(!unknown.contains("\"output_tokens\":16") && !unknown.contains("TokenCount\": 16"), "{path}");
    }
    assert_eq!(caller.fake.billed().rows.len(), cases.len() * 5);
}
