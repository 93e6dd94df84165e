//! What bends a budget: shadows, patterns, top-ups, rules, overrides, strictness; and where a new
//! budget's counter starts.

use budget_backend::budget::Mode;
use budget_backend::ledger::decide::PassedOver;
use budget_backend::ledger::{Decision, Grant, HoldAsk, Ledger};
use budget_backend::quote::Quote;
use budget_backend::rules::Barred;
use purser_protocol::{Payer, Tier};
use sqlx::PgPool;

use crate::support::*;

async fn execute(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

async fn grant(ledger: &Ledger, number: u64, payer: &Payer, amount_nanousd: i64) -> Grant {
    match hold(ledger, id(number), payer, amount_nanousd).await.unwrap() {
        Decision::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

async fn barred(ledger: &Ledger, number: u64, payer: &Payer) -> Barred {
    match hold(ledger, id(number), payer, 1).await.unwrap() {
        Decision::Barred(barred) => barred,
        other => panic!("{other:?}"),
    }
}

async fn refused(ledger: &Ledger, number: u64, payer: &Payer, amount_nanousd: i64) {
    let decision = hold(ledger, id(number), payer, amount_nanousd).await.unwrap();
    assert!(matches!(decision, Decision::Refused(_)), "{decision:?}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_payer_without_any_budget_passes_and_its_tiers_are_named(pool: PgPool) {
    let grant = grant(&ledger(&pool), 1, &ann(), 100).await;
    assert_eq!(grant.unbudgeted, [Tier::Org, Tier::Team, Tier::User]);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_shadow_budget_counts_and_notes_and_never_refuses_or_replaces(pool: PgPool) {
    let each = budget(&pool, "search", "*", "day", 150).await;
    let shadow = budget(&pool, "search", "ann", "day", 10).await;
    execute(&pool, &format!("update budgets set mode = 'shadow' where budget_id = {shadow}")).await;
    let ledger = ledger(&pool);
    let first = grant(&ledger, 1, &ann(), 100).await;
    assert_eq!(first.passed_over, [PassedOver { budget_id: shadow, mode: Mode::Shadow }]);
    refused(&ledger, 2, &ann(), 100).await;
    for budget in [each, shadow] {
        assert_eq!(standing(&pool, budget).await, (0, 100));
    }
    // Enforcing, it replaces the `*` row and refuses.
    execute(&pool, &format!("update budgets set mode = 'enforce' where budget_id = {shadow}")).await;
    refused(&ledger, 3, &ann(), 1).await;
    grant(&ledger, 4, &payer("search", "bob"), 100).await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_with_patterns_counts_its_models_only(pool: PgPool) {
    let all = budget(&pool, "", "", "day", 1_000).await;
    let dear = budget(&pool, "", "", "month", 100).await;
    execute(&pool, &format!("update budgets set models = '{{gpt-5*,o?}}' where budget_id = {dear}")).await;
    let ledger = ledger(&pool);
    let call = |number: u64, model: &str, amount| {
        let ask = HoldAsk { model: model.to_owned(), ..ask(id(number), &ann(), amount) };
        let ledger = ledger.clone();
        async move { ledger.hold(ask, in_time()).await.unwrap() }
    };
    assert!(matches!(call(1, "gpt-4o-mini", 500).await, Decision::Granted(_)));
    assert!(matches!(call(2, "gpt-5.4", 80).await, Decision::Granted(_)));
    assert!(matches!(call(3, "o3", 21).await, Decision::Refused(_)));
    assert!(matches!(call(4, "o3", 20).await, Decision::Granted(_)));
    assert_eq!(standing(&pool, all).await, (0, 600));
    assert_eq!(standing(&pool, dear).await, (0, 100));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_top_up_acts_at_every_replica_and_in_its_period_only(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    let (one, other) = (ledger(&pool), ledger(&pool));
    grant(&one, 1, &ann(), 100).await;
    refused(&other, 2, &ann(), 50).await;
    execute(&pool, "update budget_counters set topped_up_nanousd = topped_up_nanousd + 50").await;
    let second = grant(&other, 3, &ann(), 50).await;
    assert_eq!((second.remaining[0].limit_nanousd, second.remaining[0].remaining_nanousd), (150, 0));
    refused(&one, 4, &ann(), 1).await;
    assert_eq!(standing(&pool, org).await, (0, 150));
    // Yesterday's top-up is not today's.
    execute(&pool, "update budget_counters set period_start = period_start - interval '1 day'").await;
    grant(&one, 5, &ann(), 100).await;
    refused(&one, 6, &ann(), 1).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn kill_switches_and_model_lists_act_on_the_next_hold_at_every_replica(pool: PgPool) {
    budget(&pool, "", "", "day", 1_000).await;
    let replicas = [ledger(&pool), ledger(&pool)];
    for ledger in &replicas {
        grant(ledger, if std::ptr::eq(ledger, &replicas[0]) { 1 } else { 2 }, &ann(), 1).await;
    }
    execute(
        &pool,
        "insert into call_rules (org, team, blocked, reason) values ('acme', 'search', true, 'leak')",
    )
    .await;
    for (number, ledger) in (3_u64..).zip(&replicas) {
        let barred = barred(ledger, number, &ann()).await;
        assert!(matches!(&barred, Barred::Blocked { reason, .. } if reason == "leak"), "{barred:?}");
        grant(ledger, number + 10, &payer("ads", "zoe"), 1).await;
    }
    execute(&pool, "update call_rules set blocked = false, denied_models = '{gpt-4o*}'").await;
    for (number, ledger) in (5_u64..).zip(&replicas) {
        assert!(matches!(barred(ledger, number, &ann()).await, Barred::ModelNotAllowed { .. }));
    }
    execute(&pool, "update call_rules set denied_models = '{}', allowed_models = '{gpt-*}'").await;
    grant(&replicas[0], 7, &ann(), 1).await;
    execute(&pool, "delete from call_rules").await;
    execute(
        &pool,
        "insert into call_rules (org, team, user_name, allowed_models) values ('acme', 'search', '*', '{o3}')",
    )
    .await;
    assert!(matches!(barred(&replicas[1], 8, &ann()).await, Barred::ModelNotAllowed { .. }));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_org_may_want_a_budget_in_a_tier(pool: PgPool) {
    budget(&pool, "", "", "day", 1_000).await;
    execute(&pool, "insert into call_rules (org, required_tiers) values ('acme', '{org,team}')").await;
    let ledger = ledger(&pool);
    assert_eq!(barred(&ledger, 1, &ann()).await, Barred::NoBudget(Tier::Team));
    assert_eq!(barred(&ledger, 2, &payer("", "")).await, Barred::NoBudget(Tier::Team));
    budget(&pool, "*", "", "day", 1_000).await;
    assert_eq!(grant(&ledger, 3, &ann(), 1).await.unbudgeted, [Tier::User]);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_override_lifts_budgets_until_it_expires_or_ends_and_is_in_the_books(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    let user = budget(&pool, "search", "ann", "day", 10).await;
    let ledger = ledger(&pool);
    refused(&ledger, 1, &ann(), 50).await;
    let start = "insert into overrides (org, team, created_by, reason, expires_at)
                 values ('acme', 'search', 'eve', 'outage', now() + interval '1 hour')";
    execute(&pool, start).await;
    let call = id(2);
    let Decision::Granted(over) = hold(&ledger, call, &ann(), 50).await.unwrap() else { panic!("refused") };
    assert_eq!(over.passed_over, [PassedOver { budget_id: user, mode: Mode::Enforce }]);
    assert!(over.override_id.is_some());
    refused(&ledger, 3, &payer("ads", "zoe"), 51).await;
    record(&pool, vec![settle(call, 60)]).await;
    assert_eq!(number(&pool, "select count(*) from llm_requests where override_id is not null").await, 1);
    assert_eq!(standing(&pool, org).await, (60, 0));
    // A kill switch holds even so.
    execute(&pool, "insert into call_rules (org, blocked) values ('acme', true)").await;
    assert!(matches!(barred(&ledger, 4, &ann()).await, Barred::Blocked { .. }));
    execute(&pool, "delete from call_rules").await;
    execute(&pool, "update overrides set ended_at = now()").await;
    refused(&ledger, 5, &ann(), 1).await;
    // One that runs out by itself, without anybody touching it.
    execute(
        &pool,
        "insert into overrides (org, created_by, reason, expires_at)
         values ('acme', 'eve', 'short', clock_timestamp() + interval '700 milliseconds')",
    )
    .await;
    grant(&ledger, 6, &ann(), 1).await;
    wait_for(
        &pool,
        "select count(*) from overrides where reason = 'short' and expires_at <= clock_timestamp()",
    )
    .await;
    refused(&ledger, 7, &ann(), 1).await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_strict_budget_holds_the_bound_and_bars_what_has_none(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 1_000).await;
    execute(&pool, "update budgets set strict = true").await;
    let ledger = ledger(&pool);
    let first = grant(&ledger, 1, &ann(), 60).await;
    assert_eq!((first.held_nanousd, first.strict, first.rewrite.output_cap_tokens), (600, true, Some(64)));
    refused(&ledger, 2, &ann(), 41).await;
    let unbounded =
        HoldAsk { quote: Quote { bound: Err("media in the request"), ..quote(1) }, ..ask(id(3), &ann(), 1) };
    let decision = ledger.hold(unbounded, in_time()).await.unwrap();
    assert_eq!(
        decision,
        Decision::Barred(Barred::NotBoundable { budget_id: org, why: "media in the request" })
    );
    assert_eq!(standing(&pool, org).await, (0, 600));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_new_counter_starts_from_days_hours_and_what_is_left_of_an_hour(pool: PgPool) {
    // Ledger rows of one user in three models, spread over the hours since the month began in a zone
    // whose months begin in the middle of a UTC hour.
    execute(
        &pool,
        "insert into llm_requests (org, hold_id, entry, team, user_name, provider, api, model, priced_as, price_match,
             cost_nanousd, held_nanousd, cause, admission, usage_quality, input_tokens, cached_input_tokens,
             cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, stream, http_status,
             ending, occurred_at, counters)
         select 'acme', gen_random_uuid(), 0, 'search', 'ann', 'openai', 'openai_chat',
                (array['gpt-4o', 'gpt-4o-mini', '100%_x'])[1 + abs(n) % 3], '', '', 1000 + n, 0, 'settled', 'held', 'exact',
                0, 0, 0, 0, 0, 0, false, 200, 'complete', m.start + n * interval '7 minutes', '[]'
           from (select date_trunc('month', now(), 'Asia/Kolkata') as start) m,
                generate_series(-100, 600) n",
    )
    .await;
    for (table, truncated) in [("usage_hourly", "hour"), ("cost_daily_summary", "day")] {
        let (tags, tags_value) = if table == "usage_hourly" { (", tags", ", '{}'") } else { ("", "") };
        execute(
            &pool,
            &format!(
                "insert into {table} (org, {truncated}, team, user_name, provider, model, api, requests,
                     estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens,
                     cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_nanousd, latency_counts{tags})
                 select org, date_trunc('{truncated}', occurred_at at time zone 'UTC') at time zone 'UTC', team,
                        user_name, provider, model, api, count(*), 0, 0, 0, 0, 0, 0, 0, sum(cost_nanousd), '{{}}'{tags_value}
                   from llm_requests group by 1, 2, 3, 4, 5, 6, 7"
            ),
        )
        .await;
    }
    let ledger = ledger(&pool);
    for (models, matching) in
        [("{}", "true"), ("{gpt-4o*}", "model like 'gpt-4o%'"), ("{100%_?}", "model = '100%_x'")]
    {
        execute(
            &pool,
            &format!(
                "insert into budgets (org, window_kind, time_zone, limit_nanousd, models)
                 values ('acme', 'month', 'Asia/Kolkata', 1000000000, '{models}')"
            ),
        )
        .await;
        let call = HoldAsk {
            model: if models == "{100%_?}" { "100%_x".to_owned() } else { "gpt-4o".to_owned() },
            ..ask(id(matching.len() as u64), &ann(), 0)
        };
        assert!(matches!(ledger.hold(call, in_time()).await.unwrap(), Decision::Granted(_)));
        let sql = format!(
            "select count(*) from budget_counters c
              where c.budget_id = (select max(budget_id) from budgets)
                and c.spent_nanousd = c.opening_nanousd and c.spent_nanousd = (
                    select sum(cost_nanousd) from llm_requests
                     where occurred_at >= date_trunc('month', now(), 'Asia/Kolkata') and {matching})"
        );
        let equal: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap();
        assert_eq!(equal, 1, "{models}");
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_edit_is_audited_and_the_log_can_t_be_edited(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    execute(&pool, "update budgets set limit_nanousd = 200").await;
    execute(&pool, "insert into call_rules (org, blocked) values ('acme', true)").await;
    execute(&pool, "begin; select set_config('purser.actor', 'eve', true); delete from call_rules; commit")
        .await;
    let lines: Vec<(String, String, String)> =
        sqlx::query_as("select action, object, actor from audit_log order by audit_id")
            .fetch_all(&pool)
            .await
            .unwrap();
    let what: Vec<(&str, &str)> =
        lines.iter().map(|(action, object, _)| (action.as_str(), object.as_str())).collect();
    assert_eq!(
        what,
        [("insert", "budgets"), ("update", "budgets"), ("insert", "call_rules"), ("delete", "call_rules")]
    );
    assert_eq!(lines[3].2, "eve");
    let raised = "select count(*) from audit_log where (before ->> 'limit_nanousd', after ->> 'limit_nanousd') = ('100', '200')";
    assert_eq!(number(&pool, raised).await, 1);
    for sql in ["delete from audit_log", "update audit_log set actor = 'nobody'"] {
        let refused = sqlx::query(sql).execute(&pool).await.unwrap_err().to_string();
        assert!(refused.contains("only ever added"), "{refused}");
    }
    assert!(org > 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_clock_that_the_lane_did_not_expect_is_followed(pool: PgPool) {
    // Counters of another day are what a jump of the clock leaves behind: holds go to the period of the
    // database's clock, whatever a lane remembered.
    let day = budget(&pool, "", "", "day", 100).await;
    let ledger = ledger(&pool);
    grant(&ledger, 1, &ann(), 100).await;
    execute(&pool, "update budget_counters set period_start = period_start + interval '1 day'").await;
    grant(&ledger, 2, &ann(), 100).await;
    refused(&ledger, 3, &ann(), 1).await;
    let periods = "select count(*) from budget_counters where held_nanousd = 100";
    assert_eq!(number(&pool, periods).await, 2);
    assert_eq!(standing(&pool, day).await, (0, 200));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_each_budget_knows_what_was_spent_while_an_own_one_stood_in_for_it(pool: PgPool) {
    let each = budget(&pool, "search", "*", "day", 100).await;
    let ledger = ledger(&pool);
    let spend = async |number, cost| {
        let call = id(number);
        granted(&ledger, call, 1).await;
        record(&pool, vec![settle(call, cost)]).await;
    };
    spend(1, 60).await;
    let own = budget(&pool, "search", "ann", "day", 500).await;
    spend(2, 300).await;
    assert_eq!(standing(&pool, own).await, (360, 0));
    execute(&pool, &format!("update budgets set archived_at = now() where budget_id = {own}")).await;
    refused(&self::ledger(&pool), 3, &ann(), 1).await;
    assert_eq!(standing(&pool, each).await, (360, 0));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_counter_made_late_for_a_past_period_opens_with_that_period_alone(pool: PgPool) {
    for zone in ["UTC", "Asia/Kolkata", "Nowhere"] {
        let new = format!(
            "insert into budgets (org, window_kind, time_zone, limit_nanousd) values ('acme', 'day', '{zone}', 100000)"
        );
        execute(&pool, &new).await;
    }
    let ledger = ledger(&pool);
    let today = id(1);
    granted(&ledger, today, 1).await;
    record(&pool, vec![settle(today, 700)]).await;
    // Went out without a hold two days ago, and is only told now.
    let (key, mut item) = settle(id(2), 5);
    if let budget_backend::tracker::Item::Settle(settle) = &mut item {
        let now = number(&pool, "select (extract(epoch from now()) * 1000000)::bigint").await;
        settle.started_at_unix_us = now - 2 * 86_400_000_000;
    }
    record(&pool, vec![(key, item)]).await;
    let late = "select count(*) from budget_counters where spent_nanousd = 5 and opening_nanousd = 0";
    assert_eq!(number(&pool, late).await, 3);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_odd_row_of_one_org_fails_no_other(pool: PgPool) {
    execute(
        &pool,
        "insert into budgets (org, window_kind, limit_nanousd) values ('odd', 'day', 1000);
         update budgets set models = array[null]::text[]",
    )
    .await;
    budget(&pool, "", "", "day", 1_000).await;
    let one_lane = budget_backend::ledger::LedgerSettings { lanes: 1, ..SETTINGS };
    let ledger = Ledger::start(&pool, one_lane).0;
    let odd = Payer { org: "odd".to_owned(), ..ann() };
    let holds = (0..40_u64).map(|number| {
        let (ledger, odd) = (ledger.clone(), odd.clone());
        tokio::spawn(async move {
            let payer = if number % 4 == 0 { odd } else { ann() };
            let answer = hold(&ledger, id(number), &payer, 1).await;
            (number % 4 == 0, answer)
        })
    });
    for held in holds.collect::<Vec<_>>() {
        let (is_odd, answer) = held.await.unwrap();
        assert_eq!(matches!(answer, Ok(Decision::Granted(_))), !is_odd, "{answer:?}");
    }
    // One that never ends is no odd row.
    execute(
        &pool,
        "insert into overrides (org, created_by, reason, expires_at) values ('acme', 'dba', 'by hand', 'infinity')",
    )
    .await;
    assert!(matches!(hold(&ledger, id(100), &ann(), 5_000).await, Ok(Decision::Granted(_))));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_id_of_another_call_is_not_a_way_out(pool: PgPool) {
    budget(&pool, "", "", "day", 1_000).await;
    let ledger = ledger(&pool);
    let call = id(1);
    granted(&ledger, call, 10).await;
    let other_team = hold(&ledger, call, &payer("ads", "zoe"), 10).await.unwrap();
    assert_eq!(other_team, Decision::Closed);
    let other_model = HoldAsk { model: "gpt-5.4".to_owned(), ..ask(call, &ann(), 10) };
    assert_eq!(ledger.hold(other_model, in_time()).await.unwrap(), Decision::Closed);
    assert!(matches!(hold(&ledger, call, &ann(), 10).await.unwrap(), Decision::Repeated(_)));
    // Made strict meanwhile, the budget wants its bound held.
    execute(&pool, "update budgets set strict = true").await;
    assert_eq!(hold(&ledger, call, &ann(), 10).await.unwrap(), Decision::Closed);
    assert_books_balance(&pool).await;
}
