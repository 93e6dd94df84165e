//! The database goes away, by breaking off or by falling silent: holds are answered 503 in their time, and
//! settlements wait in the outboxes.

use std::time::{Duration, Instant};

use purser_protocol::{Api, Call, HOLDS_PATH, HoldRequest, MARKER_HEADER, Payer, Size, VERSION};
use system_tests::harness::backend::TOKEN;
use system_tests::harness::client::{App, ping, ping_stream, post_chat};
use system_tests::harness::link::Weather;
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

use super::parts::Parts;

/// What a hold gives the backend, milliseconds.
const DEADLINE_MS: u32 = 10_000;

fn hold() -> HoldRequest {
    HoldRequest {
        version: VERSION,
        hold_id: uuid::Uuid::now_v7(),
        payer: Payer { org: "acme".to_owned(), team: None, user: None },
        lookup: None,
        call: Call {
            api: Api::OpenaiChat,
            provider: "openai".to_owned(),
            model: "gpt-4o-mini".to_owned(),
            stream: false,
        },
        service_tier: None,
        size: Size { text_bytes: 4, choices: 1, ..Size::default() },
        tags: std::collections::BTreeMap::new(),
        deadline_ms: DEADLINE_MS,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_holds_fail_in_time_and_settlements_wait() {
    let parts = Parts::start(Setup::default(), 1).await;
    let backend = &parts.replicas[0];
    backend.org_budget("acme", "1.00").await;
    let mut settled = 0;
    for (number, away) in [Weather::Cut, Weather::Silent].into_iter().enumerate() {
        let gate = format!("gate-{number}");
        let app = App::of("acme").with("x-fake-gate", &gate);
        let running = post_chat(&parts.http, parts.envoy.egress, &app, &ping_stream()).await.unwrap();
        assert_eq!(parts.database.holds("acme", "open").await, 1);
        parts.to_database.set(away);

        let asked = Instant::now();
        let refused = backend.post(HOLDS_PATH, TOKEN, &serde_json::to_value(hold()).unwrap()).await;
        assert_eq!(refused.status().as_u16(), 503, "{away:?}");
        assert!(refused.headers().contains_key(MARKER_HEADER), "it is the backend that says so");
        assert!(asked.elapsed() < Duration::from_millis(DEADLINE_MS.into()), "{away:?}");
        wait_until("the backend to say so", async || {
            let ready = parts.http.get(format!("http://{}/readyz", backend.addr())).send().await;
            match ready.map(|ready| ready.status().as_u16()) {
                Ok(503) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;

        let answer = parts.chat(&App::of("acme"), &ping()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true", "{away:?}");
        parts.fake.state.gates.open(&gate);
        assert!(running.text().await.unwrap().ends_with("data: [DONE]\n\n"));
        parts.wait_for_outbox(2).await;
        assert_eq!(parts.database.ledger("acme").await.len(), settled, "nobody was told {away:?}");

        parts.to_database.set(Weather::Fair);
        settled += 2;
        let ledger = parts.database.settled("acme", settled).await;
        parts.wait_for_outbox(0).await;
        assert!(ledger.iter().all(|row| row.usage_quality == "exact"), "{ledger:?}");
        let sum: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
        assert_eq!(sum.unsigned_abs(), parts.fake.billed().total_nanousd, "{away:?}: {ledger:?}");
    }
    parts.assert_healthy().await;
}
