//! Budgets and which of them a payer's call touches.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::tz::TimeZone;
use purser_protocol::{Payer, Tier, Window};
use serde::{Deserialize, Serialize};

use crate::ladder::Ladder;
use crate::pattern::{Names, Patterns};
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

    /// The scope of a team or user of an org; either may be [`EACH`] in the last place.
    #[must_use]
    pub fn new(org: &str, team: &str, user: &str) -> Self {
        Self { org: org.to_owned(), team: team.to_owned(), user: user.to_owned() }
    }

    /// Every scope whose budgets a call of this payer may touch: its own places and the `*` beside them.
    #[must_use]
    pub fn candidates(payer: &Payer) -> Vec<Self> {
        let scope = |team: &str, user: &str| Self::new(&payer.org, team, user);
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

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tier() {
            Tier::Org => write!(f, "org {}", self.org),
            Tier::Team if self.team == EACH => write!(f, "each team of org {}", self.org),
            Tier::User if self.user == EACH => {
                write!(f, "each user of team {} of org {}", self.team, self.org)
            }
            Tier::Team => write!(f, "team {} in org {}", self.team, self.org),
            Tier::User => write!(f, "user {} in team {} of org {}", self.user, self.team, self.org),
        }
    }
}

/// What a budget does when it has too little left.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It refuses the call.
    Enforce,
    /// It notes that it would have refused it.
    Shadow,
}

impl Mode {
    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }

    /// The mode of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Enforce, Self::Shadow].into_iter().find(|mode| mode.as_str() == name)
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
    /// What may be spent in one period, nano-USD, top-ups apart.
    pub limit_nanousd: i64,
    /// Whether it refuses or only notes.
    pub mode: Mode,
    /// Whether holds must be the upper bound of what a call may cost.
    pub strict: bool,
    /// Which models it covers; none means every model.
    pub models: Patterns,
    /// What it does before it refuses.
    pub ladder: Arc<Ladder>,
}

/// A budget's columns as the database has them, its scope apart.
#[derive(Debug, Clone, Deserialize)]
pub struct BudgetColumns {
    /// `budget_id`.
    pub budget_id: i64,
    /// `window_kind`.
    pub window_kind: String,
    /// `time_zone`.
    pub time_zone: String,
    /// `limit_nanousd`.
    pub limit_nanousd: i64,
    /// `mode`.
    pub mode: String,
    /// `strict`.
    pub strict: bool,
    /// `models`.
    pub models: Vec<String>,
    /// `ladder`.
    pub ladder: serde_json::Value,
}

impl Budget {
    /// A budget from its row's columns.
    ///
    /// # Errors
    /// Says which budget has a window or mode that this code doesn't know. The API refuses unknown time
    /// zones; one written by hand counts as UTC, rather than leaving its org without any answer.
    pub fn from_columns(scope: Scope, columns: BudgetColumns) -> Result<Self, String> {
        let budget_id = columns.budget_id;
        let unknown = |what: &str, value: &str| format!("budget {budget_id}: unknown {what} {value}");
        Ok(Self {
            budget_id,
            scope,
            window: Window::from_name(&columns.window_kind)
                .ok_or_else(|| unknown("window", &columns.window_kind))?,
            zone: zone_or_utc(budget_id, &columns.time_zone),
            limit_nanousd: columns.limit_nanousd,
            mode: Mode::from_name(&columns.mode).ok_or_else(|| unknown("mode", &columns.mode))?,
            strict: columns.strict,
            models: Patterns::new(columns.models),
            ladder: Arc::new(Ladder::from_row(budget_id, columns.ladder)),
        })
    }
}

/// The zone of a budget's row, and UTC when nobody knows it.
#[must_use]
pub fn zone_or_utc(budget_id: i64, name: &str) -> TimeZone {
    time_zone(name).unwrap_or_else(|error| {
        tracing::error!(budget_id, %error, "a budget's time zone is unknown; its periods are those of UTC");
        TimeZone::UTC
    })
}

/// A counter a budget needs for one payer: the budget, and for a `*` row the one counted.
#[derive(Debug, Clone)]
pub struct Match<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// The team or user counted by a `*` row; `""` for a row of its own.
    pub subject: String,
    /// Whether an own row stands in for it: it counts and has no say, so that it knows what was spent
    /// when the own row is gone.
    pub replaced: bool,
}

