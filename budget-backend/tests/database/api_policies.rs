//! Kinds of budgets, top-ups, rules, overrides and the audit log over HTTP, and what the next hold makes
//! of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api::{ADMIN, Service, TOKEN, hold_request};
use crate::support::*;

/// What a hold of `hold_request` takes: 1,000 tokens at 0.15 USD and 100 at 0.60 USD a million.
const ESTIMATE: i64 = 210_000;
/// The most such a call can cost: 4,000 bytes and 256 tokens around them, and its cap, in the dearest service
/// tier.
const BOUND: i64 = 4_256 * 250 + 100 * 1_000;
/// The same with the cap that a request without one is given.
const BOUND_BY_DEFAULT_CAP: i64 = 4_256 * 250 + 4_096 * 1_000;

/// An id that no other call of this run has.
pub fn fresh() -> Uuid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    id(LAST.fetch_add(1, Ordering::Relaxed))
}

/// An operator's call: status and answer.
pub async fn ask(service: &Service, method: Method, path: &str, body: Value) -> (u16, Value) {
    let (status, answer) = service.send(method, path, ADMIN, &body).await;
    (status.as_u16(), answer)
}

/// One that must succeed.
pub async fn done(service: &Service, method: Method, path: &str, body: Value) -> Value {
    let (status, answer) = ask(service, method.clone(), path, body.clone()).await;
    assert!((200..300).contains(&status), "{method} {path} {body}: {status} {answer}");
    answer
}

/// One that must be refused with this status and exactly this detail.
pub async fn refused(service: &Service, method: Method, path: &str, body: Value, status: u16, detail: &str) {
    let (seen, answer) = ask(service, method.clone(), path, body.clone()).await;
    assert_eq!((seen, answer["detail"].as_str()), (status, Some(detail)), "{method} {path} {body}: {answer}");
}

pub async fn budget(service: &Service, fields: Value) -> Value {
    let mut budget = json!({"org": "acme", "window": "day", "limit_usd": "1"});
    budget.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    done(service, Method::POST, "/v1/budgets", budget).await
}

pub async fn verdict_on(service: &Service, request: Value) -> Value {
    let (status, answer) = service.send(Method::POST, "/v1/holds", TOKEN, &request).await;
    assert_eq!(status.as_u16(), 200, "{answer}");
    answer
}

/// The verdict on a call of ann's in team search.
pub async fn verdict(service: &Service) -> Value {
    verdict_on(service, hold_request(fresh())).await
}

/// The verdict on such a call with one field changed.
pub async fn verdict_with(service: &Service, pointer: &str, value: Value) -> Value {
    let mut request = hold_request(fresh());
    *request.pointer_mut(pointer).unwrap() = value;
    verdict_on(service, request).await
}

pub fn assert_allowed(verdict: &Value) {
    assert_eq!(verdict["verdict"], "allow", "{verdict}");
}

fn assert_denied(verdict: &Value, reason: &str, message: &str) {
    assert_eq!((&verdict["verdict"], &verdict["reason"]), (&json!("deny"), &json!(reason)), "{verdict}");
    assert_eq!(verdict["message"], message, "{verdict}");
}

