//! A decision as the caller hears it, and as it is counted. Pure.

use purser_protocol::{
    Allow, DeniedBudget, Deny, DenyReason, HoldRequest, Payer, Rewrite, Tier, Verdict, format_usd,
};
use uuid::Uuid;

use crate::budget::Mode;
use crate::ledger::decide::Rewritten;
use crate::ledger::steps::{Step, Stepped};
use crate::ledger::{Decision, Grant, Refusal};
use crate::rules::Barred;
use crate::tracker::verdicts::{Noted, NotedOutcome};
use crate::window::rfc3339;

/// Who asked, for what.
pub struct Caller {
    hold_id: Uuid,
    payer: Payer,
    /// Whether the payer was looked up, and the filter has to be told.
    looked_up: bool,
    provider: String,
    model: String,
}

impl Caller {
    /// The caller of a request, whose payer may have been looked up.
    pub fn of(request: &HoldRequest, payer: &Payer) -> Self {
        Self {
            hold_id: request.hold_id,
            payer: payer.clone(),
            looked_up: request.payer.org.is_empty(),
            provider: request.call.provider.clone(),
            model: request.call.model.clone(),
        }
    }

    /// The verdict of a decision.
    pub fn verdict(&self, decision: Decision) -> Verdict {
        let verdict = match decision {
            Decision::Granted(grant) | Decision::Repeated(grant) => Verdict::Allow(allow(grant)),
            Decision::Closed => {
                deny(DenyReason::Closed, "this hold was closed before it was made".to_owned())
            }
            Decision::Refused(refusal) => Verdict::Deny(refused(&self.payer, &refusal)),
            Decision::Barred(barred) => barred_by(&barred),
        };
        let payer = self.looked_up.then(|| self.payer.clone());
        match verdict {
            Verdict::Allow(allow) => Verdict::Allow(Allow { payer, ..allow }),
            Verdict::Deny(deny) => Verdict::Deny(Deny { payer, ..deny }),
        }
    }

    /// A denial by nobody being known, and how it is counted.
    pub fn unidentified(&self, now_unix_us: i64) -> (Verdict, Noted) {
        let message = "Nobody is known by what this call shows of its caller.".to_owned();
        let noted = self.noted(NotedOutcome::Denied, DenyReason::Unidentified.as_str(), 0, 0, now_unix_us);
        (deny(DenyReason::Unidentified, message), noted)
    }

    fn noted(
        &self,
        outcome: NotedOutcome,
        reason: &'static str,
        budget_id: i64,
        needed_nanousd: i64,
        at_unix_us: i64,
    ) -> Noted {
        Noted {
            org: self.payer.org.clone(),
            team: self.payer.team.clone().unwrap_or_default(),
            user: self.payer.user.clone().unwrap_or_default(),
            provider: self.provider.clone(),
            model: self.model.clone(),
            outcome,
            reason,
            budget_id,
            needed_nanousd,
            hold_id: self.hold_id,
            at_unix_us,
        }
    }

