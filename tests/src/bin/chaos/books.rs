//! The books as the database has them.

use sqlx::FromRow;
use sqlx::postgres::PgPool;

use crate::audit::{Entry, Hold};

/// Every entry of the ledger, with the number of the call it is about.
pub async fn entries(pool: &PgPool) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as(
        "SELECT org, hold_id::text AS hold_id, entry, (tags->>'call')::bigint AS call, cost_nanousd, cause,
            usage_quality, admission
           FROM llm_requests ORDER BY org, hold_id, entry",
    )
    .fetch_all(pool)
    .await
}

/// Every hold that was ever committed: tombstones outlive a run.
pub async fn holds(pool: &PgPool) -> sqlx::Result<Vec<Hold>> {
    sqlx::query_as("SELECT (tags->>'call')::bigint AS call, hold_id::text AS hold_id, state FROM holds")
        .fetch_all(pool)
        .await
}

/// How many holds are open.
pub async fn open_holds(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM holds WHERE state = 'open'").fetch_one(pool).await
}

/// Settlements that the ledger refused, with the reason.
pub async fn quarantined(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT hold_id || ': ' || reason FROM quarantined_settlements").fetch_all(pool).await
}

/// A strict budget that is over its limit.
#[derive(FromRow)]
struct Over {
    team: String,
    spent_nanousd: i64,
    held_nanousd: i64,
    limit_nanousd: i64,
}

/// Strict budgets whose spent and held money is more than their limit, in words.
pub async fn strict_over_limit(pool: &PgPool) -> sqlx::Result<Vec<String>> {
    let over: Vec<Over> = sqlx::query_as(
        "SELECT b.team, c.spent_nanousd, c.held_nanousd, b.limit_nanousd
           FROM budget_counters c JOIN budgets b USING (org, budget_id)
          WHERE b.strict AND c.spent_nanousd + c.held_nanousd > b.limit_nanousd",
    )
    .fetch_all(pool)
    .await?;
    let say = |over: Over| {
        let Over { team, spent_nanousd, held_nanousd, limit_nanousd } = over;
        format!("team {team}: spent {spent_nanousd}, held {held_nanousd}, limit {limit_nanousd} nano-USD")
    };
    Ok(over.into_iter().map(say).collect())
}
