//! Who is known by a key, and a payer whose budget is exhausted.

use reqwest::Method;
use serde_json::json;
use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

use super::{booked, counted, spent};
use crate::policies::operate;

/// Where the first identity source stands in the shipped configuration.
const ORG_SOURCE: &str = r#""org": {"header": "x-budget-org"}"#;

fn by_key() -> Setup {
    Setup::default().edit(ORG_SOURCE, r#""org": [{"api_key": true}]"#)
}

/// SHA-256 of `sk-test-1`.
const FINGERPRINT: &str = "db567a0dd8d24a1a894b3f1ceac157727179c1d15c226c5554dd1972d0fed479";

fn with_key(key: &str) -> App {
    App::unidentified().with("authorization", &format!("Bearer {key}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fingerprint_of_a_key_says_who_is_charged() {
    let stack = by_key().start().await;
    let of_ann = json!({"org": "acme", "team": "search", "user": "ann", "window": "total", "limit_usd": "1"});
    let of_ann = stack.backend.create_budget(of_ann).await;
    for key in ["sk-test-1", "sk-test-2"] {
        let refused = stack.chat(&with_key(key), &ping()).await.expect(403);
        assert_eq!(refused.json()["error"]["code"], "unidentified");
    }
    let known = json!({"kind": "api_key_sha256", "value": FINGERPRINT, "org": "acme", "team": "search",
                       "user": "ann"});
    let known = operate(&stack, Method::POST, "/v1/identities", known).await;
    let mut refusals = 2;
    let answer = wait_until("the key to be known", async || {
        let answer = stack.chat(&with_key("sk-test-1"), &ping()).await;
        refusals += i64::from(answer.status.as_u16() == 403);
        if answer.status.as_u16() == 200 { Ok(answer) } else { Err(answer.text()) }
    })
    .await;
    assert_ne!(answer.header("x-purser-remaining-user"), "");
    // Who says of itself that it is somebody else is still the owner of its key.
    let liar = with_key("sk-test-1").with("x-budget-org", "other");
    stack.chat(&liar, &ping_stream()).await.expect(200);
    stack.chat(&with_key("sk-test-2").with("x-budget-org", "acme"), &ping()).await.expect(403);
    refusals += 1;

    let rows = stack.database.settled("acme", 2).await;
    for row in &rows {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("search", "ann"));
    }
    booked(&stack, 2).await;
    assert_eq!(spent(&stack, &of_ann).await, rows.iter().map(|row| row.cost_nanousd).sum::<i64>());
    counted(&stack, "", &[("unidentified", refusals)]).await;

    // Forgotten, it is a stranger's again.
    let path = format!("/v1/identities/{}", known["identity_id"]);
    operate(&stack, Method::DELETE, &path, json!(null)).await;
    let mut passed = 2;
    wait_until("the key to be forgotten", async || {
        let answer = stack.chat(&with_key("sk-test-1"), &ping()).await;
        passed += usize::from(answer.status.as_u16() == 200);
        if answer.status.as_u16() == 403 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    stack.database.settled("acme", passed).await;
    for log in [stack.envoy.log(), stack.backend.log()] {
        assert!(!log.contains("sk-test"), "a key in the log");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_verdict_is_charged_to_whom_its_key_names_afterwards() {
    let mut stack = by_key().start().await;
    let of_search = json!({"org": "acme", "team": "search", "window": "total", "limit_usd": "1"});
    let of_search = stack.backend.create_budget(of_search).await;
    let known = json!({"kind": "api_key_sha256", "value": FINGERPRINT, "org": "acme", "team": "search"});
    operate(&stack, Method::POST, "/v1/identities", known).await;
    stack.backend.kill().await;
    for (key, body) in [("sk-test-1", ping()), ("sk-test-2", ping()), ("sk-test-1", ping_stream())] {
        let answer = stack.chat(&with_key(key), &body).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true");
    }
    stack.backend.start().await;
    let rows = stack.database.settled("acme", 2).await;
    for row in &rows {
        assert_eq!((row.admission.as_str(), row.team.as_str()), ("fail_open", "search"));
    }
    let bill = stack.fake.billed().rows;
    for row in &rows {
        let billed =
            bill.iter().find(|billed| row.response_id.as_ref() == Some(&billed.response_id)).unwrap();
        assert_eq!(u64::try_from(row.cost_nanousd), Ok(billed.amount_nanousd), "{row:?}");
    }
    assert_eq!(spent(&stack, &of_search).await, rows.iter().map(|row| row.cost_nanousd).sum::<i64>());
    // Of the key that nobody knows, what it cost is set aside and not lost.
    wait_until("the stranger's call to be set aside", async || {
        let count = sqlx::query_scalar("SELECT count(*) FROM quarantined_settlements");
        let count: i64 = count.fetch_one(&stack.database.pool).await.unwrap();
        let stats = stack.envoy.stats("purser_").await;
        let rejected = stats["wasmcustom.purser_settlements;outcome=rejected;"];
        let told = (count, rejected, stats["wasmcustom.purser_outbox_items"]);
        if told == (1, 1, 0) { Ok(()) } else { Err(format!("set aside, rejected, waiting: {told:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_knows_is_the_default_payers() {
    let stack = by_key().unidentified(r#"{"org": "acme", "team": "guests"}"#).start().await;
    stack.backend.org_budget("acme", "1").await;
    for app in [with_key("sk-test-1"), App::unidentified()] {
        stack.chat(&app, &ping()).await.expect(200);
    }
    for row in stack.database.settled("acme", 2).await {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("guests", ""));
    }
    booked(&stack, 2).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_budget_is_asked_once_and_counted_for_every_call() {
    const AGAIN: u64 = 40;
    let setup = Setup::default().one_worker().edit(r#""cache_ms": 1000"#, r#""cache_ms": 60000"#);
    let stack = setup.start().await;
    let budget = stack.backend.org_budget("acme", "1").await;
    let app = App::of("acme");
    stack.chat(&app, &ping()).await.expect(200);
    stack.database.settled("acme", 1).await;
    stack.backend.set_limit(&budget, "0").await;
    let first = stack.chat(&app, &ping()).await.expect(429);
    assert_eq!(first.header("x-purser-denial-cached"), "");
    let asked = "cluster.purser_backend.upstream_rq_total";
    let before = stack.envoy.stats(asked).await[asked];
    for number in 0..AGAIN {
        let body = if number % 2 == 0 { ping() } else { ping_stream() };
        let again = stack.chat(&app, &body).await.expect(429);
        assert_eq!((again.header("x-purser-denial-cached"), &again.body), ("true", &first.body));
    }
    // What it was asked meanwhile are reports, one a second.
    let asked = stack.envoy.stats(asked).await[asked] - before;
    assert!(asked < AGAIN / 2, "the backend was called {asked} times for {AGAIN} calls");
    let stats = stack.envoy.stats("purser_verdicts").await;
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny;"], 1);
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny_cached;"], AGAIN);
    counted(&stack, "acme", &[("over_budget", 1 + i64::try_from(AGAIN).unwrap())]).await;
    // Nothing of it cost anything; and what is not the refused question is asked.
    booked(&stack, 1).await;
    stack.backend.set_limit(&budget, "1").await;
    stack.chat(&app.clone().team("search"), &ping()).await.expect(200);
    stack.chat(&app, &ping()).await.expect(429);
    booked(&stack, 2).await;
    stack.assert_healthy().await;
}
