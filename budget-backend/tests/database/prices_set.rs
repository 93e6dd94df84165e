//! `prices set` and what it says, by the example of the manual; `prices show`; and readers that go away.

use std::process::{Command, Output};

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::operator::{backend, stderr, stdout, url};
use crate::support::number;

const COUNT: &str = "select count(*) from model_prices";

/// The commands of the manual's block of shell that sets a price with everything.
fn example() -> String {
    let manual = include_str!("../../../docs/prices.md");
    let mut blocks = manual.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let (block, _) = blocks.find(|(block, _)| block.contains("--terms")).expect("an example with --terms");
    block.to_owned()
}

/// Runs lines of shell where `budget-backend` is the program and the database the pool's.
async fn shell(pool: &PgPool, lines: String) -> Output {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_budget-backend"));
    let paths = std::env::var("PATH").unwrap();
    let path = format!("{}:{paths}", program.parent().unwrap().display());
    let mut command = Command::new("sh");
    command.args(["-euc", &lines]).env("PATH", path).env("DATABASE_URL", url(pool));
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

async fn set(pool: &PgPool, model: &str, more: &[&str]) -> Output {
    let start = ["prices", "set", "--provider", "openai", "--model", model, "--rate", "input=1"];
    backend(pool, &[start.as_slice(), &["--rate", "output=2"], more].concat()).await
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_manual_s_example_sets_all_it_says_and_the_next_version_tells_what_it_lacks(pool: PgPool) {
    let done = shell(&pool, example()).await;
    assert!(done.status.success(), "{}", stderr(&done));
    let said = stdout(&done);
    for part in [
        "openai our-gpt from ",
        "USD per million tokens: input 2.50, cached_input 0.25, cache_write_5m 2.50, cache_write_1h 2.50, output 10.00",
        "above 200000 input tokens: input 5.00, cached_input 0.50",
        "tier priority: input 5.00, cached_input 0.50",
        "times 1.10 for us",
        "USD per million file_search_calls: 2500.00",
        "USD per million web_search_requests: 10000.00",
        "22:00-06:00 on days 1,2,3,4,5 of America/New_York",
        "from our contract of 2026",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("replaces"), "there was none before: {said}");
    let line = json!({"provider": "openai", "model": "our-gpt", "service_tier": "us",
        "usage": {"input_tokens": 1_000_000, "output_tokens": 100_000},
        "units": {"file_search_calls": 2, "web_search_requests": 3}});
    let told = shell(&pool, format!("echo '{line}' | budget-backend prices cost")).await;
    let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", stderr(&told)));
    // (1 × 5.00 + 0.1 × 15.00) × 1.1 and 2 × 0.0025 and 3 × 0.01, USD; at any hour.
    assert_eq!(told["usd"], json!("7.185"), "{told}");
    let again = shell(&pool, example()).await;
    assert!(again.status.success() && !stdout(&again).contains("replaces"), "{}", stdout(&again));
    let bare = set(&pool, "our-gpt", &["--unit", "web_search_requests=0.01"]).await;
    let lost = "whole, and has not, as that had: above 200000 input tokens, tier priority, factor us, \
                unit file_search_calls, off-peak hours\n";
    assert!(stdout(&bare).contains("  replaces price ") && stdout(&bare).contains(lost), "{}", stdout(&bare));
    let bare = set(&pool, "our-gpt", &["--unit", "web_search_requests=0.02"]).await;
    assert!(bare.status.success() && !stdout(&bare).contains("replaces"), "{}", stdout(&bare));
    let help = stdout(&backend(&pool, &["prices", "set", "--help"]).await);
    assert!(help.contains("replaces the one before it whole"), "{help}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_piece_that_no_call_tells_of_and_a_zone_that_nobody_knows_are_refused(pool: PgPool) {
    let before = number(&pool, COUNT).await;
    let image = r#"{"units_nanousd_per_million": {"image": 40000000000000}}"#;
    let nowhere = r#"{"off_peak": [{"weekdays": [1], "weekday_zone": "Nowhere/No"}]}"#;
    for (more, said) in [
        (["--unit", "image=0.04"], "--unit: no call tells of \"image\"; expected one of "),
        (["--unit", "tokens=1"], ", images, input_characters,"),
        (
            ["--terms", image],
            "--terms: units_nanousd_per_million: no call tells of \"image\"; expected one of ",
        ),
        (
            ["--terms", nowhere],
            "--terms: off_peak.weekday_zone: expected the IANA name of a time zone such as \"Asia/Shanghai\", \
             got \"Nowhere/No\"",
        ),
    ] {
        let done = set(&pool, "m", &more).await;
        assert_eq!(done.status.code(), Some(2), "{said}: {}", stderr(&done));
        assert!(stderr(&done).contains(said), "{said}: {}", stderr(&done));
    }
    assert_eq!(number(&pool, COUNT).await, before);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn before_its_first_version_a_model_has_no_price_in_force(pool: PgPool) {
    let made = set(&pool, "young", &["--effective-from", "2026-03-01"]).await;
    assert!(made.status.success(), "{}", stderr(&made));
    let shown = async |day: &str| stdout(&backend(&pool, &["prices", "show", "young", "--at", day]).await);
    let (before, from_then) = (shown("2026-02-28").await, shown("2026-03-01").await);
    let none = "none of openai young is in force at 2026-02-28T00:00:00Z";
    assert!(before.contains(none) && !before.contains("  in force\n"), "{before}");
    assert!(from_then.contains("by operator  in force\n") && !from_then.contains("none of"), "{from_then}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_reader_that_has_seen_enough_is_no_failure(pool: PgPool) {
    let url = url(&pool);
    for arguments in [["list", "--provider", "openai"], ["load-catalogue", "--dry-run", ""]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
        command.arg("prices").args(arguments.into_iter().filter(|argument| !argument.is_empty()));
        command.env("DATABASE_URL", &url).stdout(writer);
        let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert_eq!((done.status.code(), stderr(&done).as_str()), (Some(0), ""), "{arguments:?}");
    }
}
