//! Ladders of budgets: set by operators, decided in the lanes, kept with the hold and in the books.

use budget_backend::budget::Mode;
use budget_backend::ledger::steps::Step;
use budget_backend::ledger::{Decision, Grant, Ledger};
use purser_protocol::Outcome;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::bad_input::all_refused;
use crate::operator::execute;
use crate::random_run::{Random, seed};
use crate::support::*;

/// Of org acme, a day, with a ladder.
async fn laddered(pool: &PgPool, team: &str, limit_nanousd: i64, ladder: Value) -> i64 {
    let budget_id = budget(pool, team, "", "day", limit_nanousd).await;
    sqlx::query("update budgets set ladder = $1 where budget_id = $2")
        .bind(ladder)
        .bind(budget_id)
        .execute(pool)
        .await
        .unwrap();
    budget_id
}

fn degrade(at_percent: u32) -> Value {
    json!({"at_percent": at_percent, "models": {"gpt-4o-mini": CHEAP_MODEL}})
}

async fn decision(ledger: &Ledger, number: u64, amount_nanousd: i64) -> Decision {
    ledger.hold(priced_ask(id(number), &ann(), amount_nanousd), in_time()).await.unwrap()
}

async fn grant(ledger: &Ledger, number: u64, amount_nanousd: i64) -> Grant {
    match decision(ledger, number, amount_nanousd).await {
        Decision::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// Of what rows of `holds` say: model, model asked for, cap, whether clamped, amount.
type Kept = (String, Option<String>, Option<i64>, bool, i64);

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_call_is_degraded_clamped_and_refused_and_its_row_says_what_runs(pool: PgPool) {
    let org = laddered(
        &pool,
        "",
        1_000,
        json!({"warn_at_percent": 40, "degrade": degrade(60), "clamp": {"floor_tokens": 40}}),
    )
    .await;
    let cheap = budget(&pool, "search", "", "total", 10_000).await;
    execute(&pool, &format!("update budgets set models = '{{*nano}}' where budget_id = {cheap}")).await;
    let ledger = ledger(&pool);
    let first = grant(&ledger, 1, 500).await;
    assert_eq!((first.held_nanousd, first.warnings[0].used_percent), (500, 50));
    let degraded = grant(&ledger, 2, 400).await;
    assert_eq!((degraded.held_nanousd, degraded.rewrite.model.as_deref()), (200, Some(CHEAP_MODEL)));
    let clamped = grant(&ledger, 3, 700).await;
    assert_eq!((clamped.held_nanousd, clamped.rewrite.output_cap_tokens), (300, Some(600)));
    assert_eq!(clamped.steps.iter().map(|step| step.step).collect::<Vec<_>>(), [Step::Degrade, Step::Clamp]);
    assert!(matches!(decision(&ledger, 4, 100).await, Decision::Refused(refusal) if !refusal.exhausted));
    // What was degraded counts in the budgets of the model that runs.
    assert_eq!((standing(&pool, org).await, standing(&pool, cheap).await), ((0, 1_000), (0, 500)));
    let kept: Vec<Kept> = sqlx::query_as(
        "select model, asked_model, output_cap_tokens, clamped, held_nanousd from holds order by held_at",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let (dear, nano) = (|| "gpt-4o-mini".to_owned(), || CHEAP_MODEL.to_owned());
    assert_eq!(
        kept,
        [
            (dear(), None, None, false, 500),
            (nano(), Some(dear()), None, false, 200),
            (nano(), Some(dear()), Some(600), true, 300)
        ]
    );
    assert_books_balance(&pool).await;
    // A replica that never saw it answers the repeat with the same rewrite, and holds nothing more.
    let id_of = |amount: i64| {
        let found = sqlx::query_scalar("select hold_id from holds where held_nanousd = $1").bind(amount);
        let pool = pool.clone();
        async move { found.fetch_one(&pool).await.unwrap() }
    };
    let other = crate::support::ledger(&pool);
    let again = other.hold(priced_ask(id_of(300).await, &ann(), 700), in_time()).await.unwrap();
    assert!(matches!(&again, Decision::Repeated(again) if again.rewrite == clamped.rewrite), "{again:?}");
    // Also when the ladder is gone by now.
    execute(&pool, "update budgets set ladder = '{}'").await;
    let again = other.hold(priced_ask(id_of(300).await, &ann(), 700), in_time()).await.unwrap();
    assert!(matches!(&again, Decision::Repeated(again) if again.rewrite == clamped.rewrite), "{again:?}");
    assert_eq!(standing(&pool, org).await, (0, 1_000));
    // An expiry charges what runs and says what was asked for.
    execute(&pool, "update holds set expires_at = now() - interval '1 second'").await;
    assert_eq!(steps(&pool).sweep().await, 3);
    let rows: Vec<(String, Option<String>, Option<i64>)> =
        sqlx::query_as("select model, asked_model, clamped_to_tokens from llm_requests order by occurred_at")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(rows, [(dear(), None, None), (nano(), Some(dear()), None), (nano(), Some(dear()), Some(600))]);
    assert!(matches!(decision(&ledger, 9, 100).await, Decision::Refused(refusal) if refusal.exhausted));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn rules_an_override_and_a_shadow_bend_the_ladder(pool: PgPool) {
    laddered(&pool, "", 100, json!({"degrade": degrade(1), "clamp": {"floor_tokens": 1}})).await;
    let ledger = ledger(&pool);
    let model = |grant: Grant| grant.rewrite.model;
    assert_eq!(model(grant(&ledger, 1, 10).await).as_deref(), Some(CHEAP_MODEL));
    // A model that may not be called is not degraded to; one that may not be called is not degraded from.
    execute(&pool, "insert into call_rules (org, denied_models) values ('acme', '{*nano}')").await;
    assert_eq!(model(grant(&ledger, 2, 10).await), None);
    execute(&pool, "update call_rules set denied_models = '{*mini}'").await;
    assert!(matches!(decision(&ledger, 3, 10).await, Decision::Barred(_)));
    execute(&pool, "delete from call_rules").await;
    execute(
        &pool,
        "insert into overrides (org, created_by, reason, expires_at) values ('acme', 'eve', 'x', now() + interval '1 hour')",
    )
    .await;
    let lifted = grant(&ledger, 4, 500).await;
    assert_eq!(
        (lifted.held_nanousd, lifted.rewrite == budget_backend::ledger::decide::Rewritten::default()),
        (500, true)
    );
    execute(&pool, "update overrides set ended_at = now()").await;
    execute(&pool, "update budgets set mode = 'shadow'").await;
    let noted = grant(&ledger, 5, 500).await;
    assert_eq!((noted.held_nanousd, noted.rewrite.model), (500, None));
    let told: Vec<_> = noted.steps.iter().map(|step| (step.mode, step.step)).collect();
    assert_eq!(told, [(Mode::Shadow, Step::Degrade)]);
    assert_eq!(noted.passed_over.len(), 1, "nothing is left to clamp to");
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn no_schedule_of_degraded_and_clamped_holds_overspends_on_two_replicas(pool: PgPool) {
    let seed = seed();
    let mut random = Random(seed);
    crate::replicas::refuse_overspending(&pool).await;
    // Several budgets with ladders, one of them only of the cheap model, made so that keys of asked and
    // target models lie mixed in the lock order.
    let cheap = laddered(&pool, "search", 700, json!({"clamp": {"floor_tokens": 3}})).await;
    execute(
        &pool,
        &format!("update budgets set models = '{{*nano}}', window_kind = 'total' where budget_id = {cheap}"),
    )
    .await;
    let org = laddered(&pool, "", 5_000, json!({"degrade": degrade(20), "clamp": {"floor_tokens": 2}})).await;
    laddered(&pool, "search", 4_000, json!({"degrade": degrade(30), "clamp": {"floor_tokens": 2}})).await;
    let dear = budget(&pool, "ads", "", "week", 1).await;
    execute(
        &pool,
        &format!("update budgets set models = '{{*mini}}', strict = true where budget_id = {dear}"),
    )
    .await;
    let options = pool.connect_options().as_ref().clone();
    let second = PgPoolOptions::new().max_connections(6).connect_with(options).await.unwrap();
    let replicas = [ledger(&pool), ledger(&second)];
    let holds: Vec<_> = (0..600_u64)
        .map(|number| {
            let replica = replicas[usize::try_from(number % 2).unwrap()].clone();
            let payer = if random.below(3) == 0 { payer("ads", "zoe") } else { ann() };
            let ask = priced_ask(id(number), &payer, 1 + random.signed_below(120));
            tokio::spawn(async move { replica.hold(ask, in_time()).await.unwrap() })
        })
        .collect();
    let (mut held, mut clamped, mut degraded, mut refused) = (0, 0, 0, 0);
    for hold in holds {
        match hold.await.unwrap() {
            Decision::Granted(grant) => {
                held += grant.held_nanousd;
                clamped += i32::from(grant.rewrite.clamped);
                degraded += i32::from(grant.rewrite.model.is_some());
            }
            Decision::Refused(_) => refused += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    println!("seed {seed}: {held} held, {degraded} degraded, {clamped} clamped, {refused} refused");
    assert!(clamped > 0 && degraded > 0 && refused > 0, "seed {seed}");
    assert_eq!(standing(&pool, org).await, (0, held), "seed {seed}");
    // What is left is below the floors.
    assert!(5_000 - held < 2 && 700 - standing(&pool, cheap).await.1 < 3, "seed {seed}: {held}");
    assert_books_balance(&pool).await;
}

async fn made(service: &Service, fields: Value) -> Value {
    let mut body = json!({"org": "acme", "window": "day", "limit_usd": "1"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let (status, made) = service.send(Method::POST, "/v1/budgets", ADMIN, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_operator_sets_a_ladder_and_the_wire_carries_its_steps(pool: PgPool) {
    let service = Service::start(&pool).await;
    let ladder = json!({"warn_at_percent": 50, "degrade": {"at_percent": 60, "models": {"gpt-4o-mini": "gpt-5.4-nano"}}});
    assert_eq!(made(&service, json!({"team": "x"})).await["ladder"], json!(null));
    let budget = made(&service, json!({"limit_usd": "0.0004", "ladder": ladder})).await;
    assert_eq!(budget["ladder"], ladder);
    let hold = |number: u64| {
        let (service, request) = (&service, hold_request(id(number)));
        async move { service.send(Method::POST, "/v1/holds", TOKEN, &request).await.1 }
    };
    // 210,000 of 400,000.
    let warned = hold(1).await;
    assert_eq!(warned["warnings"][0]["used_percent"], json!(52), "{warned}");
    assert!(warned["remaining"][0]["resets_in_s"].as_u64().unwrap() <= 86_400);
    assert_eq!((&warned["rewrite"], &warned["payer"]), (&json!(null), &json!(null)));
    // The nano model would cost 1,000 × 0.20 + 100 × 1.25 millionths of a dollar: more than the one asked for.
    let refused = hold(2).await;
    assert_eq!(refused["budget"]["needed_nanousd"], json!(210_000), "{refused}");
    let path = format!("/v1/budgets/{}", budget["budget_id"]);
    let clamp = json!({"ladder": {"clamp": {"floor_tokens": 20}}});
    let (_, changed) = service.send(Method::PATCH, &path, ADMIN, &clamp).await;
    assert_eq!(changed["ladder"], clamp["ladder"], "{changed}");
    record(&pool, vec![settle_for(&ann(), open(&pool).await, Some(235_000))]).await;
    // 150,000 for the input leave 15,000 for 25 tokens at 0.60.
    let clamped = hold(3).await;
    assert_eq!((&clamped["clamped"], &clamped["rewrite"]), (&json!(true), &json!({"max_output_tokens": 25})));
    assert_eq!(clamped["held_nanousd"], json!(165_000), "{clamped}");
    let exhausted = hold(4).await;
    assert_eq!((&exhausted["verdict"], &exhausted["exhausted"]), (&json!("deny"), &json!(null)));
    let mut settled = settlement(open(&pool).await);
    settled["usage"] = json!({"input_tokens": 1_000, "output_tokens": 25});
    let batch = json!({"version": 1, "items": [settled]});
    let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(answer["results"][0]["outcome"], "recorded", "{answer}");
    assert_eq!(
        number(&pool, "select clamped_to_tokens from llm_requests where clamped_to_tokens > 0").await,
        25
    );
    assert_eq!(hold(5).await["exhausted"], json!(true));
    let actors: i64 =
        number(&pool, "select count(*) from audit_log where after -> 'ladder' -> 'clamp' is not null").await;
    assert_eq!(actors, 1);
    service.stop().await;
    let counted: Vec<(String, i64)> =
        sqlx::query_as("select outcome, sum(verdicts)::bigint from verdicts_hourly where outcome <> 'unbudgeted' group by 1 order by 1")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(counted, [("clamped".to_owned(), 1), ("denied".to_owned(), 3), ("warned".to_owned(), 1)]);
}

async fn open(pool: &PgPool) -> uuid::Uuid {
    sqlx::query_scalar("select hold_id from holds where state = 'open'").fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_target_whose_price_is_gone_is_no_step(pool: PgPool) {
    let service = Service::start(&pool).await;
    let models = json!({"gpt-4o": "gpt-4o-mini", "gpt-4o-mini": "house-model"});
    let ladder = json!({"degrade": {"at_percent": 1, "models": models}});
    // As if it had a price when the ladder was set.
    made(&service, json!({"limit_usd": "0.01"})).await;
    sqlx::query("update budgets set ladder = $1").bind(ladder).execute(&pool).await.unwrap();
    let (_, allowed) = service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(1))).await;
    assert_eq!((&allowed["verdict"], &allowed["rewrite"]), (&json!("allow"), &json!(null)), "{allowed}");
    let mut dear = hold_request(id(2));
    dear["call"]["model"] = json!("gpt-4o");
    let (_, allowed) = service.send(Method::POST, "/v1/holds", TOKEN, &dear).await;
    assert_eq!(allowed["rewrite"], json!({"model": "gpt-4o-mini"}), "{allowed}");
    // Signed, it can't be rewritten.
    let mut signed = hold_request(id(3));
    (signed["call"]["model"], signed["size"]["unchangeable"]) = (json!("gpt-4o"), json!(true));
    let (_, allowed) = service.send(Method::POST, "/v1/holds", TOKEN, &signed).await;
    assert_eq!((&allowed["verdict"], &allowed["rewrite"]), (&json!("allow"), &json!(null)), "{allowed}");
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_ladder_that_can_t_be_right_is_refused_with_its_path(pool: PgPool) {
    let service = Service::start(&pool).await;
    let budget = made(&service, json!({})).await;
    let models = |models: Value| json!({"degrade": {"at_percent": 90, "models": models}});
    let many: serde_json::Map<String, Value> =
        (0..65).map(|number| (format!("m{number}"), json!("gpt-4o"))).collect();
    let cases: Vec<(Value, &str)> = vec![
        (json!({"warn_at_percent": 0}), "ladder.warn_at_percent: expected 1 to 100, got 0"),
        (models(json!({"a": "a"})), "ladder.degrade.models.a: expected another model, got itself"),
        (
            models(json!({"a": "b", "b": "c", "c": "a"})),
            "ladder.degrade.models.a: expected no circle, got a → b → c → a",
        ),
        (models(Value::Object(many)), "ladder.degrade.models: expected at most 64 models, got 65"),
        (
            models(json!({"gpt-4o": "gtp-4o-mini"})),
            "ladder.degrade.models.gpt-4o: no price is known for \"gtp-4o-mini\" where \"gpt-4o\" may run",
        ),
        (models(json!({"gpt-4o": ""})), "ladder.degrade.models.gpt-4o: expected a name, got an empty text"),
        (json!({"clamp": {"floor_tokens": 0}}), "ladder.clamp.floor_tokens: expected 1 to 1048576, got 0"),
        (json!({"clamp": {}}), "ladder.clamp: missing field `floor_tokens`"),
        (
            json!({"warn": 3}),
            "ladder.warn: unknown field `warn`, expected one of `warn_at_percent`, `degrade`, `clamp`",
        ),
    ];
    let bodies = |base: &Value| -> Vec<(String, &str)> {
        cases
            .iter()
            .map(|(ladder, problem)| {
                let mut body = base.clone();
                body["ladder"] = ladder.clone();
                (body.to_string(), *problem)
            })
            .collect()
    };
    let new = json!({"org": "acme", "team": "t", "window": "day", "limit_usd": "1"});
    all_refused(&pool, &service, Method::POST, "/v1/budgets", &bodies(&new)).await;
    let path = format!("/v1/budgets/{}", budget["budget_id"]);
    all_refused(&pool, &service, Method::PATCH, &path, &bodies(&json!({}))).await;
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn denials_that_a_filter_repeats_are_counted_once_and_cost_nothing(pool: PgPool) {
    let service = Service::start(&pool).await;
    let report = |number: u64, count: u64| {
        json!({"kind": "repeated_denials", "hold_id": id_of(number), "payer": {"org": "acme", "team": "search"},
               "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o", "stream": false},
               "budget_id": 7, "count": count})
    };
    let mut wrong = report(3, 5);
    wrong["call"]["model"] = json!("");
    let send = |items: Vec<Value>| {
        let service = &service;
        async move {
            let batch = json!({"version": 1, "items": items});
            let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
            let outcome = |item: &Value| item["outcome"].as_str().unwrap().to_owned();
            answer["results"].as_array().unwrap().iter().map(outcome).collect::<Vec<_>>()
        }
    };
    let first = send(vec![report(1, 40), report(2, u64::MAX), wrong, report(1, 40)]).await;
    assert_eq!(first, ["recorded", "recorded", "rejected", "duplicate"]);
    assert_eq!(send(vec![report(1, 40), report(4, 0)]).await, ["duplicate", "recorded"]);
    service.stop().await;
    let counted: Vec<(String, String, String, i64, i64)> =
        sqlx::query_as("select outcome, reason, model, budget_id, verdicts from verdicts_hourly")
            .fetch_all(&pool)
            .await
            .unwrap();
    let text = str::to_owned;
    assert_eq!(counted, [(text("denied"), text("over_budget"), text("gpt-4o"), 7, 1_000_040)]);
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 0);
    assert_books_balance(&pool).await;
    // One that comes as an outcome of the ledger is what every void is: a tombstone.
    assert_eq!(record(&pool, vec![void(id_of(1))]).await, [Outcome::Duplicate]);
}

/// The same id each time, unlike [`id`], which is dated now.
fn id_of(number: u64) -> uuid::Uuid {
    uuid::Uuid::from_u128((1_790_000_000_000 << 80) | (7 << 76) | (2 << 62) | u128::from(number))
}
