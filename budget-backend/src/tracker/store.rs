//! The SQL of cost writes. Sync, over `postgres`; holds have their own, async, in the ledger.
//!
//! One transaction per batch, locks in the order every writer keeps (see `ledger/store.rs`): counters
//! by key, holds by key, then inserts of ids without a row, then summary rows by key.

use std::collections::{BTreeMap, BTreeSet};

use postgres::types::Json;
use postgres::{Client, Row, Transaction};
use purser_protocol::{Outcome, Payer};
use uuid::Uuid;

use super::fold::{clamp_started_at, fold};
use super::model::{Effects, Entries, HoldKey, HoldRow, HoldState, Item, Rows, Subject};
use super::records::{self, HoldRecord};
use crate::budget::{Budget, Scope};
use crate::ledger::decide::{CounterKey, CounterRef, touched};
use crate::ledger::store::{INSERT_COUNTERS, KeyColumns, LOCK_COUNTERS};

/// How often a batch is tried again after rows appeared under it.
const MAX_ATTEMPTS: usize = 6;

/// Why a batch was not written. Nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The database refused the data itself; trying again won't help.
    #[error("the data can't be stored: {0}")]
    Data(String),
    /// The database is away, busy or being shut down; try again later.
    #[error("the database is not available: {0}")]
    Unavailable(String),
}

impl From<postgres::Error> for StepError {
    fn from(error: postgres::Error) -> Self {
        // Class 22 is a value that doesn't fit, 23 a constraint; both are the data's fault.
        let data = error
            .code()
            .is_some_and(|state| state.code().starts_with("22") || state.code().starts_with("23"));
        let text = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        if data { Self::Data(text) } else { Self::Unavailable(text) }
    }
}

/// Writes a batch in one transaction and says per item what became of it.
///
/// # Errors
/// [`StepError`]; then nothing was written.
pub fn step(client: &mut Client, items: &[(HoldKey, Item)]) -> Result<Vec<Outcome>, StepError> {
    // Counters that were missing once. One that still is after it was made belongs to a budget that
    // somebody deleted by hand; that must not keep the batch from being written.
    let mut made = BTreeSet::new();
    for _ in 0..MAX_ATTEMPTS {
        let mut transaction = client.transaction()?;
        match attempt(&mut transaction, items, &made)? {
            Attempt::Done(outcomes) => {
                transaction.commit()?;
                return Ok(outcomes);
            }
            Attempt::Missing(missing) => {
                transaction.rollback()?;
                insert_counters(client, &missing)?;
                made.extend(missing);
            }
            Attempt::Changed => transaction.rollback()?,
        }
    }
    Err(StepError::Unavailable(format!("rows changed under the batch {MAX_ATTEMPTS} times")))
}

enum Attempt {
    Done(Vec<Outcome>),
    Missing(BTreeSet<CounterKey>),
    /// A row appeared between reading and locking.
    Changed,
}

fn attempt(
    transaction: &mut Transaction<'_>,
    items: &[(HoldKey, Item)],
    made: &BTreeSet<CounterKey>,
) -> Result<Attempt, StepError> {
    let keys: BTreeSet<&HoldKey> = items.iter().map(|(key, _)| key).collect();
    let mut rows = Rows::default();
    rows.now_unix_us =
        transaction.query_one("select (extract(epoch from now()) * 1000000)::bigint", &[])?.try_get(0)?;
    rows.holds = read_holds(transaction, &keys, false)?;
    rows.fallback_counters = fallback_counters(transaction, items, &rows)?;
    let needed = counter_keys(&rows);
    let missing = lock_counters(transaction, &needed)?;
    if !missing.is_subset(made) {
        return Ok(Attempt::Missing(missing));
    }
    let locked = read_holds(transaction, &keys, true)?;
    if !locked.keys().eq(rows.holds.keys()) {
        return Ok(Attempt::Changed);
    }
    rows.holds = locked;
    rows.entries = read_entries(transaction, &keys)?;
    let mut effects = Effects::default();
    let outcomes = items.iter().map(|(key, item)| fold(key, item, &mut rows, &mut effects)).collect();
    if write(transaction, &effects, rows.now_unix_us)? {
        Ok(Attempt::Done(outcomes))
    } else {
        Ok(Attempt::Changed)
    }
}

