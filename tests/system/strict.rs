//! A payer of a strict budget is not let through without a verdict, not even where the route fails open.

use purser_protocol::{Admission, Allow, Rewrite, SettlementItem, Verdict};
use serde_json::json;
use system_tests::harness::client::{App, ping, ping_stream, with};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::Setup;

fn strict() -> Script {
    Script::Verdict(Box::new(Verdict::Allow(Allow { strict: true, ..grant() })))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_payer_is_refused_without_a_verdict_and_others_pass() {
    let stack = Setup::default().one_worker().start_scripted(strict()).await;
    let ann = App::of("acme").team("search").user("ann");
    let bob = App::of("acme").team("search").user("bob");
    stack.chat(&ann, &ping()).await.expect(200);
    stack.backend.settlements(1).await;
    stack.backend.play(Script::Allow);
    stack.chat(&bob, &ping()).await.expect(200);
    stack.backend.settlements(1).await;

    for gone in [Script::Reset, Script::Unmarked(503)] {
        stack.backend.play(gone);
        let answer = stack.chat(&ann, &ping_stream()).await.expect(503);
        assert_eq!(answer.header("x-should-retry"), "false");
        assert_eq!(answer.json()["error"]["code"], "budget_service_unavailable");
        let answer = stack.chat(&bob, &ping_stream()).await.expect(200);
        assert_eq!(answer.header("x-purser-failed-open"), "true");
        let items = stack.backend.settlements(2).await;
        for item in items {
            match item {
                SettlementItem::Void(void) => assert_eq!(void.payer.user.as_deref(), Some("ann")),
                SettlementItem::Settle(settlement) => {
                    assert_eq!(settlement.payer.user.as_deref(), Some("bob"));
                    assert_eq!(settlement.admission, Admission::FailOpen);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let stats = stack.envoy.stats("purser_failed").await;
    assert_eq!(stats["wasmcustom.purser_failed_closed"], 2);
    assert_eq!(stats["wasmcustom.purser_failed_open"], 2);
    assert_eq!(stack.fake.received().attempts, 4);

    // A verdict is a verdict for both.
    stack.backend.play(strict());
    stack.chat(&ann, &ping()).await.expect(200);
    stack.chat(&bob, &ping()).await.expect(200);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_strict_verdict_reaches_the_provider() {
    let rewrite = Rewrite { model: None, max_output_tokens: Some(5) };
    let allow = Allow { strict: true, rewrite: Some(rewrite), ..grant() };
    let stack = Setup::default().start_scripted(Script::Verdict(Box::new(Verdict::Allow(allow)))).await;
    let mut uncapped = ping();
    uncapped.as_object_mut().unwrap().remove("max_completion_tokens");
    for (number, body) in
        [ping(), uncapped.clone(), with(uncapped, &json!({"max_tokens": 9}))].iter().enumerate()
    {
        let answer = stack.chat(&App::of("acme"), body).await.expect(200);
        assert_eq!(answer.json()["usage"]["completion_tokens"], 5, "{body}");
        let sent = &stack.fake.received().rows[number];
        let sent: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
        assert_eq!(sent["model"], body["model"]);
        let cap = if body["max_tokens"].is_null() { "max_completion_tokens" } else { "max_tokens" };
        assert_eq!(sent[cap], 5, "{sent}");
    }
    stack.assert_healthy().await;
}
