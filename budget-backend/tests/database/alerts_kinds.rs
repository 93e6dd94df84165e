//! The kinds of alerts beside thresholds, and the receivers over HTTP.

use axum::http::StatusCode;
use budget_backend::alerts::deliver;
use budget_backend::alerts::store::MAX_UNKNOWN_PRICES_PER_DAY;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::alerts::{raised, round, settings, spent};
use crate::api::{ADMIN, Service, TOKEN, settlement};
use crate::operator::execute;
use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn unknown_prices_and_calls_without_a_verdict_are_told_once(pool: PgPool) {
    let service = Service::start(&pool).await;
    let settle = async |number: u64, change: &dyn Fn(&mut Value)| {
        let mut item = settlement(id(number));
        item.as_object_mut().unwrap().remove("answered_model");
        item["started_at_unix_ms"] = json!(i64::MAX / 1_000_000);
        change(&mut item);
        let batch = json!({"version": 1, "items": [item]});
        let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
        assert_eq!(answer["results"][0]["outcome"], json!("recorded"), "{answer}");
    };
    settle(1, &|_| {}).await;
    for number in [2, 3] {
        settle(number, &|item| item["call"]["model"] = json!("brand-new")).await;
    }
    settle(4, &|item| item["units"] = json!({"teleports": 1})).await;
    settle(5, &|item| item["admission"] = json!("fail_open")).await;
    round(&pool).await;
    let unknown = |subject: &str| ("unknown_price".to_owned(), subject.to_owned(), 0);
    let open = ("fail_open".to_owned(), String::new(), 0);
    let mut told = raised(&pool).await;
    told.sort();
    assert_eq!(told, [open, unknown("openai brand-new"), unknown("openai gpt-4o-mini")]);
    for number in [6, 7] {
        settle(number, &|item| item["call"]["model"] = json!("brand-new")).await;
        settle(number + 10, &|item| item["admission"] = json!("fail_open")).await;
    }
    // Unless the hour has turned, there is nothing new.
    execute(&pool, "update alerts set period_start = date_trunc('hour', now()) where kind = 'fail_open'")
        .await;
    round(&pool).await;
    assert_eq!(number(&pool, "select count(*) from alerts where kind = 'unknown_price'").await, 2);
    let hours = "select count(*) - count(distinct period_start) from alerts where kind = 'fail_open'";
    assert_eq!(number(&pool, hours).await, 0);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn made_up_names_raise_few_alerts_and_refused_calls_none(pool: PgPool) {
    let service = Service::start(&pool).await;
    let most = u64::try_from(MAX_UNKNOWN_PRICES_PER_DAY).unwrap();
    let settle = async |first: u64, count: u64, change: &dyn Fn(u64, &mut Value)| {
        let item = |number: u64| {
            let mut item = settlement(id(number));
            item.as_object_mut().unwrap().remove("answered_model");
            item["started_at_unix_ms"] = json!(i64::MAX / 1_000_000);
            item["call"]["model"] = json!(format!("made-up-{number:03}"));
            change(number, &mut item);
            item
        };
        let items: Vec<Value> = (first..first + count).map(item).collect();
        let batch = json!({"version": 1, "items": items});
        let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
        for result in answer["results"].as_array().unwrap() {
            assert_eq!(result["outcome"], json!("recorded"), "{answer}");
        }
    };
    settle(1, 50, &|_, item| {
        item["http_status"] = json!(404);
        item["usage_quality"] = json!("none");
        item["usage"] = json!({});
    })
    .await;
    round(&pool).await;
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 50);
    assert_eq!(number(&pool, "select count(*) from llm_requests where price_flag <> ''").await, 0);
    assert!(raised(&pool).await.is_empty());
    // The dearest first, and no more than so many in a day; the next day some of the rest.
    let dear = |number: u64, item: &mut Value| {
        item["usage"] = json!({"input_tokens": if number == 140 { 5_000 } else { 1_000 }});
    };
    settle(101, most + 20, &dear).await;
    let told = "select count(*) from alerts where kind = 'unknown_price'";
    round(&pool).await;
    assert_eq!(number(&pool, told).await, MAX_UNKNOWN_PRICES_PER_DAY);
    let dearest = "select count(*) from alerts where subject = 'openai made-up-140'";
    assert_eq!(number(&pool, dearest).await, 1);
    settle(201, 5, &|_, _| ()).await;
    round(&pool).await;
    assert_eq!(number(&pool, told).await, MAX_UNKNOWN_PRICES_PER_DAY);
    execute(&pool, "update alerts set raised_at = raised_at - interval '1 day'").await;
    round(&pool).await;
    assert_eq!(number(&pool, told).await, 2 * MAX_UNKNOWN_PRICES_PER_DAY);
    service.stop().await;
}

