//! The decision: may this hold be granted? Pure; no clock, no database.
//!
//! A hold is granted only if, after it, `spent + held <= limit` in every budget it touches;
//! otherwise it changes nothing anywhere. Holds are decided one after another in arrival order, each
//! seeing what those before it took.

use std::collections::BTreeMap;

use purser_protocol::{Payer, Tier, TierRemaining, Window};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::budget::{Budget, matching};
use crate::window::{Period, WindowError, period};

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
}

/// The counters of a batch.
pub type Counters = BTreeMap<CounterKey, Counter>;

/// A counter that a payer's call touches, with the limit that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The counter.
    pub key: CounterKey,
    /// The budget's tier.
    pub tier: Tier,
    /// Its window.
    pub window: Window,
    /// Its limit in this period, nano-USD.
    pub limit_nanousd: i64,
    /// The period.
    pub period: Period,
}

/// The counters a call of `payer` touches at an instant, in the order they are checked.
///
/// # Errors
/// [`WindowError`] when a period can't be placed on the calendar.
pub fn touched(budgets: &[Budget], payer: &Payer, now_unix_s: i64) -> Result<Vec<Touch>, WindowError> {
    matching(budgets, payer)
        .into_iter()
        .map(|found| {
            let budget = found.budget;
            let period = period(budget.window, &budget.zone, now_unix_s)?;
            let counter = CounterRef {
                budget_id: budget.budget_id,
                subject: found.subject,
                period_start_unix_s: period.start_unix_s,
            };
            Ok(Touch {
                key: CounterKey { org: payer.org.clone(), counter },
                tier: budget.scope.tier(),
                window: budget.window,
                limit_nanousd: budget.limit_nanousd,
                period,
            })
        })
        .collect()
}

/// A hold that the database knows already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHold {
    /// Whether it is still open.
    pub open: bool,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
}

/// Holds that exist already, by org and id.
pub type KnownHolds = BTreeMap<(String, Uuid), KnownHold>;

/// What was decided about one hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The amount is now held in every counter touched.
    Granted {
        /// What is held, nano-USD.
        held_nanousd: i64,
        /// What each tier has left.
        remaining: Vec<TierRemaining>,
    },
    /// The id was granted before; nothing more is held.
    Repeated {
        /// What it holds, nano-USD.
        held_nanousd: i64,
        /// What each tier has left.
        remaining: Vec<TierRemaining>,
    },
    /// The id was closed before this hold arrived; it is not opened.
    Closed,
    /// A budget has too little left; nothing is held.
    Refused(Box<Refusal>),
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
}

/// Decides one hold and, if it is granted, takes the amount off every counter touched and marks the
/// id as known. `counters` must hold every key in `touches`; a missing one counts as untouched.
pub fn decide(
    hold: (&str, Uuid),
    amount_nanousd: i64,
    touches: &[Touch],
    counters: &mut Counters,
    known: &mut KnownHolds,
) -> Decision {
    let id = (hold.0.to_owned(), hold.1);
    match known.get(&id) {
        Some(known) if known.open => {
            return Decision::Repeated {
                held_nanousd: known.held_nanousd,
                remaining: remaining(touches, counters),
            };
        }
        Some(_) => return Decision::Closed,
        None => {}
    }
    let short = touches.iter().find_map(|touch| {
        let counter = counters.get(&touch.key).copied().unwrap_or_default();
        (left(touch, counter) < i128::from(amount_nanousd)).then_some((touch, counter))
    });
    if let Some((touch, counter)) = short {
        return Decision::Refused(Box::new(Refusal {
            touch: touch.clone(),
            counter,
            needed_nanousd: amount_nanousd,
        }));
    }
    for touch in touches {
        let counter = counters.entry(touch.key.clone()).or_default();
        // Can't overflow: the check above bounded the sum by the limit.
        counter.held_nanousd = counter.held_nanousd.saturating_add(amount_nanousd);
    }
    known.insert(id, KnownHold { open: true, held_nanousd: amount_nanousd });
    Decision::Granted { held_nanousd: amount_nanousd, remaining: remaining(touches, counters) }
}

fn left(touch: &Touch, counter: Counter) -> i128 {
    i128::from(touch.limit_nanousd) - i128::from(counter.spent_nanousd) - i128::from(counter.held_nanousd)
}

