//! Budgets over the API: pages and history, edits that meet, creates that are sent twice, whole sets.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::api_access::token;
use crate::api_policies::{budget, done};
use crate::support::*;

async fn with(service: &Service, method: Method, path: &str, header: (&str, &str), body: &Value) -> Response {
    let request = service.client.request(method, format!("{}{path}", service.base)).bearer_auth(ADMIN);
    request.header(header.0, header.1).json(body).send().await.unwrap()
}

async fn told(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or_default())
}

fn etag(response: &Response) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_edit_of_what_was_changed_meanwhile_is_refused(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = with(
        &service,
        Method::POST,
        "/v1/budgets",
        ("accept", "*/*"),
        &json!({"org": "acme", "window": "day", "limit_usd": "1"}),
    )
    .await;
    let first = etag(&made);
    let path = format!("/v1/budgets/{}", made.json::<Value>().await.unwrap()["budget_id"]);
    assert_eq!(etag(&service.raw(Method::GET, &path, ADMIN, String::new()).await), first);
    let raise = json!({"limit_usd": "2"});
    let blind = with(&service, Method::PATCH, &path, ("accept", "*/*"), &raise).await;
    let (status, problem) = told(blind).await;
    assert_eq!((status, &problem["type"]), (428, &json!("urn:purser:problem:precondition-required")));
    let raised = with(&service, Method::PATCH, &path, ("if-match", &first), &raise).await;
    assert_eq!(raised.status(), 200);
    let second = etag(&raised);
    assert_ne!(first, second);
    for (method, tag) in
        [(Method::PATCH, &first), (Method::DELETE, &first), (Method::PATCH, &"\"x\"".to_owned())]
    {
        let (status, problem) =
            told(with(&service, method.clone(), &path, ("if-match", tag), &raise).await).await;
        assert_eq!(
            (status, &problem["type"]),
            (412, &json!("urn:purser:problem:changed-meanwhile")),
            "{method} {tag}"
        );
    }
    // What was spent or topped up meanwhile is no edit.
    done(&service, Method::POST, &format!("{path}/top-ups"), json!({"amount_usd": "1"})).await;
    let either = format!("{first}, {second}");
    assert_eq!(
        with(&service, Method::DELETE, &path, ("if-match", &either), &json!(null)).await.status(),
        204
    );
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_create_that_is_sent_again_under_its_key_is_done_once(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = budget(&service, json!({})).await;
    let path = format!("/v1/budgets/{}/top-ups", made["budget_id"]);
    let key = ("idempotency-key", "a-key-of-the-test");
    let more = json!({"amount_usd": "3"});
    // At once from two sides: one does it, the other is told to come again or gets the same answer.
    let (one, two) = tokio::join!(
        with(&service, Method::POST, &path, key, &more),
        with(&service, Method::POST, &path, key, &more)
    );
    let statuses = [one.status().as_u16(), two.status().as_u16()];
    assert!(
        statuses.contains(&201) && statuses.iter().all(|status| [201, 409].contains(status)),
        "{statuses:?}"
    );
    let again = with(&service, Method::POST, &path, key, &more).await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let (status, again) = told(again).await;
    assert_eq!((status, &again["topped_up_usd"]), (201, &json!("3.00")));
    assert_eq!(number(&pool, "select count(*) from budget_top_ups").await, 1);
    let (status, problem) =
        told(with(&service, Method::POST, &path, key, &json!({"amount_usd": "4"})).await).await;
    assert_eq!((status, &problem["type"]), (422, &json!("urn:purser:problem:idempotency-key-reused")));
    // Another caller's key is another key.
    let editor = token(&service, "editor", Some("acme"), None).await;
    let request = service.client.post(format!("{}{path}", service.base)).bearer_auth(&editor);
    assert_eq!(request.header(key.0, key.1).json(&more).send().await.unwrap().status(), 201);
    assert_eq!(number(&pool, "select count(*) from budget_top_ups").await, 2);
    // What failed may be tried again, and a secret is told once.
    let bad = json!({"org": "acme", "window": "day", "limit_usd": "1"});
    let key = ("idempotency-key", "another");
    assert_eq!(with(&service, Method::POST, "/v1/budgets", key, &bad).await.status(), 409);
    assert_eq!(with(&service, Method::POST, "/v1/budgets", key, &bad).await.status(), 409);
    let key = ("idempotency-key", "a-token");
    let new = json!({"name": "x", "role": "viewer"});
    let first = told(with(&service, Method::POST, "/v1/tokens", key, &new).await).await.1;
    let second = told(with(&service, Method::POST, "/v1/tokens", key, &new).await).await.1;
    assert!(first["token"].is_string() && second.get("token").is_none(), "{second}");
    assert_eq!(first["token_id"], second["token_id"]);
    for wrong in ["", &"x".repeat(256)] {
        let response = with(&service, Method::POST, "/v1/tokens", ("idempotency-key", wrong), &new).await;
        assert_eq!(response.status(), 422, "{wrong:?}");
    }
    // Forgotten after a day.
    sqlx::query("update idempotency_keys set made_at = made_at - interval '25 hours'")
        .execute(&pool)
        .await
        .unwrap();
    assert!(budget_backend::admin::idempotency::forget(&pool).await.unwrap() >= 3);
    assert_eq!(number(&pool, "select count(*) from idempotency_keys").await, 0);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_listing_comes_in_parts_with_those_counted_under_each(pool: PgPool) {
    let service = Service::start(&pool).await;
    let each = budget(&service, json!({"team": "*", "limit_usd": "2"})).await;
    budget(&service, json!({"limit_usd": "10"})).await;
    let gone = budget(&service, json!({"team": "old"})).await;
    for (number, team) in ["a", "b", "größe"].into_iter().enumerate() {
        let mut call = hold_request(id(u64::try_from(number).unwrap()));
        call["payer"] = json!({"org": "acme", "team": team});
        service.send(Method::POST, "/v1/holds", TOKEN, &call).await;
    }
    let old = format!("/v1/budgets/{}", gone["budget_id"]);
    done(&service, Method::DELETE, &old, json!(null)).await;
    let (mut seen, mut path) = (Vec::new(), "/v1/budgets?org=acme&limit=2".to_owned());
    loop {
        let part = done(&service, Method::GET, &path, json!(null)).await;
        let rows = part["budgets"].as_array().unwrap();
        assert!(rows.len() <= 2);
        seen.extend(
            rows.iter()
                .map(|row| (row["budget_id"].as_i64().unwrap(), row["team"].as_str().map(str::to_owned))),
        );
        let Some(cursor) = part["next_cursor"].as_str() else { break };
        path = format!("/v1/budgets?org=acme&limit=2&cursor={cursor}");
    }
    let (each, org) = (each["budget_id"].as_i64().unwrap(), each["budget_id"].as_i64().unwrap() + 1);
    let team = |name: &str| Some(name.to_owned());
    assert_eq!(
        seen,
        [(each, team("*")), (each, team("a")), (each, team("b")), (each, team("größe")), (org, None)]
    );
    // What was archived is still there for whoever asks, with its history.
    let all = done(&service, Method::GET, "/v1/budgets?org=acme&archived=true&team=old", json!(null)).await;
    let archived = all["budgets"].as_array().unwrap().iter().find(|row| row["team"] == "old").unwrap();
    assert!(archived["archived_at"].is_string());
    assert!(done(&service, Method::GET, &old, json!(null)).await["archived_at"].is_string());
    let periods = done(&service, Method::GET, &format!("{old}/periods"), json!(null)).await;
    assert_eq!(periods["periods"][0]["spent_usd"], "0.00");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_says_how_much_of_it_is_used_and_when_it_is_gone(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = budget(&service, json!({"team": "search", "window": "month", "limit_usd": "0.0004"})).await;
    let call = id(1);
    service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(call)).await;
    let item = crate::api::settlement(call);
    service.send(Method::POST, "/v1/settlements", TOKEN, &json!({"version": 1, "items": [item]})).await;
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    let shown = done(&service, Method::GET, &path, json!(null)).await;
    let nanousd = |text: &Value| purser_protocol::parse_usd(text.as_str().unwrap()).unwrap();
    let spent = nanousd(&shown["spent_usd"]);
    assert!(spent > 0, "{shown}");
    assert_eq!(shown["spent_percent"], json!(spent * 100 / 400_000));
    assert_eq!(nanousd(&shown["remaining_usd"]), 400_000 - spent - nanousd(&shown["held_usd"]));
    // A period's first hour tells nothing.
    let young = number(&pool, "select extract(epoch from now() - date_trunc('month', now() at time zone 'UTC') at time zone 'UTC')::bigint").await < 3_600;
    assert_eq!(shown["forecast"].is_null(), young, "{shown}");
    if !young {
        assert_eq!(nanousd(&shown["forecast"]["recent_usd"]), spent);
        assert!(
            shown["forecast"]["gone_at"].as_str().unwrap() < shown["resets_at"].as_str().unwrap(),
            "{shown}"
        );
    }
    service.stop().await;
}

const SET: &str = "
org: acme
budgets:
  - {window: month, limit_usd: 1000, time_zone: Europe/Berlin}
  - team: search
    window: month
    limit_usd: \"250.50\"
    models: [gpt-4o*]
    ladder: {warn_at_percent: 80}
";

async fn apply(service: &Service, query: &str, text: &str) -> (u16, Value) {
    let request = service.client.put(format!("{}/v1/budgets:apply{query}", service.base)).bearer_auth(ADMIN);
    told(request.header("content-type", "application/yaml").body(text.to_owned()).send().await.unwrap()).await
}

fn counts(answer: &Value) -> [usize; 4] {
    ["created", "changed", "unchanged", "archived"].map(|field| answer[field].as_array().unwrap().len())
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_set_in_yaml_is_applied_and_the_second_time_changes_nothing(pool: PgPool) {
    let service = Service::start(&pool).await;
    let other = budget(&service, json!({"team": "ads"})).await;
    let (status, dry) = apply(&service, "?dry_run=true&prune=true", SET).await;
    assert_eq!((status, counts(&dry)), (200, [2, 0, 0, 1]), "{dry}");
    assert_eq!(
        (&dry["created"][1]["limit_usd"], &dry["created"][1]["budget_id"]),
        (&json!("250.50"), &json!(null))
    );
    assert_eq!(number(&pool, "select count(*) from budgets where archived_at is null").await, 1);
    let (_, first) = apply(&service, "", SET).await;
    assert_eq!(counts(&first), [2, 0, 0, 0], "{first}");
    let edits = number(&pool, "select count(*) from audit_log").await;
    let (_, second) = apply(&service, "", SET).await;
    assert_eq!(counts(&second), [0, 0, 2, 0], "{second}");
    assert_eq!(number(&pool, "select count(*) from audit_log").await, edits);
    let raised = SET.replace("1000", "2000");
    let (_, third) = apply(&service, "?prune=true", &raised).await;
    assert_eq!(counts(&third), [0, 1, 1, 1], "{third}");
    assert_eq!(
        (&third["changed"][0]["before"]["limit_usd"], &third["changed"][0]["limit_usd"]),
        (&json!("1000.00"), &json!("2000.00"))
    );
    assert_eq!(third["archived"][0]["budget_id"], other["budget_id"]);
    assert_eq!(counts(&apply(&service, "?prune=true", &raised).await.1), [0, 0, 2, 0]);

    // All or nothing, and every mistake at once.
    let before = number(&pool, "select count(*) from budgets").await;
    let body = json!({"org": "acme", "budgets": [
        {"window": "day", "limit_usd": "1"},
        {"window": "day", "limit_usd": "-1"},
        {"window": "day", "limit_usd": "1", "user": "ann"},
    ]});
    let (status, wrong) =
        told(with(&service, Method::PUT, "/v1/budgets:apply", ("accept", "*/*"), &body).await).await;
    let pointers: Vec<&str> =
        wrong["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
    assert_eq!((status, pointers), (422, vec!["#/budgets/1/limit_usd", "#/budgets/2/user"]), "{wrong}");
    for (text, part) in [
        ("org: acme\nbudgets: [{window: day, limit_usd: 1, limits: 2}]", "limits"),
        ("org: acme\nbudgets: [{window: day}]", "limit_usd"),
        ("org: acme\nbudgets: [{window: day, limit_usd: 1}, {window: day, limit_usd: 2}]", "budgets[1]"),
        ("org: acme\nbudgets: {", "YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\norg: *b", "YAML"),
    ] {
        let (status, problem) = apply(&service, "", text).await;
        assert_eq!(status, 422, "{text}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{text}: {problem}");
    }
    assert_eq!(number(&pool, "select count(*) from budgets").await, before);
    // A team's editor sets its own team's alone.
    let editor = token(&service, "editor", Some("acme"), Some("search")).await;
    let own = json!({"org": "acme", "budgets": [{"team": "search", "window": "day", "limit_usd": "1"}]});
    let (status, done) = service.send(Method::PUT, "/v1/budgets:apply?prune=true", &editor, &own).await;
    assert_eq!((status.as_u16(), counts(&done)), (200, [1, 0, 0, 1]), "{done}");
    let (status, _) = service.send(Method::PUT, "/v1/budgets:apply", &editor, &body).await;
    assert_eq!(status.as_u16(), 422);
    let foreign = json!({"org": "acme", "budgets": [{"window": "day", "limit_usd": "1"}]});
    assert_eq!(service.send(Method::PUT, "/v1/budgets:apply", &editor, &foreign).await.0.as_u16(), 404);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_raise_at_one_replica_acts_on_the_next_hold_at_another(pool: PgPool) {
    let (one, other) = (Service::start(&pool).await, Service::start(&pool).await);
    let made = budget(&one, json!({"limit_usd": "0"})).await;
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    for number in 0..10 {
        let (limit, expected) = if number % 2 == 0 { ("1", "allow") } else { ("0", "deny") };
        done(&one, Method::PATCH, &path, json!({"limit_usd": limit})).await;
        let (_, verdict) = other.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(number))).await;
        assert_eq!(verdict["verdict"], expected, "{number}: {verdict}");
    }
    one.stop().await;
    other.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_mistake_is_told_with_its_place(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (method, path, body, status, kind, place) in [
        (
            Method::POST,
            "/v1/budgets",
            json!({"org": "acme", "window": "day", "limit_usd": 5}),
            422,
            "invalid",
            "#/limit_usd",
        ),
        (
            Method::POST,
            "/v1/budgets",
            json!({"org": "acme", "window": "day", "limit_usd": "-5"}),
            422,
            "invalid",
            "#/limit_usd",
        ),
        (
            Method::POST,
            "/v1/budgets",
            json!({"org": "acme", "window": "day", "limit_usd": "5", "ladder": {"warm": 1}}),
            422,
            "invalid",
            "#/ladder/warm",
        ),
        (Method::GET, "/v1/budgets", json!(null), 400, "malformed", "org"),
        (Method::GET, "/v1/budgets?org=acme&limit=0", json!(null), 422, "invalid", "limit"),
        (Method::GET, "/v1/budgets?org=acme&cursor=x", json!(null), 422, "invalid", "cursor"),
        (Method::GET, "/v1/audit?org=acme&from=today", json!(null), 422, "invalid", "from"),
        (
            Method::PUT,
            "/v1/budgets:apply",
            json!({"org": "acme", "budgets": [{"window": "eon"}]}),
            422,
            "invalid",
            "#/budgets/0/window",
        ),
    ] {
        let (seen, problem) = told(with(&service, method, path, ("accept", "*/*"), &body).await).await;
        assert_eq!(
            (seen, problem["type"].as_str().unwrap()),
            (status, format!("urn:purser:problem:{kind}").as_str()),
            "{path} {problem}"
        );
        let fault = &problem["errors"][0];
        let seen = fault["pointer"].as_str().or(fault["parameter"].as_str());
        assert_eq!(seen, Some(place), "{path} {problem}");
    }
    let response = service.raw(Method::GET, "/v1/nowhere", ADMIN, String::new()).await;
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    service.stop().await;
}