fn columns<'a>(keys: &BTreeSet<&'a HoldKey>) -> (Vec<&'a str>, Vec<Uuid>) {
    keys.iter().map(|(org, id)| (org.as_str(), *id)).unzip()
}

const READ_HOLDS: &str = "
    select h.org, h.hold_id, h.team, h.user_name, h.provider, h.model, h.api, h.state, h.held_nanousd, h.counters,
           (extract(epoch from h.held_at) * 1000000)::bigint as held_at_us,
           (extract(epoch from h.expires_at) * 1000000)::bigint as expires_at_us
      from unnest($1::text[], $2::uuid[]) as k (org, hold_id)
      join holds h on h.org = k.org and h.hold_id = k.hold_id
     order by h.org, h.hold_id";

fn read_holds(
    transaction: &mut Transaction<'_>,
    keys: &BTreeSet<&HoldKey>,
    lock: bool,
) -> Result<BTreeMap<HoldKey, HoldRow>, StepError> {
    let (orgs, ids) = columns(keys);
    let sql = if lock { format!("{READ_HOLDS} for update of h") } else { READ_HOLDS.to_owned() };
    let rows = transaction.query(&sql, &[&orgs, &ids])?;
    rows.iter().map(hold_row).collect()
}

fn hold_row(row: &Row) -> Result<(HoldKey, HoldRow), StepError> {
    let state: &str = row.try_get("state")?;
    let Json(counters): Json<Vec<CounterRef>> = row.try_get("counters")?;
    let hold = HoldRow {
        state: HoldState::parse(state)
            .ok_or_else(|| StepError::Data(format!("unknown hold state {state}")))?,
        held_nanousd: row.try_get("held_nanousd")?,
        counters,
        held_at_unix_us: row.try_get("held_at_us")?,
        expires_at_unix_us: row.try_get("expires_at_us")?,
        subject: Subject {
            team: row.try_get("team")?,
            user: row.try_get("user_name")?,
            provider: row.try_get("provider")?,
            model: row.try_get("model")?,
            api: row.try_get("api")?,
        },
    };
    Ok(((row.try_get("org")?, row.try_get("hold_id")?), hold))
}

/// Where settlements without a hold count: the payer's budgets at the time of the request.
fn fallback_counters(
    transaction: &mut Transaction<'_>,
    items: &[(HoldKey, Item)],
    rows: &Rows,
) -> Result<BTreeMap<HoldKey, Vec<CounterRef>>, StepError> {
    let without: Vec<(&HoldKey, &Payer, i64)> = items
        .iter()
        .filter_map(|(key, item)| match item {
            Item::Settle(settle) => Some((key, &settle.payer, settle.started_at_unix_us)),
            _ => None,
        })
        .filter(|(key, ..)| {
            rows.holds.get(*key).is_none_or(|row| row.state == HoldState::Voided && row.counters.is_empty())
        })
        .collect();
    if without.is_empty() {
        return Ok(BTreeMap::new());
    }
    let scopes: BTreeSet<Scope> = without.iter().flat_map(|(_, payer, _)| Scope::candidates(payer)).collect();
    let budgets = read_budgets(transaction, &scopes)?;
    without
        .into_iter()
        .map(|(key, payer, started_at_unix_us)| {
            let at_unix_s = clamp_started_at(started_at_unix_us, rows.now_unix_us).div_euclid(1_000_000);
            let touches =
                touched(&budgets, payer, at_unix_s).map_err(|error| StepError::Data(error.to_string()))?;
            Ok((key.clone(), touches.into_iter().map(|touch| touch.key.counter).collect()))
        })
        .collect()
}