    /// What of a decision is worth counting.
    pub fn notes(&self, decision: &Decision, now_unix_us: i64) -> Vec<Noted> {
        let note = |outcome, reason, budget_id, needed_nanousd| {
            self.noted(outcome, reason, budget_id, needed_nanousd, now_unix_us)
        };
        let over_budget = DenyReason::OverBudget.as_str();
        match decision {
            Decision::Granted(grant) => {
                let passed_over = grant.passed_over.iter().map(|over| {
                    let outcome = match over.mode {
                        Mode::Shadow => NotedOutcome::ShadowDenied,
                        Mode::Enforce => NotedOutcome::Overridden,
                    };
                    note(outcome, over_budget, over.budget_id, grant.held_nanousd)
                });
                let steps = grant
                    .steps
                    .iter()
                    .map(|step| note(outcome_of(step), "", step.budget_id, grant.held_nanousd));
                let warned = grant
                    .warnings
                    .iter()
                    .map(|warning| note(NotedOutcome::Warned, "", warning.budget_id, grant.held_nanousd));
                let unbudgeted = grant.unbudgeted.iter();
                let unbudgeted = unbudgeted
                    .map(|tier| note(NotedOutcome::Unbudgeted, tier.as_str(), 0, grant.held_nanousd));
                passed_over.chain(steps).chain(warned).chain(unbudgeted).collect()
            }
            Decision::Refused(refusal) => {
                let budget_id = refusal.touch.key.counter.budget_id;
                vec![note(NotedOutcome::Denied, over_budget, budget_id, refusal.needed_nanousd)]
            }
            Decision::Barred(barred) => {
                let (reason, budget_id) = match barred {
                    Barred::Blocked { .. } => (DenyReason::Blocked, 0),
                    Barred::ModelNotAllowed { .. } => (DenyReason::ModelNotAllowed, 0),
                    Barred::NoBudget(_) => (DenyReason::NoBudget, 0),
                    Barred::UnknownModel => (DenyReason::NotPriceable, 0),
                    Barred::NotBoundable { budget_id, .. } => (DenyReason::NotBoundable, *budget_id),
                };
                vec![note(NotedOutcome::Denied, reason.as_str(), budget_id, 0)]
            }
            // Answered before, or never to be sent.
            Decision::Repeated(_) | Decision::Closed => Vec::new(),
        }
    }
}

/// A denial by no budget.
pub fn deny(reason: DenyReason, message: String) -> Verdict {
    Verdict::Deny(Deny { reason, message, ..Deny::default() })
}

fn outcome_of(stepped: &Stepped) -> NotedOutcome {
    match (stepped.mode, stepped.step) {
        (Mode::Enforce, Step::Warn) => NotedOutcome::Warned,
        (Mode::Enforce, Step::Degrade) => NotedOutcome::Degraded,
        (Mode::Enforce, Step::Clamp) => NotedOutcome::Clamped,
        (Mode::Shadow, Step::Warn) => NotedOutcome::ShadowWarned,
        (Mode::Shadow, Step::Degrade) => NotedOutcome::ShadowDegraded,
        (Mode::Shadow, Step::Clamp) => NotedOutcome::ShadowClamped,
    }
}

fn allow(grant: Grant) -> Allow {
    let Rewritten { model, output_cap_tokens, clamped } = grant.rewrite;
    let rewrite = Rewrite { model, max_output_tokens: output_cap_tokens };
    Allow {
        held_nanousd: grant.held_nanousd,
        remaining: grant.remaining,
        rewrite: (rewrite != Rewrite::default()).then_some(rewrite),
        strict: grant.strict,
        warnings: grant.warnings,
        clamped,
        payer: None,
    }
}

