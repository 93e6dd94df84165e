//! The steps of budgets' ladders for one call. Pure.
//!
//! In this order: *degrade*, once, by the first enforcing budget from org to user that is used up so far,
//! names the model in its map, and whose target may run (it has a price, this call costs less by it, and the
//! rules let it); from then on the call is that model's, in every budget that covers that one. *Clamp*, if it doesn't fit and every
//! budget that is short clamps, to what the smallest remainder pays. Else it is refused. Shadow budgets
//! tell what each of them would have done alone. Under an override no budget refuses, so none steps in.

use purser_protocol::Warning;

use super::HoldAsk;
use super::decide::{Counter, Counters, limit, used};
use super::terms::{Terms, Touch};
use crate::budget::Mode;
use crate::pricing::CostLine;
use crate::quote::Quote;
use crate::rules::Barred;

/// What a budget did to a call, or as a shadow would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It is nearly used up, and said so.
    Warn,
    /// It had a cheaper model run it.
    Degrade,
    /// It lowered the output cap.
    Clamp,
}

/// A step that a budget took, or as a shadow would have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stepped {
    /// The budget.
    pub budget_id: i64,
    /// Whether it is a shadow.
    pub mode: Mode,
    /// The step.
    pub step: Step,
}

impl Stepped {
    pub(super) fn of(touch: &Touch, step: Step) -> Self {
        Self { budget_id: touch.key.counter.budget_id, mode: touch.mode, step }
    }
}

/// A call as one model would run it.
#[derive(Debug, Clone)]
pub(super) struct Run<'a> {
    /// The model, when it is another than the one asked for.
    pub model: Option<&'a str>,
    /// The terms of that model.
    pub terms: &'a Terms,
    /// The enforcing strict budget touched.
    pub strict: Option<i64>,
    /// What it holds, nano-USD.
    pub amount_nanousd: i64,
    /// The cap that the amount counts on and the request lacks, tokens per choice.
    pub output_cap_tokens: Option<u64>,
    /// Whether the cap is what a budget could pay.
    pub clamped: bool,
    /// The amount at other caps, where the request's can be lowered.
    line: Option<CostLine>,
}

impl<'a> Run<'a> {
    /// The call by a model.
    pub fn of(model: Option<&'a str>, terms: &'a Terms, quote: &Quote) -> Result<Self, Barred> {
        let strict = terms.strict_budget();
        let (amount_nanousd, output_cap_tokens, line) = match (strict, &quote.bound) {
            (None, _) => (quote.amount_nanousd, None, quote.line),
            (Some(_), Ok(bound)) => (bound.amount_nanousd, bound.output_cap_tokens, bound.line),
            // What an override lifts may be spent beyond; the estimate must do.
            (Some(_), Err(_)) if terms.override_id.is_some() => (quote.amount_nanousd, None, quote.line),
            (Some(budget_id), Err(why)) => return Err(Barred::NotBoundable { budget_id, why }),
        };
        let line = quote.clampable.then_some(line);
        Ok(Self { model, terms, strict, amount_nanousd, output_cap_tokens, clamped: false, line })
    }

    /// The same with the cap lowered to what `remainder_nanousd` pays; `None` where that saves nothing or
    /// is below `floor_tokens`.
    fn clamped_to(&self, remainder_nanousd: i128, floor_tokens: u64) -> Option<Self> {
        let line = self.line?;
        let cap = line.most_tokens(i64::try_from(remainder_nanousd).ok()?)?;
        let amount_nanousd = line.amount_nanousd(cap).ok()?;
        (cap >= floor_tokens.max(1) && amount_nanousd < self.amount_nanousd).then(|| Self {
            amount_nanousd,
            output_cap_tokens: Some(cap),
            clamped: true,
            ..self.clone()
        })
    }
}

/// Whether a budget that has this much left can't pay for the call.
fn short(touch: &Touch, counters: &Counters, amount_nanousd: i64) -> Option<i128> {
    let counter = standing(touch, counters);
    let left = limit(touch, counter) - used(counter);
    (left < i128::from(amount_nanousd)).then_some(left)
}

pub(super) fn standing(touch: &Touch, counters: &Counters) -> Counter {
    counters.get(&touch.key).copied().unwrap_or_default()
}

/// Whether a budget is used up so far, `added_nanousd` included.
fn reaches(touch: &Touch, counters: &Counters, added_nanousd: i64, at_percent: u32) -> bool {
    let counter = standing(touch, counters);
    let used = used(counter) + i128::from(added_nanousd);
    used.saturating_mul(100) >= limit(touch, counter).saturating_mul(at_percent.into())
}

/// What a call becomes before it is checked against what is left: itself, or the cheaper model of the
/// first step that applies; and the budget that took the step.
pub(super) fn degrade<'a>(ask: &HoldAsk, asked: Run<'a>, counters: &Counters) -> (Run<'a>, Option<Stepped>) {
    if asked.terms.override_id.is_some() {
        return (asked, None);
    }
    let terms = asked.terms;
    for touch in terms.touches.iter().filter(|touch| touch.enforces()) {
        if let Some(run) = degraded_by(touch, ask, &asked, counters) {
            return (run, Some(Stepped::of(touch, Step::Degrade)));
        }
    }
    (asked, None)
}

