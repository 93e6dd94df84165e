//! The audit log that every edit leaves. It is written by triggers and only ever added to.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};

/// One line of the audit log.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Its number; larger is later.
    pub audit_id: i64,
    /// When, Unix seconds.
    pub at_unix_s: i64,
    /// Who.
    pub actor: String,
    /// `insert`, `update` or `delete`.
    pub action: String,
    /// The table edited.
    pub object: String,
    /// The row before.
    pub before: Option<serde_json::Value>,
    /// The row after.
    pub after: Option<serde_json::Value>,
}

/// Which lines.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Of which org.
    pub org: String,
    /// Edits of what is this team's.
    pub team: Option<String>,
    /// By whom.
    pub actor: Option<String>,
    /// `insert`, `update` or `delete`.
    pub action: Option<String>,
    /// The table edited.
    pub object: Option<String>,
    /// From this instant on, Unix microseconds.
    pub from_unix_us: Option<i64>,
    /// Before this instant, Unix microseconds.
    pub to_unix_us: Option<i64>,
    /// Before this number.
    pub before: i64,
    /// Most lines.
    pub limit: i64,
}

/// Lines, the latest first. A line belongs to the team of its row, or to that of its row's budget.
///
/// # Errors
/// The database's.
pub async fn page(pool: &PgPool, asked: &Asked) -> sqlx::Result<Vec<AuditRow>> {
    let mut transaction = pool.begin().await?;
    // Few of a long log may fit.
    sqlx::query("set local statement_timeout = '10s'").execute(&mut *transaction).await?;
    let rows = sqlx::query(
        "select audit_id, extract(epoch from at)::bigint as at_unix_s, actor, action, object, before, after
           from audit_log a
          where org = $1 and audit_id < $2
            and ($3::text is null or $3 = coalesce(
                    coalesce(after, before) ->> 'team',
                    (select b.team from budgets b
                      where b.org = a.org and b.budget_id = (coalesce(a.after, a.before) ->> 'budget_id')::bigint)))
            and ($4::text is null or actor = $4) and ($5::text is null or action = $5)
            and ($6::text is null or object = $6)
            and ($7::bigint is null or at >= timestamptz 'epoch' + $7 * interval '1 microsecond')
            and ($8::bigint is null or at < timestamptz 'epoch' + $8 * interval '1 microsecond')
          order by audit_id desc limit $9",
    )
    .bind(&asked.org)
    .bind(asked.before)
    .bind(&asked.team)
    .bind(&asked.actor)
    .bind(&asked.action)
    .bind(&asked.object)
    .bind(asked.from_unix_us)
    .bind(asked.to_unix_us)
    .bind(asked.limit)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    rows.iter().map(line).collect()
}

fn line(row: &PgRow) -> sqlx::Result<AuditRow> {
    let json = |column: &str| -> sqlx::Result<Option<serde_json::Value>> {
        Ok(row.try_get::<Option<Json<_>>, _>(column)?.map(|Json(value)| value))
    };
    Ok(AuditRow {
        audit_id: row.try_get("audit_id")?,
        at_unix_s: row.try_get("at_unix_s")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        before: json("before")?,
        after: json("after")?,
    })
}
