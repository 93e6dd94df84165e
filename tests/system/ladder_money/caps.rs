//! Every API that knows an output cap is billed to the lowered one, wherever it stands in its requests.

use serde_json::json;
use system_tests::harness::stack::{Setup, Stack};

use super::{change, post, spent, usd};
use crate::ledger;
use crate::vendor_list::{Vendor, bedrock, cohere, gemini, ollama, openai};

/// Makes each call of a vendor with all the money it needs, then with six tenths of what that one held.
async fn caps_are_lowered(vendor: &Vendor) {
    let setup = Setup::default().provider(vendor.provider).one_worker();
    let stack = ledger::start(setup, vendor.prices).await;
    let clamping =
        json!({"org": "acme", "window": "total", "limit_usd": "1", "ladder": {"clamp": {"floor_tokens": 1}}});
    let clamping = stack.backend.create_budget(clamping).await;
    let mut clamped = 0;
    let mut entries = 0;
    for (path, body) in &vendor.calls {
        let what = format!("{} {path} {body}", vendor.provider);
        change(&stack, &clamping, &json!({"limit_usd": "1"})).await;
        let headers = [("x-budget-org", "acme"), ("x-fake-words", "5")];
        post(&stack, path, &headers, body).await.expect(200);
        entries += 1;
        let held = ledger::entries(&stack, entries).await.pop().map(|entry| entry.held_nanousd);
        let room = held.unwrap() * 6 / 10;
        let limit = spent(&stack, &clamping).await + room;
        change(&stack, &clamping, &json!({"limit_usd": usd(limit)})).await;
        let headers = [("x-budget-org", "acme"), ("x-fake-words", "5000")];
        let answer = post(&stack, path, &headers, body).await;
        if path.contains("embeddings") {
            answer.expect(429);
            continue;
        }
        let answer = answer.expect(200);
        let cap: u64 = answer.header("x-purser-clamped-to").parse().unwrap();
        entries += 1;
        assert_clamped(&stack, &what, entries, cap).await;
        assert!(spent(&stack, &clamping).await <= limit, "{what}");
        clamped += 1;
    }
    assert!(clamped > 1, "{}", vendor.provider);
    stack.assert_healthy().await;
}

/// The latest of so many calls: every answer of it went on to the cap, and is billed so far.
async fn assert_clamped(stack: &Stack, what: &str, entries: usize, cap: u64) {
    let entry = ledger::entries(stack, entries).await.pop().unwrap();
    let billed = stack.fake.billed().rows.pop().unwrap();
    ledger::assert_billed(what, &entry, &billed, false);
    let output = billed.tokens.output_tokens;
    assert!(output >= cap && output.is_multiple_of(cap), "{what}: {output} tokens at a cap of {cap}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_responses_and_completions_end_at_the_lowered_cap() {
    caps_are_lowered(&openai()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn geminis_own_api_and_its_openai_one_end_at_the_lowered_cap() {
    caps_are_lowered(&gemini()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bedrocks_converse_and_invoke_end_at_the_lowered_cap() {
    // InvokeModel of some model says nothing of where a cap would stand; these calls have one.
    caps_are_lowered(&bedrock()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coheres_and_ollamas_answers_end_at_the_lowered_cap() {
    caps_are_lowered(&cohere()).await;
    caps_are_lowered(&ollama()).await;
}
