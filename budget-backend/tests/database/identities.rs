//! Who pays, looked up by what a caller shows.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::bad_input::all_refused;
use crate::support::*;

const FINGERPRINT: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const SPIFFE_ID: &str = "spiffe://mesh.example/ns/chat/sa/web";

async fn known(service: &Service, body: Value) -> Value {
    let (status, made) = service.send(Method::POST, "/v1/identities", ADMIN, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

/// A hold without an org.
fn anonymous(number: u64, claims: Value, fallback: Value) -> Value {
    let mut request = hold_request(id(number));
    request["payer"] = json!({"org": ""});
    request["lookup"] = json!({"claims": claims, "fallback": fallback});
    request
}

async fn verdict(service: &Service, request: &Value) -> Value {
    let (status, verdict) = service.send(Method::POST, "/v1/holds", TOKEN, request).await;
    assert_eq!(status, StatusCode::OK, "{verdict}");
    verdict
}

/// Asks until the answer is as expected: replicas hear of a change a moment after it.
async fn becomes(service: &Service, request: &Value, field: &str, expected: &Value) {
    let until = in_time();
    let mut number = 1_000_000;
    loop {
        let mut request = request.clone();
        request["hold_id"] = json!(id(number));
        number += 1;
        let said = verdict(service, &request).await;
        if said[field] == *expected {
            return;
        }
        assert!(Instant::now() < until, "{field} never became {expected}: {said}");
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_caller_is_known_by_its_key_its_certificate_or_its_namespace(pool: PgPool) {
    let service = Service::start(&pool).await;
    let key = known(&service, json!({"kind": "api_key_sha256", "value": FINGERPRINT.to_uppercase(), "org": "acme", "team": "search", "user": "ann"})).await;
    assert_eq!((&key["value"], &key["user"]), (&json!(FINGERPRINT), &json!("ann")));
    known(&service, json!({"kind": "spiffe_id", "value": SPIFFE_ID, "org": "acme", "team": "ads"})).await;
    known(&service, json!({"kind": "namespace", "value": "chat", "org": "other"})).await;
    let claim = |kind: &str, value: &str| json!({"kind": kind, "value": value});
    let (by_key, by_spiffe, by_namespace) =
        (claim("api_key_sha256", FINGERPRINT), claim("spiffe_id", SPIFFE_ID), claim("namespace", "chat"));
    let ann = json!({"org": "acme", "team": "search", "user": "ann"});
    let first = anonymous(1, json!([by_key, by_spiffe]), json!(null));
    becomes(&service, &anonymous(1, json!([by_namespace]), json!(null)), "payer", &json!({"org": "other"}))
        .await;
    becomes(&service, &first, "payer", &ann).await;
    let unknown = claim("namespace", "nowhere");
    let newer = claim("passport", "x");
    for (claims, fallback, expected) in [
        (json!([newer, unknown, by_spiffe, by_key]), json!(null), json!({"org": "acme", "team": "ads"})),
        (json!([unknown]), json!({"org": "shared"}), json!({"org": "shared"})),
        (json!([]), json!({"org": "shared", "team": "rest"}), json!({"org": "shared", "team": "rest"})),
    ] {
        let said = verdict(&service, &anonymous(5, claims.clone(), fallback)).await;
        assert_eq!((&said["verdict"], &said["payer"]), (&json!("allow"), &expected), "{claims}");
    }
    // What the filter knows wins; ann is a user of search and of no other team.
    let mut of_ads = first.clone();
    of_ads["payer"] = json!({"org": "", "team": "ads"});
    of_ads["hold_id"] = json!(id(6));
    assert_eq!(verdict(&service, &of_ads).await["payer"], json!({"org": "acme", "team": "ads"}));
    // A payer that is known is not looked up, and not told.
    let mut own = first.clone();
    own["payer"] = json!({"org": "own"});
    own["hold_id"] = json!(id(7));
    assert_eq!(verdict(&service, &own).await["payer"], json!(null));
    let (status, _) = service
        .send(Method::DELETE, &format!("/v1/identities/{}", key["identity_id"]), ADMIN, &json!(null))
        .await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let by_key_alone = anonymous(8, json!([by_key]), json!(null));
    becomes(&service, &by_key_alone, "reason", &json!("unidentified")).await;
    let audited = number(&pool, "select count(*) from audit_log where object = 'identities'").await;
    assert_eq!(audited, 4);
    service.stop().await;
    let counted = number(
        &pool,
        "select sum(verdicts)::bigint from verdicts_hourly where org = '' and reason = 'unidentified'",
    )
    .await;
    assert!(counted > 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_denial_of_somebody_looked_up_says_who_it_was(pool: PgPool) {
    budget(&pool, "", "", "day", 1).await;
    let service = Service::start(&pool).await;
    let refused = verdict(&service, &anonymous(1, json!([]), json!({"org": "acme", "team": "t"}))).await;
    assert_eq!(
        (&refused["reason"], &refused["payer"]),
        (&json!("over_budget"), &json!({"org": "acme", "team": "t"}))
    );
    let many = json!(vec![json!({"kind": "namespace", "value": "x"}); 5]);
    let refused = verdict(&service, &anonymous(2, many, json!(null))).await;
    assert_eq!(
        (&refused["reason"], &refused["message"]),
        (&json!("not_priceable"), &json!("lookup.claims: expected at most 4, got 5"))
    );
    let star = verdict(&service, &anonymous(3, json!([]), json!({"org": "acme", "team": "*"}))).await;
    assert_eq!(star["message"], json!("lookup.fallback.team: \"*\" is not the name of one"));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn settlements_and_voids_of_callers_without_a_verdict_are_looked_up_too(pool: PgPool) {
    let service = Service::start(&pool).await;
    known(&service, json!({"kind": "namespace", "value": "chat", "org": "acme", "team": "search"})).await;
    let lookup = |value: &str| json!({"claims": [{"kind": "namespace", "value": value}]});
    becomes(
        &service,
        &anonymous(1, lookup("chat")["claims"].clone(), json!(null)),
        "verdict",
        &json!("allow"),
    )
    .await;
    let mut failed_open = settlement(id(2));
    failed_open["payer"] = json!({"org": ""});
    failed_open["admission"] = json!("fail_open");
    failed_open["asked_model"] = json!("gpt-5.4");
    failed_open["lookup"] = lookup("chat");
    let mut unknown = failed_open.clone();
    (unknown["hold_id"], unknown["lookup"]) = (json!(id(3)), lookup("nowhere"));
    let mut fallback = unknown.clone();
    fallback["hold_id"] = json!(id(4));
    fallback["lookup"]["fallback"] = json!({"org": "shared"});
    let void = json!({"kind": "void", "hold_id": id(5), "payer": {"org": ""}, "lookup": lookup("chat")});
    let batch = json!({"version": 1, "items": [failed_open, unknown, fallback, void]});
    let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    let results = answer["results"].as_array().unwrap();
    let outcomes: Vec<&str> = results.iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["recorded", "rejected", "recorded", "recorded"]);
    assert_eq!(results[1]["reason"], "lookup: nobody is known by these claims, and there is no fallback");
    let payers: Vec<(String, String)> =
        sqlx::query_as("select org, team from llm_requests order by org").fetch_all(&pool).await.unwrap();
    assert_eq!(payers, [("acme".to_owned(), "search".to_owned()), ("shared".to_owned(), String::new())]);
    let asked = "select count(*) from llm_requests where (model, asked_model) = ('gpt-4o-mini', 'gpt-5.4')";
    assert_eq!(number(&pool, asked).await, 2);
    assert_eq!(number(&pool, "select count(*) from holds where org = 'acme' and state = 'voided'").await, 1);
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements where org = ''").await, 1);
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn identities_are_listed_page_by_page_and_a_claim_names_one(pool: PgPool) {
    let service = Service::start(&pool).await;
    for number in 0..5 {
        known(&service, json!({"kind": "namespace", "value": format!("ns-{number}"), "org": "acme"})).await;
    }
    known(&service, json!({"kind": "spiffe_id", "value": SPIFFE_ID, "org": "acme"})).await;
    known(&service, json!({"kind": "namespace", "value": "theirs", "org": "other"})).await;
    let again = json!({"kind": "namespace", "value": "ns-1", "org": "other"});
    let (status, _) = service.send(Method::POST, "/v1/identities", ADMIN, &again).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (mut values, mut path) = (Vec::new(), "/v1/identities?org=acme&kind=namespace&limit=2".to_owned());
    loop {
        let (_, page) = service.send(Method::GET, &path, ADMIN, &json!(null)).await;
        let rows = page["identities"].as_array().unwrap();
        assert!(rows.len() <= 2);
        values.extend(rows.iter().map(|row| row["value"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/identities?org=acme&kind=namespace&limit=2&cursor={cursor}");
    }
    assert_eq!(values, ["ns-0", "ns-1", "ns-2", "ns-3", "ns-4"]);
    let (_, all) = service.send(Method::GET, "/v1/identities?org=acme", ADMIN, &json!(null)).await;
    assert_eq!(all["identities"].as_array().unwrap().len(), 6);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_key_is_never_taken_and_never_repeated(pool: PgPool) {
    let service = Service::start(&pool).await;
    crate::api_policies::budget(&service, json!({})).await;
    let body = |kind: &str, value: &str, rest: Value| {
        let mut body = json!({"kind": kind, "value": value, "org": "acme"});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        body.to_string()
    };
    let not_a_key =
        "value: expected the SHA-256 of the key as 64 hexadecimal digits, never the key itself, got 28 bytes";
    let spiffe =
        "value: expected a SPIFFE id such as spiffe://mesh.example/ns/chat/sa/web, of at most 512 bytes";
    let cases = [
        (body("api_key_sha256", "sk-proj-0123456789abcdefghij", json!({})), not_a_key),
        (body("spiffe_id", "sk-proj-0123456789abcdefghij", json!({})), spiffe),
        (
            body("namespace", "AKIA0123456789ABCDEF", json!({})),
            "value: expected the name of a namespace, lower-case letters, digits and dashes, of at most 63 bytes",
        ),
        (body("passport", "x", json!({})), "kind: expected api_key_sha256, spiffe_id or namespace"),
        (
            body("namespace", "chat", json!({"user": "ann"})),
            "user: expected a team with it; users belong to teams",
        ),
        (body("namespace", "chat", json!({"team": "*"})), "team: expected the name of one; \"*\" is not"),
        (body("namespace", "chat", json!({"org": ""})), "org: expected a name, got an empty text"),
    ];
    all_refused(&pool, &service, Method::POST, "/v1/identities", &cases).await;
    assert_eq!(number(&pool, "select count(*) from identities").await, 0);
    service.stop().await;
}
