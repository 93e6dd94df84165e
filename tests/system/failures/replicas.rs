//! A replica of the backend is killed: the others go on, and what it had not acknowledged is told to them.

use system_tests::harness::client::{App, ping, ping_stream, post_chat};
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

use super::parts::Parts;

/// Envoy asks its backends whether they are ready, and leaves out who isn't: its workers at once, not within
/// the second for which it gathers such changes.
const HEALTH_CHECKS: &str = "    common_lb_config: {update_merge_window: 0s}
    health_checks:
    - {timeout: 5s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 1, healthy_threshold: 1,
       http_health_check: {path: /readyz}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_leaves_its_settlements_and_its_calls_to_the_others() {
    let name = "  - name: purser_backend\n";
    let setup = Setup::default().fail_closed().edit(name, &format!("{name}{HEALTH_CHECKS}"));
    let mut parts = Parts::start(setup, 2).await;
    parts.replicas[0].org_budget("acme", "1.00").await;
    let healthy = async |parts: &Parts, expected: u64| {
        let name = "cluster.purser_backend.membership_healthy";
        wait_until("Envoy to see who is ready", async || {
            let stats = parts.envoy.stats(name).await;
            if stats.get(name) == Some(&expected) { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await;
    };
    healthy(&parts, 2).await;
    // Several at a time, so that both replicas held some of them.
    let app = App::of("acme").with("x-fake-gate", "gate");
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(post_chat(&parts.http, parts.envoy.egress, &app, &ping_stream()).await.unwrap());
    }
    assert_eq!(parts.database.holds("acme", "open").await, 6);
    parts.replicas[0].kill().await;
    parts.fake.state.gates.open("gate");
    for response in running {
        assert_eq!(response.status().as_u16(), 200);
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    let ledger = parts.database.settled("acme", 6).await;
    assert!(ledger.iter().all(|row| row.admission == "held" && row.usage_quality == "exact"), "{ledger:?}");

    healthy(&parts, 1).await;
    for _ in 0..10 {
        parts.chat(&App::of("acme"), &ping()).await.expect(200);
    }
    let ledger = parts.database.settled("acme", 16).await;
    let sum: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(sum.unsigned_abs(), parts.fake.billed().total_nanousd);

    parts.replicas[0].start().await;
    healthy(&parts, 2).await;
    parts.chat(&App::of("acme"), &ping()).await.expect(200);
    parts.database.settled("acme", 17).await;
    parts.assert_healthy().await;
}
