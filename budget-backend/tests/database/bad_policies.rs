//! What an operator may get wrong with top-ups, rules and overrides, and with questions.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::Service;
use crate::api_policies::{assert_allowed, budget, done, verdict};
use crate::bad_input::{STORED, all_refused, told};
use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_top_up_is_checked(pool: PgPool) {
    let service = Service::start(&pool).await;
    let own = budget(&service, json!({})).await;
    let each = budget(&service, json!({"team": "*"})).await;
    let old = budget(&service, json!({"window": "month"})).await;
    done(&service, Method::DELETE, &format!("/v1/budgets/{}", old["budget_id"]), json!(null)).await;
    let path = |budget: &Value| format!("/v1/budgets/{}/top-ups", budget["budget_id"]);
    let text = |fields: Value| fields.to_string();
    let one = "1";
    let of_own = [
        (text(json!({})), "missing field `amount_usd`"),
        (text(json!({"amount_usd": "0"})), "amount_usd: expected more than nothing"),
        (text(json!({"amount_usd": "0.0"})), "amount_usd: expected more than nothing"),
        (
            text(json!({"amount_usd": one, "subject": "search"})),
            "subject: only for a budget of each team or user",
        ),
        (text(json!({"amount_usd": one, "reason": " "})), "reason: expected a few words, got an empty text"),
        (text(json!({"amount_usd": one, "reason": "a\u{0}b"})), "reason: expected no control characters"),
        (
            text(json!({"amount_usd": one, "reason": "x".repeat(257)})),
            "reason: expected at most 256 bytes, got 257",
        ),
        (
            text(json!({"amount_usd": one, "amount": one})),
            "amount: unknown field `amount`, expected one of `amount_usd`, `reason`, `subject`",
        ),
    ];
    all_refused(&pool, &service, Method::POST, &path(&own), &of_own).await;
    let of_each = [
        (text(json!({"amount_usd": one})), "subject: expected the name of the team or user to top up"),
        (text(json!({"amount_usd": one, "subject": "*"})), "subject: expected the name of one"),
        (text(json!({"amount_usd": one, "subject": ""})), "subject: expected a name, got an empty text"),
        (
            text(json!({"amount_usd": one, "subject": " search"})),
            "subject: expected no space at either end, got \" search\"",
        ),
        (text(json!({"amount_usd": one, "subject": "a\u{7f}"})), "subject: expected no control characters"),
    ];
    all_refused(&pool, &service, Method::POST, &path(&each), &of_each).await;
    let before = number(&pool, STORED).await;
    for (path, gone) in [
        (path(&old), old["budget_id"].to_string()),
        ("/v1/budgets/77/top-ups".to_owned(), "77".to_owned()),
        ("/v1/budgets/x/top-ups".to_owned(), "x".to_owned()),
        ("/v1/budgets/-1/top-ups".to_owned(), "-1".to_owned()),
        ("/v1/budgets/9223372036854775808/top-ups".to_owned(), "9223372036854775808".to_owned()),
    ] {
        let answer = told(&service, &Method::POST, &path, r#"{"amount_usd":"1"}"#).await;
        assert_eq!(answer, (404, format!("there is no active budget {gone}")));
    }
    assert_eq!(number(&pool, STORED).await, before);
    // The sum of top-ups has to fit; with the limit it may be wider than that.
    done(&service, Method::POST, &path(&own), json!({"amount_usd": "9223372036.854775807"})).await;
    let beyond = [(
        text(json!({"amount_usd": "0.000000001"})),
        "amount_usd: the top-ups of this period would be beyond what fits",
    )];
    all_refused(&pool, &service, Method::POST, &path(&own), &beyond).await;
    assert_allowed(&verdict(&service).await);
    let list = done(&service, Method::GET, "/v1/budgets?org=acme", json!(null)).await;
    assert_eq!(list["budgets"][0]["remaining_usd"], "9223372036.854565807");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_rule_and_an_override_are_checked(pool: PgPool) {
    let service = Service::start(&pool).await;
    budget(&service, json!({})).await;
    let text = |fields: Value| fields.to_string();
    let many: Vec<String> = (0..65).map(|number| format!("m{number}")).collect();
    let own_rule = "required_tiers: may stand on the org's own rule only; leave team and user out";
    let rules = [
        (text(json!({"blocked": true})), "missing field `org`"),
        (
            text(json!({"org": "*", "blocked": true})),
            r#"org: expected the name of one; "*" may stand in team or user"#,
        ),
        (
            text(json!({"org": "acme", "user": "ann", "blocked": true})),
            "user: expected a team with it; users belong to teams",
        ),
        (text(json!({"org": "acme", "team": "search", "required_tiers": ["team"]})), own_rule),
        (text(json!({"org": "acme", "team": "*", "required_tiers": ["team"]})), own_rule),
        (
            text(json!({"org": "acme", "required_tiers": ["squad"]})),
            "required_tiers[0]: unknown variant `squad`, expected one of `org`, `team`, `user`",
        ),
        (
            text(json!({"org": "acme", "allowed_models": many})),
            "allowed_models: expected at most 64 patterns, got 65",
        ),
        (
            text(json!({"org": "acme", "denied_models": ["o3\n"]})),
            "denied_models[0]: expected no control characters",
        ),
        (
            text(json!({"org": "acme", "denied_models": ["o3 "]})),
            "denied_models[0]: expected no space at either end, got \"o3 \"",
        ),
        (
            text(json!({"org": "acme", "blocked": "true"})),
            "blocked: invalid type: string \"true\", expected a boolean",
        ),
        (text(json!({"org": "acme", "reason": "a\u{1b}[2J"})), "reason: expected no control characters"),
        (
            text(json!({"org": "acme", "reason": "x".repeat(257)})),
            "reason: expected at most 256 bytes, got 257",
        ),
        (
            text(json!({"org": "acme", "block": true})),
            "block: unknown field `block`, expected one of `org`, `team`, `user`, `blocked`, `reason`, `allowed_models`, `denied_models`, `required_tiers`, `unknown_models`",
        ),
    ];
    all_refused(&pool, &service, Method::PUT, "/v1/rules", &rules).await;
    let over = |fields: Value| {
        let mut over = json!({"org": "acme", "minutes": 5, "reason": "pager", "by": "eve"});
        over.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        over.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        over.to_string()
    };
    let overrides = [
        (over(json!({"org": null})), "missing field `org`"),
        (over(json!({"minutes": null})), "missing field `minutes`"),
        (over(json!({"reason": null})), "missing field `reason`"),
        (over(json!({"by": null})), "missing field `by`"),
        (over(json!({"minutes": 0})), "minutes: expected 1 to 1440, got 0"),
        (over(json!({"minutes": -5})), "minutes: expected 1 to 1440, got -5"),
        (over(json!({"minutes": 1441})), "minutes: expected 1 to 1440, got 1441"),
        (over(json!({"minutes": 99_999_999_999_i64})), "minutes: expected 1 to 1440, got 99999999999"),
        (over(json!({"minutes": 1.5})), "minutes: invalid type: floating point `1.5`, expected i64"),
        (over(json!({"minutes": "5"})), "minutes: invalid type: string \"5\", expected i64"),
        (over(json!({"by": ""})), "by: expected a few words, got an empty text"),
        (over(json!({"by": "\u{a0}"})), "by: expected a few words, got an empty text"),
        (over(json!({"reason": "  "})), "reason: expected a few words, got an empty text"),
        (over(json!({"by": "e\tve"})), "by: expected no control characters"),
        (
            over(json!({"team": "*", "user": "ann"})),
            r#"team: "*" may stand in the last place only; leave user out"#,
        ),
        (
            over(json!({"hours": 1})),
            "hours: unknown field `hours`, expected one of `org`, `team`, `user`, `minutes`, `reason`, `by`",
        ),
    ];
    all_refused(&pool, &service, Method::POST, "/v1/overrides", &overrides).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_misspelt_question_edits_and_lists_nothing(pool: PgPool) {
    let service = Service::start(&pool).await;
    budget(&service, json!({})).await;
    done(&service, Method::PUT, "/v1/rules", json!({"org": "acme", "blocked": true})).await;
    let before = number(&pool, STORED).await;
    let query = |detail: &str| format!("Failed to deserialize query string: {detail}");
    for (method, path, status, detail) in [
        // Not the whole org's rule.
        (
            Method::DELETE,
            "/v1/rules?org=acme&taem=search",
            400,
            query("taem: unknown field `taem`, expected one of `org`, `team`, `user`"),
        ),
        (Method::DELETE, "/v1/rules", 400, query("missing field `org`")),
        (Method::DELETE, "/v1/rules?org=acme&team=", 422, "team: expected a name, got an empty text".into()),
        (
            Method::DELETE,
            "/v1/rules?org=*",
            422,
            r#"org: expected the name of one; "*" may stand in team or user"#.into(),
        ),
        (
            Method::DELETE,
            "/v1/rules?org=acme&user=ann",
            422,
            "user: expected a team with it; users belong to teams".into(),
        ),
        (Method::DELETE, "/v1/rules?org=acme&org=other", 400, query("duplicate field `org`")),
        (Method::DELETE, "/v1/rules?org=acme&team=search", 404, "team search in org acme has no rule".into()),
        (Method::DELETE, "/v1/budgets/77", 404, "there is no active budget 77".into()),
        (Method::DELETE, "/v1/budgets/x", 404, "there is no active budget x".into()),
        (Method::DELETE, "/v1/overrides/77", 404, "no override 77 is in force".into()),
        (Method::DELETE, "/v1/overrides/x", 404, "no override x is in force".into()),
        (Method::GET, "/v1/budgets", 400, query("missing field `org`")),
        (Method::GET, "/v1/budgets?org=", 422, "org: expected a name, got an empty text".into()),
        (Method::GET, "/v1/rules?org=a%00b", 422, "org: expected no control characters".into()),
        (
            Method::GET,
            "/v1/overrides?org=acme&page=2",
            400,
            query("page: unknown field `page`, expected `org`"),
        ),
        (
            Method::GET,
            "/v1/audit?org=acme&cursor=7",
            422,
            "cursor: expected the next_cursor of an earlier answer".into(),
        ),
        (Method::GET, "/v1/audit?org=acme&limit=1.5", 400, query("limit: invalid digit found in string")),
    ] {
        let answer = told(&service, &method, path, "").await;
        assert_eq!(answer, (status, detail), "{method} {path}");
    }
    assert_eq!(number(&pool, STORED).await, before);
    service.stop().await;
}
