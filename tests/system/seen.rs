//! What an answer costs whose usage can't be read: no less than what was seen of it.

use reqwest::Client;
use serde_json::{Value, json};
use system_tests::harness::client::{App, CHAT_PATH};
use system_tests::harness::database::LedgerRow;
use system_tests::harness::stack::Stack;
use system_tests::harness::within;

use crate::failures::story;

/// A request without a cap: its hold is small beside a long answer.
fn uncapped(stream: bool) -> Value {
    let messages = [json!({"role": "user", "content": "tell me all"})];
    json!({"model": "gpt-4o-mini", "messages": messages, "stream": stream})
}

fn assert_charged_what_was_seen(row: &LedgerRow, tokens_seen: u64) {
    assert!(row.output_tokens.unsigned_abs() >= tokens_seen, "{tokens_seen} {row:?}");
    // Output of gpt-4o-mini is 600 nano-USD a token.
    assert!(row.cost_nanousd.unsigned_abs() >= 600 * tokens_seen, "{tokens_seen} {row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_without_usage_is_charged_its_text() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    for (number, stream) in [true, false].into_iter().enumerate() {
        let app = App::of("acme").with("x-fake-fault", "no-usage").with("x-fake-words", "20000");
        stack.chat(&app, &uncapped(stream)).await.expect(200);
        let ledger = stack.database.settled("acme", number + 1).await;
        let row = ledger.iter().find(|row| row.stream == stream).unwrap();
        assert_eq!(story(row), ("estimated", "held", "at_least", "complete", 200));
        // The fake provider's words are two tokens of text each, nearly.
        assert_charged_what_was_seen(row, 35_000);
        assert!(row.cost_nanousd > row.held_nanousd, "{row:?}");
    }
    let spent: i64 = stack.database.ledger("acme").await.iter().map(|row| row.cost_nanousd).sum();
    assert!(spent.unsigned_abs() >= stack.fake.billed().total_nanousd);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_charged_what_was_held() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    for (number, stream) in [true, false].into_iter().enumerate() {
        let app = App::of("acme").with("x-fake-fault", "gzip").with("x-fake-words", "5000");
        let answer = stack.chat(&app, &uncapped(stream)).await.expect(200);
        assert_eq!(answer.header("content-encoding"), "gzip");
        let ledger = stack.database.settled("acme", number + 1).await;
        let row = ledger.iter().find(|row| row.stream == stream).unwrap();
        assert_eq!((row.usage_quality.as_str(), row.output_tokens), ("none", 0), "{row:?}");
        assert_eq!(row.cost_nanousd, row.held_nanousd, "{row:?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_plain_answer_early_does_not_make_it_cheaper() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    // More than sockets and proxies take in while nobody reads.
    let mut body = uncapped(false);
    body["n"] = json!(4);
    let app = App::of("acme").with("x-fake-words", "1000000");
    let http = Client::builder().no_proxy().build().unwrap();
    let request = app.headers().iter().fold(
        http.post(format!("http://{}{CHAT_PATH}", stack.envoy.egress)).json(&body),
        |request, (name, value)| request.header(name, value),
    );
    let mut response = within("the answer's headers", request.send()).await.unwrap();
    let announced = response.content_length().expect("a length");
    within("the first bytes", response.chunk()).await.unwrap().expect("not the end");
    drop((response, http));
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(story(row), ("estimated", "held", "at_least", "client_gone", 200));
    assert_charged_what_was_seen(row, announced / 4);
    assert!(row.cost_nanousd.unsigned_abs() >= stack.fake.billed().total_nanousd, "{row:?}");
    stack.assert_healthy().await;
}
