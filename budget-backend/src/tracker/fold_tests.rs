use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::tracker::model::{Charge, Cheaper, Entries};

const NOW_US: i64 = 1_800_000_000_000_000;

fn key() -> HoldKey {
    ("acme".into(), Uuid::from_u128(7))
}

fn counters() -> Vec<CounterRef> {
    vec![CounterRef { budget_id: 1, subject: String::new(), period_start_unix_s: 0 }]
}

fn subject() -> Subject {
    Subject {
        team: "search".into(),
        user: "ann".into(),
        provider: "openai".into(),
        model: "gpt-4o".into(),
        api: "openai_chat".into(),
        tags: BTreeMap::from([("project".to_owned(), "blue".to_owned())]),
    }
}

fn payer() -> Payer {
    Payer { org: "acme".into(), team: Some("search".into()), user: Some("ann".into()) }
}

fn settle(cost: Cost) -> Item {
    Item::Settle(Box::new(Settle {
        payer: payer(),
        subject: subject(),
        stands_for: Vec::new(),
        asked_model: None,
        charge: Charge {
            cost,
            estimate_nanousd: 77,
            price_id: None,
            price_flag: "",
            unpriced: Vec::new(),
            priced_as: "gpt-4o".into(),
            price_match: "exact",
            price_effective_from_unix_s: Some(1),
        },
        facts: Facts::default(),
        started_at_unix_us: NOW_US - 1_000,
    }))
}

fn row(state: HoldState) -> HoldRow {
    HoldRow {
        state,
        held_nanousd: 100,
        counters: counters(),
        held_at_unix_us: NOW_US - 5_000,
        expires_at_unix_us: NOW_US - 1,
        subject: subject(),
        override_id: Some(3),
        cheaper: Cheaper::default(),
        dropped: false,
    }
}

/// A ledger of one id, run through `fold` batch by batch as the database would be.
struct Model {
    rows: Rows,
    spent_nanousd: i64,
    held_nanousd: i64,
    entries: Vec<NewEntry>,
}

impl Model {
    fn new(hold: Option<HoldState>) -> Self {
        let mut rows = Rows { now_unix_us: NOW_US, hold_ttl_s: 900, ..Rows::default() };
        rows.fallback_counters.insert(key(), counters());
        let held_nanousd = if hold == Some(HoldState::Open) { 100 } else { 0 };
        if let Some(state) = hold {
            rows.holds.insert(key(), row(state));
        }
        Self { rows, spent_nanousd: 0, held_nanousd, entries: Vec::new() }
    }

    fn apply(&mut self, item: &Item) -> Outcome {
        let mut effects = Effects::default();
        let outcome = fold(&key(), item, &mut self.rows, &mut effects);
        for change in effects.changes.values() {
            self.spent_nanousd += change.spent_nanousd;
            self.held_nanousd += change.held_nanousd;
        }
        self.entries.extend(effects.entries);
        outcome
    }
}

