use std::collections::BTreeMap;
use std::slice::from_ref;
use std::sync::Arc;

use purser_protocol::{Api, Payer, Tier, Window};
use uuid::Uuid;

use super::super::decide::{CounterKey, CounterRef, Decision, Grant, KnownHolds, Refusal, decide};
use super::*;
use crate::estimate::Bound;
use crate::ladder::{Clamp, Degrade, Ladder};
use crate::pattern::Names;
use crate::window::Period;

const DEAR: &str = "gpt-5.4";
const CHEAP: &str = "gpt-5.4-nano";

/// A call that costs 10 for its input and `rate` for each token of its cap; its bound is three times that.
fn quote(rate: u64, cap: u64) -> Quote {
    let line = |factor: i64| CostLine::new([(10, factor * 1_000_000)], rate, factor * 1_000_000).unwrap();
    let amount_nanousd = line(1).amount_nanousd(cap).unwrap();
    let bound = Bound {
        amount_nanousd: line(3).amount_nanousd(cap).unwrap(),
        line: line(3),
        output_cap_tokens: None,
    };
    Quote { amount_nanousd, line: line(1), bound: Ok(bound), unknown_model: false, clampable: true }
}

/// 10 + 100 tokens at 5: 510; by the cheap model 110.
fn ask(number: u128) -> HoldAsk {
    HoldAsk {
        hold_id: Uuid::from_u128(number),
        payer: Payer { org: "acme".into(), team: None, user: None },
        provider: "openai".into(),
        model: DEAR.into(),
        api: Api::OpenaiChat,
        quote: quote(5, 100),
        others: Arc::new(BTreeMap::from([(CHEAP.to_owned(), quote(1, 100))])),
        tags: BTreeMap::new(),
    }
}

fn signed(number: u128) -> HoldAsk {
    let ask = ask(number);
    let quote = Quote { clampable: false, ..ask.quote.clone() };
    HoldAsk { quote, others: Arc::new(BTreeMap::<String, Quote>::new()), ..ask }
}

fn ladder(warn: u32, degrade: u32, floor_tokens: u64) -> Ladder {
    let models = || BTreeMap::from([(DEAR.to_owned(), CHEAP.to_owned())]);
    Ladder {
        warn_at_percent: (warn > 0).then_some(warn),
        degrade: (degrade > 0).then(|| Degrade { at_percent: degrade, models: models() }),
        clamp: (floor_tokens > 0).then_some(Clamp { floor_tokens }),
    }
}

fn touch(budget_id: i64, limit_nanousd: i64, ladder: Ladder) -> Touch {
    let tiers = [Tier::Org, Tier::Team, Tier::User];
    Touch {
        key: CounterKey {
            org: "acme".into(),
            counter: CounterRef { budget_id, subject: String::new(), period_start_unix_s: 0 },
        },
        tier: tiers[usize::try_from(budget_id - 1).unwrap().min(2)],
        window: Window::Day,
        limit_nanousd,
        mode: Mode::Enforce,
        strict: false,
        replaced: false,
        ladder: Arc::new(ladder),
        period: Period { start_unix_s: 0, end_unix_s: Some(86_400) },
    }
}

fn shadow(touch: Touch) -> Touch {
    Touch { mode: Mode::Shadow, ..touch }
}

/// Terms whose target touches the same budgets.
fn terms(touches: &[Touch]) -> Terms {
    targeting(touches, touches)
}

/// Terms whose target touches others.
fn targeting(touches: &[Touch], of_target: &[Touch]) -> Terms {
    let target = Terms { touches: of_target.to_vec(), at_unix_s: 80_000, ..Terms::default() };
    Terms {
        touches: touches.to_vec(),
        names: Names::of(DEAR, []),
        targets: BTreeMap::from([(CHEAP.to_owned(), target)]),
        at_unix_s: 80_000,
        ..Terms::default()
    }
}

fn counters(terms: &Terms, spent_nanousd: i64) -> Counters {
    let counter = Counter { spent_nanousd, ..Counter::default() };
    terms.all_touches().map(|touch| (touch.key.clone(), counter)).collect()
}

