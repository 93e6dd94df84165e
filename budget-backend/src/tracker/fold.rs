//! What an item does to the ledger. Pure: rows in, rows and counter changes out.
//!
//! | item       | no row           | open              | voided            | expired              | settled   |
//! |------------|------------------|-------------------|-------------------|----------------------|-----------|
//! | settlement | entry 0          | entry 0, release  | entry 0           | entry 1: the rest    | duplicate |
//! | void       | tombstone        | release           | duplicate         | duplicate            | duplicate |
//! | expiry     | nothing          | entry 0, release  | nothing           | nothing              | nothing   |
//!
//! So a settlement beats a void and an expiry, whatever the order they arrive in, and the entries of
//! one id always sum to what it cost.

use std::collections::BTreeMap;

use purser_protocol::{Outcome, Payer, Usage};
use serde::Serialize;
use uuid::Uuid;

use crate::ledger::decide::{CounterKey, CounterRef};

/// A hold's identity: ids are unique within an org.
pub type HoldKey = (String, Uuid);

/// The state of a hold's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldState {
    /// Money is reserved.
    Open,
    /// What it cost is in the ledger.
    Settled,
    /// Nothing was sent.
    Voided,
    /// Nobody settled it in time; it was charged in full.
    Expired,
}

impl HoldState {
    /// The name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled => "settled",
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Open, Self::Settled, Self::Voided, Self::Expired]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// A hold as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// Its state.
    pub state: HoldState,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
    /// Where it counts.
    pub counters: Vec<CounterRef>,
    /// The database's clock at its decision, Unix microseconds.
    pub held_at_unix_us: i64,
    /// When it expires, Unix microseconds.
    pub expires_at_unix_us: i64,
    /// Who pays, and what was called.
    pub subject: Subject,
}

/// Who pays for what: the columns holds and ledger entries share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The team, or `""`.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// Who bills.
    pub provider: String,
    /// The model sent upstream.
    pub model: String,
    /// The API spoken.
    pub api: String,
}

/// The ledger entries an id has already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    /// How many.
    pub count: i32,
    /// Their sum, nano-USD.
    pub charged_nanousd: i64,
    /// Whether one of them is a settlement, which is final.
    pub settled: bool,
}

/// What is known of a call's cost, nano-USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// This much.
    Exactly(i64),
    /// This much was seen, and there may be more out of sight: what was held, or without a hold the
    /// estimate, is charged if that is more.
    AtLeast(i64),
}

/// What a settlement charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// What the usage costs.
    pub cost: Cost,
    /// What a hold for it would have reserved, nano-USD.
    pub estimate_nanousd: i64,
    /// The price row used; `"*"` for a ceiling.
    pub priced_as: String,
    /// How it was found.
    pub price_match: &'static str,
    /// Since when it applies, Unix seconds.
    pub price_effective_from_unix_s: Option<i64>,
}

/// A settlement, priced and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Who pays.
    pub payer: Payer,
    /// The ledger's columns for it.
    pub subject: Subject,
    /// What it charges.
    pub charge: Charge,
    /// Facts for the detail row.
    pub facts: Facts,
    /// When the request arrived by the proxy's clock, Unix microseconds.
    pub started_at_unix_us: i64,
}

/// Facts about a call that go into its detail row as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The model the answer named.
    pub answered_model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Tokens by class.
    pub usage: Usage,
    /// `exact`, `at_least` or `none`.
    pub usage_quality: &'static str,
    /// `held` or `fail_open`.
    pub admission: &'static str,
    /// Whether it was a stream.
    pub stream: bool,
    /// The upstream's status; 0 when none came.
    pub http_status: u16,
    /// How it ended.
    pub ending: &'static str,
    /// Milliseconds from arrival to end.
    pub duration_ms: Option<i64>,
    /// Milliseconds from arrival to the first byte of the answer.
    pub first_byte_ms: Option<i64>,
}

/// Something to do to one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// It went upstream.
    Settle(Box<Settle>),
    /// It did not.
    Void(Payer),
    /// Its time is up, if it still is open.
    Expire,
    /// It can't be recorded; kept aside for somebody to look at.
    Quarantine(Quarantined),
}

/// An item that can't be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Why.
    pub reason: String,
    /// The item, as text.
    pub item: String,
}

