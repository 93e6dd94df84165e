//! Finds budgets that match nothing, and ([`envoy`]) ways to LLM hosts around the filter. Pure.

mod domains;
pub mod envoy;
mod maps;
mod names;
mod switches;
pub mod unread;

use std::collections::BTreeSet;

use purser_protocol::{Payer, Tier, Window};
use serde::Serialize;

use crate::admin::{BudgetRow, NewBudget};
use crate::budget::{EACH, Mode, Scope};
use crate::pattern::{Names, Patterns};
use crate::pricing::PriceBook;

/// What is wrong with a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// No call of its place and models was charged lately.
    Untouched,
    /// Its patterns match no model that has a price.
    NoSuchModel,
    /// Everybody it was for lately has a budget of their own that replaces it.
    Replaced,
    /// Its ladder degrades to a model that has no price any more: the step is skipped.
    TargetWithoutPrice,
    /// Its ladder degrades a model that it doesn't cover: the step is never taken.
    ModelNotCovered,
    /// Its ladder degrades to a model that it doesn't cover: what runs then isn't limited by it.
    TargetNotCovered,
    /// Its ladder degrades to a dearer model.
    TargetDearer,
    /// Its ladder degrades to a model that no provider of the asked one has.
    TargetElsewhere,
    /// Its ladder degrades to a model of another API.
    TargetOfAnotherApi,
    /// What its ladder degrades to is degraded on by a map: a step that is never taken, or a circle.
    Chain,
}

/// A finding about a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BudgetFinding {
    /// The budget.
    pub budget_id: i64,
    /// What is wrong.
    pub finding: Flaw,
    /// A sentence for people.
    pub message: String,
}

/// A budget and whether it was of use.
#[derive(Debug, Clone)]
pub struct Used {
    /// The budget.
    pub row: BudgetRow,
    /// Whether it is as old as what is looked back at.
    pub is_old: bool,
    /// Whether calls of its place and models were charged lately.
    pub is_touched: bool,
}

/// What is wrong with the budgets of an org. `payers` are those charged in the last `days` days.
#[must_use]
pub fn budgets(
    budgets: &[Used],
    payers: &[Payer],
    prices: &PriceBook,
    now_unix_s: i64,
    days: i32,
) -> Vec<BudgetFinding> {
    let own: BTreeSet<Kind<'_>> = budgets
        .iter()
        .filter(|used| used.row.set.mode == Mode::Enforce)
        .map(|used| kind(&used.row.set, used.row.set.scope.clone()))
        .collect();
    let mut findings = Vec::new();
    for used in budgets {
        let (budget_id, set) = (used.row.budget_id, &used.row.set);
        let mut find = |finding, message: String| {
            findings.push(BudgetFinding { budget_id, finding, message });
        };
        if !matches_a_model(&set.models, prices) {
            let patterns = set.models.names().join(", ");
            find(Flaw::NoSuchModel, format!("no model with a price matches {patterns}"));
        }
        let subjects = subjects(&set.scope, payers);
        if !subjects.is_empty() && subjects.iter().all(|scope| own.contains(&kind(set, scope.clone()))) {
            let message = format!("each of the {} it was for has a budget that replaces it", subjects.len());
            find(Flaw::Replaced, message);
        } else if used.is_old && !used.is_touched {
            find(Flaw::Untouched, format!("no call of {} in its models in {days} days", set.scope));
        }
        for (finding, message) in maps::flaws(used, budgets, prices, now_unix_s) {
            find(finding, message);
        }
    }
    findings
}

type Kind<'a> = (Scope, Tier, Window, &'a Patterns);

fn kind(set: &NewBudget, scope: Scope) -> Kind<'_> {
    (scope, set.scope.tier(), set.window, &set.models)
}

/// The own places of those whom a `*` budget was for; none for another budget.
fn subjects(scope: &Scope, payers: &[Payer]) -> BTreeSet<Scope> {
    let of = |payer: &Payer| {
        let (team, user) = (payer.team.as_deref()?, payer.user.as_deref());
        if scope.team == EACH {
            return Some(Scope::new(&payer.org, team, ""));
        }
        let user = user.filter(|_| scope.user == EACH && scope.team == team)?;
        Some(Scope::new(&payer.org, team, user))
    };
    payers.iter().filter_map(of).collect()
}

fn matches_a_model(models: &Patterns, prices: &PriceBook) -> bool {
    models.is_empty() || prices.models_and_aliases().any(|model| models.meet(&Names::of(model, [])))
}
