use purser_protocol::{Payer, Window};

use super::*;
use std::sync::Arc;

use crate::estimate::Bound;
use crate::pricing::CostLine;
use crate::quote::Quote;
use crate::window::Period;

fn touch(tier: Tier, budget_id: i64, limit_nanousd: i64) -> Touch {
    Touch {
        key: CounterKey {
            org: "acme".into(),
            counter: CounterRef { budget_id, subject: String::new(), period_start_unix_s: 0 },
        },
        tier,
        window: Window::Day,
        limit_nanousd,
        mode: Mode::Enforce,
        strict: false,
        replaced: false,
        ladder: Arc::default(),
        period: Period { start_unix_s: 0, end_unix_s: Some(86_400) },
    }
}

fn terms(touches: &[Touch]) -> Terms {
    Terms { touches: touches.to_vec(), ..Terms::default() }
}

/// What can't be clamped, with a bound of ten times the amount.
fn quote(amount_nanousd: i64) -> Quote {
    let line = CostLine::default();
    Quote {
        amount_nanousd,
        line,
        bound: Ok(Bound { amount_nanousd: amount_nanousd * 10, line, output_cap_tokens: Some(64) }),
        unknown_model: false,
        clampable: false,
    }
}

fn ask(number: u128, amount_nanousd: i64) -> HoldAsk {
    HoldAsk {
        hold_id: Uuid::from_u128(number),
        payer: Payer { org: "acme".into(), team: None, user: None },
        provider: "openai".into(),
        model: "gpt-4o".into(),
        api: purser_protocol::Api::OpenaiChat,
        quote: quote(amount_nanousd),
        others: Arc::new(BTreeMap::<String, Quote>::new()),
        tags: BTreeMap::new(),
    }
}

fn counters(touches: &[Touch], spent_nanousd: i64, held_nanousd: i64) -> Counters {
    let counter = Counter { spent_nanousd, held_nanousd, topped_up_nanousd: 0 };
    touches.iter().map(|touch| (touch.key.clone(), counter)).collect()
}

fn one(terms: &Terms, counters: &mut Counters, amount_nanousd: i64) -> Decision {
    decide(&ask(1, amount_nanousd), terms, counters, &mut KnownHolds::new())
}

