//! The decision: may this hold be granted? Pure; no clock, no database.
//!
//! A hold is granted only if, after it, `spent + held <= limit` in every enforcing budget it touches;
//! otherwise it changes nothing anywhere. Before it refuses, budgets' ladders may make the call a cheaper
//! one ([`super::steps`]). Holds are decided one after another in arrival order, each seeing what those
//! before it took.

use std::collections::{BTreeMap, HashMap};

use purser_protocol::{Tier, TierRemaining, Warning};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::HoldAsk;
use super::steps::{self, Run, Stepped, standing};
use super::terms::{Terms, Touch};
use crate::budget::Mode;
use crate::estimate::Bound;
use crate::rules::Barred;

/// Names one counter: a budget, whom of it, and the period. Their order is the lock order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey {
    /// The organisation.
    pub org: String,
    /// The budget.
    pub counter: CounterRef,
}

/// A counter within an org, as stored with a hold: `[budget_id, subject, period start]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(i64, String, i64)", into = "(i64, String, i64)")]
pub struct CounterRef {
    /// The budget.
    pub budget_id: i64,
    /// For a `*` budget the team or user counted; else `""`.
    pub subject: String,
    /// First second of the period, Unix time.
    pub period_start_unix_s: i64,
}

impl From<(i64, String, i64)> for CounterRef {
    fn from((budget_id, subject, period_start_unix_s): (i64, String, i64)) -> Self {
        Self { budget_id, subject, period_start_unix_s }
    }
}

impl From<CounterRef> for (i64, String, i64) {
    fn from(counter: CounterRef) -> Self {
        (counter.budget_id, counter.subject, counter.period_start_unix_s)
    }
}

/// What a counter stands at, nano-USD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Sum of the ledger entries that count here.
    pub spent_nanousd: i64,
    /// Sum of the open holds that count here.
    pub held_nanousd: i64,
    /// What was added to the limit for this period.
    pub topped_up_nanousd: i64,
}

/// The counters of a batch.
pub type Counters = HashMap<CounterKey, Counter>;

/// A hold that the database knows already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownHold {
    /// Whether it is still open.
    pub open: bool,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
    /// Whether it was made for the same payer, provider and model.
    pub same_call: bool,
    /// What its verdict changed.
    pub rewrite: Rewritten,
}

/// What a verdict changes in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The model that runs, when it is another than the one asked for.
    pub model: Option<String>,
    /// The output cap that the hold counts on and the request lacks, tokens per choice.
    pub output_cap_tokens: Option<u64>,
    /// Whether that cap is what a budget could pay.
    pub clamped: bool,
}

/// Holds that exist already, by org and id.
pub type KnownHolds<'a> = HashMap<(&'a str, Uuid), KnownHold>;

/// What was decided about one hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The amount is now held in every counter touched.
    Granted(Grant),
    /// The id was granted before; nothing more is held.
    Repeated(Grant),
    /// The id was closed before this hold arrived, or is another call's; it is not opened.
    Closed,
    /// A budget has too little left; nothing is held.
    Refused(Box<Refusal>),
    /// The call may not go out whatever is left; nothing is held.
    Barred(Barred),
}

/// A hold that was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// What is held, nano-USD.
    pub held_nanousd: i64,
    /// What each tier has left.
    pub remaining: Vec<TierRemaining>,
    /// Whether an enforcing strict budget was touched.
    pub strict: bool,
    /// What has to be changed in the request.
    pub rewrite: Rewritten,
    /// Enforcing budgets that it brings to their warning or beyond.
    pub warnings: Vec<Warning>,
    /// Steps of ladders that were taken, and those that shadows would have taken; warnings of enforcing
    /// budgets apart.
    pub steps: Vec<Stepped>,
    /// The override without which a budget would have refused it.
    pub override_id: Option<i64>,
    /// Budgets that would have refused it: shadows, and those an override lifted.
    pub passed_over: Vec<PassedOver>,
    /// Tiers the payer has, without an enforcing budget.
    pub unbudgeted: Vec<Tier>,
}

