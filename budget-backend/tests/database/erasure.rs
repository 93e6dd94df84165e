//! A user's name is taken out of what calls left behind; the money stays.

use budget_backend::tracker::verdicts::{Noted, NotedOutcome};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::operator::{backend, execute, stdout};
use crate::support::*;

/// Tables with the name anywhere in a row, what operators wrote themselves apart.
async fn named(pool: &PgPool) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables
          where table_schema = 'public' and table_type = 'BASE TABLE' and table_name not in ('budgets', 'audit_log')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let sql = format!("select exists (select from {table} t where t::text like '%ann%')");
        if sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap() {
            found.push(table);
        }
    }
    found
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_name_goes_everywhere_and_the_books_still_balance(pool: PgPool) {
    let service = Service::start(&pool).await;
    budget(&pool, "", "", "month", 1_000_000_000).await;
    let each = budget(&pool, "search", "*", "day", 1_000_000).await;
    let ledger = ledger(&pool);
    let calls: Vec<uuid::Uuid> = (1..=3).map(id).collect();
    for call in &calls {
        granted(&ledger, *call, 100).await;
    }
    record(&pool, vec![settle(calls[0], 40), settle_for(&payer("search", "bob"), id(8), Some(7))]).await;
    record(&pool, vec![settle_for(&payer("ads", "ann"), id(9), Some(9))]).await;
    execute(&pool, &format!("update budgets set limit_nanousd = 300 where budget_id = {each}")).await;
    service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(5))).await;
    wait_for(&pool, "select count(*) from denials").await;
    let mut steps = steps(&pool);
    steps.verdicts().note(&Noted {
        org: "acme".to_owned(),
        team: "search".to_owned(),
        user: "ann".to_owned(),
        provider: "openai".to_owned(),
        model: "m".to_owned(),
        outcome: NotedOutcome::Warned,
        reason: "",
        budget_id: each,
        needed_nanousd: 1,
        hold_id: id(7),
        at_unix_us: 1_795_478_400_000_000,
    });
    steps.flush().await;
    execute(&pool, &format!("insert into alerts (org, kind, budget_id, subject, period_start, threshold, facts) values ('acme', 'budget_threshold', {each}, 'ann', now(), 80, '{{\"user\": \"ann\", \"team\": \"search\"}}')")).await;
    let holds = number(&pool, "select count(*) from holds where team = 'search' and user_name = 'ann'").await;
    assert!(holds >= 3, "{holds}");
    let spent = "select sum(spent_nanousd + held_nanousd)::bigint from budget_counters";
    let before = number(&pool, spent).await;
    let erase =
        async |body: Value, token: &str| service.send(Method::POST, "/v1/erasures", token, &body).await;

    // Of the other team alone: this one's stays.
    let (status, done) = erase(json!({"org": "acme", "team": "ads", "user": "ann"}), ADMIN).await;
    assert_eq!((status, &done["rows"]["llm_requests"]), (StatusCode::OK, &json!(1)), "{done}");
    assert!(named(&pool).await.contains(&"llm_requests".to_owned()));
    let (status, done) = erase(json!({"org": "acme", "user": "ann"}), ADMIN).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let pseudonym = done["pseudonym"].as_str().unwrap().to_owned();
    assert!(pseudonym.starts_with("erased-") && pseudonym.len() == 31, "{pseudonym}");
    for (table, rows) in [
        ("budget_counters", 1),
        ("holds", holds),
        ("llm_requests", 1),
        ("usage_hourly", 1),
        ("denials", 1),
        ("alerts", 1),
    ] {
        assert_eq!(done["rows"][table], json!(rows), "{table}: {done}");
    }
    assert_eq!(named(&pool).await, [""; 0]);
    assert_eq!(number(&pool, spent).await, before);
    assert_books_balance(&pool).await;
    // What runs under the old name is settled under the new one.
    record(&pool, vec![settle(calls[1], 41)]).await;
    assert_books_balance(&pool).await;
    assert_eq!(named(&pool).await, [""; 0]);
    let verified = backend(&pool, &["verify"]).await;
    assert!(verified.status.success(), "{}", stdout(&verified));
    // Told once, without the name; a second time there is nothing.
    let (_, log) = service.send(Method::GET, "/v1/audit?org=acme", ADMIN, &Value::Null).await;
    let log = log.to_string();
    assert!(log.contains("erasures") && log.contains(&pseudonym), "{log}");
    let (status, again) = erase(json!({"org": "acme", "user": "ann"}), ADMIN).await;
    assert_eq!((status, &again["pseudonym"]), (StatusCode::OK, &Value::Null), "{again}");
    assert_eq!(number(&pool, "select count(*) from audit_log where object = 'erasures'").await, 2);
    // Nobody but an admin.
    let viewer = crate::requests::token(&service, "acme", None).await;
    let (status, _) = erase(json!({"org": "acme", "user": "bob"}), &viewer).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    for (body, said) in [
        (json!({"org": "acme", "user": "*"}), "user: expected the name of one"),
        (json!({"org": "acme", "user": ""}), "user: expected a name"),
        (json!({"org": "acme"}), "user"),
    ] {
        let (status, problem) = erase(body, ADMIN).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    service.stop().await;
}
