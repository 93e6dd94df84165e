//! What an item does to the ledger. Pure: rows in, rows and counter changes out.
//!
//! | item       | no row           | open              | voided            | expired              | settled   |
//! |------------|------------------|-------------------|-------------------|----------------------|-----------|
//! | settlement | entry 0          | entry 0, release  | entry 0           | entry 1: the rest    | duplicate |
//! | void       | tombstone        | release           | duplicate         | duplicate            | duplicate |
//! | expiry     | nothing          | entry 0, release  | nothing           | nothing              | nothing   |
//! | renewal    | nothing          | lives on          | nothing           | nothing              | nothing   |
//!
//! So a settlement beats a void and an expiry, whatever the order they arrive in, and the entries of
//! one id always sum to what it cost. A row that retention dropped is taken from its first entry, so
//! that a correction counts where the charge did, however late it comes.

use purser_protocol::{Outcome, Payer};

use super::model::{
    Cheaper, Cost, Effects, Facts, HoldKey, HoldRow, HoldState, HoldUpdate, Item, NewEntry, Rows, Settle,
    Subject,
};
use crate::ledger::decide::{CounterKey, CounterRef};

/// How far back a settlement without a hold may date itself: its outbox waits out an outage, but a
/// clock that is wrong by years must not charge another year.
pub const MAX_AGE_US: i64 = 7 * 24 * 3600 * 1_000_000;

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
        Item::Renew => fold_renew(key, rows, effects),
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
        release_again(key, row, HoldState::Settled, rows, effects);
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
        Some(row) if row.says_where_it_counts() => {
            // Who pays was fixed with the hold; the rows must say the same as the counters.
            (subject.team, subject.user) = (row.subject.team.clone(), row.subject.user.clone());
            subject.tags = row.subject.tags.clone();
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
        override_id: row.as_ref().and_then(|row| row.override_id),
        cheaper: cheaper(row.as_ref(), settle),
        charge: Some(settle.charge.clone()),
        facts: settle.facts.clone(),
    };
    charge(entry, released, true, rows, effects);
    close(key, row, &subject, HoldState::Settled, rows, effects);
    Outcome::Recorded
}

/// What the hold says of it, or without a hold its sender. A call that went out by the model asked for,
/// whatever its verdict said, was not made cheaper.
fn cheaper(row: Option<&HoldRow>, settle: &Settle) -> Cheaper {
    let held = row.map(|row| row.cheaper.clone()).unwrap_or_default();
    let asked_model = held.asked_model.or_else(|| settle.asked_model.clone());
    Cheaper { asked_model: asked_model.filter(|model| *model != settle.subject.model), ..held }
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
        ..Subject::default()
    };
    close(key, row, &subject, HoldState::Voided, rows, effects);
    Outcome::Recorded
}

/// A hold that is still open lives on, also one whose time is up and that no sweep has met yet.
fn fold_renew(key: &HoldKey, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    let (now_unix_us, ttl_us) = (rows.now_unix_us, rows.hold_ttl_s.saturating_mul(1_000_000));
    let Some(row) = rows.holds.get_mut(key).filter(|row| row.state == HoldState::Open) else {
        return Outcome::Duplicate;
    };
    row.expires_at_unix_us = row.expires_at_unix_us.max(now_unix_us.saturating_add(ttl_us));
    let update = HoldUpdate { state: HoldState::Open, expires_at_unix_us: row.expires_at_unix_us };
    effects.updates.insert(key.clone(), update);
    Outcome::Recorded
}

fn fold_expire(key: &HoldKey, rows: &mut Rows, effects: &mut Effects) -> Outcome {
    let Some(row) = rows.holds.get(key).cloned() else {
        return Outcome::Duplicate;
    };
    if row.state != HoldState::Open || row.expires_at_unix_us > rows.now_unix_us {
        return Outcome::Duplicate;
    }
    if let Some(entries) = rows.entries.get(key).copied() {
        let state = if entries.settled { HoldState::Settled } else { HoldState::Expired };
        release_again(key, Some(row), state, rows, effects);
        return Outcome::Duplicate;
    }
    let entry = NewEntry {
        key: key.clone(),
        entry: 0,
        cost_nanousd: row.held_nanousd,
        held_nanousd: row.held_nanousd,
        cause: "expired",
        occurred_at_unix_us: row.held_at_unix_us,
        counters: row.counters.clone(),
        subject: row.subject.clone(),
        override_id: row.override_id,
        cheaper: row.cheaper.clone(),
        charge: None,
        facts: Facts { usage_quality: "none", admission: "held", ending: "unknown", ..Facts::default() },
    };
    let subject = row.subject.clone();
    charge(entry, row.held_nanousd, false, rows, effects);
    close(key, Some(row), &subject, HoldState::Expired, rows, effects);
    Outcome::Recorded
}

/// Gives back what is held by an id that was charged before: it was held once more long after its row
/// was dropped. Its entries stay as they are.
fn release_again(
    key: &HoldKey,
    row: Option<HoldRow>,
    state: HoldState,
    rows: &mut Rows,
    effects: &mut Effects,
) {
    if let Some(row) = row.filter(|row| row.state == HoldState::Open) {
        change_counters(key, &row.counters, 0, row.held_nanousd, effects);
        let subject = row.subject.clone();
        close(key, Some(row), &subject, state, rows, effects);
    }
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
    let stored = row.as_ref().is_some_and(|row| !row.dropped) && !effects.tombstones.contains_key(key);
    let row = HoldRow {
        state,
        ..row.unwrap_or_else(|| HoldRow {
            state,
            held_nanousd: 0,
            counters: Vec::new(),
            held_at_unix_us: rows.now_unix_us,
            expires_at_unix_us: rows.now_unix_us,
            subject: subject.clone(),
            override_id: None,
            cheaper: Cheaper::default(),
            dropped: false,
        })
    };
    if stored {
        let update = HoldUpdate { state, expires_at_unix_us: row.expires_at_unix_us };
        effects.updates.insert(key.clone(), update);
    } else {
        effects.tombstones.insert(key.clone(), row.clone());
    }
    rows.holds.insert(key.clone(), row);
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
