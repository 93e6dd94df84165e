//! What an operator may get wrong: each mistake is answered with what was expected, and nothing of it is
//! stored.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service};
use crate::api_policies::{assert_allowed, assert_over, budget, done, verdict};
use crate::support::*;

/// Everything that an operator's request can store.
pub const STORED: &str = "select (select count(*) from budgets) + (select count(*) from audit_log)
                           + (select count(*) from budget_top_ups) + (select count(*) from call_rules)
                           + (select count(*) from overrides) + (select sum(topped_up_nanousd) % 1000000007 from budget_counters)::bigint";

/// Sends a body as it stands, and gives back status and detail; of a message about JSON without its
/// preface and place.
pub async fn told(service: &Service, method: &Method, path: &str, body: &str) -> (u16, String) {
    let response = service.raw(method.clone(), path, ADMIN, body.to_owned()).await;
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap_or_default();
    let detail = answer["detail"].as_str().unwrap_or_default();
    let detail =
        detail.strip_prefix("Failed to deserialize the JSON body into the target type: ").unwrap_or(detail);
    let detail = detail.split_once(" at line ").map_or(detail, |(detail, _)| detail);
    (status, detail.to_owned())
}

/// Each request is refused with 422 and this detail, and nothing is stored.
pub async fn all_refused(
    pool: &PgPool,
    service: &Service,
    method: Method,
    path: &str,
    cases: &[(String, &str)],
) {
    let before = number(pool, STORED).await;
    let mut wrong = Vec::new();
    for (body, expected) in cases {
        let (status, detail) = told(service, &method, path, body).await;
        if (status, detail.as_str()) != (422, expected) {
            wrong.push(format!("{body}\n    expected {expected:?}\n    got {status} {detail:?}"));
        }
        assert_eq!(number(pool, STORED).await, before, "{body} stored something");
    }
    assert!(wrong.is_empty(), "{method} {path}:\n  {}", wrong.join("\n  "));
}

