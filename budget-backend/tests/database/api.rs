//! The whole service over HTTP.

use budget_backend::app::Application;
use budget_backend::config::Config;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::operator::url;
use crate::support::*;

pub const TOKEN: &str = "data-plane-token-of-the-test";
pub const ADMIN: &str = "admin-token-of-the-test";

pub struct Service {
    pub base: String,
    pub client: Client,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Service {
    pub async fn start(pool: &PgPool) -> Self {
        let database = url(pool);
        let config = Config::read(&move |name| {
            Some(match name {
                "DATABASE_URL" => database.clone(),
                "PURSER_TOKEN" => TOKEN.to_owned(),
                "PURSER_ADMIN_TOKEN" => ADMIN.to_owned(),
                "PURSER_LISTEN_ADDR" => "127.0.0.1:0".to_owned(),
                "PURSER_DB_POOL_MIN" => "1".to_owned(),
                "PURSER_DB_POOL_MAX" => "8".to_owned(),
                _ => return None,
            })
        })
        .unwrap();
        let application = Application::build(config).await.unwrap();
        let base = format!("http://{}", application.addr().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let stop = async { drop(stopped.await) };
            application.run(stop).await.unwrap();
        });
        Self { base, client: Client::new(), stop: Some(stop), served }
    }

    pub async fn send(&self, method: Method, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.raw(method, path, token, body.to_string()).await;
        assert_eq!(response.headers()["x-purser-backend"], "1", "{path}");
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn raw(&self, method: Method, path: &str, token: &str, body: String) -> Response {
        self.client
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(token)
            .header("content-type", "application/json")
            // Whatever it is by now: what an ETag is for has a test of its own.
            .header("if-match", "*")
            .body(body)
            .send()
            .await
            .unwrap()
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.served.await.unwrap();
    }
}

pub fn hold_request(hold_id: uuid::Uuid) -> Value {
    json!({
        "version": 1, "hold_id": hold_id, "payer": {"org": "acme", "team": "search", "user": "ann"},
        "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o-mini", "stream": false},
        "size": {"text_bytes": 4000, "max_output_tokens": 100, "choices": 1}, "deadline_ms": 5000
    })
}

