//! Whole sets of budgets, applied at once.

use sqlx::PgPool;

use super::budgets::{BudgetChange, end, insert, update};
use super::policies::begin_edit;
use super::{BUDGET_COLUMNS, BudgetRow, Editor, NewBudget, budget_row};
use crate::budget_set::{self, Plan};

/// What an application of a whole set did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Made, in the order asked for; without numbers in a dry run.
    pub created: Vec<(Option<i64>, NewBudget)>,
    /// Before and after.
    pub changed: Vec<(BudgetRow, NewBudget)>,
    /// As they were.
    pub unchanged: Vec<BudgetRow>,
    /// Archived.
    pub archived: Vec<BudgetRow>,
}

/// Makes an org's budgets those of a set, in one transaction: of a team's alone, where one is given. What
/// the set doesn't have is archived with `prune`, else left.
///
/// # Errors
/// The database's.
pub async fn apply(
    pool: &PgPool,
    editor: &Editor,
    (org, team): (&str, Option<&str>),
    wanted: Vec<NewBudget>,
    (dry_run, prune): (bool, bool),
) -> sqlx::Result<Applied> {
    let mut transaction = begin_edit(pool, editor).await?;
    sqlx::query("set local statement_timeout = '10s'").execute(&mut *transaction).await?;
    // One at a time for each org: two sets must not be mixed.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('purser.budgets ' || $1, 0))")
        .bind(org)
        .execute(&mut *transaction)
        .await?;
    let sql = format!(
        "select {BUDGET_COLUMNS} from budgets
          where org = $1 and archived_at is null and ($2::text is null or team = $2)
          order by budget_id {}",
        if dry_run { "" } else { "for update" }
    );
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org).bind(team).fetch_all(&mut *transaction).await?;
    let existing = rows.iter().map(budget_row).collect::<sqlx::Result<Vec<_>>>()?;
    let Plan { create, change, unchanged, archive } = budget_set::plan(existing, wanted, prune);
    let mut applied = Applied { unchanged, ..Applied::default() };
    // First what frees a place.
    for row in archive {
        if !dry_run {
            end(&mut transaction, row.budget_id, &None).await?;
        }
        applied.archived.push(row);
    }
    for (row, wanted) in change {
        if !dry_run {
            update(&mut transaction, row.budget_id, &all_of(&wanted), &None).await?;
        }
        applied.changed.push((row, wanted));
    }
    for wanted in create {
        let made = if dry_run { None } else { insert(&mut transaction, &wanted).await? };
        applied.created.push((made.map(|row| row.budget_id), wanted));
    }
    if !dry_run {
        transaction.commit().await?;
    }
    Ok(applied)
}

fn all_of(wanted: &NewBudget) -> BudgetChange {
    BudgetChange {
        limit_nanousd: Some(wanted.limit_nanousd),
        mode: Some(wanted.mode),
        strict: Some(wanted.strict),
        ladder: Some(wanted.ladder.clone()),
    }
}
