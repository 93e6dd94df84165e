//! The decision: may this hold be granted? Pure; no clock, no database.
//!
//! A hold is granted only if, after it, `spent + held <= limit` in every enforcing budget it touches;
//! otherwise it changes nothing anywhere. Holds are decided one after another in arrival order, each
//! seeing what those before it took.

use std::collections::{BTreeMap, HashMap};

use purser_protocol::{Tier, TierRemaining};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::HoldAsk;
use super::terms::{Terms, Touch};
use crate::budget::Mode;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHold {
    /// Whether it is still open.
    pub open: bool,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
    /// Whether it was made for the same payer, provider and model.
    pub same_call: bool,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What is held, nano-USD.
    pub held_nanousd: i64,
    /// What each tier has left.
    pub remaining: Vec<TierRemaining>,
    /// Whether an enforcing strict budget was touched.
    pub strict: bool,
    /// The output cap that the hold counts on and the request lacks, tokens per choice.
    pub output_cap_tokens: Option<u64>,
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
    /// What was asked for, nano-USD.
    pub needed_nanousd: i64,
    /// Whether an enforcing strict budget was touched.
    pub strict: bool,
}

impl Refusal {
    /// The limit in this period with its top-ups, nano-USD.
    #[must_use]
    pub fn limit_nanousd(&self) -> i64 {
        saturated(limit(&self.touch, self.counter))
    }
}

/// Decides one hold and, if it is granted, takes the amount off every counter touched and marks the
/// id as known. `counters` must hold every key in the terms.
pub fn decide<'a>(
    ask: &'a HoldAsk,
    terms: &Terms,
    counters: &mut Counters,
    known: &mut KnownHolds<'a>,
) -> Decision {
    let id = (ask.payer.org.as_str(), ask.hold_id);
    let strict = terms.strict_budget();
    match known.get(&id) {
        // What is asked for by the name of another call was never granted.
        Some(known) if !known.same_call => return Decision::Closed,
        Some(known) if known.open && strict.is_some() && !covers(known, ask) => return Decision::Closed,
        Some(known) if known.open => {
            let cap = ask.bound.as_ref().ok().and_then(|bound| bound.output_cap_tokens);
            return Decision::Repeated(Grant {
                held_nanousd: known.held_nanousd,
                remaining: remaining(&terms.touches, counters),
                strict: strict.is_some(),
                output_cap_tokens: strict.and(cap),
                override_id: None,
                passed_over: Vec::new(),
                unbudgeted: Vec::new(),
            });
        }
        Some(_) => return Decision::Closed,
        None => {}
    }
    if let Some(barred) = &terms.barred {
        return Decision::Barred(barred.clone());
    }
    if terms.deny_unknown_models && ask.unknown_model {
        return Decision::Barred(Barred::UnknownModel);
    }
    let (amount_nanousd, output_cap_tokens) = match (strict, &ask.bound) {
        (None, _) => (ask.amount_nanousd, None),
        (Some(_), Ok(bound)) => (bound.amount_nanousd, bound.output_cap_tokens),
        // What an override lifts may be spent beyond; the estimate must do.
        (Some(_), Err(_)) if terms.override_id.is_some() => (ask.amount_nanousd, None),
        (Some(budget_id), Err(why)) => return Decision::Barred(Barred::NotBoundable { budget_id, why }),
    };
    let passed_over = match pass(terms, amount_nanousd, counters) {
        Ok(passed_over) => passed_over,
        Err(refusal) => return Decision::Refused(refusal),
    };
    for touch in &terms.touches {
        if let Some(counter) = counters.get_mut(&touch.key) {
            // Can't overflow: the check above saw to it.
            counter.held_nanousd = counter.held_nanousd.saturating_add(amount_nanousd);
        }
    }
    known.insert(id, KnownHold { open: true, held_nanousd: amount_nanousd, same_call: true });
    let lifted = passed_over.iter().any(|over| over.mode == Mode::Enforce);
    Decision::Granted(Grant {
        held_nanousd: amount_nanousd,
        remaining: remaining(&terms.touches, counters),
        strict: strict.is_some(),
        output_cap_tokens,
        override_id: terms.override_id.filter(|_| lifted),
        passed_over,
        unbudgeted: terms.unbudgeted.clone(),
    })
}

/// Whether a hold made before covers the most that this call may cost.
fn covers(known: &KnownHold, ask: &HoldAsk) -> bool {
    ask.bound.as_ref().is_ok_and(|bound| bound.amount_nanousd <= known.held_nanousd)
}

/// Whether every budget lets the amount through, and which only because they don't refuse.
fn pass(terms: &Terms, amount_nanousd: i64, counters: &Counters) -> Result<Vec<PassedOver>, Box<Refusal>> {
    let mut passed_over = Vec::new();
    for touch in &terms.touches {
        let counter = counters.get(&touch.key).copied().unwrap_or_default();
        let short = left(touch, counter) < i128::from(amount_nanousd);
        let refuses = short && touch.enforces() && terms.override_id.is_none();
        // A counter that can't take the amount would fail the whole batch.
        if refuses || counter.held_nanousd.checked_add(amount_nanousd).is_none() {
            return Err(Box::new(Refusal {
                touch: touch.clone(),
                counter,
                needed_nanousd: amount_nanousd,
                strict: terms.strict_budget().is_some(),
            }));
        }
        if short && !touch.replaced {
            passed_over.push(PassedOver { budget_id: touch.key.counter.budget_id, mode: touch.mode });
        }
    }
    Ok(passed_over)
}

fn limit(touch: &Touch, counter: Counter) -> i128 {
    i128::from(touch.limit_nanousd) + i128::from(counter.topped_up_nanousd)
}

fn left(touch: &Touch, counter: Counter) -> i128 {
    limit(touch, counter) - i128::from(counter.spent_nanousd) - i128::from(counter.held_nanousd)
}

fn saturated(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

/// For each tier with an enforcing budget, the one with the least left.
fn remaining(touches: &[Touch], counters: &Counters) -> Vec<TierRemaining> {
    let mut least: BTreeMap<Tier, TierRemaining> = BTreeMap::new();
    for touch in touches.iter().filter(|touch| touch.enforces()) {
        let counter = counters.get(&touch.key).copied().unwrap_or_default();
        let entry = TierRemaining {
            tier: touch.tier,
            window: touch.window,
            limit_nanousd: saturated(limit(touch, counter)),
            remaining_nanousd: saturated(left(touch, counter)),
            resets_in_s: None,
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
