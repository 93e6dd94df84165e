//! What a budget is to be, as an operator writes it.

use std::sync::Arc;

use purser_protocol::Window;
use serde::Deserialize;
use utoipa::ToSchema;

use super::AppState;
use super::holds::unix_now_s;
use super::ladder::LadderBody;
use super::place::{Place, UsdText, patterns};
use crate::admin::NewBudget;
use crate::budget::Mode;
use crate::ladder::Ladder;
use crate::pattern::Patterns;
use crate::window::{WindowError, time_zone};

/// Field of the limit.
pub(super) const LIMIT: &str = "limit_usd";

/// Most bytes the models of one budget may have together: they are part of the key that keeps a budget
/// from being made twice.
const MAX_MODELS_BYTES: usize = 1_024;

/// A budget as an operator asks for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBudget)]
pub struct Create {
    /// The org that it is for, or part of which.
    #[schema(min_length = 1, max_length = 256, example = "acme")]
    org: String,
    /// The team; `*`: each one, unless it has its own.
    #[schema(min_length = 1, max_length = 256)]
    team: Option<String>,
    /// The user of the team; `*`: each one, unless it has its own.
    #[schema(min_length = 1, max_length = 256)]
    user: Option<String>,
    /// Its calendar window.
    #[schema(value_type = super::openapi::WindowName)]
    window: Window,
    /// Where its days begin, by its IANA name.
    #[serde(default = "utc")]
    #[schema(default = "UTC", example = "Europe/Berlin")]
    time_zone: String,
    /// What may be spent in one period.
    limit_usd: UsdText,
    /// Whether it refuses or only notes what it would have refused.
    #[serde(default = "enforce")]
    #[schema(default = "enforce")]
    mode: Mode,
    /// Whether holds are the upper bound of what a call may cost.
    #[serde(default)]
    strict: bool,
    /// Which models it covers, with `*` and `?`; every one without any.
    #[serde(default)]
    #[schema(max_items = 64)]
    models: Vec<String>,
    /// What it does before it refuses.
    #[serde(default)]
    ladder: LadderBody,
}

impl Create {
    /// The org, and the rest.
    pub(super) fn split(self) -> (String, Terms) {
        let Self { org, team, user, window, time_zone, limit_usd, mode, strict, models, ladder } = self;
        (org, Terms { team, user, window, time_zone, limit_usd, mode, strict, models, ladder })
    }
}

/// A budget without its org.
// Not flattened into the other: that would let unknown fields through.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetTerms)]
pub struct Terms {
    /// The team; `*`: each one, unless it has its own.
    #[schema(min_length = 1, max_length = 256)]
    team: Option<String>,
    /// The user of the team; `*`: each one, unless it has its own.
    #[schema(min_length = 1, max_length = 256)]
    user: Option<String>,
    /// Its calendar window.
    #[schema(value_type = super::openapi::WindowName)]
    window: Window,
    /// Where its days begin, by its IANA name.
    #[serde(default = "utc")]
    #[schema(default = "UTC", example = "Europe/Berlin")]
    time_zone: String,
    /// What may be spent in one period.
    limit_usd: UsdText,
    /// Whether it refuses or only notes what it would have refused.
    #[serde(default = "enforce")]
    #[schema(default = "enforce")]
    mode: Mode,
    /// Whether holds are the upper bound of what a call may cost.
    #[serde(default)]
    strict: bool,
    /// Which models it covers, with `*` and `?`; every one without any.
    #[serde(default)]
    #[schema(max_items = 64)]
    models: Vec<String>,
    /// What it does before it refuses.
    #[serde(default)]
    ladder: LadderBody,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn enforce() -> Mode {
    Mode::Enforce
}

/// Checks what an operator asks for.
///
/// # Errors
/// The field and what is wrong there.
pub(super) fn check(org: &str, terms: Terms, state: &AppState) -> Result<NewBudget, String> {
    let scope = Place { org: org.to_owned(), team: terms.team, user: terms.user }.scope()?;
    Ok(NewBudget {
        scope,
        window: terms.window,
        time_zone: canonical_zone(&terms.time_zone)?,
        limit_nanousd: terms.limit_usd.nanousd(LIMIT)?,
        mode: terms.mode,
        strict: terms.strict,
        models: models(terms.models)?,
        ladder: checked(terms.ladder, state)?,
    })
}

/// The ladder, if the price list of now knows its models.
pub(super) fn checked(ladder: LadderBody, state: &AppState) -> Result<Ladder, String> {
    let prices = Arc::clone(&state.prices.borrow());
    ladder.check(&prices, unix_now_s())
}

fn models(names: Vec<String>) -> Result<Patterns, String> {
    let models = patterns("models", names)?;
    let bytes: usize = models.names().iter().map(String::len).sum();
    if bytes > MAX_MODELS_BYTES {
        return Err(format!("models: expected at most {MAX_MODELS_BYTES} bytes in all, got {bytes}"));
    }
    Ok(models)
}

/// The zone in the time zone database's own spelling and under one name, so that the same zone is the
/// same budget.
fn canonical_zone(name: &str) -> Result<String, String> {
    let zone = time_zone(name).map_err(|error| error.to_string())?;
    match zone.iana_name().unwrap_or(name) {
        // The database's names for "nobody knows", which would count as UTC.
        "Etc/Unknown" | "Factory" => Err(WindowError::UnknownTimeZone(name.to_owned()).to_string()),
        "Etc/UTC" | "Etc/UCT" | "UCT" | "Etc/Zulu" | "Zulu" | "Etc/Universal" | "Universal" => {
            Ok("UTC".to_owned())
        }
        spelled => Ok(spelled.to_owned()),
    }
}
