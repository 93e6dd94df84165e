//! Where the two ways to the database are made: the async pool for checks and the sync client for
//! cost writes. One `DATABASE_URL`, the same session limits, different needs: a check has a caller
//! waiting for it, a cost write has not (see `docs/adr/0001-async-checks-sync-cost-writes.md`).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, migrate::MigrateError, migrate::Migrator};

use crate::config::DatabaseConfig;
use crate::maintain;

mod sync;
mod verifier;

pub use sync::{ConnectError, SyncConfig, UrlError};

/// The schema, in the order it grew.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Session limits, milliseconds: a process that freezes inside a transaction loses its locks on an
/// org's counters about when the holds that wait for them give up, and nothing waits for ever. The
/// keepalives end the sessions of a host that is gone.
const CHECK_LIMITS_MS: [(&str, &str); 7] = [
    ("lock_timeout", "500"),
    ("statement_timeout", "1000"),
    ("idle_in_transaction_session_timeout", "500"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

/// Longest wait for one connection attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The tracker's batches are larger and nobody waits for them.
const TRACKER_LIMITS: &str = "-c lock_timeout=5000 -c statement_timeout=30000 -c idle_in_transaction_session_timeout=500 \
     -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=15000";

/// A migration may take its time over the rows it changes, but not over a lock that others queue behind.
const MIGRATION_LIMITS_MS: [(&str, &str); 3] = [
    ("lock_timeout", "2000"),
    ("statement_timeout", "1800000"),
    ("idle_in_transaction_session_timeout", "60000"),
];

/// How long a replica waits for its locks, and for another one's migration, before it gives up.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);

/// An operator's command may read everything there is, and gives up in the end all the same.
const COMMAND_LIMITS_MS: [(&str, &str); 3] = [
    ("lock_timeout", "30000"),
    ("statement_timeout", "3600000"),
    ("idle_in_transaction_session_timeout", "60000"),
];

/// The same for the sync client.
const COMMAND_LIMITS: &str =
    "-c lock_timeout=30000 -c statement_timeout=3600000 -c idle_in_transaction_session_timeout=60000";

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
pub fn tracker_config(config: &DatabaseConfig) -> SyncConfig {
    let mut database = config.tracker.clone();
    database
        .options
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

/// The sync client's options for an operator's command, from the same URL.
#[must_use]
pub fn command_config(config: &DatabaseConfig) -> SyncConfig {
    let mut database = tracker_config(config);
    database.options.application_name("purser-command").options(COMMAND_LIMITS);
    database
}

/// One connection for an operator's command, with a command's limits.
///
/// # Errors
/// The database's; a time-out when it doesn't answer.
pub async fn connect_command(config: &DatabaseConfig) -> sqlx::Result<PgConnection> {
    let options = config.checks.clone().application_name("purser-command").options(COMMAND_LIMITS_MS);
    let connect = PgConnection::connect_with(&options);
    tokio::time::timeout(CONNECT_LIMIT, connect).await.map_err(|_| sqlx::Error::PoolTimedOut)?
}

/// Brings the schema up to date and makes the ledger's next partitions. Safe to run by several
/// replicas at once.
///
/// # Errors
/// [`DatabaseError`].
pub async fn migrate(pool: &PgPool) -> Result<(), DatabaseError> {
    run_migrations(pool).await?;
    // Those that can't be made now wait: the default partition takes their rows meanwhile.
    let (_made, postponed) = maintain::make_partitions(pool, Timestamp::now()).await?;
    if !postponed.is_empty() {
        tracing::warn!(?postponed, "partitions of the ledger are made later; others were using it");
    }
    Ok(())
}

/// Runs what is missing on a connection of its own, with limits of its own. What a lock kept from
/// being done was rolled back, and is tried again.
async fn run_migrations(pool: &PgPool) -> Result<(), DatabaseError> {
    let options = pool.connect_options().as_ref().clone();
    let options = options.application_name("purser-migrations").options(MIGRATION_LIMITS_MS);
    let started = Instant::now();
    loop {
        let mut connection = PgConnection::connect_with(&options).await?;
        let done = MIGRATIONS.run(&mut connection).await;
        // Closed whatever became of it: a failed run leaves its lock with the connection.
        let closed = connection.close().await;
        match done {
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if is_lock_timeout(&error) && started.elapsed() < MIGRATION_PATIENCE =>
            {
                tracing::warn!(%error, "others are using the tables; the migration is tried again");
            }
            done => return Ok(done.map(|()| closed)??),
        }
    }
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
