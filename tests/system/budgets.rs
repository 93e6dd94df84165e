//! Budgets are set over the API and act at once.

use purser_protocol::{format_usd, parse_usd};
use serde_json::{Value, json};
use system_tests::harness::backend::{ADMIN_TOKEN, TOKEN};
use system_tests::harness::client::{App, ping};
use system_tests::harness::stack::{Setup, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_acts_on_the_next_call_and_keeps_what_was_spent() {
    let stack = Setup::default().ask_always().start().await;
    let app = App::of("acme");
    let budget = stack.backend.org_budget("acme", "0.000000001").await;
    stack.chat(&app, &ping()).await.expect(429);
    stack.backend.set_limit(&budget, "1.00").await;
    stack.chat(&app, &ping()).await.expect(200);
    let cost = stack.database.settled("acme", 1).await[0].cost_nanousd;
    let lowered = stack.backend.set_limit(&budget, &format_usd(cost - 1)).await;
    assert_eq!(lowered["spent_usd"], format_usd(cost), "{lowered}");
    assert_eq!(lowered["remaining_usd"], "-0.000000001", "{lowered}");
    let denied = stack.chat(&app, &ping()).await.expect(429);
    assert_eq!(parse_usd(denied.header("x-purser-limit")), Ok(cost - 1));
    stack.backend.set_limit(&budget, "2.00").await;
    stack.chat(&app, &ping()).await.expect(200);
    stack.database.settled("acme", 2).await;
    assert_eq!(stack.fake.received().attempts, 2);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_a_budget_is_refused_with_the_field() {
    let stack = Stack::start().await;
    let good = json!({"org": "acme", "window": "day", "limit_usd": "1.00"});
    let with = |field: &str, value: Value| {
        let mut budget = good.clone();
        budget[field] = value;
        budget
    };
    for (field, budget) in [
        ("org", json!({"window": "day", "limit_usd": "1.00"})),
        ("org", with("org", json!(""))),
        ("org", with("org", json!("*"))),
        ("org", with("org", json!("x".repeat(257)))),
        ("window", with("window", json!("fortnight"))),
        ("limit_usd", with("limit_usd", json!(1.5))),
        ("limit_usd", with("limit_usd", json!("-1"))),
        ("limit_usd", with("limit_usd", json!("0.0000000001"))),
        ("limit_usd", with("limit_usd", json!("9223372037"))),
        ("team", with("user", json!("ann"))),
        ("zone", with("time_zone", json!("Mars/Olympus"))),
        ("limit", with("limit", json!("1.00"))),
    ] {
        let response = stack.backend.post("/v1/budgets", ADMIN_TOKEN, &budget).await;
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        assert!(status == 400 || status == 422, "{budget}: {status} {text}");
        assert!(text.contains(field), "{field} is not in {text}");
    }
    for token in ["", TOKEN, "admin-token-of-a-tes", "admin-token-of-a-test-"] {
        let response = stack.backend.post("/v1/budgets", token, &good).await;
        // A filter's token is known, and is not enough.
        let expected = if token == TOKEN { 403 } else { 401 };
        assert_eq!(response.status().as_u16(), expected, "{token:?}");
    }
    assert_eq!(stack.backend.budgets("acme").await, Vec::<Value>::new());
    let hold = stack.backend.post("/v1/holds", ADMIN_TOKEN, &json!({})).await;
    assert_eq!(hold.status().as_u16(), 401, "an operator is no filter");
    stack.assert_healthy().await;
}
