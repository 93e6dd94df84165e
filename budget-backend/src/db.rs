//! Where the two ways to the database are made: the async pool for checks and the sync client for
//! cost writes. One `DATABASE_URL`, the same session limits, different needs: a check has a caller
//! waiting for it, a cost write has not (see `docs/adr/0001-async-checks-sync-cost-writes.md`).

use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, migrate::Migrator};
use uuid::Uuid;

use crate::config::DatabaseConfig;

/// The schema, in the order it grew.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Months of ledger partitions made ahead, the running one included.
const MONTHS_AHEAD: i64 = 3;

/// Session limits, milliseconds: a process that freezes inside a transaction must not keep an org's
/// counters locked, and nothing waits for ever.
const CHECK_LIMITS_MS: [(&str, &str); 3] = [
    ("lock_timeout", "2000"),
    ("statement_timeout", "5000"),
    ("idle_in_transaction_session_timeout", "5000"),
];

/// Longest wait for one connection attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The tracker's batches are larger and nobody waits for them.
const TRACKER_LIMITS: &str =
    "-c lock_timeout=5000 -c statement_timeout=30000 -c idle_in_transaction_session_timeout=5000";

/// The database could not be reached or prepared.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection within the time configured.
    #[error("the database could not be reached within {waited_s} s ({attempts} attempts): {source}")]
    Unreachable {
        /// How long was tried, seconds.
        waited_s: u64,
        /// How often.
        attempts: u32,
        /// What the last attempt said.
        source: sqlx::Error,
    },
    /// A migration failed.
    #[error("the schema could not be migrated: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Something else.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The clock is outside the calendar.
    #[error("the clock is outside the calendar: {0}")]
    Clock(#[from] jiff::Error),
}

/// Opens the pool, trying again with growing pauses until the configured time is up.
///
/// # Errors
/// [`DatabaseError::Unreachable`].
pub async fn connect(config: &DatabaseConfig) -> Result<PgPool, DatabaseError> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(100);
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        match pool(config).await {
            Ok(pool) => return Ok(pool),
            Err(source) => {
                let left = config.connect_timeout.saturating_sub(started.elapsed());
                if left.is_zero() {
                    return Err(DatabaseError::Unreachable {
                        waited_s: started.elapsed().as_secs(),
                        attempts,
                        source,
                    });
                }
                tracing::warn!(error = %source, attempts, left_s = left.as_secs(), "the database is not reachable yet");
                tokio::time::sleep(pause.min(left)).await;
                pause = pause.saturating_mul(2).min(Duration::from_secs(5));
            }
        }
    }
}

async fn pool(config: &DatabaseConfig) -> sqlx::Result<PgPool> {
    // One connection by itself first: a pool would report a refused one as a time-out.
    let connect = PgConnection::connect_with(&config.checks);
    let connection = tokio::time::timeout(CONNECT_LIMIT, connect).await;
    connection.map_err(|_| sqlx::Error::PoolTimedOut)??.close().await?;
    let pool = PgPoolOptions::new()
        .min_connections(config.pool_min)
        .max_connections(config.pool_max)
        // A hold's caller waits a quarter of a second; a longer queue for connections helps nobody.
        .acquire_timeout(CONNECT_LIMIT)
        .connect_lazy_with(check_options(&config.checks));
    tokio::spawn(fill(pool.clone(), config.pool_min));
    Ok(pool)
}

/// Opens the minimum of connections at start, one after another: all at once would time out on a busy
/// database, and none would leave the first holds to wait for a log-in each.
async fn fill(pool: PgPool, connections: u32) {
    let mut open = Vec::new();
    for _ in 0..connections {
        match pool.acquire().await {
            Ok(connection) => open.push(connection),
            Err(error) => return tracing::warn!(%error, "the pool could not be filled; it grows when needed"),
        }
    }
}

fn check_options(database: &PgConnectOptions) -> PgConnectOptions {
    database.clone().application_name("purser-checks").options(CHECK_LIMITS_MS)
}

/// The sync client's options, from the same URL.
#[must_use]
pub fn tracker_config(config: &DatabaseConfig) -> postgres::Config {
    let mut database = config.tracker.clone();
    database
        .application_name("purser-tracker")
        .options(TRACKER_LIMITS)
        .connect_timeout(CONNECT_LIMIT)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        // Nothing is heard from a dead server otherwise until the kernel gives up, many minutes later.
        .tcp_user_timeout(Duration::from_secs(30));
    database
}

/// Brings the schema up to date and makes the ledger's next partitions. Safe to run by several
/// replicas at once.
///
/// # Errors
/// [`DatabaseError`].
pub async fn migrate(pool: &PgPool) -> Result<(), DatabaseError> {
    MIGRATIONS.run(pool).await?;
    make_partitions(pool, Timestamp::now()).await
}

async fn make_partitions(pool: &PgPool, now: Timestamp) -> Result<(), DatabaseError> {
    let mut transaction = pool.begin().await?;
    // One replica at a time: IF NOT EXISTS alone still races.
    sqlx::query("select pg_advisory_xact_lock(hashtext('purser.partitions'))")
        .execute(&mut *transaction)
        .await?;
    let mut month = now.to_zoned_datetime(TimeZone::UTC).date().first_of_month();
    for _ in 0..MONTHS_AHEAD {
        let next = month.checked_add(1.month())?;
        // Identifiers and bounds can't be bound as parameters; all three are made here from numbers.
        let sql = format!(
            "create table if not exists llm_requests_{} partition of llm_requests for values from ('{}') to ('{}')",
            month.strftime("y%Ym%m"),
            first_id(month)?,
            first_id(next)?
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        month = next;
    }
    transaction.commit().await?;
    Ok(())
}

/// The smallest UUIDv7 whose time lies on or after the first instant of a UTC day.
fn first_id(day: Date) -> Result<Uuid, jiff::Error> {
    let unix_ms = day.to_zoned_datetime(TimeZone::UTC)?.timestamp().as_millisecond();
    Ok(Uuid::from_u128(u128::try_from(unix_ms).unwrap_or(0) << 80))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_starts_at_its_first_id() {
        let first = first_id(jiff::civil::date(2026, 11, 1)).unwrap();
        // 2026-11-01T00:00:00Z is 1_793_491_200_000 ms.
        assert_eq!(first, Uuid::from_u128(1_793_491_200_000 << 80));
        assert!(first < first_id(jiff::civil::date(2026, 12, 1)).unwrap());
    }
}
