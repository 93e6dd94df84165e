//! `GET /v1/lint`: budgets that match nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, AppState, validate};
use crate::access::Caller;
use crate::admin;
use crate::lint::{BudgetFinding, budgets};

/// How far back is looked when nothing else is asked, days.
pub const DAYS: i32 = 30;

/// Longest look back, days.
const MAX_DAYS: i32 = 400;

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// The org.
    #[param(example = "acme")]
    org: String,
    /// How far back is looked.
    #[param(minimum = 1, maximum = 400)]
    days: Option<i32>,
}

/// The findings.
#[derive(Debug, Serialize, ToSchema)]
pub struct Findings {
    budgets: Vec<BudgetFinding>,
}

/// Finds budgets that match nothing. For those who read the whole org.
#[utoipa::path(get, path = "/v1/lint", tag = "looking closer", params(Question),
    responses((status = 200, description = "What was found.", body = Findings)))]
pub async fn lint(
    State(state): State<AppState>,
    caller: Caller,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Findings>, ApiError> {
    let Query(question) = question?;
    validate::name("org", &question.org).map_err(ApiError::invalid_parameter)?;
    caller.reads_whole(&question.org)?;
    let days = validate::days(question.days, DAYS, MAX_DAYS).map_err(ApiError::invalid_parameter)?;
    let (used, payers, now_unix_s) = admin::lint::used(&state.pool, &question.org, days).await?;
    let prices = Arc::clone(&state.prices.borrow());
    Ok(Json(Findings { budgets: budgets(&used, &payers, &prices, now_unix_s, days) }))
}
