//! Who may edit, and that every edit is in the audit log.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN};
use crate::api_policies::{budget, done};
use crate::support::*;

/// An edit in somebody's name.
async fn edit_as(service: &Service, actor: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = service.client.request(method, format!("{}{path}", service.base)).bearer_auth(ADMIN);
    let response =
        request.header("x-purser-actor", actor).header("if-match", "*").json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_edit_is_in_the_audit_log_in_its_editors_name(pool: PgPool) {
    let service = Service::start(&pool).await;
    let new = json!({"org": "acme", "window": "day", "limit_usd": "1"});
    let (status, made) = edit_as(&service, "ann@acme", Method::POST, "/v1/budgets", &new).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    edit_as(&service, "bob", Method::PATCH, &path, &json!({"limit_usd": "2"})).await;
    edit_as(&service, "cid", Method::POST, &format!("{path}/top-ups"), &json!({"amount_usd": "3"})).await;
    edit_as(&service, "dan", Method::PUT, "/v1/rules", &json!({"org": "acme", "blocked": true})).await;
    edit_as(&service, "dan", Method::DELETE, "/v1/rules?org=acme", &json!(null)).await;
    let start = json!({"org": "acme", "minutes": 5, "reason": "pager", "by": "eve"});
    // Whoever breaks the glass signs for it; a header doesn't stand in.
    let (_, lifted) = edit_as(&service, "robot", Method::POST, "/v1/overrides", &start).await;
    edit_as(
        &service,
        "fay",
        Method::DELETE,
        &format!("/v1/overrides/{}", lifted["override_id"]),
        &json!(null),
    )
    .await;
    done(&service, Method::DELETE, &path, json!(null)).await;
    let answer = done(&service, Method::GET, "/v1/audit?org=acme", json!(null)).await;
    let lines: Vec<String> = answer["audit"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|line| ["actor", "action", "object"].map(|field| line[field].as_str().unwrap()).join(" "))
        .collect();
    let expected = [
        "ann@acme insert budgets",
        "bob update budgets",
        "cid insert budget_top_ups",
        "dan insert call_rules",
        "dan delete call_rules",
        "eve insert overrides",
        "fay update overrides",
        "admin token update budgets",
    ];
    assert_eq!(lines, expected);
    let raise = &answer["audit"][6];
    assert_eq!(
        (&raise["before"]["limit_nanousd"], &raise["after"]["limit_nanousd"]),
        (&json!(1_000_000_000), &json!(2_000_000_000))
    );
    assert_eq!((&answer["audit"][3]["after"], &answer["next_cursor"]), (&json!(null), &json!(null)));
    for actor in ["", " ", &"x".repeat(257)] {
        let (status, answer) = edit_as(&service, actor, Method::POST, "/v1/budgets", &new).await;
        assert_eq!(status, 422, "{actor:?} {answer}");
        assert!(answer["detail"].as_str().unwrap().starts_with("x-purser-actor: expected"), "{answer}");
    }
    let other = done(&service, Method::GET, "/v1/audit?org=other", json!(null)).await;
    assert_eq!(other, json!({"audit": [], "next_cursor": null}));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_audit_log_is_read_in_parts(pool: PgPool) {
    let service = Service::start(&pool).await;
    let many = "insert into budgets (org, team, window_kind, limit_nanousd)
                select org, 'team' || n, 'day', 1 from generate_series(1, 225) n, (values ('acme'), ('other')) o (org)";
    sqlx::query(many).execute(&pool).await.unwrap();
    let mut seen = Vec::new();
    let mut path = "/v1/audit?org=acme".to_owned();
    for expected in [200, 25] {
        let part = done(&service, Method::GET, &path, json!(null)).await;
        let lines = part["audit"].as_array().unwrap();
        assert_eq!(lines.len(), expected);
        seen.extend(lines.iter().map(|line| line["after"]["team"].as_str().unwrap().to_owned()));
        path = format!("/v1/audit?org=acme&cursor={}", part["next_cursor"].as_str().unwrap_or_default());
        assert_eq!(part["next_cursor"].is_null(), expected < 200);
    }
    assert_eq!(seen.len(), 225);
    assert_eq!((seen.first().unwrap().as_str(), seen.last().unwrap().as_str()), ("team225", "team1"));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 225);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_filters_token_opens_none_of_it(pool: PgPool) {
    let service = Service::start(&pool).await;
    budget(&service, json!({})).await;
    let before = number(&pool, "select count(*) from audit_log").await;
    let rule = json!({"org": "acme", "blocked": true});
    let over = json!({"org": "acme", "minutes": 5, "reason": "x", "by": "x"});
    for (method, path, body) in [
        (Method::POST, "/v1/budgets", json!({"org": "acme", "window": "week", "limit_usd": "1"})),
        (Method::GET, "/v1/budgets?org=acme", json!(null)),
        (Method::PATCH, "/v1/budgets/1", json!({"limit_usd": "9"})),
        (Method::DELETE, "/v1/budgets/1", json!(null)),
        (Method::POST, "/v1/budgets/1/top-ups", json!({"amount_usd": "1"})),
        (Method::GET, "/v1/rules?org=acme", json!(null)),
        (Method::PUT, "/v1/rules", rule),
        (Method::DELETE, "/v1/rules?org=acme", json!(null)),
        (Method::GET, "/v1/overrides?org=acme", json!(null)),
        (Method::POST, "/v1/overrides", over),
        (Method::DELETE, "/v1/overrides/1", json!(null)),
        (Method::GET, "/v1/audit?org=acme", json!(null)),
    ] {
        for token in [TOKEN, "", "admin-token-of-the-tes", "admin-token-of-the-test-"] {
            let (status, answer) = service.send(method.clone(), path, token, &body).await;
            // A filter's token is known, and is not enough.
            let (expected, detail) = if token == TOKEN {
                (403, "this token is a filter's; expected an admin's, editor's or viewer's")
            } else {
                (401, "expected a valid token as Authorization: Bearer TOKEN")
            };
            assert_eq!(
                (status.as_u16(), answer["detail"].as_str()),
                (expected, Some(detail)),
                "{method} {path} {token:?}"
            );
        }
    }
    assert_eq!(number(&pool, "select count(*) from audit_log").await, before);
    service.stop().await;
}