/// A ledger entry to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The hold.
    pub key: HoldKey,
    /// 0 for the first charge, more for corrections.
    pub entry: i32,
    /// Signed, nano-USD.
    pub cost_nanousd: i64,
    /// What had been held, nano-USD.
    pub held_nanousd: i64,
    /// `settled`, `estimated` or `expired`.
    pub cause: &'static str,
    /// The instant it counts at, Unix microseconds.
    pub occurred_at_unix_us: i64,
    /// Where it counts.
    pub counters: Vec<CounterRef>,
    /// The ledger's columns for it.
    pub subject: Subject,
    /// How it was priced; `None` for an expired hold.
    pub charge: Option<Charge>,
    /// The rest of the row.
    pub facts: Facts,
}

/// What changes on one counter, nano-USD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Added to spent.
    pub spent_nanousd: i64,
    /// Added to held; never positive.
    pub held_nanousd: i64,
}

/// The rows of a batch, as read under their locks; updated as items are folded in.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Holds that exist.
    pub holds: BTreeMap<HoldKey, HoldRow>,
    /// Entries that exist.
    pub entries: BTreeMap<HoldKey, Entries>,
    /// For ids without a hold: where a settlement of that payer counts.
    pub fallback_counters: BTreeMap<HoldKey, Vec<CounterRef>>,
    /// The database's clock, Unix microseconds.
    pub now_unix_us: i64,
}

/// What a batch writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Ledger entries.
    pub entries: Vec<NewEntry>,
    /// Counter changes.
    pub changes: BTreeMap<CounterKey, Change>,
    /// Ids whose row exists and changes state.
    pub states: BTreeMap<HoldKey, HoldState>,
    /// Rows to make, for ids without one.
    pub tombstones: BTreeMap<HoldKey, HoldRow>,
    /// Items to keep aside.
    pub quarantined: Vec<(HoldKey, Quarantined)>,
}

/// How far back a settlement without a hold may date itself: its outbox waits out an outage, but a
/// clock that is wrong by years must not charge another year.
const MAX_AGE_US: i64 = 7 * 24 * 3600 * 1_000_000;

/// The instant a settlement without a hold counts at: its request's time, not later than now and not
/// earlier than a week ago.
#[must_use]
pub fn clamp_started_at(started_at_unix_us: i64, now_unix_us: i64) -> i64 {
    started_at_unix_us.clamp(now_unix_us.saturating_sub(MAX_AGE_US), now_unix_us)
}

/// Folds one item into the batch.
pub fn fold(key: &HoldKey, item: &Item, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    match item {
        Item::Settle(settle) => fold_settle(key, settle, rows, effects),
        Item::Void(payer) => fold_void(key, payer, rows, effects),
        Item::Expire => fold_expire(key, rows, effects),
        Item::Quarantine(quarantined) => {
            effects.quarantined.push((key.clone(), quarantined.clone()));
            Outcome::Rejected { reason: quarantined.reason.clone() }
        }
    }
}

fn fold_settle(key: &HoldKey, settle: &Settle, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    let entries = rows.entries.get(key).copied().unwrap_or_default();
    let row = rows.holds.get(key).cloned();
    if entries.settled || row.as_ref().is_some_and(|row| row.state == HoldState::Settled) {
        return Outcome::Duplicate;
    }
    let held_nanousd = row.as_ref().map_or(0, |row| row.held_nanousd);
    let expected_nanousd = if held_nanousd > 0 { held_nanousd } else { settle.charge.estimate_nanousd };
    let (cost_nanousd, cause) = match settle.charge.cost {
        Cost::Exactly(cost) => (cost, "settled"),
        Cost::AtLeast(cost) => (cost.max(expected_nanousd), "estimated"),
    };
    let fallback = || rows.fallback_counters.get(key).cloned().unwrap_or_default();
    let mut subject = settle.subject.clone();
    let (counters, occurred_at_unix_us) = match &row {
        Some(row) if !(row.state == HoldState::Voided && row.counters.is_empty()) => {
            // Who pays was fixed with the hold; the rows must say the same as the counters.
            (subject.team, subject.user) = (row.subject.team.clone(), row.subject.user.clone());
            (row.counters.clone(), row.held_at_unix_us)
        }
        _ => (fallback(), clamp_started_at(settle.started_at_unix_us, rows.now_unix_us)),
    };
    let released =
        if row.as_ref().is_some_and(|row| row.state == HoldState::Open) { held_nanousd } else { 0 };
    let entry = NewEntry {
        key: key.clone(),
        entry: entries.count,
        cost_nanousd: cost_nanousd.saturating_sub(entries.charged_nanousd),
        held_nanousd,
        cause,
        occurred_at_unix_us,
        counters,
        subject: subject.clone(),
        charge: Some(settle.charge.clone()),
        facts: settle.facts.clone(),
    };
    charge(entry, released, true, rows, effects);
    close(key, row, &subject, HoldState::Settled, rows, effects);
    Outcome::Recorded
}

