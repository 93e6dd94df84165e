//! The fake provider over a real socket.

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::FakeLlm;

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

    fn post(&self, body: &Value) -> RequestBuilder {
        let url = format!("http://{}/v1/chat/completions", self.fake.addr);
        self.http.post(url).json(body)
    }

    async fn send(&self, body: &Value, headers: &[(&str, &str)]) -> Response {
        let mut request = self.post(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    /// The last row of the bill once `count` rows are there.
    async fn billed_row(&self, count: usize) -> Value {
        for _ in 0..1000 {
            let bill = self.fake.billed();
            if bill.rows.len() >= count {
                return serde_json::to_value(&bill.rows[count - 1]).expect("JSON");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("no {count} rows within 5 s: {:?}", self.fake.billed());
    }
}

/// 8 prompt tokens by the rule: 3 + 4 + 1.
fn request() -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "ping"}]})
}

fn with(mut body: Value, more: Value) -> Value {
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    body
}

/// The `data:` lines of a stream, without the prefix.
fn events(text: &str) -> Vec<String> {
    assert!(text.ends_with("\n\n"), "{text:?}");
    text.split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").expect("data").to_owned())
        .collect()
}

#[tokio::test]
async fn a_plain_answer_says_its_usage_and_is_billed_for_it() {
    let caller = Caller::start().await;
    let headers = [
        ("x-fake-words", "5"),
        ("x-fake-cached-tokens", "3"),
        ("x-fake-reasoning-tokens", "2"),
        ("x-fake-model", "gpt-4o-mini-2024-07-18"),
    ];
    let body = with(request(), json!({"n": 2}));
    let answer: Value = caller.send(&body, &headers).await.json().await.expect("JSON");

    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt-4o-mini-2024-07-18");
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(2));
    assert_eq!(answer["choices"][1]["message"]["content"], "Money is counted in whole");
    assert_eq!(answer["usage"]["prompt_tokens"], 8);
    assert_eq!(answer["usage"]["completion_tokens"], 14);
    assert_eq!(answer["usage"]["total_tokens"], 22);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 4);

    // 5 × 150 + 3 × 75 + 14 × 600 nano-USD.
    let expected = json!({
        "response_id": answer["id"], "api": "openai_chat", "model": "gpt-4o-mini-2024-07-18", "stream": false,
        "complete": true, "input_tokens": 5, "cached_tokens": 3, "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0, "audio_input_tokens": 0, "output_tokens": 14, "reasoning_tokens": 4,
        "pieces": 0, "web_searches": 0, "amount_nanousd": 9_375,
    });
    assert_eq!(caller.billed_row(1).await, expected);
    assert_eq!(caller.fake.billed().total_nanousd, 9_375);
}

