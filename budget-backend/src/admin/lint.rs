//! What the lint reads: budgets, and whom and what the rollup has lately.

use std::collections::BTreeMap;

use purser_protocol::Payer;
use sqlx::{PgPool, Row};

use super::{MAX_ROWS, budgets_of};
use crate::ledger::counters::names;
use crate::lint::Used;

/// Whether a budget is older than `$2` days and whether the rollup has calls of its place and models since.
const USED: &str = concat!(
    r"
    select b.budget_id, b.created_at < now() - $2 * interval '1 day' as is_old,
           exists (select from (
                    select d.provider, d.model from cost_daily_summary d
                     where d.org = b.org and d.day >= (now() at time zone 'UTC')::date - $2
                       and (b.team = '' or d.team = b.team or (b.team = '*' and d.team <> ''))
                       and (b.user_name = '' or d.user_name = b.user_name or (b.user_name = '*' and d.user_name <> ''))
                     group by 1, 2) s
                    where b.models = '{}' or exists (select from (values (1)) one",
    names!(),
    r"                where n4.name ilike any (p.models))) as is_touched
      from budgets b
     cross join lateral (
           select array(select replace(replace(replace(replace(replace(
                               m, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'), '?', '_')
                          from unnest(b.models) m) as models) p
     where b.org = $1 and b.archived_at is null"
);

/// The active budgets of an org with what use they were in the last days, who was charged in them, and
/// the database's clock, Unix seconds.
///
/// # Errors
/// The database's.
pub async fn used(pool: &PgPool, org: &str, days: i32) -> sqlx::Result<(Vec<Used>, Vec<Payer>, i64)> {
    let (now_unix_s, budgets) = budgets_of(pool, org).await?;
    let rows = sqlx::query(USED).bind(org).bind(days).fetch_all(pool).await?;
    let uses = rows
        .iter()
        .map(|row| Ok((row.try_get("budget_id")?, (row.try_get("is_old")?, row.try_get("is_touched")?))));
    let uses: BTreeMap<i64, (bool, bool)> = uses.collect::<sqlx::Result<_>>()?;
    let budgets = budgets.into_iter().filter_map(|row| {
        // One that was made or ended between the two questions is left out.
        let (is_old, is_touched) = *uses.get(&row.budget_id)?;
        Some(Used { row, is_old, is_touched })
    });
    let payers = sqlx::query(
        "select distinct team, user_name from cost_daily_summary
          where org = $1 and day >= (now() at time zone 'UTC')::date - $2 order by 1, 2 limit $3",
    )
    .bind(org)
    .bind(days)
    .bind(MAX_ROWS)
    .fetch_all(pool)
    .await?;
    let named = |name: String| (!name.is_empty()).then_some(name);
    let payers = payers.iter().map(|row| {
        Ok(Payer {
            org: org.to_owned(),
            team: named(row.try_get("team")?),
            user: named(row.try_get("user_name")?),
        })
    });
    Ok((budgets.collect(), payers.collect::<sqlx::Result<_>>()?, now_unix_s))
}
