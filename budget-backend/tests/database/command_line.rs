//! The operators' commands that ask a running backend.

use std::process::Output;

use serde_json::json;
use sqlx::PgPool;

use crate::api::{ADMIN, Service};
use crate::operator::{json, stderr, stdout};
use crate::support::*;

/// Runs the program against a service.
async fn ask(service: &Service, token: &'static str, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_budget-backend"));
    command
        .args(arguments)
        .env("PURSER_URL", &service.base)
        .env("PURSER_API_TOKEN", token)
        .env_remove("DATABASE_URL");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn budgets_are_applied_listed_and_topped_up_and_usage_is_told(pool: PgPool) {
    let service = Service::start(&pool).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("budgets.yaml");
    std::fs::write(&file, "org: acme\nbudgets:\n  - {team: search, window: month, limit_usd: \"5\"}\n")
        .unwrap();
    let file = file.to_str().unwrap();
    let dry = ask(&service, ADMIN, &["budgets", "apply", file, "--dry-run"]).await;
    assert!(
        stdout(&dry).contains("1 changes, 0 unchanged; nothing was done: a dry run"),
        "{} {}",
        stdout(&dry),
        stderr(&dry)
    );
    assert_eq!(number(&pool, "select count(*) from budgets").await, 0);
    let first = ask(&service, ADMIN, &["budgets", "apply", file]).await;
    assert!(stdout(&first).contains("created") && stdout(&first).contains("1 changes"), "{}", stdout(&first));
    let again = ask(&service, ADMIN, &["budgets", "apply", file, "--json"]).await;
    assert_eq!(
        (&json(&again)["created"], json(&again)["unchanged"].as_array().unwrap().len()),
        (&json!([]), 1)
    );
    let id = number(&pool, "select budget_id from budgets").await.to_string();
    record(&pool, vec![settle(crate::support::id(1), 1_500_000_000)]).await;
    let topped =
        ask(&service, ADMIN, &["budgets", "top-up", &id, "--amount", "2.50", "--reason", "launch"]).await;
    assert!(topped.status.success(), "{}", stderr(&topped));
    let list = ask(&service, ADMIN, &["budgets", "get", "--org", "acme", "--json"]).await;
    assert_eq!(json(&list)[0]["remaining_usd"], json!("6.00"), "{}", stdout(&list));
    let table = stdout(&ask(&service, ADMIN, &["budgets", "get", "--org", "acme"]).await);
    assert!(table.contains("limit USD") && table.contains("search") && table.contains("6.00"), "{table}");
    let usage = stdout(&ask(&service, ADMIN, &["usage", "--org", "acme", "--by", "team"]).await);
    assert!(usage.contains("search") && usage.contains("(all)") && usage.contains("1.50"), "{usage}");
    let sheet = stdout(&ask(&service, ADMIN, &["usage", "--org", "acme", "--by", "team", "--csv"]).await);
    assert!(sheet.starts_with("team,requests,") && sheet.lines().count() == 2, "{sheet}");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_refusal_is_told_in_the_backend_s_words_with_its_exit_code(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (token, arguments, code, said) in [
        ("not-the-token-of-anybody", &["usage"][..], 2, "expected a valid token"),
        (ADMIN, &["usage", "--by", "colour"], 2, "by: expected a list of org"),
        (ADMIN, &["budgets", "top-up", "4711", "--amount", "1", "--reason", "x"], 2, "there is no"),
        (ADMIN, &["budgets", "apply", "/nowhere.yaml"], 2, "/nowhere.yaml: "),
        (ADMIN, &["usage", "--from", "2026-11-01"], 2, "--to"),
        (ADMIN, &["--help"], 0, ""),
        (ADMIN, &["completions", "bash"], 0, ""),
    ] {
        let done = ask(&service, token, arguments).await;
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", stderr(&done));
        assert!(stderr(&done).contains(said), "{arguments:?}: {}", stderr(&done));
    }
    let complete = stdout(&ask(&service, ADMIN, &["completions", "zsh"]).await);
    assert!(complete.contains("top-up") && complete.contains("aggregate"), "{complete}");
    // Nobody listens there.
    let gone = ask(&service, ADMIN, &["usage", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(gone.status.code(), Some(1), "{}", stderr(&gone));
    service.stop().await;
}