#[test]
fn items_do_what_the_table_says() {
    use HoldState::{Expired, Open, Settled, Voided};
    let cost = || settle(Cost::Exactly(40));
    let void = || Item::Void(payer());
    let recorded = Outcome::Recorded;
    let duplicate = Outcome::Duplicate;
    // (row, items) → (outcomes, spent, held, entries, state)
    type Case = (Option<HoldState>, Vec<Item>, Vec<Outcome>, i64, i64, usize, Option<HoldState>);
    let cases: Vec<Case> = vec![
        (Some(Open), vec![cost()], vec![recorded.clone()], 40, 0, 1, Some(Settled)),
        (
            Some(Open),
            vec![cost(), cost()],
            vec![recorded.clone(), duplicate.clone()],
            40,
            0,
            1,
            Some(Settled),
        ),
        (Some(Open), vec![settle(Cost::Exactly(0))], vec![recorded.clone()], 0, 0, 1, Some(Settled)),
        (Some(Open), vec![settle(Cost::Exactly(140))], vec![recorded.clone()], 140, 0, 1, Some(Settled)),
        (Some(Open), vec![settle(Cost::AtLeast(0))], vec![recorded.clone()], 100, 0, 1, Some(Settled)),
        (Some(Open), vec![settle(Cost::AtLeast(99))], vec![recorded.clone()], 100, 0, 1, Some(Settled)),
        (Some(Open), vec![settle(Cost::AtLeast(101))], vec![recorded.clone()], 101, 0, 1, Some(Settled)),
        (None, vec![settle(Cost::AtLeast(76))], vec![recorded.clone()], 77, 0, 1, Some(Settled)),
        (None, vec![settle(Cost::AtLeast(78))], vec![recorded.clone()], 78, 0, 1, Some(Settled)),
        (Some(Open), vec![void()], vec![recorded.clone()], 0, 0, 0, Some(Voided)),
        (Some(Open), vec![void(), void()], vec![recorded.clone(), duplicate.clone()], 0, 0, 0, Some(Voided)),
        (Some(Open), vec![void(), cost()], vec![recorded.clone(), recorded.clone()], 40, 0, 1, Some(Settled)),
        (
            Some(Open),
            vec![cost(), void()],
            vec![recorded.clone(), duplicate.clone()],
            40,
            0,
            1,
            Some(Settled),
        ),
        (Some(Open), vec![Item::Expire], vec![recorded.clone()], 100, 0, 1, Some(Expired)),
        (
            Some(Open),
            vec![Item::Expire, Item::Expire],
            vec![recorded.clone(), duplicate.clone()],
            100,
            0,
            1,
            Some(Expired),
        ),
        (
            Some(Open),
            vec![Item::Expire, cost()],
            vec![recorded.clone(), recorded.clone()],
            40,
            0,
            2,
            Some(Settled),
        ),
        (
            Some(Open),
            vec![Item::Expire, cost(), cost()],
            vec![recorded.clone(), recorded.clone(), duplicate.clone()],
            40,
            0,
            2,
            Some(Settled),
        ),
        (
            Some(Open),
            vec![Item::Expire, void()],
            vec![recorded.clone(), duplicate.clone()],
            100,
            0,
            1,
            Some(Expired),
        ),
        (
            Some(Open),
            vec![Item::Expire, settle(Cost::AtLeast(0))],
            vec![recorded.clone(), recorded.clone()],
            100,
            0,
            2,
            Some(Settled),
        ),
        (None, vec![cost()], vec![recorded.clone()], 40, 0, 1, Some(Settled)),
        (None, vec![settle(Cost::AtLeast(0))], vec![recorded.clone()], 77, 0, 1, Some(Settled)),
        (None, vec![cost(), cost()], vec![recorded.clone(), duplicate.clone()], 40, 0, 1, Some(Settled)),
        (None, vec![void()], vec![recorded.clone()], 0, 0, 0, Some(Voided)),
        (None, vec![void(), cost()], vec![recorded.clone(), recorded.clone()], 40, 0, 1, Some(Settled)),
        (None, vec![Item::Expire], vec![duplicate.clone()], 0, 0, 0, None),
        (Some(Open), vec![Item::Renew], vec![recorded.clone()], 0, 100, 0, Some(Open)),
        (
            Some(Open),
            vec![Item::Renew, Item::Expire],
            vec![recorded.clone(), duplicate.clone()],
            0,
            100,
            0,
            Some(Open),
        ),
        (
            Some(Open),
            vec![Item::Expire, Item::Renew],
            vec![recorded.clone(), duplicate.clone()],
            100,
            0,
            1,
            Some(Expired),
        ),
        (
            Some(Open),
            vec![Item::Renew, cost()],
            vec![recorded.clone(), recorded.clone()],
            40,
            0,
            1,
            Some(Settled),
        ),
        (Some(Settled), vec![Item::Renew], vec![duplicate.clone()], 0, 0, 0, Some(Settled)),
        (Some(Voided), vec![Item::Renew], vec![duplicate.clone()], 0, 0, 0, Some(Voided)),
        (None, vec![Item::Renew], vec![duplicate], 0, 0, 0, None),
    ];
    for (hold, items, outcomes, spent, held, entries, state) in cases {
        let mut model = Model::new(hold);
        let label = format!("{hold:?} {items:?}");
        let got: Vec<Outcome> = items.iter().map(|item| model.apply(item)).collect();
        assert_eq!(got, outcomes, "{label}");
        assert_eq!((model.spent_nanousd, model.held_nanousd), (spent, held), "{label}");
        assert_eq!(model.entries.len(), entries, "{label}");
        assert_eq!(model.entries.iter().map(|entry| entry.cost_nanousd).sum::<i64>(), spent, "{label}");
        let numbers: Vec<i32> = model.entries.iter().map(|entry| entry.entry).collect();
        assert_eq!(numbers, (0_i32..).take(entries).collect::<Vec<_>>(), "{label}");
        assert_eq!(model.rows.holds.get(&key()).map(|row| row.state), state, "{label}");
    }
}