/// A budget that had too little left and did not refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedOver {
    /// The budget.
    pub budget_id: i64,
    /// Whether it only notes; else an override lifted it.
    pub mode: Mode,
}

/// The first budget, from org to user, that has too little left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The budget and its limit.
    pub touch: Touch,
    /// What it stood at.
    pub counter: Counter,
    /// What was asked for, nano-USD; by the cheaper model, if it was degraded to one first.
    pub needed_nanousd: i64,
    /// The cheaper model that it was degraded to first.
    pub degraded_to: Option<String>,
    /// Whether an enforcing strict budget was touched.
    pub strict: bool,
    /// Whether any call to this model would be refused, however little it costs.
    pub exhausted: bool,
}

impl Refusal {
    /// The limit in this period with its top-ups, nano-USD.
    #[must_use]
    pub fn limit_nanousd(&self) -> i64 {
        saturated(limit(&self.touch, self.counter))
    }
}

/// Decides one hold and, if it is granted, takes the amount off every counter touched and marks the
/// id as known. `counters` must hold every key in the terms, those of targets included.
pub fn decide<'a>(
    ask: &'a HoldAsk,
    terms: &Terms,
    counters: &mut Counters,
    known: &mut KnownHolds<'a>,
) -> Decision {
    let id = (ask.payer.org.as_str(), ask.hold_id);
    if let Some(known) = known.get(&id) {
        return repeat(ask, terms, counters, known);
    }
    if let Some(barred) = &terms.barred {
        return Decision::Barred(barred.clone());
    }
    if terms.deny_unknown_models && ask.quote.unknown_model {
        return Decision::Barred(Barred::UnknownModel);
    }
    let asked = match Run::of(None, terms, &ask.quote) {
        Ok(asked) => asked,
        Err(barred) => return Decision::Barred(barred),
    };
    let (mut run, degraded) = steps::degrade(ask, asked.clone(), counters);
    let mut taken: Vec<Stepped> = degraded.into_iter().collect();
    let lifted = match pass(&run, counters) {
        Ok(lifted) => lifted,
        Err(touch) => match steps::clamp(&run, counters).map(|(run, step)| (pass(&run, counters), run, step))
        {
            Some((Ok(lifted), clamped, step)) => {
                run = clamped;
                taken.push(step);
                lifted
            }
            _ => {
                return Decision::Refused(Box::new(Refusal {
                    touch: touch.clone(),
                    counter: standing(touch, counters),
                    needed_nanousd: run.amount_nanousd,
                    degraded_to: run.model.map(ToOwned::to_owned),
                    strict: run.strict.is_some(),
                    exhausted: steps::is_exhausted(terms, counters),
                }));
            }
        },
    };
    let (shadow_steps, shadow_refusals) = steps::shadows(ask, &asked, &run, counters);
    taken.extend(shadow_steps);
    let shadow = |budget_id| PassedOver { budget_id, mode: Mode::Shadow };
    let override_id = run.terms.override_id.filter(|_| !lifted.is_empty());
    let passed_over = shadow_refusals.into_iter().map(shadow).chain(lifted).collect();
    take(&run, counters);
    let rewrite = Rewritten {
        model: run.model.map(ToOwned::to_owned),
        output_cap_tokens: run.output_cap_tokens,
        clamped: run.clamped,
    };
    let entry =
        KnownHold { open: true, held_nanousd: run.amount_nanousd, same_call: true, rewrite: rewrite.clone() };
    known.insert(id, entry);
    Decision::Granted(Grant {
        held_nanousd: run.amount_nanousd,
        remaining: remaining(run.terms, counters),
        strict: run.strict.is_some(),
        rewrite,
        warnings: steps::warnings(run.terms, counters),
        steps: taken,
        override_id,
        passed_over,
        unbudgeted: run.terms.unbudgeted.clone(),
    })
}

