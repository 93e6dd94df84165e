//! Every route of the document for every kind of caller, and the document against the router.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::api_access::token;
use crate::support::*;

/// Who asks: nobody, a filter, viewers of team search, team ads, org acme, org other; editors of the same; an
/// admin. What is asked for is team search's of org acme.
const CALLERS: usize = 11;

// `-` is 401, `f` 403, `n` 404, `y` done.
const READ_TEAM: &str = "-fynynynyny";
const READ_LIST: &str = "-fyyynyyyny";
const READ_WHOLE: &str = "-fnnynnnyny";
const EDIT_TEAM: &str = "-fffffynyny";
const EDIT_WHOLE: &str = "-fffffnnyny";
const ADMINISTER: &str = "-fffffffffy";
const FILTER: &str = "-y---------";
const KNOWN: &str = "-yyyyyyyyyy";

/// Every operation: method and path of the document, what is asked, with which body, and who may.
fn matrix() -> Vec<(Method, &'static str, &'static str, Value, &'static str)> {
    let none = || json!(null);
    let (get, post, put, patch, delete) =
        (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let place = |fields: Value| {
        let mut body = json!({"org": "acme", "team": "search"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let budgets = "/v1/budgets";
    let one = "/v1/budgets/{budget_id}";
    vec![
        (post.clone(), "/v1/holds", "", hold_request(id(1)), FILTER),
        (post.clone(), "/v1/settlements", "", json!({"version": 1, "items": []}), FILTER),
        (get.clone(), "/v1/me", "", none(), KNOWN),
        (get.clone(), "/v1/usage", "?org=acme&month=2026-11", none(), READ_LIST),
        (get.clone(), "/v1/requests", "?org=acme", none(), READ_LIST),
        (get.clone(), "/v1/requests/{hold_id}", "", none(), READ_TEAM),
        (post.clone(), "/v1/erasures", "", place(json!({"user": "nobody"})), ADMINISTER),
        (get.clone(), budgets, "?org=acme", none(), READ_LIST),
        (post.clone(), budgets, "", place(json!({"window": "total", "limit_usd": "1"})), EDIT_TEAM),
        (
            put.clone(),
            "/v1/budgets:apply",
            "",
            json!({"org": "acme", "budgets": [{"team": "search", "window": "month", "limit_usd": "1"}]}),
            EDIT_TEAM,
        ),
        (get.clone(), one, "", none(), READ_TEAM),
        (patch.clone(), one, "", json!({"limit_usd": "5"}), EDIT_TEAM),
        (delete.clone(), one, "", none(), EDIT_TEAM),
        (get.clone(), "/v1/budgets/{budget_id}/periods", "", none(), READ_TEAM),
        (post.clone(), "/v1/budgets/{budget_id}/top-ups", "", json!({"amount_usd": "1"}), EDIT_TEAM),
        (get.clone(), "/v1/rules", "?org=acme", none(), READ_LIST),
        (put, "/v1/rules", "", place(json!({})), EDIT_TEAM),
        (delete.clone(), "/v1/rules", "?org=acme&team=search", none(), EDIT_TEAM),
        (get.clone(), "/v1/overrides", "?org=acme", none(), READ_LIST),
        (
            post.clone(),
            "/v1/overrides",
            "",
            place(json!({"minutes": 1, "reason": "x", "by": "x"})),
            EDIT_TEAM,
        ),
        (delete.clone(), "/v1/overrides/{override_id}", "", none(), EDIT_TEAM),
        (
            post.clone(),
            "/v1/explain",
            "",
            json!({"payer": {"org": "acme", "team": "search"}, "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o-mini"}}),
            READ_TEAM,
        ),
        (get.clone(), "/v1/lint", "?org=acme", none(), READ_WHOLE),
        (get.clone(), "/v1/prices/flagged", "?org=acme", none(), READ_LIST),
        (get.clone(), "/v1/identities", "?org=acme", none(), READ_LIST),
        (
            post.clone(),
            "/v1/identities",
            "",
            place(json!({"kind": "namespace", "value": "fresh"})),
            EDIT_TEAM,
        ),
        (delete.clone(), "/v1/identities/{identity_id}", "", none(), EDIT_TEAM),
        (get.clone(), "/v1/audit", "?org=acme", none(), READ_LIST),
        (get.clone(), "/v1/alerts", "?org=acme", none(), READ_LIST),
        (get.clone(), "/v1/webhooks", "?org=acme", none(), READ_WHOLE),
        (
            post.clone(),
            "/v1/webhooks",
            "",
            json!({"org": "acme", "url": "https://example.com/x"}),
            EDIT_WHOLE,
        ),
        (patch, "/v1/webhooks/{webhook_id}", "", json!({"format": "slack"}), EDIT_WHOLE),
        (delete.clone(), "/v1/webhooks/{webhook_id}", "", none(), EDIT_WHOLE),
        (get, "/v1/tokens", "", none(), ADMINISTER),
        (post, "/v1/tokens", "", json!({"name": "x", "role": "viewer"}), ADMINISTER),
        (delete, "/v1/tokens/{token_id}", "", none(), ADMINISTER),
    ]
}

/// Makes afresh what the rows are about; gives what stands for the variables of a path.
async fn things(pool: &PgPool) -> Vec<(&'static str, String)> {
    let mut transaction = pool.begin().await.unwrap();
    for table in ["budgets", "call_rules", "overrides", "identities", "webhooks"] {
        let sql = sqlx::AssertSqlSafe(format!("delete from {table}"));
        sqlx::query(sql).execute(&mut *transaction).await.unwrap();
    }
    let inserts = [
        (
            "{budget_id}",
            "insert into budgets (org, team, window_kind, limit_nanousd) values ('acme', 'search', 'day', 9000000000) returning budget_id",
        ),
        (
            "",
            "insert into call_rules (org, team, user_name, blocked, reason, allowed_models, denied_models, required_tiers) values ('acme', 'search', '', false, '', '{}', '{}', '{}') returning 0::bigint",
        ),
        (
            "{override_id}",
            "insert into overrides (org, team, user_name, created_by, reason, expires_at) values ('acme', 'search', '', 'x', 'x', now() + interval '1 hour') returning override_id",
        ),
        (
            "{identity_id}",
            "insert into identities (org, kind, value, team) values ('acme', 'namespace', 'chat', 'search') returning identity_id",
        ),
        (
            "{webhook_id}",
            "insert into webhooks (org, url, format, secret) values ('acme', 'https://example.com/', 'generic', 'sixteen-bytes-or-so') returning webhook_id",
        ),
        (
            "{token_id}",
            "insert into tokens (name, role, org, token_sha256) values ('x', 'viewer', 'acme', sha256(gen_random_uuid()::text::bytea)) returning token_id",
        ),
    ];
    let mut made = Vec::new();
    for (name, sql) in inserts {
        let number: i64 = sqlx::query_scalar(sql).fetch_one(&mut *transaction).await.unwrap();
        made.push((name, number.to_string()));
    }
    transaction.commit().await.unwrap();
    made
}

fn letter(status: u16) -> char {
    match status {
        401 => '-',
        403 => 'f',
        404 => 'n',
        200..=204 => 'y',
        _ => '?',
    }
}

/// The operations of the document.
async fn documented(service: &Service) -> BTreeMap<String, BTreeSet<String>> {
    let response = service.client.get(format!("{}/v1/openapi.json", service.base)).send().await.unwrap();
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let methods =
        |item: &Value| item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    document["paths"].as_object().unwrap().iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_route_is_open_to_those_it_is_for_and_to_nobody_else(pool: PgPool) {
    let service = Service::start(&pool).await;
    let mut tokens = vec![String::new(), TOKEN.to_owned()];
    for role in ["viewer", "editor"] {
        for (org, team) in [("acme", Some("search")), ("acme", Some("ads")), ("acme", None), ("other", None)]
        {
            tokens.push(token(&service, role, Some(org), team).await);
        }
    }
    tokens.push(ADMIN.to_owned());
    assert_eq!(tokens.len(), CALLERS);
    service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(77))).await;
    record(&pool, vec![settle(id(77), 5)]).await;
    let hold_id: uuid::Uuid =
        sqlx::query_scalar("select hold_id from llm_requests").fetch_one(&pool).await.unwrap();

    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (method, path, query, body, expected) in matrix() {
        rows.entry(path.to_owned()).or_default().insert(method.to_string());
        let mut seen = String::new();
        for token in &tokens {
            let mut asked = format!("{path}{query}").replace("{hold_id}", &hold_id.to_string());
            for (name, number) in things(&pool).await.iter().filter(|(name, _)| !name.is_empty()) {
                asked = asked.replace(name, number);
            }
            let (status, answer) = service.send(method.clone(), &asked, token, &body).await;
            seen.push(letter(status.as_u16()));
            if letter(status.as_u16()) == '?' {
                wrong.push(format!("{method} {asked}: {status} {answer}"));
            }
        }
        if seen != expected {
            wrong.push(format!("{method} {path}: expected {expected}, seen {seen}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A new route needs a row.
    assert_eq!(rows, documented(&service).await);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_document_has_the_routes_of_the_router_and_its_page_needs_no_internet(pool: PgPool) {
    let service = Service::start(&pool).await;
    let documented = documented(&service).await;
    for (path, methods) in &documented {
        let asked = path.replace(['{', '}'], "");
        let operators =
            ![purser_protocol::HOLDS_PATH, purser_protocol::SETTLEMENTS_PATH].contains(&path.as_str());
        let token = if operators { ADMIN } else { TOKEN };
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            let parsed: Method = method.parse().unwrap();
            let (status, answer) = service.send(parsed, &asked, token, &json!(null)).await;
            assert_eq!(status == 405, !methods.contains(method), "{method} {path}: {status}");
            assert_ne!(answer["detail"], "no such path", "{method} {path}");
        }
    }
    // Those routed by hand: the filters' own, which the document has, and what is no part of the API.
    let source = include_str!("../../src/api/mod.rs");
    let by_hand: Vec<&str> = source.matches(".route(\"/v1").collect();
    assert!(by_hand.is_empty(), "routes outside of the document");
    let page = service.raw(Method::GET, "/v1/docs/", "", String::new()).await;
    assert_eq!(page.status(), 200);
    let text = page.text().await.unwrap();
    for asset in text.split(['"', '\'']).filter(|part| part.ends_with(".js") || part.ends_with(".css")) {
        assert!(!asset.contains("//"), "{asset} is elsewhere");
        let asset = asset.trim_start_matches("./");
        let response = service.raw(Method::GET, &format!("/v1/docs/{asset}"), "", String::new()).await;
        assert_eq!(response.status(), 200, "{asset}");
    }
    assert!(text.contains("swagger-ui"), "{text}");
    service.stop().await;
}
