//! Keeps the ledger's storage in shape while traffic runs: makes partitions ahead, drops what is past
//! its retention. One replica at a time does it, hourly; whatever can't get its locks at once is left
//! to the next round, since a queue behind a waiting lock would hold up every settlement.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};
use uuid::Uuid;

use crate::db::DatabaseError;

/// Months of ledger partitions made ahead, after the running one.
const MONTHS_AHEAD: i64 = 3;

/// How long what is kept, days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The ledger's detail; 0 for ever.
    pub ledger_days: u32,
    /// Refusals, one by one and counted, and other verdicts; 0 for ever.
    pub denial_days: u32,
}

/// Rows deleted in one transaction.
const BATCH_ROWS: i64 = 10_000;

/// Batches deleted in one round.
const MAX_BATCHES: u32 = 100;

/// Pause between rounds.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Waits for the turn among replicas, which holds nobody else up; then for locks only as long as the
/// work that queues up behind may take. Looking through a month's detail takes longer than a check.
const TURN: [&str; 5] = [
    "set local statement_timeout = '10min'",
    "set local idle_in_transaction_session_timeout = '5s'",
    "set local lock_timeout = '5s'",
    "select pg_advisory_xact_lock(hashtext('purser.partitions'))",
    "set local lock_timeout = '300ms'",
];

/// What a round did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Partitions made.
    pub made: Vec<String>,
    /// Partitions dropped.
    pub dropped: Vec<String>,
    /// Ledger entries deleted from the default partition.
    pub default_rows: i64,
    /// Rows of `verdicts_hourly` deleted.
    pub verdict_rows: i64,
    /// Rows of `denials` deleted.
    pub denial_rows: i64,
    /// What is left to the next round, because somebody was using it.
    pub postponed: Vec<String>,
}

/// Runs a round at once and then every hour, until aborted.
pub async fn run(pool: PgPool, retention: Retention) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        match round(&pool, retention).await {
            Ok(done) if done == Round::default() => {}
            Ok(done) => tracing::info!(?done, "the ledger's storage was kept in shape"),
            Err(error) => tracing::error!(%error, "the ledger's storage could not be kept in shape"),
        }
    }
}

/// One round: partitions ahead, retention, old verdicts.
///
/// # Errors
/// [`DatabaseError`]; what was done before stays done.
pub async fn round(pool: &PgPool, retention: Retention) -> Result<Round, DatabaseError> {
    let now_unix_us: i64 =
        sqlx::query_scalar("select (extract(epoch from now()) * 1000000)::bigint").fetch_one(pool).await?;
    let mut done = Round::default();
    (done.made, done.postponed) = make_partitions(pool, Timestamp::from_microsecond(now_unix_us)?).await?;
    if retention.ledger_days > 0 {
        let cutoff_us = before(now_unix_us, retention.ledger_days);
        drop_partitions(pool, cutoff_us, &mut done).await?;
        for _ in 0..MAX_BATCHES {
            let deleted = patient(delete_default_rows(pool, cutoff_us).await)?;
            done.default_rows = done.default_rows.saturating_add(deleted.unwrap_or(0));
            if deleted.is_none() {
                done.postponed.push("llm_requests_default".to_owned());
            }
            if deleted.is_none_or(|deleted| deleted < BATCH_ROWS) {
                break;
            }
        }
    }
    if retention.denial_days > 0 {
        let cutoff_us = before(now_unix_us, retention.denial_days);
        done.verdict_rows = delete_old(pool, "verdicts_hourly", "hour", cutoff_us).await?;
        done.denial_rows = delete_old(pool, "denials", "denied_at", cutoff_us).await?;
    }
    Ok(done)
}

/// Deletes what is older, batch by batch; gives how many rows went.
async fn delete_old(
    pool: &PgPool,
    table: &'static str,
    column: &'static str,
    cutoff_us: i64,
) -> Result<i64, DatabaseError> {
    let mut gone = 0_i64;
    for _ in 0..MAX_BATCHES {
        let deleted = patient(delete_batch(pool, table, column, cutoff_us).await)?.unwrap_or(0);
        gone = gone.saturating_add(deleted);
        if deleted < BATCH_ROWS {
            break;
        }
    }
    Ok(gone)
}

fn before(now_unix_us: i64, days: u32) -> i64 {
    now_unix_us.saturating_sub(i64::from(days).saturating_mul(24 * 3_600 * 1_000_000))
}

/// Makes the partition of the running month and of those after it, where there is none. Gives the
/// names of those made, and of those that have to wait.
///
/// # Errors
/// [`DatabaseError`].
pub async fn make_partitions(
    pool: &PgPool,
    now: Timestamp,
) -> Result<(Vec<String>, Vec<String>), DatabaseError> {
    let (mut made, mut postponed) = (Vec::new(), Vec::new());
    let mut month = now.to_zoned_datetime(TimeZone::UTC).date().first_of_month();
    for _ in 0..=MONTHS_AHEAD {
        let next = month.checked_add(1.month())?;
        let name = format!("llm_requests_{}", month.strftime("y%Ym%m"));
        match patient(make_partition(pool, &name, first_id(month)?, first_id(next)?).await)? {
            Some(true) => made.push(name),
            Some(false) => {}
            None => postponed.push(name),
        }
        month = next;
    }
    Ok((made, postponed))
}

