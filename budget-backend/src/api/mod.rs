//! The HTTP side: routes, who may call them, and the marker every answer carries.

mod accept;
mod alerts;
mod apply;
mod audit;
mod auth;
mod budget_terms;
mod budget_views;
mod budgets;
mod cursor;
mod erasure;
mod error;
pub mod explain;
mod explained;
mod fault;
mod health;
mod holds;
mod idempotency;
mod identities;
mod ladder;
mod lint;
mod me;
mod metrics;
mod openapi;
mod page;
mod place;
mod policies;
mod prices;
mod requests;
mod settlements;
pub mod tokens;
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
use axum::routing::{get, post};
use purser_protocol::{HOLDS_PATH, MARKER_HEADER, MARKER_VALUE, SETTLEMENTS_PATH};
use sqlx::PgPool;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Doors;
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

use auth::{require_certificate, require_filter, require_operator};

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
    /// What filters and operators authenticate with.
    pub doors: Doors,
    /// Whether the database is there.
    pub presence: Presence,
    /// Where settlements are kept meanwhile, if anywhere.
    pub spool: Option<Spool>,
    /// How long a body may take.
    pub body_limit: Duration,
    /// What is held for output.
    pub estimates: EstimateConfig,
}

/// The operators' routes with what the document says of them. Each needs an operator's token.
fn operators() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(usage::report))
        .routes(routes!(requests::list))
        .routes(routes!(requests::one))
        .routes(routes!(me::me))
        .routes(routes!(erasure::create))
        .routes(routes!(budgets::list, budgets::create))
        .routes(routes!(apply::apply))
        .routes(routes!(budgets::read, budgets::change, budgets::archive))
        .routes(routes!(budget_views::periods))
        .routes(routes!(top_ups::top_up))
        .routes(routes!(policies::rules, policies::set_rule, policies::delete_rule))
        .routes(routes!(policies::overrides, policies::start_override))
        .routes(routes!(policies::end_override))
        .routes(routes!(explain::explain))
        .routes(routes!(lint::lint))
        .routes(routes!(identities::list, identities::create))
        .routes(routes!(identities::archive))
        .routes(routes!(prices::flagged))
        .routes(routes!(audit::list))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::webhooks, alerts::create_webhook))
        .routes(routes!(alerts::change_webhook, alerts::delete_webhook))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
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
        .layer(from_fn_with_state(state.doors.clone(), require_filter));
    let (operators, document) = operators().split_for_parts();
    let operators = operators
        .layer(from_fn_with_state(state.pool.clone(), idempotency::once))
        .layer(from_fn_with_state(Load::of_operators(state.body_limit), bound))
        .layer(from_fn_with_state(state.doors.clone(), require_operator));
    let documents = openapi::routes(&openapi::complete(document))
        .layer(from_fn_with_state(Load::of_probes(state.body_limit), bound))
        .layer(from_fn(require_certificate));
    let ready = get(health::ready).layer(from_fn_with_state(Load::of_probes(state.body_limit), bound));
    Router::new()
        .merge(data_plane)
        .merge(operators)
        .merge(documents)
        .route("/healthz", get(health::alive))
        .route("/readyz", ready)
        .fallback(|| async { ApiError::not_found("no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(mark))
        .layer(from_fn(crate::telemetry::trace))
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
