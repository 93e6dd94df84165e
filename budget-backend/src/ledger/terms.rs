//! The terms of a call: which counters it touches and what its payer may do at all. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purser_protocol::{Payer, Tier, Window};

use super::decide::{CounterKey, CounterRef};
use super::policies::{Policies, ScopePolicy};
use crate::budget::{Budget, Mode, Scope, matching};
use crate::ladder::Ladder;
use crate::pattern::Names;
use crate::quote::Quotes;
use crate::rules::{Barred, barred, in_force};
use crate::window::{Period, WindowError, period};

/// A counter that a payer's call touches, with the limit that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The counter.
    pub key: CounterKey,
    /// The budget's tier.
    pub tier: Tier,
    /// Its window.
    pub window: Window,
    /// Its limit, nano-USD; top-ups of the period are the counter's.
    pub limit_nanousd: i64,
    /// Whether it refuses or only notes.
    pub mode: Mode,
    /// Whether holds must be the upper bound of what a call may cost.
    pub strict: bool,
    /// Whether an own row stands in for it: it counts and has no say.
    pub replaced: bool,
    /// What it does before it refuses.
    pub ladder: Arc<Ladder>,
    /// The period.
    pub period: Period,
}

impl Touch {
    /// Whether it refuses what it can't pay.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce && !self.replaced
    }

    /// Whether it notes what it would do.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.mode == Mode::Shadow && !self.replaced
    }
}

/// What decides about one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The counters touched, in the order they are checked.
    pub touches: Vec<Touch>,
    /// Why the call may not go out whatever is left.
    pub barred: Option<Barred>,
    /// The override in force for the payer.
    pub override_id: Option<i64>,
    /// Until when, Unix microseconds.
    pub override_until_unix_us: Option<i64>,
    /// Tiers the payer has, without an enforcing budget.
    pub unbudgeted: Vec<Tier>,
    /// Whether models without a price of their own are refused.
    pub deny_unknown_models: bool,
    /// The names of the model.
    pub names: Names,
    /// The instant they are of, Unix seconds.
    pub at_unix_s: i64,
    /// By model: the terms of what a budget's ladder may degrade the call to. They have none themselves,
    /// since a call is rewritten once.
    pub targets: BTreeMap<String, Terms>,
}

impl Terms {
    /// Every counter that the call may count in, whichever model runs it.
    pub fn all_touches(&self) -> impl Iterator<Item = &Touch> {
        self.touches.iter().chain(self.targets.values().flat_map(|terms| &terms.touches))
    }

    /// The first enforcing strict budget touched.
    #[must_use]
    pub fn strict_budget(&self) -> Option<i64> {
        let strict = self.touches.iter().find(|touch| touch.strict && touch.enforces());
        strict.map(|touch| touch.key.counter.budget_id)
    }

    /// Whether they are the terms at an instant: it lies in the period of every counter touched, and the
    /// override has not expired.
    #[must_use]
    pub fn hold_at(&self, unix_us: i64) -> bool {
        let unix_s = unix_us.div_euclid(1_000_000);
        let in_period = |period: &Period| {
            period.start_unix_s <= unix_s && period.end_unix_s.is_none_or(|end| unix_s < end)
        };
        self.all_touches().all(|touch| in_period(&touch.period))
            && self.override_until_unix_us.is_none_or(|until| unix_us < until)
    }
}

/// The counters a call touches at an instant, in the order they are checked.
///
/// # Errors
/// [`WindowError`] when a period can't be placed on the calendar.
pub fn touched<'a>(
    budgets: impl IntoIterator<Item = &'a Budget>,
    payer: &Payer,
    model: &Names,
    now_unix_s: i64,
) -> Result<Vec<Touch>, WindowError> {
    matching(budgets, payer, model)
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
                mode: budget.mode,
                strict: budget.strict,
                replaced: found.replaced,
                ladder: Arc::clone(&budget.ladder),
                period,
            })
        })
        .collect()
}

