//! `POST /v1/holds`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use purser_protocol::{DenyReason, HoldRequest, HoldResponse, VERSION, format_usd};

use super::verdict::{Caller, deny};
use super::{ApiError, AppState, validate};
use crate::estimate::{Bound, estimate, most_input_tokens, upper_bound};
use crate::ledger::HoldAsk;

/// Most one hold may reserve: a million USD. A request that asks for more can't be right.
pub const MAX_AMOUNT_NANOUSD: i64 = 1_000_000_000_000_000;

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
    let verdict = match price(&state, &request) {
        Ok(priced) => {
            let caller = Caller::of(&request);
            let decision = state.ledger.hold(ask(request, priced), deadline).await?;
            for noted in caller.notes(&decision, unix_now_us()) {
                state.tracker.verdicts().note(&noted);
            }
            caller.verdict(decision)
        }
        Err(message) => deny(DenyReason::NotPriceable, message),
    };
    Ok(Json(HoldResponse { version: VERSION, hold_id, verdict }))
}

/// What a call may cost.
struct Priced {
    amount_nanousd: i64,
    bound: Result<Bound, &'static str>,
    unknown_model: bool,
}

/// What to hold for a request; the error says what is wrong with it.
fn price(state: &AppState, request: &HoldRequest) -> Result<Priced, String> {
    validate::payer(&request.payer)?;
    validate::call(&request.call)?;
    validate::tags(&request.tags)?;
    let (payer, call) = (&request.payer, &request.call);
    let prices = state.prices.borrow();
    let now_unix_s = unix_now_s();
    let unpriced = "no price is known for any model";
    let price = prices.find(&call.provider, &call.model, now_unix_s).ok_or(unpriced)?;
    let dearest = prices
        .dearest(&call.provider, &call.model, now_unix_s, most_input_tokens(&request.size))
        .ok_or(unpriced)?;
    let team = payer.team.as_deref().unwrap_or_default();
    let learned = state.learned.borrow().output_tokens(&payer.org, team, &call.provider, &call.model);
    let amount_nanousd = estimate(&request.size, learned.unwrap_or(state.default_output_tokens))
        .cost_nanousd(&price)
        .ok()
        .filter(|amount| *amount <= MAX_AMOUNT_NANOUSD)
        .ok_or_else(|| format!("the request may cost more than {} USD", format_usd(MAX_AMOUNT_NANOUSD)))?;
    let bound = upper_bound(&request.size, &dearest, state.strict_output_tokens).and_then(|bound| {
        (bound.amount_nanousd <= MAX_AMOUNT_NANOUSD).then_some(bound).ok_or("a size beyond all measure")
    });
    if !price.is_known() {
        state.flagged.warn_once(&call.provider, &call.model, "ceiling", &[]);
    }
    Ok(Priced { amount_nanousd, bound, unknown_model: !price.is_known() })
}

/// Microseconds since the Unix epoch.
fn unix_now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch; picks the price in force, never a period.
pub fn unix_now_s() -> i64 {
    unix_now_us().div_euclid(1_000_000)
}

fn ask(request: HoldRequest, priced: Priced) -> HoldAsk {
    HoldAsk {
        hold_id: request.hold_id,
        payer: request.payer,
        provider: request.call.provider,
        model: request.call.model,
        api: request.call.api,
        amount_nanousd: priced.amount_nanousd,
        bound: priced.bound,
        unknown_model: priced.unknown_model,
        tags: request.tags,
    }
}
