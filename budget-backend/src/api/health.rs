//! Liveness and readiness: a process that runs, and one that can decide.

use axum::extract::State;
use axum::http::StatusCode;

use super::{ApiError, AppState};
use crate::admin;

/// `GET /healthz`: the process runs.
pub async fn alive() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// `GET /readyz`: the database answers.
pub async fn ready(State(state): State<AppState>) -> Result<StatusCode, ApiError> {
    admin::ping(&state.pool).await?;
    Ok(StatusCode::NO_CONTENT)
}
