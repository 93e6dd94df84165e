//! The month's report over HTTP, against the detail.

use budget_backend::app::Application;
use budget_backend::config::Config;
use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::format_usd;
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{PgPool, Row};

use crate::operator::url;
use crate::support::*;

const ADMIN: &str = "admin-token-of-the-test";

/// Serves the pool's database; gives the address. The service ends with the test's runtime.
async fn serve(pool: &PgPool) -> String {
    let database = url(pool);
    let config = Config::read(&move |name| {
        Some(match name {
            "DATABASE_URL" => database.clone(),
            "PURSER_TOKEN" => "data-plane-token-of-the-test".to_owned(),
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
    tokio::spawn(application.run(std::future::pending()));
    base
}

async fn ask(base: &str, question: &str) -> (StatusCode, Value) {
    let request = reqwest::Client::new().get(format!("{base}/v1/usage?{question}")).bearer_auth(ADMIN);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn call(number: u64, team: &str, user: &str, model: &str, cost_nanousd: i64) -> (HoldKey, Item) {
    let (key, item) = settle_for(&payer(team, user), id(number), Some(cost_nanousd));
    let Item::Settle(mut settle) = item else { panic!("not a settlement") };
    settle.subject.model = model.to_owned();
    settle.facts.duration_ms = Some(i64::try_from(number).unwrap() * 10);
    (key, Item::Settle(settle))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_month_s_report_says_what_the_detail_says(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000_000).await;
    let calls = (1..=40).map(|number| {
        let (team, user) = [("search", "ann"), ("search", "bob"), ("ads", "ann"), ("", "")]
            [usize::try_from(number % 4).unwrap()];
        let model = ["gpt-4o", "gpt-4o-mini"][usize::try_from(number % 2).unwrap()];
        call(number, team, user, model, 1_000 + i64::try_from(number).unwrap())
    });
    record(&pool, calls.collect()).await;
    let base = serve(&pool).await;
    let month: String = sqlx::query_scalar(
        "select to_char(min(occurred_at) at time zone 'UTC', 'YYYY-MM') from llm_requests",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    for (by, names) in [
        ("team", &["team"][..]),
        ("user", &["team", "user_name as user"]),
        ("model", &["provider", "model"]),
        ("provider", &["provider"]),
        ("api", &["api"]),
        ("day", &["(occurred_at at time zone 'UTC')::date::text as day"]),
    ] {
        let (status, report) = ask(&base, &format!("org=acme&month={month}&by={by}")).await;
        assert_eq!(status, StatusCode::OK, "{report}");
        let sql = format!(
            "select {}, count(*), sum(cost_nanousd)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint,
                    percentile_disc(0.95) within group (order by duration_ms)
               from llm_requests group by {} order by {}",
            names.join(", "),
            (1..=names.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
            (1..=names.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.len(), rows.len(), "{report}");
        for (group, row) in groups.iter().zip(&rows) {
            for (place, name) in names.iter().enumerate() {
                let field = name.rsplit(' ').next().unwrap();
                assert_eq!(group[field], row.get::<String, _>(place), "{by}: {group}");
            }
            let at = names.len();
            assert_eq!(group["requests"], row.get::<i64, _>(at), "{by}: {group}");
            assert_eq!(group["cost_usd"], format_usd(row.get(at + 1)), "{by}: {group}");
            assert_eq!(group["input_tokens"], row.get::<i64, _>(at + 2), "{by}: {group}");
            assert_eq!(group["output_tokens"], row.get::<i64, _>(at + 3), "{by}: {group}");
            // Read from a log scale of two steps to the octave: never below, less than twice above.
            let (read, exact) = (group["p95_latency_ms"].as_i64().unwrap(), row.get::<i64, _>(at + 4));
            assert!(read >= exact && read < exact * 2, "{by}: {read} for {exact}");
        }
        assert_eq!(report["total"]["requests"], 40);
        assert_eq!(report["total"]["cost_usd"], "0.00004082");
    }
    let (_, whole) = ask(&base, &format!("org=acme&month={month}")).await;
    assert_eq!((&whole["total"]["requests"], &whole["groups"]), (&Value::from(40), &Value::Null));
    let (status, empty) = ask(&base, "org=acme&month=1999-01&by=team").await;
    assert_eq!((status, &empty["total"]["p95_latency_ms"]), (StatusCode::OK, &Value::Null));
    assert_eq!(empty["groups"], serde_json::json!([]));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_malformed_question_is_a_400_that_says_what_was_expected(pool: PgPool) {
    let base = serve(&pool).await;
    for (question, said) in [
        ("", "org: expected"),
        ("org=acme", "month: expected a year and a month, as in month=2026-11"),
        ("org=acme&month=2026-13", "month: expected"),
        ("org=acme&month=2026-11&by=hour", "by: expected one of team, user, model, provider, api, day"),
        ("org=acme&month=2026-11&colour=red", "colour"),
    ] {
        let (status, problem) = ask(&base, question).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{question}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{question}: {problem}");
    }
    let stranger = reqwest::get(format!("{base}/v1/usage?org=acme&month=2026-11")).await.unwrap();
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_report_of_too_many_groups_is_refused_clearly(pool: PgPool) {
    sqlx::query(
        "insert into cost_daily_summary (org, day, team, user_name, provider, model, api, requests, estimated_requests,
            input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
            reasoning_tokens, cost_nanousd)
         select 'acme', '2026-11-01', 'search', 'user' || n, 'p', 'm', 'a', 1, 0, 1, 0, 0, 0, 1, 0, 1
           from generate_series(1, 10001) n",
    )
    .execute(&pool)
    .await
    .unwrap();
    let base = serve(&pool).await;
    let (status, problem) = ask(&base, "org=acme&month=2026-11&by=user").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["detail"].as_str().unwrap().contains("more than 10000 groups"), "{problem}");
    let (status, report) = ask(&base, "org=acme&month=2026-11&by=team").await;
    assert_eq!((status, &report["total"]["requests"]), (StatusCode::OK, &Value::from(10_001)));
}
