//! Places in org → team → user as operators write them.

use std::fmt;

use purser_protocol::parse_usd;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::validate;
use crate::budget::{EACH, Scope};
use crate::pattern::{MAX_PATTERNS, Patterns};

/// Most characters of a wrong amount that are repeated in the answer.
const MAX_SHOWN_CHARS: usize = 40;

/// A place: an org, a team of it, or a user of a team; `*` in the last place means each one.
// A misspelt team must not turn into the whole org.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Place {
    /// The organisation.
    pub org: String,
    /// The team.
    pub team: Option<String>,
    /// The user.
    pub user: Option<String>,
}

impl Place {
    /// The place as a scope.
    ///
    /// # Errors
    /// Says which part is wrong and what was expected.
    pub fn scope(&self) -> Result<Scope, String> {
        let places = [("org", Some(&self.org)), ("team", self.team.as_ref()), ("user", self.user.as_ref())];
        for (field, value) in places {
            value.map_or(Ok(()), |value| name(field, value))?;
        }
        if self.org == EACH {
            return Err("org: expected the name of one; \"*\" may stand in team or user".to_owned());
        }
        match (self.team.as_deref(), self.user.as_deref()) {
            (None, Some(_)) => Err("user: expected a team with it; users belong to teams".to_owned()),
            (Some(EACH), Some(_)) => {
                Err("team: \"*\" may stand in the last place only; leave user out".to_owned())
            }
            (team, user) => Ok(Scope::new(&self.org, team.unwrap_or_default(), user.unwrap_or_default())),
        }
    }
}

impl From<&Scope> for Place {
    fn from(scope: &Scope) -> Self {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Self { org: scope.org.clone(), team: named(&scope.team), user: named(&scope.user) }
    }
}

/// Checks one name that an operator writes. Calls name their payers without space around them, so that
/// such a name would never be met.
///
/// # Errors
/// Says what is wrong and what was expected.
pub fn name(field: &str, value: &str) -> Result<(), String> {
    validate::name(field, value)?;
    if value.trim().len() < value.len() {
        return Err(format!("{field}: expected no space at either end, got {value:?}"));
    }
    Ok(())
}

/// Checks a few words of an operator's.
///
/// # Errors
/// Says what is wrong and what was expected.
pub fn words(field: &str, value: &str) -> Result<(), String> {
    if value.trim().is_empty() {
        return Err(format!("{field}: expected a few words, got an empty text"));
    }
    validate::name(field, value)
}

/// An amount in USD as an operator writes it: text, since a JSON number may have been through a float.
#[derive(Debug, Clone, ToSchema)]
#[schema(as = Usd, value_type = String, pattern = r"^[0-9]{1,10}(\.[0-9]{1,9})?$", example = "12.50")]
pub struct UsdText(String);

impl UsdText {
    /// The amount, nano-USD.
    ///
    /// # Errors
    /// Says what is wrong and what was expected.
    pub fn nanousd(&self, field: &str) -> Result<i64, String> {
        parse_usd(&self.0).map_err(|error| format!("{field}: {error}, got {}", shown(&self.0)))
    }
}

/// What was written, cut short: it may be as long as a body.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

impl<'de> Deserialize<'de> for UsdText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(UsdTextVisitor)
    }
}

struct UsdTextVisitor;

impl Visitor<'_> for UsdTextVisitor {
    type Value = UsdText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal amount in USD as text, such as \"12.50\"")
    }

    fn visit_str<E>(self, text: &str) -> Result<UsdText, E> {
        Ok(UsdText(text.to_owned()))
    }
}

/// Patterns of models as an operator writes them.
///
/// # Errors
/// Says which one is wrong and what was expected.
pub fn patterns(field: &str, names: Vec<String>) -> Result<Patterns, String> {
    if names.len() > MAX_PATTERNS {
        return Err(format!("{field}: expected at most {MAX_PATTERNS} patterns, got {}", names.len()));
    }
    for (number, pattern) in names.iter().enumerate() {
        name(&format!("{field}[{number}]"), pattern)?;
    }
    Ok(Patterns::new(names))
}
