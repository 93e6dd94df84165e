//! How a call would be decided, told without holding anything.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::operator::{backend, execute, json as document, stdout};
use crate::support::*;

/// Everything that a hold would change.
const WRITTEN: &str = "select (select count(*) from holds) + (select count(*) from budget_counters)
                            + (select coalesce(sum(held_nanousd), 0) from budget_counters)::bigint";

async fn explained(service: &Service, question: &Value) -> Value {
    let (status, answer) = service.send(Method::POST, "/v1/explain", ADMIN, question).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_explanation_is_what_the_hold_then_gets_and_holds_nothing(pool: PgPool) {
    let service = Service::start(&pool).await;
    let org = budget(&pool, "", "", "day", 1_000_000).await;
    let ladder = r#"{"warn_at_percent": 20, "degrade": {"at_percent": 50, "models": {"gpt-4o-mini": "gpt-5-nano"}}, "clamp": {"floor_tokens": 10}}"#;
    execute(&pool, &format!("update budgets set ladder = '{ladder}'")).await;
    budget(&pool, "search", "*", "month", 700_000).await;
    // What ann has spent before there was a counter for her.
    record(&pool, vec![settle_for(&ann(), id(9), Some(40_000))]).await;
    execute(&pool, "delete from budget_counters").await;
    for (number, spent) in (1..).zip([0_i64, 100_000, 300_000, 600_000, 900_000]) {
        execute(
            &pool,
            &format!("update budget_counters set spent_nanousd = {spent} where budget_id = {org}"),
        )
        .await;
        let request = hold_request(id(number));
        let before = crate::support::number(&pool, WRITTEN).await;
        let mut said = explained(&service, &request).await;
        assert_eq!(crate::support::number(&pool, WRITTEN).await, before);
        let (_, got) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
        for field in
            ["verdict", "held_nanousd", "rewrite", "clamped", "warnings", "reason", "exhausted", "budget"]
        {
            assert_eq!(said[field], got[field], "{spent}: {field} of {said:#}");
        }
        let limits: Vec<Value> = said["remaining"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .map(|left| left["remaining_nanousd"].take())
            .collect();
        let left: Vec<Value> = got["remaining"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|left| left["remaining_nanousd"].clone())
            .collect();
        assert_eq!(limits, left, "{spent}");
        if number == 1 {
            let budgets = said["budgets"].as_array().unwrap();
            let spent: Vec<&Value> = budgets.iter().map(|budget| &budget["spent_usd"]).collect();
            assert_eq!(spent, ["0.00004", "0.00004"], "{said:#}");
            assert_eq!(
                (&budgets[0]["used_percent"], &budgets[0]["used_percent_with_call"]),
                (&json!(4), &json!(25))
            );
            assert_eq!(
                (&said["price"]["rule"], &said["estimate"]["input_tokens"]),
                (&json!("exact"), &json!(1_000))
            );
            assert_eq!(said["targets"][0]["model"], "gpt-5-nano");
        }
    }
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_command_says_the_same_as_the_api(pool: PgPool) {
    budget(&pool, "", "", "day", 1).await;
    let service = Service::start(&pool).await;
    let body = json!({"kind": "namespace", "value": "chat", "org": "acme"});
    service.send(Method::POST, "/v1/identities", ADMIN, &body).await;
    let call = [
        "explain",
        "--claim",
        "namespace=chat",
        "--provider",
        "openai",
        "--model",
        "gpt-4o",
        "--text-bytes",
        "400",
        "--max-output-tokens",
        "10",
    ];
    let said = document(&backend(&pool, &[&call[..], &["--json"]].concat()).await);
    assert_eq!((&said["verdict"], &said["payer"]), (&json!("deny"), &json!({"org": "acme"})), "{said:#}");
    let question = json!({"payer": {"org": "acme"}, "size": {"text_bytes": 400, "max_output_tokens": 10},
                          "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o"}});
    let answer = explained(&service, &question).await;
    for field in ["verdict", "reason", "message", "exhausted", "budgets", "estimate", "price", "payer"] {
        // Of an org that was given, the verdict repeats no payer.
        assert_eq!(said[field], answer[field], "{field}");
    }
    let told = stdout(&backend(&pool, &call).await);
    assert!(told.contains("Budget 1 has too little left for 0.00035 USD"), "{told}");
    assert!(told.contains("verdict: deny"), "{told}");
    let unknown = backend(
        &pool,
        &["explain", "--claim", "namespace=nowhere", "--provider", "openai", "--model", "gpt-4o", "--json"],
    )
    .await;
    assert_eq!(document(&unknown)["reason"], "unidentified");
    let wrong = backend(&pool, &["explain", "--org", "acme", "--provider", "openai", "--model", ""]).await;
    assert_eq!(wrong.status.code(), Some(2));
    let (status, _) = service.send(Method::POST, "/v1/explain", TOKEN, &question).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "the filter's token explains nothing");
    service.stop().await;
}