/// Makes one partition, unless its first id has one. Rows that came before it was there wait in the
/// default partition and move over.
async fn make_partition(pool: &PgPool, name: &str, from: Uuid, to: Uuid) -> sqlx::Result<bool> {
    let covered = |parts: &[Partition]| parts.iter().any(|part| part.from_id <= from && from < part.to_id);
    if covered(&partitions(&mut *pool.acquire().await?).await?) {
        return Ok(false);
    }
    let mut transaction = turn(pool).await?;
    if covered(&partitions(&mut transaction).await?) {
        return Ok(false);
    }
    // Nobody may add to the default partition between the move and the end. An insert that has chosen
    // it already, and waits, would be refused after the attachment; but that one holds a lock on the
    // ledger, so that this comes no further than here and gives way.
    run_sql(&mut transaction, "lock table llm_requests_default in access exclusive mode").await?;
    run_sql(&mut transaction, "lock table only llm_requests in share row exclusive mode").await?;
    // Identifiers and bounds can't be bound as parameters; all of them are made here from numbers.
    run_sql(&mut transaction, &format!("create table {name} (like llm_requests including all)")).await?;
    run_sql(
        &mut transaction,
        &format!(
            "with moved as (delete from llm_requests_default where hold_id >= '{from}' and hold_id < '{to}' returning *)
             insert into {name} select * from moved"
        ),
    )
    .await?;
    run_sql(
        &mut transaction,
        &format!("alter table llm_requests attach partition {name} for values from ('{from}') to ('{to}')"),
    )
    .await?;
    transaction.commit().await?;
    Ok(true)
}

/// A partition of the ledger, the default one apart.
struct Partition {
    /// Its name, quoted for SQL.
    name: String,
    from_id: Uuid,
    to_id: Uuid,
}

async fn partitions(conn: &mut PgConnection) -> sqlx::Result<Vec<Partition>> {
    let rows = sqlx::query(
        "select quote_ident(c.relname) as name, pg_get_expr(c.relpartbound, c.oid) as bounds
           from pg_inherits i join pg_class c on c.oid = i.inhrelid
          where i.inhparent = 'llm_requests'::regclass
          order by c.relname",
    )
    .fetch_all(conn)
    .await?;
    let mut partitions = Vec::new();
    for row in &rows {
        // The default partition has no bounds; one bounded on one side only is nobody's month.
        if let Some((from_id, to_id)) = bounds(row.try_get("bounds")?) {
            partitions.push(Partition { name: row.try_get("name")?, from_id, to_id });
        }
    }
    Ok(partitions)
}

/// Reads `FOR VALUES FROM ('…') TO ('…')`.
fn bounds(text: &str) -> Option<(Uuid, Uuid)> {
    let mut ids = text.split('\'').skip(1).step_by(2).map(Uuid::try_parse);
    match (ids.next(), ids.next()) {
        (Some(Ok(from)), Some(Ok(to))) => Some((from, to)),
        _ => None,
    }
}

/// Drops the partitions whose whole range lies before the cutoff.
async fn drop_partitions(pool: &PgPool, cutoff_us: i64, done: &mut Round) -> Result<(), DatabaseError> {
    let parts = partitions(&mut *pool.acquire().await?).await?;
    for part in parts {
        if id_unix_us(part.to_id) > cutoff_us {
            continue;
        }
        match patient(drop_partition(pool, &part.name, cutoff_us).await)? {
            Some(()) => done.dropped.push(part.name),
            None => done.postponed.push(part.name),
        }
    }
    Ok(())
}

/// Drops one partition. Ids come from the filters' clocks and dates from the database's: entries in it
/// that are younger than the cutoff by their own date stay, in the default partition.
async fn drop_partition(pool: &PgPool, name: &str, cutoff_us: i64) -> sqlx::Result<()> {
    let cutoff = instant(cutoff_us);
    let mut transaction = turn(pool).await?;
    // Keeps late entries out while it is looked through; reading goes on.
    run_sql(&mut transaction, &format!("lock table {name} in share mode")).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select ((max(occurred_at) filter (where occurred_at < {cutoff}) at time zone 'UTC')::date + 1)::text,
                count(*) filter (where occurred_at >= {cutoff})
           from {name}"
    )))
    .persistent(false)
    .fetch_one(&mut *transaction)
    .await?;
    let (whole_from, young): (Option<String>, i64) = (row.try_get(0)?, row.try_get(1)?);
    if young > 0 {
        let copy = "create temp table young_entries on commit drop as select * from";
        run_sql(&mut transaction, &format!("{copy} {name} where occurred_at >= {cutoff}")).await?;
    }
    // Before the drop: a recomputation of a day keeps this row from changing until it is done.
    move_coverage(&mut transaction, whole_from.as_deref()).await?;
    run_sql(&mut transaction, &format!("alter table llm_requests detach partition {name}")).await?;
    if young > 0 {
        run_sql(&mut transaction, "insert into llm_requests select * from young_entries").await?;
    }
    run_sql(&mut transaction, &format!("drop table {name}")).await?;
    transaction.commit().await
}

