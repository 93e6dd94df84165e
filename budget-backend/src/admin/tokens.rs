//! Tokens in the database: made, listed, taken back, read into memory.

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::Editor;
use super::policies::begin_edit;
use crate::access::book::TokenBook;
use crate::access::token::Fingerprint;
use crate::access::{Caller, EVERY_ORG, KnownToken, Reach, Role};

/// The channel on which a change is told.
pub const CHANNEL: &str = "purser_tokens";

/// Tokens that may be good at a time: all of them are kept in memory.
pub const MAX_TOKENS: i64 = 10_000;

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Whose it is, or what for.
    pub name: String,
    /// What it may.
    pub role: Role,
    /// Where.
    pub reach: Reach,
    /// For how many days; `None`: until it is taken back.
    pub days: Option<i32>,
}

/// A token; instants in Unix seconds.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// Its number.
    pub token_id: i64,
    /// Whose it is, or what for.
    pub name: String,
    /// What it may.
    pub role: Role,
    /// Where.
    pub reach: Reach,
    /// When it was made.
    pub created_at_unix_s: i64,
    /// From when on it is worth nothing.
    pub expires_at_unix_s: Option<i64>,
    /// When it was taken back.
    pub revoked_at_unix_s: Option<i64>,
    /// When it was last used.
    pub last_used_at_unix_s: Option<i64>,
}

const COLUMNS: &str = "token_id, name, role, org, team, extract(epoch from created_at)::bigint as created_unix_s,
    extract(epoch from expires_at)::bigint as expires_unix_s, extract(epoch from revoked_at)::bigint as revoked_unix_s,
    extract(epoch from last_used_at)::bigint as used_unix_s";

/// Those that are good.
const GOOD: &str = "revoked_at is null and (expires_at is null or expires_at > now())";

fn token(row: &PgRow) -> sqlx::Result<TokenRow> {
    let role: String = row.try_get("role")?;
    let (org, team): (String, String) = (row.try_get("org")?, row.try_get("team")?);
    Ok(TokenRow {
        token_id: row.try_get("token_id")?,
        name: row.try_get("name")?,
        role: Role::from_name(&role)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown role {role}").into()))?,
        reach: Reach { org: (org != EVERY_ORG).then_some(org), team: (!team.is_empty()).then_some(team) },
        created_at_unix_s: row.try_get("created_unix_s")?,
        expires_at_unix_s: row.try_get("expires_unix_s")?,
        revoked_at_unix_s: row.try_get("revoked_unix_s")?,
        last_used_at_unix_s: row.try_get("used_unix_s")?,
    })
}

/// Reads all that are good.
///
/// # Errors
/// The database's.
pub async fn book(pool: &PgPool) -> sqlx::Result<TokenBook> {
    let sql = format!("select {COLUMNS}, token_sha256 from tokens where {GOOD} order by token_id limit $1");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(MAX_TOKENS).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            let hash: Vec<u8> = row.try_get("token_sha256")?;
            let hash: Fingerprint =
                hash.try_into().map_err(|_| sqlx::Error::Decode("a hash of another length".into()))?;
            let TokenRow { token_id, name, role, reach, expires_at_unix_s, .. } = token(row)?;
            let caller = Caller { token_id: Some(token_id), name, role, reach };
            Ok((hash, KnownToken { caller, expires_at_unix_s }))
        })
        .collect()
}

/// Makes a token known by its hash; `None` when there are too many.
///
/// # Errors
/// The database's.
pub async fn create(
    pool: &PgPool,
    editor: &Editor,
    new: &NewToken,
    hash: &Fingerprint,
) -> sqlx::Result<Option<TokenRow>> {
    let mut transaction = begin_edit(pool, editor).await?;
    let sql = format!(
        "insert into tokens (name, role, org, team, token_sha256, expires_at)
         select $1, $2, $3, $4, $5, now() + $6 * interval '1 day'
          where (select count(*) from tokens where {GOOD}) < $7
         returning {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&new.name)
        .bind(new.role.as_str())
        .bind(new.reach.org.as_deref().unwrap_or(EVERY_ORG))
        .bind(new.reach.team.as_deref().unwrap_or_default())
        .bind(&hash[..])
        .bind(new.days)
        .bind(MAX_TOKENS)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    row.as_ref().map(token).transpose()
}

/// Tokens by number from after `after` on.
///
/// # Errors
/// The database's.
pub async fn page(pool: &PgPool, after: i64, limit: i64) -> sqlx::Result<Vec<TokenRow>> {
    let sql = format!("select {COLUMNS} from tokens where token_id > $1 order by token_id limit $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(limit).fetch_all(pool).await?;
    rows.iter().map(token).collect()
}

/// Takes a token back: every replica refuses it a moment later. `false` when none of that number is good.
///
/// # Errors
/// The database's.
pub async fn revoke(pool: &PgPool, editor: &Editor, token_id: i64) -> sqlx::Result<bool> {
    let mut transaction = begin_edit(pool, editor).await?;
    let sql = format!("update tokens set revoked_at = now() where token_id = $1 and {GOOD}");
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(token_id).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Notes when tokens were used: number and Unix seconds.
///
/// # Errors
/// The database's.
pub async fn used(pool: &PgPool, uses: &[(i64, i64)]) -> sqlx::Result<()> {
    let (ids, times): (Vec<i64>, Vec<i64>) = uses.iter().copied().unzip();
    sqlx::query(
        "update tokens t set last_used_at = greatest(t.last_used_at, to_timestamp(u.at))
           from unnest($1::bigint[], $2::bigint[]) as u (token_id, at) where t.token_id = u.token_id",
    )
    .bind(&ids)
    .bind(&times)
    .execute(pool)
    .await
    .map(drop)
}