/// The terms of a call at an instant, from what is set at its payer's scopes, with those of every model
/// that a ladder may degrade it to, whose names `others` knows.
///
/// # Errors
/// [`WindowError`] when a period can't be placed on the calendar.
pub fn terms(
    policies: &Policies,
    payer: &Payer,
    model: &Names,
    others: &dyn Quotes,
    now_unix_us: i64,
) -> Result<Terms, WindowError> {
    let mut terms = terms_of_model(policies, payer, model.clone(), now_unix_us)?;
    let says = terms.touches.iter().filter(|touch| !touch.replaced);
    let targets: BTreeSet<&str> = says.filter_map(|touch| touch.ladder.target_of(model)).collect();
    let of = |target: &str| {
        Ok((target.to_owned(), terms_of_model(policies, payer, others.names(target), now_unix_us)?))
    };
    terms.targets = targets.into_iter().map(of).collect::<Result<_, WindowError>>()?;
    Ok(terms)
}

fn terms_of_model(
    policies: &Policies,
    payer: &Payer,
    names: Names,
    now_unix_us: i64,
) -> Result<Terms, WindowError> {
    let scopes = Scope::candidates(payer);
    let set: Vec<&ScopePolicy> = scopes.iter().filter_map(|scope| policies.get(scope)).collect();
    let budgets = set.iter().flat_map(|policy| &policy.budgets);
    let touches = touched(budgets, payer, &names, now_unix_us.div_euclid(1_000_000))?;
    let budgeted: BTreeSet<Tier> =
        touches.iter().filter(|touch| touch.enforces()).map(|touch| touch.tier).collect();
    let rules = set.iter().filter_map(|policy| policy.rule.as_ref());
    let lifted = in_force(set.iter().flat_map(|policy| &policy.overrides), now_unix_us);
    let deny_unknown_models = rules.clone().any(|rule| rule.deny_unknown_models);
    let required = rules.clone().flat_map(|rule| &rule.required_tiers).find(|tier| !budgeted.contains(tier));
    let named = [Some(Tier::Org), payer.team.as_ref().map(|_| Tier::Team), user_tier(payer)];
    Ok(Terms {
        barred: barred(rules, &names).or(required.copied().map(Barred::NoBudget)),
        override_id: lifted.map(|entry| entry.override_id),
        override_until_unix_us: lifted.map(|entry| entry.expires_unix_us),
        unbudgeted: named.into_iter().flatten().filter(|tier| !budgeted.contains(tier)).collect(),
        touches,
        names,
        deny_unknown_models,
        at_unix_s: now_unix_us.div_euclid(1_000_000),
        targets: BTreeMap::new(),
    })
}

