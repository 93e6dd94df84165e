//! Partitions and retention.

use std::collections::BTreeMap;

use budget_backend::aggregate::{AggregateError, recompute_day};
use budget_backend::maintain::{Retention, make_partitions, round};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use purser_protocol::Outcome;
use sqlx::PgPool;
use uuid::Uuid;

use crate::operator::*;
use crate::support::*;

/// The ledger's detail for so many days, refusals for 90.
fn keep(ledger_days: u32) -> Retention {
    Retention { ledger_days, denial_days: 90 }
}

/// An id dated some days ago.
fn id_of(days_ago: i64, number: u64) -> Uuid {
    let unix_ms = u128::try_from(Timestamp::now().as_millisecond() - days_ago * 86_400_000).unwrap();
    Uuid::from_u128((unix_ms << 80) | (7 << 76) | (2 << 62) | u128::from(number))
}

/// Writes an entry with an id of one age and a date of another, days.
async fn entry(pool: &PgPool, hold_id: Uuid, days_ago: i64) {
    record(pool, vec![settle(hold_id, 5)]).await;
    let sql = format!(
        "update llm_requests set occurred_at = now() - {days_ago} * interval '1 day' where hold_id = '{hold_id}'"
    );
    execute(pool, &sql).await;
}

/// Entries by partition.
async fn entries(pool: &PgPool) -> BTreeMap<String, i64> {
    sqlx::query_as::<_, (String, i64)>(
        "select tableoid::regclass::text, count(*) from llm_requests group by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .into_iter()
    .collect()
}

/// The partition of the month `days_ago`.
fn month(days_ago: i64) -> String {
    let day = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date() - days_ago.days();
    format!("llm_requests_{}", day.strftime("y%Ym%m"))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_partition_is_made_over_rows_that_came_before_it(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    let calls: Vec<Uuid> = (0..3).map(id).collect();
    record(&pool, calls.iter().map(|call| settle(*call, 5)).collect()).await;
    record(&pool, vec![settle(Uuid::nil(), 1)]).await;
    assert_eq!(entries(&pool).await, BTreeMap::from([("llm_requests_default".to_owned(), 4)]));
    let done = round(&pool, keep(0)).await.unwrap();
    assert_eq!((done.made.len(), &done.made[0]), (4, &month(0)), "{done:?}");
    assert_eq!(entries(&pool).await, BTreeMap::from([("llm_requests_default".to_owned(), 1), (month(0), 3)]));
    // What moved is known as before, and nothing is made twice.
    assert_eq!(record(&pool, vec![settle(calls[0], 5)]).await, [Outcome::Duplicate]);
    assert_eq!(round(&pool, keep(0)).await.unwrap(), Default::default());
    let unindexed = "select count(*) from pg_index i join pg_inherits h on h.inhparent = 'llm_requests'::regclass
                      and h.inhrelid = i.indrelid where i.indexrelid not in (select inhrelid from pg_inherits)";
    assert_eq!(number(&pool, unindexed).await, 0, "every index belongs to the ledger's own");
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_partition_waits_for_an_entry_that_is_on_its_way(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    record(&pool, vec![settle(id(1), 5)]).await;
    // What an insert holds from before it chooses a partition.
    let mut inserting = pool.begin().await.unwrap();
    sqlx::query("lock table only llm_requests in row exclusive mode").execute(&mut *inserting).await.unwrap();
    let done = round(&pool, keep(0)).await.unwrap();
    assert_eq!((done.made.len(), done.postponed.len()), (0, 4), "{done:?}");
    inserting.rollback().await.unwrap();
    let done = round(&pool, keep(0)).await.unwrap();
    assert_eq!((done.made.len(), done.postponed.len()), (4, 0), "{done:?}");
    assert_eq!(entries(&pool).await, BTreeMap::from([(month(0), 1)]));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn replicas_that_start_together_make_the_partitions_once(pool: PgPool) {
    let (one, two, three) =
        tokio::join!(round(&pool, keep(400)), round(&pool, keep(400)), budget_backend::db::migrate(&pool));
    three.unwrap();
    assert!(one.unwrap().made.len() + two.unwrap().made.len() <= 4);
    assert_eq!(
        number(&pool, "select count(*) from pg_inherits where inhparent = 'llm_requests'::regclass").await,
        5
    );
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_migration_waits_for_another_replica_s(pool: PgPool) {
    let mut other = pool.begin().await.unwrap();
    sqlx::query("lock table _sqlx_migrations in access exclusive mode").execute(&mut *other).await.unwrap();
    // With the limits of a check it would have given up by then.
    let options = pool
        .connect_options()
        .as_ref()
        .clone()
        .options([("lock_timeout", "500"), ("statement_timeout", "1000")]);
    let checks = PgPool::connect_with(options).await.unwrap();
    let waits = async {
        wait_for(
            &pool,
            "select count(*) from pg_stat_activity where datname = current_database()
                and application_name = 'purser-migrations' and wait_event_type = 'Lock'
                and now() - query_start > interval '1.2 seconds'",
        )
        .await;
        other.rollback().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(budget_backend::db::migrate(&checks), waits);
    migrated.unwrap();
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn retention_drops_what_is_past_and_says_from_when_the_detail_is_whole(pool: PgPool) {
    budget(&pool, "", "", "total", 1_000_000).await;
    let old = Timestamp::now() - (150 * 24).hours();
    make_partitions(&pool, old).await.unwrap();
    entry(&pool, id_of(150, 1), 150).await;
    entry(&pool, id_of(150, 2), 149).await;
    // From a filter whose clock is far behind: the entry itself is young.
    entry(&pool, id_of(150, 3), 2).await;
    entry(&pool, id(4), 0).await;
    // Ids outside all partitions: one entry is old, one is not.
    entry(&pool, Uuid::from_u128(5), 120).await;
    entry(&pool, Uuid::from_u128(6), 3).await;
    assert_eq!(round(&pool, keep(0)).await.unwrap().dropped, [""; 0], "0 keeps everything");
    let done = round(&pool, keep(100)).await.unwrap();
    assert_eq!(done.dropped[0], month(150), "{done:?}");
    assert_eq!((done.default_rows, done.postponed.len()), (1, 0), "{done:?}");
    assert_eq!(entries(&pool).await, BTreeMap::from([("llm_requests_default".to_owned(), 2), (month(0), 1)]));
    // The youngest entry dropped was 120 days old.
    let whole_from = "select current_date - whole_from from ledger_coverage";
    let age: i32 = sqlx::query_scalar(whole_from).fetch_one(&pool).await.unwrap();
    assert_eq!(age, 119);
    for (days_ago, whole) in [(150, false), (120, false), (119, true), (0, true)] {
        let day = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date() - days_ago.days();
        let done = with_client(&pool, move |client| recompute_day(client, "acme", day)).await;
        assert_eq!(done.is_ok(), whole, "{days_ago}: {done:?}");
        assert!(whole || matches!(done, Err(AggregateError::NotWhole { .. })));
    }
    let again = round(&pool, keep(100)).await.unwrap();
    assert!(again.dropped.is_empty() && again.default_rows == 0, "{again:?}");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_partition_in_use_is_left_to_the_next_round(pool: PgPool) {
    make_partitions(&pool, Timestamp::now() - (150 * 24).hours()).await.unwrap();
    budget(&pool, "", "", "month", 1_000).await;
    entry(&pool, id_of(150, 1), 150).await;
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("select count(*) from llm_requests").execute(&mut *reader).await.unwrap();
    let done = round(&pool, keep(100)).await.unwrap();
    assert!(done.dropped.is_empty() && done.postponed.contains(&month(150)), "{done:?}");
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 1);
    assert_eq!(number(&pool, "select count(*) from ledger_coverage where whole_from = '-infinity'").await, 1);
    reader.rollback().await.unwrap();
    let done = round(&pool, keep(100)).await.unwrap();
    assert!(done.dropped.contains(&month(150)) && done.postponed.is_empty(), "{done:?}");
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_day_being_recomputed_keeps_its_detail(pool: PgPool) {
    make_partitions(&pool, Timestamp::now() - (150 * 24).hours()).await.unwrap();
    budget(&pool, "", "", "month", 1_000).await;
    entry(&pool, id_of(150, 1), 150).await;
    entry(&pool, Uuid::nil(), 150).await;
    // What a recomputation holds while it runs.
    let mut recomputing = pool.begin().await.unwrap();
    sqlx::query("select from ledger_coverage for share").execute(&mut *recomputing).await.unwrap();
    let done = round(&pool, keep(100)).await.unwrap();
    assert!(done.dropped.iter().all(|dropped| *dropped != month(150)) && done.default_rows == 0, "{done:?}");
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 2);
    recomputing.rollback().await.unwrap();
    round(&pool, keep(100)).await.unwrap();
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn settlements_go_on_while_partitions_come_and_go(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000_000).await;
    let writer = pool.clone();
    let writing = tokio::spawn(async move {
        let mut steps = steps(&writer);
        for batch in 0..30 {
            let items = (0..5).map(|item| settle(id(batch * 5 + item), 7)).collect();
            steps.step(items).await.unwrap();
        }
    });
    let mut months_ago = 5;
    while !writing.is_finished() {
        make_partitions(&pool, Timestamp::now() - (months_ago * 31 * 24).hours()).await.unwrap();
        round(&pool, keep(100)).await.unwrap();
        months_ago += 4;
    }
    writing.await.unwrap();
    assert!(months_ago > 5, "they ran side by side");
    assert_eq!(number(&pool, "select sum(cost_nanousd)::bigint from llm_requests").await, 30 * 5 * 7);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn old_verdicts_go(pool: PgPool) {
    for days_ago in [0, 89, 91, 400] {
        let sql = format!(
            "insert into verdicts_hourly (org, hour, team, user_name, provider, model, outcome, reason, budget_id, verdicts,
                                          most_needed_nanousd, last_hold_id, last_at)
             values ('acme', now() - {days_ago} * interval '1 day', '', '', '', '', 'denied', 'limit', 1, 1, 1, gen_random_uuid(), now())"
        );
        execute(&pool, &sql).await;
        let sql = format!(
            "insert into denials (org, hold_id, denied_at, team, user_name, provider, model, api, reason, calls, budget_id,
                                  tier, window_kind, message)
             values ('acme', gen_random_uuid(), now() - {days_ago} * interval '1 day', '', '', '', '', '', 'blocked', 1,
                     0, '', '', '')"
        );
        execute(&pool, &sql).await;
    }
    let rows = async || {
        let sql = "select (select count(*) from verdicts_hourly) * 100 + (select count(*) from denials)";
        number(&pool, sql).await
    };
    let for_ever = Retention { ledger_days: 0, denial_days: 0 };
    assert_eq!(round(&pool, for_ever).await.unwrap().denial_rows, 0);
    assert_eq!(rows().await, 404);
    let done = round(&pool, keep(0)).await.unwrap();
    assert_eq!((done.verdict_rows, done.denial_rows, rows().await), (2, 2, 202));
    let done = round(&pool, Retention { ledger_days: 0, denial_days: 10 }).await.unwrap();
    assert_eq!((done.verdict_rows, done.denial_rows, rows().await), (1, 1, 101));
}