#[test]
fn an_open_hold_that_has_not_expired_is_left_alone() {
    let mut model = Model::new(Some(HoldState::Open));
    model.rows.holds.get_mut(&key()).unwrap().expires_at_unix_us = NOW_US + 1;
    assert_eq!(model.apply(&Item::Expire), Outcome::Duplicate);
    assert_eq!(model.held_nanousd, 100);
}

#[test]
fn a_renewal_moves_the_expiry_and_never_back() {
    for (expires_at_unix_us, expected) in
        [(NOW_US - 1, NOW_US + 900_000_000), (NOW_US + 900_000_001, NOW_US + 900_000_001)]
    {
        let mut model = Model::new(Some(HoldState::Open));
        model.rows.holds.get_mut(&key()).unwrap().expires_at_unix_us = expires_at_unix_us;
        let mut effects = Effects::default();
        assert_eq!(fold(&key(), &Item::Renew, &mut model.rows, &mut effects), Outcome::Recorded);
        let update = HoldUpdate { state: HoldState::Open, expires_at_unix_us: expected };
        assert_eq!(effects.updates, BTreeMap::from([(key(), update)]));
        assert!(effects.changes.is_empty() && effects.entries.is_empty());
    }
}

#[test]
fn a_late_settlement_counts_where_the_charge_of_its_dropped_hold_did() {
    let mut model = Model::new(Some(HoldState::Expired));
    model.rows.holds.get_mut(&key()).unwrap().dropped = true;
    model.rows.fallback_counters.insert(key(), Vec::new());
    model.rows.entries.insert(key(), Entries { count: 1, charged_nanousd: 100, settled: false });
    let mut effects = Effects::default();
    let outcome = fold(&key(), &settle(Cost::Exactly(40)), &mut model.rows, &mut effects);
    assert_eq!(outcome, Outcome::Recorded);
    let [entry] = &effects.entries[..] else { panic!("{effects:?}") };
    assert_eq!((entry.entry, entry.cost_nanousd, entry.held_nanousd), (1, -60, 100));
    assert_eq!((&entry.counters, entry.occurred_at_unix_us), (&counters(), NOW_US - 5_000));
    assert!(effects.updates.is_empty(), "there is no row to change");
    assert_eq!(effects.tombstones[&key()].state, HoldState::Settled);
}

#[test]
fn tags_and_override_are_the_hold_s_and_without_one_the_settlement_s() {
    let Item::Settle(mut other) = settle(Cost::Exactly(40)) else { panic!("not a settlement") };
    other.subject.tags = BTreeMap::from([("project".to_owned(), "red".to_owned())]);
    for (hold, project, override_id) in [
        (Some(HoldState::Open), "blue", Some(3)),
        (Some(HoldState::Expired), "blue", Some(3)),
        (None, "red", None),
    ] {
        let mut model = Model::new(hold);
        model.apply(&Item::Settle(other.clone()));
        let booked = &model.entries[0];
        assert_eq!((booked.subject.tags["project"].as_str(), booked.override_id), (project, override_id));
    }
    let mut model = Model::new(Some(HoldState::Open));
    model.apply(&Item::Expire);
    assert_eq!(model.entries[0].subject.tags["project"], "blue");
    assert_eq!(model.entries[0].override_id, Some(3));
}

#[test]
fn a_settlement_counts_where_its_hold_was_made() {
    let mut model = Model::new(Some(HoldState::Open));
    model.rows.fallback_counters.insert(key(), Vec::new());
    model.apply(&settle(Cost::Exactly(40)));
    assert_eq!(model.entries[0].counters, counters());
    assert_eq!(model.entries[0].occurred_at_unix_us, NOW_US - 5_000);
}