fn fold_void(key: &HoldKey, payer: &Payer, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    let row = rows.holds.get(key).cloned();
    match &row {
        None if rows.entries.contains_key(key) => return Outcome::Duplicate,
        Some(row) if row.state != HoldState::Open => return Outcome::Duplicate,
        Some(row) => change_counters(key, &row.counters, 0, row.held_nanousd, effects),
        None => {}
    }
    let subject = Subject {
        team: payer.team.clone().unwrap_or_default(),
        user: payer.user.clone().unwrap_or_default(),
        provider: String::new(),
        model: String::new(),
        api: String::new(),
    };
    close(key, row, &subject, HoldState::Voided, rows, effects);
    Outcome::Recorded
}

fn fold_expire(key: &HoldKey, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    let Some(row) = rows.holds.get(key).cloned() else {
        return Outcome::Duplicate;
    };
    if row.state != HoldState::Open || row.expires_at_unix_us > rows.now_unix_us {
        return Outcome::Duplicate;
    }
    let entry = NewEntry {
        key: key.clone(),
        entry: rows.entries.get(key).map_or(0, |entries| entries.count),
        cost_nanousd: row.held_nanousd,
        held_nanousd: row.held_nanousd,
        cause: "expired",
        occurred_at_unix_us: row.held_at_unix_us,
        counters: row.counters.clone(),
        subject: row.subject.clone(),
        charge: None,
        facts: Facts { usage_quality: "none", admission: "held", ending: "unknown", ..Facts::default() },
    };
    let subject = row.subject.clone();
    charge(entry, row.held_nanousd, false, rows, effects);
    close(key, Some(row), &subject, HoldState::Expired, rows, effects);
    Outcome::Recorded
}

/// Adds a ledger entry, its charge, and the release of what was held for it.
fn charge(entry: NewEntry, released_nanousd: i64, settles: bool, rows: &mut Rows, effects: &mut Effects) {
    change_counters(&entry.key, &entry.counters, entry.cost_nanousd, released_nanousd, effects);
    let entries = rows.entries.entry(entry.key.clone()).or_default();
    entries.count = entries.count.saturating_add(1);
    entries.charged_nanousd = entries.charged_nanousd.saturating_add(entry.cost_nanousd);
    entries.settled |= settles;
    effects.entries.push(entry);
}

fn change_counters(
    key: &HoldKey,
    counters: &[CounterRef],
    spent_nanousd: i64,
    released_nanousd: i64,
    effects: &mut Effects,
) {
    for counter in counters {
        let counter = CounterKey { org: key.0.clone(), counter: counter.clone() };
        let change = effects.changes.entry(counter).or_default();
        change.spent_nanousd = change.spent_nanousd.saturating_add(spent_nanousd);
        change.held_nanousd = change.held_nanousd.saturating_sub(released_nanousd);
    }
}

/// Moves the id's row to a closed state, or leaves one where there was none, so that a hold that
/// arrives later finds it.
fn close(
    key: &HoldKey,
    row: Option<HoldRow>,
    subject: &Subject,
    state: HoldState,
    rows: &mut Rows,
    effects: &mut Effects,
) {
    let existed = row.is_some() && !effects.tombstones.contains_key(key);
    let row = HoldRow {
        state,
        ..row.unwrap_or_else(|| HoldRow {
            state,
            held_nanousd: 0,
            counters: Vec::new(),
            held_at_unix_us: rows.now_unix_us,
            expires_at_unix_us: rows.now_unix_us,
            subject: subject.clone(),
        })
    };
    if existed {
        effects.states.insert(key.clone(), state);
    } else {
        effects.tombstones.insert(key.clone(), row.clone());
    }
    rows.holds.insert(key.clone(), row);
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
