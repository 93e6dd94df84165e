//! How much goes out without a verdict, at the most.

use futures_util::future::join_all;
use purser_protocol::{Allow, Deny, DenyReason, Verdict};
use serde_json::json;
use system_tests::harness::client::{Answer, App, http, ping, post_chat, with};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::{ScriptedStack, Setup};
use system_tests::harness::wait_until;

const PER_MINUTE: &str = r#""requests_per_minute": 1200"#;
const USD_PER_MINUTE: &str = r#""usd_per_minute": "20.00""#;
const PER_OUTAGE: &str = r#""requests_per_outage": 20000"#;
const USD_PER_OUTAGE: &str = r#""usd_per_outage": "200.00""#;
const UNKNOWN: &str = r#""usd_per_unknown_call": "0.10""#;
const RECOVERED: &str = r#""recovered_after_s": 30"#;

/// Calls at once, each over a connection of its own, so that every worker gets some; how many went out.
async fn pass_at_once(stack: &ScriptedStack, calls: usize) -> usize {
    let answers = join_all((0..calls).map(|_| async {
        let response = post_chat(&http(), stack.envoy.egress, &App::of("acme"), &ping()).await;
        Answer::read(response.unwrap()).await
    }));
    let answers = answers.await;
    for answer in &answers {
        check(answer);
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// Without a verdict a call passes, and says so, or fails. It is never denied.
fn check(answer: &Answer) {
    if answer.status == 200 {
        assert_eq!(answer.header("x-purser-failed-open"), "true", "{answer:?}");
        return;
    }
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "budget_service_unavailable", "{answer:?}");
    assert_eq!(answer.header("x-should-retry"), "false", "{answer:?}");
    assert_eq!(answer.header("x-purser-denied-tier"), "", "{answer:?}");
}

async fn passed(stack: &ScriptedStack, calls: usize) -> usize {
    let mut passed = 0;
    for _ in 0..calls {
        let answer = stack.chat(&App::of("acme"), &ping()).await;
        check(&answer);
        passed += usize::from(answer.status == 200);
    }
    passed
}

async fn assert_all_workers_served(stack: &ScriptedStack) {
    let served = stack.envoy.stats("downstream_cx_total").await;
    let workers = served.iter().filter(|(name, _)| name.contains("worker_"));
    let idle: Vec<_> =
        workers.clone().filter(|(name, count)| !name.contains("admin") && **count == 0).collect();
    assert!(workers.count() >= 2 && idle.is_empty(), "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_per_minute_are_exact_over_all_workers() {
    let setup = Setup::default().edit(PER_MINUTE, r#""requests_per_minute": 10"#);
    let stack = setup.start_scripted(Script::Status(500)).await;
    assert_eq!(pass_at_once(&stack, 48).await, 10);
    assert_all_workers_served(&stack).await;
    let counts = stack.envoy.prometheus("purser_failures{").await;
    for expected in [
        r#"purser_failures{outcome="open",cause="error"} 10"#,
        r#"purser_failures{outcome="bound",cause="error"} 38"#,
    ] {
        assert!(counts.iter().any(|line| line == expected), "{expected} is not in {counts:#?}");
    }
    assert_eq!(stack.fake.received().attempts, 10);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dollars_per_minute_are_exact_over_all_workers() {
    let setup = Setup::default()
        .edit(USD_PER_MINUTE, r#""usd_per_minute": "0.075""#)
        .edit(UNKNOWN, r#""usd_per_unknown_call": "0.01""#);
    let stack = setup.start_scripted(Script::Cause("database")).await;
    assert_eq!(pass_at_once(&stack, 48).await, 7);
    assert_all_workers_served(&stack).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_counts_at_the_last_hold_of_its_model() {
    let setup = Setup::default()
        .one_worker()
        .without_breaker()
        .edit(USD_PER_OUTAGE, r#""usd_per_outage": "0.000010""#)
        .edit(UNKNOWN, r#""usd_per_unknown_call": "0.000004""#);
    let held = Allow { held_nanousd: 3_000, ..grant() };
    let stack = setup.start_scripted(Script::Verdict(Box::new(Verdict::Allow(held)))).await;
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    stack.backend.play(Script::Reset);
    let other = with(ping(), &json!({"model": "gpt-4o"}));
    let answer = stack.chat(&App::of("acme"), &other).await.expect(200);
    assert_eq!(answer.header("x-purser-failure-cause"), "unreachable");
    // 4 of 10 micro-USD are gone; this model takes 3 of them at a time.
    assert_eq!(passed(&stack, 4).await, 2);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_has_a_bound_until_the_backend_is_back_for_a_while() {
    let setup = Setup::default()
        .without_breaker()
        .edit(PER_OUTAGE, r#""requests_per_outage": 3"#)
        .edit(RECOVERED, r#""recovered_after_s": 1"#);
    let stack = setup.start_scripted(Script::Status(503)).await;
    assert_eq!(passed(&stack, 6).await, 3);
    // One answer is no recovery.
    stack.backend.play(Script::Allow);
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    stack.backend.play(Script::Status(503));
    assert_eq!(passed(&stack, 3).await, 0);
    stack.backend.play(Script::Allow);
    wait_until("the end of the outage", async || {
        stack.chat(&App::of("acme"), &ping()).await.expect(200);
        let stats = stack.envoy.stats("purser_outages_over").await;
        if stats["wasmcustom.purser_outages_over"] == 1 { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    stack.backend.play(Script::Status(503));
    assert_eq!(passed(&stack, 6).await, 3);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_no_failure_while_others_fail_and_the_bound_is_used_up() {
    let setup = Setup::default().without_breaker().edit(PER_OUTAGE, r#""requests_per_outage": 1"#);
    let stack = setup.start_scripted(Script::Cause("database")).await;
    let deny = Deny { reason: DenyReason::OverBudget, message: "no".to_owned(), ..Deny::default() };
    let deny = Script::Verdict(Box::new(Verdict::Deny(deny)));
    for may_pass in [1, 0] {
        stack.backend.play(Script::Cause("database"));
        assert_eq!(passed(&stack, 1).await, may_pass);
        stack.backend.play(deny.clone());
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(429);
        assert_eq!(answer.json()["error"]["code"], "insufficient_quota");
        assert_eq!(answer.header("x-purser-failed-open"), "");
    }
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}
