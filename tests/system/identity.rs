//! Who pays.

use serde_json::json;
use system_tests::harness::client::{App, ping};
use system_tests::harness::stack::{Setup, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_nobody_is_denied_or_taken_for_the_default_payer() {
    let stack = Stack::start().await;
    stack.backend.org_budget("demo", "1.00").await;
    for app in [
        App::unidentified(),
        App::unidentified().with("x-budget-org", ""),
        App::unidentified().team("search").user("ann"),
        App::of(&"x".repeat(257)),
    ] {
        let answer = stack.chat(&app, &ping()).await;
        assert_eq!(answer.status.as_u16(), 403, "{app:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.header("x-should-retry"), "false");
        assert!(answer.json()["error"]["message"].is_string(), "{}", answer.text());
    }
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;

    let stack =
        Setup::default().unidentified(r#"{"org":"demo","team":"default","user":"default"}"#).start().await;
    stack.backend.org_budget("demo", "1.00").await;
    stack.chat(&App::unidentified(), &ping()).await.expect(200);
    let row = &stack.database.settled("demo", 1).await[0];
    assert_eq!((row.team.as_str(), row.user_name.as_str()), ("default", "default"));
    // Who says an org is that org, not the default payer with another name.
    stack.backend.org_budget("acme", "1.00").await;
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!((row.team.as_str(), row.user_name.as_str()), ("", ""));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payer_headers_never_reach_the_provider() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    // A second value is a forgery: nobody knows which of the two the trusted hop set.
    for (name, value) in [("x-budget-org", "other"), ("x-budget-team", "other"), ("x-budget-user", "other")] {
        let app = App::of("acme").team("search").user("ann").with(name, value);
        let answer = stack.chat(&app, &ping()).await;
        assert_eq!(answer.status.as_u16(), 403, "{name} twice: {}", answer.text());
    }
    assert_eq!(stack.fake.received().attempts, 0);
    let names = "数/ä?&=";
    let app = App::of("acme")
        .team(names)
        .user(names)
        .with("X-Budget-Extra", "1")
        .with("x-purser-hold-id", "forged");
    let answer = stack.chat(&app, &ping()).await.expect(200);
    assert_ne!(answer.header("x-purser-hold-id"), "forged");
    let models = app.headers().iter().fold(
        stack.http.get(format!("http://{}/v1/models", stack.envoy.egress)),
        |request, (name, value)| request.header(name, value),
    );
    assert_eq!(models.send().await.unwrap().status().as_u16(), 200);
    let rows = stack.fake.received().rows;
    assert_eq!(rows.len(), 2);
    for row in rows {
        for name in ["x-budget-org", "x-budget-team", "x-budget-user"] {
            assert_eq!(row.header(name), None, "{row:?}");
        }
    }
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!((row.team.as_str(), row.user_name.as_str()), (names, names));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_headers_come_from_the_configuration() {
    let stack = Setup::default().edit("x-budget-org", "x-tenant").start().await;
    stack.backend.create_budget(json!({"org": "acme", "window": "total", "limit_usd": "1.00"})).await;
    stack.chat(&App::unidentified().with("x-tenant", "acme"), &ping()).await.expect(200);
    stack.chat(&App::of("acme"), &ping()).await.expect(403);
    stack.database.settled("acme", 1).await;
    assert_eq!(stack.fake.received().rows[0].header("x-tenant"), None);
    stack.assert_healthy().await;
}
