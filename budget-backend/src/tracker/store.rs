//! Writing a batch: one transaction, locks in one order. Sync, over `postgres`; holds have their own
//! SQL, async, in the ledger.
//!
//! Every writer of these tables takes its locks in this order, and within a kind sorted by key:
//! 1. the days it charges to, shared (an advisory lock on the org's hash and the UTC day; whoever
//!    recomputes a day takes it alone);
//! 2. ledger entries, as their keys are taken;
//! 3. rows of `usage_hourly`, then of `cost_daily_summary`;
//! 4. rows of `output_lengths`;
//! 5. counters;
//! 6. holds.
//!
//! To wait for each other in a circle, one of them would have to wait for a lock while it holds one
//! that comes later in this order; nobody does. So no deadlock is possible. Rows that are inserted keep
//! to it too: missing counters are made before, in a transaction of their own that holds nothing else;
//! tombstones are made after the holds that exist are locked, in key order as lanes make holds, so that
//! who makes one waits for others who make some and for nobody else.
//!
//! Lanes wait for counters and for nothing else of this, so counters come as late as they can. What a
//! batch does is worked out from rows read without a lock, and entries and summaries are written; then the
//! counters and holds are locked, the holds are compared with what was read, and the changes are written
//! and committed. If the rows turn out to be others under the locks, or an entry's number is taken by
//! then, nothing is written and the batch starts again. The locks don't wait for the disk either
//! ([`session::COMMIT_AND_FLUSH`](super::session::COMMIT_AND_FLUSH)).
//!
//! Round trips of a usual batch, however many items it has: begin, read and lock days, read entries, write
//! entries, add to the rollup, lock, change, commit; the last three with counters locked. One more each for
//! settlements without a hold (their budgets) and for rows to make; statements are prepared once per
//! connection.

use std::collections::BTreeSet;
use std::time::SystemTime;

use postgres::types::{Json, Timestamp};
use purser_protocol::Outcome;
use uuid::Uuid;

use super::fold::fold;
use super::model::{Effects, HoldKey, Item, NewEntry};
use super::read::{self, Days, Locked, Needs, Unlocked};
use super::records::{self, ChangeRows, HoldRecord};
use super::rollup;
use super::session::{Open, Session};
use crate::ledger::counters::{INSERT_COUNTERS, KeyColumns};
use crate::ledger::decide::CounterKey;

/// How often a batch is tried again after rows appeared under it.
const MAX_ATTEMPTS: usize = 6;

/// Why a batch was not written. Nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The database refused the data itself; trying again won't help.
    #[error("the data can't be stored: {0}")]
    Data(String),
    /// Somebody else was in the way for too long; the connection is good, try again later.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// The database is away or being shut down; connect anew and try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
}