/// For each tier with a budget, the one with the least left.
fn remaining(touches: &[Touch], counters: &Counters) -> Vec<TierRemaining> {
    let mut least: BTreeMap<Tier, TierRemaining> = BTreeMap::new();
    for touch in touches {
        let counter = counters.get(&touch.key).copied().unwrap_or_default();
        let left = left(touch, counter);
        let entry = TierRemaining {
            tier: touch.tier,
            window: touch.window,
            limit_nanousd: touch.limit_nanousd,
            remaining_nanousd: i64::try_from(left).unwrap_or(if left < 0 { i64::MIN } else { i64::MAX }),
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
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn touch(tier: Tier, budget_id: i64, limit_nanousd: i64) -> Touch {
        Touch {
            key: CounterKey {
                org: "acme".into(),
                counter: CounterRef { budget_id, subject: String::new(), period_start_unix_s: 0 },
            },
            tier,
            window: Window::Day,
            limit_nanousd,
            period: Period { start_unix_s: 0, end_unix_s: Some(86_400) },
        }
    }

    fn counters(touches: &[Touch], spent_nanousd: i64, held_nanousd: i64) -> Counters {
        touches.iter().map(|touch| (touch.key.clone(), Counter { spent_nanousd, held_nanousd })).collect()
    }

    #[test]
    fn a_hold_that_fits_everywhere_is_held_everywhere() {
        let touches = [touch(Tier::Org, 1, 100), touch(Tier::Team, 2, 50), touch(Tier::User, 3, 50)];
        let mut counters = counters(&touches, 20, 10);
        let mut known = KnownHolds::new();
        let decision = decide(("acme", ID), 20, &touches, &mut counters, &mut known);
        let Decision::Granted { held_nanousd: 20, remaining } = decision else { panic!("{decision:?}") };
        assert!(counters.values().all(|counter| counter.held_nanousd == 30));
        let left: Vec<(Tier, i64)> =
            remaining.iter().map(|tier| (tier.tier, tier.remaining_nanousd)).collect();
        assert_eq!(left, [(Tier::Org, 50), (Tier::Team, 0), (Tier::User, 0)]);
    }

    #[test]
    fn one_short_budget_refuses_and_nothing_is_held() {
        for short in 0..3_usize {
            let mut touches =
                [touch(Tier::Org, 1, 100), touch(Tier::Team, 2, 100), touch(Tier::User, 3, 100)];
            touches[short].limit_nanousd = 49;
            let before = counters(&touches, 20, 10);
            let mut after = before.clone();
            let mut known = KnownHolds::new();
            let decision = decide(("acme", ID), 20, &touches, &mut after, &mut known);
            let Decision::Refused(refusal) = decision else { panic!("{decision:?}") };
            assert_eq!(refusal.touch, touches[short]);
            assert_eq!(refusal.needed_nanousd, 20);
            assert_eq!(after, before);
            assert!(known.is_empty());
        }
    }

    #[test]
    fn exactly_as_many_fit_as_the_limit_pays() {
        let touches = [touch(Tier::Org, 1, 95)];
        let mut counters = counters(&touches, 0, 0);
        let mut known = KnownHolds::new();
        let granted = (0..20_u128)
            .filter(|id| {
                let decision =
                    decide(("acme", Uuid::from_u128(*id)), 10, &touches, &mut counters, &mut known);
                matches!(decision, Decision::Granted { .. })
            })
            .count();
        assert_eq!(granted, 9);
    }

    #[test]
    fn a_repeat_is_answered_and_not_repeated_and_a_closed_id_stays_closed() {
        let touches = [touch(Tier::Org, 1, 100)];
        let mut counters = counters(&touches, 0, 0);
        let mut known = KnownHolds::new();
        decide(("acme", ID), 60, &touches, &mut counters, &mut known);
        let again = decide(("acme", ID), 60, &touches, &mut counters, &mut known);
        assert!(matches!(again, Decision::Repeated { held_nanousd: 60, .. }), "{again:?}");
        assert_eq!(counters[&touches[0].key].held_nanousd, 60);
        known.insert(("acme".into(), ID), KnownHold { open: false, held_nanousd: 60 });
        assert_eq!(decide(("acme", ID), 1, &touches, &mut counters, &mut known), Decision::Closed);
        // The same id under another org is another hold.
        let other = decide(("other", ID), 1, &[], &mut counters, &mut known);
        assert!(matches!(other, Decision::Granted { .. }));
    }

    #[test]
    fn a_limit_below_what_was_spent_refuses_even_a_free_call() {
        let touches = [touch(Tier::Org, 1, 10)];
        let mut counters = counters(&touches, 11, 0);
        let decision = decide(("acme", ID), 0, &touches, &mut counters, &mut KnownHolds::new());
        assert!(matches!(decision, Decision::Refused(_)), "{decision:?}");
    }

    #[test]
    fn the_tightest_budget_of_a_tier_is_reported() {
        let touches = [touch(Tier::Org, 1, 100), touch(Tier::Org, 2, 70), touch(Tier::Org, 3, 90)];
        let mut counters = counters(&touches, 0, 0);
        let decision = decide(("acme", ID), 5, &touches, &mut counters, &mut KnownHolds::new());
        let Decision::Granted { remaining, .. } = decision else { panic!("{decision:?}") };
        assert_eq!(remaining.len(), 1);
        assert_eq!((remaining[0].limit_nanousd, remaining[0].remaining_nanousd), (70, 65));
    }

    #[test]
    fn extreme_amounts_don_t_wrap() {
        let touches = [touch(Tier::Org, 1, i64::MAX)];
        let mut counters = counters(&touches, i64::MAX, i64::MAX);
        let decision = decide(("acme", ID), i64::MAX, &touches, &mut counters, &mut KnownHolds::new());
        assert!(matches!(decision, Decision::Refused(_)));
    }
}
