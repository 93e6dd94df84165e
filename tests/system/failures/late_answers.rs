//! A verdict that comes after the filter's deadline: what was held for it is given back if the call was not
//! sent, and settled under the same id if it was.

use std::time::Duration;

use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::link::Weather;
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

use super::parts::Parts;

/// Longer each way than [`setup`] waits for both.
const LATE: Weather = Weather::Slow(Duration::from_millis(1_200));

/// A deadline that a busy backend keeps, counting from when it is asked.
fn setup() -> Setup {
    Setup::as_shipped().edit(r#""hold_timeout_ms": 250"#, r#""hold_timeout_ms": 1000"#)
}

/// Waits until so many holds are in a state.
async fn holds(parts: &Parts, state: &str, count: i64) {
    wait_until(state, async || {
        let (found, open) =
            (parts.database.holds("acme", state).await, parts.database.holds("acme", "open").await);
        if (found, open) == (count, 0) { Ok(()) } else { Err(format!("{found} {state}, {open} open")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_is_given_back_where_the_call_was_not_sent() {
    let parts = Parts::start(setup().fail_closed(), 1).await;
    parts.replicas[0].org_budget("acme", "1.00").await;
    parts.to_backend.set(LATE);
    for number in 1..=2 {
        let answer = parts.chat(&App::of("acme"), &ping()).await.expect(503);
        assert_eq!(answer.json()["error"]["code"], "budget_service_unavailable");
        holds(&parts, "voided", number).await;
    }
    assert_eq!(parts.fake.received().attempts, 0);
    parts.database.settled("acme", 0).await;
    // Each was granted, not only asked for.
    let held: i64 = sqlx::query_scalar("SELECT count(*) FROM holds WHERE org = 'acme' AND held_nanousd > 0")
        .fetch_one(&parts.database.pool)
        .await
        .unwrap();
    assert_eq!(held, 2);
    assert!(parts.database.counters("acme").await.iter().all(|counter| counter.spent_nanousd == 0));
    parts.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_is_settled_under_its_id_where_the_call_was_sent() {
    let parts = Parts::start(setup(), 1).await;
    parts.replicas[0].org_budget("acme", "1.00").await;
    parts.to_backend.set(LATE);
    for number in 1..=2 {
        let answer = parts.chat(&App::of("acme"), &ping_stream()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true");
        let ledger = parts.database.settled("acme", number).await;
        holds(&parts, "settled", i64::try_from(number).unwrap()).await;
        assert!(ledger.iter().all(|row| row.entry == 0 && row.usage_quality == "exact"), "{ledger:?}");
        assert!(ledger.iter().all(|row| row.held_nanousd > 0), "the hold that came late: {ledger:?}");
        let sum: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
        assert_eq!(sum.unsigned_abs(), parts.fake.billed().total_nanousd);
    }
    parts.assert_healthy().await;
}
