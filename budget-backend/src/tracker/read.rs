//! What a batch reads, and the locks it takes on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;

use postgres::Row;
use postgres::types::Json;
use purser_protocol::Payer;
use uuid::Uuid;

use super::fold::{MAX_AGE_US, clamp_started_at};
use super::model::{Cheaper, Entries, HoldKey, HoldRow, HoldState, Item, Rows, Subject};
use super::rollup::day;
use super::session::Open;
use super::store::StepError;
use crate::budget::{Budget, BudgetColumns, Scope};
use crate::ledger::counters::{KeyColumns, LOCK_COUNTERS};
use crate::ledger::decide::{CounterKey, CounterRef};
use crate::ledger::terms::touched;
use crate::pattern::Names;

/// Days of orgs that a batch may write to: `(org, days since 1970-01-01)`.
pub type Days = BTreeSet<(String, i32)>;

/// What the items of a batch need, by id.
pub struct Needs<'a> {
    /// The first settlement of each id: its payer, its model's names and request time.
    settled: BTreeMap<&'a HoldKey, (&'a Payer, Names, i64)>,
    /// Whether an item may charge the id.
    charged: BTreeMap<&'a HoldKey, bool>,
    /// Ids whose counters may change.
    moved: BTreeSet<&'a HoldKey>,
}

impl<'a> Needs<'a> {
    /// Of these items.
    pub fn of(items: &'a [(HoldKey, Item)]) -> Self {
        let mut needs = Self { settled: BTreeMap::new(), charged: BTreeMap::new(), moved: BTreeSet::new() };
        for (key, item) in items {
            let charges = matches!(item, Item::Settle(_) | Item::Expire);
            *needs.charged.entry(key).or_default() |= charges;
            if let Item::Settle(settle) = item {
                let call = || (&settle.payer, settle.names(), settle.started_at_unix_us);
                needs.settled.entry(key).or_insert_with(call);
            }
            if charges || matches!(item, Item::Void(_)) {
                needs.moved.insert(key);
            }
        }
        needs
    }

    fn columns(&self) -> (Vec<&str>, Vec<Uuid>) {
        self.charged.keys().map(|(org, id)| (org.as_str(), *id)).unzip()
    }
}

/// Reads the ids' holds, or of those that have none their first ledger entry, with the database's
/// clock; and locks the days that charges to them count in, sorted as the locks are named. `$5` is how
/// far back a settlement without a hold may count, as in [`clamp_started_at`].
const READ: &str = "
    with clock as (
        select (extract(epoch from now()) * 1000000)::bigint as now_us
    ), found as materialized (
        select k.org, k.hold_id, k.charged, h.state, r.cause as first_cause,
               coalesce(h.team, r.team) as team, coalesce(h.user_name, r.user_name) as user_name,
               coalesce(h.provider, r.provider) as provider, coalesce(h.model, r.model) as model,
               coalesce(h.api, r.api) as api, coalesce(h.tags, r.tags) as tags,
               coalesce(h.override_id, r.override_id) as override_id,
               coalesce(h.asked_model, r.asked_model) as asked_model,
               case when h.hold_id is null then r.clamped_to_tokens when h.clamped then h.output_cap_tokens end
                   as clamped_to_tokens,
               coalesce(h.held_nanousd, r.held_nanousd) as held_nanousd,
               coalesce(h.counters, r.counters) as counters,
               (extract(epoch from coalesce(h.held_at, r.occurred_at)) * 1000000)::bigint as held_at_us,
               (extract(epoch from h.expires_at) * 1000000)::bigint as expires_at_us,
               case when coalesce(h.state, r.cause) is null or (h.state = 'voided' and h.counters = '[]')
                    then case when k.started_us is not null
                              then least(greatest(k.started_us, clock.now_us - $5), clock.now_us) end
                    else (extract(epoch from coalesce(h.held_at, r.occurred_at)) * 1000000)::bigint
               end as counts_at_us,
               clock.now_us
          from clock
         cross join unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[])
                    as k (org, hold_id, charged, started_us)
          left join holds h on h.org = k.org and h.hold_id = k.hold_id
          left join lateral (
              select * from llm_requests
               where h.hold_id is null and org = k.org and hold_id = k.hold_id and entry = 0 limit 1) r on true
    ), days as materialized (
        select distinct hashtext(org) as org_hash, (counts_at_us / 86400000000)::integer as day
          from found where charged and counts_at_us is not null
         order by 1, 2
    ), locked as materialized (
        select pg_advisory_xact_lock_shared(org_hash, day) from days
    )
    select f.*, (select count(*) from locked) as days_locked from found f";

