//! Who is known by what, in the database.

use purser_protocol::{Claim, ClaimKind, Payer};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::Editor;
use super::policies::begin_edit;
use crate::identity::{Identities, kind_from_name};

/// The channel on which a change is told.
pub const CHANNEL: &str = "purser_identities";

/// Most identities kept in memory, the oldest first.
const MAX_IDENTITIES: i64 = 200_000;

/// An identity.
#[derive(Debug, Clone)]
pub struct IdentityRow {
    /// Its number.
    pub identity_id: i64,
    /// What is shown.
    pub claim: Claim,
    /// Who pays.
    pub payer: Payer,
    /// When it was made known, Unix seconds.
    pub created_at_unix_s: i64,
}

const COLUMNS: &str = "identity_id, kind, value, org, team, user_name,
    extract(epoch from created_at)::bigint as created_unix_s";

fn identity(row: &PgRow) -> sqlx::Result<IdentityRow> {
    let kind: String = row.try_get("kind")?;
    let named = |name: String| (!name.is_empty()).then_some(name);
    Ok(IdentityRow {
        identity_id: row.try_get("identity_id")?,
        claim: Claim {
            kind: kind_from_name(&kind).unwrap_or(ClaimKind::Other),
            value: row.try_get("value")?,
        },
        payer: Payer {
            org: row.try_get("org")?,
            team: named(row.try_get("team")?),
            user: named(row.try_get("user_name")?),
        },
        created_at_unix_s: row.try_get("created_unix_s")?,
    })
}

/// Reads all that count.
///
/// # Errors
/// The database's.
pub async fn identities(pool: &PgPool) -> sqlx::Result<Identities> {
    let sql = format!(
        "select {COLUMNS} from identities where archived_at is null order by identity_id limit {}",
        MAX_IDENTITIES + 1
    );
    let mut transaction = pool.begin().await?;
    // It may be a long list, and no caller waits for it.
    sqlx::query("set local statement_timeout = '30s'").execute(&mut *transaction).await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    if i64::try_from(rows.len()).is_ok_and(|rows| rows > MAX_IDENTITIES) {
        tracing::error!(kept = MAX_IDENTITIES, "there are too many identities; the latest name nobody");
    }
    let kept = usize::try_from(MAX_IDENTITIES).unwrap_or(usize::MAX);
    rows.iter().take(kept).map(|row| identity(row).map(|row| (row.claim, row.payer))).collect()
}

/// Makes an identity known; `None` when the claim names somebody already.
///
/// # Errors
/// The database's.
pub async fn create(
    pool: &PgPool,
    editor: &Editor,
    claim: &Claim,
    payer: &Payer,
) -> sqlx::Result<Option<IdentityRow>> {
    let mut transaction = begin_edit(pool, editor).await?;
    let sql = format!(
        "insert into identities (org, kind, value, team, user_name) values ($1, $2, $3, $4, $5)
         on conflict do nothing returning {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&payer.org)
        .bind(claim.kind.as_str())
        .bind(&claim.value)
        .bind(payer.team.as_deref().unwrap_or_default())
        .bind(payer.user.as_deref().unwrap_or_default())
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    row.as_ref().map(identity).transpose()
}

/// The identities of an org, of one team alone where one is given, by number from after `after` on.
///
/// # Errors
/// The database's.
pub async fn page(
    pool: &PgPool,
    (org, team): (&str, Option<&str>),
    kind: Option<ClaimKind>,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<IdentityRow>> {
    let sql = format!(
        "select {COLUMNS} from identities
          where org = $1 and archived_at is null and identity_id > $3 and ($2::text is null or kind = $2)
            and ($5::text is null or team = $5)
          order by identity_id limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(org)
        .bind(kind.map(ClaimKind::as_str))
        .bind(after)
        .bind(limit)
        .bind(team)
        .fetch_all(pool)
        .await?;
    rows.iter().map(identity).collect()
}

/// Whom an identity names.
///
/// # Errors
/// The database's.
pub async fn payer(pool: &PgPool, identity_id: i64) -> sqlx::Result<Option<Payer>> {
    let sql = format!("select {COLUMNS} from identities where identity_id = $1 and archived_at is null");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(identity_id).fetch_optional(pool).await?;
    row.map(|row| identity(&row).map(|row| row.payer)).transpose()
}

/// Makes an identity name nobody from now on; `false` when there is none of that number.
///
/// # Errors
/// The database's.
pub async fn archive(pool: &PgPool, editor: &Editor, identity_id: i64) -> sqlx::Result<bool> {
    let mut transaction = begin_edit(pool, editor).await?;
    let done = sqlx::query(
        "update identities set archived_at = now() where identity_id = $1 and archived_at is null",
    )
    .bind(identity_id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}
