//! The names under which a model goes: rules and budgets meet it by each of them, from the hold to the counter
//! of a budget that is made later.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::operator::execute;
use crate::support::*;

const ARN: &str =
    "arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.anthropic.claude-sonnet-4-20250514";

/// As people ask for gpt-4o, without its own name.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("openai", "gpt-4o-2024-08-06"),
    ("azure", "GPT-4o"),
    ("azure", "my-dep"),
    ("openrouter", "openai/gpt-4o"),
    ("azure", "dated-dep"),
];

async fn service(pool: &PgPool) -> Service {
    execute(
        pool,
        "insert into model_aliases (provider, alias, target_provider, target_model)
         values ('azure', 'my-dep', 'openai', 'gpt-4o'), ('azure', 'dated-dep', 'openai', 'gpt-4o-2024-11-20')",
    )
    .await;
    Service::start(pool).await
}

/// The reason for which a call is denied, or what it holds; as a hold and as an explanation say it.
async fn verdict(service: &Service, number: u64, provider: &str, model: &str) -> Value {
    let mut request = hold_request(id(number));
    request["call"]["provider"] = json!(provider);
    request["call"]["model"] = json!(model);
    let (_, said) = service.send(Method::POST, "/v1/explain", ADMIN, &request).await;
    let (_, got) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
    for field in ["verdict", "reason", "held_nanousd", "rewrite"] {
        assert_eq!(said[field], got[field], "{provider} {model}: {said:#} {got:#}");
    }
    got
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_denied_model_is_denied_by_every_name_and_a_prefix_makes_no_other_allowed(pool: PgPool) {
    let service = service(&pool).await;
    execute(
        &pool,
        "insert into call_rules (org, denied_models) values ('acme', '{gpt-4o,gemini-2.5-pro*,Anthropic.Claude-*}')",
    )
    .await;
    let others = [
        ("openai", "gpt-4o"),
        ("gemini", "models/gemini-2.5-pro"),
        ("vertex", "google/gemini-2.5-pro-preview"),
        ("bedrock", ARN),
        ("bedrock", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
    ];
    for (number, (provider, model)) in (1..).zip(OTHER_NAMES.into_iter().chain(others)) {
        let got = verdict(&service, number, provider, model).await;
        assert_eq!(got["reason"], "model_not_allowed", "{provider} {model}: {got}");
    }
    assert_eq!(verdict(&service, 50, "openai", "gpt-4o-mini").await["verdict"], "allow");
    execute(&pool, "update call_rules set denied_models = '{}', allowed_models = '{gpt-4o,gemini-2.5-*}'")
        .await;
    for (number, provider, model, expected) in [
        (60, "openai", "gpt-4o", "allow"),
        (61, "openai", "gpt-4o-2024-08-06", "allow"),
        (62, "azure", "GPT-4o", "allow"),
        (63, "azure", "my-dep", "allow"),
        (64, "gemini", "models/gemini-2.5-pro", "allow"),
        (65, "openai", "evil/gpt-4o", "deny"),
        (66, "openai", "evil%2Fgpt-4o", "deny"),
        (67, "openai", "us.gpt-4o", "deny"),
        (68, "openai", "gpt-4o-mini", "deny"),
    ] {
        let got = verdict(&service, number, provider, model).await;
        assert_eq!(got["verdict"], expected, "{provider} {model}: {got}");
    }
    service.stop().await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_for_a_model_counts_its_calls_by_every_name_and_so_does_one_made_later(pool: PgPool) {
    let service = service(&pool).await;
    let models =
        |budget_id: i64| format!("update budgets set models = '{{gpt-4o}}' where budget_id = {budget_id}");
    let first = budget(&pool, "", "", "total", 1_000_000_000_000).await;
    execute(&pool, &models(first)).await;
    let mut held = 0;
    for (number, (provider, model)) in (1..).zip(OTHER_NAMES) {
        held += verdict(&service, number, provider, model).await["held_nanousd"].as_i64().unwrap();
        assert_eq!(standing(&pool, first).await, (0, held), "{provider} {model}");
    }
    assert_eq!(verdict(&service, 9, "openai", "gpt-4o-mini").await["verdict"], "allow");
    assert_eq!(standing(&pool, first).await, (0, held));
    // What was never held, as of filters that failed open.
    let others = [("openai", "gpt-4o-mini"), ("openai", "my-dep")];
    let items: Vec<Value> = (20..)
        .zip(OTHER_NAMES.into_iter().chain(others))
        .map(|(number, (provider, model))| {
            let mut item = settlement(id(number));
            item["call"]["provider"] = json!(provider);
            item["call"]["model"] = json!(model);
            item["answered_model"] = json!(null);
            item
        })
        .collect();
    let batch = json!({"version": 1, "items": items});
    let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert!(
        answer["results"].as_array().unwrap().iter().all(|item| item["outcome"] == "recorded"),
        "{answer}"
    );
    let spent = number(
        &pool,
        "select sum(cost_nanousd)::bigint from llm_requests where model not in ('gpt-4o-mini') and not (provider = 'openai' and model = 'my-dep')",
    )
    .await;
    assert!(spent > 0);
    assert_eq!(standing(&pool, first).await, (spent, held));
    // One that is made now starts from the same.
    let later = budget(&pool, "search", "", "total", 1_000_000_000_000).await;
    execute(&pool, &models(later)).await;
    let got = verdict(&service, 40, "openai", "gpt-4o").await;
    assert_eq!(standing(&pool, later).await, (spent, got["held_nanousd"].as_i64().unwrap()));
    service.stop().await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_ladder_knows_a_model_by_every_name_and_never_makes_a_call_dearer(pool: PgPool) {
    let service = service(&pool).await;
    let budget = budget(&pool, "", "", "total", 10_000_000).await;
    let set = |models: Value| {
        let ladder = json!({"degrade": {"at_percent": 1, "models": models}});
        format!("update budgets set ladder = '{ladder}' where budget_id = {budget}")
    };
    execute(&pool, &set(json!({"gpt-4o": "gpt-4o-mini"}))).await;
    for (number, model) in (1..).zip(["gpt-4o", "GPT-4O-2024-08-06", "elsewhere/gpt-4o"]) {
        let got = verdict(&service, number, "openai", model).await;
        assert_eq!(got["rewrite"], json!({"model": "gpt-4o-mini"}), "{model}: {got}");
    }
    execute(&pool, &set(json!({"gpt-4o-mini": "gpt-4o", "gpt-4.1": "gpt-4.1-2025-04-14"}))).await;
    for (number, model) in (11..).zip(["gpt-4o-mini", "gpt-4.1"]) {
        let got = verdict(&service, number, "openai", model).await;
        assert_eq!((&got["verdict"], &got["rewrite"]), (&json!("allow"), &json!(null)), "{model}: {got}");
    }
    let mut question = hold_request(id(99));
    question["call"]["model"] = json!("gpt-4o-mini");
    let (_, said) = service.send(Method::POST, "/v1/explain", ADMIN, &question).await;
    assert_eq!(said["targets"][0]["model"], "gpt-4o", "{said:#}");
    assert_eq!(said["targets"][0]["not_because"], "this call would cost no less by it", "{said:#}");
    service.stop().await;
    assert_books_balance(&pool).await;
}