/// Adds to the rollup's hour that began so many hours ago.
async fn hour(pool: &PgPool, hours_ago: i32, nanousd: i64) {
    sqlx::query(
        "insert into usage_hourly (org, hour, team, user_name, provider, model, api, tags, requests,
             estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
             output_tokens, reasoning_tokens, cost_nanousd, latency_counts)
         values ('acme', date_trunc('hour', now()) - $1 * interval '1 hour', 'search', 'ann', 'openai', 'm',
                 'openai_chat', '{}', 1, 0, 0, 0, 0, 0, 0, 0, $2, '{}')
         on conflict (org, hour, team, user_name, provider, model, api, tags)
             do update set cost_nanousd = excluded.cost_nanousd",
    )
    .bind(hours_ago)
    .bind(nanousd)
    .execute(pool)
    .await
    .unwrap();
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_hour_that_spends_far_more_than_the_week_before_is_told_once(pool: PgPool) {
    const USD: i64 = 1_000_000_000;
    for hours_ago in 1..=160 {
        hour(&pool, hours_ago, 2 * USD).await;
    }
    hour(&pool, 0, 6 * USD).await;
    assert_eq!(round(&pool).await, 0, "three times the busy hours is the bound");
    hour(&pool, 0, 6 * USD + 1).await;
    assert_eq!(round(&pool).await, 1);
    hour(&pool, 0, 60 * USD).await;
    // At the turn of the hour the next one has nothing yet.
    assert_eq!(round(&pool).await, 0);
    assert_eq!(raised(&pool).await[0].0, "spend_anomaly");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_that_the_recent_rate_would_empty_is_told_once_a_period(pool: PgPool) {
    // A window that surely began more than an hour ago: one that began a day and a half ago, anywhere.
    let zone: String = sqlx::query_scalar(
        "select name from pg_timezone_names
          where name like 'Etc/GMT%' and extract(hour from now() at time zone name) between 8 and 16
          order by name limit 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let made = |team: &'static str, limit: i64| {
        let (pool, zone) = (pool.clone(), zone.clone());
        async move {
            let budget_id = budget(&pool, team, "", "day", limit).await;
            let sql = format!("update budgets set time_zone = '{zone}' where budget_id = {budget_id}");
            execute(&pool, &sql).await;
            let sql = format!(
                "insert into budget_counters (org, budget_id, subject, period_start, spent_nanousd)
                 values ('acme', {budget_id}, '', date_trunc('day', now() at time zone '{zone}') at time zone '{zone}', 40)"
            );
            execute(&pool, &sql).await;
        }
    };
    made("", 100).await;
    made("search", 100_000).await;
    assert_eq!(round(&pool).await, 0, "nothing recent");
    for hours_ago in 0..4 {
        hour(&pool, hours_ago, 20).await;
    }
    assert_eq!(round(&pool).await, 1);
    assert_eq!(round(&pool).await, 0);
    let (kind, facts): (String, Value) =
        sqlx::query_as("select kind, facts from alerts").fetch_one(&pool).await.unwrap();
    assert_eq!((kind.as_str(), &facts["spent_usd"]), ("budget_forecast", &json!("0.00000004")));
    let (gone, resets) = (facts["gone_at"].as_str().unwrap(), facts["resets_at"].as_str().unwrap());
    assert!(gone < resets, "{gone} {resets}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn receivers_are_made_changed_and_taken_away_and_their_secret_is_told_once(pool: PgPool) {
    let service = Service::start(&pool).await;
    let post = async |body: Value| service.send(Method::POST, "/v1/webhooks", ADMIN, &body).await;
    let (status, made) = post(json!({"org": "acme", "url": "https://example.com/x"})).await;
    assert_eq!((status, &made["format"]), (StatusCode::CREATED, &json!("generic")), "{made}");
    let secret = made["secret"].as_str().unwrap();
    assert_eq!(secret.len(), 64);
    let path = format!("/v1/webhooks/{}", made["webhook_id"]);
    let change = json!({"url": "https://example.com/y", "format": "slack"});
    let (status, changed) = service.send(Method::PATCH, &path, ADMIN, &change).await;
    assert_eq!(
        (status, &changed["url"], &changed["secret"]),
        (StatusCode::OK, &json!("https://example.com/y"), &Value::Null)
    );
    let (_, listed) = service.send(Method::GET, "/v1/webhooks?org=acme", ADMIN, &json!(null)).await;
    assert_eq!(listed["webhooks"], json!([changed]));
    for (body, said) in [
        (json!({"org": "acme", "url": "ftp://example.com"}), "url: expected https"),
        (json!({"org": "acme", "url": "https://u:p@example.com"}), "without a user or password"),
        (json!({"org": "acme", "url": "http://169.254.169.254/"}), "no receiver may have"),
        (json!({"org": "acme", "url": "http://127.0.0.1/"}), "private network"),
        (
            json!({"org": "acme", "url": "https://example.com", "secret": "short"}),
            "secret: expected 16 to 256",
        ),
        (json!({"org": "acme", "url": "https://example.com", "format": "xml"}), "unknown variant `xml`"),
        (json!({"org": "acme", "url": "https://example.com", "secrets": ""}), "unknown field `secrets`"),
        (json!({"org": "", "url": "https://example.com"}), "org"),
    ] {
        let (status, answer) = post(body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(said), "{body}: {answer}");
    }
    let (status, _) = service.send(Method::PATCH, &path, ADMIN, &json!({})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    for method in [Method::GET, Method::POST] {
        let (status, _) = service.send(method, "/v1/webhooks?org=acme", TOKEN, &json!({})).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    // What was to be told to one that is taken away is told to nobody.
    let budget_id = budget(&pool, "", "", "month", 100).await;
    spent(&pool, budget_id, "", 50).await;
    round(&pool).await;
    let (status, _) = service.send(Method::DELETE, &path, ADMIN, &json!(null)).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = service.send(Method::DELETE, &path, ADMIN, &json!(null)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    deliver::due(&pool, &settings()).await.unwrap();
    let (status, alerts) = service.send(Method::GET, "/v1/alerts?org=acme", ADMIN, &json!(null)).await;
    assert_eq!(status, StatusCode::OK, "{alerts}");
    let alert = &alerts["alerts"][0];
    assert_eq!((&alert["kind"], &alert["threshold_percent"]), (&json!("budget_threshold"), &json!(50)));
    assert_eq!(alert["deliveries"][0]["state"], json!("given_up"), "{alert}");
    assert_eq!(alert["deliveries"][0]["last_error"], json!("the receiver was taken away"));
    let (_, others) = service.send(Method::GET, "/v1/alerts?org=other", ADMIN, &json!(null)).await;
    assert_eq!(others, json!({"alerts": [], "next_cursor": null}));
    let (_, audit) = service.send(Method::GET, "/v1/audit?org=acme", ADMIN, &json!(null)).await;
    let audit = audit.to_string();
    assert!(
        audit.contains("webhooks") && !audit.contains(secret) && !audit.contains("example.com"),
        "{audit}"
    );
    service.stop().await;
}