#[tokio::test]
async fn a_stream_brings_role_words_finish_and_done() {
    let caller = Caller::start().await;
    let body = with(request(), json!({"stream": true}));
    let response = caller.send(&body, &[("x-fake-words", "3")]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let events = events(&response.text().await.expect("text"));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Money is counted");
    assert_eq!(chunks.len(), 5);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let row = caller.billed_row(1).await;
    assert_eq!(row["output_tokens"], 3);
    assert_eq!(row["complete"], true);
}

#[tokio::test]
async fn the_usage_event_comes_only_when_asked_for() {
    let caller = Caller::start().await;
    let body = with(request(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = caller.send(&body, &[("x-fake-words", "2"), ("x-fake-chunk-bytes", "7")]).await;
    let events = events(&response.text().await.expect("text"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
    let (usage, others) = chunks.split_last().expect("chunks");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 2);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn a_buffered_stream_has_the_same_bytes_and_a_length() {
    let caller = Caller::start().await;
    let body = with(request(), json!({"stream": true}));
    let streamed = caller.send(&body, &[("x-fake-seed", "s")]).await;
    assert_eq!(streamed.content_length(), None);
    let buffered = caller.send(&body, &[("x-fake-seed", "s"), ("x-fake-buffered", "1")]).await;
    let (length, streamed) = (buffered.content_length(), streamed.bytes().await.expect("bytes"));
    assert_eq!(length, Some(streamed.len() as u64));
    assert_eq!(buffered.bytes().await.expect("bytes"), streamed);
    assert_eq!(caller.fake.billed().rows.len(), 2);
}

#[tokio::test]
async fn a_cap_cuts_reasoning_first_then_words() {
    let caller = Caller::start().await;
    let headers = [("x-fake-words", "5"), ("x-fake-reasoning-tokens", "4")];
    for (cap, reasoning, completion, finish_reason) in
        [(3, 3, 3, "length"), (6, 4, 6, "length"), (9, 4, 9, "stop"), (20, 4, 9, "stop")]
    {
        let body = with(request(), json!({"max_completion_tokens": cap}));
        let answer: Value = caller.send(&body, &headers).await.json().await.expect("JSON");
        let usage = &answer["usage"];
        assert_eq!(usage["completion_tokens"], completion, "cap {cap}");
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], reasoning, "cap {cap}");
        assert_eq!(answer["choices"][0]["finish_reason"], finish_reason, "cap {cap}");
    }
}

#[tokio::test]
async fn errors_have_the_providers_shape_and_bill_nothing() {
    let caller = Caller::start().await;
    let unknown = with(request(), json!({"model": "gpt-9"}));
    for (body, headers, status, code) in [
        (unknown, vec![], 404, json!("model_not_found")),
        (request(), vec![("x-fake-status", "503")], 503, Value::Null),
        (request(), vec![("x-fake-words", "lots")], 400, Value::Null),
        (json!({"model": "gpt-4o"}), vec![], 400, Value::Null),
        (request(), vec![("x-fake-fault", "error-in-stream")], 500, Value::Null),
    ] {
        let response = caller.send(&body, &headers).await;
        assert_eq!(response.status().as_u16(), status, "{body} {headers:?}");
        let answer: Value = response.json().await.expect("JSON");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    assert_eq!(caller.fake.billed().rows, []);
    assert_eq!(caller.fake.received().attempts, 5);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes() {
    let caller = Caller::start().await;
    let other = Caller::start().await;
    for stream in [false, true] {
        let body = with(request(), json!({"stream": stream}));
        let seed = [("x-fake-seed", "s")];
        let first = caller.send(&body, &seed).await.bytes().await.expect("bytes");
        let second = other.send(&body, &seed).await.bytes().await.expect("bytes");
        assert_eq!(first, second);
        let third = other.send(&body, &[]).await.bytes().await.expect("bytes");
        assert_ne!(first, third);
    }
}

#[tokio::test]
async fn a_stream_whose_caller_leaves_bills_what_was_produced() {
    let caller = Caller::start().await;
    let body = with(request(), json!({"stream": true}));
    let mut response = caller.send(&body, &[("x-fake-gate", "never")]).await;
    caller.fake.state.gates.wait_for_arrivals("never", 1).await;
    let first = response.chunk().await.expect("a chunk").expect("not the end");
    assert!(first.starts_with(b"data: {"));
    drop(response);
    let row = caller.billed_row(1).await;
    assert_eq!(row["complete"], false);
    // 8 × 150 + 1 × 600 nano-USD.
    assert_eq!(row["amount_nanousd"], 1_800);
}

#[tokio::test]
async fn a_gate_holds_the_rest_back_until_it_is_opened() {
    let caller = Caller::start().await;
    let body = with(request(), json!({"stream": true}));
    let response = caller.send(&body, &[("x-fake-gate", "g")]).await;
    caller.fake.state.gates.wait_for_arrivals("g", 1).await;
    assert_eq!(caller.fake.billed().rows, []);
    let gate = format!("http://{}/gate/g", caller.fake.addr);
    let opened = caller.http.post(gate).send().await.expect("an answer");
    assert_eq!(opened.status(), StatusCode::NO_CONTENT);
    assert!(response.text().await.expect("text").ends_with("data: [DONE]\n\n"));
    assert_eq!(caller.billed_row(1).await["output_tokens"], 16);
}

#[tokio::test]
async fn faults_break_the_answer_and_the_bill_says_what_was_made() {
    let caller = Caller::start().await;
    let streaming = with(request(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let full = 8 * 150 + 16 * 600;

    let reset = caller.post(&request()).header("x-fake-fault", "reset-before-headers").send().await;
    assert!(reset.is_err());
    assert_eq!(caller.fake.billed().rows, []);

    let mut billed = 0;
    for (fault, body, whole, amount) in [
        ("cut", request(), false, full),
        ("cut", streaming.clone(), false, 8 * 150 + 8 * 600),
        ("error-in-stream", streaming.clone(), true, 8 * 150 + 8 * 600),
        ("no-usage", request(), true, full),
        ("no-usage", streaming.clone(), true, full),
        ("no-done", streaming.clone(), true, full),
        ("garbage", request(), true, full),
        ("gzip", request(), true, full),
        ("gzip", streaming, true, full),
    ] {
        let response = caller.send(&body, &[("x-fake-fault", fault)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        let encoding = response.headers().get("content-encoding").cloned();
        assert_eq!(encoding.is_some(), fault == "gzip");
        let answer = response.bytes().await;
        assert_eq!(answer.is_ok(), whole, "{fault}");
        if let Ok(answer) = answer {
            let usage = answer.windows(15).any(|window| window == b"\"prompt_tokens\"");
            assert_eq!(usage, fault == "no-done", "{fault}");
        }
        billed += 1;
        assert_eq!(caller.billed_row(billed).await["amount_nanousd"], amount, "{fault}");
    }
}

#[tokio::test]
async fn the_log_shows_headers_and_bodies() {
    let caller = Caller::start().await;
    caller.send(&request(), &[("x-tag", "seen")]).await;
    let models = format!("http://{}/v1/models", caller.fake.addr);
    let models: Value = caller.http.get(models).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(models["data"][0]["id"], "gpt-4o-mini");
    let log = format!("http://{}/requests", caller.fake.addr);
    let log: Value = caller.http.get(log).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(log["attempts"], 2);
    assert_eq!(log["rows"][0]["path"], "/v1/chat/completions");
    assert_eq!(log["rows"][0]["body"], request().to_string());
    let headers = log["rows"][0]["headers"].as_array().expect("headers");
    assert!(headers.contains(&json!(["x-tag", "seen"])));
    assert_eq!(log["rows"][1]["method"], "GET");
}