/// The budgets among `budgets` that a call of `payer` to the model of these names must pass, in the order they are
/// checked: org, team, user, and within a tier by number. An own row stands in for the `*` row of the
/// same window and model patterns, unless the own row is a shadow: that one only notes.
#[must_use]
pub fn matching<'a>(
    budgets: impl IntoIterator<Item = &'a Budget>,
    payer: &Payer,
    model: &Names,
) -> Vec<Match<'a>> {
    let team = payer.team.as_deref().unwrap_or_default();
    let user = payer.user.as_deref().unwrap_or_default();
    let in_place =
        |place: &str, value: &str| place.is_empty() || place == value || (place == EACH && !value.is_empty());
    let mut matches: Vec<Match<'a>> = budgets
        .into_iter()
        .filter(|budget| {
            budget.scope.org == payer.org
                && in_place(&budget.scope.team, team)
                && in_place(&budget.scope.user, user)
                && (budget.models.is_empty() || budget.models.meet(model))
        })
        .map(|budget| Match { budget, subject: subject(&budget.scope, team, user), replaced: false })
        .collect();
    let kind = |budget: &'a Budget| (budget.scope.tier(), budget.window, &budget.models);
    let own: BTreeSet<(Tier, Window, &Patterns)> = matches
        .iter()
        .filter(|found| found.subject.is_empty() && found.budget.mode == Mode::Enforce)
        .map(|found| kind(found.budget))
        .collect();
    let replaced: Vec<bool> =
        matches.iter().map(|found| !found.subject.is_empty() && own.contains(&kind(found.budget))).collect();
    for (found, replaced) in matches.iter_mut().zip(replaced) {
        found.replaced = replaced;
    }
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
            mode: Mode::Enforce,
            strict: false,
            models: Patterns::default(),
            ladder: Arc::default(),
        }
    }

    fn payer(team: Option<&str>, user: Option<&str>) -> Payer {
        Payer { org: "acme".into(), team: team.map(Into::into), user: user.map(Into::into) }
    }

    fn matched(budgets: &[Budget], payer: &Payer) -> Vec<(i64, String)> {
        let matches =
            matching(budgets, payer, &Names::of("gpt-4o", [])).into_iter().filter(|found| !found.replaced);
        matches.map(|found| (found.budget.budget_id, found.subject)).collect()
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
    fn an_own_row_replaces_only_its_like_and_a_shadow_row_nothing() {
        let each = || budget(1, "search", EACH, Window::Day);
        let own = || budget(2, "search", "ann", Window::Day);
        let patterns = |names: &[&str]| Patterns::new(names.iter().map(|name| (*name).to_owned()).collect());
        let ids = |budgets: &[Budget]| {
            matched(budgets, &payer(Some("search"), Some("ann")))
                .into_iter()
                .map(|found| found.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&[each(), own()]), [2]);
        assert_eq!(ids(&[each(), Budget { mode: Mode::Shadow, ..own() }]), [1, 2]);
        assert_eq!(ids(&[Budget { mode: Mode::Shadow, ..each() }, own()]), [2]);
        assert_eq!(ids(&[each(), Budget { models: patterns(&["gpt-*"]), ..own() }]), [1, 2]);
        let both = |budget: Budget| Budget { models: patterns(&["gpt-*", "o?"]), ..budget };
        assert_eq!(ids(&[both(each()), both(own())]), [2]);
        // A row for other models is not touched at all, and replaces nothing.
        assert_eq!(ids(&[each(), Budget { models: patterns(&["claude-*"]), ..own() }]), [1]);
    }

    #[test]
    fn what_is_replaced_counts_on() {
        let budgets = [budget(1, "search", EACH, Window::Day), budget(2, "search", "ann", Window::Day)];
        let (ann, model) = (payer(Some("search"), Some("ann")), Names::of("gpt-4o", []));
        let matches = matching(&budgets, &ann, &model);
        let found: Vec<_> = matches.iter().map(|found| (found.budget.budget_id, found.replaced)).collect();
        assert_eq!(found, [(1, true), (2, false)]);
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