fn read_budgets(
    transaction: &mut Transaction<'_>,
    scopes: &BTreeSet<Scope>,
) -> Result<Vec<Budget>, StepError> {
    let orgs: Vec<&str> = scopes.iter().map(|scope| scope.org.as_str()).collect();
    let teams: Vec<&str> = scopes.iter().map(|scope| scope.team.as_str()).collect();
    let users: Vec<&str> = scopes.iter().map(|scope| scope.user.as_str()).collect();
    let rows = transaction.query(
        "select b.org, b.team, b.user_name, b.budget_id, b.window_kind, b.time_zone, b.limit_nanousd
           from unnest($1::text[], $2::text[], $3::text[]) as s (org, team, user_name)
           join budgets b on b.org = s.org and b.team = s.team and b.user_name = s.user_name
                         and b.archived_at is null",
        &[&orgs, &teams, &users],
    )?;
    rows.iter()
        .map(|row| {
            let scope = Scope {
                org: row.try_get("org")?,
                team: row.try_get("team")?,
                user: row.try_get("user_name")?,
            };
            let (window_kind, zone_name) = (row.try_get("window_kind")?, row.try_get("time_zone")?);
            let limit_nanousd = row.try_get("limit_nanousd")?;
            Budget::from_columns(row.try_get("budget_id")?, scope, window_kind, zone_name, limit_nanousd)
                .map_err(StepError::Data)
        })
        .collect()
}

fn counter_keys(rows: &Rows) -> BTreeSet<CounterKey> {
    let held = rows.holds.iter().map(|((org, _), row)| (org, &row.counters));
    let fallback = rows.fallback_counters.iter().map(|((org, _), counters)| (org, counters));
    held.chain(fallback)
        .flat_map(|(org, counters)| {
            counters.iter().map(|counter| CounterKey { org: org.clone(), counter: counter.clone() })
        })
        .collect()
}

/// Locks the counters and gives back those that don't exist yet.
fn lock_counters(
    transaction: &mut Transaction<'_>,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeSet<CounterKey>, StepError> {
    let k = KeyColumns::new(keys);
    let rows = transaction.query(LOCK_COUNTERS, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods])?;
    let mut missing = keys.clone();
    for row in rows {
        let counter = CounterRef {
            budget_id: row.try_get("budget_id")?,
            subject: row.try_get("subject")?,
            period_start_unix_s: row.try_get("period_unix_s")?,
        };
        missing.remove(&CounterKey { org: row.try_get("org")?, counter });
    }
    Ok(missing)
}

fn insert_counters(client: &mut Client, keys: &BTreeSet<CounterKey>) -> Result<(), StepError> {
    let k = KeyColumns::new(keys);
    client.execute(INSERT_COUNTERS, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods])?;
    Ok(())
}

fn read_entries(
    transaction: &mut Transaction<'_>,
    keys: &BTreeSet<&HoldKey>,
) -> Result<BTreeMap<HoldKey, Entries>, StepError> {
    let (orgs, ids) = columns(keys);
    let rows = transaction.query(
        "select r.org, r.hold_id, count(*)::integer as entries, sum(r.cost_nanousd)::bigint as charged,
                bool_or(r.cause <> 'expired') as settled
           from unnest($1::text[], $2::uuid[]) as k (org, hold_id)
           join llm_requests r on r.org = k.org and r.hold_id = k.hold_id
          group by r.org, r.hold_id",
        &[&orgs, &ids],
    )?;
    rows.iter()
        .map(|row| {
            let entries = Entries {
                count: row.try_get("entries")?,
                charged_nanousd: row.try_get("charged")?,
                settled: row.try_get("settled")?,
            };
            Ok(((row.try_get("org")?, row.try_get("hold_id")?), entries))
        })
        .collect()
}

