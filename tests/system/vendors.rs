//! Every API and every vendor's ways with it, byte for byte: what the app gets is what the provider
//! sent, however it is cut up, and the ledger is what the provider bills, call by call.

use std::net::SocketAddr;

use purser_protocol::{Ending, Settlement, UsageQuality};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::client::Answer;
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{ScriptedStack, Setup};

use crate::billing::{assert_billed, settlements};
use crate::ledger::{self, Entry};
use crate::vendor_list::{
    Vendor, anthropic, azure, bedrock, cohere, deepseek, gemini, mistral, ollama, openai, openrouter, vertex,
    vllm,
};

impl Vendor {
    fn request(&self, http: &Client, url: String, body: &Value, seed: &str) -> RequestBuilder {
        let request = http.post(url).json(body).header("x-budget-org", "acme").header("x-fake-seed", seed);
        self.switches.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    fn setup(&self) -> Setup {
        let setup = Setup::default().provider(self.provider);
        match self.dialect {
            None => setup,
            Some(dialect) => {
                let provider = format!(r#""provider": "{}""#, self.provider);
                setup.edit(&provider, &format!(r#"{provider}, "dialect": "{dialect}""#))
            }
        }
    }

    /// With a backend that allows everything.
    async fn start(&self) -> ScriptedStack {
        // One worker: calls that follow each other are settled in that order.
        self.setup().one_worker().start_scripted(Script::Allow).await
    }

    /// Makes each call directly and through Envoy, in writes of several sizes, and compares what came and
    /// what is billed. Returns the calls and their bill.
    async fn both_ways(&self, egress: SocketAddr, http: &Client, fake: &FakeLlm) -> Vec<(String, BilledRow)> {
        let direct = FakeLlm::start().await.unwrap();
        let mut names = Vec::new();
        for chunk_bytes in ["0", "1", "61"] {
            for (path, body) in &self.calls {
                let seed = format!("{chunk_bytes} {path} {body}");
                let send = async |addr| {
                    let request = self.request(http, format!("http://{addr}{path}"), body, &seed);
                    let request = request.header("x-fake-chunk-bytes", chunk_bytes);
                    Answer::read(request.header("x-fake-chunked", "1").send().await.unwrap()).await
                };
                let expected = send(direct.addr).await.expect(200);
                let answer = send(egress).await.expect(200);
                assert_eq!(answer.text(), expected.text(), "{seed}");
                assert_eq!(answer.body, expected.body, "{seed}");
                names.push(seed);
            }
        }
        let bill = fake.billed().rows;
        assert_eq!(bill, direct.billed().rows, "the provider bills the same on both ways");
        assert_eq!(bill.len(), names.len());
        names.into_iter().zip(bill).collect()
    }

    /// Makes the calls, and compares the ledger with the bill. Returns the ledger.
    async fn check(&self) -> Vec<Entry> {
        let stack = ledger::start(self.setup(), self.prices).await;
        let billed = self.both_ways(stack.envoy.egress, &stack.http, &stack.fake).await;
        let entries = ledger::entries(&stack, billed.len()).await;
        for ((name, billed), entry) in billed.iter().zip(&entries) {
            ledger::assert_billed(name, entry, billed, self.tells_reasoning);
        }
        stack.assert_healthy().await;
        entries
    }

    /// Makes the calls, and compares what the filter settles with the bill. Returns what was settled.
    async fn check_settled(&self) -> Vec<Settlement> {
        let stack = self.start().await;
        let billed = self.both_ways(stack.envoy.egress, &stack.http, &stack.fake).await;
        let settled = settlements(&stack, billed.len()).await;
        for ((name, billed), settlement) in billed.iter().zip(&settled) {
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
    // 11 - 4 input tokens × 150, 4 × 75 and 19 × 600 nano-USD; the fake's prompt is 3 + 4 + 15 / 4.
    for entry in openrouter().check().await {
        assert_eq!(entry.cost_nanousd, 7 * 150 + 4 * 75 + 19 * 600, "{entry:?}");
        assert_eq!(entry.price_match, "reported", "{entry:?}");
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
        for settlement in (Vendor { calls, switches, ..vendor }).check_settled().await {
            assert_eq!(settlement.service_tier.as_deref(), Some(tier), "{settlement:?}");
        }
    }
}
