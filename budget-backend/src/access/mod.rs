//! Who may do what. Pure; `api::auth` is the shell around it.
//!
//! # How a handler asks
//! Take a [`Caller`] as an argument (it is an extractor; the middleware of the operators' routes has put it
//! there), then:
//!
//! - a listing of one org: `let seen = caller.reads_org(&org)?;` and hand `seen.team` to the query, which says
//!   `($n::text is null or team = $n)`. An org that is not the caller's is 404, as if it did not exist;
//! - one thing by its number: read it, then `caller.reads(&scope)?` with its place; the answer is the same
//!   404 as for a number that nobody has;
//! - an edit: `caller.edits(&scope)?`: 403 for a role that edits nothing, 404 for a foreign place;
//! - what concerns a whole org: `caller.reads_whole(&org)?`, `caller.edits(&Scope::new(&org, "", ""))?`;
//! - what concerns every org: `caller.administers()?`;
//! - a handler that edits takes an `admin::Editor` as well (an extractor, too: 403 for a viewer): the name for
//!   the audit log and the idempotency key, for `begin_edit(pool, &editor)`.
//!
//! [`Refused`] becomes the right answer by `?`.

pub mod book;
pub mod failures;
pub mod keep;
pub mod token;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::budget::Scope;

pub use book::{Doors, KnownToken, Tokens};

/// Every org.
pub const EVERY_ORG: &str = "*";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything operators can do, in every org.
    Admin,
    /// Reads and edits within an org or a team.
    Editor,
    /// Reads within an org or a team, or everywhere.
    Viewer,
    /// A filter: holds and settlements, nothing else.
    DataPlane,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Editor, Self::Viewer, Self::DataPlane];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
            Self::DataPlane => "data_plane",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// Where a token reaches: everywhere, an org, or a team of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The org; `None`: every one.
    pub org: Option<String>,
    /// The team; `None`: the whole org.
    pub team: Option<String>,
}

impl Reach {
    /// Whether a place lies within. What is an org's own lies outside of a team's.
    #[must_use]
    pub fn covers(&self, place: &Scope) -> bool {
        self.org.as_ref().is_none_or(|org| *org == place.org)
            && self.team.as_ref().is_none_or(|team| *team == place.team)
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.org, &self.team) {
            (None, _) => f.write_str("every org"),
            (Some(org), None) => write!(f, "org {org}"),
            (Some(org), Some(team)) => write!(f, "team {team} in org {org}"),
        }
    }
}

/// What of an org a caller sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// This team's alone; `None`: all of it.
    pub team: Option<String>,
}

/// Who calls an operators' route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's number; `None` for the one of the environment.
    pub token_id: Option<i64>,
    /// The token's name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Where.
    pub reach: Reach,
}

/// Why a caller may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its role is not enough; 403.
    #[error("this token's role is {}; this needs {needed}", .role.as_str())]
    Role {
        /// What it is.
        role: Role,
        /// What it takes.
        needed: &'static str,
    },
    /// What is asked for is not the caller's, and whether it exists is not told; 404.
    #[error("there is no such thing within reach of this token, which is {0}")]
    OutOfReach(Reach),
}

impl Caller {
    /// The holder of the environment's admin token.
    #[must_use]
    pub fn of_environment() -> Self {
        Self { token_id: None, name: "admin token".to_owned(), role: Role::Admin, reach: Reach::default() }
    }

    /// Whether what belongs to a place may be read.
    #[must_use]
    pub fn may_read(&self, place: &Scope) -> bool {
        self.role != Role::DataPlane && self.reach.covers(place)
    }

    /// Whether what belongs to a place may be edited.
    #[must_use]
    pub fn may_edit(&self, place: &Scope) -> bool {
        matches!(self.role, Role::Admin | Role::Editor) && self.reach.covers(place)
    }

    fn out_of_reach(&self) -> Refused {
        Refused::OutOfReach(self.reach.clone())
    }

    fn lacks(&self, needed: &'static str) -> Refused {
        Refused::Role { role: self.role, needed }
    }

    /// Reads what belongs to a place.
    ///
    /// # Errors
    /// [`Refused::OutOfReach`].
    pub fn reads(&self, place: &Scope) -> Result<(), Refused> {
        if self.may_read(place) { Ok(()) } else { Err(self.out_of_reach()) }
    }

    /// Reads a listing of an org; what of it, the query has to see to.
    ///
    /// # Errors
    /// [`Refused::OutOfReach`].
    pub fn reads_org(&self, org: &str) -> Result<Seen, Refused> {
        let own = self.reach.org.as_ref().is_none_or(|own| own == org);
        if self.role != Role::DataPlane && own {
            Ok(Seen { team: self.reach.team.clone() })
        } else {
            Err(self.out_of_reach())
        }
    }

