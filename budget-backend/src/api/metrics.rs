//! `GET /metrics`, on a listener of its own: it names orgs and asks for no token, so that whoever may scrape
//! is a matter of the address it listens on.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sqlx::PgPool;

use crate::admin::standings::{self, Running};
use crate::metrics::{self, BudgetLeft};

/// What Prometheus knows the format by.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Longest wait for the budgets of a scrape; it goes without them then.
const BUDGETS_LIMIT: Duration = Duration::from_secs(3);

#[derive(Clone)]
struct Scraped {
    pool: PgPool,
    max_budgets: i64,
}

/// The listener's only path. Of the budgets, the `max_budgets` with the least left are listed.
pub fn metrics_router(pool: PgPool, max_budgets: i64) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(Scraped { pool, max_budgets })
}

async fn scrape(State(state): State<Scraped>) -> Response {
    let read = standings::tightest(&state.pool, state.max_budgets);
    let (budgets, left_out) = match tokio::time::timeout(BUDGETS_LIMIT, read).await {
        Ok(Ok((rows, left_out))) => (Some(rows.iter().map(left).collect::<Vec<_>>()), left_out),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the budgets could not be read for a scrape");
            (None, 0)
        }
        Err(_) => {
            tracing::warn!("the budgets could not be read in time for a scrape");
            (None, 0)
        }
    };
    match metrics::text(budgets.as_deref(), left_out) {
        Ok(text) => {
            let format = HeaderValue::from_static(FORMAT);
            ([(header::CONTENT_TYPE, format)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn left(running: &Running) -> BudgetLeft {
    let (team, user) = running.place();
    BudgetLeft {
        org: running.org.clone(),
        team: team.to_owned(),
        user: user.to_owned(),
        tier: running.tier(),
        window: running.window.clone(),
        budget_id: running.budget_id,
        limit_nanousd: running.limit_nanousd,
        remaining_nanousd: running.remaining_nanousd(),
    }
}