/// Deletes a batch of old entries from the default partition; gives how many went.
async fn delete_default_rows(pool: &PgPool, cutoff_us: i64) -> sqlx::Result<i64> {
    let cutoff = instant(cutoff_us);
    let mut transaction = turn(pool).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "with gone as (
             delete from llm_requests_default
              where ctid = any(array(select ctid from llm_requests_default where occurred_at < {cutoff} limit {BATCH_ROWS}))
             returning occurred_at)
         select count(*), ((max(occurred_at) at time zone 'UTC')::date + 1)::text from gone"
    )))
    .persistent(false)
    .fetch_one(&mut *transaction)
    .await?;
    let (deleted, whole_from): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    if deleted > 0 {
        move_coverage(&mut transaction, whole_from.as_deref()).await?;
    }
    transaction.commit().await?;
    Ok(deleted)
}

/// Says that the detail is whole from this day on at the earliest.
async fn move_coverage(conn: &mut PgConnection, whole_from: Option<&str>) -> sqlx::Result<()> {
    sqlx::query("update ledger_coverage set whole_from = greatest(whole_from, $1::text::date)")
        .bind(whole_from)
        .execute(conn)
        .await?;
    Ok(())
}

async fn delete_batch(
    pool: &PgPool,
    table: &'static str,
    column: &'static str,
    cutoff_us: i64,
) -> sqlx::Result<i64> {
    let sql = format!(
        "with gone as (
             delete from {table}
              where ctid = any(array(select ctid from {table} where {column} < {} limit {BATCH_ROWS}
                                        for update skip locked))
             returning 1)
         select count(*) from gone",
        instant(cutoff_us)
    );
    let mut transaction = turn(pool).await?;
    let deleted =
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).persistent(false).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(deleted)
}

/// A transaction in which it is this replica's turn.
async fn turn(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    for sql in TURN {
        run_sql(&mut transaction, sql).await?;
    }
    Ok(transaction)
}

async fn run_sql(conn: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).persistent(false).execute(conn).await?;
    Ok(())
}

/// `None` when somebody else had what was needed: nothing was changed, and the next round tries again.
fn patient<T>(result: sqlx::Result<T>) -> sqlx::Result<Option<T>> {
    // Lock not available; deadlock: whoever waits for this one in turn goes first.
    const BUSY: [&str; 2] = ["55P03", "40P01"];
    match result {
        Ok(value) => Ok(Some(value)),
        Err(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| BUSY.contains(&code.as_ref())) =>
        {
            tracing::info!(%error, "left to the next round");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An instant as SQL.
fn instant(unix_us: i64) -> String {
    format!("(timestamptz 'epoch' + {unix_us} * interval '1 microsecond')")
}

/// The smallest UUIDv7 whose time lies on or after the first instant of a UTC day.
fn first_id(day: Date) -> Result<Uuid, jiff::Error> {
    let unix_ms = day.to_zoned_datetime(TimeZone::UTC)?.timestamp().as_millisecond();
    Ok(Uuid::from_u128(u128::try_from(unix_ms).unwrap_or(0) << 80))
}

/// The time inside a UUIDv7, microseconds since the Unix epoch.
fn id_unix_us(id: Uuid) -> i64 {
    i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_starts_at_its_first_id() {
        let first = first_id(jiff::civil::date(2026, 11, 1)).unwrap();
        // 2026-11-01T00:00:00Z is 1_793_491_200_000 ms.
        assert_eq!(first, Uuid::from_u128(1_793_491_200_000 << 80));
        assert_eq!(id_unix_us(first), 1_793_491_200_000_000);
        assert!(first < first_id(jiff::civil::date(2026, 12, 1)).unwrap());
    }

    #[test]
    fn bounds_are_read_as_the_catalogue_says_them() {
        let text = "FOR VALUES FROM ('019a3c6f-5c00-0000-0000-000000000000') TO ('019ad6d0-6000-0000-0000-000000000000')";
        let (from, to) = bounds(text).unwrap();
        assert_eq!(from.to_string(), "019a3c6f-5c00-0000-0000-000000000000");
        assert_eq!(to.to_string(), "019ad6d0-6000-0000-0000-000000000000");
        for other in ["DEFAULT", "FOR VALUES FROM (MINVALUE) TO ('019ad6d0-6000-0000-0000-000000000000')", ""]
        {
            assert!(bounds(other).is_none(), "{other}");
        }
    }
}
