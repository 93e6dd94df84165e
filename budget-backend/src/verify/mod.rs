//! Checks the books: what every counter and every day of the rollup stands at, against the rows they
//! are sums of; and puts right what differs, while traffic runs. Sync, over `postgres`.
//!
//! The check reads everything in one snapshot, so that what it compares belongs together. Writers add
//! to a counter what they add to its rows, in one transaction; a difference therefore stays the same
//! while they go on, and the repair is to add it, under the counter's lock, without a second look at
//! millions of rows while holds wait for that lock.

mod check;
mod repair;

use jiff::Timestamp;
use jiff::civil::Date;
use postgres::Client;
use purser_protocol::format_usd;
use serde::{Serialize, Serializer};

use crate::aggregate::{AggregateError, error_text};
use crate::ledger::decide::{CounterKey, CounterRef};

pub use check::check;

/// Most differences of each kind that one run lists and repairs.
pub const MAX_LISTED: usize = 10_000;

/// Rounds of repair in one run: one does it, unless rows are edited by hand meanwhile.
const MAX_ROUNDS: usize = 3;

/// An amount that differs, nano-USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    /// What is stored.
    pub stands_at_nanousd: i64,
    /// What the rows sum to.
    pub should_be_nanousd: i64,
}

impl Amounts {
    /// What is stored too much (or, negative, too little), as decimal USD.
    #[must_use]
    pub fn difference_usd(self) -> String {
        format_usd(self.stands_at_nanousd.saturating_sub(self.should_be_nanousd))
    }
}

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            stands_at_usd: String,
            should_be_usd: String,
            difference_usd: String,
        }
        Shown {
            stands_at_usd: format_usd(self.stands_at_nanousd),
            should_be_usd: format_usd(self.should_be_nanousd),
            difference_usd: self.difference_usd(),
        }
        .serialize(serializer)
    }
}

/// A counter that differs from its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterDifference {
    /// The organisation.
    pub org: String,
    /// The budget.
    pub budget_id: i64,
    /// For a `*` budget the team or user counted; else `""`.
    pub subject: String,
    /// First instant of the period.
    pub period_start: Timestamp,
    /// Rows name it, but it doesn't exist.
    pub missing: bool,
    /// Against what it opened with and its ledger entries; `None` when it agrees or can't be checked.
    pub spent: Option<Amounts>,
    /// Against its open holds; `None` when it agrees.
    pub held: Option<Amounts>,
    /// Against the top-ups of its period; `None` when it agrees.
    pub topped_up: Option<Amounts>,
}

impl CounterDifference {
    fn key(&self) -> CounterKey {
        let counter = CounterRef {
            budget_id: self.budget_id,
            subject: self.subject.clone(),
            period_start_unix_s: self.period_start.as_second(),
        };
        CounterKey { org: self.org.clone(), counter }
    }

    /// The columns that differ, by name.
    pub fn columns(&self) -> impl Iterator<Item = (&'static str, Amounts)> {
        [("spent", self.spent), ("held", self.held), ("topped_up", self.topped_up)]
            .into_iter()
            .filter_map(|(name, amounts)| Some((name, amounts?)))
    }
}

/// A UTC day on which a table of the rollup differs from the detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollupDifference {
    /// The organisation.
    pub org: String,
    /// The UTC day.
    pub day: Date,
    /// `usage_hourly` or `cost_daily_summary`.
    pub table: String,
    /// Payer, provider, model and API combinations whose sums of the day differ.
    pub rows: i64,
    /// Calls of those rows in the table, and in the detail.
    pub requests: (i64, i64),
    /// What those rows cost in the table, and in the detail.
    pub cost: Amounts,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Counters looked at.
    pub counters: i64,
    /// Of these, how many began before the ledger's detail is whole: what they spent can't be checked.
    pub spent_unchecked: i64,
    /// The first day whose detail is whole; `-infinity` when retention has dropped nothing.
    pub whole_from: String,
    /// Pairs of org and UTC day with detail, looked at.
    pub days: i64,
    /// Counters that differ, by key.
    pub counter_differences: Vec<CounterDifference>,
    /// Days that differ, by org and day.
    pub rollup_differences: Vec<RollupDifference>,
    /// There are more than are listed.
    pub truncated: bool,
}

impl Findings {
    /// Whether everything that could be checked agrees.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counter_differences.is_empty() && self.rollup_differences.is_empty()
    }
}

/// A check or repair could not be done.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Two repairs at once would each add the difference.
    #[error("another repair of this database is running")]
    Busy,
    /// A day could not be recomputed.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
    /// The database refused, was away, or holds something unreadable.
    #[error("{0}")]
    Database(String),
}

impl From<postgres::Error> for VerifyError {
    fn from(error: postgres::Error) -> Self {
        Self::Database(error_text(&error))
    }
}

/// Checks, repairs what differs, and checks again. Gives what was found at first, and what is left.
///
/// # Errors
/// [`VerifyError`]; what was repaired before stays so.
pub fn check_and_repair(client: &mut Client, org: Option<&str>) -> Result<(Findings, Findings), VerifyError> {
    let turn = "select pg_try_advisory_lock(hashtext('purser.repair'))";
    if !client.query_one(turn, &[])?.try_get::<_, bool>(0)? {
        return Err(VerifyError::Busy);
    }
    let done = rounds(client, org);
    // A broken connection has let go of it already; the error that says so is the one worth reading.
    let unlocked = client.execute("select pg_advisory_unlock(hashtext('purser.repair'))", &[]);
    let done = done?;
    unlocked?;
    Ok(done)
}

fn rounds(client: &mut Client, org: Option<&str>) -> Result<(Findings, Findings), VerifyError> {
    let found = check(client, org)?;
    let mut left = found.clone();
    for _ in 0..MAX_ROUNDS {
        if left.is_clean() {
            break;
        }
        repair::repair(client, &left)?;
        left = check(client, org)?;
    }
    Ok((found, left))
}
