//! The operators' edits of budgets, and their pages.

use std::collections::BTreeMap;

use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Row};

use super::policies::begin_edit;
use super::{BUDGET_COLUMNS, BudgetRow, Editor, NewBudget, Standing, budget_row, by_budget};
use crate::budget::{EACH, Mode, Scope};
use crate::ladder::Ladder;

/// What to change in a budget; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct BudgetChange {
    /// The limit, nano-USD.
    pub limit_nanousd: Option<i64>,
    /// Whether it refuses or only notes.
    pub mode: Option<Mode>,
    /// Whether holds are the upper bound of what a call may cost.
    pub strict: Option<bool>,
    /// What it does before it refuses, whole.
    pub ladder: Option<Ladder>,
}

/// What became of a change.
#[derive(Debug, Clone)]
pub enum Changed {
    /// The budget as it is now.
    To(Box<BudgetRow>),
    /// There is no active budget of that number.
    Missing,
    /// It is of another revision than was expected.
    Meanwhile,
    /// Another budget would be the same.
    Clash,
}

/// The revisions that an edit expects; `None`: any.
pub type Expected = Option<Vec<i64>>;

/// Makes a budget; `None` when an active one for the same place, window, time zone, mode and models
/// exists.
///
/// # Errors
/// The database's.
pub async fn create(pool: &PgPool, editor: &Editor, budget: &NewBudget) -> sqlx::Result<Option<BudgetRow>> {
    let mut transaction = begin_edit(pool, editor).await?;
    let row = insert(&mut transaction, budget).await?;
    // What made nothing leaves no key either.
    if row.is_some() {
        transaction.commit().await?;
    }
    Ok(row)
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    budget: &NewBudget,
) -> sqlx::Result<Option<BudgetRow>> {
    let sql = format!(
        "insert into budgets (org, team, user_name, window_kind, time_zone, limit_nanousd, mode, strict, models,
                              ladder)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing returning {BUDGET_COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&budget.scope.org)
        .bind(&budget.scope.team)
        .bind(&budget.scope.user)
        .bind(budget.window.as_str())
        .bind(&budget.time_zone)
        .bind(budget.limit_nanousd)
        .bind(budget.mode.as_str())
        .bind(budget.strict)
        .bind(budget.models.names())
        .bind(Json(&budget.ladder))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(budget_row).transpose()
}

