//! Budgets: make one, change its limit, list them with what they stand at.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use purser_protocol::{Tier, Window, format_usd};
use serde::{Deserialize, Serialize};

use super::holds::unix_now_s;
use super::ladder::LadderBody;
use super::place::{Place, UsdText, actor, patterns};
use super::{ApiError, AppState, validate};
use crate::admin::{self, BudgetChange, BudgetRow, Changed, NewBudget, Standing};
use crate::budget::{EACH, Mode, zone_or_utc};
use crate::ladder::Ladder;
use crate::ledger::decide::{CounterKey, CounterRef};
use crate::ledger::store::insert_counters;
use crate::pattern::Patterns;
use crate::window::{Period, WindowError, period, rfc3339, time_zone};

/// Field of the limit.
const LIMIT: &str = "limit_usd";

/// Most bytes the models of one budget may have together: they are part of the key that keeps a budget
/// from being made twice.
const MAX_MODELS_BYTES: usize = 1_024;

/// A budget as an operator asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    org: String,
    team: Option<String>,
    user: Option<String>,
    window: Window,
    #[serde(default = "utc")]
    time_zone: String,
    limit_usd: UsdText,
    #[serde(default = "enforce")]
    mode: Mode,
    #[serde(default)]
    strict: bool,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    ladder: LadderBody,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn enforce() -> Mode {
    Mode::Enforce
}

/// A change of a budget; what is left out stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    limit_usd: Option<UsdText>,
    mode: Option<Mode>,
    strict: Option<bool>,
    /// Whole: a step that is left out is off.
    ladder: Option<LadderBody>,
}

/// Which budgets to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    org: String,
}

/// A budget and what it stands at in the running period.
#[derive(Debug, Serialize)]
pub struct BudgetView {
    budget_id: i64,
    /// For one counted under a `*` budget: that budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    default_of: Option<i64>,
    tier: Tier,
    org: String,
    team: Option<String>,
    user: Option<String>,
    window: Window,
    time_zone: String,
    mode: Mode,
    strict: bool,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Ladder::is_empty")]
    ladder: Ladder,
    limit_usd: String,
    /// Added to the limit in the running period.
    topped_up_usd: String,
    period_start: Option<String>,
    resets_at: Option<String>,
    spent_usd: String,
    held_usd: String,
    remaining_usd: String,
}

/// A listing.
#[derive(Debug, Serialize)]
pub struct BudgetList {
    budgets: Vec<BudgetView>,
}

/// `POST /v1/budgets`.
pub async fn create(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<BudgetView>), ApiError> {
    let Json(create) = body?;
    let budget = check(create, &state).map_err(ApiError::invalid)?;
    let Some(row) = admin::create_budget(&state.pool, &actor(&headers)?, &budget).await? else {
        return Err(same_budget());
    };
    count_from_now(&state, &row).await?;
    Ok((StatusCode::CREATED, Json(one(&state, row).await?)))
}

/// `PATCH /v1/budgets/{budget_id}`: acts on the next hold; what was spent stays.
pub async fn change(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(budget_id): Path<String>,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<BudgetView>, ApiError> {
    let Json(change) = body?;
    let number: i64 = budget_id.parse().map_err(|_| no_such_budget(&budget_id))?;
    let change = BudgetChange {
        limit_nanousd: change
            .limit_usd
            .map(|usd| usd.nanousd(LIMIT))
            .transpose()
            .map_err(ApiError::invalid)?,
        mode: change.mode,
        strict: change.strict,
        ladder: change.ladder.map(|ladder| checked(ladder, &state)).transpose().map_err(ApiError::invalid)?,
    };
    let changes_nothing = change.limit_nanousd.is_none()
        && change.mode.is_none()
        && change.strict.is_none()
        && change.ladder.is_none();
    if changes_nothing {
        return Err(ApiError::invalid("expected one of limit_usd, mode, strict, ladder"));
    }
    match admin::change_budget(&state.pool, &actor(&headers)?, number, change).await? {
        Changed::To(row) => Ok(Json(one(&state, *row).await?)),
        Changed::Missing => Err(no_such_budget(&budget_id)),
        Changed::Clash => Err(same_budget()),
    }
}

/// `DELETE /v1/budgets/{budget_id}`: it stops counting; its history stays.
pub async fn archive(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(budget_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let number: i64 = budget_id.parse().map_err(|_| no_such_budget(&budget_id))?;
    if admin::archive_budget(&state.pool, &actor(&headers)?, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_budget(&budget_id))
    }
}

fn same_budget() -> ApiError {
    ApiError::conflict(
        "an active budget for this place, window, time zone, mode and models exists; PATCH /v1/budgets/{budget_id} changes it",
    )
}

pub(super) fn no_such_budget(budget_id: impl std::fmt::Display) -> ApiError {
    ApiError::not_found(format!("there is no active budget {budget_id}"))
}

/// `GET /v1/budgets?org=…`.
pub async fn list(
    State(state): State<AppState>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<BudgetList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid)?;
    Ok(Json(BudgetList { budgets: views(&state, &filter.org, None).await? }))
}