pub fn settlement(hold_id: uuid::Uuid) -> Value {
    json!({
        "kind": "settle", "hold_id": hold_id, "payer": {"org": "acme", "team": "search", "user": "ann"},
        "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o-mini", "stream": false},
        "size": {"text_bytes": 4000, "max_output_tokens": 100, "choices": 1}, "admission": "held",
        "answered_model": "gpt-4o-mini-2024-07-18", "response_id": "chatcmpl-1",
        "usage": {"input_tokens": 900, "cached_input_tokens": 100, "output_tokens": 50},
        "usage_quality": "exact", "http_status": 200, "ending": "complete",
        "started_at_unix_ms": 1_700_000_000_000_i64, "duration_ms": 900
    })
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_call_is_held_settled_and_shown(pool: PgPool) {
    let service = Service::start(&pool).await;
    let (status, made) = service
        .send(
            Method::POST,
            "/v1/budgets",
            ADMIN,
            &json!({"org": "acme", "team": "search", "window": "day", "limit_usd": "5.00"}),
        )
        .await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(
        (&made["tier"], &made["limit_usd"], &made["spent_usd"]),
        (&json!("team"), &json!("5.00"), &json!("0.00"))
    );

    let call = id(1);
    let (status, held) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(call)).await;
    assert_eq!(status, StatusCode::OK, "{held}");
    // 1,000 input tokens at 0.15 USD and 100 output tokens at 0.60 USD a million.
    assert_eq!((&held["verdict"], &held["held_nanousd"]), (&json!("allow"), &json!(210_000)));
    assert_eq!(held["remaining"][0]["remaining_nanousd"], json!(4_999_790_000_i64));

    let batch = json!({"version": 1, "items": [settlement(call), settlement(call)]});
    let (status, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let outcomes: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, [&json!("recorded"), &json!("duplicate")]);

    // 900 × 0.15 + 100 × 0.075 + 50 × 0.60 millionths of a dollar.
    assert_eq!(number(&pool, "select cost_nanousd from llm_requests").await, 172_500);
    let (_, list) = service.send(Method::GET, "/v1/budgets?org=acme", ADMIN, &json!(null)).await;
    let budget = &list["budgets"][0];
    assert_eq!((&budget["spent_usd"], &budget["held_usd"]), (&json!("0.0001725"), &json!("0.00")));
    assert_eq!(budget["remaining_usd"], json!("4.9998275"));
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_new_budget_shows_at_once_what_its_period_has_spent(pool: PgPool) {
    let service = Service::start(&pool).await;
    record(&pool, vec![settle(id(1), 1_500_000_000)]).await;
    let limit = json!({"org": "acme", "team": "search", "window": "month", "limit_usd": "10"});
    let (_, made) = service.send(Method::POST, "/v1/budgets", ADMIN, &limit).await;
    assert_eq!((&made["spent_usd"], &made["remaining_usd"]), (&json!("1.50"), &json!("8.50")), "{made}");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_denial_says_what_ran_out(pool: PgPool) {
    let service = Service::start(&pool).await;
    let limit = json!({"org": "acme", "team": "search", "user": "*", "window": "day", "limit_usd": "0.0002"});
    service.send(Method::POST, "/v1/budgets", ADMIN, &limit).await;
    let (status, denied) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(1))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&denied["verdict"], &denied["reason"]), (&json!("deny"), &json!("over_budget")));
    let budget = &denied["budget"];
    assert_eq!((&budget["tier"], &budget["window"]), (&json!("user"), &json!("day")));
    assert_eq!((&budget["limit_nanousd"], &budget["needed_nanousd"]), (&json!(200_000), &json!(210_000)));
    let resets_at = budget["resets_at"].as_str().unwrap();
    assert!(resets_at.ends_with("T00:00:00Z"), "{resets_at}");
    let message = denied["message"].as_str().unwrap();
    for part in ["day", "user", "ann", "acme", "0.0002 USD", "0.00021 USD", resets_at] {
        assert!(message.contains(part), "{part} is missing: {message}");
    }
    // A raise acts on the next hold.
    let number = budget["budget_id"].as_i64().unwrap();
    let (status, _) = service
        .send(Method::PATCH, &format!("/v1/budgets/{number}"), ADMIN, &json!({"limit_usd": "1"}))
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, held) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(2))).await;
    assert_eq!(held["verdict"], json!("allow"));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn bad_input_is_told_what_was_expected_and_changes_nothing(pool: PgPool) {
    let service = Service::start(&pool).await;
    let with = |pointer: &str, value: Value| {
        let mut request = hold_request(id(1));
        *request.pointer_mut(pointer).unwrap() = value;
        request
    };
    let budget = |fields: Value| {
        let mut budget = json!({"org": "acme", "window": "day", "limit_usd": "1"});
        budget.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        budget
    };
    let batch = |count: usize| json!({"version": 1, "items": vec![settlement(id(1)); count]});
    let holds = "/v1/holds";
    let cases: Vec<(Method, &str, &str, Value, u16, &str)> = vec![
        (Method::POST, holds, "wrong", hold_request(id(1)), 401, "Bearer"),
        (Method::POST, holds, ADMIN, hold_request(id(1)), 401, "Bearer"),
        (Method::GET, "/v1/budgets?org=acme", TOKEN, json!(null), 403, "filter"),
        (Method::POST, holds, TOKEN, with("/version", json!(99)), 422, "version"),
        (Method::POST, holds, TOKEN, with("/hold_id", json!("seven")), 422, "hold_id"),
        (Method::POST, holds, TOKEN, with("/size/text_bytes", json!(-1)), 422, "text_bytes"),
        (Method::POST, holds, TOKEN, json!([]), 422, "struct HoldRequest"),
        (Method::GET, holds, TOKEN, json!(null), 405, "method"),
        (Method::GET, "/v2/holds", TOKEN, json!(null), 404, "path"),
        (Method::POST, "/v1/settlements", TOKEN, batch(257), 413, "256"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"limit_usd": "-1"})), 422, "limit_usd"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"limit_usd": "1e3"})), 422, "limit_usd"),
        (
            Method::POST,
            "/v1/budgets",
            ADMIN,
            budget(json!({"limit_usd": "0.0000000001"})),
            422,
            "nine decimals",
        ),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"limit_usd": 1.5})), 422, "limit_usd"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"window": "hour"})), 422, "window"),
        (
            Method::POST,
            "/v1/budgets",
            ADMIN,
            budget(json!({"time_zone": "Mars/Olympus"})),
            422,
            "Mars/Olympus",
        ),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"org": ""})), 422, "org"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"org": "*"})), 422, "org"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"user": "ann"})), 422, "team"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"team": "*", "user": "ann"})), 422, "last place"),
        (Method::POST, "/v1/budgets", ADMIN, budget(json!({"limits": "1"})), 422, "limits"),
        (Method::PATCH, "/v1/budgets/77", ADMIN, json!({"limit_usd": "1"}), 404, "77"),
        (Method::PATCH, "/v1/budgets/x", ADMIN, json!({"limit_usd": "1"}), 404, "x"),
        (Method::GET, "/v1/budgets", ADMIN, json!(null), 400, "org"),
    ];
    for (method, path, token, body, expected, part) in cases {
        let (status, answer) = service.send(method, path, token, &body).await;
        assert_eq!(status.as_u16(), expected, "{path} {body}: {answer}");
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(part), "{path} {body}: {answer}");
    }
    assert_eq!(number(&pool, "select count(*) from holds").await, 0);
    assert_eq!(number(&pool, "select count(*) from budgets").await, 0);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_can_t_be_priced_or_named_is_denied_not_failed(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (pointer, value, part) in [
        ("/payer/team", json!("a\u{0}b"), "control"),
        ("/payer/org", json!(""), "payer.org"),
        ("/payer/user", json!("*"), "payer.user"),
        ("/call/model", json!("m".repeat(300)), "call.model"),
    ] {
        let mut request = hold_request(id(1));
        *request.pointer_mut(pointer).unwrap() = value;
        let (status, answer) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(
            (&answer["verdict"], &answer["reason"]),
            (&json!("deny"), &json!("not_priceable")),
            "{answer}"
        );
        assert!(answer["message"].as_str().unwrap().contains(part), "{answer}");
    }
    // An unknown model is priced at the dearest of any size, not at zero.
    let mut request = hold_request(id(2));
    request["call"]["model"] = json!("brand-new-model");
    let (_, answer) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
    assert_eq!(answer["held_nanousd"], json!(1_000 * 20_000 + 100 * 75_000));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn one_bad_settlement_does_not_hold_up_its_batch(pool: PgPool) {
    let service = Service::start(&pool).await;
    let mut absurd = settlement(id(1));
    absurd["usage"]["output_tokens"] = json!(u64::MAX);
    let mut nameless = settlement(id(2));
    nameless["payer"]["org"] = json!("\u{0}");
    let batch = json!({"version": 1, "items": [absurd, settlement(id(3)), nameless]});
    let (status, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let outcomes: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, [&json!("rejected"), &json!("recorded"), &json!("rejected")]);
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements").await, 2);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_error_answer_without_usage_costs_nothing_and_a_success_without_usage_does(pool: PgPool) {
    let service = Service::start(&pool).await;
    let unmetered = |hold_id, status: u16| {
        let mut item = settlement(hold_id);
        item["usage_quality"] = json!("none");
        item["usage"] = json!({});
        item["http_status"] = json!(status);
        item
    };
    let items = [unmetered(id(1), 500), unmetered(id(2), 200), unmetered(id(3), 0)];
    let batch = json!({"version": 1, "items": items});
    service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    let costs: Vec<(i32, i64)> =
        sqlx::query_as("select http_status, cost_nanousd from llm_requests order by http_status")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(costs, [(0, 210_000), (200, 210_000), (500, 0)]);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_cut_answer_is_charged_what_was_seen_unless_more_may_be_out_of_sight(pool: PgPool) {
    let service = Service::start(&pool).await;
    // A cap of 100 tokens; 1,000 tokens of input by the estimate, whatever the filter counted.
    let cut = |number: u64, model: &str, stream: bool, ending: &str, seen: u64| {
        let mut item = settlement(id(number));
        item["call"]["model"] = json!(model);
        item["call"]["stream"] = json!(stream);
        item["answered_model"] = json!(null);
        item["usage_quality"] = json!("at_least");
        item["usage"] = json!({"input_tokens": 7, "output_tokens": seen});
        item["ending"] = json!(ending);
        item
    };
    let uncapped = |mut item: Value| {
        item["size"].as_object_mut().unwrap().remove("max_output_tokens");
        item
    };
    let may_think = |mut item: Value, may: bool| {
        item["may_think"] = json!(may);
        item
    };
    let items = [
        // A stream of a model that thinks in the open: what was seen.
        cut(1, "gpt-4o-mini", true, "client_gone", 20),
        // One that thinks out of sight: the hold, or more if more was seen.
        cut(2, "gpt-5.4-nano", true, "client_gone", 20),
        cut(3, "gpt-5.4-nano", true, "upstream_cut", 500),
        // A plain answer was made whole before it was sent.
        cut(4, "gpt-4o-mini", false, "client_gone", 20),
        // Whole, but without usage.
        cut(5, "gpt-4o-mini", true, "complete", 20),
        cut(6, "gpt-4o-mini", true, "complete", 500),
        uncapped(cut(7, "gpt-4o-mini", true, "complete", 5_000)),
        cut(8, "gpt-4o-mini", true, "client_gone", 500),
        // One that may think, in a call that switched it off; and one that doesn't, in a call that may.
        may_think(cut(9, "gpt-5.4-nano", true, "client_gone", 20), false),
        may_think(cut(10, "gpt-4o-mini", true, "client_gone", 20), true),
        // A plain answer was made whole all the same.
        may_think(cut(11, "gpt-5.4-nano", false, "client_gone", 20), false),
    ];
    let batch = json!({"version": 1, "items": items});
    let (status, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let costs: Vec<i64> = sqlx::query_scalar("select cost_nanousd from llm_requests order by hold_id")
        .fetch_all(&pool)
        .await
        .unwrap();
    let (mini_in, nano_in) = (1_000 * 150, 1_000 * 200);
    let expected = [
        mini_in + 20 * 600,
        nano_in + 100 * 1_250,
        // Never more than the cap: bytes are a rough count of tokens.
        nano_in + 100 * 1_250,
        mini_in + 100 * 600,
        mini_in + 100 * 600,
        mini_in + 100 * 600,
        mini_in + 5_000 * 600,
        mini_in + 100 * 600,
        nano_in + 20 * 1_250,
        mini_in + 100 * 600,
        nano_in + 100 * 1_250,
    ];
    assert_eq!(costs, expected);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_is_made_once_and_ends_when_it_is_deleted(pool: PgPool) {
    let service = Service::start(&pool).await;
    let budget = json!({"org": "acme", "window": "day", "limit_usd": "0"});
    let (status, made) = service.send(Method::POST, "/v1/budgets", ADMIN, &budget).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, again) = service.send(Method::POST, "/v1/budgets", ADMIN, &budget).await;
    assert_eq!(status, StatusCode::CONFLICT, "{again}");
    let spelled = json!({"org": "acme", "window": "day", "limit_usd": "0", "time_zone": "utc"});
    assert_eq!(service.send(Method::POST, "/v1/budgets", ADMIN, &spelled).await.0, StatusCode::CONFLICT);
    let other_window = json!({"org": "acme", "window": "week", "limit_usd": "100"});
    assert_eq!(service.send(Method::POST, "/v1/budgets", ADMIN, &other_window).await.0, StatusCode::CREATED);
    let (_, denied) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(1))).await;
    assert_eq!(denied["verdict"], json!("deny"));
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    assert_eq!(service.send(Method::DELETE, &path, ADMIN, &json!(null)).await.0, StatusCode::NO_CONTENT);
    assert_eq!(service.send(Method::DELETE, &path, ADMIN, &json!(null)).await.0, StatusCode::NOT_FOUND);
    let (_, held) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(2))).await;
    assert_eq!(held["verdict"], json!("allow"));
    // Its history stays, and its place is free again.
    assert_eq!(number(&pool, "select count(*) from budgets").await, 2);
    assert_eq!(service.send(Method::POST, "/v1/budgets", ADMIN, &budget).await.0, StatusCode::CREATED);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn it_says_whether_it_lives_and_whether_it_is_ready(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (path, status) in [("/healthz", StatusCode::NO_CONTENT), ("/readyz", StatusCode::OK)] {
        let response = service.raw(Method::GET, path, "", String::new()).await;
        assert_eq!(response.status(), status, "{path}");
    }
    service.stop().await;
}