pub fn assert_over(verdict: &Value, budget: &Value) {
    assert_eq!(verdict["reason"], "over_budget", "{verdict}");
    assert_eq!(verdict["budget"]["budget_id"], budget["budget_id"], "{verdict}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_says_its_mode_strictness_and_models(pool: PgPool) {
    let service = Service::start(&pool).await;
    let plain = budget(&service, json!({})).await;
    let expected = json!({
        "budget_id": plain["budget_id"], "tier": "org", "org": "acme", "team": null, "user": null, "window": "day",
        "time_zone": "UTC", "mode": "enforce", "strict": false, "models": [], "limit_usd": "1.00",
        "topped_up_usd": "0.00", "period_start": plain["period_start"], "resets_at": plain["resets_at"],
        "spent_usd": "0.00", "held_usd": "0.00", "remaining_usd": "1.00", "spent_percent": 0, "used_percent": 0,
        "forecast": null, "archived_at": null
    });
    assert_eq!(plain, expected);
    // The order of patterns and repeats make no other budget; another mode does.
    let fields = json!({"mode": "shadow", "strict": true, "models": ["o?", "gpt-5*", "o?"]});
    let kinds = budget(&service, fields).await;
    assert_eq!(
        (&kinds["mode"], &kinds["strict"], &kinds["models"]),
        (&json!("shadow"), &json!(true), &json!(["gpt-5*", "o?"]))
    );
    let mut same = json!({"org": "acme", "window": "day", "limit_usd": "2", "mode": "shadow", "models": ["gpt-5*", "o?"]});
    let clash = "an active budget for this place, window, time zone, mode and models exists; \
                 PATCH /v1/budgets/{budget_id} changes it";
    refused(&service, Method::POST, "/v1/budgets", same.clone(), 409, clash).await;
    same["mode"] = json!("enforce");
    let third = done(&service, Method::POST, "/v1/budgets", same).await;
    // A change that would make two budgets of one kind is refused whole.
    let path = format!("/v1/budgets/{}", third["budget_id"]);
    let change = json!({"mode": "shadow", "limit_usd": "7"});
    refused(&service, Method::PATCH, &path, change, 409, clash).await;
    let list = done(&service, Method::GET, "/v1/budgets?org=acme", json!(null)).await;
    assert_eq!(list["budgets"], json!([plain, kinds, third]));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_change_names_what_it_changes_and_acts_on_the_next_hold(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = budget(&service, json!({"limit_usd": "0"})).await;
    let path = format!("/v1/budgets/{}", made["budget_id"]);
    for nothing in [json!({}), json!({"limit_usd": null, "mode": null, "strict": null})] {
        let expected = "expected one of limit_usd, mode, strict, ladder";
        refused(&service, Method::PATCH, &path, nothing, 422, expected).await;
    }
    assert_over(&verdict(&service).await, &made);
    let shadow = done(&service, Method::PATCH, &path, json!({"mode": "shadow"})).await;
    assert_eq!((&shadow["mode"], &shadow["limit_usd"]), (&json!("shadow"), &json!("0.00")));
    let allowed = verdict(&service).await;
    assert_allowed(&allowed);
    assert_eq!(allowed["remaining"], json!([]), "a shadow is nobody's remainder");
    let change = json!({"mode": "enforce", "strict": true, "limit_usd": "1"});
    let strict = done(&service, Method::PATCH, &path, change).await;
    assert_eq!((&strict["strict"], &strict["held_usd"]), (&json!(true), &json!("0.00021")));
    let bounded = verdict(&service).await;
    assert_eq!(
        (&bounded["held_nanousd"], &bounded["strict"], bounded.get("rewrite")),
        (&json!(BOUND), &json!(true), None),
        "the request has a cap of its own"
    );
    done(&service, Method::PATCH, &path, json!({"strict": false})).await;
    let plain = verdict(&service).await;
    assert_eq!((&plain["held_nanousd"], plain.get("strict")), (&json!(ESTIMATE), None));
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_strict_budget_writes_the_cap_and_bars_what_has_no_bound(pool: PgPool) {
    let service = Service::start(&pool).await;
    let strict = budget(&service, json!({"strict": true, "models": ["gpt-4o*", "brand-new"]})).await;
    let mut uncapped = hold_request(fresh());
    uncapped["size"].as_object_mut().unwrap().remove("max_output_tokens");
    let first = verdict_on(&service, uncapped.clone()).await;
    assert_eq!(
        (&first["held_nanousd"], &first["strict"], &first["rewrite"]),
        (&json!(BOUND_BY_DEFAULT_CAP), &json!(true), &json!({"max_output_tokens": 4096}))
    );
    // A repeat is told the same cap and holds nothing more.
    assert_eq!(verdict_on(&service, uncapped).await, first);
    let bars = |why: &str| {
        format!("Budget {} is strict, and this call can't be bounded: {why}.", strict["budget_id"])
    };
    let mut image = hold_request(fresh());
    image["size"]["media_parts"] = json!(1);
    assert_denied(&verdict_on(&service, image.clone()).await, "not_boundable", &bars("media in the request"));
    let unknown = verdict_with(&service, "/call/model", json!("brand-new")).await;
    assert_denied(&unknown, "not_boundable", &bars("a model without a price of its own"));
    // The budget is not about other models, nor does a shadow bar anything.
    image["call"]["model"] = json!("gpt-4.1");
    assert_allowed(&verdict_on(&service, image.clone()).await);
    image["call"]["model"] = json!("gpt-4o");
    image["hold_id"] = json!(fresh());
    let path = format!("/v1/budgets/{}", strict["budget_id"]);
    done(&service, Method::PATCH, &path, json!({"mode": "shadow"})).await;
    let shadowed = verdict_on(&service, image).await;
    assert_allowed(&shadowed);
    assert_eq!(shadowed.get("strict"), None, "{shadowed}");
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_top_up_adds_each_time_and_acts_on_the_next_hold(pool: PgPool) {
    let service = Service::start(&pool).await;
    let made = budget(&service, json!({"limit_usd": "0.0001"})).await;
    let path = format!("/v1/budgets/{}/top-ups", made["budget_id"]);
    assert_over(&verdict(&service).await, &made);
    let body = json!({"amount_usd": "0.0001", "reason": "launch day"});
    let once = done(&service, Method::POST, &path, body.clone()).await;
    assert_eq!((&once["topped_up_usd"], &once["remaining_usd"]), (&json!("0.0001"), &json!("0.0002")));
    let denied = verdict(&service).await;
    assert_eq!(denied["budget"]["limit_nanousd"], 200_000, "{denied}");
    let twice = done(&service, Method::POST, &path, body).await;
    assert_eq!(
        (&twice["limit_usd"], &twice["topped_up_usd"], &twice["remaining_usd"]),
        (&json!("0.0001"), &json!("0.0002"), &json!("0.0003"))
    );
    let allowed = verdict(&service).await;
    assert_allowed(&allowed);
    assert_eq!(allowed["remaining"][0]["limit_nanousd"], 300_000);
    let list = done(&service, Method::GET, "/v1/budgets?org=acme", json!(null)).await;
    assert_eq!(
        (&list["budgets"][0]["topped_up_usd"], &list["budgets"][0]["remaining_usd"]),
        (&json!("0.0002"), &json!("0.00009"))
    );
    let kept: Vec<(i64, String)> =
        sqlx::query_as("select amount_nanousd, reason from budget_top_ups").fetch_all(&pool).await.unwrap();
    assert_eq!(kept, vec![(100_000, "launch day".to_owned()); 2]);
    assert_books_balance(&pool).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn top_ups_beside_holds_all_count(pool: PgPool) {
    let service = Arc::new(Service::start(&pool).await);
    let made = budget(&service, json!({"limit_usd": "0"})).await;
    let path = format!("/v1/budgets/{}/top-ups", made["budget_id"]);
    let mut both = JoinSet::new();
    for _ in 0..20 {
        let (service, path) = (Arc::clone(&service), path.clone());
        both.spawn(async move {
            let body = json!({"amount_usd": "0.00021"});
            tokio::join!(done(&service, Method::POST, &path, body), verdict(&service)).1
        });
    }
    let verdicts = both.join_all().await;
    let allowed = verdicts.iter().filter(|verdict| verdict["verdict"] == "allow").count();
    // What they made room for and nobody took is still there.
    for _ in allowed..20 {
        assert_allowed(&verdict(&service).await);
    }
    assert_over(&verdict(&service).await, &made);
    let list = done(&service, Method::GET, "/v1/budgets?org=acme", json!(null)).await;
    let shown = &list["budgets"][0];
    assert_eq!(
        (&shown["topped_up_usd"], &shown["held_usd"], &shown["remaining_usd"]),
        (&json!("0.0042"), &json!("0.0042"), &json!("0.00"))
    );
    assert_books_balance(&pool).await;
    Arc::into_inner(service).unwrap().stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_top_up_of_a_star_budget_is_for_one_of_them(pool: PgPool) {
    let service = Service::start(&pool).await;
    let each = budget(&service, json!({"team": "search", "user": "*", "limit_usd": "0"})).await;
    let path = format!("/v1/budgets/{}/top-ups", each["budget_id"]);
    let answer = done(&service, Method::POST, &path, json!({"amount_usd": "1", "subject": "ann"})).await;
    assert_eq!(
        (&answer["user"], &answer["default_of"], &answer["topped_up_usd"], &answer["remaining_usd"]),
        (&json!("ann"), &each["budget_id"], &json!("1.00"), &json!("1.00")),
        "the answer is about ann"
    );
    assert_allowed(&verdict(&service).await);
    let denied = verdict_with(&service, "/payer/user", json!("bob")).await;
    assert_over(&denied, &each);
    let list = done(&service, Method::GET, "/v1/budgets?org=acme", json!(null)).await;
    let shown: Vec<(&Value, &Value)> = list["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|budget| (&budget["user"], &budget["topped_up_usd"]))
        .collect();
    // Bob's refused call made his counter.
    let (all, ann, bob, none, one) = (json!("*"), json!("ann"), json!("bob"), json!("0.00"), json!("1.00"));
    assert_eq!(shown, [(&all, &none), (&ann, &one), (&bob, &none)]);
    // Where an own budget replaces it, a top-up of it would do nothing.
    let own = budget(&service, json!({"team": "search", "user": "ann"})).await;
    let expected = format!(
        "user ann in team search of org acme has a budget of its own, {}, which replaces this one; top that one up",
        own["budget_id"]
    );
    refused(&service, Method::POST, &path, json!({"amount_usd": "1", "subject": "ann"}), 409, &expected)
        .await;
    done(&service, Method::PATCH, &format!("/v1/budgets/{}", own["budget_id"]), json!({"mode": "shadow"}))
        .await;
    done(&service, Method::POST, &path, json!({"amount_usd": "1", "subject": "ann"})).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_kill_switch_tells_its_reason_and_lets_go(pool: PgPool) {
    let service = Service::start(&pool).await;
    let rule = json!({"org": "acme", "team": "search", "blocked": true, "reason": "key leaked, see #sec"});
    let set = done(&service, Method::PUT, "/v1/rules", rule).await;
    let expected = json!({
        "org": "acme", "team": "search", "user": null, "blocked": true, "reason": "key leaked, see #sec",
        "allowed_models": [], "denied_models": [], "required_tiers": []
    });
    assert_eq!(set, expected);
    let message = "Calls of team search in org acme are shut off: key leaked, see #sec.";
    assert_denied(&verdict(&service).await, "blocked", message);
    assert_allowed(&verdict_with(&service, "/payer/team", json!("ads")).await);
    let list = done(&service, Method::GET, "/v1/rules?org=acme", json!(null)).await;
    assert_eq!(list, json!({"rules": [expected]}));
    assert_eq!(done(&service, Method::GET, "/v1/rules?org=other", json!(null)).await, json!({"rules": []}));
    // Without a reason the message ends where it would stand.
    done(&service, Method::PUT, "/v1/rules", json!({"org": "acme", "team": "*", "blocked": true})).await;
    done(&service, Method::DELETE, "/v1/rules?org=acme&team=search", json!(null)).await;
    assert_denied(&verdict(&service).await, "blocked", "Calls of each team of org acme are shut off.");
    // A rule is set whole: what is left out is off.
    done(&service, Method::PUT, "/v1/rules", json!({"org": "acme", "team": "*"})).await;
    assert_allowed(&verdict(&service).await);
    done(&service, Method::DELETE, "/v1/rules?org=acme&team=*", json!(null)).await;
    let gone = "each team of org acme has no rule";
    refused(&service, Method::DELETE, "/v1/rules?org=acme&team=*", json!(null), 404, gone).await;
    assert_eq!(number(&pool, "select count(*) from call_rules").await, 0);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn model_lists_and_required_budgets_act_on_the_next_hold(pool: PgPool) {
    let service = Service::start(&pool).await;
    let lists = json!({
        "org": "acme", "reason": "use the small one", "allowed_models": ["gpt-4o*"], "denied_models": ["gpt-4o"],
        "required_tiers": ["org", "user"]
    });
    done(&service, Method::PUT, "/v1/rules", lists).await;
    let not_allowed = "This model is not allowed for org acme: use the small one.";
    for model in ["gpt-4o", "gpt-4.1"] {
        let denied = verdict_with(&service, "/call/model", json!(model)).await;
        assert_denied(&denied, "model_not_allowed", not_allowed);
    }
    let wants =
        |tier: &str| format!("The org wants a budget in tier {tier}, and there is none for this call.");
    assert_denied(&verdict(&service).await, "no_budget", &wants("org"));
    // One for other models, or one that only notes, is none.
    budget(&service, json!({"models": ["o3"]})).await;
    budget(&service, json!({"mode": "shadow"})).await;
    assert_denied(&verdict(&service).await, "no_budget", &wants("org"));
    budget(&service, json!({})).await;
    assert_denied(&verdict(&service).await, "no_budget", &wants("user"));
    budget(&service, json!({"team": "search", "user": "*"})).await;
    assert_allowed(&verdict(&service).await);
    // Whoever leaves the user out does not get around it.
    assert_denied(&verdict_with(&service, "/payer/user", json!(null)).await, "no_budget", &wants("user"));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_override_opens_until_it_is_ended_or_expires(pool: PgPool) {
    let service = Service::start(&pool).await;
    let org = budget(&service, json!({"limit_usd": "0", "strict": true})).await;
    assert_over(&verdict(&service).await, &org);
    let start = json!({"org": "acme", "team": "search", "minutes": 1440, "reason": "pager", "by": "eve"});
    let made = done(&service, Method::POST, "/v1/overrides", start).await;
    assert_eq!(
        (&made["by"], &made["active"], &made["team"], &made["ended_at"]),
        (&json!("eve"), &json!(true), &json!("search"), &json!(null))
    );
    let allowed = verdict(&service).await;
    assert_allowed(&allowed);
    assert_eq!(
        (&allowed["strict"], &allowed["remaining"][0]["remaining_nanousd"]),
        (&json!(true), &json!(-BOUND))
    );
    // It is one team's.
    assert_over(&verdict_with(&service, "/payer/team", json!("ads")).await, &org);
    // What has no bound goes out as well, and kill switches hold.
    let mut image = hold_request(fresh());
    image["size"]["media_parts"] = json!(1);
    assert_allowed(&verdict_on(&service, image).await);
    done(&service, Method::PUT, "/v1/rules", json!({"org": "acme", "blocked": true})).await;
    assert_eq!(verdict(&service).await["reason"], "blocked");
    done(&service, Method::DELETE, "/v1/rules?org=acme", json!(null)).await;
    let path = format!("/v1/overrides/{}", made["override_id"]);
    done(&service, Method::DELETE, &path, json!(null)).await;
    assert_over(&verdict(&service).await, &org);
    let gone = format!("no override {} is in force", made["override_id"]);
    refused(&service, Method::DELETE, &path, json!(null), 404, &gone).await;

    let short = json!({"org": "acme", "minutes": 1, "reason": "again", "by": "eve"});
    let second = done(&service, Method::POST, "/v1/overrides", short).await;
    assert_allowed(&verdict(&service).await);
    let expire = "update overrides set created_at = now() - interval '2 minutes',
                                       expires_at = now() - interval '1 minute' where ended_at is null";
    sqlx::query(expire).execute(&pool).await.unwrap();
    assert_over(&verdict(&service).await, &org);
    let path = format!("/v1/overrides/{}", second["override_id"]);
    let gone = format!("no override {} is in force", second["override_id"]);
    refused(&service, Method::DELETE, &path, json!(null), 404, &gone).await;
    let list = done(&service, Method::GET, "/v1/overrides?org=acme", json!(null)).await;
    let shown: Vec<(&Value, &Value, bool)> = list["overrides"]
        .as_array()
        .unwrap()
        .iter()
        .map(|over| (&over["override_id"], &over["active"], over["ended_at"].is_string()))
        .collect();
    let off = json!(false);
    assert_eq!(shown, [(&second["override_id"], &off, false), (&made["override_id"], &off, true)]);
    assert_eq!(number(&pool, "select count(*) from holds where override_id is not null").await, 3);
    assert_books_balance(&pool).await;
    service.stop().await;
}
