//! The rollup: by hour and by day, the same as the detail says, and locked by day.

use std::collections::BTreeMap;
use std::time::Instant;

use budget_backend::histogram::LATENCY_MS;
use budget_backend::ledger::{Decision, HoldAsk};
use budget_backend::tracker::model::Settle;
use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::Outcome;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::*;

const DAY_US: i64 = 86_400_000_000;

/// A settlement, changed.
fn changed((key, item): (HoldKey, Item), change: impl FnOnce(&mut Settle)) -> (HoldKey, Item) {
    let Item::Settle(mut settle) = item else { panic!("not a settlement") };
    change(&mut settle);
    (key, Item::Settle(settle))
}

fn lasting(item: (HoldKey, Item), duration_ms: i64) -> (HoldKey, Item) {
    changed(item, |settle| settle.facts.duration_ms = Some(duration_ms))
}

fn tagged(project: &str) -> BTreeMap<String, String> {
    // Not in the order in which a jsonb keeps its keys.
    [("project", project), ("env", "test"), ("a \"quoted\" one", "x")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Rows of the rollup that are not what the detail says, or that are missing: none, if all is well.
async fn assert_rollup_equals_detail(pool: &PgPool) {
    for (table, unit, time, with_tags) in
        [("usage_hourly", "hour", "hour", ", tags"), ("cost_daily_summary", "day", "day::timestamptz", "")]
    {
        let tags = if with_tags.is_empty() { "" } else { ", tags::text" };
        let sums = "requests, estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens,
                    cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
                    image_input_tokens, image_output_tokens, cost_nanousd, latency_counts";
        let sql = format!(
            "with expected as (
                 select org, date_trunc('{unit}', occurred_at, 'UTC') as time, team, user_name, provider, model,
                        api{tags}, sum(case when entry = 0 then 1 else 0 end)::bigint as requests,
                        sum(case when entry = 0 and cause <> 'settled' then 1
                                 when entry > 0 and cause = 'settled' then -1 else 0 end)::bigint as estimated_requests,
                        sum(input_tokens)::bigint, sum(cached_input_tokens)::bigint,
                        sum(cache_write_5m_tokens)::bigint, sum(cache_write_1h_tokens)::bigint,
                        sum(output_tokens)::bigint, sum(reasoning_tokens)::bigint, sum(audio_input_tokens)::bigint,
                        sum(audio_output_tokens)::bigint, sum(image_input_tokens)::bigint,
                        sum(image_output_tokens)::bigint, sum(cost_nanousd)::bigint,
                        (select array_agg((select count(*) from unnest(array_agg(duration_ms)) d
                                            where width_bucket(d, $1::bigint[]) = bucket) order by bucket)
                           from generate_series(0, cardinality($1::bigint[])) bucket) as latency_counts
                   from llm_requests group by 1, 2, 3, 4, 5, 6, 7{by}
             ), actual as (
                 select org, {time} as time, team, user_name, provider, model, api{with_tags}, {sums} from {table}
             )
             select count(*) from ((table expected except all table actual) union all
                                   (table actual except all table expected)) wrong",
            by = if tags.is_empty() { "" } else { ", 8" },
        );
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query("set time zone 'UTC'").execute(&mut *connection).await.unwrap();
        let wrong: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(LATENCY_MS.as_slice())
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(wrong, 0, "rows of {table} that differ from the detail");
    }
    assert_books_balance(pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn hours_and_days_are_the_sums_of_the_detail_after_every_kind_of_sequence(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000_000).await;
    budget(&pool, "search", "*", "day", 1_000_000).await;
    let ledger = ledger(&pool);
    let mut steps = steps(&pool);
    let ids: Vec<Uuid> = (0..30).map(id).collect();
    for (number, call) in ids.iter().enumerate().take(9).skip(1) {
        let tags = if number % 2 == 0 { tagged("blue") } else { BTreeMap::new() };
        let call = HoldAsk { tags, ..ask(*call, &ann(), 100) };
        assert!(matches!(ledger.hold(call, in_time()).await.unwrap(), Decision::Granted(_)));
    }
    assert_rollup_equals_detail(&pool).await;
    // Settled, twice in a batch, without usage, voided, voided and settled after all.
    let items = vec![
        lasting(settle(ids[1], 40), 900),
        lasting(settle(ids[2], 41), 17),
        settle(ids[2], 41),
        lasting(settle_for(&ann(), ids[3], None), 30_000),
        void(ids[4]),
        void(ids[5]),
        lasting(settle(ids[5], 42), 0),
    ];
    steps.step(items.clone()).await.unwrap();
    assert_rollup_equals_detail(&pool).await;
    // Expired; then corrected, or charged again from the estimate, or left.
    sqlx::query("update holds set expires_at = now()").execute(&pool).await.unwrap();
    assert_eq!(steps.sweep().await, 3);
    assert_rollup_equals_detail(&pool).await;
    let items_late = vec![
        lasting(settle(ids[6], 7), 2_000_000),
        lasting(settle_for(&ann(), ids[7], None), 5),
        lasting(settle(ids[8], 500), 6),
    ];
    steps.step(items_late.clone()).await.unwrap();
    assert_rollup_equals_detail(&pool).await;
    // Calls without a hold: other payers, another model, an earlier day, tags of their own.
    let mut elsewhere = Vec::new();
    for (number, hours_ago, project) in [(20, 0, "red"), (21, 30, "red"), (22, 30, "blue"), (23, 31, "")] {
        elsewhere.push(changed(settle_for(&payer("ads", ""), ids[number], Some(9)), |settle| {
            settle.started_at_unix_us = unix_us() - hours_ago * 3_600_000_000;
            settle.subject.model = "gpt-4o".to_owned();
            settle.facts.duration_ms = Some(1_000 * hours_ago);
            settle.subject.tags = if project.is_empty() { BTreeMap::new() } else { tagged(project) };
        }));
    }
    steps.step(elsewhere.clone()).await.unwrap();
    assert_rollup_equals_detail(&pool).await;
    // Everything once more: nothing changes.
    let all = [items, items_late, elsewhere].concat();
    let outcomes = steps.step(all).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Duplicate), "{outcomes:?}");
    assert_rollup_equals_detail(&pool).await;
    assert_eq!(number(&pool, "select count(distinct tags) from usage_hourly").await, 3);
    assert_eq!(number(&pool, "select sum(requests)::bigint from usage_hourly").await, 11);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_late_settlement_corrects_the_hour_of_its_hold(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    let call = id(1);
    let asked = HoldAsk { tags: tagged("blue"), ..ask(call, &ann(), 100) };
    ledger(&pool).hold(asked, in_time()).await.unwrap();
    // Five hours ago, in an hour of its own.
    sqlx::query("update holds set held_at = now() - interval '5 hours', expires_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let mut steps = steps(&pool);
    assert_eq!(steps.sweep().await, 1);
    let row = "select estimated_requests * 1000 + cost_nanousd from usage_hourly
                where hour < now() - interval '4 hours'";
    assert_eq!(number(&pool, row).await, 1_100);
    // The row of the hold is gone by then: the ledger's first entry says where the correction counts.
    sqlx::query("delete from holds").execute(&pool).await.unwrap();
    let late = lasting(settle(call, 30), 250);
    assert_eq!(steps.step(vec![late.clone(), late]).await.unwrap(), [Outcome::Recorded, Outcome::Duplicate]);
    assert_eq!(number(&pool, row).await, 30);
    assert_eq!(number(&pool, "select count(*) from usage_hourly").await, 1);
    assert_eq!(number(&pool, "select latency_counts[16] from usage_hourly").await, 1, "192 to 255 ms");
    assert_eq!(number(&pool, "select count(*) from llm_requests where tags ->> 'project' = 'blue'").await, 2);
    assert_rollup_equals_detail(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_summary_row_from_before_latencies_were_counted_takes_them_on(pool: PgPool) {
    let mut steps = steps(&pool);
    steps.step(vec![lasting(settle(id(1), 1), 3)]).await.unwrap();
    sqlx::query("update cost_daily_summary set latency_counts = '{}'").execute(&pool).await.unwrap();
    steps.step(vec![lasting(settle(id(2), 1), 3)]).await.unwrap();
    assert_eq!(number(&pool, "select latency_counts[4] from cost_daily_summary").await, 1);
    assert_eq!(number(&pool, "select cardinality(latency_counts)::bigint from cost_daily_summary").await, 41);
    assert_eq!(number(&pool, "select latency_counts[4] from usage_hourly").await, 2);
}

fn unix_us() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros())
        .unwrap()
}

/// Takes the lock of whoever recomputes a day of an org.
async fn day_alone(pool: &PgPool, org: &str, day: i64) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtext($1), $2)")
        .bind(org)
        .bind(i32::try_from(day).unwrap())
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// Waits until somebody waits for a day lock.
async fn someone_waits(pool: &PgPool) {
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                    where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";
    let started = Instant::now();
    while number(pool, waiting).await == 0 {
        assert!(started.elapsed().as_secs() < 20, "nobody waits for the day");
        tokio::task::yield_now().await;
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_charge_waits_while_its_day_is_recomputed_and_another_day_s_does_not(pool: PgPool) {
    let org = budget(&pool, "", "", "total", 1_000).await;
    let started_at_us = unix_us() - 36 * 3_600_000_000;
    let at = |number: u64, unix_us: i64| {
        vec![changed(settle(id(number), 10), |settle| settle.started_at_unix_us = unix_us)]
    };
    let alone = day_alone(&pool, "acme", started_at_us / DAY_US).await;
    let mut blocked = steps(&pool);
    let items = at(1, started_at_us);
    let waiting = tokio::spawn(async move { blocked.step(items).await });
    someone_waits(&pool).await;
    // It holds no other lock meanwhile: the same counter takes other days' charges, and holds.
    let others = [at(2, started_at_us - DAY_US), at(3, started_at_us + DAY_US)].concat();
    assert_eq!(record(&pool, others).await, [Outcome::Recorded, Outcome::Recorded]);
    let voided = id(4);
    granted(&ledger(&pool), voided, 5).await;
    assert_eq!(record(&pool, vec![void(voided)]).await, [Outcome::Recorded]);
    assert!(!waiting.is_finished());
    assert_eq!(standing(&pool, org).await, (20, 0));
    alone.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [Outcome::Recorded]);
    assert_eq!(standing(&pool, org).await, (30, 0));
    assert_rollup_equals_detail(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_expiry_waits_for_the_day_of_its_hold(pool: PgPool) {
    budget(&pool, "", "", "total", 1_000).await;
    granted(&ledger(&pool), id(1), 100).await;
    sqlx::query("update holds set held_at = now() - interval '3 days', expires_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let day =
        number(&pool, "select ((held_at at time zone 'UTC')::date - date '1970-01-01')::bigint from holds")
            .await;
    let alone = day_alone(&pool, "acme", day).await;
    let mut blocked = steps(&pool);
    let waiting = tokio::spawn(async move { blocked.sweep().await });
    someone_waits(&pool).await;
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 0);
    alone.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
    assert_rollup_equals_detail(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_that_appears_while_its_settlement_waits_is_the_one_charged(pool: PgPool) {
    let org = budget(&pool, "", "", "total", 1_000).await;
    let call: Uuid = id(1);
    let started_at_us = unix_us() - 36 * 3_600_000_000;
    let alone = day_alone(&pool, "acme", started_at_us / DAY_US).await;
    let mut blocked = steps(&pool);
    let items = vec![changed(settle(call, 10), |settle| settle.started_at_unix_us = started_at_us)];
    let waiting = tokio::spawn(async move { blocked.step(items).await });
    someone_waits(&pool).await;
    granted(&ledger(&pool), call, 100).await;
    alone.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [Outcome::Recorded]);
    assert_eq!(standing(&pool, org).await, (10, 0));
    // Booked to the hold's own day, not to the one that was locked first.
    assert_eq!(
        number(
            &pool,
            "select count(*) from holds h join llm_requests r using (org, hold_id)
                        where h.held_at = r.occurred_at and h.state = 'settled' and r.held_nanousd = 100"
        )
        .await,
        1
    );
    assert_rollup_equals_detail(&pool).await;
}