fn decided(ask: &HoldAsk, terms: &Terms, spent_nanousd: i64) -> Decision {
    let mut counters = counters(terms, spent_nanousd);
    let before = counters.clone();
    let decision = decide(ask, terms, &mut counters, &mut KnownHolds::new());
    for (key, counter) in &counters {
        let added = counter.held_nanousd - before[key].held_nanousd;
        match &decision {
            Decision::Granted(grant) => {
                let run = match &grant.rewrite.model {
                    Some(model) => &terms.targets[model],
                    None => terms,
                };
                let touched = run.touches.iter().find(|touch| touch.key == *key);
                assert_eq!(added, touched.map_or(0, |_| grant.held_nanousd));
                let fits = |touch: &Touch| !touch.enforces() || used(*counter) <= limit(touch, *counter);
                assert!(run.override_id.is_some() || touched.is_none_or(fits), "overspent: {decision:?}");
            }
            _ => assert_eq!(added, 0),
        }
    }
    decision
}

fn grant(ask: &HoldAsk, terms: &Terms, spent_nanousd: i64) -> Grant {
    match decided(ask, terms, spent_nanousd) {
        Decision::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn refusal(ask: &HoldAsk, terms: &Terms, spent_nanousd: i64) -> Refusal {
    match decided(ask, terms, spent_nanousd) {
        Decision::Refused(refusal) => *refusal,
        other => panic!("{other:?}"),
    }
}

/// Amount, model and cap.
fn shape(grant: &Grant) -> (i64, Option<&str>, Option<u64>) {
    (grant.held_nanousd, grant.rewrite.model.as_deref(), grant.rewrite.output_cap_tokens)
}

fn steps(grant: &Grant) -> Vec<(i64, Mode, Step)> {
    grant.steps.iter().map(|step| (step.budget_id, step.mode, step.step)).collect()
}

#[test]
fn the_steps_follow_one_another_as_a_budget_is_used_up() {
    let terms = terms(&[touch(1, 1_000, ladder(60, 80, 20))]);
    for (spent, expected, warned, step) in [
        (0, (510, None, None), None, None),
        // 89 + 510 are 59.9 in a hundred.
        (89, (510, None, None), None, None),
        (90, (510, None, None), Some(60), None),
        (289, (510, None, None), Some(79), None),
        (290, (110, Some(CHEAP), None), None, Some(Step::Degrade)),
        (890, (110, Some(CHEAP), None), Some(100), Some(Step::Degrade)),
        (891, (109, Some(CHEAP), Some(99)), Some(100), Some(Step::Clamp)),
        (970, (30, Some(CHEAP), Some(20)), Some(100), Some(Step::Clamp)),
    ] {
        let grant = grant(&ask(1), &terms, spent);
        assert_eq!(shape(&grant), expected, "{spent}");
        assert_eq!(grant.warnings.first().map(|warning| warning.used_percent), warned, "{spent}");
        assert_eq!(grant.steps.last().map(|step| step.step), step, "{spent}");
        assert_eq!(grant.rewrite.clamped, step == Some(Step::Clamp), "{spent}");
        assert_eq!(grant.remaining[0].resets_in_s, Some(6_400));
    }
    // 19 tokens are below the floor.
    let refused = refusal(&ask(1), &terms, 971);
    assert_eq!((refused.needed_nanousd, refused.exhausted), (110, false));
    assert!(refusal(&ask(1), &terms, 1_000).exhausted);
}

#[test]
fn a_target_by_which_the_call_costs_no_less_is_no_step_and_the_next_budget_s_is_looked_at() {
    let quoting =
        |rate| HoldAsk { others: Arc::new(BTreeMap::from([(CHEAP.to_owned(), quote(rate, 100))])), ..ask(1) };
    let one = [touch(1, 1_000, ladder(0, 1, 20))];
    for (rate, model) in [(4, Some(CHEAP)), (5, None), (6, None)] {
        let granted = grant(&quoting(rate), &terms(&one), 0);
        assert_eq!(granted.rewrite.model.as_deref(), model, "{rate}");
        assert_eq!(steps(&granted).is_empty(), model.is_none(), "{rate}");
        // A shadow would have done no more.
        let noted = grant(&quoting(rate), &terms(&one.clone().map(shadow)), 0);
        assert_eq!(steps(&noted).is_empty(), model.is_none(), "{rate}");
    }
    // What the dearer one is passed over for is clamped as what it is.
    assert_eq!(shape(&grant(&quoting(6), &terms(&one), 800)), (200, None, Some(38)));
    let other = "gpt-5.4-mini";
    let mut two = [one[0].clone(), touch(2, 1_000, ladder(0, 1, 0))];
    let models = BTreeMap::from([("GPT-5.4".to_owned(), other.to_owned())]);
    two[1].ladder =
        Arc::new(Ladder { degrade: Some(Degrade { at_percent: 1, models }), ..Ladder::default() });
    let mut terms = terms(&two);
    terms.targets.insert(other.to_owned(), Terms { touches: two.to_vec(), ..Terms::default() });
    let others = BTreeMap::from([(CHEAP.to_owned(), quote(6, 100)), (other.to_owned(), quote(1, 100))]);
    let degraded = grant(&HoldAsk { others: Arc::new(others), ..ask(1) }, &terms, 0);
    assert_eq!(degraded.rewrite.model.as_deref(), Some(other));
    assert_eq!(steps(&degraded), [(2, Mode::Enforce, Step::Degrade)]);
}

#[test]
fn without_a_step_the_next_one_is_taken() {
    let budgets = |ladder| terms(&[touch(1, 1_000, ladder)]);
    assert_eq!(shape(&grant(&ask(1), &budgets(ladder(0, 0, 20)), 800)), (200, None, Some(38)));
    assert_eq!(shape(&grant(&ask(1), &budgets(ladder(0, 80, 0)), 800)), (110, Some(CHEAP), None));
    assert_eq!(refusal(&ask(1), &budgets(ladder(50, 0, 0)), 800).needed_nanousd, 510);
    assert_eq!(refusal(&ask(1), &budgets(ladder(50, 80, 0)), 891).needed_nanousd, 110);
}

#[test]
fn the_first_map_from_org_downwards_rewrites_once_and_the_clamp_is_to_the_smallest_remainder() {
    let org = touch(1, 10_000, ladder(0, 90, 5));
    let team = touch(2, 1_000, ladder(0, 50, 10));
    let user = touch(3, 980, ladder(0, 50, 20));
    let all = [org, team, user];
    // The org is not used up so far; the team is the first that is.
    assert_eq!(steps(&grant(&ask(1), &terms(&all), 400)), [(2, Mode::Enforce, Step::Degrade)]);
    // The user's remainder of 50 is smaller than the team's.
    let clamped = grant(&ask(1), &terms(&all), 930);
    assert_eq!(shape(&clamped), (50, Some(CHEAP), Some(40)));
    assert_eq!(steps(&clamped)[1], (3, Mode::Enforce, Step::Clamp));
    // The highest floor of those that are short counts, whosoever the smallest remainder is.
    let mut floors = all.clone();
    floors[1].ladder = Arc::new(ladder(0, 50, 41));
    assert_eq!(refusal(&ask(1), &terms(&floors), 930).touch.key.counter.budget_id, 2);
    // One that is short and doesn't clamp refuses, whatever the others do.
    floors[1].ladder = Arc::new(ladder(0, 50, 0));
    assert_eq!(refusal(&ask(1), &terms(&floors), 930).touch.key.counter.budget_id, 2);
    // One that is not short has no say.
    floors[0].ladder = Arc::new(ladder(0, 90, 0));
    floors[1].ladder = Arc::new(ladder(0, 50, 10));
    assert_eq!(shape(&grant(&ask(1), &terms(&floors), 930)), (50, Some(CHEAP), Some(40)));
}

#[test]
fn what_really_runs_is_checked_in_the_budgets_that_cover_it() {
    let org = touch(1, 1_000, ladder(0, 50, 0));
    let dear_only = touch(2, 10, Ladder::default());
    let cheap_only = touch(3, 100, Ladder::default());
    // The budget that can't pay for the dear model says nothing about the cheap one.
    let freed = targeting(&[org.clone(), dear_only.clone()], from_ref(&org));
    assert_eq!(shape(&grant(&ask(1), &freed, 0)), (110, Some(CHEAP), None));
    // One of the cheap model's own is too small for it: the rewritten call is refused, not the asked one run.
    let bound = targeting(from_ref(&org), &[org.clone(), cheap_only.clone()]);
    let refused = refusal(&ask(1), &bound, 0);
    assert_eq!((refused.touch.key.counter.budget_id, refused.needed_nanousd), (3, 110));
    let clamping = Touch { ladder: Arc::new(ladder(0, 0, 1)), ..cheap_only };
    let bound = targeting(from_ref(&org), &[org.clone(), clamping]);
    assert_eq!(shape(&grant(&ask(1), &bound, 0)), (100, Some(CHEAP), Some(90)));
}

#[test]
fn a_target_that_may_not_run_is_no_step() {
    let budgets = [touch(1, 1_000, ladder(0, 50, 20))];
    let mut barred = terms(&budgets);
    barred.targets.get_mut(CHEAP).unwrap().barred = Some(Barred::NoBudget(Tier::Team));
    let unpriced = HoldAsk { others: Arc::new(BTreeMap::<String, Quote>::new()), ..ask(1) };
    let unknown = Quote { unknown_model: true, ..quote(1, 100) };
    let unknown = HoldAsk { others: Arc::new(BTreeMap::from([(CHEAP.to_owned(), unknown)])), ..ask(1) };
    for (ask, terms) in [(&ask(1), &barred), (&unpriced, &terms(&budgets)), (&unknown, &terms(&budgets))] {
        assert_eq!(shape(&grant(ask, terms, 400)), (510, None, None));
        assert_eq!(shape(&grant(ask, terms, 800)), (200, None, Some(38)));
    }
    // The next budget's map is looked at.
    let other = BTreeMap::from([(DEAR.to_owned(), "gone".to_owned())]);
    let gone = Ladder { degrade: Some(Degrade { at_percent: 1, models: other }), ..Ladder::default() };
    let both = terms(&[touch(1, 1_000, gone), touch(2, 1_000, ladder(0, 50, 0))]);
    assert_eq!(steps(&grant(&ask(1), &both, 400)), [(2, Mode::Enforce, Step::Degrade)]);
}

#[test]
fn what_can_t_be_changed_falls_through_to_the_limit() {
    let terms = terms(&[touch(1, 1_000, ladder(50, 50, 1))]);
    let fits = grant(&signed(1), &terms, 490);
    assert_eq!((shape(&fits), fits.warnings.len()), ((510, None, None), 1));
    assert_eq!(refusal(&signed(1), &terms, 491).needed_nanousd, 510);
    // Output that costs nothing can't be made cheaper.
    let free = Quote { line: CostLine::new([(510, 1_000_000)], 1, 0).unwrap(), ..quote(5, 100) };
    let free = HoldAsk { quote: free, ..signed(1) };
    assert_eq!(refusal(&free, &terms, 491).needed_nanousd, 510);
}

#[test]
fn an_override_lets_the_call_through_as_it_is() {
    let lifted = Terms { override_id: Some(7), ..terms(&[touch(1, 1_000, ladder(50, 50, 1))]) };
    let over = grant(&ask(1), &lifted, 990);
    assert_eq!((shape(&over), over.override_id), ((510, None, None), Some(7)));
    assert_eq!((over.warnings[0].used_percent, over.steps.len()), (150, 0));
}

#[test]
fn a_strict_budget_s_clamp_stays_an_upper_bound() {
    let strict = Touch { strict: true, ..touch(1, 1_000, ladder(0, 0, 20)) };
    let terms = terms(&[strict]);
    // The bound is 30 + 15 a token.
    let clamped = grant(&ask(1), &terms, 500);
    assert_eq!((shape(&clamped), clamped.strict), ((495, None, Some(31)), true));
    assert_eq!(clamped.held_nanousd, 30 + 31 * 15);
    assert_eq!(refusal(&ask(1), &terms, 671).needed_nanousd, 1_530);
    // The estimate would have fitted.
    assert_eq!(shape(&grant(&ask(1), &terms, 490)), (510, None, Some(32)));
}

#[test]
fn a_strict_budget_that_can_t_bound_the_target_is_no_step() {
    let strict = Touch { strict: true, ..touch(1, 3_000, ladder(0, 10, 0)) };
    let unbounded = Quote { bound: Err("a class without a price"), ..quote(1, 100) };
    let ask = HoldAsk { others: Arc::new(BTreeMap::from([(CHEAP.to_owned(), unbounded)])), ..ask(1) };
    assert_eq!(shape(&grant(&ask, &terms(&[strict]), 0)), (1_530, None, None));
}

#[test]
fn a_shadow_tells_what_it_alone_would_have_done() {
    let shadows = |ladder| terms(&[touch(1, 1_000_000, Ladder::default()), shadow(touch(2, 1_000, ladder))]);
    for (ladder, spent, expected, refusals) in [
        (ladder(50, 60, 20), 0, vec![(2, Mode::Shadow, Step::Warn)], 0),
        (ladder(60, 60, 20), 100, vec![(2, Mode::Shadow, Step::Degrade), (2, Mode::Shadow, Step::Warn)], 0),
        (ladder(0, 60, 20), 960, vec![(2, Mode::Shadow, Step::Degrade), (2, Mode::Shadow, Step::Clamp)], 0),
        (ladder(0, 60, 20), 971, vec![(2, Mode::Shadow, Step::Degrade)], 1),
        (ladder(0, 0, 20), 800, vec![(2, Mode::Shadow, Step::Clamp)], 0),
        (ladder(0, 0, 0), 800, vec![], 1),
    ] {
        let grant = grant(&ask(1), &shadows(ladder.clone()), spent);
        assert_eq!((shape(&grant), grant.warnings.len()), ((510, None, None), 0), "{ladder:?}");
        assert_eq!((steps(&grant), grant.passed_over.len()), (expected, refusals), "{ladder:?} {spent}");
    }
    let signed = grant(&signed(1), &shadows(ladder(0, 60, 20)), 800);
    assert_eq!((steps(&signed), signed.passed_over.len()), (vec![], 1));
}

#[test]
fn a_repeat_is_answered_with_the_same_rewrite() {
    let terms = terms(&[touch(1, 1_000, ladder(60, 80, 20))]);
    let mut counters = counters(&terms, 891);
    let mut known = KnownHolds::new();
    let ask = ask(1);
    let Decision::Granted(first) = decide(&ask, &terms, &mut counters, &mut known) else { panic!("refused") };
    for terms in [&terms, &Terms { targets: BTreeMap::new(), ..terms.clone() }] {
        let decision = decide(&ask, terms, &mut counters, &mut known);
        let Decision::Repeated(again) = decision else { panic!("{decision:?}") };
        assert_eq!((shape(&again), &again.rewrite), (shape(&first), &first.rewrite));
        assert_eq!(again.warnings, first.warnings);
    }
    // Made strict meanwhile, the budget wants the bound of what runs held, at the cap that was written.
    let strict: Vec<Touch> =
        terms.touches.iter().map(|touch| Touch { strict: true, ..touch.clone() }).collect();
    let strict = targeting(&strict, &strict);
    assert_eq!(decide(&ask, &strict, &mut counters, &mut known), Decision::Closed);
    known.get_mut(&("acme", ask.hold_id)).unwrap().held_nanousd = 30 + 99 * 3;
    assert!(matches!(decide(&ask, &strict, &mut counters, &mut known), Decision::Repeated(_)));
}

#[test]
fn exhausted_is_said_only_where_no_call_to_the_model_can_get_through() {
    let full = touch(1, 500, ladder(0, 90, 20));
    let room = touch(3, 5_000, Ladder::default());
    // What is spent alone counts; holds may be given back.
    let mut counters = counters(&terms(from_ref(&full)), 490);
    counters.values_mut().for_each(|counter| counter.held_nanousd = 10);
    let ask = ask(1);
    let held = decide(&ask, &terms(from_ref(&full)), &mut counters, &mut KnownHolds::new());
    assert!(matches!(held, Decision::Refused(refusal) if !refusal.exhausted));
    assert!(refusal(&ask, &terms(from_ref(&full)), 500).exhausted);
    // The cheap model counts elsewhere, and there is room; a dearer call would be degraded to it.
    let small = touch(2, 10_000, ladder(0, 90, 0));
    let way_out = targeting(&[touch(1, 500, Ladder::default()), small.clone()], &[room]);
    assert!(!refusal(&ask, &way_out, 500).exhausted);
    let no_way_out = targeting(&[touch(1, 500, Ladder::default()), small], &[full]);
    assert!(refusal(&ask, &no_way_out, 500).exhausted);
    // Signed, it is refused; others to this model are not.
    let org = touch(1, 500, ladder(0, 90, 0));
    assert!(!refusal(&signed(1), &targeting(&[org], &[touch(3, 5_000, Ladder::default())]), 500).exhausted);
}

#[path = "steps_random.rs"]
mod random;
