//! Tokens: made, used, taken back; what a caller of a team sees; what guessing comes to.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::api_policies::{budget, done};
use crate::operator::{backend, json as printed, stderr, stdout};
use crate::support::*;

/// Makes a token; gives itself.
pub async fn token(service: &Service, role: &str, org: Option<&str>, team: Option<&str>) -> String {
    let body = json!({"name": format!("{role} of the test"), "role": role, "org": org, "team": team});
    let made = done(service, Method::POST, "/v1/tokens", body).await;
    // Backends hear of it a moment later.
    let given = made["token"].as_str().unwrap().to_owned();
    known(service, &given, true).await;
    given
}

/// Waits until a token is good, or no good any more.
async fn known(service: &Service, token: &str, good: bool) {
    let until = in_time();
    loop {
        let response = service.raw(Method::GET, "/v1/me", token, String::new()).await;
        if (response.status() == 200) == good {
            return;
        }
        assert!(
            std::time::Instant::now() < until,
            "a token is still {}",
            if good { "unknown" } else { "good" }
        );
        tokio::task::yield_now().await;
    }
}

async fn asked(service: &Service, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let (status, answer) = service.send(method, path, token, body).await;
    (status.as_u16(), answer)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_token_is_told_once_works_at_every_replica_and_is_taken_back(pool: PgPool) {
    let (service, other) = (Service::start(&pool).await, Service::start(&pool).await);
    let viewer = token(&service, "viewer", Some("acme"), None).await;
    known(&other, &viewer, true).await;
    let filter = json!({"name": "envoy", "role": "data_plane"});
    let filter =
        done(&service, Method::POST, "/v1/tokens", filter).await["token"].as_str().unwrap().to_owned();
    known(&other, &filter, true).await;
    let (status, held) = asked(&other, &filter, Method::POST, "/v1/holds", &hold_request(id(1))).await;
    assert_eq!((status, &held["verdict"]), (200, &json!("allow")));
    assert_eq!(asked(&other, &viewer, Method::POST, "/v1/holds", &hold_request(id(2))).await.0, 401);

    let listed = done(&service, Method::GET, "/v1/tokens", json!(null)).await;
    let tokens = listed["tokens"].as_array().unwrap();
    assert_eq!(
        (&tokens[0]["role"], &tokens[0]["org"], &tokens[1]["org"]),
        (&json!("viewer"), &json!("acme"), &json!("*"))
    );
    // Neither the listing, nor the log of edits, nor the table has it.
    let log = done(&service, Method::GET, "/v1/audit?org=acme", json!(null)).await;
    assert_eq!(
        (&log["audit"][0]["object"], &log["audit"][0]["action"]),
        (&json!("tokens"), &json!("insert"))
    );
    let stored: String =
        sqlx::query_scalar("select string_agg(t::text, '') from tokens t").fetch_one(&pool).await.unwrap();
    for text in [listed.to_string(), log.to_string(), stored] {
        assert!(!text.contains(&viewer) && !text.contains(&viewer[7..]), "{text}");
    }
    assert_eq!(log["audit"][0]["after"].get("token_sha256"), None);

    let path = format!("/v1/tokens/{}", tokens[0]["token_id"]);
    done(&service, Method::DELETE, &path, json!(null)).await;
    known(&other, &viewer, false).await;
    let (status, answer) = asked(&other, &viewer, Method::GET, "/v1/budgets?org=acme", &json!(null)).await;
    assert_eq!((status, &answer["type"]), (401, &json!("urn:purser:problem:unauthenticated")));
    assert_eq!(asked(&service, ADMIN, Method::DELETE, &path, &json!(null)).await.0, 404);
    for wrong in [
        json!({"name": "x", "role": "editor"}),
        json!({"name": "x", "role": "admin", "org": "acme"}),
        json!({"name": "x", "role": "viewer", "team": "search"}),
        json!({"name": "x", "role": "viewer", "org": "*"}),
        json!({"name": "", "role": "viewer"}),
        json!({"name": "x", "role": "king"}),
        json!({"name": "x", "role": "viewer", "days": 0}),
    ] {
        assert_eq!(asked(&service, ADMIN, Method::POST, "/v1/tokens", &wrong).await.0, 422, "{wrong}");
    }
    service.stop().await;
    other.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_first_admin_token_comes_from_a_command(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    let made =
        backend(&pool, &["token", "create", "--name", "first", "--role", "admin", "--file", path]).await;
    assert!(made.status.success(), "{}", stderr(&made));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(!stdout(&made).contains(&token) && !stderr(&made).contains(&token));
    // Nobody's file is written over.
    let again =
        backend(&pool, &["token", "create", "--name", "first", "--role", "admin", "--file", path]).await;
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    assert_eq!(number(&pool, "select count(*) from tokens").await, 1);
    let service = Service::start(&pool).await;
    let (status, me) = asked(&service, &token, Method::GET, "/v1/me", &json!(null)).await;
    assert_eq!((status, &me["name"], &me["role"]), (200, &json!("first"), &json!("admin")));
    let edit = json!({"org": "acme", "window": "day", "limit_usd": "1"});
    assert_eq!(asked(&service, &token, Method::POST, "/v1/budgets", &edit).await.0, 201);
    let log = done(&service, Method::GET, "/v1/audit?org=acme&object=budgets", json!(null)).await;
    assert_eq!(log["audit"][0]["actor"], "first (token 1)");

    let printed_once =
        backend(&pool, &["token", "create", "--name", "ci", "--role", "viewer", "--org", "acme", "--json"])
            .await;
    assert!(printed(&printed_once)["token"].as_str().unwrap().starts_with("purser_"));
    let listed = printed(&backend(&pool, &["token", "list", "--json"]).await);
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
    let table = stdout(&backend(&pool, &["token", "list"]).await);
    assert!(table.contains("first") && table.contains("viewer"), "{table}");
    assert!(backend(&pool, &["token", "revoke", "1"]).await.status.success());
    known(&service, &token, false).await;
    assert_eq!(backend(&pool, &["token", "revoke", "1"]).await.status.code(), Some(1));
    let wrong = backend(&pool, &["token", "create", "--name", "x", "--role", "editor"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_viewer_of_a_team_can_t_see_another(pool: PgPool) {
    let service = Service::start(&pool).await;
    let own = budget(&service, json!({"team": "search"})).await;
    let foreign = budget(&service, json!({"team": "ads"})).await;
    budget(&service, json!({})).await;
    budget(&service, json!({"team": "*", "window": "week"})).await;
    for team in ["search", "ads"] {
        done(&service, Method::PUT, "/v1/rules", json!({"org": "acme", "team": team, "reason": "x"})).await;
        let over = json!({"org": "acme", "team": team, "minutes": 5, "reason": "x", "by": "eve"});
        done(&service, Method::POST, "/v1/overrides", over).await;
        let identity = json!({"kind": "namespace", "value": team, "org": "acme", "team": team});
        done(&service, Method::POST, "/v1/identities", identity).await;
        let mut call = hold_request(id(if team == "ads" { 1 } else { 2 }));
        call["payer"]["team"] = json!(team);
        service.send(Method::POST, "/v1/holds", TOKEN, &call).await;
        let top_up = if team == "ads" { &foreign } else { &own };
        let path = format!("/v1/budgets/{}/top-ups", top_up["budget_id"]);
        done(&service, Method::POST, &path, json!({"amount_usd": "1"})).await;
    }
    let viewer = token(&service, "viewer", Some("acme"), Some("search")).await;
    for (path, field) in [
        ("/v1/budgets?org=acme", "budgets"),
        ("/v1/rules?org=acme", "rules"),
        ("/v1/overrides?org=acme", "overrides"),
        ("/v1/identities?org=acme", "identities"),
        ("/v1/audit?org=acme", "audit"),
        ("/v1/alerts?org=acme", "alerts"),
    ] {
        let (status, answer) = asked(&service, &viewer, Method::GET, path, &json!(null)).await;
        assert_eq!(status, 200, "{path} {answer}");
        assert!(!answer.to_string().contains("ads"), "{path} {answer}");
        let empty = answer[field].as_array().unwrap().is_empty();
        assert_eq!(empty, field == "alerts", "{path} {answer}");
    }
    let (_, listed) = asked(&service, &viewer, Method::GET, "/v1/budgets?org=acme", &json!(null)).await;
    let shown: Vec<(&Value, &Value)> =
        listed["budgets"].as_array().unwrap().iter().map(|view| (&view["team"], &view["window"])).collect();
    // Its own, and what it gets as each team does.
    assert_eq!(shown, [(&json!("search"), &json!("day")), (&json!("search"), &json!("week"))]);
    let foreign = &foreign["budget_id"];
    for path in [
        format!("/v1/budgets/{foreign}"),
        format!("/v1/budgets/{foreign}/periods"),
        "/v1/budgets?org=acme&team=ads".to_owned(),
        "/v1/budgets?org=other".to_owned(),
        "/v1/audit?org=acme&team=ads".to_owned(),
    ] {
        assert_eq!(asked(&service, &viewer, Method::GET, &path, &json!(null)).await.0, 404, "{path}");
    }
    // What is another's is told as what nobody has.
    let (_, hidden) =
        asked(&service, &viewer, Method::GET, &format!("/v1/budgets/{foreign}"), &json!(null)).await;
    let (_, none) = asked(&service, &viewer, Method::GET, "/v1/budgets/4711", &json!(null)).await;
    assert_eq!(hidden.to_string().replace(&foreign.to_string(), "N"), none.to_string().replace("4711", "N"));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn whoever_guesses_is_told_to_wait_and_filters_go_on(pool: PgPool) {
    let service = Service::start(&pool).await;
    // Its client keeps a connection that has shown a good token.
    assert_eq!(asked(&service, ADMIN, Method::GET, "/v1/rules?org=acme", &json!(null)).await.0, 200);
    let mut waits = None;
    for number in 0..200 {
        // A connection of its own for each guess.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let guess =
            client.get(format!("{}/v1/rules?org=acme", service.base)).bearer_auth(format!("guess-{number}"));
        let response = guess.send().await.unwrap();
        if response.status() == 429 {
            assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
            waits = Some(number);
            break;
        }
        assert_eq!(response.status(), 401);
    }
    assert!(waits.is_some_and(|number| number >= 60), "{waits:?}");
    assert_eq!(asked(&service, ADMIN, Method::GET, "/v1/rules?org=acme", &json!(null)).await.0, 200);
    let (status, _) = asked(&service, TOKEN, Method::POST, "/v1/holds", &hold_request(id(1))).await;
    assert_eq!(status, 200);
    service.stop().await;
}