/// Rows read without a lock on them, and the days that are locked.
pub struct Unlocked {
    /// What was read.
    pub rows: Rows,
    /// The days a charge may count in.
    pub days: Days,
}

/// Reads what decides which locks to take, and takes those on days.
///
/// # Errors
/// [`StepError`].
pub fn read(open: &mut Open<'_>, needs: &Needs<'_>) -> Result<Unlocked, StepError> {
    let (orgs, ids) = needs.columns();
    let charged: Vec<bool> = needs.charged.values().copied().collect();
    let started: Vec<Option<i64>> =
        needs.charged.keys().map(|key| needs.settled.get(key).map(|call| call.2)).collect();
    let found = open.query(READ, &[&orgs, &ids, &charged, &started, &MAX_AGE_US])?;
    let mut read = Unlocked { rows: Rows::default(), days: Days::new() };
    for row in &found {
        let key: HoldKey = (row.try_get("org")?, row.try_get("hold_id")?);
        read.rows.now_unix_us = row.try_get("now_us")?;
        if row.try_get("charged")? {
            let counts_at_unix_us: Option<i64> = row.try_get("counts_at_us")?;
            read.days.extend(counts_at_unix_us.map(|at| (key.0.clone(), day(at))));
        }
        if let Some(hold) = hold_row(row)? {
            read.rows.holds.insert(key, hold);
        }
    }
    read.rows.fallback_counters = fallback_counters(open, needs, &read.rows)?;
    Ok(read)
}

/// The row of a hold, or what its first entry says of it; `None` when there is neither.
fn hold_row(row: &Row) -> Result<Option<HoldRow>, StepError> {
    let state: Option<&str> = row.try_get("state")?;
    let first_cause: Option<&str> = row.try_get("first_cause")?;
    let known = match (state, first_cause) {
        (Some(name), _) => HoldState::parse(name).ok_or_else(|| format!("unknown hold state {name}")),
        (None, Some("expired")) => Ok(HoldState::Expired),
        (None, Some(_)) => Ok(HoldState::Settled),
        (None, None) => return Ok(None),
    };
    let Json(counters): Json<Vec<CounterRef>> = row.try_get("counters")?;
    let Json(tags) = row.try_get("tags")?;
    let held_at_unix_us = row.try_get("held_at_us")?;
    Ok(Some(HoldRow {
        state: known.map_err(StepError::Data)?,
        held_nanousd: row.try_get("held_nanousd")?,
        counters,
        held_at_unix_us,
        expires_at_unix_us: row.try_get::<_, Option<i64>>("expires_at_us")?.unwrap_or(held_at_unix_us),
        subject: Subject {
            team: row.try_get("team")?,
            user: row.try_get("user_name")?,
            provider: row.try_get("provider")?,
            model: row.try_get("model")?,
            api: row.try_get("api")?,
            tags,
        },
        override_id: row.try_get("override_id")?,
        cheaper: Cheaper {
            asked_model: row.try_get("asked_model")?,
            clamped_to_tokens: row.try_get("clamped_to_tokens")?,
        },
        dropped: state.is_none(),
    }))
}