/// Makes the running period's counter, so that the budget shows at once what its period has spent. The
/// first hold would make it as well; a `*` budget's counters wait for their subjects.
async fn count_from_now(state: &AppState, row: &BudgetRow) -> Result<(), ApiError> {
    let scope = &row.set.scope;
    if scope.team == EACH || scope.user == EACH {
        return Ok(());
    }
    let key = counter_key(row, "", running_period(state, row).await?);
    Ok(insert_counters(&state.pool, &[key].into()).await?)
}

pub(super) async fn running_period(state: &AppState, row: &BudgetRow) -> Result<Period, ApiError> {
    let zone = zone_or_utc(row.budget_id, &row.set.time_zone);
    let now_unix_s = admin::now_unix_s(&state.pool).await?;
    period(row.set.window, &zone, now_unix_s).map_err(|error| ApiError::unavailable(error.to_string()))
}

pub(super) fn counter_key(row: &BudgetRow, subject: &str, period: Period) -> CounterKey {
    let counter = CounterRef {
        budget_id: row.budget_id,
        subject: subject.to_owned(),
        period_start_unix_s: period.start_unix_s,
    };
    CounterKey { org: row.set.scope.org.clone(), counter }
}

fn check(create: Create, state: &AppState) -> Result<NewBudget, String> {
    let scope = Place { org: create.org, team: create.team, user: create.user }.scope()?;
    Ok(NewBudget {
        scope,
        window: create.window,
        time_zone: canonical_zone(&create.time_zone)?,
        limit_nanousd: create.limit_usd.nanousd(LIMIT)?,
        mode: create.mode,
        strict: create.strict,
        models: models(create.models)?,
        ladder: checked(create.ladder, state)?,
    })
}

/// The ladder, if the price list of now knows its models.
fn checked(ladder: LadderBody, state: &AppState) -> Result<Ladder, String> {
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

async fn one(state: &AppState, row: BudgetRow) -> Result<BudgetView, ApiError> {
    let budget_id = row.budget_id;
    views(state, &row.set.scope.org, Some(budget_id))
        .await?
        .into_iter()
        .find(|view| view.default_of.is_none())
        .ok_or_else(|| no_such_budget(budget_id))
}

async fn views(state: &AppState, org: &str, only: Option<i64>) -> Result<Vec<BudgetView>, ApiError> {
    let (now_unix_s, rows) = admin::budgets_of(&state.pool, org).await?;
    let rows: Vec<(BudgetRow, Period)> = rows
        .into_iter()
        .filter(|row| only.is_none_or(|id| id == row.budget_id))
        .map(|row| {
            let zone = zone_or_utc(row.budget_id, &row.set.time_zone);
            let period = period(row.set.window, &zone, now_unix_s)?;
            Ok((row, period))
        })
        .collect::<Result<_, crate::window::WindowError>>()
        .map_err(|error| ApiError::unavailable(error.to_string()))?;
    let periods: Vec<(i64, i64)> =
        rows.iter().map(|(row, period)| (row.budget_id, period.start_unix_s)).collect();
    let mut standings = admin::standings(&state.pool, org, &periods).await?;
    let views = rows.iter().flat_map(|(row, period)| {
        let mut counted = standings.remove(&row.budget_id).unwrap_or_default();
        if !counted.iter().any(|standing| standing.subject.is_empty()) {
            counted.insert(0, Standing::default());
        }
        counted.into_iter().map(|standing| view(row, *period, &standing)).collect::<Vec<_>>()
    });
    Ok(views.collect())
}

pub(super) fn view(row: &BudgetRow, period: Period, standing: &Standing) -> BudgetView {
    let set = &row.set;
    let scope = &set.scope;
    let each = !standing.subject.is_empty();
    let place = |name: &str| {
        let shown = if each && name == EACH { standing.subject.as_str() } else { name };
        (!shown.is_empty()).then(|| shown.to_owned())
    };
    let limit_nanousd = set.limit_nanousd.saturating_add(standing.topped_up_nanousd);
    let left = limit_nanousd.saturating_sub(standing.spent_nanousd).saturating_sub(standing.held_nanousd);
    BudgetView {
        budget_id: row.budget_id,
        default_of: each.then_some(row.budget_id),
        tier: scope.tier(),
        org: scope.org.clone(),
        team: place(&scope.team),
        user: place(&scope.user),
        window: set.window,
        time_zone: set.time_zone.clone(),
        mode: set.mode,
        strict: set.strict,
        models: set.models.names().to_vec(),
        ladder: set.ladder.clone(),
        limit_usd: format_usd(set.limit_nanousd),
        topped_up_usd: format_usd(standing.topped_up_nanousd),
        period_start: rfc3339(period.start_unix_s),
        resets_at: period.end_unix_s.and_then(rfc3339),
        spent_usd: format_usd(standing.spent_nanousd),
        held_usd: format_usd(standing.held_nanousd),
        remaining_usd: format_usd(left),
    }
}
