//! Budgets and which of them a payer's call touches.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use purser_protocol::{Payer, Tier, Window};

use crate::window::time_zone;

/// In the last place of a scope: each one, unless it has a row of its own.
pub const EACH: &str = "*";

/// A place in org → team → user; `""` means "not part of the scope".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// The organisation.
    pub org: String,
    /// The team, [`EACH`], or `""`.
    pub team: String,
    /// The user, [`EACH`], or `""`.
    pub user: String,
}

impl Scope {
    /// The tier this scope belongs to.
    #[must_use]
    pub fn tier(&self) -> Tier {
        match (self.team.as_str(), self.user.as_str()) {
            ("", _) => Tier::Org,
            (_, "") => Tier::Team,
            _ => Tier::User,
        }
    }

    /// Every scope whose budgets a call of this payer may touch: its own places and the `*` beside them.
    #[must_use]
    pub fn candidates(payer: &Payer) -> Vec<Self> {
        let scope = |team: &str, user: &str| Self {
            org: payer.org.clone(),
            team: team.to_owned(),
            user: user.to_owned(),
        };
        let mut scopes = vec![scope("", "")];
        if let Some(team) = &payer.team {
            scopes.extend([scope(team, ""), scope(EACH, "")]);
            if let Some(user) = &payer.user {
                scopes.extend([scope(team, user), scope(team, EACH)]);
            }
        }
        scopes
    }
}

/// One budget row, as far as a decision needs it.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Its number, unique within the org.
    pub budget_id: i64,
    /// Whom it covers.
    pub scope: Scope,
    /// Its calendar window.
    pub window: Window,
    /// Where its days begin.
    pub zone: TimeZone,
    /// What may be spent in one period, nano-USD.
    pub limit_nanousd: i64,
}

impl Budget {
    /// A budget from its row's columns.
    ///
    /// # Errors
    /// Says which budget has a window or time zone that this code doesn't know.
    pub fn from_columns(
        budget_id: i64,
        scope: Scope,
        window_kind: &str,
        zone_name: &str,
        limit_nanousd: i64,
    ) -> Result<Self, String> {
        let window = Window::from_name(window_kind)
            .ok_or_else(|| format!("budget {budget_id}: unknown window {window_kind}"))?;
        let zone = time_zone(zone_name).map_err(|error| format!("budget {budget_id}: {error}"))?;
        Ok(Self { budget_id, scope, window, zone, limit_nanousd })
    }
}

/// A counter a budget needs for one payer: the budget, and for a `*` row the one counted.
#[derive(Debug, Clone)]
pub struct Match<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// The team or user counted by a `*` row; `""` for a row of its own.
    pub subject: String,
}

/// The budgets among `budgets` that a call of `payer` must pass, in the order they are checked:
/// org, team, user, and within a tier by number. An own row replaces the `*` row of the same window.
#[must_use]
pub fn matching<'a>(budgets: &'a [Budget], payer: &Payer) -> Vec<Match<'a>> {
    let team = payer.team.as_deref().unwrap_or_default();
    let user = payer.user.as_deref().unwrap_or_default();
    let in_place =
        |place: &str, value: &str| place.is_empty() || place == value || (place == EACH && !value.is_empty());
    let mut matches: Vec<Match<'a>> = budgets
        .iter()
        .filter(|budget| {
            budget.scope.org == payer.org
                && in_place(&budget.scope.team, team)
                && in_place(&budget.scope.user, user)
        })
        .map(|budget| Match { budget, subject: subject(&budget.scope, team, user) })
        .collect();
    let own: BTreeSet<(Tier, Window)> = matches
        .iter()
        .filter(|found| found.subject.is_empty())
        .map(|found| (found.budget.scope.tier(), found.budget.window))
        .collect();
    matches.retain(|found| {
        found.subject.is_empty() || !own.contains(&(found.budget.scope.tier(), found.budget.window))
    });
    matches.sort_by_key(|found| (found.budget.scope.tier(), found.budget.budget_id));
    matches
}

fn subject(scope: &Scope, team: &str, user: &str) -> String {
    if scope.user == EACH {
        user.to_owned()
    } else if scope.team == EACH {
        team.to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(budget_id: i64, team: &str, user: &str, window: Window) -> Budget {
        Budget {
            budget_id,
            scope: Scope { org: "acme".into(), team: team.into(), user: user.into() },
            window,
            zone: TimeZone::UTC,
            limit_nanousd: 1,
        }
    }

    fn payer(team: Option<&str>, user: Option<&str>) -> Payer {
        Payer { org: "acme".into(), team: team.map(Into::into), user: user.map(Into::into) }
    }

    fn matched(budgets: &[Budget], payer: &Payer) -> Vec<(i64, String)> {
        matching(budgets, payer).into_iter().map(|found| (found.budget.budget_id, found.subject)).collect()
    }

    #[test]
    fn tiers_are_checked_from_org_to_user() {
        let budgets = [
            budget(1, "search", "ann", Window::Day),
            budget(2, "search", "", Window::Month),
            budget(3, "", "", Window::Month),
            budget(4, "", "", Window::Day),
            budget(5, "ads", "", Window::Day),
            budget(6, "search", "bob", Window::Day),
        ];
        let ids =
            |payer: &Payer| matched(&budgets, payer).into_iter().map(|found| found.0).collect::<Vec<_>>();
        assert_eq!(ids(&payer(Some("search"), Some("ann"))), [3, 4, 2, 1]);
        assert_eq!(ids(&payer(Some("search"), None)), [3, 4, 2]);
        assert_eq!(ids(&payer(None, None)), [3, 4]);
        // A user without a team has no place in the tree: only the org's budgets apply.
        assert_eq!(ids(&payer(None, Some("ann"))), [3, 4]);
        let other = Payer { org: "other".into(), ..payer(Some("search"), Some("ann")) };
        assert!(matched(&budgets, &other).is_empty());
    }

    #[test]
    fn each_is_counted_apart_and_an_own_row_of_the_same_window_replaces_it() {
        let budgets = [
            budget(1, "search", EACH, Window::Day),
            budget(2, "search", EACH, Window::Month),
            budget(3, "search", "ann", Window::Day),
            budget(4, EACH, "", Window::Day),
        ];
        assert_eq!(
            matched(&budgets, &payer(Some("search"), Some("bob"))),
            [(4, "search".into()), (1, "bob".into()), (2, "bob".into())]
        );
        assert_eq!(
            matched(&budgets, &payer(Some("search"), Some("ann"))),
            [(4, "search".into()), (2, "ann".into()), (3, String::new())]
        );
        assert!(matched(&budgets, &payer(None, None)).is_empty());
    }

    #[test]
    fn candidates_cover_what_matches() {
        let payer = payer(Some("search"), Some("ann"));
        let scopes: Vec<(String, String)> =
            Scope::candidates(&payer).into_iter().map(|scope| (scope.team, scope.user)).collect();
        for expected in [("", ""), ("search", ""), ("*", ""), ("search", "ann"), ("search", "*")] {
            assert!(scopes.contains(&(expected.0.into(), expected.1.into())), "{expected:?}");
        }
        assert_eq!(scopes.len(), 5);
    }
}