/// Where settlements without a hold count: the payer's budgets at the time of the request.
fn fallback_counters(
    open: &mut Open<'_>,
    needs: &Needs<'_>,
    rows: &Rows,
) -> Result<BTreeMap<HoldKey, Vec<CounterRef>>, StepError> {
    let mut without = needs.settled.clone();
    without.retain(|key, _| !rows.holds.get(*key).is_some_and(HoldRow::says_where_it_counts));
    if without.is_empty() {
        return Ok(BTreeMap::new());
    }
    let scopes: BTreeSet<Scope> = without.values().flat_map(|call| Scope::candidates(call.0)).collect();
    let budgets = read_budgets(open, &scopes)?;
    without
        .into_iter()
        .map(|(key, (payer, names, started_at_unix_us))| {
            let at_unix_s = clamp_started_at(started_at_unix_us, rows.now_unix_us).div_euclid(1_000_000);
            let touches = touched(&budgets, payer, &names, at_unix_s)
                .map_err(|error| StepError::Data(error.to_string()))?;
            Ok((key.clone(), touches.into_iter().map(|touch| touch.key.counter).collect()))
        })
        .collect()
}

fn read_budgets(open: &mut Open<'_>, scopes: &BTreeSet<Scope>) -> Result<Vec<Budget>, StepError> {
    let orgs: Vec<&str> = scopes.iter().map(|scope| scope.org.as_str()).collect();
    let teams: Vec<&str> = scopes.iter().map(|scope| scope.team.as_str()).collect();
    let users: Vec<&str> = scopes.iter().map(|scope| scope.user.as_str()).collect();
    let rows = open.query(
        "select b.org, b.team, b.user_name, b.budget_id, b.window_kind, b.time_zone, b.limit_nanousd, b.mode,
                b.strict, b.models, b.ladder
           from unnest($1::text[], $2::text[], $3::text[]) as s (org, team, user_name)
           join budgets b on b.org = s.org and b.team = s.team and b.user_name = s.user_name
                         and b.archived_at is null",
        &[&orgs, &teams, &users],
    )?;
    let mut budgets = Vec::with_capacity(rows.len());
    for row in &rows {
        match budget(row) {
            Ok(budget) => budgets.push(budget),
            // Trying again won't help, and it must not keep everybody's settlements from being written.
            Err(error) => {
                let (org, budget_id): (&str, i64) = (row.try_get("org")?, row.try_get("budget_id")?);
                tracing::error!(
                    org,
                    budget_id,
                    error,
                    "a budget can't be read; settlements don't count in it"
                );
            }
        }
    }
    Ok(budgets)
}

