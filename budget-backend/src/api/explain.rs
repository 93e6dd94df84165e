//! `POST /v1/explain`: how a hold would be decided just now, and why, holding nothing. The same functions
//! decide as in the lanes; the counters are read without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use purser_protocol::{Api, Call, HoldRequest, Lookup, Payer, Size, VERSION};
use serde::Deserialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::explained::{Explanation, Found};
use super::holds::{ask, identify, pricer_of, unix_now_us};
use super::openapi::QuestionBody;
use super::verdict::Caller;
use super::{ApiError, AppState};
use crate::access;
use crate::budget::Scope;
use crate::config::EstimateConfig;
use crate::identity::Identities;
use crate::learned::LearnedLengths;
use crate::ledger::decide::{KnownHolds, decide};
use crate::ledger::look::{LookError, look};
use crate::pricing::PriceBook;
use crate::quote::Quotes;

/// The facts of a request: the body of `POST /v1/holds`, of which version, id, tags and deadline don't
/// matter.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    /// Who pays, as far as the filter knows.
    #[serde(default = "nobody")]
    pub payer: Payer,
    /// What may name the payer.
    #[serde(default)]
    pub lookup: Option<Lookup>,
    /// What is called.
    pub call: CallBody,
    /// The service tier asked for.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// What bounds its cost.
    #[serde(default)]
    pub size: Size,
}

/// What is called; whether its answer is a stream makes no difference.
#[derive(Debug, Clone, Deserialize)]
pub struct CallBody {
    /// The API spoken.
    pub api: Api,
    /// Who bills.
    pub provider: String,
    /// The model asked for.
    pub model: String,
}

fn nobody() -> Payer {
    Payer { org: String::new(), team: None, user: None }
}

/// What the service knows beside the database.
pub struct Known {
    /// The prices in force.
    pub prices: Arc<PriceBook>,
    /// How long answers are.
    pub learned: Arc<LearnedLengths>,
    /// Who is known by what.
    pub identities: Arc<Identities>,
    /// What is held for output.
    pub estimates: EstimateConfig,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The request can't be right.
    #[error("{0}")]
    Invalid(String),
    /// What would decide it could not be read.
    #[error(transparent)]
    Look(#[from] LookError),
}

impl From<ExplainError> for ApiError {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::Invalid(problem) => Self::invalid(problem),
            ExplainError::Look(LookError::Database(error)) => error.into(),
            ExplainError::Look(error @ LookError::Window(_)) => Self::unavailable(error.to_string()),
        }
    }
}

/// Tells how a call would be decided just now, and why. Holds nothing. For a team's caller: calls of the team.
#[utoipa::path(post, path = "/v1/explain", tag = "looking closer", request_body = QuestionBody,
    responses((status = 200, description = "The verdict, and what it came from.", body = Object)))]
pub async fn explain(
    State(state): State<AppState>,
    asker: access::Caller,
    body: Result<Json<Question>, JsonRejection>,
) -> Result<Json<Explanation>, ApiError> {
    let Json(question) = body?;
    let known = Known {
        prices: Arc::clone(&state.prices.borrow()),
        learned: Arc::clone(&state.learned.borrow()),
        identities: Arc::clone(&state.identities.borrow()),
        estimates: state.estimates,
    };
    let request = request(question);
    if let Some(payer) = identify(&known.identities, &request).map_err(ApiError::invalid)? {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        asker.reads(&Scope { org: payer.org.clone(), team: name(&payer.team), user: name(&payer.user) })?;
    }
    Ok(Json(explained(&state.pool, request, &known).await?))
}

/// Explains.
///
/// # Errors
/// [`ExplainError`].
pub async fn answer(pool: &PgPool, question: Question, known: &Known) -> Result<Explanation, ExplainError> {
    explained(pool, request(question), known).await
}

async fn explained(pool: &PgPool, request: HoldRequest, known: &Known) -> Result<Explanation, ExplainError> {
    let payer = identify(&known.identities, &request).map_err(ExplainError::Invalid)?;
    let Some(payer) = payer else {
        let (verdict, _) = Caller::of(&request, &request.payer).unidentified(unix_now_us());
        return Ok(Explanation::unidentified(verdict));
    };
    let (prices, learned) = (Arc::clone(&known.prices), Arc::clone(&known.learned));
    let pricer = pricer_of(prices, learned, known.estimates, &request, &payer);
    let quoted = pricer.price(&request.call.model).map_err(ExplainError::Invalid)?;
    let (terms, counters) = look(pool, &payer, &pricer.names(&request.call.model), &pricer).await?;
    let caller = Caller::of(&request, &payer);
    let ask = ask(request.clone(), payer.clone(), quoted.quote.clone(), pricer.clone());
    let mut after = counters.clone();
    let decision = decide(&ask, &terms, &mut after, &mut KnownHolds::new());
    let found = Found {
        request: &request,
        payer: &payer,
        pricer: &pricer,
        quoted: &quoted,
        terms: &terms,
        counters: &counters,
    };
    Ok(Explanation::of(&found, &decision, caller.verdict(decision.clone())))
}

fn request(question: Question) -> HoldRequest {
    let CallBody { api, provider, model } = question.call;
    HoldRequest {
        version: VERSION,
        hold_id: Uuid::nil(),
        payer: question.payer,
        lookup: question.lookup,
        call: Call { api, provider, model, stream: false },
        service_tier: question.service_tier,
        size: question.size,
        tags: BTreeMap::new(),
        deadline_ms: 0,
    }
}