#[test]
fn a_settlement_whose_row_is_gone_is_still_counted_once() {
    // The tombstone was removed by retention; the ledger's own entries remain.
    let mut model = Model::new(None);
    model.rows.entries.insert(key(), Entries { count: 1, charged_nanousd: 40, settled: true });
    assert_eq!(model.apply(&settle(Cost::Exactly(40))), Outcome::Duplicate);
    assert_eq!(model.apply(&Item::Void(payer())), Outcome::Duplicate);
    assert_eq!(model.spent_nanousd, 0);
}

#[test]
fn a_request_time_is_clamped_to_the_last_week() {
    let week_us = 7 * 24 * 3600 * 1_000_000;
    assert_eq!(clamp_started_at(NOW_US + 1, NOW_US), NOW_US);
    assert_eq!(clamp_started_at(NOW_US - 5, NOW_US), NOW_US - 5);
    assert_eq!(clamp_started_at(0, NOW_US), NOW_US - week_us);
}

#[test]
fn one_batch_may_hold_an_id_twice() {
    let mut rows = Rows { now_unix_us: NOW_US, ..Rows::default() };
    let mut effects = Effects::default();
    assert_eq!(fold(&key(), &Item::Void(payer()), &mut rows, &mut effects), Outcome::Recorded);
    assert_eq!(fold(&key(), &settle(Cost::Exactly(1)), &mut rows, &mut effects), Outcome::Recorded);
    assert_eq!(effects.tombstones[&key()].state, HoldState::Settled);
    assert!(effects.updates.is_empty());
}

#[test]
fn a_settlement_that_names_another_payer_is_booked_to_the_hold_s() {
    let mut model = Model::new(Some(HoldState::Open));
    let Item::Settle(mut other) = settle(Cost::Exactly(40)) else { panic!("not a settlement") };
    (other.subject.team, other.subject.user) = ("ads".into(), "eve".into());
    model.apply(&Item::Settle(other));
    let booked = &model.entries[0].subject;
    assert_eq!((booked.team.as_str(), booked.user.as_str()), ("search", "ann"));
}

#[test]
fn an_id_that_is_held_again_after_it_was_charged_is_given_back_and_not_charged_again() {
    for (settled, item, state) in [
        (true, settle(Cost::Exactly(40)), HoldState::Settled),
        (true, Item::Expire, HoldState::Settled),
        (false, Item::Expire, HoldState::Expired),
    ] {
        let mut model = Model::new(Some(HoldState::Open));
        model.rows.entries.insert(key(), Entries { count: 1, charged_nanousd: 40, settled });
        assert_eq!(model.apply(&item), Outcome::Duplicate, "{item:?}");
        assert_eq!((model.spent_nanousd, model.held_nanousd, model.entries.len()), (0, 0, 0), "{item:?}");
        assert_eq!(model.rows.holds[&key()].state, state, "{item:?}");
    }
}

#[test]
fn what_a_ladder_made_of_a_call_is_said_by_its_hold_and_without_one_by_its_sender() {
    let asked = |model: &str| Some(model.to_owned());
    let degraded = Cheaper { asked_model: asked("gpt-5.4"), clamped_to_tokens: Some(64) };
    let ignored = Cheaper { asked_model: Some(subject().model), clamped_to_tokens: None };
    let told = || {
        let Item::Settle(mut settle) = settle(Cost::Exactly(5)) else { panic!("a settlement") };
        settle.asked_model = asked("told");
        Item::Settle(settle)
    };
    for (hold, item, expected) in [
        (Some(degraded.clone()), settle(Cost::Exactly(5)), degraded.clone()),
        (Some(degraded.clone()), told(), degraded.clone()),
        (Some(degraded.clone()), Item::Expire, degraded),
        (Some(ignored), settle(Cost::Exactly(5)), Cheaper::default()),
        (Some(Cheaper::default()), settle(Cost::Exactly(5)), Cheaper::default()),
        (None, told(), Cheaper { asked_model: asked("told"), clamped_to_tokens: None }),
    ] {
        let mut model = Model::new(hold.as_ref().map(|_| HoldState::Open));
        if let (Some(hold), Some(row)) = (hold, model.rows.holds.get_mut(&key())) {
            row.cheaper = hold;
        }
        model.apply(&item);
        assert_eq!(model.entries[0].cheaper, expected, "{item:?}");
    }
}
