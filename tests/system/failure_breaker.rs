//! A backend that keeps failing is left alone for a while, and asked again.

use futures_util::future::join_all;
use system_tests::harness::client::{App, ping};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{ScriptedStack, Setup};
use system_tests::harness::wait_until;

const FIRST: &str = r#""first_pause_ms": 500"#;
const LONGEST: &str = r#""longest_pause_ms": 5000"#;

/// One worker whose breaker, once open, stays so for the whole test.
async fn patient(setup: Setup) -> ScriptedStack {
    let setup = setup.one_worker();
    let setup = setup.edit(FIRST, r#""first_pause_ms": 60000"#);
    setup.edit(LONGEST, r#""longest_pause_ms": 600000"#).start_scripted(Script::Allow).await
}

async fn breaker(stack: &ScriptedStack) -> [u64; 3] {
    let stats = stack.envoy.stats("purser_").await;
    ["purser_breaker;outcome=opened;", "purser_breaker;outcome=closed;", "purser_not_asked"]
        .map(|name| stats[&format!("wasmcustom.{name}")])
}

#[tokio::test(flavor = "multi_thread")]
async fn after_failures_in_a_row_nobody_asks_and_the_mode_decides_at_once() {
    for (setup, status) in [(Setup::default(), 200), (Setup::default().fail_closed(), 503)] {
        let stack = patient(setup).await;
        stack.backend.play(Script::Cause("database"));
        for _ in 0..25 {
            let answer = stack.chat(&App::of("acme"), &ping()).await.expect(status);
            let cause = if status == 200 { "database" } else { "" };
            assert_eq!(answer.header("x-purser-failure-cause"), cause);
        }
        assert_eq!(stack.backend.holds().len(), 5, "the others are spared");
        assert_eq!(breaker(&stack).await, [1, 0, 20]);
        // What was asked for may be held; what wasn't, is not.
        let items = stack.backend.settlements(if status == 200 { 25 } else { 5 }).await;
        let asked: Vec<_> = stack.backend.holds().iter().map(|hold| hold.hold_id).collect();
        let told: Vec<_> = items.iter().map(|item| item.hold_id()).collect();
        assert!(asked.iter().all(|id| told.contains(id)));
        stack.assert_healthy().await;
    }
}

/// Calls at once; what they say of the cause.
async fn causes_of(stack: &ScriptedStack, calls: usize) -> Vec<String> {
    let calls = (0..calls).map(|_| async {
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
        answer.header("x-purser-failure-cause").to_owned()
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_backend_that_says_nothing_once_that_is_known() {
    let stack = patient(Setup::as_shipped()).await;
    stack.backend.play(Script::Never);
    assert_eq!(causes_of(&stack, 5).await, ["timeout"; 5], "these did wait");
    assert_eq!(causes_of(&stack, 40).await, ["timeout"; 40]);
    assert_eq!(stack.backend.holds().len(), 5, "nobody who isn't asked can be waited for");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_probes_and_all_ask_again_when_it_is_answered() {
    let setup = Setup::default().one_worker();
    let setup = setup.edit(FIRST, r#""first_pause_ms": 100"#).edit(LONGEST, r#""longest_pause_ms": 200"#);
    let stack = setup.start_scripted(Script::Reset).await;
    for _ in 0..5 {
        stack.chat(&App::of("acme"), &ping()).await.expect(200);
    }
    assert_eq!(breaker(&stack).await[0], 1);
    // While it fails, a probe now and then.
    let before = stack.backend.holds().len();
    wait_until("three probes", async || {
        stack.chat(&App::of("acme"), &ping()).await.expect(200);
        let probes = stack.backend.holds().len() - before;
        if probes >= 3 { Ok(()) } else { Err(format!("{probes}")) }
    })
    .await;
    let [_, closed, spared] = breaker(&stack).await;
    assert_eq!(closed, 0);
    assert!(spared > 0);
    stack.backend.play(Script::Allow);
    wait_until("a verdict", async || {
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
        if answer.header("x-purser-failed-open").is_empty() { Ok(()) } else { Err("failed open".to_owned()) }
    })
    .await;
    assert_eq!(breaker(&stack).await[1], 1);
    let asked = stack.backend.holds().len();
    for _ in 0..10 {
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "");
    }
    assert_eq!(stack.backend.holds().len(), asked + 10);
    stack.assert_healthy().await;
}
