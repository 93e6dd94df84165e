//! Liveness and readiness: a process that runs, and one that can decide.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::AppState;
use crate::admin;
use crate::spool::Standing;

/// Longest wait for the database.
const LIMIT: Duration = Duration::from_secs(1);

/// `GET /healthz`: the process runs. Says nothing of the database: a restart would not bring it back.
pub async fn alive() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// What can be done just now.
#[derive(Serialize)]
pub struct Readiness {
    /// `ready` or `unavailable`.
    status: &'static str,
    /// `there` or `away`.
    database: &'static str,
    /// What becomes of holds and settlements.
    detail: &'static str,
    /// What waits on the disk, if there is a spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<Standing>,
}

/// `GET /readyz`: the database answers.
pub async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let answered = !state.presence.is_away()
        && matches!(tokio::time::timeout(LIMIT, admin::ping(&state.pool)).await, Ok(Ok(())));
    let spool = state.spool.as_ref().map(crate::spool::Spool::standing);
    if answered {
        let detail = "holds are decided and settlements recorded";
        return (StatusCode::OK, Json(Readiness { status: "ready", database: "there", detail, spool }));
    }
    state.presence.suspect();
    let detail = match spool {
        None => "holds and settlements are refused; filters keep the settlements",
        Some(Standing { bytes, max_bytes, .. }) if bytes >= max_bytes => {
            "holds are refused; the spool is full, filters keep the settlements"
        }
        Some(_) => "holds are refused; settlements are spooled",
    };
    let readiness = Readiness { status: "unavailable", database: "away", detail, spool };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness))
}
