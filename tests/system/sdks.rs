//! OpenAI's SDK through Envoy: the app gets the objects it gets without, and the ledger is the bill.

use std::collections::BTreeMap;

use serde_json::Value;
use system_tests::fake_llm::FakeLlm;
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::database::LedgerRow;
use system_tests::harness::sdk::{assert_same, run};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::wait_until;

use crate::failures::story;

const DRIVER: &str = "openai_calls";

/// Chat calls; one of them is refused.
const CHAT: [&str; 14] = [
    "plain",
    "two",
    "tools",
    "stream",
    "stream_usage",
    "stream_two",
    "stream_tools",
    "stream_capped",
    "stream_error",
    "stream_no_done",
    "refused",
    "helper",
    "raw",
    "async",
];

const RESPONSES: [&str; 6] = [
    "responses",
    "responses_stream",
    "responses_tools",
    "responses_capped",
    "responses_failed",
    "responses_helper",
];

#[tokio::test(flavor = "multi_thread")]
async fn chat_is_the_same_with_and_without_the_filter() {
    let stack = Setup::default().start().await;
    same_and_billed(stack, &CHAT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_are_the_same_with_and_without_the_filter() {
    let stack = Setup::default().start().await;
    same_and_billed(stack, &RESPONSES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_models_is_the_same_and_free() {
    let stack = Stack::start().await;
    let direct = FakeLlm::start().await.unwrap();
    let expected = run(DRIVER, direct.addr, "acme", &["models"]).await;
    let seen = run(DRIVER, stack.envoy.egress, "acme", &["models"]).await;
    assert_same(&expected, &seen, &["models"]);
    assert_eq!(stack.database.ledger("acme").await, []);
    stack.assert_healthy().await;
}

/// Makes the calls on both ways; compares what was seen, then the ledger with the bill.
async fn same_and_billed(stack: Stack, calls: &[&str]) {
    stack.backend.org_budget("acme", "10.00").await;
    let direct = FakeLlm::start().await.unwrap();
    let expected = run(DRIVER, direct.addr, "acme", calls).await;
    let seen = run(DRIVER, stack.envoy.egress, "acme", calls).await;
    assert_same(&expected, &seen, calls);
    assert_eq!(stack.fake.received().attempts, calls.len() as u64, "one request for each call");
    let ledger = stack.database.settled("acme", calls.len()).await;
    assert_billed(&stack, &ledger, &direct).await;
    stack.assert_healthy().await;
}

async fn assert_billed(stack: &Stack, ledger: &[LedgerRow], direct: &FakeLlm) {
    let bill = stack.fake.billed().rows;
    assert_eq!(bill, direct.billed().rows, "the provider bills the same on both ways");
    let by_id: BTreeMap<&str, &LedgerRow> =
        ledger.iter().filter_map(|row| Some((row.response_id.as_deref()?, row))).collect();
    for billed in &bill {
        let Some(row) = by_id.get(billed.response_id.as_str()) else {
            panic!("{billed:?} is not in {ledger:?}");
        };
        if billed.complete {
            assert!(same(row, billed), "{row:?} {billed:?}");
            assert_eq!(story(row), ("settled", "held", "exact", "complete", 200), "{row:?}");
        } else {
            assert!(row.cost_nanousd.unsigned_abs() >= billed.amount_nanousd, "{row:?} {billed:?}");
            assert_ne!(row.usage_quality, "exact", "{row:?}");
        }
    }
    let refused = ledger.iter().filter(|row| row.http_status >= 400);
    let costs: Vec<i64> = refused.map(|row| row.cost_nanousd).collect();
    assert!(costs.iter().all(|cost| *cost == 0), "{costs:?}");
    assert_eq!(bill.len() + costs.len(), ledger.len(), "every call is billed or refused");
}

/// Whether a ledger row is a bill's row, class by class and to the nano-dollar.
fn same(row: &LedgerRow, billed: &BilledRow) -> bool {
    let recorded = [
        row.cost_nanousd,
        row.input_tokens,
        row.cached_input_tokens,
        row.cache_write_5m_tokens,
        row.cache_write_1h_tokens,
        row.output_tokens + row.reasoning_tokens,
        row.reasoning_tokens,
    ];
    let tokens = billed.tokens;
    let billed = [
        billed.amount_nanousd,
        tokens.input_tokens,
        tokens.cached_tokens,
        tokens.cache_write_5m_tokens,
        tokens.cache_write_1h_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
    ];
    recorded.map(i64::unsigned_abs) == billed
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_stream_is_seen_and_charged_for_what_came() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let direct = FakeLlm::start().await.unwrap();
    let expected = run(DRIVER, direct.addr, "acme", &["abort"]).await;
    let seen = run(DRIVER, stack.envoy.egress, "acme", &["abort"]).await;
    assert_same(&expected, &seen, &["abort"]);
    assert_eq!(seen["abort"]["chunks"].as_array().map(Vec::len), Some(2), "{seen}");
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(story(row), ("settled", "held", "at_least", "client_gone", 200));
    let bill = wait_until("the provider to see it", async || {
        stack.fake.billed().rows.first().cloned().ok_or_else(|| "no row".to_owned())
    })
    .await;
    assert!(!bill.complete, "{bill:?}");
    assert!(row.cost_nanousd.unsigned_abs() >= bill.amount_nanousd, "{row:?} {bill:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_the_sdks_own_exception_after_one_request() {
    let stack = Stack::start().await;
    stack.backend.org_budget("broke", "0.000000001").await;
    let calls = ["denied", "denied_stream", "responses_denied", "embeddings_denied"];
    let seen = run(DRIVER, stack.envoy.egress, "broke", &calls).await;
    for name in calls {
        let failure = &seen[name]["failure"];
        assert_eq!(failure["classes"][0], "RateLimitError", "{failure}");
        assert_eq!(failure["status"], 429, "{failure}");
        assert_eq!(failure["code"], "insufficient_quota", "{failure}");
        assert_eq!(seen[name]["chunks"], Value::Array(Vec::new()), "{failure}");
    }
    assert_eq!(requests(&stack).await, calls.len() as u64, "no SDK asks again");
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

/// How many requests Envoy has received.
async fn requests(stack: &Stack) -> u64 {
    let stats = stack.envoy.stats("http.egress.downstream_rq_total").await;
    stats.get("http.egress.downstream_rq_total").copied().unwrap_or_default()
}