/// Answers an id that is known already.
fn repeat(ask: &HoldAsk, terms: &Terms, counters: &Counters, known: &KnownHold) -> Decision {
    // What is asked for by the name of another call was never granted.
    if !known.open || !known.same_call {
        return Decision::Closed;
    }
    let model = known.rewrite.model.as_deref();
    let quote = model.map_or_else(|| Some(ask.quote.clone()), |model| ask.others.quote(model));
    let terms = model.and_then(|model| terms.targets.get(model)).unwrap_or(terms);
    let strict = terms.strict_budget().is_some();
    let bound = quote.and_then(|quote| quote.bound.ok());
    if strict && !bound.is_some_and(|bound| covers(known, &bound)) {
        return Decision::Closed;
    }
    // A hold made before its budget became strict may lack the cap that it needs now.
    let needed = bound.filter(|_| strict).and_then(|bound| bound.output_cap_tokens);
    let output_cap_tokens = known.rewrite.output_cap_tokens.or(needed);
    Decision::Repeated(Grant {
        held_nanousd: known.held_nanousd,
        remaining: remaining(terms, counters),
        strict,
        rewrite: Rewritten { output_cap_tokens, ..known.rewrite.clone() },
        warnings: steps::warnings(terms, counters),
        ..Grant::default()
    })
}

/// Whether a hold made before covers the most that this call may cost as its verdict rewrote it.
fn covers(known: &KnownHold, bound: &Bound) -> bool {
    let cap = known.rewrite.output_cap_tokens;
    let amount = cap.map_or(Ok(bound.amount_nanousd), |cap| bound.line.amount_nanousd(cap));
    amount.is_ok_and(|amount| amount <= known.held_nanousd)
}

fn take(run: &Run<'_>, counters: &mut Counters) {
    for touch in &run.terms.touches {
        if let Some(counter) = counters.get_mut(&touch.key) {
            // Can't overflow: the check before saw to it.
            counter.held_nanousd = counter.held_nanousd.saturating_add(run.amount_nanousd);
        }
    }
}

/// Whether every budget lets the call through, and which only because an override lifts them; else the
/// first that does not.
fn pass<'t>(run: &Run<'t>, counters: &Counters) -> Result<Vec<PassedOver>, &'t Touch> {
    let mut lifted = Vec::new();
    for touch in &run.terms.touches {
        let counter = standing(touch, counters);
        let short = left(touch, counter) < i128::from(run.amount_nanousd) && touch.enforces();
        // A counter that can't take the amount would fail the whole batch.
        let overflows = counter.held_nanousd.checked_add(run.amount_nanousd).is_none();
        if overflows || (short && run.terms.override_id.is_none()) {
            return Err(touch);
        }
        if short {
            lifted.push(PassedOver { budget_id: touch.key.counter.budget_id, mode: touch.mode });
        }
    }
    Ok(lifted)
}

/// The limit of a period, nano-USD.
pub(crate) fn limit(touch: &Touch, counter: Counter) -> i128 {
    i128::from(touch.limit_nanousd) + i128::from(counter.topped_up_nanousd)
}

/// What is spent and held, nano-USD.
pub(crate) fn used(counter: Counter) -> i128 {
    i128::from(counter.spent_nanousd) + i128::from(counter.held_nanousd)
}

fn left(touch: &Touch, counter: Counter) -> i128 {
    limit(touch, counter) - used(counter)
}

fn saturated(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

/// For each tier with an enforcing budget, the one with the least left.
fn remaining(terms: &Terms, counters: &Counters) -> Vec<TierRemaining> {
    let mut least: BTreeMap<Tier, TierRemaining> = BTreeMap::new();
    for touch in terms.touches.iter().filter(|touch| touch.enforces()) {
        let counter = standing(touch, counters);
        let resets_in_s = touch.period.end_unix_s.map(|end| end.saturating_sub(terms.at_unix_s));
        let entry = TierRemaining {
            tier: touch.tier,
            window: touch.window,
            limit_nanousd: saturated(limit(touch, counter)),
            remaining_nanousd: saturated(left(touch, counter)),
            resets_in_s: resets_in_s.map(|seconds| u64::try_from(seconds).unwrap_or_default()),
        };
        least
            .entry(touch.tier)
            .and_modify(|current| {
                if entry.remaining_nanousd < current.remaining_nanousd {
                    *current = entry.clone();
                }
            })
            .or_insert(entry);
    }
    least.into_values().collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