pub(super) async fn update(
    connection: &mut PgConnection,
    budget_id: i64,
    change: &BudgetChange,
    expected: &Expected,
) -> sqlx::Result<Option<BudgetRow>> {
    let sql = format!(
        "update budgets set limit_nanousd = coalesce($2, limit_nanousd), mode = coalesce($3, mode),
                strict = coalesce($4, strict), ladder = coalesce($5, ladder)
          where budget_id = $1 and archived_at is null and ($6::bigint[] is null or revision = any($6))
         returning {BUDGET_COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(budget_id)
        .bind(change.limit_nanousd)
        .bind(change.mode.map(Mode::as_str))
        .bind(change.strict)
        .bind(change.ladder.as_ref().map(Json))
        .bind(expected)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(budget_row).transpose()
}

/// Changes an active budget. Acts on the next hold and never touches what was spent.
///
/// # Errors
/// The database's.
pub async fn change(
    pool: &PgPool,
    editor: &Editor,
    budget_id: i64,
    change: &BudgetChange,
    expected: &Expected,
) -> sqlx::Result<Changed> {
    let mut transaction = begin_edit(pool, editor).await?;
    match update(&mut transaction, budget_id, change, expected).await {
        Ok(Some(row)) => {
            transaction.commit().await?;
            Ok(Changed::To(Box::new(row)))
        }
        Ok(None) => missing_or_meanwhile(&mut transaction, budget_id).await,
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Changed::Clash),
        Err(error) => Err(error),
    }
}

async fn missing_or_meanwhile(connection: &mut PgConnection, budget_id: i64) -> sqlx::Result<Changed> {
    let found = sqlx::query("select from budgets where budget_id = $1 and archived_at is null")
        .bind(budget_id)
        .fetch_optional(connection)
        .await?;
    Ok(if found.is_some() { Changed::Meanwhile } else { Changed::Missing })
}

/// Archives an active budget: it stops counting, its history stays.
///
/// # Errors
/// The database's.
pub async fn archive(
    pool: &PgPool,
    editor: &Editor,
    budget_id: i64,
    expected: &Expected,
) -> sqlx::Result<Changed> {
    let mut transaction = begin_edit(pool, editor).await?;
    match end(&mut transaction, budget_id, expected).await? {
        Some(row) => {
            transaction.commit().await?;
            Ok(Changed::To(Box::new(row)))
        }
        None => missing_or_meanwhile(&mut transaction, budget_id).await,
    }
}

pub(super) async fn end(
    connection: &mut PgConnection,
    budget_id: i64,
    expected: &Expected,
) -> sqlx::Result<Option<BudgetRow>> {
    let sql = format!(
        "update budgets set archived_at = now()
          where budget_id = $1 and archived_at is null and ($2::bigint[] is null or revision = any($2))
         returning {BUDGET_COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(budget_id)
        .bind(expected)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(budget_row).transpose()
}

/// A budget, active or archived.
///
/// # Errors
/// The database's.
pub async fn find(pool: &PgPool, budget_id: i64) -> sqlx::Result<Option<BudgetRow>> {
    let sql = format!("select {BUDGET_COLUMNS} from budgets where budget_id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(budget_id).fetch_optional(pool).await?;
    row.as_ref().map(budget_row).transpose()
}

/// Which budgets of an org to list.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// The org.
    pub org: String,
    /// This team's alone, and what each team gets.
    pub team: Option<String>,
    /// This user's alone, and what each user gets.
    pub user: Option<String>,
    /// Archived ones as well.
    pub archived: bool,
    /// From this number on.
    pub from_id: i64,
    /// Most rows.
    pub limit: i64,
}

/// Budgets by number.
///
/// # Errors
/// The database's.
pub async fn page(pool: &PgPool, listed: &Listed) -> sqlx::Result<Vec<BudgetRow>> {
    let sql = format!(
        "select {BUDGET_COLUMNS} from budgets
          where org = $1 and ($2::text is null or team = $2 or team = '{EACH}')
            and ($3::text is null or user_name = $3 or user_name = '{EACH}')
            and ($4 or archived_at is null) and budget_id >= $5
          order by budget_id limit $6"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&listed.org)
        .bind(&listed.team)
        .bind(&listed.user)
        .bind(listed.archived)
        .bind(listed.from_id)
        .bind(listed.limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(budget_row).collect()
}

/// What budgets stand at in the given periods (`budget_id`, first second), from after a number and subject
/// on; a `*` budget's of one subject alone, where one is given.
///
/// # Errors
/// The database's.
pub async fn standings_after(
    pool: &PgPool,
    listed: &Listed,
    periods: &[(i64, i64)],
    after: (i64, &str),
) -> sqlx::Result<BTreeMap<i64, Vec<Standing>>> {
    let (ids, starts): (Vec<i64>, Vec<i64>) = periods.iter().copied().unzip();
    let rows = sqlx::query(
        "select c.budget_id, c.subject, c.spent_nanousd, c.held_nanousd, c.topped_up_nanousd
           from unnest($2::bigint[], $3::bigint[]) as k (budget_id, period_unix_s)
           join budgets b on b.org = $1 and b.budget_id = k.budget_id
           join budget_counters c on c.org = $1 and c.budget_id = k.budget_id
                                 and c.period_start = to_timestamp(k.period_unix_s)
          where (c.budget_id, c.subject) > ($4, $5)
            and ($6::text is null or b.team <> '*' or c.subject = $6)
            and ($7::text is null or b.user_name <> '*' or c.subject = $7)
          order by c.budget_id, c.subject limit $8",
    )
    .bind(&listed.org)
    .bind(&ids)
    .bind(&starts)
    .bind(after.0)
    .bind(after.1)
    .bind(&listed.team)
    .bind(&listed.user)
    .bind(listed.limit)
    .fetch_all(pool)
    .await?;
    by_budget(&rows)
}

/// What was spent in each of some places since an instant, in whole hours of the rollup, nano-USD:
/// (team, user, Unix seconds); `""` is any.
///
/// # Errors
/// The database's.
pub async fn recent(pool: &PgPool, org: &str, places: &[(String, String, i64)]) -> sqlx::Result<Vec<i64>> {
    let teams: Vec<&str> = places.iter().map(|place| place.0.as_str()).collect();
    let users: Vec<&str> = places.iter().map(|place| place.1.as_str()).collect();
    let from: Vec<i64> = places.iter().map(|place| place.2).collect();
    sqlx::query_scalar(
        // Of nothing, `least` would make the most.
        "select (
             select least(coalesce(sum(u.cost_nanousd), 0), 9223372036854775807)::bigint from usage_hourly u
              where u.org = $1 and (k.team = '' or u.team = k.team) and (k.user_name = '' or u.user_name = k.user_name)
                and u.hour >= to_timestamp(k.from_unix_s))
           from unnest($2::text[], $3::text[], $4::bigint[]) with ordinality
                as k (team, user_name, from_unix_s, number)
          order by k.number",
    )
    .bind(org)
    .bind(&teams)
    .bind(&users)
    .bind(&from)
    .fetch_all(pool)
    .await
}

/// What a budget stood at at the end of one of its periods, or stands at in the running one.
#[derive(Debug, Clone)]
pub struct PeriodRow {
    /// First second of the period.
    pub start_unix_s: i64,
    /// What it stood at.
    pub standing: Standing,
}

/// The periods of a budget, the latest first, before a period and subject; of one subject alone, where one
/// is given.
///
/// # Errors
/// The database's.
pub async fn periods(
    pool: &PgPool,
    row: &BudgetRow,
    subject: Option<&str>,
    before: Option<(i64, &str)>,
    limit: i64,
) -> sqlx::Result<Vec<PeriodRow>> {
    let rows = sqlx::query(
        "select extract(epoch from period_start)::bigint as start_unix_s, subject, spent_nanousd, held_nanousd,
                topped_up_nanousd
           from budget_counters
          where org = $1 and budget_id = $2 and ($3::text is null or subject = $3)
            and ($4::bigint is null or (period_start, subject) < (to_timestamp($4), $5))
          order by period_start desc, subject desc limit $6",
    )
    .bind(&row.set.scope.org)
    .bind(row.budget_id)
    .bind(subject)
    .bind(before.map(|before| before.0))
    .bind(before.map(|before| before.1).unwrap_or_default())
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let standing = Standing {
                subject: row.try_get("subject")?,
                spent_nanousd: row.try_get("spent_nanousd")?,
                held_nanousd: row.try_get("held_nanousd")?,
                topped_up_nanousd: row.try_get("topped_up_nanousd")?,
            };
            Ok(PeriodRow { start_unix_s: row.try_get("start_unix_s")?, standing })
        })
        .collect()
}

/// Whom one counted under a `*` budget is: the subject in its place.
#[must_use]
pub fn counted_place(scope: &Scope, subject: &str) -> (String, String) {
    let own = |place: &str| if place == EACH { subject.to_owned() } else { place.to_owned() };
    (own(&scope.team), own(&scope.user))
}
