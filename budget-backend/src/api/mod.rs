//! The HTTP side: routes, who may call them, and the marker every answer carries.

mod accept;
mod alerts;
mod auth;
mod budgets;
mod error;
pub mod explain;
mod explained;
mod health;
mod holds;
mod identities;
mod ladder;
mod lint;
mod metrics;
mod place;
mod policies;
mod prices;
mod settlements;
mod top_ups;
mod usage;
mod validate;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use purser_protocol::{HOLDS_PATH, MARKER_HEADER, MARKER_VALUE, SETTLEMENTS_PATH};
use sqlx::PgPool;
use tokio::sync::watch;

use crate::alerts::webhook::Reach;
use crate::config::EstimateConfig;
use crate::flagged::Flagged;
use crate::identity::Identities;
use crate::learned::LearnedLengths;
use crate::ledger::Ledger;
use crate::pricing::PriceBook;
use crate::server::limits::{Load, MAX_BODY_BYTES, bound};
use crate::server::presence::Presence;
use crate::spool::Spool;
use crate::tracker::Tracker;

use auth::require_token;

pub use auth::Tokens;
pub use error::ApiError;
pub use metrics::metrics_router;
pub use settlements::commit;

/// Most read of an answer that the framework made, bytes.
const MAX_WORDS_BYTES: usize = 1024;

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
    /// Who is known by what.
    pub identities: watch::Receiver<Arc<Identities>>,
    /// How long answers are.
    pub learned: watch::Receiver<Arc<LearnedLengths>>,
    /// Models whose calls are not priced by a known price.
    pub flagged: Flagged,
    /// Where receivers of alerts may be.
    pub webhook_reach: Reach,
    /// What filters authenticate with.
    pub tokens: Tokens,
    /// What operators authenticate with.
    pub admin_tokens: Tokens,
    /// Whether the database is there.
    pub presence: Presence,
    /// Where settlements are kept meanwhile, if anywhere.
    pub spool: Option<Spool>,
    /// How long a body may take.
    pub body_limit: Duration,
    /// What is held for output.
    pub estimates: EstimateConfig,
}

/// The whole service.
pub fn router(state: AppState) -> Router {
    let data_plane = Router::new()
        .route(
            HOLDS_PATH,
            post(holds::create).layer(from_fn_with_state(state.presence.clone(), ask_presence)),
        )
        .route(SETTLEMENTS_PATH, post(settlements::create))
        .layer(from_fn_with_state(Load::of_filters(state.body_limit), bound))
        .layer(from_fn_with_state(state.tokens.clone(), require_token));
    let operators = Router::new()
        .route("/v1/usage", get(usage::report))
        .route("/v1/budgets", get(budgets::list).post(budgets::create))
        .route("/v1/budgets/{budget_id}", patch(budgets::change).delete(budgets::archive))
        .route("/v1/budgets/{budget_id}/top-ups", post(top_ups::top_up))
        .route("/v1/rules", get(policies::rules).put(policies::set_rule).delete(policies::delete_rule))
        .route("/v1/overrides", get(policies::overrides).post(policies::start_override))
        .route("/v1/overrides/{override_id}", delete(policies::end_override))
        .route("/v1/explain", post(explain::explain))
        .route("/v1/lint", get(lint::lint))
        .route("/v1/identities", get(identities::list).post(identities::create))
        .route("/v1/identities/{identity_id}", delete(identities::archive))
        .route("/v1/prices/flagged", get(prices::flagged))
        .route("/v1/audit", get(policies::audit))
        .route("/v1/alerts", get(alerts::list))
        .route("/v1/webhooks", get(alerts::webhooks).post(alerts::create_webhook))
        .route("/v1/webhooks/{webhook_id}", patch(alerts::change_webhook).delete(alerts::delete_webhook))
        .layer(from_fn_with_state(Load::of_operators(state.body_limit), bound))
        .layer(from_fn_with_state(state.admin_tokens.clone(), require_token));
    let ready = get(health::ready).layer(from_fn_with_state(Load::of_probes(state.body_limit), bound));
    Router::new()
        .merge(data_plane)
        .merge(operators)
        .route("/healthz", get(health::alive))
        .route("/readyz", ready)
        .fallback(|| async { ApiError::not_found("no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(mark))
        .with_state(state)
}

/// Refuses holds at once while the database is away, instead of letting each find it out.
async fn ask_presence(State(presence): State<Presence>, request: Request, next: Next) -> Response {
    if presence.is_away() {
        crate::metrics::hold_failed(&crate::ledger::HoldFailure::Database);
        return ApiError::without_database().into_response();
    }
    let response = next.run(request).await;
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => presence.suspect(),
        StatusCode::OK => presence.served(),
        _ => {}
    }
    response
}

/// Marks every answer as the backend's own, and gives the framework's own refusals the shape of all others.
async fn mark(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let is_text = |value: &HeaderValue| value.as_bytes().starts_with(b"text/plain");
    if response.status().is_client_error()
        && response.headers().get(header::CONTENT_TYPE).is_some_and(is_text)
    {
        let (parts, body) = response.into_parts();
        let words = to_bytes(body, MAX_WORDS_BYTES).await.unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        response = ApiError::of_framework(parts.status, words).into_response();
    }
    response
        .headers_mut()
        .insert(HeaderName::from_static(MARKER_HEADER), HeaderValue::from_static(MARKER_VALUE));
    response
}
