//! The hold of a call that is still running doesn't expire.

use purser_protocol::Payer;
use reqwest::Response;
use system_tests::harness::client::{App, ping_stream};
use system_tests::harness::scripted::{Script, is_renewal};
use system_tests::harness::stack::{ScriptedStack, Setup};
use system_tests::harness::wait_until;
use uuid::Uuid;

/// A stream that waits at the gate `name` after its first word, and the id of its hold.
async fn stream(stack: &ScriptedStack, name: &str) -> (Response, Uuid) {
    let app = App::of("acme").team("search").with("x-fake-gate", name);
    let response = stack.open(&app, &ping_stream()).await;
    assert_eq!(response.status().as_u16(), 200);
    let hold_id = response.headers()["x-purser-hold-id"].to_str().unwrap().parse().unwrap();
    (response, hold_id)
}

async fn finish(stack: &ScriptedStack, name: &str, response: Response) {
    stack.fake.state.gates.open(name);
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
}

async fn wait_for_stat(stack: &ScriptedStack, name: &str, least: u64) {
    wait_until(name, async || {
        let stats = stack.envoy.stats("purser_renewals").await;
        if stats.get(name) >= Some(&least) { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_is_renewed_until_it_ends() {
    let stack = Setup::default().renew_every_second().start_scripted(Script::Allow).await;
    let (first, first_id) = stream(&stack, "first").await;
    let (second, second_id) = stream(&stack, "second").await;
    stack.backend.wait_for_renewals(first_id, 2).await;
    stack.backend.wait_for_renewals(second_id, 1).await;
    let payer = Payer { org: "acme".to_owned(), team: Some("search".to_owned()), user: None };
    assert!(stack.backend.renewals().iter().all(|renew| renew.payer == payer));
    finish(&stack, "first", first).await;
    stack.backend.settlements(1).await;

    let count = |id: Uuid| stack.backend.renewals().iter().filter(|renew| renew.hold_id == id).count();
    let (of_first, of_second) = (count(first_id), count(second_id));
    // The other stream's renewals tell how time passes.
    stack.backend.wait_for_renewals(second_id, of_second + 3).await;
    assert_eq!(count(first_id), of_first, "renewed after its end");
    finish(&stack, "second", second).await;
    stack.backend.settlements(2).await;
    for batch in stack.backend.batches() {
        let renewals = batch.items.iter().filter(|item| is_renewal(item)).count();
        assert!(renewals == 0 || renewals == batch.items.len(), "mixed: {batch:?}");
    }
    wait_for_stat(&stack, "wasmcustom.purser_renewals;outcome=recorded;", 6).await;
    let stats = stack.envoy.stats("purser_renewals").await;
    assert_eq!(stats["wasmcustom.purser_renewals_failed"], 0);
    assert_eq!(stats["wasmcustom.purser_renewals_dropped"], 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_knows_no_renewals_still_takes_settlements() {
    let stack = Setup::default().renew_every_second().start_scripted(Script::Allow).await;
    stack.backend.forget_renewals();
    let (response, hold_id) = stream(&stack, "gate").await;
    stack.backend.wait_for_renewals(hold_id, 2).await;
    // Another call's settlement is not held up meanwhile.
    stack.chat(&App::of("acme"), &ping_stream()).await.expect(200);
    stack.backend.settlements(1).await;
    wait_for_stat(&stack, "wasmcustom.purser_renewals_failed", 2).await;
    finish(&stack, "gate", response).await;
    let settled = stack.backend.settlements(2).await;
    assert_eq!(settled[1].hold_id(), hold_id);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_long_for_its_answer_is_renewed_too() {
    let stack = Setup::default().renew_every_second().start_scripted(Script::Allow).await;
    let app = App::of("acme").with("x-fake-gate", "gate");
    let body = system_tests::harness::client::ping();
    let call = stack.chat(&app, &body);
    let rest = async {
        let hold_id = wait_until("the hold", async || {
            stack.backend.holds().first().map(|hold| hold.hold_id).ok_or_else(|| "none".to_owned())
        })
        .await;
        stack.backend.wait_for_renewals(hold_id, 1).await;
        stack.fake.state.gates.open("gate");
    };
    let (answer, ()) = tokio::join!(call, rest);
    answer.expect(200);
    stack.backend.settlements(1).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlives_its_hold_is_charged_once() {
    let stack = Setup::default()
        .renew_every_second()
        .backend_setting("PURSER_HOLD_TTL_S", "4")
        .backend_setting("PURSER_SWEEP_INTERVAL_MS", "50")
        .backend_setting("PURSER_SWEEP_GRACE_S", "0")
        .start()
        .await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme").with("x-fake-gate", "late");
    let response = stack.open(&app, &ping_stream()).await;
    let name = "wasmcustom.purser_renewals;outcome=recorded;";
    // One a second: the sixth comes when the hold would be gone.
    wait_until("six renewals", async || {
        let stats = stack.envoy.stats("purser_renewals").await;
        if stats.get(name) >= Some(&6) { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    assert_eq!(stack.database.holds("acme", "open").await, 1);
    stack.fake.state.gates.open("late");
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!((row.cause.as_str(), row.usage_quality.as_str()), ("settled", "exact"), "{row:?}");
    assert_eq!(row.cost_nanousd.unsigned_abs(), stack.fake.billed().total_nanousd);
    stack.assert_healthy().await;
}