/// A budget from its row; else why it can't be read.
fn budget(row: &Row) -> Result<Budget, String> {
    let (scope, columns) = budget_columns(row).map_err(|error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    Budget::from_columns(scope, columns)
}

fn budget_columns(row: &Row) -> Result<(Scope, BudgetColumns), postgres::Error> {
    let scope =
        Scope { org: row.try_get("org")?, team: row.try_get("team")?, user: row.try_get("user_name")? };
    let columns = BudgetColumns {
        budget_id: row.try_get("budget_id")?,
        window_kind: row.try_get("window_kind")?,
        time_zone: row.try_get("time_zone")?,
        limit_nanousd: row.try_get("limit_nanousd")?,
        mode: row.try_get("mode")?,
        strict: row.try_get("strict")?,
        models: row.try_get("models")?,
        ladder: row.try_get("ladder")?,
    };
    Ok((scope, columns))
}

/// The counters that the batch may change.
pub fn counter_keys(needs: &Needs<'_>, rows: &Rows) -> BTreeSet<CounterKey> {
    let held = rows.holds.iter().map(|(key, row)| (key, &row.counters));
    held.chain(&rows.fallback_counters)
        .filter(|(key, _)| needs.moved.contains(key))
        .flat_map(|((org, _), counters)| {
            counters.iter().map(|counter| CounterKey { org: org.clone(), counter: counter.clone() })
        })
        .collect()
}

/// What a batch found when it locked its rows.
pub enum Locked {
    /// The holds are as they were read, and all counters are there.
    All,
    /// These counters don't exist.
    Missing(BTreeSet<CounterKey>),
    /// A hold is another by now, came or went.
    Changed,
}

/// Locks counters, then holds, each in key order: `$1` to `$4` as in [`KeyColumns`], `$5` and `$6` the ids.
/// Holds are joined with the number of counters, which is there when these are locked.
const LOCK: &str = "
    with counters as materialized (
        select from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
          join budget_counters c on c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                                and c.period_start = to_timestamp(k.period_unix_s)
         order by c.org, c.budget_id, c.subject, c.period_start
           for update of c
    ), counted as materialized (
        select count(*) as counters from counters
    ), ids as materialized (
        select h.org, h.hold_id, h.state, (extract(epoch from h.held_at) * 1000000)::bigint as held_at_us,
               (extract(epoch from h.expires_at) * 1000000)::bigint as expires_at_us
          from counted cross join unnest($5::text[], $6::uuid[]) as k (org, hold_id)
          join holds h on h.org = k.org and h.hold_id = k.hold_id
         order by h.org, h.hold_id
           for update of h
    )
    select counted.counters, ids.* from counted left join ids on true";

/// Locks counters and holds, and compares the holds with what was read without a lock. From here on the
/// lanes wait: what can be done before, is.
///
/// # Errors
/// [`StepError`].
pub fn lock(
    open: &mut Open<'_>,
    counters: &BTreeSet<CounterKey>,
    needs: &Needs<'_>,
    rows: &Rows,
) -> Result<Locked, StepError> {
    let k = KeyColumns::new(counters);
    let (orgs, ids) = needs.columns();
    let mut counted: i64 = 0;
    let mut found = 0_usize;
    for row in open.query(LOCK, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods, &orgs, &ids])? {
        counted = row.try_get("counters")?;
        let Some(org) = row.try_get("org")? else { continue };
        let key: HoldKey = (org, row.try_get("hold_id")?);
        let name: &str = row.try_get("state")?;
        let state = (name, row.try_get("held_at_us")?, row.try_get("expires_at_us")?);
        let same = |hold: &HoldRow| {
            !hold.dropped && (hold.state.as_str(), hold.held_at_unix_us, hold.expires_at_unix_us) == state
        };
        if !rows.holds.get(&key).is_some_and(same) {
            return Ok(Locked::Changed);
        }
        found = found.saturating_add(1);
    }
    if found != rows.holds.values().filter(|hold| !hold.dropped).count() {
        return Ok(Locked::Changed);
    }
    if usize::try_from(counted) != Ok(counters.len()) {
        return missing_counters(open, counters).map(Locked::Missing);
    }
    Ok(Locked::All)
}

/// Which of these counters don't exist; the others are locked already.
fn missing_counters(
    open: &mut Open<'_>,
    keys: &BTreeSet<CounterKey>,
) -> Result<BTreeSet<CounterKey>, StepError> {
    let mut missing = keys.clone();
    let k = KeyColumns::new(keys);
    for row in open.query(LOCK_COUNTERS, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods])? {
        let counter = CounterRef {
            budget_id: row.try_get("budget_id")?,
            subject: row.try_get("subject")?,
            period_start_unix_s: row.try_get("period_unix_s")?,
        };
        missing.remove(&CounterKey { org: row.try_get("org")?, counter });
    }
    Ok(missing)
}

/// Reads how many entries the ids have. Whoever adds to them changes the hold's row as well, or takes the
/// number of one that is added here; so that what is old by then is found out under the locks.
///
/// # Errors
/// [`StepError`].
pub fn read_entries(open: &mut Open<'_>, needs: &Needs<'_>) -> Result<BTreeMap<HoldKey, Entries>, StepError> {
    let (orgs, ids) = needs.columns();
    let rows = open.query(
        "select k.org, k.hold_id, r.entries, r.charged, r.settled
           from unnest($1::text[], $2::uuid[]) as k (org, hold_id)
          cross join lateral (
              select count(*)::integer as entries, sum(cost_nanousd)::bigint as charged,
                     bool_or(cause <> 'expired') as settled
                from llm_requests where org = k.org and hold_id = k.hold_id) r
          where r.entries > 0",
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
