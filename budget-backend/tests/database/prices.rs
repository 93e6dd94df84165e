//! The price list: found, flagged, refused, refreshed.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{PgPool, Row};

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::operator::{backend, execute, stderr, stdout};
use crate::support::*;

fn of_model(mut call: Value, provider: &str, model: &str) -> Value {
    call["call"]["provider"] = json!(provider);
    call["call"]["model"] = json!(model);
    call
}

/// Settles a call with what `change` makes of it; gives the ledger's row.
async fn settled(
    service: &Service,
    pool: &PgPool,
    number: u64,
    change: impl FnOnce(&mut Value),
) -> sqlx::postgres::PgRow {
    let mut item = settlement(id(number));
    item.as_object_mut().unwrap().remove("answered_model");
    item["started_at_unix_ms"] = json!(i64::MAX / 1_000_000);
    change(&mut item);
    let batch = json!({"version": 1, "items": [item]});
    let (status, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!((status, &answer["results"][0]["outcome"]), (StatusCode::OK, &json!("recorded")), "{answer}");
    let hold_id = id_of(&answer);
    sqlx::query("select * from llm_requests where hold_id = $1").bind(hold_id).fetch_one(pool).await.unwrap()
}

fn id_of(answer: &Value) -> uuid::Uuid {
    answer["results"][0]["hold_id"].as_str().unwrap().parse().unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_class_tier_and_unit_of_a_call_is_priced_and_stored(pool: PgPool) {
    let service = Service::start(&pool).await;
    let row = settled(&service, &pool, 1, |item| {
        item["call"]["model"] = json!("gpt-6-luna");
        item["service_tier"] = json!("flex");
        item["usage"] = json!({"input_tokens": 1_000, "cached_input_tokens": 500, "output_tokens": 10,
            "reasoning_tokens": 20, "audio_input_tokens": 3, "image_output_tokens": 4});
        item["units"] = json!({"web_search_requests": 2});
    })
    .await;
    // In nano-USD a token: flex is half of 0.10, 0.01 and 0.50 USD a million; a search costs 0.01 USD.
    let expected = (1_000 + 3) * 50 + 500 * 5 + (10 + 20 + 4) * 250 + 2 * 10_000_000;
    assert_eq!(row.get::<i64, _>("cost_nanousd"), expected);
    assert_eq!(row.get::<Option<String>, _>("service_tier").as_deref(), Some("flex"));
    assert_eq!(row.get::<Value, _>("units"), json!({"web_search_requests": 2}));
    assert_eq!((row.get::<i64, _>("audio_input_tokens"), row.get::<i64, _>("image_output_tokens")), (3, 4));
    assert!(row.get::<Option<i64>, _>("price_id").is_some() && row.get::<String, _>("price_flag").is_empty());
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn unknown_models_are_flagged_and_listed_or_refused_where_the_org_wants_it(pool: PgPool) {
    let service = Service::start(&pool).await;
    let row = settled(&service, &pool, 1, |item| item["call"]["model"] = json!("brand-new")).await;
    assert_eq!(row.get::<String, _>("price_flag"), "ceiling");
    assert!(row.get::<i64, _>("cost_nanousd") > 0);
    let row = settled(&service, &pool, 2, |item| item["units"] = json!({"teleports": 1})).await;
    assert_eq!(row.get::<String, _>("price_flag"), "partial");
    assert_eq!(row.get::<Vec<String>, _>("unpriced"), ["teleports"]);
    settled(&service, &pool, 3, |_| {}).await;
    let (status, listed) =
        service.send(Method::GET, "/v1/prices/flagged?org=acme", ADMIN, &json!(null)).await;
    assert_eq!(status, StatusCode::OK, "{listed}");
    let models = listed["models"].as_array().unwrap();
    let told: Vec<_> =
        models.iter().map(|m| (&m["model"], &m["flag"], &m["calls"], &m["unpriced"])).collect();
    assert_eq!(
        told,
        [
            (&json!("brand-new"), &json!("ceiling"), &json!(1), &json!([])),
            (&json!("gpt-4o-mini"), &json!("partial"), &json!(1), &json!(["teleports"])),
        ]
    );
    for (query, status) in [("org=acme&days=0", 422), ("org=acme&day=1", 400), ("org=", 422)] {
        let path = format!("/v1/prices/flagged?{query}");
        let (said, _) = service.send(Method::GET, &path, ADMIN, &json!(null)).await;
        assert_eq!(said.as_u16(), status, "{query}");
    }
    let deny = json!({"org": "acme", "unknown_models": "deny"});
    let (status, rule) = service.send(Method::PUT, "/v1/rules", ADMIN, &deny).await;
    assert_eq!((status, &rule["unknown_models"]), (StatusCode::OK, &json!("deny")), "{rule}");
    let hold = |number, model: &str| of_model(hold_request(id(number)), "openai", model);
    let (_, verdict) = service.send(Method::POST, "/v1/holds", TOKEN, &hold(4, "brand-new")).await;
    assert_eq!((&verdict["verdict"], &verdict["reason"]), (&json!("deny"), &json!("not_priceable")));
    let (_, verdict) = service.send(Method::POST, "/v1/holds", TOKEN, &hold(5, "gpt-4o-2024-08-06")).await;
    assert_eq!(verdict["verdict"], json!("allow"), "{verdict}");
    let (status, said) = service
        .send(Method::PUT, "/v1/rules", ADMIN, &json!({"org": "acme", "team": "x", "unknown_models": "deny"}))
        .await;
    assert_eq!(status.as_u16(), 422, "{said}");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_entry_with_a_dimension_without_a_price_is_partial_and_unknown_where_that_occurs(pool: PgPool) {
    let file = std::env::temp_dir().join(format!("purser-dimensions-{}.json", std::process::id()));
    let entry = |more: Value| {
        let mut entry = json!({"litellm_provider": "openai", "mode": "chat",
            "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let hours = |hours: &str| json!({"off_peak_pricing": {"windows": [{"hours_utc": hours}]}});
    let entries = json!({
        "timed": entry(json!({"output_cost_per_second": 0.5})),
        "night": entry(hours("00:00-00:00")),
        "never": entry(hours("00:00-00:00")),
    });
    // A list with every day, and one with a day that isn't within two of this one.
    let weekday = number(&pool, "select extract(isodow from now() at time zone 'UTC')::bigint").await;
    let mut entries = entries;
    entries["never"]["off_peak_pricing"]["windows"][0]["weekdays"] = json!([(weekday + 2) % 7 + 1]);
    std::fs::write(&file, entries.to_string()).unwrap();
    let imported = backend(&pool, &["prices", "import", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    assert!(imported.status.success(), "{}", stderr(&imported));
    let said = stdout(&imported);
    assert!(said.contains("3 partial") && said.contains("added openai night"), "{said}");
    assert!(
        said.contains("partial: off_peak") && said.contains("off-peak hours none -> 00:00-00:00"),
        "{said}"
    );
    let service = Service::start(&pool).await;
    let told = async |number: u64, model: &str, units: Value| {
        let row = settled(&service, &pool, number, |item| {
            item["call"]["model"] = json!(model);
            item["usage"] = json!({"input_tokens": 1_000, "output_tokens": 100});
            item["units"] = units;
            item["started_at_unix_ms"] = json!(number_now_ms());
        })
        .await;
        (
            row.get::<i64, _>("cost_nanousd"),
            row.get::<Vec<String>, _>("unpriced"),
            row.get::<String, _>("price_flag"),
        )
    };
    let list_nanousd = 1_000 * 1_000 + 100 * 2_000;
    let fine = (list_nanousd, Vec::new(), String::new());
    assert_eq!(told(1, "timed", json!({})).await, fine);
    let (cost, unpriced, flag) = told(2, "timed", json!({"audio_seconds": 3})).await;
    assert!(
        cost > list_nanousd && unpriced.contains(&"output_cost_per_second".to_owned()),
        "{cost} {unpriced:?}"
    );
    assert_eq!(flag, "partial");
    let discounted = (list_nanousd, vec!["off_peak".to_owned()], "partial".to_owned());
    assert_eq!(told(3, "night", json!({})).await, discounted);
    assert_eq!(told(4, "never", json!({})).await, fine);
    // Explained as it is flagged; refused where the org wants no unknown price.
    let explained = async |number: u64, model: &str| {
        let ask = of_model(hold_request(id(number)), "openai", model);
        let (status, answer) = service.send(Method::POST, "/v1/explain", ADMIN, &ask).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (answer["price"]["flag"].clone(), answer["verdict"].clone())
    };
    let deny = json!({"org": "acme", "unknown_models": "deny"});
    assert_eq!(explained(5, "night").await, (json!("partial"), json!("allow")));
    let (status, _) = service.send(Method::PUT, "/v1/rules", ADMIN, &deny).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(explained(6, "night").await, (json!("partial"), json!("deny")));
    assert_eq!(explained(7, "never").await, (json!(""), json!("allow")));
    assert_eq!(explained(8, "timed").await, (json!(""), json!("allow")));
    assert_eq!(explained(9, "brand-new").await, (json!("ceiling"), json!("deny")));
    assert_books_balance(&pool).await;
    service.stop().await;
}

fn number_now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_price_or_an_alias_acts_at_once_and_stays_while_the_list_can_t_be_read(pool: PgPool) {
    let service = Service::start(&pool).await;
    let held = async |number: u64, provider: &str, model: &str| {
        let request = of_model(hold_request(id(number)), provider, model);
        service.send(Method::POST, "/v1/holds", TOKEN, &request).await.1["held_nanousd"].clone()
    };
    let until_held = async |from: u64, provider: &str, model: &str, wanted: i64| {
        // Told at its commit; far below the minute between two looks.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        for number in from.. {
            if held(number, provider, model).await == json!(wanted) {
                return;
            }
            assert!(std::time::Instant::now() < until, "{provider} {model} never came to {wanted}");
        }
    };
    let set = backend(
        &pool,
        &[
            "prices",
            "set",
            "--provider",
            "ollama",
            "--model",
            "*",
            "--rate",
            "input=0.01",
            "--rate",
            "output=0.02",
        ],
    )
    .await;
    assert!(set.status.success(), "{}", stderr(&set));
    until_held(1_000, "ollama", "llama9", 1_000 * 10 + 100 * 20).await;
    let alias = backend(
        &pool,
        &["prices", "alias", "prod", "--provider", "azure", "--model", "gpt-4o", "--to-provider", "openai"],
    )
    .await;
    assert!(alias.status.success(), "{}", stderr(&alias));
    until_held(100_000, "azure", "prod", 1_000 * 2_500 + 100 * 10_000).await;
    let explained = backend(&pool, &["prices", "explain", "--provider", "azure", "--model", "prod"]).await;
    let said = stdout(&explained);
    assert!(
        said.contains("exact: azure prod: nothing") && said.contains("alias: openai gpt-4o: found"),
        "{said}"
    );
    assert!(said.contains("matched: alias, priced as gpt-4o"), "{said}");
    let unpriced =
        backend(&pool, &["prices", "alias", "x", "--provider", "azure", "--model", "nothing"]).await;
    assert_eq!(unpriced.status.code(), Some(2), "{}", stderr(&unpriced));
    // A list that can't be read changes nothing: what was read stays in force.
    execute(&pool, "alter table model_prices rename to gone").await;
    execute(&pool, "notify purser_prices").await;
    assert_eq!(held(1, "azure", "prod").await, json!(1_000 * 2_500 + 100 * 10_000));
    execute(&pool, "alter table gone rename to model_prices").await;
    let removed = backend(&pool, &["prices", "alias", "prod", "--provider", "azure", "--remove"]).await;
    assert!(removed.status.success(), "{}", stderr(&removed));
    let ceiling = held(2, "nobody", "x").await.as_i64().unwrap();
    until_held(200_000, "azure", "prod", ceiling).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn versions_are_only_ever_added(pool: PgPool) {
    for sql in ["update model_prices set reasons = true", "delete from model_prices"] {
        let error = sqlx::query(sql).execute(&pool).await.unwrap_err();
        assert!(error.to_string().contains("only ever added"), "{error}");
    }
}
