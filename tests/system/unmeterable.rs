//! Calls that tell no usage, or none that can be believed: charged at what was held or seen, said so in the
//! ledger, and counted; never a trap, never a hang, never free.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::{Answer, App, ping, with};
use system_tests::harness::raw;
use system_tests::harness::sdk::{assert_same, run};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::within;
use tokio::net::TcpListener;

use crate::ledger::{Entry, entries, start};

const EMBEDDINGS: &str = "set --provider ollama --model llama3.2 --rate input=0.01 --rate output=0.02";

/// Makes calls with an SDK on both ways. Returns what is in the ledger of them.
async fn by_sdk(driver: &str, provider: &str, prices: &str, calls: &[&str]) -> (Stack, Vec<Entry>) {
    let stack = start(Setup::default().provider(provider), prices).await;
    let direct = FakeLlm::start().await.unwrap();
    let expected = run(driver, direct.addr, "acme", calls).await;
    let seen = run(driver, stack.envoy.egress, "acme", calls).await;
    assert_same(&expected, &seen, calls);
    let entries = entries(&stack, calls.len()).await;
    (stack, entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_done_later_is_charged_in_full_at_once() {
    let per_call = [
        // What a batch asks for is in a file: no price of a model fits it.
        ("openai_calls", "openai", "batch", "openai_batches", "ceiling"),
        ("openai_calls", "openai", "background", "openai_responses", "partial"),
        ("anthropic_calls", "anthropic", "batch", "anthropic_batches", "partial"),
    ];
    for (driver, provider, call, api, flag) in per_call {
        let (stack, entries) = by_sdk(driver, provider, "", &[call]).await;
        let entry = &entries[0];
        assert_eq!(entry.api, api, "{entry:?}");
        assert_eq!(entry.story(), ("estimated", "none", "complete", 200), "{entry:?}");
        assert!(entry.held_nanousd > 0 && entry.cost_nanousd == entry.held_nanousd, "{entry:?}");
        assert_eq!(entry.price_flag, flag, "{entry:?}");
        if provider == "anthropic" {
            // Three requests of up to 64 tokens at 15 USD a million, and what they send.
            assert!(entry.cost_nanousd > 3 * 64 * 15_000, "{entry:?}");
        }
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_without_usage_are_charged_what_was_held() {
    for (driver, provider, call, api) in [
        ("google_calls", "gemini", "embed_without_usage", "gemini_embed"),
        ("ollama_calls", "ollama", "older_embed", "ollama_embed"),
    ] {
        let prices = if provider == "ollama" { EMBEDDINGS } else { "" };
        let (stack, entries) = by_sdk(driver, provider, prices, &[call]).await;
        let entry = &entries[0];
        assert_eq!((entry.api.as_str(), entry.output_tokens), (api, 0), "{entry:?}");
        assert_eq!(entry.story(), ("estimated", "at_least", "complete", 200), "{entry:?}");
        assert_eq!(entry.cost_nanousd, entry.held_nanousd, "{entry:?}");
        let billed = stack.fake.billed().total_nanousd;
        assert!(entry.cost_nanousd.unsigned_abs() >= billed && billed > 0, "{entry:?} {billed}");
        assert_eq!(counter(&stack, "purser_unread_answers").await, 1);
        stack.assert_healthy().await;
    }
}

async fn counter(stack: &Stack, name: &str) -> u64 {
    let stats = stack.envoy.stats(name).await;
    assert!(!stats.is_empty(), "{name}");
    stats.values().sum()
}

/// An answer with this usage as it stands, plain and as the last event of a stream.
fn with_usage(usage: &str, stream: bool) -> String {
    let head = r#""id":"c1","model":"gpt-4o-mini""#;
    if stream {
        format!(
            "data: {{{head},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"four\"}}}}]}}\n\n\
             data: {{{head},\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n"
        )
    } else {
        format!(r#"{{{head},"choices":[{{"message":{{"content":"four"}}}}],"usage":{usage}}}"#)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usage_that_is_no_count_is_not_believed() {
    let usage = |count: &str| format!(r#"{{"prompt_tokens":{count},"completion_tokens":{count}}}"#);
    let odd =
        ["NaN", "-5", "1.5", "1e3", "\"7\"", "null", "[]", "9223372036854775808", "18446744073709551616"];
    let cases: Vec<String> = odd.iter().map(|count| usage(count)).chain(["7".into(), "[]".into()]).collect();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().fallback(as_told)).into_future());
    let stack = start(Setup::default().upstream(upstream), "").await;
    let mut asked = Vec::new();
    for usage in cases {
        for stream in [false, true] {
            let more = json!({"user": usage, "stream": stream, "stream_options": {"include_usage": true}});
            let seen = stack.chat(&App::of("acme"), &with(ping(), &more)).await.expect(200);
            assert_eq!(seen.text(), with_usage(&usage, stream));
            asked.push((usage.clone(), stream));
        }
    }
    for ((usage, stream), entry) in asked.iter().zip(entries(&stack, asked.len()).await) {
        let what = format!("{usage} {stream} {entry:?}");
        assert_eq!(entry.story(), ("estimated", "at_least", "complete", 200), "{what}");
        assert!(entry.cost_nanousd >= entry.held_nanousd && entry.held_nanousd > 0, "{what}");
    }
    stack.assert_healthy().await;
}

/// Answers with the usage that stands in the request's `user`.
async fn as_told(body: Bytes) -> impl IntoResponse {
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let stream = asked["stream"] == true;
    let kind = if stream { "text/event-stream" } else { "application/json" };
    ([(CONTENT_TYPE, kind)], with_usage(asked["user"].as_str().unwrap_or_default(), stream))
}

/// The entry of a call that gets this answer, which must arrive as it is.
async fn answered(answer: &str, stream: bool) -> Entry {
    let kind = if stream { "text/event-stream" } else { "application/json" };
    let bytes = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{answer}");
    let upstream = raw::answer_and_close(bytes.into_bytes()).await;
    let stack = start(Setup::default().upstream(upstream), "").await;
    let usage_on = json!({"stream": true, "stream_options": {"include_usage": true}});
    let body = if stream { with(ping(), &usage_on) } else { ping() };
    let seen = stack.chat(&App::of("acme"), &body).await.expect(200);
    assert!(seen.text() == answer, "{} of {} bytes", seen.body.len(), answer.len());
    let entry = entries(&stack, 1).await.remove(0);
    stack.assert_healthy().await;
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_passes_and_is_charged() {
    // Beyond what is read of an event; no line end in any of it.
    let endless = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}", "x".repeat(6 << 20));
    let entry = answered(&endless, true).await;
    assert_eq!(entry.usage_quality, "none", "{entry:?}");
    assert!(entry.cost_nanousd >= entry.held_nanousd, "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speed_and_a_place_with_prices_of_their_own_are_charged() {
    let usage = r#"{"input_tokens":9,"output_tokens":3,"service_tier":"standard","speed":"fast","inference_geo":"us"}"#;
    let answer = format!(
        r#"{{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5","content":[{{"type":"text","text":"Hi"}}],"usage":{usage}}}"#
    );
    let bytes = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let upstream = raw::answer_and_close(bytes.into_bytes()).await;
    let stack = start(Setup::default().provider("anthropic").upstream(upstream), "").await;
    let body = json!({"model": "claude-opus-5", "max_tokens": 16, "messages": [{"role": "user", "content": "ping"}]});
    let request = stack.http.post(format!("http://{}/v1/messages", stack.envoy.egress)).json(&body);
    let seen = request.header("x-budget-org", "acme").send().await.unwrap();
    assert_eq!(Answer::read(seen).await.expect(200).text(), answer);
    let entry = &entries(&stack, 1).await[0];
    assert_eq!(entry.story(), ("settled", "exact", "complete", 200), "{entry:?}");
    assert_eq!(
        (entry.service_tier.as_deref(), entry.price_flag.as_str()),
        (Some("fast+us"), ""),
        "{entry:?}"
    );
    // Twice and 1.1 times 9 × 5,000 and 3 × 25,000 nano-USD.
    assert_eq!(entry.cost_nanousd, 264_000, "{entry:?}");
    stack.assert_healthy().await;
}

/// Posts JSON to a path as a client that closes its connection afterwards.
async fn post(stack: &Stack, path: &str) -> StatusCode {
    let request =
        stack.http.post(format!("http://{}{path}", stack.envoy.egress)).json(&json!({"model": "m"}));
    request.header("x-budget-org", "acme").send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_no_call_is_refused_or_passes_and_is_counted_by_its_kind() {
    let kinds = [
        ("/v1/realtime/sessions", "realtime"),
        ("/v1/videos", "videos"),
        ("/v1/threads/t/runs", "assistants"),
        ("/v1/anything", "other"),
    ];
    for (policy, outcome) in [("deny", "purser_refused"), ("allow", "purser_unmetered")] {
        let deny = r#""unknown_api": "deny""#;
        let setup = Setup::default().edit(deny, &deny.replace("deny", policy));
        let stack = start(setup, "").await;
        for (path, _) in kinds {
            let status = post(&stack, path).await;
            // The provider knows none of them.
            assert_eq!(status, if policy == "deny" { 403 } else { 404 }, "{path}");
        }
        for (path, kind) in kinds {
            let name = format!("purser_unknown_api;path={kind};");
            assert_eq!(counter(&stack, &name).await, 1, "{path}");
        }
        assert_eq!(counter(&stack, &format!("{outcome};reason=unknown_api;")).await, 4);
        assert_eq!(stack.fake.received().attempts, if policy == "deny" { 0 } else { 4 });
        assert_eq!(stack.database.ledger("acme").await, []);
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_refused_in_the_providers_shape_and_counted() {
    for (provider, path, marker) in [
        ("openai", "/v1/realtime?model=gpt-realtime", r#""code":"upgrade_refused""#),
        ("openai", "/v1/responses", r#""code":"upgrade_refused""#),
        (
            "gemini",
            "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
            r#""status":"#,
        ),
    ] {
        // As shipped, Envoy refuses upgrades by itself; where it doesn't, the filter does.
        let upgrades = "stat_prefix: egress\n          upgrade_configs: [{upgrade_type: websocket}]";
        let setup = Setup::default().provider(provider).edit("stat_prefix: egress", upgrades);
        let stack = start(setup, "").await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: llm.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-budget-org: acme\r\n\r\n"
        );
        let answer = raw::http1(stack.envoy.egress, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        assert!(answer.contains(marker), "{path}: {answer}");
        assert_eq!(counter(&stack, "purser_refused;reason=upgrade;").await, 1, "{path}");
        assert_eq!(stack.fake.received().attempts, 0, "{path}");
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_maximum_is_refused_in_the_shape_of_each_provider() {
    let body = |model: &str| format!(r#"{{"model":"{model}","x":"{}"}}"#, "x".repeat(17 << 20));
    for (provider, path, marker) in [
        ("anthropic", "/v1/messages", r#""type":"request_too_large""#),
        ("gemini", "/v1beta/models/gemini-2.5-pro:generateContent", r#""status":"#),
        ("cohere", "/v2/chat", r#"{"message":"#),
        ("ollama", "/api/chat", r#"{"error":"#),
    ] {
        let stack = start(Setup::default().provider(provider), "").await;
        let text = body("m");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: llm.example\r\nconnection: close\r\nx-budget-org: acme\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
            text.len()
        );
        let answer = raw::http1(stack.envoy.egress, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer:.400}");
        assert!(answer.contains("content-type: application/json"), "{path}: {answer:.400}");
        assert!(answer.contains(marker), "{path}: {answer:.600}");
        assert_eq!(stack.fake.received().attempts, 0, "{path}");
        assert_eq!(counter(&stack, "purser_refused;reason=too_large;").await, 1, "{path}");
        assert_eq!(counter(&stack, "purser_refused;reason=unreadable;").await, 0, "{path}");
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_that_breaks_off_and_a_transcript_without_usage_are_charged_what_was_held() {
    let prices =
        "set --provider openai --model tts-1 --rate input=1 --rate output=0 --unit input_characters=0.000015
        set --provider openai --model whisper-1 --rate input=1 --rate output=1 --unit audio_seconds=0.0001";
    let stack = start(Setup::default(), prices).await;
    let speech = json!({"model": "tts-1", "voice": "alloy", "input": "one two three"});
    let url = |path: &str| format!("http://{}{path}", stack.envoy.egress);
    let http = Client::builder().no_proxy().build().unwrap();
    let cut = http.post(url("/v1/audio/speech")).header("x-budget-org", "acme").json(&speech);
    let cut = within("the answer", cut.header("x-fake-fault", "cut").send()).await.unwrap();
    assert!(within("its end", cut.bytes()).await.is_err());
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\n\
        Content-Disposition: form-data; name=\"response_format\"\r\n\r\ntext\r\n--b\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\nxxxxxxxx\r\n--b--\r\n";
    let transcript = http.post(url("/v1/audio/transcriptions")).header("x-budget-org", "acme");
    let transcript = transcript.header("content-type", "multipart/form-data; boundary=b").body(form);
    assert_eq!(transcript.send().await.unwrap().status(), 200);
    let entries = entries(&stack, 2).await;
    for (entry, ending) in entries.iter().zip(["upstream_cut", "complete"]) {
        assert_eq!(entry.story(), ("estimated", "at_least", ending, 200), "{entry:?}");
        assert!(entry.held_nanousd > 0 && entry.cost_nanousd >= entry.held_nanousd, "{entry:?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_budget_refuses_tools_that_the_provider_runs_and_takes_those_of_the_app() {
    let stack = Stack::start().await;
    let strict = json!({"org": "acme", "window": "month", "limit_usd": "10.00", "strict": true});
    stack.backend.create_budget(strict).await;
    for (tool, status) in [
        (json!({"type": "function", "name": "say", "parameters": {"type": "object"}}), 200),
        (json!({"type": "web_search"}), 403),
        (json!({"type": "mcp", "server_label": "x", "server_url": "https://x"}), 403),
    ] {
        let body = json!({
            "model": "gpt-4o-mini", "input": "How much is it?", "max_output_tokens": 16, "tools": [tool],
        });
        let request = stack.http.post(format!("http://{}/v1/responses", stack.envoy.egress)).json(&body);
        let answer = request.header("x-budget-org", "acme").send().await.unwrap();
        let answer = Answer::read(answer).await.expect(status);
        if status == 403 {
            assert_eq!(answer.json()["error"]["code"], "not_boundable", "{tool}: {}", answer.text());
        }
    }
    let entry = &entries(&stack, 1).await[0];
    assert_eq!(entry.cost_nanousd.unsigned_abs(), stack.fake.billed().total_nanousd, "{entry:?}");
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}
