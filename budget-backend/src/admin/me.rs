//! What a payer's budgets stand at.

use purser_protocol::Payer;
use sqlx::{PgPool, Row};

use super::{BUDGET_COLUMNS, BudgetRow, MAX_ROWS, Standing, budget_row, now_unix_s};
use crate::budget::EACH;
use crate::window::{Period, WindowError, period};

/// A budget of a payer in its running period.
#[derive(Debug, Clone)]
pub struct Own {
    /// The budget.
    pub row: BudgetRow,
    /// Its running period.
    pub period: Period,
    /// What it stands at for this payer.
    pub standing: Standing,
}

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The database's.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A period can't be placed on the calendar.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// The active budgets that calls of a payer may meet, whatever the model: the org's, the team's, the user's, and
/// `*` ones beside them; in the order of tiers.
///
/// # Errors
/// [`OwnError`].
pub async fn budgets_of(pool: &PgPool, payer: &Payer) -> Result<Vec<Own>, OwnError> {
    let now = now_unix_s(pool).await?;
    let team = payer.team.as_deref().unwrap_or_default();
    let user = payer.user.as_deref().filter(|_| !team.is_empty()).unwrap_or_default();
    let sql = format!(
        "select {BUDGET_COLUMNS} from budgets
          where org = $1 and archived_at is null
            and (team = '' or ($2 <> '' and team in ($2, '*') and user_name = '')
                           or ($3 <> '' and team = $2 and user_name in ($3, '*')))
          order by team <> '', user_name <> '', budget_id limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&payer.org)
        .bind(team)
        .bind(user)
        .bind(MAX_ROWS)
        .fetch_all(pool)
        .await?;
    let mut own = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = budget_row(row)?;
        let zone = crate::budget::zone_or_utc(row.budget_id, &row.set.time_zone);
        let period = period(row.set.window, &zone, now)?;
        let subject = match (&row.set.scope.team, &row.set.scope.user) {
            (place, _) if place == EACH => team,
            (_, place) if place == EACH => user,
            _ => "",
        };
        let standing = Standing { subject: subject.to_owned(), ..Standing::default() };
        own.push(Own { row, period, standing });
    }
    read_standings(pool, &payer.org, &mut own).await?;
    Ok(own)
}

async fn read_standings(pool: &PgPool, org: &str, own: &mut [Own]) -> sqlx::Result<()> {
    let ids: Vec<i64> = own.iter().map(|own| own.row.budget_id).collect();
    let starts: Vec<i64> = own.iter().map(|own| own.period.start_unix_s).collect();
    let subjects: Vec<&str> = own.iter().map(|own| own.standing.subject.as_str()).collect();
    let rows = sqlx::query(
        "select c.budget_id, c.spent_nanousd, c.held_nanousd, c.topped_up_nanousd
           from unnest($2::bigint[], $3::bigint[], $4::text[]) as k (budget_id, period_unix_s, subject)
           join budget_counters c on c.org = $1 and c.budget_id = k.budget_id and c.subject = k.subject
                                 and c.period_start = to_timestamp(k.period_unix_s)",
    )
    .bind(org)
    .bind(ids)
    .bind(starts)
    .bind(subjects)
    .fetch_all(pool)
    .await?;
    for row in &rows {
        let budget_id: i64 = row.try_get("budget_id")?;
        let Some(own) = own.iter_mut().find(|own| own.row.budget_id == budget_id) else { continue };
        own.standing.spent_nanousd = row.try_get("spent_nanousd")?;
        own.standing.held_nanousd = row.try_get("held_nanousd")?;
        own.standing.topped_up_nanousd = row.try_get("topped_up_nanousd")?;
    }
    Ok(())
}
