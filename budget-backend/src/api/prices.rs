//! `GET /v1/prices/flagged`: models whose calls are not priced by a known price.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use purser_protocol::format_usd;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, AppState, validate};
use crate::access::Caller;
use crate::admin::prices;
use crate::window::rfc3339;

/// How far back is looked when nothing else is asked, days.
const DAYS: i32 = 30;

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

/// A model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlaggedModel)]
struct ModelView {
    provider: String,
    model: String,
    /// `ceiling`: an unknown model; `partial`: something that occurred has no known price.
    flag: String,
    unpriced: Vec<String>,
    calls: i64,
    cost_usd: String,
    #[schema(required)]
    last_at: Option<String>,
}

/// A listing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlaggedModels)]
pub struct Listing {
    models: Vec<ModelView>,
}

/// Lists models whose calls are not priced by a known price, the dearest first.
#[utoipa::path(get, path = "/v1/prices/flagged", tag = "looking closer", params(Question),
    responses((status = 200, description = "The models.", body = Listing)))]
pub async fn flagged(
    State(state): State<AppState>,
    caller: Caller,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Listing>, ApiError> {
    let Query(question) = question?;
    validate::name("org", &question.org).map_err(ApiError::invalid_parameter)?;
    let seen = caller.reads_org(&question.org)?;
    let days = validate::days(question.days, DAYS, MAX_DAYS).map_err(ApiError::invalid_parameter)?;
    let models = prices::flagged(&state.pool, (&question.org, seen.team.as_deref()), days)
        .await?
        .into_iter()
        .map(|model| ModelView {
            provider: model.provider,
            model: model.model,
            flag: model.flag,
            unpriced: model.unpriced,
            calls: model.calls,
            cost_usd: format_usd(model.cost_nanousd),
            last_at: rfc3339(model.last_at_unix_s),
        });
    Ok(Json(Listing { models: models.collect() }))
}