/// Writes the effects; `false` when an id got a row meanwhile.
fn write(transaction: &mut Transaction<'_>, effects: &Effects, now_unix_us: i64) -> Result<bool, StepError> {
    let tombstones: Vec<HoldRecord<'_>> =
        effects.tombstones.iter().map(|(key, row)| HoldRecord::new(key, row)).collect();
    if !tombstones.is_empty() {
        let made = transaction.execute(records::INSERT_HOLDS, &[&Json(&tombstones)])?;
        if usize::try_from(made) != Ok(tombstones.len()) {
            return Ok(false);
        }
    }
    if !effects.states.is_empty() {
        let (orgs, ids) = columns(&effects.states.keys().collect());
        let states: Vec<&str> = effects.states.values().map(|state| state.as_str()).collect();
        transaction.execute(
            "update holds h set state = k.state, closed_at = now()
               from unnest($1::text[], $2::uuid[], $3::text[]) as k (org, hold_id, state)
              where h.org = k.org and h.hold_id = k.hold_id",
            &[&orgs, &ids, &states],
        )?;
    }
    if !effects.entries.is_empty() {
        let entries = records::entries(&effects.entries, now_unix_us).map_err(StepError::Data)?;
        transaction.execute(records::INSERT_ENTRIES, &[&Json(&entries)])?;
        let summary = records::summary(&effects.entries).map_err(StepError::Data)?;
        change_counters(transaction, effects)?;
        transaction.execute(records::UPSERT_SUMMARY, &[&Json(&summary)])?;
    } else {
        change_counters(transaction, effects)?;
    }
    for ((org, id), quarantined) in &effects.quarantined {
        transaction.execute(
            "insert into quarantined_settlements (org, hold_id, reason, item) values ($1, $2, $3, $4)
             on conflict do nothing",
            &[org, id, &quarantined.reason, &quarantined.item],
        )?;
    }
    Ok(true)
}

fn change_counters(transaction: &mut Transaction<'_>, effects: &Effects) -> Result<(), StepError> {
    if effects.changes.is_empty() {
        return Ok(());
    }
    let k = KeyColumns::new(effects.changes.keys());
    let spent: Vec<i64> = effects.changes.values().map(|change| change.spent_nanousd).collect();
    let held: Vec<i64> = effects.changes.values().map(|change| change.held_nanousd).collect();
    transaction.execute(
        "update budget_counters c
            set spent_nanousd = c.spent_nanousd + k.spent, held_nanousd = c.held_nanousd + k.held
           from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
                as k (org, budget_id, subject, period_unix_s, spent, held)
          where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
            and c.period_start = to_timestamp(k.period_unix_s)",
        &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods, &spent, &held],
    )?;
    Ok(())
}

/// Open holds whose time is up, oldest first.
///
/// # Errors
/// [`StepError`].
pub fn due_holds(client: &mut Client, limit: i64) -> Result<Vec<HoldKey>, StepError> {
    let rows = client.query(
        "select org, hold_id from holds where state = 'open' and expires_at <= now() order by expires_at limit $1",
        &[&limit],
    )?;
    rows.iter().map(|row| Ok((row.try_get("org")?, row.try_get("hold_id")?))).collect()
}

/// Drops tombstones older than `age_s`; the ledger's entries still catch a settlement that comes
/// even later. Skips rows somebody is using, so that it never waits.
///
/// # Errors
/// [`StepError`].
pub fn drop_tombstones(client: &mut Client, age_s: i64, limit: i64) -> Result<u64, StepError> {
    Ok(client.execute(
        "delete from holds h using (
             select org, hold_id from holds
              where state <> 'open' and closed_at < now() - $1::bigint * interval '1 second'
              limit $2 for update skip locked) as old
          where h.org = old.org and h.hold_id = old.hold_id",
        &[&age_s, &limit],
    )?)
}