/// A budget of org acme with one field said otherwise.
fn with(field: &str, value: &str) -> String {
    let mut fields = vec![("org", r#""acme""#), ("window", r#""day""#), ("limit_usd", r#""1""#)];
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_amount_is_a_decimal_text_of_nano_usd(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = budget(&service, json!({})).await;
    let not_text = |found: &str| {
        format!(
            "limit_usd: invalid type: {found}, expected a decimal amount in USD as text, such as \"12.50\""
        )
    };
    let not_decimal = |text: &str| {
        format!(
            "limit_usd: expected a decimal amount in USD such as \"12.50\", without sign, exponent or separators, got {text}"
        )
    };
    let too_fine =
        |text: &str| format!("limit_usd: expected at most nine decimals (one nano-USD), got {text:?}");
    let too_large =
        |text: &str| format!("limit_usd: expected at most 9223372036.854775807 USD, got {text:?}");
    let long = "9".repeat(100_000);
    let cases: Vec<(String, String)> = vec![
        ("1.5".into(), not_text("floating point `1.5`")),
        ("5".into(), not_text("integer `5`")),
        ("-5".into(), not_text("integer `-5`")),
        ("null".into(), not_text("null")),
        ("true".into(), not_text("boolean `true`")),
        ("[]".into(), not_text("sequence")),
        (r#""-1""#.into(), not_decimal(r#""-1""#)),
        (r#""-0""#.into(), not_decimal(r#""-0""#)),
        (r#""+1""#.into(), not_decimal(r#""+1""#)),
        (r#""1e3""#.into(), not_decimal(r#""1e3""#)),
        (r#""1,50""#.into(), not_decimal(r#""1,50""#)),
        (r#""1.""#.into(), not_decimal(r#""1.""#)),
        (r#"".5""#.into(), not_decimal(r#"".5""#)),
        (r#""1.2.3""#.into(), not_decimal(r#""1.2.3""#)),
        (r#"" 1""#.into(), not_decimal(r#"" 1""#)),
        (r#""$5""#.into(), not_decimal(r#""$5""#)),
        (r#""""#.into(), not_decimal(r#""""#)),
        (r#""NaN""#.into(), not_decimal(r#""NaN""#)),
        (r#""inf""#.into(), not_decimal(r#""inf""#)),
        (r#""0x10""#.into(), not_decimal(r#""0x10""#)),
        (r#""١""#.into(), not_decimal(r#""١""#)),
        (r#""1\u00002""#.into(), not_decimal(r#""1\02""#)),
        (r#""0.0000000001""#.into(), too_fine("0.0000000001")),
        (r#""1.1234567891""#.into(), too_fine("1.1234567891")),
        (r#""9223372036.854775808""#.into(), too_large("9223372036.854775808")),
        (r#""9223372037""#.into(), too_large("9223372037")),
        (r#""99999999999999999999""#.into(), too_large("99999999999999999999")),
        (format!("{long:?}"), format!("{}…", too_large(&long[..40]))),
    ];
    let creates: Vec<(String, &str)> =
        cases.iter().map(|(value, expected)| (with("limit_usd", value), expected.as_str())).collect();
    all_refused(&pool, &service, Method::POST, "/v1/budgets", &creates).await;
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    // In a change, null is what is left out.
    let changes: Vec<(String, &str)> = cases
        .iter()
        .filter(|(value, _)| value != "null")
        .map(|(value, expected)| (format!(r#"{{"limit_usd":{value}}}"#), expected.as_str()))
        .collect();
    all_refused(&pool, &service, Method::PATCH, &path, &changes).await;
    let of_top_up: Vec<(String, String)> = cases
        .iter()
        .map(|(value, expected)| {
            (format!(r#"{{"amount_usd":{value}}}"#), expected.replace("limit_usd", "amount_usd"))
        })
        .collect();
    let of_top_up: Vec<(String, &str)> =
        of_top_up.iter().map(|(body, told)| (body.clone(), told.as_str())).collect();
    all_refused(&pool, &service, Method::POST, &format!("{path}/top-ups"), &of_top_up).await;
    for (not_json, detail) in
        [("1e400", "number out of range"), ("NaN", "expected value"), ("01", "invalid number")]
    {
        let expected = (400, format!("Failed to parse the request body as JSON: limit_usd: {detail}"));
        assert_eq!(
            told(&service, &Method::POST, "/v1/budgets", &with("limit_usd", not_json)).await,
            expected
        );
    }
    // The widest amounts there are.
    for (limit, shown) in [
        ("9223372036.854775807", "9223372036.854775807"),
        ("0.000000001", "0.000000001"),
        ("007.500000000000", "7.50"),
        ("0", "0.00"),
    ] {
        let changed = done(&service, Method::PATCH, &path, json!({"limit_usd": limit})).await;
        assert_eq!(changed["limit_usd"], shown);
    }
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_place_a_window_and_a_zone_are_checked(pool: PgPool) {
    let service = Service::start(&pool).await;
    budget(&service, json!({"org": "other"})).await;
    let long = format!("{:?}", "x".repeat(257));
    let models = |count: usize, bytes: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("\"{number:0>bytes$}\"")).collect();
        format!("[{}]", names.join(","))
    };
    let zone = |name: &str| {
        format!("time_zone: expected an IANA time zone name such as \"Europe/Berlin\", got \"{name}\"")
    };
    let zones = [
        "",
        "GMT+25",
        "UTC+1",
        "Etc/GMT+25",
        "Mars/Olympus",
        "+01:00",
        "CEST",
        "Europe/Berlin ",
        "../../etc/passwd",
        "/usr/share/zoneinfo/UTC",
        "Etc/Unknown",
        "local",
        "localtime",
        "posixrules",
        "right/UTC",
        "posix/UTC",
        "Factory",
        "EST5EDT,M3.2.0,M11.1.0",
        "Europe/",
        "a\u{e9}",
    ];
    let mut cases: Vec<(String, String)> =
        zones.iter().map(|name| (with("time_zone", &json!(name).to_string()), zone(name))).collect();
    let plain = [
        (r#"{"window":"day","limit_usd":"1"}"#.to_owned(), "missing field `org`"),
        (with("org", "null"), "org: invalid type: null, expected a string"),
        (with("org", r#""""#), "org: expected a name, got an empty text"),
        (with("org", r#""*""#), r#"org: expected the name of one; "*" may stand in team or user"#),
        (with("org", r#""acme ""#), r#"org: expected no space at either end, got "acme ""#),
        (with("org", &long), "org: expected at most 256 bytes, got 257"),
        (with("org", r#""a\u0000b""#), "org: expected no control characters"),
        (with("team", r#""a\nb""#), "team: expected no control characters"),
        (with("team", r#""""#), "team: expected a name, got an empty text"),
        (with("team", &long), "team: expected at most 256 bytes, got 257"),
        (with("user", r#""ann""#), "user: expected a team with it; users belong to teams"),
        (with("user", r#""*""#), "user: expected a team with it; users belong to teams"),
        (
            with("team", r#""*","user":"ann""#),
            r#"team: "*" may stand in the last place only; leave user out"#,
        ),
        (with("team", r#""*","user":"*""#), r#"team: "*" may stand in the last place only; leave user out"#),
        (with("team", r#""search","user":"\u0085""#), "user: expected no control characters"),
        (
            with("window", r#""hour""#),
            "window: unknown variant `hour`, expected one of `day`, `week`, `month`, `total`",
        ),
        (
            with("window", r#""Day""#),
            "window: unknown variant `Day`, expected one of `day`, `week`, `month`, `total`",
        ),
        (r#"{"org":"acme","limit_usd":"1"}"#.to_owned(), "missing field `window`"),
        (r#"{"org":"acme","window":"day"}"#.to_owned(), "missing field `limit_usd`"),
        (with("mode", r#""warn""#), "mode: unknown variant `warn`, expected `enforce` or `shadow`"),
        (with("strict", r#""yes""#), "strict: invalid type: string \"yes\", expected a boolean"),
        (with("models", r#""gpt-4o""#), "models: invalid type: string \"gpt-4o\", expected a sequence"),
        (with("models", &models(65, 2)), "models: expected at most 64 patterns, got 65"),
        (with("models", &models(33, 32)), "models: expected at most 1024 bytes in all, got 1056"),
        (with("models", r#"["o3",""]"#), "models[1]: expected a name, got an empty text"),
        (with("models", r#"["o3 "]"#), r#"models[0]: expected no space at either end, got "o3 ""#),
        (with("models", r#"["a\u001bb"]"#), "models[0]: expected no control characters"),
        (
            with("model", r#"["o3"]"#),
            "model: unknown field `model`, expected one of `org`, `team`, `user`, `window`, `time_zone`, `limit_usd`, `mode`, `strict`, `models`, `ladder`",
        ),
        (
            with("budget_id", "1"),
            "budget_id: unknown field `budget_id`, expected one of `org`, `team`, `user`, `window`, `time_zone`, `limit_usd`, `mode`, `strict`, `models`, `ladder`",
        ),
        (r#"{"org":"a","org":"b","window":"day","limit_usd":"1"}"#.to_owned(), "duplicate field `org`"),
        ("[]".to_owned(), "invalid length 0, expected struct Create with 10 elements"),
    ];
    cases.extend(plain.map(|(body, expected)| (body, expected.to_owned())));
    let cases: Vec<(String, &str)> = cases.iter().map(|(body, told)| (body.clone(), told.as_str())).collect();
    all_refused(&pool, &service, Method::POST, "/v1/budgets", &cases).await;
    // As many and as long as may be, of no two letters alike for the index to shorten.
    let widest: Vec<String> = (0..64_u64)
        .map(|number| format!("{:016x}", number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let spread = |salt: u64| -> String {
        (0..16_u64)
            .map(|part| format!("{:016x}", (part + salt).wrapping_mul(0xbf58_476d_1ce4_e5b9)))
            .collect()
    };
    let fields = json!({"org": spread(1), "team": spread(20), "user": spread(40), "models": widest});
    assert_eq!(budget(&service, fields).await["models"].as_array().unwrap().len(), 64);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn one_zone_has_one_name(pool: PgPool) {
    let service = Service::start(&pool).await;
    for (said, kept) in [
        ("utc", "UTC"),
        ("europe/berlin", "Europe/Berlin"),
        ("AMERICA/ARGENTINA/BUENOS_AIRES", "America/Argentina/Buenos_Aires"),
        ("etc/gmt+5", "Etc/GMT+5"),
        ("GMT", "GMT"),
    ] {
        let made = budget(&service, json!({"time_zone": said})).await;
        assert_eq!(made["time_zone"], kept, "{said}");
    }
    let before = number(&pool, STORED).await;
    for same in ["UTC", "Utc", "etc/utc", "Etc/UCT", "uct", "zulu", "Etc/Zulu", "universal", "EUROPE/BERLIN"]
    {
        let (status, _) =
            told(&service, &Method::POST, "/v1/budgets", &with("time_zone", &json!(same).to_string())).await;
        assert_eq!(status, 409, "{same}");
    }
    assert_eq!(number(&pool, STORED).await, before);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_limit_below_what_is_spent_is_allowed_and_denies_the_next_hold(pool: PgPool) {
    let service = Service::start(&pool).await;
    record(&pool, vec![settle(id(1), 1_500_000_000)]).await;
    let made = budget(&service, json!({"window": "month", "limit_usd": "1"})).await;
    assert_eq!((&made["spent_usd"], &made["remaining_usd"]), (&json!("1.50"), &json!("-0.50")));
    assert_over(&verdict(&service).await, &made);
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    done(&service, Method::PATCH, &path, json!({"limit_usd": "2"})).await;
    assert_allowed(&verdict(&service).await);
    let lowered = done(&service, Method::PATCH, &path, json!({"limit_usd": "0"})).await;
    assert_eq!(
        (&lowered["spent_usd"], &lowered["held_usd"], &lowered["remaining_usd"]),
        (&json!("1.50"), &json!("0.00021"), &json!("-1.50021"))
    );
    let denied = verdict(&service).await;
    assert_over(&denied, &made);
    assert_eq!(denied["budget"]["spent_nanousd"], 1_500_000_000_i64);
    // A raise to exactly what this call needs beside the other lets it go.
    done(&service, Method::PATCH, &path, json!({"limit_usd": "1.50042"})).await;
    assert_allowed(&verdict(&service).await);
    assert_over(&verdict(&service).await, &made);
    assert_books_balance(&pool).await;
    service.stop().await;
}