impl From<postgres::Error> for StepError {
    fn from(error: postgres::Error) -> Self {
        let state = error.code().map(|state| state.code()).unwrap_or_default();
        // A row for which a partition was attached meanwhile belongs there on the next attempt; a
        // constraint that a row breaks by itself has a name.
        let moved = state == "23514" && error.as_db_error().is_some_and(|db| db.constraint().is_none());
        let text = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        match state.get(..2) {
            _ if moved => Self::Busy(text),
            // A value that doesn't fit, a constraint, or a limit of the database: the data's fault.
            Some("22" | "23" | "54") => Self::Data(text),
            // A conflict with another transaction, or a lock or statement that took too long.
            Some("40" | "55") => Self::Busy(text),
            _ if state == "57014" => Self::Busy(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Writes a batch in one transaction and says per item what became of it.
///
/// # Errors
/// [`StepError`]; then nothing was written.
pub fn step(
    session: &mut Session,
    items: &[(HoldKey, Item)],
    hold_ttl_s: i64,
) -> Result<Vec<Outcome>, StepError> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let needs = Needs::of(items);
    // Counters that were missing once. One that still is after it was made belongs to a budget that
    // somebody deleted by hand; that must not keep the batch from being written.
    let mut made = BTreeSet::new();
    for _ in 0..MAX_ATTEMPTS {
        let mut open = session.begin()?;
        match attempt(&mut open, items, &needs, hold_ttl_s, &made)? {
            Attempt::Done(outcomes, entries) => {
                open.commit()?;
                crate::metrics::charged(&entries);
                return Ok(outcomes);
            }
            Attempt::Missing(missing) => {
                open.rollback()?;
                insert_counters(session, &missing)?;
                made.extend(missing);
            }
            Attempt::Changed => open.rollback()?,
        }
    }
    Err(StepError::Busy(format!("rows changed under the batch {MAX_ATTEMPTS} times")))
}

enum Attempt {
    Done(Vec<Outcome>, Vec<NewEntry>),
    Missing(BTreeSet<CounterKey>),
    /// A row appeared between reading and locking.
    Changed,
}

fn attempt(
    open: &mut Open<'_>,
    items: &[(HoldKey, Item)],
    needs: &Needs<'_>,
    hold_ttl_s: i64,
    made: &BTreeSet<CounterKey>,
) -> Result<Attempt, StepError> {
    let Unlocked { mut rows, days } = read::read(open, needs)?;
    rows.entries = read::read_entries(open, needs)?;
    rows.hold_ttl_s = hold_ttl_s;
    let counters = read::counter_keys(needs, &rows);
    let mut under_way = rows.clone();
    let mut effects = Effects::default();
    let outcomes = items.iter().map(|(key, item)| fold(key, item, &mut under_way, &mut effects)).collect();
    if !charges_only(&effects, &days) || !enter(open, &effects, rows.now_unix_us)? {
        return Ok(Attempt::Changed);
    }
    match read::lock(open, &counters, needs, &rows)? {
        Locked::Missing(missing) if !missing.is_subset(made) => return Ok(Attempt::Missing(missing)),
        Locked::Changed => return Ok(Attempt::Changed),
        Locked::All | Locked::Missing(_) => {}
    }
    let written = change(open, &effects)?;
    if written { Ok(Attempt::Done(outcomes, effects.entries)) } else { Ok(Attempt::Changed) }
}

/// Whether every entry counts in one of the days that are locked.
fn charges_only(effects: &Effects, days: &Days) -> bool {
    effects
        .entries
        .iter()
        .all(|entry| days.contains(&(entry.key.0.clone(), rollup::day(entry.occurred_at_unix_us))))
}

fn insert_counters(session: &mut Session, keys: &BTreeSet<CounterKey>) -> Result<(), StepError> {
    let k = KeyColumns::new(keys);
    session.execute(INSERT_COUNTERS, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods])?;
    Ok(())
}

/// Writes what nobody on the hot path waits for: entries and what they add up to; `false` when a number of
/// an entry was taken meanwhile.
fn enter(open: &mut Open<'_>, effects: &Effects, now_unix_us: i64) -> Result<bool, StepError> {
    if effects.entries.is_empty() {
        return Ok(true);
    }
    let entries = records::entries(&effects.entries, now_unix_us).map_err(StepError::Data)?;
    let entered = open.execute(records::ENTER, &[&Json(&entries)])?;
    if usize::try_from(entered) != Ok(entries.len()) {
        return Ok(false);
    }
    let hours = rollup::hours(&effects.entries).map_err(StepError::Data)?;
    let days = rollup::days(&effects.entries).map_err(StepError::Data)?;
    let lengths = rollup::lengths(&effects.entries);
    open.execute(rollup::ADD, &[&Json(&hours), &Json(&days), &Json(&lengths), &rollup::HALVE_ABOVE])?;
    Ok(true)
}

/// Changes what is locked; `false` when an id got a row meanwhile.
fn change(open: &mut Open<'_>, effects: &Effects) -> Result<bool, StepError> {
    for ((org, id), quarantined) in &effects.quarantined {
        open.execute(
            "insert into quarantined_settlements (org, hold_id, reason, item) values ($1, $2, $3, $4)
             on conflict do nothing",
            &[org, id, &quarantined.reason, &quarantined.item],
        )?;
    }
    if !effects.tombstones.is_empty() {
        let tombstones = effects.tombstones.iter().map(|(key, row)| HoldRecord::new(key, row));
        let tombstones = tombstones.collect::<Result<Vec<_>, _>>().map_err(StepError::Data)?;
        let made = open.execute(records::INSERT_HOLDS, &[&Json(&tombstones)])?;
        if usize::try_from(made) != Ok(tombstones.len()) {
            return Ok(false);
        }
    }
    if !(effects.updates.is_empty() && effects.changes.is_empty()) {
        open.execute(records::CHANGE, &ChangeRows::of(effects).parameters())?;
    }
    Ok(true)
}

/// An open hold whose time is up, and its place in their order.
#[derive(Debug, Clone)]
pub struct Due {
    expires_at: Timestamp<SystemTime>,
    /// Which one.
    pub key: HoldKey,
}

impl Due {
    /// The place before every hold.
    #[must_use]
    pub fn before_all() -> Self {
        Self { expires_at: Timestamp::NegInfinity, key: (String::new(), Uuid::nil()) }
    }
}

/// Open holds whose time is up, from after `after` on, oldest first.
///
/// # Errors
/// [`StepError`].
pub fn due_holds(session: &mut Session, after: &Due, limit: i64) -> Result<Vec<Due>, StepError> {
    let rows = session.query(
        "select expires_at, org, hold_id from holds
          where state = 'open' and expires_at <= now() and (expires_at, org, hold_id) > ($1, $2, $3)
          order by expires_at, org, hold_id limit $4",
        &[&after.expires_at, &after.key.0, &after.key.1, &limit],
    )?;
    rows.iter()
        .map(|row| {
            let key = (row.try_get("org")?, row.try_get("hold_id")?);
            Ok(Due { expires_at: row.try_get("expires_at")?, key })
        })
        .collect()
}

/// Drops tombstones older than `age_s`; gives their number. The ledger's entries still catch a
/// settlement that comes even later. Skips rows somebody is using, so that it never waits.
///
/// # Errors
/// [`StepError`].
pub fn drop_tombstones(session: &mut Session, age_s: i64, limit: i64) -> Result<u64, StepError> {
    Ok(session.execute(
        "with old as materialized (
             select org, hold_id from holds
              where state <> 'open' and closed_at < now() - $1::bigint * interval '1 second'
              order by closed_at limit $2 for update skip locked)
         delete from holds h using old where h.org = old.org and h.hold_id = old.hold_id",
        &[&age_s, &limit],
    )?)
}
