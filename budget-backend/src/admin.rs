//! The operators' queries: budgets and their standing, what bends them, and the price list.

pub mod audit;
pub mod budget_sets;
pub mod budgets;
pub mod erasure;
pub mod idempotency;
pub mod identities;
pub mod lint;
pub mod me;
pub mod policies;
pub mod prices;
pub mod requests;
pub mod standings;
pub mod tokens;
pub mod usage;
pub mod webhooks;

use std::collections::BTreeMap;

use purser_protocol::Window;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};

use crate::budget::{Mode, Scope};
use crate::ladder::Ladder;
use crate::learned::{LengthsRow, MAX_GROUPS};
use crate::pattern::Patterns;

/// Most rows one listing gives.
pub(crate) const MAX_ROWS: i64 = 10_000;

/// Who edits, and under which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Editor {
    /// The name for the audit log.
    pub name: String,
    /// Under which this is done once.
    pub key: Option<idempotency::Key>,
}

impl Editor {
    /// One without a key.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), key: None }
    }
}

/// A budget to make.
#[derive(Debug, Clone)]
pub struct NewBudget {
    /// Whom it covers.
    pub scope: Scope,
    /// Its calendar window.
    pub window: Window,
    /// IANA name of its time zone, checked already.
    pub time_zone: String,
    /// The limit, nano-USD.
    pub limit_nanousd: i64,
    /// Whether it refuses or only notes.
    pub mode: Mode,
    /// Whether holds are the upper bound of what a call may cost.
    pub strict: bool,
    /// Which models it covers.
    pub models: Patterns,
    /// What it does before it refuses.
    pub ladder: Ladder,
}

/// A budget row.
#[derive(Debug, Clone)]
pub struct BudgetRow {
    /// Its number.
    pub budget_id: i64,
    /// What was set.
    pub set: NewBudget,
    /// Counts its edits.
    pub revision: i64,
    /// When it stopped counting, Unix seconds.
    pub archived_at_unix_s: Option<i64>,
}

/// What a budget has spent and holds in one period.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// For a `*` budget the one counted; else `""`.
    pub subject: String,
    /// Settled, nano-USD.
    pub spent_nanousd: i64,
    /// Held, nano-USD.
    pub held_nanousd: i64,
    /// Added to the limit, nano-USD.
    pub topped_up_nanousd: i64,
}

const BUDGET_COLUMNS: &str =
    "budget_id, org, team, user_name, window_kind, time_zone, limit_nanousd, mode, strict, models, ladder,
     revision, extract(epoch from archived_at)::bigint as archived_unix_s";

fn budget_row(row: &PgRow) -> sqlx::Result<BudgetRow> {
    let window_name: String = row.try_get("window_kind")?;
    let mode_name: String = row.try_get("mode")?;
    let unknown = |what: &str, name: &str| sqlx::Error::Decode(format!("unknown {what} {name}").into());
    Ok(BudgetRow {
        budget_id: row.try_get("budget_id")?,
        set: NewBudget {
            scope: Scope::new(row.try_get("org")?, row.try_get("team")?, row.try_get("user_name")?),
            window: Window::from_name(&window_name).ok_or_else(|| unknown("window", &window_name))?,
            time_zone: row.try_get("time_zone")?,
            limit_nanousd: row.try_get("limit_nanousd")?,
            mode: Mode::from_name(&mode_name).ok_or_else(|| unknown("mode", &mode_name))?,
            strict: row.try_get("strict")?,
            models: Patterns::new(row.try_get("models")?),
            ladder: Ladder::from_row(row.try_get("budget_id")?, row.try_get::<Json<_>, _>("ladder")?.0),
        },
        revision: row.try_get("revision")?,
        archived_at_unix_s: row.try_get("archived_unix_s")?,
    })
}

/// Asks the database for a sign of life.
///
/// # Errors
/// The database's.
pub async fn ping(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query("select 1").execute(pool).await.map(drop)
}

