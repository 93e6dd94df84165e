//! What breaks between the app and the provider, and what it costs then: never nothing without being
//! said, never a hold that stays.

mod database_down;
mod filter_trap;
mod late_answers;
mod parts;
mod replicas;

use reqwest::Client;
use serde_json::json;
use system_tests::harness::backend::ReservedPort;
use system_tests::harness::client::{App, ping, ping_stream, with};
use system_tests::harness::database::LedgerRow;
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::{wait_until, within};

/// Cause, admission, quality of the usage, ending and status of a ledger row.
pub fn story(row: &LedgerRow) -> (&str, &str, &str, &str, i32) {
    (&row.cause, &row.admission, &row.usage_quality, &row.ending, row.http_status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_charged_for_what_it_got() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-gate", "never");
    // A client of its own: dropping it closes its connection.
    let http = Client::builder().no_proxy().build().unwrap();
    let app_request = app.headers().iter().fold(
        http.post(format!("http://{}/v1/chat/completions", stack.envoy.egress)).json(&ping_stream()),
        |request, (name, value)| request.header(name, value),
    );
    let mut response = app_request.send().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("Money") {
        let chunk = within("the first word", response.chunk()).await.unwrap().expect("not the end");
        seen.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    drop((response, http));
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(story(row), ("settled", "held", "at_least", "client_gone", 200));
    let bill = wait_until("the bill", async || {
        stack.fake.billed().rows.first().cloned().ok_or_else(|| "no row".to_owned())
    })
    .await;
    assert!(!bill.complete);
    assert!(row.cost_nanousd.unsigned_abs() >= bill.amount_nanousd, "{row:?} {bill:?}");
    assert!(row.cost_nanousd <= row.held_nanousd, "{row:?}");
    assert!(row.output_tokens >= 1, "{row:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_answer_is_charged_its_prompt() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let http = Client::builder().no_proxy().build().unwrap();
    let request = http
        .post(format!("http://{}/v1/chat/completions", stack.envoy.egress))
        .header("x-budget-org", "acme")
        .header("x-fake-gate", "never")
        .json(&ping());
    let call = tokio::spawn(async move { request.send().await.map(|response| response.status()) });
    within("the call to reach the provider", stack.fake.state.gates.wait_for_arrivals("never", 1)).await;
    call.abort();
    drop(http);
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!((row.ending.as_str(), row.http_status), ("client_gone", 0), "{row:?}");
    assert!(row.cost_nanousd > 0, "what was sent may be billed: {row:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_provider_costs_nothing() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    for (number, status) in [400, 401, 404, 429, 500, 503].into_iter().enumerate() {
        let app = App::of("acme").with("x-fake-status", &status.to_string());
        let answer = stack.chat(&app, &ping_stream()).await.expect(status);
        assert_eq!(answer.header("x-purser-denied-tier"), "", "the provider's own answer");
        let ledger = stack.database.settled("acme", number + 1).await;
        let row = ledger.iter().find(|row| row.http_status == i32::from(status)).unwrap();
        assert_eq!(row.cost_nanousd, 0, "{row:?}");
    }
    assert_eq!(stack.fake.received().attempts, 6, "an error is not tried again");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_never_sent_gives_its_hold_back() {
    let nobody = ReservedPort::take();
    let stack = Setup::default().upstream(nobody.addr).start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let answer = stack.chat(&App::of("acme"), &ping()).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
    wait_until("the void", async || match stack.database.holds("acme", "voided").await {
        1 => Ok(()),
        _ => Err(format!("{:?}", stack.database.counters("acme").await)),
    })
    .await;
    stack.database.settled("acme", 0).await;
    for counter in stack.database.counters("acme").await {
        assert_eq!((counter.spent_nanousd, counter.held_nanousd), (0, 0));
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_charged_at_least_what_came() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let mut sent = 0;
    for (fault, body) in [
        ("cut", ping_stream()),
        ("cut", ping()),
        ("reset-before-headers", ping()),
        ("reset-before-headers", ping_stream()),
    ] {
        let app = App::of("acme").with("x-fake-fault", fault);
        let response = stack.open(&app, &body).await;
        let status = response.status().as_u16();
        // The break reaches the client: as an error status, or as a body without an end.
        assert!(status == 503 || response.bytes().await.is_err(), "{fault} {body}: {status}");
        sent += 1;
        let ledger = stack.database.settled("acme", sent).await;
        let row = ledger.last().unwrap();
        assert_eq!(row.ending, "upstream_cut", "{fault} {body}: {row:?}");
        assert_ne!(row.usage_quality, "exact", "{fault} {body}: {row:?}");
        assert!(row.cost_nanousd > 0, "{fault} {body}: {row:?}");
    }
    let bill = stack.fake.billed();
    let spent: i64 = stack.database.ledger("acme").await.iter().map(|row| row.cost_nanousd).sum();
    assert!(spent.unsigned_abs() >= bill.total_nanousd, "{spent} < {}", bill.total_nanousd);
    assert_eq!(stack.fake.received().attempts, 4, "nothing that may be billed is sent twice");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_usage_is_charged_from_the_estimate() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let usage_on = json!({"stream_options": {"include_usage": true}});
    let cases = [
        ("no-usage", ping()),
        ("no-usage", ping_stream()),
        ("no-usage", with(ping_stream(), &usage_on)),
        ("garbage", ping()),
        ("garbage", ping_stream()),
        ("gzip", ping()),
        ("gzip", ping_stream()),
    ];
    for (number, (fault, body)) in cases.iter().enumerate() {
        let app = App::of("acme").with("x-fake-fault", fault);
        stack.chat(&app, body).await.expect(200);
        let ledger = stack.database.settled("acme", number + 1).await;
        let row = ledger.last().unwrap();
        assert_eq!(row.cause, "estimated", "{fault} {body}: {row:?}");
        assert_ne!(row.usage_quality, "exact", "{fault} {body}: {row:?}");
        let billed = stack.fake.billed().rows.last().map(|row| row.amount_nanousd);
        assert!(Some(row.cost_nanousd.unsigned_abs()) >= billed, "{fault} {body}: {row:?} {billed:?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_early_but_said_its_usage_is_exact() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-fault", "no-done");
    stack.chat(&app, &ping_stream()).await.expect(200);
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!(row.usage_quality, "exact", "{row:?}");
    assert_eq!(row.cost_nanousd.unsigned_abs(), stack.fake.billed().total_nanousd);
    let app = App::of("acme").with("x-fake-fault", "error-in-stream");
    stack.chat(&app, &ping_stream()).await.expect(200);
    let ledger = stack.database.settled("acme", 2).await;
    let row = ledger.last().unwrap();
    assert_ne!(row.usage_quality, "exact", "{row:?}");
    assert!(row.cost_nanousd > 0, "{row:?}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_to_read_passes_whole_and_is_charged() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let words = 600_000;
    let app = App::of("acme").with("x-fake-words", &words.to_string());
    let body = with(ping(), &json!({"n": 2, "max_completion_tokens": words}));
    let answer = stack.chat(&app, &body).await.expect(200);
    assert!(answer.body.len() > 8 * 1024 * 1024, "{}", answer.body.len());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 2 * words);
    let row = &stack.database.settled("acme", 1).await[0];
    assert_ne!(row.usage_quality, "exact", "{row:?}");
    let billed = stack.fake.billed().total_nanousd;
    assert!(row.cost_nanousd.unsigned_abs() >= billed, "{row:?} {billed}");
    stack.assert_healthy().await;
}