fn barred_by(barred: &Barred) -> Verdict {
    let because = |reason: &str| match reason.trim_end_matches('.') {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    match barred {
        Barred::Blocked { scope, reason } => {
            deny(DenyReason::Blocked, format!("Calls of {scope} are shut off{}.", because(reason)))
        }
        Barred::ModelNotAllowed { scope, reason } => deny(
            DenyReason::ModelNotAllowed,
            format!("This model is not allowed for {scope}{}.", because(reason)),
        ),
        Barred::NoBudget(tier) => deny(
            DenyReason::NoBudget,
            format!("The org wants a budget in tier {}, and there is none for this call.", tier.as_str()),
        ),
        Barred::UnknownModel => deny(
            DenyReason::NotPriceable,
            "No price is known for this model or for what this call may cost by, and the org refuses such calls.".to_owned(),
        ),
        Barred::NotBoundable { budget_id, why } => Verdict::Deny(Deny {
            reason: DenyReason::NotBoundable,
            message: format!("Budget {budget_id} is strict, and this call can't be bounded: {why}."),
            strict: true,
            ..Deny::default()
        }),
    }
}

fn refused(payer: &Payer, refusal: &Refusal) -> Deny {
    let touch = &refusal.touch;
    let resets_at = touch.period.end_unix_s.and_then(rfc3339);
    let org = &payer.org;
    let team = payer.team.as_deref().unwrap_or_default();
    let whose = match touch.tier {
        Tier::Org => format!("org {org}"),
        Tier::Team => format!("team {team} in org {org}"),
        Tier::User => {
            format!("user {} in team {team} of org {org}", payer.user.as_deref().unwrap_or_default())
        }
    };
    let reset =
        resets_at.as_ref().map_or_else(|| "it does not reset".to_owned(), |at| format!("it resets at {at}"));
    let cheaper = refusal.degraded_to.as_deref();
    let cheaper = cheaper.map(|model| format!(" even by the cheaper model {model}")).unwrap_or_default();
    let message = format!(
        "The {window} budget of {whose} is exhausted: limit {limit} USD, spent {spent} USD, held by running calls {held} USD, \
         this call may cost {needed} USD{cheaper}; {reset}.",
        window = touch.window.as_str(),
        limit = format_usd(refusal.limit_nanousd()),
        spent = format_usd(refusal.counter.spent_nanousd),
        held = format_usd(refusal.counter.held_nanousd),
        needed = format_usd(refusal.needed_nanousd),
    );
    Deny {
        reason: DenyReason::OverBudget,
        message,
        strict: refusal.strict,
        exhausted: refusal.exhausted,
        budget: Some(DeniedBudget {
            budget_id: touch.key.counter.budget_id,
            tier: touch.tier,
            window: touch.window,
            limit_nanousd: refusal.limit_nanousd(),
            spent_nanousd: refusal.counter.spent_nanousd,
            held_nanousd: refusal.counter.held_nanousd,
            needed_nanousd: refusal.needed_nanousd,
            resets_at,
        }),
        ..Deny::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::decide::PassedOver;

    fn caller() -> Caller {
        let payer = Payer { org: "acme".into(), team: Some("search".into()), user: None };
        Caller {
            hold_id: Uuid::nil(),
            payer,
            looked_up: false,
            provider: "openai".into(),
            model: "gpt-4o".into(),
        }
    }

    fn grant() -> Grant {
        Grant {
            held_nanousd: 9,
            strict: true,
            rewrite: Rewritten { output_cap_tokens: Some(64), ..Rewritten::default() },
            ..Grant::default()
        }
    }

    fn noted(decision: &Decision) -> Vec<(NotedOutcome, &'static str, i64, i64)> {
        let notes = caller().notes(decision, 5);
        notes.into_iter().map(|n| (n.outcome, n.reason, n.budget_id, n.needed_nanousd)).collect()
    }

    #[test]
    fn a_grant_is_noted_for_what_did_not_stop_it() {
        let passed_over = vec![
            PassedOver { budget_id: 3, mode: Mode::Shadow },
            PassedOver { budget_id: 4, mode: Mode::Enforce },
        ];
        let granted = Grant { passed_over, unbudgeted: vec![Tier::Team], ..grant() };
        assert_eq!(
            noted(&Decision::Granted(granted.clone())),
            [
                (NotedOutcome::ShadowDenied, "over_budget", 3, 9),
                (NotedOutcome::Overridden, "over_budget", 4, 9),
                (NotedOutcome::Unbudgeted, "team", 0, 9),
            ]
        );
        // A repeat was noted the first time.
        assert!(noted(&Decision::Repeated(granted)).is_empty());
    }

    #[test]
    fn a_denial_is_noted_with_its_reason() {
        for (barred, reason, budget_id) in [
            (
                Barred::Blocked { scope: crate::budget::Scope::new("acme", "", ""), reason: String::new() },
                "blocked",
                0,
            ),
            (Barred::NoBudget(Tier::User), "no_budget", 0),
            (Barred::NotBoundable { budget_id: 8, why: "media" }, "not_boundable", 8),
        ] {
            assert_eq!(noted(&Decision::Barred(barred)), [(NotedOutcome::Denied, reason, budget_id, 0)]);
        }
    }

    #[test]
    fn a_strict_grant_carries_its_cap_and_says_so() {
        let Verdict::Allow(allow) = caller().verdict(Decision::Granted(grant())) else { panic!("denied") };
        assert!(allow.strict);
        assert_eq!(allow.rewrite, Some(Rewrite { model: None, max_output_tokens: Some(64) }));
    }
}