fn degraded_by<'a>(touch: &Touch, ask: &HoldAsk, asked: &Run<'a>, counters: &Counters) -> Option<Run<'a>> {
    let degrade = touch.ladder.degrade.as_ref()?;
    let target = degrade.target_of(&asked.terms.names)?;
    if !reaches(touch, counters, asked.amount_nanousd, degrade.at_percent) {
        return None;
    }
    let (target, terms) = asked.terms.targets.get_key_value(target)?;
    let quote =
        ask.others.quote(target).filter(|quote| !quote.unknown_model && quote.is_cheaper_than(&ask.quote))?;
    if terms.barred.is_some() {
        return None;
    }
    Run::of(Some(target), terms, &quote).ok()
}

/// The call with its cap lowered to what the smallest remainder pays, and the budget that has it; `None`
/// unless every enforcing budget that is short clamps and the result is above their floors.
pub(super) fn clamp<'a>(run: &Run<'a>, counters: &Counters) -> Option<(Run<'a>, Stepped)> {
    if run.terms.override_id.is_some() {
        return None;
    }
    let mut smallest: Option<(i128, &Touch)> = None;
    let mut floor_tokens = 0;
    for touch in run.terms.touches.iter().filter(|touch| touch.enforces()) {
        let Some(left) = short(touch, counters, run.amount_nanousd) else { continue };
        floor_tokens = floor_tokens.max(touch.ladder.clamp.as_ref()?.floor_tokens);
        if smallest.is_none_or(|(least, _)| left < least) {
            smallest = Some((left, touch));
        }
    }
    let (left, touch) = smallest?;
    let run = run.clamped_to(left, floor_tokens)?;
    Some((run, Stepped::of(touch, Step::Clamp)))
}

/// What shadow budgets would have done, each by itself: the steps, and the budgets that would have
/// refused.
pub(super) fn shadows(
    ask: &HoldAsk,
    asked: &Run<'_>,
    run: &Run<'_>,
    counters: &Counters,
) -> (Vec<Stepped>, Vec<i64>) {
    let (mut steps, mut refusals) = (Vec::new(), Vec::new());
    let lifted = asked.terms.override_id.is_some();
    let mut degrading = Vec::new();
    let shadows = |terms| -> Vec<&Touch> { shadows_of(terms) };
    for touch in shadows(asked.terms).into_iter().filter(|_| !lifted) {
        if let Some(target) = degraded_by(touch, ask, asked, counters) {
            steps.push(Stepped::of(touch, Step::Degrade));
            degrading.push(&touch.key);
            if target.terms.touches.iter().any(|other| other.key == touch.key) {
                would_stop(touch, &target, counters, &mut steps, &mut refusals);
            }
        }
    }
    for touch in shadows(run.terms) {
        let warns = touch.ladder.warn_at_percent;
        if warns.is_some_and(|at_percent| reaches(touch, counters, run.amount_nanousd, at_percent)) {
            steps.push(Stepped::of(touch, Step::Warn));
        }
        if !degrading.contains(&&touch.key) {
            would_stop(touch, run, counters, &mut steps, &mut refusals);
        }
    }
    (steps, refusals)
}

fn shadows_of(terms: &Terms) -> Vec<&Touch> {
    terms.touches.iter().filter(|touch| touch.is_shadow()).collect()
}

fn would_stop(
    touch: &Touch,
    run: &Run<'_>,
    counters: &Counters,
    steps: &mut Vec<Stepped>,
    refusals: &mut Vec<i64>,
) {
    let Some(left) = short(touch, counters, run.amount_nanousd) else { return };
    let floor_tokens = touch.ladder.clamp.as_ref().map(|clamp| clamp.floor_tokens);
    match floor_tokens.and_then(|floor_tokens| run.clamped_to(left, floor_tokens)) {
        Some(_) => steps.push(Stepped::of(touch, Step::Clamp)),
        None => refusals.push(touch.key.counter.budget_id),
    }
}

/// The warnings of enforcing budgets, as the counters stand.
pub(super) fn warnings(terms: &Terms, counters: &Counters) -> Vec<Warning> {
    let enforcing = terms.touches.iter().filter(|touch| touch.enforces());
    let warning = enforcing.filter(|touch| {
        touch.ladder.warn_at_percent.is_some_and(|at_percent| reaches(touch, counters, 0, at_percent))
    });
    warning
        .map(|touch| Warning {
            budget_id: touch.key.counter.budget_id,
            tier: touch.tier,
            window: touch.window,
            used_percent: used_percent(touch, standing(touch, counters)),
        })
        .collect()
}

/// What is spent and held of a limit in whole percent, rounded down; of a limit of nothing, all of it.
pub fn used_percent(touch: &Touch, counter: Counter) -> u32 {
    let percent = used(counter).max(0).saturating_mul(100).checked_div(limit(touch, counter)).unwrap_or(100);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

/// Whether any call of this payer to this model by this API is refused just now, however little it costs:
/// what was spent alone reaches a limit, and so it is for every model that a ladder may degrade to. What
/// clamps could lower a cap to costs something as well.
pub(super) fn is_exhausted(terms: &Terms, counters: &Counters) -> bool {
    let spent_up = |terms: &Terms| {
        terms.touches.iter().filter(|touch| touch.enforces()).any(|touch| {
            let counter = standing(touch, counters);
            i128::from(counter.spent_nanousd) >= limit(touch, counter)
        })
    };
    let enforcing = terms.touches.iter().filter(|touch| touch.enforces());
    let mut ways_out = enforcing.filter_map(|touch| terms.targets.get(touch.ladder.target_of(&terms.names)?));
    spent_up(terms) && ways_out.all(|terms| terms.barred.is_some() || spent_up(terms))
}

#[cfg(test)]
#[path = "steps_tests.rs"]
mod tests;
