//! Costs against the arithmetic of the file they were imported from, done by another program.

use std::process::{Command, Output};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{Service, TOKEN, hold_request};
use crate::operator::{backend, json as document, stderr, stdout, url};
use crate::support::*;

fn path(name: &str) -> String {
    format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Makes up calls of every model of a file, in every tier and around every threshold, and compares them.
async fn compare(pool: &PgPool, file: &str, calls_per_tier: u32, seed: u32, more: &[&str]) -> Output {
    let python = std::env::var("SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.arg(path("community_arithmetic.py")).args([env!("CARGO_BIN_EXE_budget-backend"), file]);
    command.args([calls_per_tier.to_string(), seed.to_string()]).args(more).env("DATABASE_URL", url(pool));
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// As [`compare`]; gives the figures when nothing differs.
async fn compared(pool: &PgPool, file: &str, calls_per_tier: u32, seed: u32) -> Value {
    let done = compare(pool, file, calls_per_tier, seed, &[]).await;
    assert!(done.status.success(), "seed {seed}: {}{}", stdout(&done), stderr(&done));
    document(&done)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn costs_equal_the_file_s_own_arithmetic_to_the_nano_dollar(pool: PgPool) {
    let seed = std::process::id();
    let figures = compared(&pool, &path("fixtures/community-prices.json"), 50, seed).await;
    assert!(figures["models"].as_u64().unwrap() >= 15, "{figures}");
    // The community's file is not part of this repository.
    match std::env::var("COMMUNITY_PRICES") {
        Ok(file) => println!("{file}: {}", compared(&pool, &file, 10, seed).await),
        Err(_) => {
            println!("COMMUNITY_PRICES names no whole price file; compared the fixture only: {figures}")
        }
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_comparison_sees_a_price_that_is_another(pool: PgPool) {
    let file = path("fixtures/community-prices.json");
    // The file says 0.02 USD a million.
    let set = ["prices", "set", "--provider", "openai", "--model", "embedding", "--rate", "output=0"];
    let set = backend(&pool, &[&set[..], &["--rate", "input=0.020000001"]].concat()).await;
    assert!(set.status.success(), "{}", stderr(&set));
    // What an operator set is kept by the import.
    let figures = compared(&pool, &file, 5, 1).await;
    let done = compare(&pool, &file, 5, 1, &["all"]).await;
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    let seen = document(&done);
    assert_eq!(seen["models"].as_u64(), figures["models"].as_u64().map(|models| models + 1));
    assert_eq!((&seen["models_differing"], seen["differing"].as_u64() > Some(0)), (&json!(1), true));
}

/// What `prices cost` answers.
async fn asked(pool: &PgPool, lines: &str) -> Vec<Value> {
    let (code, out, err) = cost_command(pool, lines).await;
    assert_eq!(code, Some(0), "{err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn cost_command(pool: &PgPool, lines: &str) -> (Option<i32>, String, String) {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
    command.args(["prices", "cost"]).env("DATABASE_URL", url(pool));
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let done = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    (done.status.code(), stdout(&done), stderr(&done))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_calls_would_cost_is_told_line_by_line(pool: PgPool) {
    let lines = r#"{"provider": "openai", "model": "gpt-4o-2024-08-06", "usage": {"input_tokens": 1000}}
{"provider": "openai", "model": "who-knows", "answered_model": "gpt-4o", "usage": {"output_tokens": 1}}
{"provider": "openai", "model": "who-knows", "usage": {"output_tokens": 1}, "units": {"wishes": 1}}
"#;
    let told = asked(&pool, lines).await;
    assert_eq!((&told[0]["nanousd"], &told[0]["match"]), (&json!(2_500_000), &json!("undated")));
    assert_eq!((&told[1]["usd"], &told[1]["match"]), (&json!("0.00001"), &json!("exact")));
    assert_eq!((&told[2]["flag"], &told[2]["at_least"]), (&json!("ceiling"), &json!(true)));
    assert!(told[2]["nanousd"].as_i64().unwrap() > 0);
    for (line, said) in [
        ("{}", "line 1: missing field `provider`"),
        (
            "\n{\"provider\": \"p\", \"model\": \"m\", \"usage\": {\"tokens\": 1}}",
            "line 2: usage.tokens: expected one of",
        ),
        ("{\"provider\": \"p\", \"model\": \"m\", \"usage\": {\"input_tokens\": -1}}", "invalid value"),
        ("{\"provider\": \"p\", \"model\": \"m\", \"tier\": 1}", "unknown field `tier`"),
        (
            "{\"provider\": \"p\", \"model\": \"m\", \"usage\": {\"input_tokens\": 1, \"input_tokens\": 2}}",
            "\"input_tokens\" stands twice",
        ),
    ] {
        let (code, _, err) = cost_command(&pool, line).await;
        assert_eq!(code, Some(2), "{line}");
        assert!(err.contains(said), "{line}: {err}");
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_counts_the_tier_asked_for_and_images_by_the_piece(pool: PgPool) {
    let set = [
        "prices",
        "set",
        "--provider",
        "openai",
        "--model",
        "pictures",
        "--rate",
        "input=0",
        "--rate",
        "output=0",
    ];
    let set = backend(&pool, &[&set[..], &["--unit", "images=0.04"]].concat()).await;
    assert!(set.status.success(), "{}", stderr(&set));
    let service = Service::start(&pool).await;
    let held = async |number: u64, change: &dyn Fn(&mut Value)| {
        let mut request = hold_request(id(number));
        change(&mut request);
        let (status, verdict) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
        assert_eq!((status, &verdict["verdict"]), (StatusCode::OK, &json!("allow")), "{verdict}");
        verdict["held_nanousd"].as_i64().unwrap()
    };
    let images = held(1, &|request| {
        request["call"] =
            json!({"api": "openai_images", "provider": "openai", "model": "pictures", "stream": false});
        request["size"] = json!({"text_bytes": 4000, "choices": 3});
    })
    .await;
    assert_eq!(images, 3 * 40_000_000);
    // 1,000 tokens of input and 100 of output at 0.10 and 0.50 USD a million; flex is half, priority twice.
    let in_tier = async |number, tier: Option<&str>| {
        held(number, &|request| {
            request["call"]["model"] = json!("gpt-6-luna");
            request["service_tier"] = json!(tier);
        })
        .await
    };
    let plain = in_tier(2, None).await;
    assert_eq!(plain, 1_000 * 100 + 100 * 500);
    assert_eq!(in_tier(3, Some("flex")).await, plain / 2);
    let dearest = in_tier(4, Some("warp")).await;
    assert!(dearest > plain && dearest >= in_tier(5, Some("priority")).await, "{dearest}");
    service.stop().await;
}
