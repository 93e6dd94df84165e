//! What the fake provider bills by other units than tokens of text, and what it never bills.

use serde_json::{Value, json};

use super::FakeLlm;

struct Caller {
    fake: FakeLlm,
    http: reqwest::Client,
}

impl Caller {
    async fn start() -> Self {
        let fake = FakeLlm::start().await.expect("a free port");
        Self { fake, http: reqwest::Client::builder().no_proxy().build().expect("an HTTP client") }
    }

    async fn answer(&self, path: &str, body: &Value) -> String {
        let request = self.http.post(format!("http://{}{path}", self.fake.addr)).json(body);
        let response = request.header("x-fake-words", "3").send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.expect("text")
    }

    async fn json(&self, path: &str, body: &Value) -> Value {
        serde_json::from_str(&self.answer(path, body).await).expect("JSON")
    }

    async fn form(&self, path: &str, form: String) -> Value {
        let request = self.http.post(format!("http://{}{path}", self.fake.addr)).body(form);
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        let response = request.header("x-fake-words", "3").send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.expect("JSON")
    }

    /// Pieces, tokens in, audio in, tokens out, and the amount of the last row.
    fn last(&self) -> (u64, u64, u64, u64, u64) {
        let row = self.fake.billed().rows.last().cloned().expect("a row");
        assert!(row.complete, "{row:?}");
        let tokens = row.tokens;
        let counts = (tokens.pieces, tokens.input_tokens, tokens.audio_input_tokens, tokens.output_tokens);
        (counts.0, counts.1, counts.2, counts.3, row.amount_nanousd)
    }
}

/// A form with these fields and a file.
fn form(fields: &[(&str, &str)], file: &str) -> String {
    let field = |(name, value): &(&str, &str)| {
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = format!(
        "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{file}\r\n--b--\r\n"
    );
    fields.iter().map(field).collect::<String>() + &file
}

#[tokio::test]
async fn images_are_billed_by_tokens_or_by_the_piece() {
    let caller = Caller::start().await;
    let path = "/v1/images/generations";
    let body = json!({"model": "gpt-image-1", "prompt": "four", "n": 2});
    let by_tokens = caller.json(path, &body).await;
    assert_eq!(by_tokens["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&by_tokens["usage"]["input_tokens"], &by_tokens["usage"]["output_tokens"]),
        (&json!(5), &json!(6))
    );
    assert_eq!(caller.last(), (0, 5, 0, 6, 5 * 5_000 + 6 * 40_000));
    let streamed = json!({"model": "gpt-image-1", "prompt": "four", "stream": true});
    let events = caller.answer(path, &streamed).await;
    assert!(events.contains("event: image_generation.completed") && events.contains("\"output_tokens\":3"));
    assert_eq!(caller.last(), (0, 5, 0, 3, 5 * 5_000 + 3 * 40_000));
    let pieces = caller.json(path, &json!({"model": "dall-e-3", "prompt": "four", "n": 3})).await;
    assert_eq!(pieces.get("usage"), None);
    assert_eq!(caller.last(), (3, 0, 0, 0, 3 * 40_000_000));
    let edit = form(&[("model", "gpt-image-1"), ("prompt", "four")], "picture");
    let edited = caller.form("/v1/images/edits", edit).await;
    assert_eq!(edited["usage"]["input_tokens_details"], json!({"text_tokens": 5, "image_tokens": 10}));
    assert_eq!(caller.last(), (0, 15, 0, 3, 15 * 5_000 + 3 * 40_000));
}

#[tokio::test]
async fn audio_is_billed_by_tokens_seconds_or_characters() {
    let caller = Caller::start().await;
    let path = "/v1/audio/transcriptions";
    let by_second = caller.form(path, form(&[("model", "whisper-1")], &"x".repeat(201))).await;
    assert_eq!(by_second["usage"], json!({"type": "duration", "seconds": 3}));
    assert_eq!(caller.last(), (3, 0, 0, 0, 3 * 100_000));
    let by_tokens = caller.form(path, form(&[("model", "gpt-4o-transcribe")], &"x".repeat(201))).await;
    assert_eq!(by_tokens["usage"]["input_token_details"]["audio_tokens"], 21);
    assert_eq!(caller.last(), (0, 0, 21, 3, 21 * 6_000 + 3 * 10_000));
    let speech = json!({"model": "tts-1", "voice": "alloy", "input": "naïve"});
    assert_eq!(caller.answer("/v1/audio/speech", &speech).await.len(), 6);
    assert_eq!(caller.last(), (5, 0, 0, 0, 5 * 15_000));
}

#[tokio::test]
async fn vectors_and_rankings_are_billed_where_they_tell_it() {
    let caller = Caller::start().await;
    let embed = json!({"model": "embed-v4.0", "texts": ["four", "two"]});
    let embedded = caller.json("/v2/embed", &embed).await;
    assert_eq!(embedded["meta"]["billed_units"]["input_tokens"], 10.0);
    assert_eq!(caller.last(), (0, 10, 0, 0, 10 * 120));
    let documents = vec!["text"; 101];
    let rerank = json!({"model": "rerank-v3.5", "query": "q", "documents": documents});
    assert_eq!(caller.json("/v2/rerank", &rerank).await["meta"]["billed_units"]["search_units"], 2.0);
    assert_eq!(caller.last(), (2, 0, 0, 0, 2 * 2_000_000));
    let ollama = json!({"model": "llama3.2", "input": "four"});
    assert_eq!(caller.json("/api/embed", &ollama).await["prompt_eval_count"], 5);
    let older = caller.json("/api/embeddings", &json!({"model": "llama3.2", "prompt": "four"})).await;
    assert!(older["embedding"].is_array() && older.get("prompt_eval_count").is_none(), "{older}");
    let part = |text: &str| json!({"content": {"parts": [{"text": text}]}});
    let path = "/v1beta/models/gemini-embedding-001";
    let one = caller.json(&format!("{path}:embedContent"), &part("four")).await;
    assert_eq!(one["usageMetadata"]["promptTokenCount"], 5);
    let batch = json!({"requests": [part("four"), part("two")]});
    assert_eq!(
        caller.json(&format!("{path}:batchEmbedContents"), &batch).await["embeddings"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(caller.last(), (0, 10, 0, 0, 10 * 150));
}

#[tokio::test]
async fn a_batch_is_on_no_bill_and_the_older_chat_of_cohere_is() {
    let caller = Caller::start().await;
    let file =
        json!({"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"});
    assert_eq!(caller.json("/v1/batches", &file).await["status"], "validating");
    let requests = json!({"requests": [{"custom_id": "a", "params": {}}]});
    assert_eq!(caller.json("/v1/messages/batches", &requests).await["request_counts"]["processing"], 1);
    assert_eq!(caller.fake.billed().rows, []);
    let chat = json!({"model": "command-r-08-2024", "message": "ping", "stream": true});
    let lines = caller.answer("/v1/chat", &chat).await;
    let last: Value = serde_json::from_str(lines.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["event_type"], "stream-end");
    assert_eq!(last["response"]["meta"]["billed_units"], json!({"input_tokens": 8.0, "output_tokens": 3.0}));
    assert_eq!(caller.last(), (0, 8, 0, 3, 8 * 150 + 3 * 600));
}
