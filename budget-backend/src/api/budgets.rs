//! Budgets: make one, change its limit, list them with what they stand at.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use purser_protocol::{Tier, Window, format_usd, parse_usd};
use serde::{Deserialize, Serialize};

use super::{ApiError, AppState, validate};
use crate::admin::{self, BudgetRow, NewBudget, Standing};
use crate::budget::{EACH, Scope};
use crate::ledger::decide::{CounterKey, CounterRef};
use crate::ledger::store::insert_counters;
use crate::window::{Period, period, rfc3339, time_zone};

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
    limit_usd: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A change of a budget.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    limit_usd: String,
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
    limit_usd: String,
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
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<BudgetView>), ApiError> {
    let Json(create) = body?;
    let budget = check(create).map_err(ApiError::invalid)?;
    let Some(row) = admin::create_budget(&state.pool, &budget).await? else {
        return Err(ApiError::conflict(
            "an active budget for this place, window and time zone exists; PATCH /v1/budgets/{budget_id} changes it",
        ));
    };
    count_from_now(&state, &row).await?;
    Ok((StatusCode::CREATED, Json(one(&state, row).await?)))
}

/// `PATCH /v1/budgets/{budget_id}`: acts on the next hold; what was spent stays.
pub async fn change(
    State(state): State<AppState>,
    Path(budget_id): Path<String>,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<BudgetView>, ApiError> {
    let Json(change) = body?;
    let none = || no_such_budget(&budget_id);
    let number: i64 = budget_id.parse().map_err(|_| none())?;
    let row = admin::set_limit(&state.pool, number, limit(&change.limit_usd).map_err(ApiError::invalid)?)
        .await?
        .ok_or_else(none)?;
    Ok(Json(one(&state, row).await?))
}

/// `DELETE /v1/budgets/{budget_id}`: it stops counting; its history stays.
pub async fn archive(
    State(state): State<AppState>,
    Path(budget_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let number: i64 = budget_id.parse().map_err(|_| no_such_budget(&budget_id))?;
    if admin::archive_budget(&state.pool, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_budget(&budget_id))
    }
}

fn no_such_budget(budget_id: impl std::fmt::Display) -> ApiError {
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
    let set = &row.set;
    if set.team == EACH || set.user == EACH {
        return Ok(());
    }
    let zone = time_zone(&set.time_zone).map_err(|error| ApiError::invalid(error.to_string()))?;
    let now_unix_s = admin::now_unix_s(&state.pool).await?;
    let period =
        period(set.window, &zone, now_unix_s).map_err(|error| ApiError::unavailable(error.to_string()))?;
    let counter = CounterRef {
        budget_id: row.budget_id,
        subject: String::new(),
        period_start_unix_s: period.start_unix_s,
    };
    let key = CounterKey { org: set.org.clone(), counter };
    Ok(insert_counters(&state.pool, &[key].into()).await?)
}

fn check(create: Create) -> Result<NewBudget, String> {
    let places = [("org", Some(&create.org)), ("team", create.team.as_ref()), ("user", create.user.as_ref())];
    for (field, value) in places {
        value.map_or(Ok(()), |value| validate::name(field, value))?;
    }
    let org = create.org;
    if org == EACH {
        return Err("org: expected the name of one; \"*\" may stand in team or user".to_owned());
    }
    match (create.team.as_deref(), create.user.as_deref()) {
        (None, Some(_)) => {
            return Err("user: expected a team with it; users belong to teams".to_owned());
        }
        (Some(EACH), Some(_)) => {
            return Err("team: \"*\" may stand in the last place only; leave user out".to_owned());
        }
        _ => {}
    }
    let zone = time_zone(&create.time_zone).map_err(|error| error.to_string())?;
    // In the database's own spelling, so that the same zone is the same budget.
    let time_zone = zone.iana_name().unwrap_or(&create.time_zone).to_owned();
    Ok(NewBudget {
        org,
        team: create.team.unwrap_or_default(),
        user: create.user.unwrap_or_default(),
        window: create.window,
        time_zone,
        limit_nanousd: limit(&create.limit_usd)?,
    })
}

fn limit(text: &str) -> Result<i64, String> {
    parse_usd(text).map_err(|error| format!("limit_usd: {error}, got {text:?}"))
}

async fn one(state: &AppState, row: BudgetRow) -> Result<BudgetView, ApiError> {
    let budget_id = row.budget_id;
    let org = row.set.org;
    views(state, &org, Some(budget_id))
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
            let zone = time_zone(&row.set.time_zone)?;
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
            counted.insert(0, Standing { subject: String::new(), spent_nanousd: 0, held_nanousd: 0 });
        }
        counted.into_iter().map(|standing| view(row, *period, &standing)).collect::<Vec<_>>()
    });
    Ok(views.collect())
}

fn view(row: &BudgetRow, period: Period, standing: &Standing) -> BudgetView {
    let set = &row.set;
    let scope = Scope { org: set.org.clone(), team: set.team.clone(), user: set.user.clone() };
    let each = !standing.subject.is_empty();
    let place = |name: &str| {
        let shown = if each && name == EACH { standing.subject.as_str() } else { name };
        (!shown.is_empty()).then(|| shown.to_owned())
    };
    let left = set.limit_nanousd.saturating_sub(standing.spent_nanousd).saturating_sub(standing.held_nanousd);
    BudgetView {
        budget_id: row.budget_id,
        default_of: each.then_some(row.budget_id),
        tier: scope.tier(),
        org: scope.org.clone(),
        team: place(&scope.team),
        user: place(&scope.user),
        window: set.window,
        time_zone: set.time_zone.clone(),
        limit_usd: format_usd(set.limit_nanousd),
        period_start: rfc3339(period.start_unix_s),
        resets_at: period.end_unix_s.and_then(rfc3339),
        spent_usd: format_usd(standing.spent_nanousd),
        held_usd: format_usd(standing.held_nanousd),
        remaining_usd: format_usd(left),
    }
}