/// A user counts only within a team.
fn user_tier(payer: &Payer) -> Option<Tier> {
    payer.team.as_ref().and(payer.user.as_ref()).map(|_| Tier::User)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Patterns;
    use crate::quote::Quote;
    use crate::rules::{Override, Rule};
    use jiff::tz::TimeZone;

    fn payer() -> Payer {
        Payer { org: "acme".into(), team: Some("search".into()), user: Some("ann".into()) }
    }

    fn budget(budget_id: i64, scope: Scope, mode: Mode) -> Budget {
        Budget {
            budget_id,
            scope,
            window: Window::Day,
            zone: TimeZone::UTC,
            limit_nanousd: 100,
            mode,
            strict: false,
            models: Patterns::default(),
            ladder: Arc::default(),
        }
    }

    fn rule(scope: Scope) -> Rule {
        Rule {
            scope,
            blocked: false,
            reason: String::new(),
            allowed_models: Patterns::default(),
            denied_models: Patterns::default(),
            required_tiers: Vec::new(),
            deny_unknown_models: false,
        }
    }

    fn at(policies: &[(Scope, ScopePolicy)], now_unix_us: i64) -> Terms {
        let mut set = Policies::default();
        for (scope, policy) in policies {
            set.insert(1, scope.clone(), policy.clone());
        }
        terms(&set, &payer(), &Names::of("gpt-4o", []), &BTreeMap::<String, Quote>::new(), now_unix_us)
            .unwrap()
    }

    #[test]
    fn a_tier_without_an_enforcing_budget_is_unbudgeted_and_barred_where_one_is_required() {
        let org = Scope::new("acme", "", "");
        let team = Scope::new("acme", "search", "");
        let budgets = |scope: &Scope, mode| ScopePolicy {
            budgets: vec![budget(1, scope.clone(), mode)],
            ..ScopePolicy::default()
        };
        let terms = at(
            &[(org.clone(), budgets(&org, Mode::Enforce)), (team.clone(), budgets(&team, Mode::Shadow))],
            0,
        );
        assert_eq!(terms.unbudgeted, [Tier::Team, Tier::User]);
        assert_eq!((terms.barred.clone(), terms.touches.len()), (None, 2));
        let strict_org = ScopePolicy {
            rule: Some(Rule { required_tiers: vec![Tier::Org, Tier::Team], ..rule(org.clone()) }),
            ..budgets(&org, Mode::Enforce)
        };
        assert_eq!(at(&[(org, strict_org)], 0).barred, Some(Barred::NoBudget(Tier::Team)));
        assert_eq!(at(&[], 0).unbudgeted, [Tier::Org, Tier::Team, Tier::User]);
    }

    #[test]
    fn rules_and_overrides_of_every_scope_of_the_payer_count_and_no_others() {
        let off = |scope: Scope| {
            let rule = Rule { blocked: true, ..rule(scope.clone()) };
            let lifted = Override { override_id: 3, expires_unix_us: 10 };
            (scope, ScopePolicy { rule: Some(rule), overrides: vec![lifted], ..ScopePolicy::default() })
        };
        for (team, user) in [("", ""), ("search", ""), ("*", ""), ("search", "ann"), ("search", "*")] {
            let terms = at(&[off(Scope::new("acme", team, user))], 9);
            assert!(matches!(terms.barred, Some(Barred::Blocked { .. })), "{team}/{user}");
            assert_eq!(terms.override_id, Some(3), "{team}/{user}");
        }
        for (org, team, user) in [("other", "", ""), ("acme", "ads", ""), ("acme", "search", "bob")] {
            assert_eq!(at(&[off(Scope::new(org, team, user))], 9).barred, None, "{org}/{team}/{user}");
        }
        assert_eq!(at(&[off(Scope::new("acme", "", ""))], 10).override_id, None);
    }

    #[test]
    fn terms_hold_within_their_periods_only() {
        let org = Scope::new("acme", "", "");
        let policy =
            ScopePolicy { budgets: vec![budget(1, org.clone(), Mode::Enforce)], ..ScopePolicy::default() };
        let terms = at(&[(org, policy)], 86_400 * 1_000_000);
        let at = |unix_s: i64| terms.hold_at(unix_s * 1_000_000);
        assert!(at(86_400) && at(2 * 86_400 - 1));
        assert!(!at(86_399) && !at(2 * 86_400));
        let lifted = Terms { override_until_unix_us: Some(5), ..terms };
        assert!(!lifted.hold_at(86_400 * 1_000_000));
    }

    #[test]
    fn the_terms_of_what_a_ladder_may_degrade_to_come_with_those_of_the_call() {
        use crate::ladder::Degrade;
        let org = Scope::new("acme", "", "");
        let degrade = |target: &str| {
            let models =
                [("gpt-4o".to_owned(), target.to_owned()), ("other".to_owned(), "x".to_owned())].into();
            Arc::new(Ladder { degrade: Some(Degrade { at_percent: 90, models }), ..Ladder::default() })
        };
        let of = |budget_id, mode, target: &str, models: &[&str]| Budget {
            ladder: degrade(target),
            models: Patterns::new(models.iter().map(|name| (*name).to_owned()).collect()),
            ..budget(budget_id, org.clone(), mode)
        };
        let budgets = vec![
            of(1, Mode::Enforce, "mini", &["gpt-4o"]),
            of(2, Mode::Shadow, "nano", &[]),
            of(3, Mode::Enforce, "never", &["mini"]),
        ];
        let denied = Patterns::new(vec!["nano".to_owned()]);
        let rule = Some(Rule { denied_models: denied, ..rule(org.clone()) });
        let terms = at(&[(org, ScopePolicy { budgets, rule, ..ScopePolicy::default() })], 5_000_000);
        let touched = |terms: &Terms| -> Vec<i64> {
            terms.touches.iter().map(|touch| touch.key.counter.budget_id).collect()
        };
        assert_eq!((touched(&terms), terms.barred.is_some(), terms.at_unix_s), (vec![1, 2], false, 5));
        let targets: Vec<_> = terms.targets.iter().map(|(model, of)| (model.as_str(), touched(of))).collect();
        assert_eq!(targets, [("mini", vec![2, 3]), ("nano", vec![2])]);
        assert!(matches!(terms.targets["nano"].barred, Some(Barred::ModelNotAllowed { .. })));
        assert!(terms.targets.values().all(|of| of.targets.is_empty()));
        assert_eq!(terms.all_touches().count(), 5);
    }
}
