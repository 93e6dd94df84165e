//! `GET /v1/lint`: budgets that match nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

use super::{ApiError, AppState, validate};
use crate::admin;
use crate::lint::{BudgetFinding, budgets};

/// How far back is looked when nothing else is asked, days.
pub const DAYS: i32 = 30;

/// Longest look back, days.
const MAX_DAYS: i32 = 400;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    org: String,
    days: Option<i32>,
}

/// The findings.
#[derive(Debug, Serialize)]
pub struct Findings {
    budgets: Vec<BudgetFinding>,
}

/// `GET /v1/lint?org=…&days=…`.
pub async fn lint(
    State(state): State<AppState>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Findings>, ApiError> {
    let Query(question) = question?;
    validate::name("org", &question.org).map_err(ApiError::invalid)?;
    let days = validate::days(question.days, DAYS, MAX_DAYS).map_err(ApiError::invalid)?;
    let (used, payers, now_unix_s) = admin::lint::used(&state.pool, &question.org, days).await?;
    let prices = Arc::clone(&state.prices.borrow());
    Ok(Json(Findings { budgets: budgets(&used, &payers, &prices, now_unix_s, days) }))
}
