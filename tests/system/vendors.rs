//! Every API and every vendor's ways with it, byte for byte: what the app gets is what the provider
//! sent, however it is cut up, and what is settled is what the provider bills.

use purser_protocol::{Ending, Settlement, UsageQuality};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::Answer;
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{ScriptedStack, Setup};

use crate::billing::{assert_billed, settlements};

/// A provider and calls of it: path and body.
struct Vendor {
    provider: &'static str,
    /// Its `dialect`, where the provider's name doesn't say it.
    dialect: Option<&'static str>,
    calls: Vec<(&'static str, Value)>,
    tells_reasoning: bool,
    /// Further switches of the fake provider that this vendor understands.
    switches: &'static [(&'static str, &'static str)],
}

const CACHE: &[(&str, &str)] = &[
    ("x-fake-cached-tokens", "4"),
    ("x-fake-cache-write-5m-tokens", "2"),
    ("x-fake-cache-write-1h-tokens", "1"),
    ("x-fake-reasoning-tokens", "3"),
];
const REASONING: &[(&str, &str)] = &[("x-fake-cached-tokens", "4"), ("x-fake-reasoning-tokens", "3")];

fn chat(model: &str, more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "How much is it?"}]});
    let fields = body.as_object_mut().unwrap();
    if !model.is_empty() {
        fields.insert("model".to_owned(), json!(model));
    }
    fields.extend(more.as_object().unwrap().clone());
    body
}

/// Plain, streamed, and streamed with usage asked for.
fn chats(path: &'static str, model: &str) -> Vec<(&'static str, Value)> {
    let usage_on = json!({"stream": true, "stream_options": {"include_usage": true}});
    [json!({}), json!({"stream": true}), usage_on].map(|more| (path, chat(model, &more))).to_vec()
}

/// Plain and streamed.
fn both(path: &'static str, body: &Value) -> Vec<(&'static str, Value)> {
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    vec![(path, body.clone()), (path, streamed)]
}

impl Vendor {
    fn request(&self, http: &Client, url: String, body: &Value, seed: &str) -> RequestBuilder {
        let request = http.post(url).json(body).header("x-budget-org", "acme").header("x-fake-seed", seed);
        self.switches.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    async fn start(&self) -> ScriptedStack {
        let setup = Setup::default().provider(self.provider).one_worker();
        let setup = match self.dialect {
            None => setup,
            Some(dialect) => {
                let provider = format!(r#""provider": "{}""#, self.provider);
                setup.edit(&provider, &format!(r#"{provider}, "dialect": "{dialect}""#))
            }
        };
        setup.start_scripted(Script::Allow).await
    }

    /// Makes each call directly and through Envoy, in writes of several sizes. Returns what was settled.
    async fn check(&self) -> Vec<Settlement> {
        let stack = self.start().await;
        let direct = FakeLlm::start().await.unwrap();
        let mut names = Vec::new();
        for chunk_bytes in ["0", "1", "61"] {
            for (path, body) in &self.calls {
                let seed = format!("{chunk_bytes} {path} {body}");
                let send = async |addr| {
                    let request = self.request(&stack.http, format!("http://{addr}{path}"), body, &seed);
                    let request = request.header("x-fake-chunk-bytes", chunk_bytes);
                    Answer::read(request.header("x-fake-chunked", "1").send().await.unwrap()).await
                };
                let expected = send(direct.addr).await.expect(200);
                let answer = send(stack.envoy.egress).await.expect(200);
                assert_eq!(answer.text(), expected.text(), "{seed}");
                assert_eq!(answer.body, expected.body, "{seed}");
                names.push(seed);
            }
        }
        let bill = stack.fake.billed().rows;
        assert_eq!(bill, direct.billed().rows, "the provider bills the same on both ways");
        let settled = settlements(&stack, names.len()).await;
        for ((name, settlement), billed) in names.iter().zip(&settled).zip(&bill) {
            assert_billed(name, settlement, billed, self.tells_reasoning);
        }
        stack.assert_healthy().await;
        settled
    }

    /// Makes each call with a fault: whatever breaks, it is settled, and not as exact.
    async fn check_faults(&self) {
        let stack = self.start().await;
        let mut sent = Vec::new();
        for fault in ["cut", "no-usage", "gzip", "garbage", "reset-before-headers", "no-done"] {
            for (path, body) in &self.calls {
                let url = format!("http://{}{path}", stack.envoy.egress);
                let request = self.request(&stack.http, url, body, fault).header("x-fake-fault", fault);
                // The break may reach the app as an error or as a status; what counts is settled.
                if let Ok(response) = request.send().await {
                    let _cut = response.bytes().await;
                }
                sent.push((fault, path, body));
            }
        }
        let settled = settlements(&stack, sent.len()).await;
        for ((fault, path, body), settlement) in sent.iter().zip(&settled) {
            let what = format!("{fault} {path} {body}: {settlement:?}");
            // A stream without its end may have told its usage before, and a plain answer has no other
            // end. Bedrock tells the counts of a plain answer in headers, too.
            let in_headers = path.ends_with("/invoke") && matches!(*fault, "gzip" | "garbage");
            if *fault == "no-done" || in_headers {
                assert_eq!(settlement.http_status, 200, "{what}");
                continue;
            }
            assert_ne!(settlement.usage_quality, UsageQuality::Exact, "{what}");
            if matches!(*fault, "cut" | "reset-before-headers") {
                assert_eq!(settlement.ending, Ending::UpstreamCut, "{what}");
            }
        }
        stack.assert_healthy().await;
    }
}

fn openai() -> Vendor {
    let usage_on = json!({"include_usage": true});
    let completion = json!({"model": "gpt-3.5-turbo-instruct", "prompt": ["one", "two"], "best_of": 2});
    let mut calls = chats("/v1/chat/completions", "gpt-4o-mini");
    calls.extend(both("/v1/responses", &json!({"model": "gpt-5.4", "input": "How much is it?"})));
    calls.extend(both("/v1/completions", &completion));
    let mut with_usage = completion.clone();
    with_usage["stream"] = json!(true);
    with_usage["stream_options"] = usage_on;
    calls.push(("/v1/completions", with_usage));
    calls.push(("/v1/embeddings", json!({"model": "text-embedding-3-large", "input": ["a", "b"]})));
    Vendor {
        provider: "openai",
        dialect: None,
        calls,
        tells_reasoning: true,
        switches: &[("x-fake-words", "9")],
    }
}

fn anthropic() -> Vendor {
    let body = chat("claude-haiku-4-5", &json!({"max_tokens": 64}));
    let calls = both("/v1/messages?beta=true", &body);
    Vendor { provider: "anthropic", dialect: None, calls, tells_reasoning: true, switches: CACHE }
}

fn vertex() -> Vendor {
    let body = chat("", &json!({"max_tokens": 64, "anthropic_version": "vertex-2023-10-16"}));
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "How much is it?"}]}]});
    let claude = "/v1/projects/p/locations/global/publishers/anthropic/models";
    let gemini = "/v1beta1/projects/p/locations/global/publishers/google/models";
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let path = |folder: &str, call: &str| -> &'static str { format!("{folder}/{call}").leak() };
    let calls = vec![
        (path(claude, "claude-sonnet-4-5@20250929:rawPredict"), body),
        (path(claude, "claude-sonnet-4-5@20250929:streamRawPredict"), streamed),
        (path(gemini, "gemini-2.5-pro:generateContent"), contents.clone()),
        (path(gemini, "gemini-2.5-pro:streamGenerateContent?alt=sse"), contents.clone()),
        (path(gemini, "gemini-2.5-pro:streamGenerateContent"), contents),
    ];
    Vendor { provider: "vertex", dialect: None, calls, tells_reasoning: true, switches: REASONING }
}

