//! Calls one by one: their stories, the latest, the refused; and what a caller's own budgets have left.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service, TOKEN, hold_request, settlement};
use crate::operator::execute;
use crate::support::*;

async fn get(service: &Service, token: &str, path: &str) -> (StatusCode, Value) {
    service.send(Method::GET, path, token, &Value::Null).await
}

/// A viewer's token, once the service knows it.
pub async fn token(service: &Service, org: &str, team: Option<&str>) -> String {
    let viewer = json!({"name": "v", "role": "viewer", "org": org, "team": team});
    let (status, made) = service.send(Method::POST, "/v1/tokens", ADMIN, &viewer).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let token = made["token"].as_str().unwrap().to_owned();
    let until = in_time();
    while get(service, &token, "/v1/me").await.0 != StatusCode::OK {
        assert!(std::time::Instant::now() < until, "the token is never known");
    }
    token
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_story_of_a_call_has_its_verdict_hold_price_and_charges(pool: PgPool) {
    let service = Service::start(&pool).await;
    let org = budget(&pool, "", "", "month", 1_000_000_000).await;
    let each = budget(&pool, "search", "*", "day", 1_000_000_000).await;
    let call = id(1);
    let path = format!("/v1/requests/{call}");
    assert_eq!(get(&service, ADMIN, &path).await.0, StatusCode::NOT_FOUND);
    service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(call)).await;
    let (_, running) = get(&service, ADMIN, &path).await;
    assert_eq!(
        (&running["state"], &running["hold"]["held_usd"]),
        (&json!("open"), &json!("0.00021")),
        "{running}"
    );
    assert_eq!(running["entries"], json!([]));
    let batch = json!({"version": 1, "items": [settlement(call)]});
    service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    let (status, story) = get(&service, ADMIN, &path).await;
    assert_eq!(status, StatusCode::OK, "{story}");
    assert_eq!((&story["state"], &story["cost_usd"]), (&json!("settled"), &json!("0.0001725")));
    assert_eq!(story["verdict"]["verdict"], json!("allow"));
    let tiers: Vec<(&Value, &Value, &Value)> = story["verdict"]["tiers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tier| (&tier["tier"], &tier["verdict"], &tier["budget_id"]))
        .collect();
    assert_eq!(
        tiers,
        [
            (&json!("org"), &json!("passed"), &json!(org)),
            (&json!("user"), &json!("passed"), &json!(each)),
            (&json!("team"), &json!("unbudgeted"), &Value::Null)
        ]
    );
    assert_eq!(story["verdict"]["tiers"][1]["subject"], json!("ann"));
    assert_eq!(
        (&story["price"]["model"], &story["price"]["input_usd_per_mtok"]),
        (&json!("gpt-4o-mini"), &json!("0.15"))
    );
    let entry = &story["entries"][0];
    assert_eq!(entry["tokens"], json!({"input": 900, "cached_input": 100, "output": 50}));
    assert_eq!((&entry["cause"], &entry["admission"]), (&json!("settled"), &json!("held")));
    // The hold's row goes after an hour, its story doesn't; a correction is told.
    execute(&pool, "delete from holds").await;
    execute(
        &pool,
        "insert into llm_requests select (jsonb_populate_record(r, '{\"entry\": 1, \"cause\": \"repriced\", \"cost_nanousd\": -500}')).*
           from llm_requests r",
    )
    .await;
    let (_, later) = get(&service, ADMIN, &path).await;
    assert_eq!(
        (&later["hold"], &later["state"], &later["cost_usd"]),
        (&Value::Null, &json!("settled"), &json!("0.000172"))
    );
    assert_eq!(
        (&later["entries"][1]["cause"], &later["entries"][1]["cost_usd"]),
        (&json!("repriced"), &json!("-0.0000005"))
    );
    // Whose it isn't, for them it isn't there.
    let (own, other) =
        (token(&service, "acme", Some("search")).await, token(&service, "acme", Some("ads")).await);
    let stranger = token(&service, "other", None).await;
    assert_eq!(get(&service, &own, &path).await.0, StatusCode::OK);
    for foreign in [&other, &stranger] {
        let (status, problem) = get(&service, foreign, &path).await;
        let (_, never) = get(&service, foreign, &format!("/v1/requests/{}", id(99))).await;
        assert_eq!((status, &problem), (StatusCode::NOT_FOUND, &never));
    }
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_refusal_is_told_with_what_ran_out(pool: PgPool) {
    let service = Service::start(&pool).await;
    let tight = budget(&pool, "search", "", "day", 200_000).await;
    let first = id(1);
    for call in [first, id(2), id(3)] {
        service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(call)).await;
    }
    let repeated = json!({"kind": "repeated_denials", "hold_id": id(9), "budget_id": tight, "count": 40,
        "payer": {"org": "acme", "team": "search", "user": "ann"},
        "call": {"api": "openai_chat", "provider": "openai", "model": "gpt-4o-mini", "stream": false}});
    let batch = json!({"version": 1, "items": [repeated]});
    let (_, answer) = service.send(Method::POST, "/v1/settlements", TOKEN, &batch).await;
    assert_eq!(answer["results"][0]["outcome"], json!("recorded"), "{answer}");
    let mut blocked = hold_request(id(4));
    blocked["payer"]["team"] = json!("ads");
    execute(
        &pool,
        "insert into call_rules (org, team, blocked, reason) values ('acme', 'ads', true, 'key leaked')",
    )
    .await;
    service.send(Method::POST, "/v1/holds", TOKEN, &blocked).await;
    wait_for(&pool, "select (count(*) = 5)::integer::bigint from denials").await;
    let (_, story) = get(&service, ADMIN, &format!("/v1/requests/{first}")).await;
    assert_eq!(
        (&story["state"], &story["verdict"]["verdict"]),
        (&json!("denied"), &json!("deny")),
        "{story}"
    );
    let told = &story["verdict"]["denied"];
    assert_eq!(told["reason"], json!("over_budget"));
    assert!(told["message"].as_str().unwrap().contains("is exhausted"), "{told}");
    let ran_out = &told["budget"];
    assert_eq!(
        (&ran_out["budget_id"], &ran_out["limit_usd"], &ran_out["needed_usd"], &ran_out["tier"]),
        (&json!(tight), &json!("0.0002"), &json!("0.00021"), &json!("team"))
    );
    let (_, list) = get(&service, ADMIN, "/v1/requests?org=acme&denied=true&team=search").await;
    let calls: i64 =
        list["requests"].as_array().unwrap().iter().map(|r| r["denied"]["calls"].as_i64().unwrap()).sum();
    assert_eq!((calls, &list["next_cursor"]), (43, &Value::Null), "{list}");
    let (_, first) = get(&service, ADMIN, "/v1/requests?org=acme&denied=true&limit=2").await;
    let next = first["next_cursor"].as_str().unwrap();
    let (_, rest) = get(&service, ADMIN, &format!("/v1/requests?org=acme&denied=true&cursor={next}")).await;
    assert_eq!(rest["requests"].as_array().unwrap().len(), 3, "{rest}");
    let ads = token(&service, "acme", Some("ads")).await;
    let (_, own) = get(&service, &ads, "/v1/requests?denied=true").await;
    let reasons: Vec<&Value> =
        own["requests"].as_array().unwrap().iter().map(|r| &r["denied"]["reason"]).collect();
    assert_eq!(reasons, ["blocked"]);
    assert_eq!(get(&service, &ads, "/v1/requests?denied=true&team=search").await.0, StatusCode::NOT_FOUND);
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_org_s_refusals_of_an_hour_are_kept_up_to_a_number(pool: PgPool) {
    execute(
        &pool,
        "insert into denials (org, hold_id, denied_at, team, user_name, provider, model, api, reason, calls, budget_id,
                              tier, window_kind, message)
         select 'acme', gen_random_uuid(), now(), '', '', '', '', '', 'blocked', 1, 0, '', '', ''
           from generate_series(1, 9999)",
    )
    .await;
    let service = Service::start(&pool).await;
    budget(&pool, "", "", "day", 0).await;
    for number in 1..=4 {
        service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(number))).await;
    }
    let mut other = hold_request(id(5));
    other["payer"]["org"] = json!("other");
    execute(&pool, "insert into budgets (org, window_kind, limit_nanousd) values ('other', 'day', 0)").await;
    service.send(Method::POST, "/v1/holds", TOKEN, &other).await;
    service.stop().await;
    assert_eq!(number(&pool, "select sum(verdicts)::bigint from verdicts_hourly").await, 5);
    // Unless the hour has turned meanwhile, there was room for one.
    let kept = number(&pool, "select count(*) from denials where org = 'acme'").await;
    let hours = number(&pool, "select count(distinct date_trunc('hour', denied_at)) from denials").await;
    assert!(kept == 10_000 || hours == 2, "{kept} in {hours} hours");
    assert_eq!(number(&pool, "select count(*) from denials where org = 'other'").await, 1);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_latest_calls_of_an_org_a_team_and_a_user_come_in_pages(pool: PgPool) {
    let items = (1..=30_u64).map(|number| {
        let who =
            [("search", "ann"), ("search", "bob"), ("ads", "ann")][usize::try_from(number % 3).unwrap()];
        settle_for(&payer(who.0, who.1), id(number), Some(5))
    });
    record(&pool, items.collect()).await;
    // Over a day, in the ledger and in the rollup.
    execute(&pool, "update llm_requests set occurred_at = occurred_at - (('x' || right(hold_id::text, 2))::bit(8)::int) * interval '50 minutes'").await;
    execute(&pool, "truncate usage_hourly, cost_daily_summary").await;
    let recomputed = crate::operator::backend(
        &pool,
        &["aggregate", "--from", &day(&pool, 2).await, "--to", &day(&pool, 0).await],
    )
    .await;
    assert!(recomputed.status.success(), "{}", crate::operator::stderr(&recomputed));
    let service = Service::start(&pool).await;
    for (question, team, user, expected) in [
        ("", "", "", 30),
        ("&team=search", "search", "", 20),
        ("&team=search&user=bob", "search", "bob", 10),
        ("&team=search&user=eve", "search", "eve", 0),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, page) =
                get(&service, ADMIN, &format!("/v1/requests?org=acme&limit=7{question}{cursor}")).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            for call in page["requests"].as_array().unwrap() {
                assert!(team.is_empty() || call["team"] == team, "{call}");
                assert!(user.is_empty() || call["user"] == user, "{call}");
                seen.push((
                    call["at"].as_str().unwrap().to_owned(),
                    call["hold_id"].as_str().unwrap().to_owned(),
                ));
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let mut sorted = seen.clone();
        sorted.sort_by(|a, b| b.cmp(a));
        sorted.dedup();
        assert_eq!((seen.len(), &seen), (expected, &sorted), "{question}");
    }
    for (question, said) in [
        ("", "org: expected"),
        ("org=acme&user=ann", "user: expected its team"),
        ("org=acme&cursor=00", "cursor: expected"),
        ("org=acme&limit=0", "limit: expected"),
    ] {
        let (status, problem) = get(&service, ADMIN, &format!("/v1/requests?{question}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{question}: {problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(said), "{question}: {problem}");
    }
    service.stop().await;
}

/// The UTC day so many days ago.
async fn day(pool: &PgPool, days_ago: i32) -> String {
    let sql = "select ((now() at time zone 'UTC')::date - $1)::text";
    sqlx::query_scalar(sql).bind(days_ago).fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn whoever_asks_for_themselves_is_told_their_own_budgets(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 5_000_000_000).await;
    let team = budget(&pool, "search", "", "day", 2_000_000_000).await;
    let each = budget(&pool, "search", "*", "total", 1_000_000_000).await;
    budget(&pool, "ads", "", "day", 1).await;
    budget(&pool, "search", "bob", "day", 1).await;
    record(&pool, vec![settle(id(1), 250_000_000)]).await;
    let service = Service::start(&pool).await;
    service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(2))).await;
    let told = |me: &Value| {
        let budgets = me["budgets"].as_array().unwrap();
        budgets
            .iter()
            .map(|b| (b["budget_id"].as_i64().unwrap(), b["remaining_usd"].clone(), b["spent_usd"].clone()))
            .collect::<Vec<_>>()
    };
    let usd = |text: &str| json!(text);
    let ann = [
        (org, usd("4.74979"), usd("0.25")),
        (team, usd("1.74979"), usd("0.25")),
        (each, usd("0.74979"), usd("0.25")),
    ];
    let (_, me) = get(&service, ADMIN, "/v1/me").await;
    assert_eq!((&me["role"], &me["payer"], told(&me).len()), (&json!("admin"), &Value::Null, 0), "{me}");
    let (_, me) = get(&service, ADMIN, "/v1/me?org=acme&team=search&user=ann").await;
    assert_eq!(told(&me), ann, "{me}");
    // What the org has spent is the other teams' affair.
    let search = token(&service, "acme", Some("search")).await;
    let (_, me) = get(&service, &search, "/v1/me?user=ann").await;
    assert_eq!(told(&me)[0], (org, usd("4.74979"), Value::Null), "{me}");
    assert_eq!(told(&me)[1..], ann[1..], "{me}");
    for path in ["/v1/me?team=ads", "/v1/me?org=other"] {
        assert_eq!(get(&service, &search, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    // A workload, by what its route shows of it with the filter's token.
    let known = json!({"kind": "namespace", "value": "chat", "org": "acme", "team": "search", "user": "ann"});
    let (status, made) = service.send(Method::POST, "/v1/identities", ADMIN, &known).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let until = in_time();
    let me = loop {
        let (status, me) = get(&service, TOKEN, "/v1/me?namespace=chat").await;
        if status == StatusCode::OK || std::time::Instant::now() > until {
            break me;
        }
    };
    assert_eq!((told(&me), &me["payer"]["user"]), (ann.to_vec(), &json!("ann")), "{me}");
    assert_eq!(get(&service, TOKEN, "/v1/me?namespace=nobody").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&service, TOKEN, "/v1/usage?org=acme").await.0, StatusCode::FORBIDDEN);
    service.stop().await;
}