fn grant(decision: Decision) -> Grant {
    match decision {
        Decision::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hold_that_fits_everywhere_is_held_everywhere() {
    let touches = [touch(Tier::Org, 1, 100), touch(Tier::Team, 2, 50), touch(Tier::User, 3, 50)];
    let mut counters = counters(&touches, 20, 10);
    let grant = grant(one(&terms(&touches), &mut counters, 20));
    assert_eq!((grant.held_nanousd, grant.strict, grant.rewrite.clone()), (20, false, Rewritten::default()));
    assert!(counters.values().all(|counter| counter.held_nanousd == 30));
    let left: Vec<(Tier, i64)> =
        grant.remaining.iter().map(|tier| (tier.tier, tier.remaining_nanousd)).collect();
    assert_eq!(left, [(Tier::Org, 50), (Tier::Team, 0), (Tier::User, 0)]);
}

#[test]
fn one_short_budget_refuses_and_nothing_is_held() {
    for short in 0..3_usize {
        let mut touches = [touch(Tier::Org, 1, 100), touch(Tier::Team, 2, 100), touch(Tier::User, 3, 100)];
        touches[short].limit_nanousd = 49;
        let before = counters(&touches, 20, 10);
        let mut after = before.clone();
        let mut known = KnownHolds::new();
        let ask = ask(1, 20);
        let decision = decide(&ask, &terms(&touches), &mut after, &mut known);
        let Decision::Refused(refusal) = decision else { panic!("{decision:?}") };
        assert_eq!((refusal.touch.clone(), refusal.needed_nanousd), (touches[short].clone(), 20));
        assert_eq!(after, before);
        assert!(known.is_empty());
    }
}

#[test]
fn exactly_as_many_fit_as_the_limit_pays() {
    let touches = [touch(Tier::Org, 1, 95)];
    let mut counters = counters(&touches, 0, 0);
    let mut known = KnownHolds::new();
    let asks: Vec<HoldAsk> = (0..20).map(|number| ask(number, 10)).collect();
    let granted = asks
        .iter()
        .filter(|ask| {
            let decision = decide(ask, &terms(&touches), &mut counters, &mut known);
            matches!(decision, Decision::Granted(_))
        })
        .count();
    assert_eq!(granted, 9);
}

#[test]
fn a_repeat_is_answered_and_not_repeated_and_a_closed_id_stays_closed() {
    let touches = [touch(Tier::Org, 1, 100)];
    let (first, next) = (ask(1, 60), ask(2, 1));
    // The same id under another org is another hold.
    let mut other = ask(1, 1);
    other.payer.org = "other".into();
    let mut counters = counters(&touches, 0, 0);
    let mut known = KnownHolds::new();
    decide(&first, &terms(&touches), &mut counters, &mut known);
    let again = decide(&first, &terms(&touches), &mut counters, &mut known);
    assert!(matches!(again, Decision::Repeated(Grant { held_nanousd: 60, .. })), "{again:?}");
    assert_eq!(counters[&touches[0].key].held_nanousd, 60);
    // Even where the call would be barred by now.
    let barred = Terms { barred: Some(Barred::NoBudget(Tier::Team)), ..terms(&touches) };
    assert!(matches!(decide(&first, &barred, &mut counters, &mut known), Decision::Repeated(_)));
    assert!(matches!(decide(&next, &barred, &mut counters, &mut known), Decision::Barred(_)));
    known.insert(
        ("acme", Uuid::from_u128(1)),
        KnownHold { held_nanousd: 60, same_call: true, ..KnownHold::default() },
    );
    assert_eq!(decide(&first, &terms(&touches), &mut counters, &mut known), Decision::Closed);
    let decision = decide(&other, &Terms::default(), &mut counters, &mut known);
    assert!(matches!(decision, Decision::Granted(_)));
}

#[test]
fn a_repeat_that_is_another_call_is_not_answered_with_the_grant() {
    let strict = [Touch { strict: true, ..touch(Tier::Org, 1, 1_000) }];
    let mut counters = counters(&strict, 0, 0);
    // The bound of an ask is ten times its amount.
    for (known, amount_nanousd, repeats) in [
        (KnownHold { open: true, held_nanousd: 60, same_call: true, ..KnownHold::default() }, 6, true),
        (KnownHold { open: true, held_nanousd: 60, same_call: true, ..KnownHold::default() }, 7, false),
        (KnownHold { open: true, held_nanousd: 60, ..KnownHold::default() }, 6, false),
    ] {
        let again = ask(1, amount_nanousd);
        let mut holds = KnownHolds::from([(("acme", again.hold_id), known)]);
        let decision = decide(&again, &terms(&strict), &mut counters, &mut holds);
        assert_eq!(matches!(decision, Decision::Repeated(_)), repeats, "{decision:?}");
    }
}

#[test]
fn a_replaced_row_counts_and_has_no_say() {
    let replaced = Touch { replaced: true, strict: true, ..touch(Tier::User, 1, 1) };
    let touches = [replaced, touch(Tier::User, 2, 100)];
    let mut counters = counters(&touches, 0, 0);
    let grant = grant(one(&terms(&touches), &mut counters, 5));
    assert!(grant.passed_over.is_empty() && !grant.strict);
    assert_eq!(grant.remaining[0].limit_nanousd, 100);
    assert!(counters.values().all(|counter| counter.held_nanousd == 5));
}

#[test]
fn a_limit_below_what_was_spent_refuses_even_a_free_call() {
    let touches = [touch(Tier::Org, 1, 10)];
    let decision = one(&terms(&touches), &mut counters(&touches, 11, 0), 0);
    assert!(matches!(decision, Decision::Refused(_)), "{decision:?}");
}

#[test]
fn the_tightest_budget_of_a_tier_is_reported() {
    let touches = [touch(Tier::Org, 1, 100), touch(Tier::Org, 2, 70), touch(Tier::Org, 3, 90)];
    let remaining = grant(one(&terms(&touches), &mut counters(&touches, 0, 0), 5)).remaining;
    assert_eq!(remaining.len(), 1);
    assert_eq!((remaining[0].limit_nanousd, remaining[0].remaining_nanousd), (70, 65));
}

#[test]
fn a_top_up_adds_to_the_limit() {
    let touches = [touch(Tier::Org, 1, 100)];
    let mut counters = counters(&touches, 100, 0);
    assert!(matches!(one(&terms(&touches), &mut counters, 5), Decision::Refused(_)));
    counters.values_mut().for_each(|counter| counter.topped_up_nanousd = 5);
    let remaining = grant(one(&terms(&touches), &mut counters, 5)).remaining;
    assert_eq!((remaining[0].limit_nanousd, remaining[0].remaining_nanousd), (105, 0));
    let decision = one(&terms(&touches), &mut counters, 1);
    assert!(
        matches!(&decision, Decision::Refused(refusal) if refusal.limit_nanousd() == 105),
        "{decision:?}"
    );
}

#[test]
fn a_shadow_counts_and_notes_and_refuses_nothing() {
    let shadow = Touch { mode: Mode::Shadow, strict: true, ..touch(Tier::Team, 2, 1) };
    let touches = [touch(Tier::Org, 1, 100), shadow];
    let mut counters = counters(&touches, 0, 0);
    let grant = grant(one(&terms(&touches), &mut counters, 5));
    assert_eq!(grant.passed_over, [PassedOver { budget_id: 2, mode: Mode::Shadow }]);
    assert_eq!((grant.override_id, grant.strict), (None, false));
    assert_eq!(grant.remaining.len(), 1, "what a shadow has left is nobody's business");
    assert!(counters.values().all(|counter| counter.held_nanousd == 5));
}

#[test]
fn an_override_lets_through_what_a_budget_refuses_and_is_named_only_then() {
    let touches = [touch(Tier::Org, 1, 100), touch(Tier::User, 2, 10)];
    let lifted = Terms { override_id: Some(7), ..terms(&touches) };
    let mut counters = counters(&touches, 0, 0);
    assert_eq!(grant(one(&lifted, &mut counters, 10)).override_id, None);
    let over = grant(one(&lifted, &mut counters, 10));
    assert_eq!(over.override_id, Some(7));
    assert_eq!(over.passed_over, [PassedOver { budget_id: 2, mode: Mode::Enforce }]);
    assert!(counters.values().all(|counter| counter.held_nanousd == 20));
}

#[test]
fn a_strict_budget_holds_the_bound_and_refuses_what_has_none() {
    let touches = [Touch { strict: true, ..touch(Tier::Org, 1, 100) }, touch(Tier::User, 2, 1_000)];
    let mut counters = counters(&touches, 0, 0);
    let first = grant(one(&terms(&touches), &mut counters, 6));
    assert_eq!((first.held_nanousd, first.strict, first.rewrite.output_cap_tokens), (60, true, Some(64)));
    assert!(matches!(one(&terms(&touches), &mut counters, 5), Decision::Refused(_)));
    let unbounded = HoldAsk { quote: Quote { bound: Err("media"), ..quote(1) }, ..ask(3, 1) };
    let mut known = KnownHolds::new();
    let decision = decide(&unbounded, &terms(&touches), &mut counters, &mut known);
    assert_eq!(decision, Decision::Barred(Barred::NotBoundable { budget_id: 1, why: "media" }));
    let lifted = Terms { override_id: Some(7), ..terms(&touches) };
    assert_eq!(grant(decide(&unbounded, &lifted, &mut counters, &mut known)).held_nanousd, 1);
}

#[test]
fn extreme_amounts_don_t_wrap() {
    let touches = [touch(Tier::Org, 1, i64::MAX)];
    let mut full = counters(&touches, i64::MAX, i64::MAX);
    assert!(matches!(one(&terms(&touches), &mut full, i64::MAX / 20), Decision::Refused(_)));
    // Not even a shadow or an override may overflow a counter.
    for touch in [Touch { mode: Mode::Shadow, ..touches[0].clone() }, touches[0].clone()] {
        let lifted = Terms { override_id: Some(7), ..terms(&[touch]) };
        assert!(matches!(one(&lifted, &mut full, 1), Decision::Refused(_)));
    }
}
