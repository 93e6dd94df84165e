//! The rollup recomputed from the detail.

use budget_backend::aggregate::{AggregateError, DayChange, RowChanges, orgs_of_days, recompute_day};
use jiff::civil::Date;
use purser_protocol::Outcome;
use sqlx::PgPool;

use crate::operator::*;
use crate::support::*;

/// The UTC days that have detail.
async fn days(pool: &PgPool) -> Vec<Date> {
    let days: Vec<String> = sqlx::query_scalar(
        "select distinct (occurred_at at time zone 'UTC')::date::text from llm_requests order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    days.iter().map(|day| day.parse().unwrap()).collect()
}

async fn recompute(pool: &PgPool, org: &'static str, day: Date) -> Result<DayChange, AggregateError> {
    with_client(pool, move |client| recompute_day(client, org, day)).await
}

/// Recomputes every day with detail; gives what was changed.
async fn recompute_all(pool: &PgPool) -> (RowChanges, RowChanges) {
    let (mut hourly, mut daily) = (RowChanges::default(), RowChanges::default());
    for day in days(pool).await {
        let change = recompute(pool, "acme", day).await.unwrap();
        for (sum, more) in [(&mut hourly, change.hourly), (&mut daily, change.daily)] {
            sum.added += more.added;
            sum.changed += more.changed;
            sum.removed += more.removed;
        }
    }
    (hourly, daily)
}

/// Calls of every kind: exact, without usage, expired and corrected, of two users, dated two days.
async fn traffic(pool: &PgPool) {
    budget(pool, "", "", "month", 1_000_000).await;
    let ledger = ledger(pool);
    for number in 1..=4 {
        granted(&ledger, id(number), 100).await;
    }
    let mut steps = steps(pool);
    execute(
        pool,
        "update holds set expires_at = now(), held_at = held_at - interval '1 day' where held_nanousd = 100
                      and hold_id in (select hold_id from holds order by hold_id limit 2)",
    )
    .await;
    assert_eq!(steps.sweep().await, 2);
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("select hold_id from holds order by hold_id").fetch_all(pool).await.unwrap();
    let bob = payer("ads", "bob");
    let mut items = vec![
        settle(ids[0], 30),
        settle(ids[2], 40),
        settle_for(&ann(), ids[3], None),
        settle_for(&bob, id(5), Some(60)),
        settle_for(&bob, id(6), Some(61)),
    ];
    for (number, (_, item)) in items.iter_mut().enumerate() {
        let budget_backend::tracker::Item::Settle(settle) = item else { panic!() };
        settle.facts.duration_ms = [Some(3), Some(4_000), None, Some(70), Some(i64::MAX)][number];
    }
    let outcomes = steps.step(items).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Recorded), "{outcomes:?}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn it_gets_to_the_tracker_s_numbers_and_changes_nothing(pool: PgPool) {
    traffic(&pool).await;
    assert!(days(&pool).await.len() >= 2);
    for _ in 0..2 {
        assert_eq!(recompute_all(&pool).await, Default::default());
    }
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn it_puts_a_broken_rollup_right_and_says_what_it_did(pool: PgPool) {
    traffic(&pool).await;
    let rows = number(&pool, "select count(*) from usage_hourly").await;
    execute(&pool, "create table hours_before as select * from usage_hourly").await;
    execute(&pool, "create table days_before as select * from cost_daily_summary").await;
    for sql in [
        "insert into usage_hourly select org, hour, 'ghost', user_name, provider, model, api, tags, requests,
           estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
           output_tokens, reasoning_tokens, cost_nanousd, latency_counts from usage_hourly where team = 'ads'",
        "delete from usage_hourly where team = 'ads'",
        "update usage_hourly set latency_counts[1] = latency_counts[1] + 1 where team = 'search'",
        "update cost_daily_summary set cost_nanousd = cost_nanousd + 1 where team = 'ads'",
        "update cost_daily_summary set latency_counts = '{}' where team = 'search'",
    ] {
        execute(&pool, sql).await;
    }
    let (hourly, daily) = recompute_all(&pool).await;
    let ads = number(&pool, "select count(*) from hours_before where team = 'ads'").await;
    assert_eq!(hourly, RowChanges { added: ads, changed: rows - ads, removed: ads });
    let days = number(&pool, "select count(*) from days_before").await;
    assert_eq!(daily, RowChanges { added: 0, changed: days, removed: 0 });
    for (table, before) in [("usage_hourly", "hours_before"), ("cost_daily_summary", "days_before")] {
        let sql = format!(
            "select count(*) from ((table {table} except table {before}) union all (table {before} except table {table})) d"
        );
        let differing: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap();
        assert_eq!(differing, 0, "{table} is as the tracker left it");
    }
    execute(&pool, "truncate usage_hourly, cost_daily_summary").await;
    let (hourly, daily) = recompute_all(&pool).await;
    assert_eq!((hourly.added, daily.added), (rows, days));
    assert_eq!(recompute_all(&pool).await, Default::default());
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn it_finds_nothing_wrong_at_any_moment_while_the_tracker_writes(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000_000).await;
    record(&pool, vec![settle(id(1_000_000), 1)]).await;
    let writer = pool.clone();
    let writing = tokio::spawn(async move {
        let mut steps = steps(&writer);
        for batch in 0..40 {
            let items = (0..5).map(|item| settle(id(batch * 5 + item), 7)).collect();
            steps.step(items).await.unwrap();
        }
    });
    let mut rounds = 0;
    while !writing.is_finished() {
        // A tracker that did not keep out of the way would show as rows to put right.
        assert_eq!(recompute_all(&pool).await, Default::default(), "round {rounds}");
        rounds += 1;
    }
    writing.await.unwrap();
    assert!(rounds > 0, "they ran side by side");
    assert_eq!(number(&pool, "select sum(cost_nanousd)::bigint from cost_daily_summary").await, 1 + 200 * 7);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_day_that_lost_detail_is_refused_and_left_alone(pool: PgPool) {
    traffic(&pool).await;
    let days = days(&pool).await;
    let (lost, whole) = (days[0], days[1]);
    execute(&pool, &format!("update ledger_coverage set whole_from = '{whole}'")).await;
    execute(&pool, "update usage_hourly set cost_nanousd = cost_nanousd + 5").await;
    execute(&pool, "update cost_daily_summary set cost_nanousd = cost_nanousd + 5").await;
    let before = number(&pool, "select sum(cost_nanousd)::bigint from cost_daily_summary").await;
    let error = recompute(&pool, "acme", lost).await.unwrap_err();
    assert!(
        matches!(&error, AggregateError::NotWhole { whole_from, .. } if *whole_from == whole.to_string())
    );
    assert!(error.to_string().contains(&lost.to_string()), "{error}");
    assert_eq!(number(&pool, "select sum(cost_nanousd)::bigint from cost_daily_summary").await, before);
    assert!(!recompute(&pool, "acme", whole).await.unwrap().hourly.is_none());

    let output =
        backend(&pool, &["aggregate", "--from", &lost.to_string(), "--to", &whole.to_string()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("acme: {lost} can't be recomputed")), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("1 recomputed") && stdout(&output).contains("1 refused"),
        "{}",
        stdout(&output)
    );
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_command_takes_days_ranges_and_orgs(pool: PgPool) {
    traffic(&pool).await;
    let days = days(&pool).await;
    execute(&pool, "update usage_hourly set cost_nanousd = cost_nanousd + 1").await;
    let (first, last) = (days[0].to_string(), days[days.len() - 1].to_string());
    let output = backend(&pool, &["aggregate", "--day", &first, "--day", &last, "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let done = json(&output);
    assert_eq!(done["days"].as_array().unwrap().len(), days.len(), "{done}");
    assert_eq!(done["days"][0]["org"], "acme");
    assert!(done["days"][0]["hourly"]["changed"].as_i64().unwrap() > 0, "{done}");
    let again = backend(&pool, &["aggregate", "--from", &first, "--to", &last, "--org", "acme"]).await;
    assert!(stdout(&again).contains("usage_hourly: right  cost_daily_summary: right"), "{}", stdout(&again));
    let other = backend(&pool, &["aggregate", "--day", &first, "--org", "nobody"]).await;
    assert_eq!((other.status.code(), stdout(&other).trim()), (Some(0), "nothing was recorded on these days"));
    for wrong in [
        &["aggregate"][..],
        &["aggregate", "--day", "yesterday"],
        &["aggregate", "--from", "2026-11-01"],
        &["aggregate", "--from", "2026-11-02", "--to", "2026-11-01"],
        &["aggregate", "--from", "1990-01-01", "--to", "2026-11-01"],
    ] {
        let output = backend(&pool, wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn orgs_of_a_day_are_those_with_detail_or_rollup_rows(pool: PgPool) {
    traffic(&pool).await;
    let days = days(&pool).await;
    let last = days[days.len() - 1];
    let rows = "requests, estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens,
                cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_nanousd";
    let copy = format!("insert into cost_daily_summary (org, day, team, user_name, provider, model, api, {rows})
                        select 'left-over', day, team, user_name, provider, model, api, {rows} from cost_daily_summary
                         where day = '{last}'");
    execute(&pool, &copy).await;
    let found =
        with_client(&pool, move |client| orgs_of_days(client, &[last, Date::constant(2001, 1, 1)], None))
            .await;
    assert_eq!(found.unwrap(), [("acme".to_owned(), last), ("left-over".to_owned(), last)]);
    let change = recompute(&pool, "left-over", last).await.unwrap();
    assert!(change.daily.removed > 0 && change.requests == 0, "{change:?}");
}