    /// Reads what can't be told apart by teams.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn reads_whole(&self, org: &str) -> Result<(), Refused> {
        self.reads(&Scope::new(org, "", ""))
    }

    /// Edits what belongs to a place.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn edits(&self, place: &Scope) -> Result<(), Refused> {
        self.edits_anything()?;
        if self.may_edit(place) { Ok(()) } else { Err(self.out_of_reach()) }
    }

    /// Is of a role that edits at all; where, is asked when it is known.
    ///
    /// # Errors
    /// [`Refused::Role`].
    pub fn edits_anything(&self) -> Result<(), Refused> {
        match self.role {
            Role::Admin | Role::Editor => Ok(()),
            Role::Viewer | Role::DataPlane => Err(self.lacks("admin or editor")),
        }
    }

    /// Does what concerns every org.
    ///
    /// # Errors
    /// [`Refused::Role`].
    pub fn administers(&self) -> Result<(), Refused> {
        if self.role == Role::Admin { Ok(()) } else { Err(self.lacks("admin")) }
    }

    /// How the audit log knows an edit of this caller's, made in somebody's name or in nobody's. The
    /// environment's token is trusted to say whose edit it is; another's own name stays with it.
    #[must_use]
    pub fn signature(&self, in_name_of: Option<&str>) -> String {
        match (self.token_id, in_name_of) {
            (None, None) => self.name.clone(),
            (None, Some(name)) => name.to_owned(),
            (Some(token_id), None) => format!("{} (token {token_id})", self.name),
            (Some(token_id), Some(name)) => format!("{name} by {} (token {token_id})", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(role: Role, org: Option<&str>, team: Option<&str>) -> Caller {
        let reach = Reach { org: org.map(str::to_owned), team: team.map(str::to_owned) };
        Caller { token_id: Some(7), name: "ci".to_owned(), role, reach }
    }

    #[test]
    fn a_place_is_read_and_edited_by_whom_it_belongs_to() {
        let (acme, all) = (Some("acme"), None);
        for (caller, place, reads, edits) in [
            (caller(Role::Admin, all, None), ("acme", "search"), true, true),
            (caller(Role::Viewer, all, None), ("other", ""), true, false),
            (caller(Role::Editor, acme, None), ("acme", ""), true, true),
            (caller(Role::Editor, acme, None), ("acme", "search"), true, true),
            (caller(Role::Editor, acme, None), ("other", ""), false, false),
            (caller(Role::Editor, acme, Some("search")), ("acme", "search"), true, true),
            (caller(Role::Editor, acme, Some("search")), ("acme", "ads"), false, false),
            (caller(Role::Editor, acme, Some("search")), ("acme", ""), false, false),
            (caller(Role::Editor, acme, Some("search")), ("acme", "*"), false, false),
            (caller(Role::Viewer, acme, Some("search")), ("acme", "search"), true, false),
            (caller(Role::DataPlane, all, None), ("acme", ""), false, false),
        ] {
            let place = Scope::new(place.0, place.1, "");
            assert_eq!(
                (caller.may_read(&place), caller.may_edit(&place)),
                (reads, edits),
                "{caller:?} {place}"
            );
            assert_eq!((caller.reads(&place).is_ok(), caller.edits(&place).is_ok()), (reads, edits));
        }
    }

    #[test]
    fn a_role_is_refused_by_name_and_a_place_without_telling_whether_it_is_there() {
        let place = Scope::new("acme", "ads", "");
        let viewer = caller(Role::Viewer, Some("acme"), None);
        assert!(matches!(viewer.edits(&place), Err(Refused::Role { role: Role::Viewer, .. })));
        let editor = caller(Role::Editor, Some("acme"), Some("search"));
        assert_eq!(editor.edits(&place), Err(Refused::OutOfReach(editor.reach.clone())));
        assert!(editor.administers().is_err() && editor.reads_whole("acme").is_err());
        assert_eq!(editor.reads_org("acme").unwrap().team.as_deref(), Some("search"));
    }

    #[test]
    fn only_the_environments_token_speaks_in_any_name() {
        let environment = Caller::of_environment();
        assert_eq!(
            (environment.signature(None).as_str(), environment.signature(Some("ann")).as_str()),
            ("admin token", "ann")
        );
        let token = caller(Role::Editor, Some("acme"), None);
        assert_eq!(token.signature(None), "ci (token 7)");
        assert_eq!(token.signature(Some("ann")), "ann by ci (token 7)");
    }
}
