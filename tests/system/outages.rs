//! When the backend or Envoy goes away: calls go on as the route says, and what they cost is
//! settled later, once.

use std::collections::BTreeMap;

use purser_protocol::{
    Admission, Api, Call, Ending, Outcome, Payer, Settlement, SettlementBatch, SettlementItem, Size, Usage,
    UsageQuality, VERSION,
};
use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::wait_until;

use crate::failures::story;

#[tokio::test(flavor = "multi_thread")]
async fn calls_during_an_outage_of_the_backend_are_settled_when_it_is_back() {
    let mut stack = Setup::default().without_backend().start().await;
    let answer = stack.chat(&App::of("early"), &ping()).await.expect(200);
    assert_eq!(answer.header("x-purser-failed-open"), "true");
    stack.backend.start().await;
    let first = stack.database.settled("early", 1).await;
    assert_eq!(story(&first[0]), ("settled", "fail_open", "exact", "complete", 200));

    stack.backend.org_budget("acme", "1.00").await;
    let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
    assert_eq!(answer.header("x-purser-failed-open"), "");
    stack.database.settled("acme", 1).await;
    stack.backend.kill().await;
    for _ in 0..3 {
        let answer = stack.chat(&App::of("acme"), &ping_stream()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true");
    }
    stack.backend.start().await;
    let ledger = stack.database.settled("acme", 4).await;
    let total: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    let billed = stack.fake.billed().total_nanousd;
    assert_eq!((total + first[0].cost_nanousd).unsigned_abs(), billed);
    let spent: Vec<i64> =
        stack.database.counters("acme").await.iter().map(|counter| counter.spent_nanousd).collect();
    assert_eq!(spent, [total], "what failed open counts in the budget");
    stack.assert_healthy().await;
}

/// Waits until the workers' outboxes have so many items together.
async fn wait_for_outbox(stack: &Stack, items: u64) {
    let name = "wasmcustom.purser_outbox_items";
    wait_until("the outbox", async || {
        let stats = stack.envoy.stats(name).await;
        if stats.get(name) == Some(&items) { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_of_the_outbox_falls_to_zero_when_all_is_acknowledged() {
    let mut stack = Setup::default().without_backend().start().await;
    wait_for_outbox(&stack, 0).await;
    let calls = (0..12).map(|_| {
        let stack = &stack;
        async move { stack.chat(&App::of("acme"), &ping()).await.expect(200) }
    });
    futures_util::future::join_all(calls).await;
    wait_for_outbox(&stack, 12).await;
    stack.backend.start().await;
    stack.database.settled("acme", 12).await;
    wait_for_outbox(&stack, 0).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_killed_during_a_call_learns_its_cost_when_it_is_back() {
    let mut stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-gate", "g");
    let response = stack.open(&app, &ping_stream()).await;
    assert_eq!(stack.database.holds("acme", "open").await, 1);
    stack.backend.kill().await;
    stack.fake.state.gates.open("g");
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    stack.backend.start().await;
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(story(row), ("settled", "held", "exact", "complete", 200));
    assert_eq!(row.cost_nanousd.unsigned_abs(), stack.fake.billed().total_nanousd);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_a_closed_route_answers_503() {
    let mut stack = Setup::default().fail_closed().without_backend().start().await;
    let answer = stack.chat(&App::of("acme"), &ping()).await.expect(503);
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.json()["error"]["message"].is_string());
    stack.backend.start().await;
    stack.backend.org_budget("acme", "1.00").await;
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    stack.database.settled("acme", 1).await;
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}

/// A stack whose holds live for a second.
async fn with_short_holds() -> Stack {
    Setup::default()
        .backend_setting("PURSER_HOLD_TTL_S", "1")
        .backend_setting("PURSER_SWEEP_INTERVAL_MS", "50")
        .backend_setting("PURSER_SWEEP_GRACE_S", "0")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_of_a_killed_envoy_expire_and_are_charged() {
    let mut stack = with_short_holds().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-gate", "never");
    let response = stack.open(&app, &ping_stream()).await;
    stack.envoy.kill().await;
    assert!(response.bytes().await.is_err(), "the stream is cut");
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(row.cause, "expired", "{row:?}");
    assert_eq!(row.cost_nanousd, row.held_nanousd, "{row:?}");
    assert_eq!(stack.database.counters("acme").await[0].spent_nanousd, row.cost_nanousd);
    stack.backend.assert_running();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_after_the_expiry_corrects_it() {
    let stack = with_short_holds().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-gate", "late");
    let response = stack.open(&app, &ping_stream()).await;
    let expired = stack.database.settled("acme", 1).await;
    assert_eq!(expired[0].cause, "expired");
    stack.fake.state.gates.open("late");
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let ledger = stack.database.settled("acme", 2).await;
    let entries: Vec<i32> = ledger.iter().map(|row| row.entry).collect();
    assert_eq!(entries, [0, 1]);
    let cost: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(u64::try_from(cost), Ok(stack.fake.billed().total_nanousd));
    assert_eq!(stack.database.counters("acme").await[0].spent_nanousd, cost);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_sent_again_counts_once() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let settlement = Settlement {
        hold_id: uuid::Uuid::now_v7(),
        payer: Payer { org: "acme".to_owned(), team: None, user: None },
        lookup: None,
        asked_model: None,
        call: Call {
            api: Api::OpenaiChat,
            provider: "openai".to_owned(),
            model: "gpt-4o".to_owned(),
            stream: false,
        },
        size: Size { text_bytes: 100, choices: 1, ..Size::default() },
        admission: Admission::FailOpen,
        answered_model: None,
        response_id: Some("chatcmpl-again".to_owned()),
        usage: Usage { input_tokens: 100, output_tokens: 10, ..Usage::default() },
        usage_quality: UsageQuality::Exact,
        http_status: 200,
        ending: Ending::Complete,
        started_at_unix_ms: i64::try_from(now.as_millis()).unwrap(),
        duration_ms: 5,
        first_byte_ms: None,
        tags: BTreeMap::new(),
        service_tier: None,
        units: BTreeMap::new(),
        reported_cost_nanousd: None,
        usage_never_comes: false,
        may_think: None,
    };
    let batch =
        SettlementBatch { version: VERSION, items: vec![SettlementItem::Settle(Box::new(settlement))] };
    let outcomes = [
        stack.backend.settle(&batch).await.results[0].outcome.clone(),
        stack.backend.settle(&batch).await.results[0].outcome.clone(),
    ];
    assert_eq!(outcomes, [Outcome::Recorded, Outcome::Duplicate]);
    let row = &stack.database.settled("acme", 1).await[0];
    // 100 × 2500 + 10 × 10,000 nano-USD.
    assert_eq!(row.cost_nanousd, 350_000);
    assert_eq!(stack.database.counters("acme").await[0].spent_nanousd, 350_000);
    stack.assert_healthy().await;
}
