//! The HTTP side: routes, who may call them, and the marker every answer carries.

mod budgets;
mod error;
mod health;
mod holds;
mod place;
mod policies;
mod prices;
mod settlements;
mod usage;
mod validate;
mod verdict;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use purser_protocol::{HOLDS_PATH, MARKER_HEADER, MARKER_VALUE, SETTLEMENTS_PATH};
use sqlx::PgPool;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::flagged::Flagged;
use crate::learned::LearnedLengths;
use crate::ledger::Ledger;
use crate::pricing::PriceBook;
use crate::tracker::Tracker;

pub use error::ApiError;

/// Largest request body, bytes: a full batch of settlements with every name at its longest fits.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub struct AppState {
    /// For admin queries and readiness.
    pub pool: PgPool,
    /// Holds.
    pub ledger: Ledger,
    /// Cost writes.
    pub tracker: Tracker,
    /// The prices in force.
    pub prices: watch::Receiver<Arc<PriceBook>>,
    /// How long answers are.
    pub learned: watch::Receiver<Arc<LearnedLengths>>,
    /// Models whose calls are not priced by a known price.
    pub flagged: Flagged,
    /// What filters authenticate with.
    pub token: Arc<str>,
    /// What operators authenticate with.
    pub admin_token: Arc<str>,
    /// Output held for a request without a cap, tokens.
    pub default_output_tokens: u64,
    /// The cap written into a request without one where a budget is strict, tokens.
    pub strict_output_tokens: u64,
}

/// The whole service.
pub fn router(state: AppState) -> Router {
    let data_plane = Router::new()
        .route(HOLDS_PATH, post(holds::create))
        .route(SETTLEMENTS_PATH, post(settlements::create))
        .layer(from_fn_with_state(Arc::clone(&state.token), require_token));
    let operators = Router::new()
        .route("/v1/usage", get(usage::report))
        .route("/v1/budgets", get(budgets::list).post(budgets::create))
        .route("/v1/budgets/{budget_id}", patch(budgets::change).delete(budgets::archive))
        .route("/v1/budgets/{budget_id}/top-ups", post(budgets::top_up))
        .route("/v1/rules", get(policies::rules).put(policies::set_rule).delete(policies::delete_rule))
        .route("/v1/overrides", get(policies::overrides).post(policies::start_override))
        .route("/v1/overrides/{override_id}", delete(policies::end_override))
        .route("/v1/prices/flagged", get(prices::flagged))
        .route("/v1/audit", get(policies::audit))
        .layer(from_fn_with_state(Arc::clone(&state.admin_token), require_token));
    Router::new()
        .merge(data_plane)
        .merge(operators)
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(|| async { ApiError::not_found("no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(mark))
        .with_state(state)
}

/// Lets only callers with the token in.
async fn require_token(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // Constant time, so that a token can't be guessed byte by byte.
    let same = given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes())));
    if same { next.run(request).await } else { ApiError::unauthorized().into_response() }
}

/// Marks every answer as the backend's own.
async fn mark(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .insert(HeaderName::from_static(MARKER_HEADER), HeaderValue::from_static(MARKER_VALUE));
    response
}
