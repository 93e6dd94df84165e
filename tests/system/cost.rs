//! The ledger against the provider's bill, to the nano-dollar.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use system_tests::fake_llm::bill::BilledRow;
use system_tests::fake_llm::price::{BilledTokens, models};
use system_tests::harness::client::{App, ping, with};
use system_tests::harness::database::LedgerRow;
use system_tests::harness::stack::Stack;

/// Body and control headers of calls that differ in what they cost.
fn calls() -> Vec<(Value, Vec<(&'static str, &'static str)>)> {
    let capped = |cap: u64| json!({"max_completion_tokens": cap});
    let mut calls = vec![
        (ping(), vec![]),
        (ping(), vec![("x-fake-words", "0")]),
        (ping(), vec![("x-fake-words", "1000")]),
        (ping(), vec![("x-fake-cached-tokens", "5")]),
        (ping(), vec![("x-fake-cached-tokens", "1000")]),
        (with(ping(), &capped(100)), vec![("x-fake-reasoning-tokens", "64")]),
        (with(ping(), &json!({"n": 2})), vec![("x-fake-words", "9")]),
        (
            with(ping(), &capped(500)),
            vec![
                ("x-fake-words", "77"),
                ("x-fake-cached-tokens", "3"),
                ("x-fake-reasoning-tokens", "123"),
                ("x-fake-model", "gpt-4o-mini-2024-07-18"),
            ],
        ),
        (with(ping(), &json!({"model": "gpt-4o-2024-08-06"})), vec![]),
        // The model that answers is the one that is billed.
        (ping(), vec![("x-fake-model", "gpt-4.1-mini")]),
        (
            json!({"messages": [{"role": "user", "content": "no cap"}], "model": "gpt-4o-mini"}),
            vec![("x-fake-words", "300")],
        ),
        (
            json!({"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}], "model": "gpt-4o-mini"}),
            vec![],
        ),
    ];
    calls.extend(models().map(|model| (with(ping(), &json!({"model": model})), vec![])));
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_costs_what_the_provider_bills() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let mut sent = 0;
    for stream in [
        json!({}),
        json!({"stream": true}),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    ] {
        for (body, controls) in calls() {
            let app = controls.iter().fold(App::of("acme"), |app, (name, value)| app.with(name, value));
            stack.chat(&app, &with(body, &stream)).await.expect(200);
            sent += 1;
        }
    }
    let ledger = stack.database.settled("acme", sent).await;
    let bill = stack.fake.billed();
    assert_eq!(bill.rows.len(), sent);
    let by_id: BTreeMap<&str, &LedgerRow> =
        ledger.iter().filter_map(|row| Some((row.response_id.as_deref()?, row))).collect();
    for billed in &bill.rows {
        match by_id.get(billed.response_id.as_str()) {
            Some(row) => assert_same(row, billed),
            None => panic!("{billed:?} is not in the ledger"),
        }
    }
    let total: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(total.unsigned_abs(), bill.total_nanousd);
    let spent: Vec<i64> =
        stack.database.counters("acme").await.iter().map(|counter| counter.spent_nanousd).collect();
    assert_eq!(spent, [total]);
    stack.assert_healthy().await;
}

fn assert_same(row: &LedgerRow, billed: &BilledRow) {
    let BilledTokens { input_tokens, cached_tokens, output_tokens, reasoning_tokens, .. } = billed.tokens;
    for (recorded, billed_amount) in [
        (row.cost_nanousd, billed.amount_nanousd),
        (row.input_tokens, input_tokens),
        (row.cached_input_tokens, cached_tokens),
        (row.reasoning_tokens, reasoning_tokens),
        (row.output_tokens + row.reasoning_tokens, output_tokens),
    ] {
        assert_eq!(u64::try_from(recorded), Ok(billed_amount), "{row:?} {billed:?}");
    }
    assert!(row.cost_nanousd > 0, "{row:?}");
    assert_eq!(row.stream, billed.stream, "{row:?} {billed:?}");
    let story = [&row.cause, &row.admission, &row.usage_quality, &row.ending];
    assert_eq!(story, ["settled", "held", "exact", "complete"], "{row:?}");
    assert_eq!(row.http_status, 200, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_each_recorded_once() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let calls = (0..120).map(|number| {
        let stack = &stack;
        async move {
            let app = App::of("acme").team("search").user(&format!("user-{}", number % 7));
            let body = with(ping(), &json!({"stream": number % 2 == 0}));
            stack.chat(&app, &body).await.expect(200)
        }
    });
    futures_util::future::join_all(calls).await;
    let ledger = stack.database.settled("acme", 120).await;
    let total: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(total.unsigned_abs(), stack.fake.billed().total_nanousd);
    assert_eq!(stack.database.holds("acme", "settled").await, 120);
    stack.assert_healthy().await;
}
