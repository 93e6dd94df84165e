//! What becomes of a call without a verdict, by the cause and by the route.

use std::collections::BTreeMap;

use purser_protocol::{Admission, SettlementItem};
use system_tests::harness::client::{App, ping};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{ScriptedStack, Setup};

const MODE: &str = r#""failure_mode": "open""#;

/// What a backend does, and the cause that this is. Nothing is held by the last.
fn causes() -> [(Script, &'static str); 11] {
    [
        (Script::Reset, "unreachable"),
        (Script::Half, "unreachable"),
        (Script::Unmarked(502), "unreachable"),
        (Script::Never, "timeout"),
        (Script::Cause("deadline"), "timeout"),
        (Script::Status(500), "error"),
        (Script::Cause("something new"), "error"),
        (Script::Body("{}"), "error"),
        (Script::Cause("busy"), "busy"),
        (Script::Cause("database"), "database"),
        (Script::Status(401), "rejected"),
    ]
}

/// How often each cause came, and what became of those calls, as far as any did.
async fn counted(stack: &ScriptedStack) -> BTreeMap<String, u64> {
    let all = stack.envoy.prometheus("purser_failures{").await;
    let pair = |line: &String| line.rsplit_once(' ').map(|(name, n)| (name.to_owned(), n.parse().unwrap()));
    all.iter().filter_map(pair).filter(|(_, count)| *count > 0).collect()
}

fn expected_counts(outcome_of: impl Fn(&str) -> &'static str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (_, cause) in causes() {
        let name = format!(r#"purser_failures{{outcome="{}",cause="{cause}"}}"#, outcome_of(cause));
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Lets the backend fail once in each way, and checks what became of the call and what the backend is told
/// of it under the id that it was asked with.
async fn check_modes(setup: Setup, is_open: impl Fn(&str) -> bool) {
    let stack = setup.without_breaker().start_scripted(Script::Allow).await;
    for (script, cause) in causes() {
        stack.backend.play(script.clone());
        let answer = stack.chat(&App::of("acme"), &ping()).await;
        if is_open(cause) {
            assert_eq!(answer.status.as_u16(), 200, "{script:?}: {}", answer.text());
            assert_eq!(answer.header("x-purser-failed-open"), "true", "{script:?}");
            assert_eq!(answer.header("x-purser-failure-cause"), cause, "{script:?}");
        } else {
            assert_eq!(answer.status.as_u16(), 503, "{script:?}: {}", answer.text());
            assert_eq!(answer.json()["error"]["code"], "budget_service_unavailable", "{script:?}");
            assert_eq!(answer.header("x-purser-failed-open"), "", "{script:?}");
            if cause == "rejected" {
                continue;
            }
        }
        let items = stack.backend.settlements(1).await;
        assert_eq!(items[0].hold_id(), stack.backend.holds()[0].hold_id, "{script:?}");
        match &items[0] {
            SettlementItem::Settle(settlement) if is_open(cause) => {
                assert_eq!(settlement.admission, Admission::FailOpen, "{script:?}");
            }
            SettlementItem::Void(_) if !is_open(cause) => {}
            other => panic!("{script:?}: {other:?}"),
        }
    }
    let counts = counted(&stack).await;
    assert_eq!(counts, expected_counts(|cause| if is_open(cause) { "open" } else { "closed" }));
    let attempts = causes().iter().filter(|(_, cause)| is_open(cause)).count();
    assert_eq!(stack.fake.received().attempts, attempts as u64);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cause_but_a_rejection_may_pass_by_default() {
    check_modes(Setup::as_shipped(), |cause| cause != "rejected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cause_passes_where_the_route_fails_closed() {
    check_modes(Setup::as_shipped().fail_closed(), |_| false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_a_mode_of_its_own() {
    let mixed =
        r#""failure_mode": {"default": "closed", "timeout": "open", "database": "open", "rejected": "open"}"#;
    let opens = |cause: &str| ["timeout", "database", "rejected"].contains(&cause);
    check_modes(Setup::as_shipped().edit(MODE, mixed), opens).await;
}

/// Two routes before the only one, chosen by a header, with modes of their own.
const ROUTES: &str = r#"              routes:
              - match: {prefix: /, headers: [{name: x-route, string_match: {exact: closed}}]}
                metadata: {filter_metadata: {purser: {failure_mode: closed}}}
                route: {cluster: llm_upstream, timeout: 0s}
              - match: {prefix: /, headers: [{name: x-route, string_match: {exact: mixed}}]}
                metadata:
                  filter_metadata: {purser: {failure_mode: {default: closed, database: open, rejected: open}}}
                route: {cluster: llm_upstream, timeout: 0s}
              - match: {prefix: /, headers: [{name: x-route, string_match: {exact: mistyped}}]}
                metadata: {filter_metadata: {purser: {failure_mode: opne}}}
                route: {cluster: llm_upstream, timeout: 0s}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_a_mode_of_its_own_in_its_metadata() {
    let setup = Setup::default().edit("              routes:\n", ROUTES).without_breaker();
    let stack = setup.start_scripted(Script::Allow).await;
    for (route, script, status) in [
        ("usual", Script::Status(500), 200),
        ("closed", Script::Status(500), 503),
        ("mixed", Script::Status(500), 503),
        ("mixed", Script::Cause("database"), 200),
        ("mixed", Script::Cause("busy"), 503),
        ("mixed", Script::Status(401), 200),
        ("usual", Script::Status(401), 503),
        ("mistyped", Script::Cause("database"), 503),
        ("mistyped", Script::Allow, 200),
    ] {
        stack.backend.play(script.clone());
        let answer = stack.chat(&App::of("acme").with("x-route", route), &ping()).await;
        assert_eq!(answer.status.as_u16(), status, "{route} {script:?}: {}", answer.text());
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_its_database_says_so_and_learns_the_cost_later() {
    let only_database = r#""failure_mode": {"default": "closed", "database": "open"}"#;
    let stack = Setup::default().edit(MODE, only_database).without_breaker().start().await;
    stack.backend.org_budget("acme", "1.00").await;
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    stack.database.settled("acme", 1).await;
    stack.database.let_in(false).await;
    for _ in 0..3 {
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
        assert_eq!(answer.header("x-purser-failure-cause"), "database");
    }
    stack.database.let_in(true).await;
    let ledger = stack.database.settled("acme", 4).await;
    assert_eq!(ledger.iter().filter(|row| row.admission == "fail_open").count(), 3);
    let charged: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(charged.unsigned_abs(), stack.fake.billed().total_nanousd);
    stack.assert_healthy().await;
}
