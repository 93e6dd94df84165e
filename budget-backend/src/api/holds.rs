//! `POST /v1/holds`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use purser_protocol::{
    Allow, DeniedBudget, Deny, DenyReason, HoldRequest, HoldResponse, Payer, Tier, VERSION, Verdict,
    format_usd,
};

use super::{ApiError, AppState, validate};
use crate::estimate::estimate;
use crate::ledger::{Decision, HoldAsk, Refusal};
use crate::window::rfc3339;

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
        Ok(amount_nanousd) => {
            let payer = request.payer.clone();
            let decision = state.ledger.hold(ask(request, amount_nanousd), deadline).await?;
            verdict(&payer, decision)
        }
        Err(message) => deny(DenyReason::NotPriceable, message),
    };
    Ok(Json(HoldResponse { version: VERSION, hold_id, verdict }))
}

/// What to hold for a request, nano-USD; the error says what is wrong with it.
fn price(state: &AppState, request: &HoldRequest) -> Result<i64, String> {
    validate::payer(&request.payer)?;
    validate::call(&request.call)?;
    let price = state
        .prices
        .borrow()
        .find(&request.call.provider, &request.call.model, unix_now_s())
        .ok_or("no price is known for any model")?;
    let estimate = estimate(&request.size, state.default_output_tokens);
    estimate
        .cost_nanousd(&price.rates)
        .ok()
        .filter(|amount| *amount <= MAX_AMOUNT_NANOUSD)
        .ok_or_else(|| format!("the request may cost more than {} USD", format_usd(MAX_AMOUNT_NANOUSD)))
}

/// Seconds since the Unix epoch; picks the price in force, never a period.
pub fn unix_now_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn ask(request: HoldRequest, amount_nanousd: i64) -> HoldAsk {
    HoldAsk {
        hold_id: request.hold_id,
        payer: request.payer,
        provider: request.call.provider,
        model: request.call.model,
        api: request.call.api,
        amount_nanousd,
    }
}

fn verdict(payer: &Payer, decision: Decision) -> Verdict {
    match decision {
        Decision::Granted { held_nanousd, remaining } | Decision::Repeated { held_nanousd, remaining } => {
            Verdict::Allow(Allow { held_nanousd, remaining, rewrite: None })
        }
        Decision::Closed => deny(DenyReason::Closed, "this hold was closed before it was made".to_owned()),
        Decision::Refused(refusal) => Verdict::Deny(refused(payer, &refusal)),
    }
}

fn deny(reason: DenyReason, message: String) -> Verdict {
    Verdict::Deny(Deny { reason, message, budget: None })
}

fn refused(payer: &Payer, refusal: &Refusal) -> Deny {
    let touch = &refusal.touch;
    let resets_at = touch.period.end_unix_s.and_then(rfc3339);
    let org = &payer.org;
    let team = payer.team.as_deref().unwrap_or_default();
    let whose = match touch.tier {
        Tier::Org => format!("org {org}"),
        Tier::Team => format!("team {team} in org {org}"),
        Tier::User => {
            format!("user {} in team {team} of org {org}", payer.user.as_deref().unwrap_or_default())
        }
    };
    let reset =
        resets_at.as_ref().map_or_else(|| "it does not reset".to_owned(), |at| format!("it resets at {at}"));
    let message = format!(
        "The {window} budget of {whose} is exhausted: limit {limit} USD, spent {spent} USD, held by running calls {held} USD, \
         this call may cost {needed} USD; {reset}.",
        window = touch.window.as_str(),
        limit = format_usd(touch.limit_nanousd),
        spent = format_usd(refusal.counter.spent_nanousd),
        held = format_usd(refusal.counter.held_nanousd),
        needed = format_usd(refusal.needed_nanousd),
    );
    Deny {
        reason: DenyReason::OverBudget,
        message,
        budget: Some(DeniedBudget {
            budget_id: touch.key.counter.budget_id,
            tier: touch.tier,
            window: touch.window,
            limit_nanousd: touch.limit_nanousd,
            spent_nanousd: refusal.counter.spent_nanousd,
            held_nanousd: refusal.counter.held_nanousd,
            needed_nanousd: refusal.needed_nanousd,
            resets_at,
        }),
    }
}
