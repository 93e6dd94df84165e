//! The month's report over HTTP, against the detail.

use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::format_usd;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::{PgPool, Row};

use crate::api::{ADMIN, Service};
use crate::support::*;

async fn ask(service: &Service, question: &str) -> (StatusCode, Value) {
    service.send(Method::GET, &format!("/v1/usage?{question}"), ADMIN, &Value::Null).await
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
    let service = Service::start(&pool).await;
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
        let (status, report) = ask(&service, &format!("org=acme&month={month}&by={by}")).await;
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
    let (_, whole) = ask(&service, &format!("org=acme&month={month}")).await;
    assert_eq!((&whole["total"]["requests"], &whole["groups"]), (&Value::from(40), &Value::Null));
    let (status, empty) = ask(&service, "org=acme&month=1999-01&by=team").await;
    assert_eq!((status, &empty["total"]["p95_latency_ms"]), (StatusCode::OK, &Value::Null));
    assert_eq!(empty["groups"], serde_json::json!([]));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_malformed_question_is_a_400_that_says_what_was_expected(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (question, said) in [
        ("", "org: expected"),
        ("org=acme", "month: expected a year and a month, as in month=2026-11"),
        ("org=acme&month=2026-13", "month: expected"),
        ("org=acme&month=2026-11&by=hour", "by: expected one of team, user, model, provider, api, day"),
        ("org=acme&month=2026-11&colour=red", "colour"),
    ] {
        let (status, problem) = ask(&service, question).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{question}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{question}: {problem}");
    }
    let stranger = reqwest::get(format!("{}/v1/usage?org=acme&month=2026-11", service.base)).await.unwrap();
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
    let service = Service::start(&pool).await;
    let (status, problem) = ask(&service, "org=acme&month=2026-11&by=user").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["detail"].as_str().unwrap().contains("more than 10000 groups"), "{problem}");
    let (status, report) = ask(&service, "org=acme&month=2026-11&by=team").await;
    assert_eq!((status, &report["total"]["requests"]), (StatusCode::OK, &Value::from(10_001)));
}
