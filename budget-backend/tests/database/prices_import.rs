//! Catalogue, import and an operator's own prices.

use serde_json::json;
use sqlx::PgPool;

use crate::operator::{backend, json, stderr, stdout};
use crate::support::number;

fn fixture() -> String {
    format!("{}/tests/fixtures/community-prices.json", env!("CARGO_MANIFEST_DIR"))
}

const COUNT: &str = "select count(*) from model_prices";

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_import_says_what_it_does_and_done_twice_changes_nothing(pool: PgPool) {
    let before = number(&pool, COUNT).await;
    let dry = json(&backend(&pool, &["prices", "import", &fixture(), "--dry-run", "--json"]).await);
    let (added, skipped) =
        (dry["counts"]["added"].as_i64().unwrap(), dry["skipped"].as_object().unwrap().len());
    let keys: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixture()).unwrap()).unwrap();
    let keys = i64::try_from(keys.as_object().unwrap().len()).unwrap();
    assert_eq!(added + i64::try_from(skipped).unwrap(), keys, "{dry}");
    assert_eq!(number(&pool, COUNT).await, before, "a dry run writes nothing");
    let first = json(&backend(&pool, &["prices", "import", &fixture(), "--json"]).await);
    assert_eq!(first["counts"], dry["counts"]);
    // The dry run told whose unknown models become dearer, as the import did; then nothing does any more.
    assert_eq!(first["ceilings"], dry["ceilings"]);
    let of = |provider: &str| {
        dry["ceilings"].as_array().unwrap().iter().find(|ceiling| ceiling["provider"] == provider)
    };
    let input = &of("xai").unwrap()["figures"][0];
    assert_eq!((&input["name"], input["old"] != input["new"]), (&json!("input"), true), "{dry:#}");
    assert_eq!(number(&pool, COUNT).await, before + added);
    let second = json(&backend(&pool, &["prices", "import", &fixture(), "--json"]).await);
    assert_eq!((&second["counts"]["added"], &second["counts"]["changed"]), (&json!(0), &json!(0)));
    assert_eq!(second["counts"]["unchanged"], json!(added));
    assert_eq!(second["ceilings"], json!([]));
    assert_eq!(number(&pool, COUNT).await, before + added);
    let partial = "select count(*) from model_prices where cardinality(unpriced) > 0 and source = 'import'";
    assert_eq!(json!(number(&pool, partial).await), first["counts"]["partial"]);
    let shown = stdout(&backend(&pool, &["prices", "show", "gpt-full", "--at", "2026-11-23"]).await);
    for part in [
        "openai gpt-full from 2025-01-01T00:00:00Z, by import  in force",
        "input 2.50, cached_input 0.25, cache_write_5m 3.125, cache_write_1h 5.00, output 15.00, reasoning 20.00",
        "above 272000 input tokens: input 5.00",
        "tier flex: input 1.25",
        "times 2.00 for fast",
        "USD per million web_search_requests: 10000.00",
        "from https://example.com/prices",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_an_operator_set_is_left_alone_by_catalogue_and_import(pool: PgPool) {
    let set = |model: &'static str, day: &'static str| {
        let pool = pool.clone();
        async move {
            let arguments = [
                "prices",
                "set",
                "--provider",
                "openai",
                "--model",
                model,
                "--effective-from",
                day,
                "--rate",
                "input=7",
                "--rate",
                "output=9",
                "--note",
                "our contract",
            ];
            let done = backend(&pool, &arguments).await;
            assert!(done.status.success(), "{}", stderr(&done));
        }
    };
    set("gpt-full", "2026-01-01").await;
    set("gpt-5.4", "2026-01-01").await;
    let imported = json(&backend(&pool, &["prices", "import", &fixture(), "--json"]).await);
    assert_eq!(imported["counts"]["kept"], json!(1));
    let loaded = backend(&pool, &["prices", "load-catalogue"]).await;
    assert!(stdout(&loaded).contains("1 kept"), "{}{}", stdout(&loaded), stderr(&loaded));
    let own =
        "select count(*) from model_prices where model in ('gpt-full', 'gpt-5.4') and source = 'operator'";
    assert_eq!(number(&pool, own).await, 2);
    let others = "select count(*) from model_prices where model in ('gpt-full', 'gpt-5.4')";
    assert_eq!(number(&pool, others).await, 3, "the schema's own gpt-5.4 and no other");
    let again = backend(&pool, &["prices", "load-catalogue"]).await;
    assert!(stdout(&again).contains("0 added, 0 changed"), "{}", stdout(&again));
    let listed = stdout(&backend(&pool, &["prices", "list", "--provider", "openai"]).await);
    assert!(listed.contains("openai gpt-5.4  in 7.00  cached 7.00  out 9.00  operator"), "{listed}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_bad_file_or_argument_stops_before_anything_is_written(pool: PgPool) {
    let before = number(&pool, COUNT).await;
    let file = std::env::temp_dir().join(format!("prices-{}.json", uuid::Uuid::from_u128(1).simple()));
    let file = file.with_extension(format!("{}.json", std::process::id()));
    let good = r#""a": {"litellm_provider": "p", "input_cost_per_token": 1e-6, "output_cost_per_token": 0}"#;
    for (text, said) in [
        (
            format!("{{{good}, \"b\": {{\"litellm_provider\": \"p\", \"input_cost_per_token\": -1}}}}"),
            "entry \"b\", field \"input_cost_per_token\": expected no negative number",
        ),
        (format!("{{{good}, {good}}}"), "\"a\" stands twice"),
        (
            format!("{{{good}, \"b\": {{\"litellm_provider\": \"p\", \"cost_per_wish\": 1}}}}"),
            "entry \"b\", field \"cost_per_wish\": unknown field",
        ),
        (
            format!("{{{good}, \"b\": {{\"litellm_provider\": \"p\", \"input_cost_per_token\": \"1,5\"}}}}"),
            "entry \"b\", field \"input_cost_per_token\": expected a decimal number",
        ),
        (
            format!("{{{good}, \"b\": {{\"litellm_provider\": \"p\", \"output_cost_per_furlong\": 1}}}}"),
            "entry \"b\", field \"output_cost_per_furlong\": unknown field",
        ),
        (
            format!("{{{good}, \"b\": {{\"litellm_provider\": \"p\", \"litellm_provider\": \"q\"}}}}"),
            "entry \"b\": \"litellm_provider\" stands twice",
        ),
        ("[1]".to_owned(), "not a price file in the LiteLLM format"),
        ("provider,model,price\n".to_owned(), "not a price file in the LiteLLM format"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let done = backend(&pool, &["prices", "import", file.to_str().unwrap()]).await;
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(stderr(&done).contains(said), "{text}: {}", stderr(&done));
    }
    std::fs::remove_file(&file).unwrap();
    let gone = backend(&pool, &["prices", "import", file.to_str().unwrap()]).await;
    assert_eq!(gone.status.code(), Some(2));
    let set = ["prices", "set", "--provider", "p", "--model", "m"];
    for (more, said) in [
        (["--rate", "input=1"].as_slice(), "expected output among them"),
        (&["--rate", "input=-1", "--rate", "output=1"], "input: expected a decimal amount"),
        (&["--rate", "input=1e3", "--rate", "output=1"], "input: expected a decimal amount"),
        (&["--rate", "input=1", "--rate", "output=1", "--rate", "input=2"], "input stands twice"),
        (&["--rate", "input=1", "--rate", "output=1", "--unit", "images"], "expected NAME=USD"),
        (&["--rate", "input=1", "--rate", "output=1", "--terms", "{\"x\": 1}"], "unknown field `x`"),
        (&["--rate", "input=1", "--rate", "output=1", "--effective-from", "soon"], "expected a day"),
    ] {
        let done = backend(&pool, &[set.as_slice(), more].concat()).await;
        assert_eq!(done.status.code(), Some(2), "{more:?}: {}", stderr(&done));
        assert!(stderr(&done).contains(said), "{more:?}: {}", stderr(&done));
    }
    assert_eq!(number(&pool, COUNT).await, before);
}
