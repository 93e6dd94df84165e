//! What must not get into the price list, and what must not follow when it is there.

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service};
use crate::operator::{backend, execute, json as document, stderr, stdout};
use crate::support::number;

const COUNT: &str = "select count(*) from model_prices";
const GOOD: &str =
    r#""a": {"litellm_provider": "p", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}"#;

/// A part of a file's name that no other test has.
fn own_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("faults-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A file that is gone with the value.
struct PriceFile(PathBuf);

impl PriceFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("prices-{}.json", own_name()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for PriceFile {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// A file with a good entry, and one of `fields` beside its provider.
fn with_fields(fields: &str) -> String {
    format!(
        r#"{{{GOOD}, "b": {{"litellm_provider": "p", "input_cost_per_token": 1e-6, "output_cost_per_token": 0, {fields}}}}}"#
    )
}

async fn import(pool: &PgPool, text: &str, more: &[&str]) -> Output {
    let file = PriceFile::new(text);
    backend(pool, &[&["prices", "import", file.0.to_str().unwrap()], more].concat()).await
}

async fn set(pool: &PgPool, provider: &str, model: &str, more: &[&str]) -> Output {
    let start = ["prices", "set", "--provider", provider, "--model", model];
    let rates = ["--rate", "input=1", "--rate", "output=2"];
    backend(pool, &[start.as_slice(), &rates, more].concat()).await
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_file_that_would_break_the_list_stops_with_entry_and_field(pool: PgPool) {
    let before = number(&pool, COUNT).await;
    let field = |fields: &str, name: &str| (with_fields(fields), format!("entry \"b\", field \"{name}\": "));
    let key = |key: &str| format!("{{{GOOD}, {}: {{\"litellm_provider\": \"p\"}}}}", json!(key));
    let source = |source: &str| with_fields(&format!("\"source\": {}", json!(source)));
    for (text, said) in [
        field(
            r#""regional_processing_uplift_multiplier_us": 1001"#,
            "regional_processing_uplift_multiplier_us",
        ),
        field(r#""provider_specific_entry": {"us": 1000.5}"#, "provider_specific_entry.us"),
        field(r#""provider_specific_entry": {"us": "1.1"}"#, "provider_specific_entry.us"),
        field(r#""provider_specific_entry": {"ca": "1.1"}"#, "provider_specific_entry.ca"),
        field(r#""off_peak_pricing": {"input_cost_per_token": -1}"#, "off_peak_pricing.input_cost_per_token"),
        field(
            r#""off_peak_pricing": {"input_cost_per_token": 1.000001e-6, "windows": []}"#,
            "off_peak_pricing.input_cost_per_token",
        ),
        field(r#""off_peak_pricing": {"weekday_timezone": "a\u0000"}"#, "off_peak_pricing.weekday_timezone"),
        field(
            r#""off_peak_pricing": {"windows": [{"hours_utc": "24:30-06:00"}]}"#,
            "off_peak_pricing.windows[0].hours_utc",
        ),
        field(r#""off_peak_pricing": {"windows": null}"#, "off_peak_pricing.windows"),
        field(r#""output_cost_per_second": 1e400"#, "output_cost_per_second"),
        field(r#""off_peak_pricing": {"discount": 1}"#, "off_peak_pricing.discount"),
        field(
            r#""off_peak_pricing": {"windows": [{"hours_utc": "late"}]}"#,
            "off_peak_pricing.windows[0].hours_utc",
        ),
        field(r#""off_peak_pricing": {"windows": [{"weekdays": [1], "weekdays": [2]}]}"#, "off_peak_pricing"),
        field(r#""metadata": {"notes": {"x": 1, "x": 2}}"#, "metadata"),
        field(r#""source": 1"#, "source"),
        field(r#""supports_reasoning": "yes""#, "supports_reasoning"),
        field(
            r#""tiered_pricing": [{"max_results_range": [0, 25], "input_cost_per_query": -1}]"#,
            "tiered_pricing[0].input_cost_per_query",
        ),
        field(
            r#""tiered_pricing": [{"range": [0, 10]}, {"range": [10, 5]}, {"range": [5, 50]}]"#,
            "tiered_pricing[1].range",
        ),
        field(r#""tiered_pricing": [{"range": [0, 10.5]}]"#, "tiered_pricing[0].range"),
        field(r#""input_cost_per_token_above_+200k_tokens": 1"#, "input_cost_per_token_above_+200k_tokens"),
        field("\"supports_\\nadded p forged\": true", "supports_\\nadded p forged"),
        (key("nul\0"), "entry \"nul\\0\": expected a name without control characters".to_owned()),
        (key("esc\u{1b}[2J"), "entry \"esc\\u{1b}[2J\": expected a name".to_owned()),
        (key("two\nlines"), "entry \"two\\nlines\": expected a name".to_owned()),
        (key(" a"), "entry \" a\": expected a name".to_owned()),
        (key(" "), "entry \" \": expected a name".to_owned()),
        (key(&"k".repeat(10_000)), "expected at most 256 bytes, got 10000".to_owned()),
        (source("nul\0"), "entry \"b\", field \"source\": expected a text without control".to_owned()),
        (
            with_fields("\"mode\": \"chat\"")
                .replace("\"b\": {\"litellm_provider\": \"p\"", "\"b\": {\"litellm_provider\": \"\""),
            "entry \"b\", field \"litellm_provider\": expected a name".to_owned(),
        ),
        (format!("\u{feff}{{{GOOD}}}"), "byte order mark".to_owned()),
    ] {
        for more in [[].as_slice(), &["--dry-run"], &["--allow-unknown"]] {
            if text.contains("_above_+200k") && more == ["--allow-unknown"] {
                continue;
            }
            let done = import(&pool, &text, more).await;
            assert_eq!(done.status.code(), Some(2), "{more:?} {text:.200}: {}", stderr(&done));
            assert!(stderr(&done).contains(&said), "{more:?} {said}: {}", stderr(&done));
            assert!(stderr(&done).len() < 600, "{}", stderr(&done));
        }
    }
    for (fields, name) in [
        (r#""baz_cost": -3"#, "baz_cost"),
        (r#""baz_cost": {"a": [{"b": -3}]}"#, "baz_cost.a[0].b"),
        (r#""baz_cost": {"a": 1, "a": 2}"#, "baz_cost"),
        (r#""wisdom": {"a": 1, "a": 2}"#, "wisdom"),
    ] {
        let done = import(&pool, &with_fields(fields), &["--allow-unknown"]).await;
        assert_eq!(done.status.code(), Some(2), "{fields}: {}", stderr(&done));
        assert!(stderr(&done).contains(&format!("field \"{name}\": ")), "{fields}: {}", stderr(&done));
    }
    assert_eq!(number(&pool, COUNT).await, before);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_file_is_no_pipe_and_a_database_is_migrated(pool: PgPool) {
    let pipe = std::env::temp_dir().join(format!("prices-{}.pipe", own_name()));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let done = backend(&pool, &["prices", "import", pipe.to_str().unwrap()]).await;
    std::fs::remove_file(&pipe).unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(stderr(&done).contains("expected a regular file"), "{}", stderr(&done));
    execute(&pool, "drop table model_prices, model_aliases cascade").await;
    let done = backend(&pool, &["prices", "list"]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("run `budget-backend migrate` first"), "{}", stderr(&done));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_row_that_can_t_be_read_costs_its_model_and_nothing_else(pool: PgPool) {
    let insert = |model: &str, from: &str, terms: &str| {
        format!(
            "insert into model_prices (provider, model, effective_from, input_nanousd_per_mtok,
                 cached_input_nanousd_per_mtok, cache_write_5m_nanousd_per_mtok,
                 cache_write_1h_nanousd_per_mtok, output_nanousd_per_mtok, reasoning_nanousd_per_mtok,
                 reasons, terms)
             values ('openai', '{model}', '{from}', 1, 1, 1, 1, 1, 1, false, '{terms}')"
        )
    };
    execute(&pool, &insert("bad-factor", "2025-01-01", r#"{"multipliers_millionths": {"us": 1001000000}}"#))
        .await;
    execute(&pool, &insert("bad-field", "2025-01-01", r#"{"wisdom": 1}"#)).await;
    execute(&pool, &insert("bad-start", "-infinity", "{}")).await;
    let listed = backend(&pool, &["prices", "list"]).await;
    assert!(listed.status.success(), "{}", stderr(&listed));
    assert!(stdout(&listed).contains("openai bad-factor"), "{}", stdout(&listed));
    let book = budget_backend::admin::prices::price_book(&pool).await.unwrap();
    let usage = purser_protocol::Usage { input_tokens: 1_000_000, ..Default::default() };
    let units = std::collections::BTreeMap::new();
    let used = budget_backend::pricing::Used { usage: &usage, units: &units, service_tier: None };
    let dearest = book.ceiling("openai", 1_800_000_000).unwrap().standard.input;
    for model in ["bad-factor", "bad-field", "bad-start"] {
        let price = book.find("openai", model, 1_800_000_000).unwrap();
        let costed = price.cost(used).unwrap();
        assert!(!price.flag(&costed.unpriced).is_empty(), "{model}: {costed:?}");
        assert_eq!(costed.nanousd, dearest, "{model}");
    }
    // The service starts: a failed start panics.
    let service = Service::start(&pool).await;
    let asked = service.send(Method::GET, "/v1/prices/flagged?org=acme", ADMIN, &json!(null)).await;
    assert_eq!(asked.0, StatusCode::OK, "{}", asked.1);
    let gpt = book.find("openai", "gpt-4o", 1_800_000_000).unwrap();
    assert_eq!(gpt.flag(&gpt.cost(used).unwrap().unpriced), "", "others are as they were");
    let done = import(&pool, &format!("{{{GOOD}}}"), &[]).await;
    assert!(done.status.success(), "{}", stderr(&done));
    let done = set(&pool, "openai", "bad-factor", &[]).await;
    assert!(done.status.success(), "{}", stderr(&done));
    let book = budget_backend::admin::prices::price_book(&pool).await.unwrap();
    let price = book.find("openai", "bad-factor", 4_000_000_000).unwrap();
    assert_eq!((price.rates.input, price.unpriced.len()), (1_000_000_000, 0), "put right by a new one");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_wildcard_of_a_file_is_no_rate_of_unknown_models(pool: PgPool) {
    let text = format!(
        "{{{GOOD}, \"openai/*\": {{\"litellm_provider\": \"openai\", \"input_cost_per_token\": 1e-12, \
         \"output_cost_per_token\": 0}}, \"*\": {{\"litellm_provider\": \"*\", \
         \"input_cost_per_token\": 1e-12, \"output_cost_per_token\": 0}}}}"
    );
    let done = document(&import(&pool, &text, &["--json"]).await);
    for key in ["openai/*", "*"] {
        let reason = done["skipped"][key].as_str().unwrap_or_default();
        assert!(reason.contains("stands for any model"), "{key}: {done}");
    }
    assert_eq!(number(&pool, "select count(*) from model_prices where '*' in (provider, model)").await, 0);
    let own = set(&pool, "ollama", "*", &[]).await;
    assert!(own.status.success(), "an operator's: {}", stderr(&own));
    assert!(set(&pool, "*", "*", &[]).await.status.success());
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_was_set_last_counts_whenever_it_starts(pool: PgPool) {
    let entry = |usd: &str| {
        format!(
            "{{\"m\": {{\"litellm_provider\": \"p\", \"input_cost_per_token\": {usd}, \"output_cost_per_token\": 2e-6}}}}"
        )
    };
    let added = document(&import(&pool, &entry("1e-6"), &["--json"]).await);
    let figure = |figures: &Value, name: &str| {
        let figures = figures.as_array().unwrap();
        figures.iter().find(|figure| figure["name"] == name).cloned().unwrap_or_default()
    };
    let input = figure(&added["prices"][0]["figures"], "input");
    assert_eq!(input, json!({"name": "input", "old": null, "new": "1.00"}), "{added}");
    let changed = document(&import(&pool, &entry("3e-6"), &["--json", "--dry-run"]).await);
    let input = figure(&changed["prices"][0]["figures"], "input");
    assert_eq!(input, json!({"name": "input", "old": "1.00", "new": "3.00"}), "{changed}");
    let changed = stdout(&import(&pool, &entry("3e-6"), &[]).await);
    assert!(changed.contains("changed p m  input 1.00 -> 3.00"), "{changed}");
    let own = set(&pool, "p", "m", &["--effective-from", "2026-01-01"]).await;
    assert!(own.status.success(), "{}", stderr(&own));
    assert!(
        stderr(&own).contains("warning: price ") && stderr(&own).contains("by import"),
        "{}",
        stderr(&own)
    );
    assert!(stdout(&own).contains("not in force now"), "{}", stdout(&own));
    let kept = document(&import(&pool, &entry("4e-6"), &["--json"]).await);
    assert_eq!(kept["counts"]["kept"], json!(1), "{kept}");
    let now = set(&pool, "p", "m", &[]).await;
    assert!(stdout(&now).contains("by operator  in force"), "{}", stdout(&now));
    assert_eq!(stderr(&now), "");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_could_never_match_is_refused(pool: PgPool) {
    let before = number(&pool, COUNT).await;
    let twice = r#"{"multipliers_millionths": {"us": 1100000, "us": 1200000}}"#;
    let upper = r#"{"multipliers_millionths": {"US": 1100000}}"#;
    let units = r#"{"units_nanousd_per_million": {"images": 5}}"#;
    for (provider, model, more, said) in [
        ("p", "m", ["--terms", twice].as_slice(), "--terms: \"us\" stands twice"),
        (
            "p",
            "m",
            &["--terms", upper],
            "--terms: multipliers_millionths: \"US\" is never said; expected \"us\"",
        ),
        (
            "p",
            "m",
            &["--terms", units, "--unit", "images=1"],
            "--unit images: expected it there or in --terms",
        ),
        ("p", "m", &["--terms", "[]"], "--terms: expected a JSON object, got \"[]\""),
        (
            "p",
            "m",
            &["--terms", r#"{"off_peak": [{"weekday_zone": "a\u0000"}]}"#],
            "--terms: off_peak.weekday_zone: expected a name",
        ),
        (
            "p",
            "m",
            &["--terms", r#"{"off_peak": [{"minutes_utc": [[0, 1441]]}]}"#],
            "--terms: off_peak.minutes_utc: expected minutes of a day",
        ),
        ("p", "gpt\u{200b}-4o", &[], "--model: expected a name without characters that aren't seen"),
        ("*", "gpt-x", &[], "--model: expected \"*\" with --provider \"*\", got \"gpt-x\""),
        ("", "m", &[], "--provider: expected a name"),
        ("p", "a\nb", &[], "--model: expected a name"),
        ("p", "m", &["--effective-from", "2026-11-23T12"], "expected a day"),
    ] {
        let done = set(&pool, provider, model, more).await;
        assert_eq!(done.status.code(), Some(2), "{said}: {}", stderr(&done));
        assert!(stderr(&done).contains(said), "{said}: {}", stderr(&done));
    }
    assert_eq!(number(&pool, COUNT).await, before);
    let alias = |name: &'static str| {
        let pool = pool.clone();
        async move {
            let to = ["--provider", "openai", "--model", "gpt-4o-mini"];
            backend(&pool, &[["prices", "alias", name].as_slice(), &to].concat()).await
        }
    };
    for name in ["", " a", "a\nb", "*"] {
        let done = alias(name).await;
        assert_eq!(done.status.code(), Some(2), "{name:?}: {}", stderr(&done));
        assert!(stderr(&done).contains("NAME: expected"), "{name:?}: {}", stderr(&done));
    }
    for (more, said) in [
        (["--model", ""].as_slice(), "--model: expected a name"),
        (&["--model", "m", "--provider", " "], "--provider: expected a name"),
    ] {
        let range = ["reprice", "--from", "2026-11-01", "--to", "2026-11-02"];
        let done = backend(&pool, &[&range, more].concat()).await;
        assert_eq!(done.status.code(), Some(2), "{}", stderr(&done));
        assert!(stderr(&done).contains(said), "{}", stderr(&done));
    }
    let of_nobody = backend(&pool, &["lint", "--org", ""]).await;
    assert_eq!(of_nobody.status.code(), Some(2), "{}", stdout(&of_nobody));
    // Hours of a discount that an operator tells are flagged as imported ones.
    let nights = r#"{"off_peak": [{"minutes_utc": [[1320, 360]]}]}"#;
    assert!(set(&pool, "p", "nightly", &["--terms", nights]).await.status.success());
    let flagged = "select count(*) from model_prices where model = 'nightly' and unpriced = '{off_peak}'";
    assert_eq!(number(&pool, flagged).await, 1);
    let hidden = alias("gpt-4o").await;
    assert!(
        hidden.status.success() && stderr(&hidden).contains("comes before the alias"),
        "{}",
        stderr(&hidden)
    );
    let sizes = json!({"sizes": [{"above_input_tokens": 200_000, "at_threshold": true, "rates":
        {"input": 1, "cached_input": 1, "cache_write_5m": 1, "cache_write_1h": 1, "output": 1, "reasoning": 1,
         "audio_input": 1, "audio_output": 1, "image_input": 1, "image_output": 1}}]});
    let shown = stdout(&set(&pool, "p", "sized", &["--terms", &sizes.to_string()]).await);
    assert!(shown.contains("  from 200000 input tokens: input "), "{shown}");
}
