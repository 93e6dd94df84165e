//! Creates that were done under an `Idempotency-Key`, and what was answered. A key is written in the
//! transaction of the edit itself, so that the two can't part; its answer is added afterwards.

use sqlx::{PgPool, Row};

/// How long a key is remembered, hours.
pub const LIFE_HOURS: i32 = 24;

/// Keys remembered; beyond, the oldest are forgotten.
const MAX_KEYS: i64 = 100_000;

/// The constraint that a second request with a key meets while the first runs.
const CONSTRAINT: &str = "idempotency_keys_pkey";

/// A request under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Who asks.
    pub caller: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the request.
    pub request_sha256: Vec<u8>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: i32,
    /// The `ETag`, if there was one.
    pub etag: Option<String>,
    /// The body.
    pub body: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Fresh,
    /// It went with another request.
    Other,
    /// It was carried out, and this was answered, if it was kept.
    Done(Option<Answer>),
}

/// Whether an edit failed because one with the same key runs or ran.
#[must_use]
pub fn is_running(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.constraint() == Some(CONSTRAINT))
}

/// Looks a key up.
///
/// # Errors
/// The database's.
pub async fn find(pool: &PgPool, key: &Key) -> sqlx::Result<Known> {
    let row = sqlx::query(
        "select request_sha256, status, etag, answer from idempotency_keys
          where caller = $1 and key = $2 and made_at > now() - $3 * interval '1 hour'",
    )
    .bind(&key.caller)
    .bind(&key.key)
    .bind(LIFE_HOURS)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(Known::Fresh) };
    if row.try_get::<Vec<u8>, _>("request_sha256")? != key.request_sha256 {
        return Ok(Known::Other);
    }
    let (status, body): (Option<i32>, Option<String>) = (row.try_get("status")?, row.try_get("answer")?);
    let etag = row.try_get("etag")?;
    Ok(Known::Done(status.zip(body).map(|(status, body)| Answer { status, etag, body })))
}

/// Notes a key in an edit's transaction; a second one waits here for the first, and fails if that is
/// committed.
///
/// # Errors
/// The database's; see [`is_running`].
pub async fn note(connection: &mut sqlx::PgConnection, key: &Key) -> sqlx::Result<()> {
    // One whose day is over may be used again.
    sqlx::query(
        "delete from idempotency_keys
          where caller = $1 and key = $2 and made_at <= now() - $3 * interval '1 hour'",
    )
    .bind(&key.caller)
    .bind(&key.key)
    .bind(LIFE_HOURS)
    .execute(&mut *connection)
    .await?;
    sqlx::query("insert into idempotency_keys (caller, key, request_sha256) values ($1, $2, $3)")
        .bind(&key.caller)
        .bind(&key.key)
        .bind(&key.request_sha256)
        .execute(connection)
        .await
        .map(drop)
}

/// Adds what was answered. Does nothing for a key that no edit noted.
///
/// # Errors
/// The database's.
pub async fn keep(pool: &PgPool, key: &Key, answer: &Answer) -> sqlx::Result<()> {
    sqlx::query(
        "update idempotency_keys set status = $4, etag = $5, answer = $6
          where caller = $1 and key = $2 and request_sha256 = $3 and status is null",
    )
    .bind(&key.caller)
    .bind(&key.key)
    .bind(&key.request_sha256)
    .bind(answer.status)
    .bind(&answer.etag)
    .bind(&answer.body)
    .execute(pool)
    .await
    .map(drop)
}

/// Forgets those whose day is over, and the oldest of too many.
///
/// # Errors
/// The database's.
pub async fn forget(pool: &PgPool) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from idempotency_keys
          where made_at <= greatest(
              now() - $1 * interval '1 hour',
              (select made_at from idempotency_keys order by made_at desc offset $2 limit 1))",
    )
    .bind(LIFE_HOURS)
    .bind(MAX_KEYS)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
