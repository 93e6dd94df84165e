//! `POST /v1/holds`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use purser_protocol::{DenyReason, HoldRequest, HoldResponse, Payer, VERSION, Verdict};

use super::verdict::{Caller, deny};
use super::{ApiError, AppState, validate};
use crate::config::EstimateConfig;
use crate::identity::Identities;
use crate::learned::LearnedLengths;
use crate::ledger::HoldAsk;
use crate::metrics::{self, Waiting};
use crate::pricing::PriceBook;
use crate::quote::{Pricer, Quote};

/// Longest deadline honoured; a caller that asks for more is answered at this one.
const MAX_DEADLINE: Duration = Duration::from_secs(10);

/// Decides a hold: 200 with a verdict, or another status when no decision could be made.
pub async fn create(
    State(state): State<AppState>,
    body: Result<Json<HoldRequest>, JsonRejection>,
) -> Result<Json<HoldResponse>, ApiError> {
    let received = Instant::now();
    let Json(request) = body?;
    validate::version(request.version)?;
    let hold_id = request.hold_id;
    let deadline = received + Duration::from_millis(request.deadline_ms.into()).min(MAX_DEADLINE);
    let identified = identify(&state.identities.borrow(), &request);
    let verdict = match identified {
        Ok(Some(payer)) => decide(&state, request, payer, deadline).await?,
        Ok(None) => {
            let (verdict, noted) = Caller::of(&request, &request.payer).unidentified(unix_now_us());
            state.tracker.verdicts().note(&noted);
            verdict
        }
        Err(message) => deny(DenyReason::NotPriceable, message),
    };
    metrics::verdict(&verdict);
    metrics::hold_took(received.elapsed());
    Ok(Json(HoldResponse { version: VERSION, hold_id, verdict }))
}

/// Who pays; `None` when nobody is known. The error says what is wrong with the request.
pub fn identify(known: &Identities, request: &HoldRequest) -> Result<Option<Payer>, String> {
    validate::call(&request.call)?;
    validate::tags(&request.tags)?;
    if let Some(tier) = &request.service_tier {
        validate::short_name("service_tier", tier)?;
    }
    validate::who(&request.payer, request.lookup.as_ref())?;
    let payer = known.resolve(&request.payer, request.lookup.as_ref());
    if let Some(payer) = &payer {
        validate::payer(payer)?;
    }
    Ok(payer)
}

async fn decide(
    state: &AppState,
    request: HoldRequest,
    payer: Payer,
    deadline: Instant,
) -> Result<Verdict, ApiError> {
    let caller = Caller::of(&request, &payer);
    let pricer = pricer(state, &request, &payer);
    let quoted = match pricer.price(&request.call.model) {
        Ok(quoted) => quoted,
        Err(message) => return Ok(deny(DenyReason::NotPriceable, message)),
    };
    if quoted.quote.unknown_model {
        let flag = if quoted.price.is_known() { "partial" } else { "ceiling" };
        state.flagged.warn_once(&request.call.provider, &request.call.model, flag, &[]);
    }
    let waiting = Waiting::hold();
    let decided = state.ledger.hold(ask(request, payer, quoted.quote, pricer), deadline).await;
    drop(waiting);
    let decision = decided.inspect_err(metrics::hold_failed)?;
    for noted in caller.notes(&decision, unix_now_us()) {
        state.tracker.verdicts().note(&noted);
    }
    Ok(caller.verdict(decision))
}

/// What prices the call, with any model.
fn pricer(state: &AppState, request: &HoldRequest, payer: &Payer) -> Pricer {
    let (prices, learned) = (Arc::clone(&state.prices.borrow()), Arc::clone(&state.learned.borrow()));
    pricer_of(prices, learned, state.estimates, request, payer)
}

/// The same of what was read anywhere.
pub fn pricer_of(
    prices: Arc<PriceBook>,
    learned: Arc<LearnedLengths>,
    estimates: EstimateConfig,
    request: &HoldRequest,
    payer: &Payer,
) -> Pricer {
    Pricer {
        prices,
        learned,
        default_output_tokens: estimates.default_output_tokens,
        strict_output_tokens: estimates.strict_output_tokens,
        org: payer.org.clone(),
        team: payer.team.clone().unwrap_or_default(),
        provider: request.call.provider.clone(),
        api: request.call.api,
        size: request.size,
        service_tier: request.service_tier.clone(),
        at_unix_s: unix_now_s(),
    }
}

/// Microseconds since the Unix epoch.
pub fn unix_now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch; picks the price in force, never a period.
pub fn unix_now_s() -> i64 {
    unix_now_us().div_euclid(1_000_000)
}

/// What the ledger is asked.
pub fn ask(request: HoldRequest, payer: Payer, quote: Quote, pricer: Pricer) -> HoldAsk {
    HoldAsk {
        hold_id: request.hold_id,
        payer,
        provider: request.call.provider,
        model: request.call.model,
        api: request.call.api,
        quote,
        others: Arc::new(pricer),
        tags: request.tags,
    }
}