/// The database's clock, Unix seconds.
///
/// # Errors
/// The database's.
pub async fn now_unix_s(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query("select extract(epoch from now())::bigint").fetch_one(pool).await?.try_get(0)
}

/// The active budgets of an org, with the database's clock in Unix seconds.
///
/// # Errors
/// The database's.
pub async fn budgets_of(pool: &PgPool, org: &str) -> sqlx::Result<(i64, Vec<BudgetRow>)> {
    let now = now_unix_s(pool).await?;
    let sql = format!(
        "select {BUDGET_COLUMNS} from budgets where org = $1 and archived_at is null
         order by team, user_name, budget_id limit $2"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org).bind(MAX_ROWS).fetch_all(pool).await?;
    Ok((now, rows.iter().map(budget_row).collect::<sqlx::Result<_>>()?))
}

/// What budgets stand at in the given periods (`budget_id`, first second), by budget.
///
/// # Errors
/// The database's.
pub async fn standings(
    pool: &PgPool,
    org: &str,
    periods: &[(i64, i64)],
) -> sqlx::Result<BTreeMap<i64, Vec<Standing>>> {
    let (ids, starts): (Vec<i64>, Vec<i64>) = periods.iter().copied().unzip();
    let rows = sqlx::query(
        "select c.budget_id, c.subject, c.spent_nanousd, c.held_nanousd, c.topped_up_nanousd
           from unnest($2::bigint[], $3::bigint[]) as k (budget_id, period_unix_s)
           join budget_counters c on c.org = $1 and c.budget_id = k.budget_id
                                 and c.period_start = to_timestamp(k.period_unix_s)
          order by c.subject <> '', c.budget_id, c.subject
          limit $4",
    )
    .bind(org)
    .bind(&ids)
    .bind(&starts)
    .bind(MAX_ROWS)
    .fetch_all(pool)
    .await?;
    by_budget(&rows)
}

/// The standings in rows of counters, by budget.
fn by_budget(rows: &[PgRow]) -> sqlx::Result<BTreeMap<i64, Vec<Standing>>> {
    let mut standings: BTreeMap<i64, Vec<Standing>> = BTreeMap::new();
    for row in rows {
        standings.entry(row.try_get("budget_id")?).or_default().push(Standing {
            subject: row.try_get("subject")?,
            spent_nanousd: row.try_get("spent_nanousd")?,
            held_nanousd: row.try_get("held_nanousd")?,
            topped_up_nanousd: row.try_get("topped_up_nanousd")?,
        });
    }
    Ok(standings)
}

/// Lengths of answers that changed since an instant, the latest first, and when the latest did (Unix
/// microseconds; `since_unix_us` when there is none). A change is dated at its transaction's start and
/// seen only after its end: ask again for the last minute.
///
/// # Errors
/// The database's.
pub async fn output_lengths_since(pool: &PgPool, since_unix_us: i64) -> sqlx::Result<(Vec<LengthsRow>, i64)> {
    let mut transaction = pool.begin().await?;
    // At start it may be a long list, and no caller waits for it.
    sqlx::query("set local statement_timeout = '30s'").execute(&mut *transaction).await?;
    let rows = sqlx::query(
        "select org, team, provider, model, seen, (extract(epoch from updated_at) * 1000000)::bigint as updated_us
           from output_lengths
          where updated_at > timestamptz 'epoch' + $1 * interval '1 microsecond'
          order by updated_at desc limit $2",
    )
    .bind(since_unix_us)
    .bind(i64::try_from(MAX_GROUPS).unwrap_or(i64::MAX))
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let mut latest_unix_us = since_unix_us;
    let rows = rows
        .iter()
        .map(|row| {
            latest_unix_us = latest_unix_us.max(row.try_get("updated_us")?);
            Ok(LengthsRow {
                org: row.try_get("org")?,
                team: row.try_get("team")?,
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                seen: row.try_get("seen")?,
            })
        })
        .collect::<sqlx::Result<Vec<_>>>()?;
    Ok((rows, latest_unix_us))
}
