//! What the filter does with a backend that misbehaves. "Denied" and "failed" never mix: only a
//! failure consults the failure mode.

use std::time::Duration;

use purser_protocol::{Admission, Allow, Deny, DenyReason, Rewrite, SettlementItem, UsageQuality, Verdict};
use serde_json::json;
use system_tests::harness::client::{App, http, ping, ping_stream, post_chat};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

/// No verdict in any of these.
fn failures() -> Vec<Script> {
    vec![
        Script::Status(500),
        Script::Status(503),
        Script::Status(204),
        Script::Unmarked(401),
        Script::Unmarked(404),
        Script::Body(""),
        Script::Body("{\"version\":1"),
        Script::Body("<html>It works!</html>"),
        Script::Body(r#"{"version":1,"hold_id":"00000000-0000-0000-0000-000000000000","verdict":"maybe"}"#),
        Script::WithoutMarker,
        Script::WrongHold,
        Script::Half,
        Script::Reset,
        Script::Never,
        Script::Cause("database"),
        // After the filter's deadline of 250 ms.
        Script::Late(Duration::from_millis(1_500)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verdict_lets_the_call_pass_where_the_route_fails_open() {
    let stack = Setup::as_shipped().without_breaker().start_scripted(Script::Allow).await;
    for (number, script) in failures().into_iter().enumerate() {
        stack.backend.play(script.clone());
        let answer = stack.chat(&App::of("acme").team("search"), &ping_stream()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true", "{script:?}");
        let settled = stack.backend.settlements(1).await;
        let SettlementItem::Settle(settlement) = &settled[0] else {
            panic!("{script:?}: {settled:?}");
        };
        assert_eq!(settlement.admission, Admission::FailOpen, "{script:?}");
        assert_eq!(settlement.usage_quality, UsageQuality::Exact, "{script:?}");
        assert_eq!(settlement.usage.output_tokens, 16, "{script:?}");
        assert_eq!(settlement.payer.team.as_deref(), Some("search"), "{script:?}");
        assert_eq!(settlement.hold_id, stack.backend.holds()[0].hold_id, "{script:?}");
        assert_eq!(stack.backend.holds().len(), 1, "{script:?}");
        assert_eq!(stack.fake.received().attempts, number as u64 + 1, "{script:?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verdict_stops_the_call_where_the_route_fails_closed() {
    let stack = Setup::as_shipped().fail_closed().without_breaker().start_scripted(Script::Allow).await;
    for script in failures() {
        stack.backend.play(script.clone());
        let answer = stack.chat(&App::of("acme"), &ping()).await;
        assert_eq!(answer.status.as_u16(), 503, "{script:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/json", "{script:?}");
        assert_eq!(answer.header("x-purser-denied-tier"), "", "{script:?}");
        assert_ne!(answer.json()["error"]["code"], "insufficient_quota", "{script:?}");
        let given_back = stack.backend.settlements(1).await;
        assert!(matches!(given_back[0], SettlementItem::Void(_)), "{script:?}: {given_back:?}");
        assert_eq!(given_back[0].hold_id(), stack.backend.holds()[0].hold_id, "{script:?}");
    }
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_the_filter_itself_stops_the_call_also_where_the_route_fails_open() {
    let stack = Setup::default().start_scripted(Script::Allow).await;
    for status in [400, 401, 403, 404, 413, 422, 429] {
        stack.backend.play(Script::Status(status));
        let answer = stack.chat(&App::of("acme"), &ping()).await;
        assert_eq!(answer.status.as_u16(), 503, "{status}: {}", answer.text());
    }
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_denies_in_both_modes() {
    for setup in [Setup::default(), Setup::default().fail_closed()] {
        let stack = setup.start_scripted(Script::Allow).await;
        for (reason, status, code) in [
            (DenyReason::OverBudget, 429, "insufficient_quota"),
            (DenyReason::NotPriceable, 403, "not_priceable"),
            (DenyReason::Blocked, 403, "blocked"),
            (DenyReason::ModelNotAllowed, 403, "model_not_allowed"),
            (DenyReason::NoBudget, 403, "no_budget"),
            (DenyReason::NotBoundable, 403, "not_boundable"),
            (DenyReason::Closed, 403, "denied"),
            (DenyReason::Other, 403, "denied"),
        ] {
            let message = "No more \"money\" \u{1F4B8}.".to_owned();
            let deny = Verdict::Deny(Deny { reason, message: message.clone(), ..Deny::default() });
            stack.backend.play(Script::Verdict(Box::new(deny)));
            let answer = stack.chat(&App::of("acme"), &ping()).await;
            assert_eq!(answer.status.as_u16(), status, "{reason:?}: {answer:?}");
            assert_eq!(answer.header("content-type"), "application/json", "{reason:?}");
            assert_eq!(answer.json()["error"]["code"], code, "{reason:?}");
            assert_eq!(answer.header("x-should-retry"), "false", "{reason:?}");
            assert_eq!(answer.header("x-purser-failed-open"), "", "{reason:?}");
            assert_eq!(answer.json()["error"]["message"], message, "{reason:?}");
        }
        assert_eq!(stack.fake.received().attempts, 0);
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_verdict_gives_the_hold_back() {
    let stack = Setup::default().start_scripted(Script::Never).await;
    // A client of its own: aborting its call closes its connection.
    let (http, egress) = (http(), stack.envoy.egress);
    let call = tokio::spawn(async move {
        post_chat(&http, egress, &App::of("acme"), &ping()).await.map(|response| response.status())
    });
    wait_until("the hold", async || match stack.backend.holds().len() {
        1 => Ok(()),
        holds => Err(format!("{holds} holds")),
    })
    .await;
    call.abort();
    let given_back = stack.backend.settlements(1).await;
    assert!(matches!(given_back[0], SettlementItem::Void(_)), "{given_back:?}");
    assert_eq!(given_back[0].hold_id(), stack.backend.holds()[0].hold_id);
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_reaches_the_provider() {
    let rewrite = Rewrite { model: Some("gpt-4.1-mini".to_owned()), max_output_tokens: Some(5) };
    let allow = Allow { rewrite: Some(rewrite), ..grant() };
    let stack = Setup::default().start_scripted(Script::Verdict(Box::new(Verdict::Allow(allow)))).await;
    let answer = stack.chat(&App::of("acme"), &ping_stream()).await.expect(200);
    assert!(answer.text().contains(r#""finish_reason":"length""#), "{}", answer.text());
    let row = &stack.fake.received().rows[0];
    let sent: serde_json::Value = serde_json::from_str(&row.body).unwrap();
    assert_eq!(sent["model"], "gpt-4.1-mini");
    assert_eq!(sent["max_completion_tokens"], 5);
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    assert_eq!(row.header("content-length"), Some(row.body_bytes.to_string().as_str()));
    let settled = stack.backend.settlements(1).await;
    let SettlementItem::Settle(settlement) = &settled[0] else {
        panic!("{settled:?}");
    };
    assert_eq!(settlement.call.model, "gpt-4.1-mini", "the model as sent");
    assert_eq!(settlement.usage.output_tokens, 5);
    stack.assert_healthy().await;
}
