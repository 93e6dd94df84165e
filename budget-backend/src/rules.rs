//! What a payer may do at all, whatever the budgets say: kill switches, model lists, and overrides
//! that lift budgets for a while. Pure.

use purser_protocol::Tier;

use crate::budget::Scope;
use crate::pattern::{Names, Patterns};

/// A rule of one scope. Every rule that covers a payer applies; none replaces another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it covers.
    pub scope: Scope,
    /// The kill switch.
    pub blocked: bool,
    /// Said to whoever is refused by it.
    pub reason: String,
    /// Models that may be called; none means every model.
    pub allowed_models: Patterns,
    /// Models that may not; they win.
    pub denied_models: Patterns,
    /// Tiers in which a call must find an enforcing budget.
    pub required_tiers: Vec<Tier>,
    /// Whether calls to models without a price of their own are refused.
    pub deny_unknown_models: bool,
}

/// An override that may be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// Its number.
    pub override_id: i64,
    /// Until when, Unix microseconds.
    pub expires_unix_us: i64,
}

/// A call that no budget could let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// A kill switch is on.
    Blocked {
        /// Where.
        scope: Scope,
        /// Why, in the operator's words; may be empty.
        reason: String,
    },
    /// The model is denied, or not among the allowed.
    ModelNotAllowed {
        /// By the rule of this scope.
        scope: Scope,
        /// Why, in the operator's words; may be empty.
        reason: String,
    },
    /// A tier that needs a budget has none.
    NoBudget(Tier),
    /// The model has no price of its own, and the org refuses such.
    UnknownModel,
    /// A strict budget is touched and nothing bounds what the call may cost.
    NotBoundable {
        /// The strict budget.
        budget_id: i64,
        /// What can't be bounded.
        why: &'static str,
    },
}

/// What the rules say about a call to a model of these names; kill switches first, so that their reason is the one
/// that is told.
#[must_use]
pub fn barred<'a>(rules: impl Iterator<Item = &'a Rule> + Clone, model: &Names) -> Option<Barred> {
    if let Some(rule) = rules.clone().find(|rule| rule.blocked) {
        return Some(Barred::Blocked { scope: rule.scope.clone(), reason: rule.reason.clone() });
    }
    let mut rules = rules;
    rules
        .find(|rule| rule.denied_models.meet(model) || !rule.allowed_models.allow(model))
        .map(|rule| Barred::ModelNotAllowed { scope: rule.scope.clone(), reason: rule.reason.clone() })
}

/// The first override in force at an instant. They begin when they are made, so that one that is read
/// has begun, whatever a clock elsewhere says.
#[must_use]
pub fn in_force<'a>(overrides: impl IntoIterator<Item = &'a Override>, now_unix_us: i64) -> Option<Override> {
    overrides.into_iter().find(|entry| now_unix_us < entry.expires_unix_us).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(team: &str) -> Rule {
        Rule {
            scope: Scope::new("acme", team, ""),
            blocked: false,
            reason: String::new(),
            allowed_models: Patterns::default(),
            denied_models: Patterns::default(),
            required_tiers: Vec::new(),
            deny_unknown_models: false,
        }
    }

    fn named(model: &str) -> Names {
        Names::of(model, [])
    }

    fn patterns(names: &[&str]) -> Patterns {
        Patterns::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_kill_switch_anywhere_above_stops_the_call_and_is_told_first() {
        let lists = Rule { denied_models: patterns(&["*"]), ..rule("") };
        let off = Rule { blocked: true, reason: "incident".to_owned(), ..rule("search") };
        assert_eq!(
            barred([&lists, &off].into_iter(), &named("gpt-4o")),
            Some(Barred::Blocked { scope: off.scope.clone(), reason: "incident".to_owned() })
        );
        assert_eq!(barred([&rule("")].into_iter(), &named("gpt-4o")), None);
    }

    #[test]
    fn every_list_must_let_the_model_through_and_a_denial_wins() {
        let org = Rule { allowed_models: patterns(&["gpt-*"]), ..rule("") };
        let team = Rule {
            allowed_models: patterns(&["gpt-4o*", "claude-*"]),
            denied_models: patterns(&["gpt-4o-audio*"]),
            ..rule("search")
        };
        for (model, by) in [
            ("gpt-4o", None),
            ("gpt-4o-mini", None),
            ("gpt-4.1", Some("search")),
            ("claude-3", Some("")),
            ("elsewhere/gpt-4o", Some("")),
            ("GPT-4o-2024-08-06", None),
            ("gpt-4o-audio-preview", Some("search")),
        ] {
            let found = barred([&org, &team].into_iter(), &named(model)).map(|barred| match barred {
                Barred::ModelNotAllowed { scope, .. } => scope.team,
                other => panic!("{other:?}"),
            });
            assert_eq!(found.as_deref(), by, "{model}");
        }
    }

    #[test]
    fn an_override_holds_until_it_expires() {
        let overrides = [Override { override_id: 7, expires_unix_us: 20 }];
        for (now, expected) in [(0, Some(7)), (19, Some(7)), (20, None)] {
            assert_eq!(in_force(&overrides, now).map(|entry| entry.override_id), expected, "{now}");
        }
    }
}
