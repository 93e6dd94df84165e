//! What it takes to make a set of budgets another. Pure.

use std::collections::BTreeMap;

use purser_protocol::Window;

use crate::admin::{BudgetRow, NewBudget};
use crate::budget::Scope;
use crate::pattern::Patterns;

/// What doesn't change in a budget: two that agree in it are the same one, edited.
type Identity<'a> = (&'a Scope, Window, &'a str, &'a Patterns);

fn identity(set: &NewBudget) -> Identity<'_> {
    (&set.scope, set.window, &set.time_zone, &set.models)
}

/// The steps.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// To make.
    pub create: Vec<NewBudget>,
    /// To change, and into what.
    pub change: Vec<(BudgetRow, NewBudget)>,
    /// To leave as they are.
    pub unchanged: Vec<BudgetRow>,
    /// To archive.
    pub archive: Vec<BudgetRow>,
}

/// The steps from what there is to what is wanted. Of two that differ in their mode alone, each goes first
/// to its like, and then to what is left. What nobody wants is archived with `prune`, else left out.
#[must_use]
pub fn plan(existing: Vec<BudgetRow>, wanted: Vec<NewBudget>, prune: bool) -> Plan {
    let mut plan = Plan::default();
    let (existing, wanted) = pair(&mut plan, existing, wanted, |one, other| one.mode == other.mode);
    let (left, create) = pair(&mut plan, existing, wanted, |_, _| true);
    plan.create = create;
    if prune {
        plan.archive = left;
    }
    plan
}

/// Pairs those that are the same budget and fit; gives what is left of both.
fn pair(
    plan: &mut Plan,
    existing: Vec<BudgetRow>,
    wanted: Vec<NewBudget>,
    fits: impl Fn(&NewBudget, &NewBudget) -> bool,
) -> (Vec<BudgetRow>, Vec<NewBudget>) {
    let key = |set: &NewBudget| {
        let (scope, window, zone, models) = identity(set);
        let place = [&scope.org, &scope.team, &scope.user].map(String::clone);
        (place, window.as_str(), zone.to_owned(), models.clone())
    };
    let mut by_key: BTreeMap<_, Vec<NewBudget>> = BTreeMap::new();
    let order: Vec<_> = wanted.iter().map(key).collect();
    for (key, set) in order.iter().zip(wanted) {
        by_key.entry(key.clone()).or_default().push(set);
    }
    let mut left = Vec::new();
    for row in existing {
        let candidates = by_key.get_mut(&key(&row.set));
        let found = candidates.and_then(|sets| {
            let place = sets.iter().position(|set| fits(&row.set, set))?;
            Some(sets.remove(place))
        });
        match found {
            None => left.push(row),
            Some(set) if same(&row.set, &set) => plan.unchanged.push(row),
            Some(set) => plan.change.push((row, set)),
        }
    }
    // As they were asked for.
    let mut rest = Vec::new();
    for key in order {
        rest.extend(by_key.remove(&key).unwrap_or_default());
    }
    (left, rest)
}

fn same(one: &NewBudget, other: &NewBudget) -> bool {
    (one.limit_nanousd, one.mode, one.strict, &one.ladder)
        == (other.limit_nanousd, other.mode, other.strict, &other.ladder)
}

/// The place of the second of two that are the same budget in the same mode, if there are two.
#[must_use]
pub fn twice(wanted: &[NewBudget]) -> Option<usize> {
    (0..wanted.len()).find(|place| {
        let one = wanted.get(*place);
        wanted.iter().take(*place).any(|earlier| {
            one.is_some_and(|one| identity(one) == identity(earlier) && one.mode == earlier.mode)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Mode;
    use crate::ladder::Ladder;

    fn budget(team: &str, limit_nanousd: i64, mode: Mode) -> NewBudget {
        NewBudget {
            scope: Scope::new("acme", team, ""),
            window: Window::Day,
            time_zone: "UTC".into(),
            limit_nanousd,
            mode,
            strict: false,
            models: Patterns::default(),
            ladder: Ladder::default(),
        }
    }

    fn row(budget_id: i64, set: NewBudget) -> BudgetRow {
        BudgetRow { budget_id, set, revision: 1, archived_at_unix_s: None }
    }

    fn steps(plan: &Plan) -> (Vec<String>, Vec<i64>, Vec<i64>, Vec<i64>) {
        let ids = |rows: &[BudgetRow]| rows.iter().map(|row| row.budget_id).collect();
        let made = plan.create.iter().map(|set| set.scope.team.clone()).collect();
        let changed = plan.change.iter().map(|(row, _)| row.budget_id).collect();
        (made, changed, ids(&plan.unchanged), ids(&plan.archive))
    }

    #[test]
    fn each_budget_is_made_changed_left_or_archived() {
        let enforce = Mode::Enforce;
        let existing = || {
            vec![
                row(1, budget("a", 1, enforce)),
                row(2, budget("b", 1, enforce)),
                row(3, budget("c", 1, enforce)),
            ]
        };
        let wanted = || vec![budget("d", 9, enforce), budget("a", 1, enforce), budget("b", 2, enforce)];
        let pruned = plan(existing(), wanted(), true);
        assert_eq!(steps(&pruned), (vec!["d".to_owned()], vec![2], vec![1], vec![3]));
        assert!(plan(existing(), wanted(), false).archive.is_empty());
        let after: Vec<BudgetRow> =
            wanted().into_iter().zip(1..).map(|(set, number)| row(number, set)).collect();
        assert_eq!(steps(&plan(after, wanted(), true)), (vec![], vec![], vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_mode_is_changed_and_two_modes_of_one_place_are_told_apart() {
        let (enforce, shadow) = (Mode::Enforce, Mode::Shadow);
        let switched = plan(vec![row(1, budget("a", 1, enforce))], vec![budget("a", 1, shadow)], true);
        assert_eq!(steps(&switched), (vec![], vec![1], vec![], vec![]));
        let both = || vec![row(1, budget("a", 1, enforce)), row(2, budget("a", 1, shadow))];
        let wanted = vec![budget("a", 5, shadow), budget("a", 1, enforce)];
        assert_eq!(steps(&plan(both(), wanted, true)), (vec![], vec![2], vec![1], vec![]));
        assert_eq!(twice(&[budget("a", 1, enforce), budget("a", 1, shadow)]), None);
        assert_eq!(
            twice(&[budget("a", 1, enforce), budget("b", 1, enforce), budget("a", 2, enforce)]),
            Some(2)
        );
    }
}
