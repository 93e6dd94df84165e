//! What is as long as it may be, and what was written past the API.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::support::*;

/// Text that doesn't compress, of characters that JSON writes as they are.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(35 + u8::try_from(state % 57).unwrap())
    };
    (0..length).map(|_| next()).collect()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn names_and_tags_as_long_as_they_may_be_are_recorded_and_longer_ones_hold_up_nobody(pool: PgPool) {
    let service = Service::start(&pool).await;
    let item = |number: u64, value: &dyn Fn(u64) -> String| {
        let mut item = settlement(id(number));
        item["payer"] = json!({"org": noise(1, 256), "team": noise(2, 256), "user": noise(3, 256)});
        item["call"]["provider"] = json!(noise(4, 256));
        item["call"]["model"] = json!(noise(5, 256));
        let tags: serde_json::Map<String, Value> =
            (0..8).map(|tag| (noise(10 + tag, 64), json!(value(tag)))).collect();
        item["tags"] = json!(tags);
        item
    };
    let longest = item(1, &|tag| noise(20 + tag, 64));
    let too_long = item(2, &|_| "\"\\".repeat(32));
    let batch = json!({"version": 1, "items": [longest, too_long, settlement(id(3))]});
    let (status, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let outcomes: Vec<&str> =
        (0..3).map(|item| answer["results"][item]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["recorded", "rejected", "recorded"], "{answer}");
    assert!(answer["results"][1]["reason"].as_str().unwrap().contains("bytes as JSON"), "{answer}");
    assert_eq!(number(&pool, "select count(*) from usage_hourly").await, 2);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_written_by_hand_in_a_zone_that_is_none_counts_in_utc(pool: PgPool) {
    let service = Service::start(&pool).await;
    sqlx::query("insert into budgets (org, window_kind, time_zone, limit_nanousd) values ('acme', 'day', 'Nowhere', 1)")
        .execute(&pool)
        .await
        .unwrap();
    let (status, verdict) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(1))).await;
    assert_eq!((status, &verdict["reason"]), (StatusCode::OK, &json!("over_budget")), "{verdict}");
    let (status, listing) = service.send(Method::GET, "/v1/budgets?org=acme", ADMIN, &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{listing}");
    assert!(listing["budgets"][0]["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{listing}");
    service.stop().await;
}