fn gemini() -> Vendor {
    let contents = json!({
        "contents": [{"parts": [{"text": "How much is it?"}]}],
        "generation_config": {"max_output_tokens": 64},
    });
    let mut calls = vec![
        ("/v1beta/models/gemini-2.5-flash:generateContent", contents.clone()),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", contents.clone()),
        ("/v1/models/gemini-2.5-flash:streamGenerateContent", contents),
    ];
    calls.extend(chats("/v1beta/openai/chat/completions", "gemini-2.5-flash"));
    Vendor {
        provider: "gemini",
        dialect: None,
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

fn bedrock() -> Vendor {
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "How much is it?"}]}]});
    let claude = chat("", &json!({"max_tokens": 64, "anthropic_version": "bedrock-2023-05-31"}));
    let path = |action: &str| -> &'static str {
        format!("/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/{action}").leak()
    };
    let calls = vec![
        (path("converse"), converse.clone()),
        (path("converse-stream"), converse),
        (path("invoke"), claude.clone()),
        (path("invoke-with-response-stream"), claude),
    ];
    Vendor { provider: "bedrock", dialect: None, calls, tells_reasoning: false, switches: CACHE }
}

fn cohere() -> Vendor {
    let calls = both("/v2/chat", &chat("command-r-08-2024", &json!({})));
    Vendor {
        provider: "cohere",
        dialect: None,
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

fn ollama() -> Vendor {
    let quiet = json!({"stream": false});
    let generate = json!({"model": "llama3.2", "prompt": "How much is it?"});
    let calls = vec![
        ("/api/chat", chat("llama3.2", &json!({}))),
        ("/api/chat", chat("llama3.2", &quiet)),
        ("/api/generate", generate),
    ];
    Vendor {
        provider: "ollama",
        dialect: None,
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

fn azure() -> Vendor {
    let calls = chats("/openai/deployments/our-gpt-4o/chat/completions?api-version=2024-10-21", "");
    let responses = json!({"model": "our-gpt-4o", "input": "How much is it?"});
    let more = both("/openai/responses?api-version=2025-04-01-preview", &responses);
    let calls = calls.into_iter().chain(more).collect();
    Vendor { provider: "azure", dialect: None, calls, tells_reasoning: true, switches: REASONING }
}

fn mistral() -> Vendor {
    let calls = both("/v1/chat/completions", &chat("mistral-large-latest", &json!({})));
    Vendor {
        provider: "mistral",
        dialect: None,
        calls,
        tells_reasoning: true,
        switches: &[("x-fake-words", "11")],
    }
}

/// Tells usage unasked, as Mistral does; asked for it, it tells it elsewhere.
fn deepseek() -> Vendor {
    let mut calls = chats("/v1/chat/completions", "deepseek-chat");
    calls.extend(chats("/chat/completions", "deepseek-chat"));
    Vendor {
        provider: "deepseek",
        dialect: Some("mistral"),
        calls,
        tells_reasoning: true,
        switches: REASONING,
    }
}

fn openrouter() -> Vendor {
    let calls = chats("/api/v1/chat/completions", "openai/gpt-4o-mini");
    Vendor { provider: "openrouter", dialect: None, calls, tells_reasoning: true, switches: REASONING }
}

fn vllm() -> Vendor {
    let mut calls = chats("/v1/chat/completions", "meta-llama/Llama-3.1-8B-Instruct");
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"stream": true, "stream_options": options});
    calls.push(("/v1/chat/completions", chat("meta-llama/Llama-3.1-8B-Instruct", &body)));
    Vendor {
        provider: "vllm",
        dialect: None,
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_openai() {
    openai().check().await;
    openai().check_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_anthropic() {
    anthropic().check().await;
    anthropic().check_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_vertex() {
    vertex().check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_gemini() {
    gemini().check().await;
    gemini().check_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_bedrock() {
    bedrock().check().await;
    bedrock().check_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bedrock_tells_in_headers_alone_is_all_of_it() {
    let vendor = bedrock();
    let stack = vendor.start().await;
    let (path, body) = vendor.calls.iter().find(|(path, _)| path.ends_with("/invoke")).unwrap();
    let url = format!("http://{}{path}", stack.envoy.egress);
    let request = vendor.request(&stack.http, url, body, "headers").header("x-fake-fault", "gzip");
    request.send().await.unwrap().bytes().await.unwrap();
    let settlement = &settlements(&stack, 1).await[0];
    let tokens = stack.fake.billed().rows[0].tokens;
    let usage = settlement.usage;
    assert_eq!(usage.input_tokens, tokens.input_tokens, "{settlement:?}");
    assert_eq!(usage.cached_input_tokens, tokens.cached_tokens, "{settlement:?}");
    // How long a cache lives is not among them.
    let written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens;
    assert_eq!(written, tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens, "{settlement:?}");
    assert_eq!(usage.output_tokens, tokens.output_tokens, "{settlement:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_behind_the_call_is_said_to_tell_no_usage() {
    let vendor = openai();
    let stack = vendor.start().await;
    let body = json!({"model": "gpt-5.4", "input": "How much is it?", "background": true});
    let url = format!("http://{}/v1/responses", stack.envoy.egress);
    let answer = vendor.request(&stack.http, url, &body, "background").send().await.unwrap();
    assert_eq!(Answer::read(answer).await.expect(200).json()["status"], "queued");
    let settlement = &settlements(&stack, 1).await[0];
    assert!(settlement.usage_never_comes, "{settlement:?}");
    assert_ne!(settlement.usage_quality, UsageQuality::Exact, "{settlement:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_cohere_and_ollama() {
    for vendor in [cohere(), ollama()] {
        vendor.check().await;
        vendor.check_faults().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_speak_openais_api() {
    for vendor in [azure(), mistral(), deepseek(), vllm()] {
        vendor.check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_openrouter_with_its_cost() {
    // 12 - 4 input tokens × 150, 4 × 75 and 19 × 600 nano-USD; the fake's prompt is 3 + 4 + 15 / 4.
    for settlement in openrouter().check().await {
        assert_eq!(settlement.reported_cost_nanousd, Some(7 * 150 + 4 * 75 + 19 * 600), "{settlement:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tier_and_the_searches_of_the_answer_are_told() {
    for (vendor, switches, tier) in [
        (openai(), &[("x-fake-service-tier", "flex")][..], "flex"),
        (anthropic(), &[("x-fake-service-tier", "priority"), ("x-fake-web-searches", "3")][..], "priority"),
    ] {
        let calls = vendor.calls.into_iter();
        // Older APIs name no tier.
        let calls = calls.filter(|(path, _)| !path.contains("/completions") || path.contains("/chat/"));
        let calls = calls.filter(|(path, _)| !path.contains("embeddings")).collect();
        for settlement in (Vendor { calls, switches, ..vendor }).check().await {
            assert_eq!(settlement.service_tier.as_deref(), Some(tier), "{settlement:?}");
        }
    }
}
