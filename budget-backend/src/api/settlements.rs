//! `POST /v1/settlements`.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use purser_protocol::{
    Admission, Deny, DenyReason, Ending, ItemResult, MAX_BATCH_ITEMS, MAX_NAME_BYTES, Outcome, Payer,
    Settlement, SettlementBatch, SettlementItem, SettlementResponse, Usage, UsageQuality, VERSION,
};

use super::accept::accept;
use super::holds::{unix_now_s, unix_now_us};
use super::{ApiError, AppState, validate};
use crate::estimate::{Estimate, estimate};
use crate::flagged::Flagged;
use crate::identity::Identities;
use crate::learned::LearnedLengths;
use crate::metrics::{self, Waiting};
use crate::pricing::cost::UNTOLD_USAGE;
use crate::pricing::{Costed, Price, PriceBook, Used};
use crate::quote::MAX_AMOUNT_NANOUSD;
use crate::tracker::TrackerFailure;
use crate::tracker::denials::Denial;
use crate::tracker::fold::clamp_started_at;
use crate::tracker::model::{Charge, Cost, Facts, HoldKey, Item, Quarantined, Settle, Subject};
use crate::tracker::verdicts::{Noted, NotedOutcome};

/// Most calls that one report of repeated denials counts: a filter sends one every few seconds.
const MAX_REPEATED_DENIALS: i64 = 1_000_000;

/// What stands for a service tier whose name is too long or has characters that no name has: no price list
/// has rates for it.
const MALFORMED_TIER: &str = "(malformed)";

/// Prices a batch and hands it to the tracker; answers after the commit, item by item.
pub async fn create(
    State(state): State<AppState>,
    body: Result<Json<SettlementBatch>, JsonRejection>,
) -> Result<Json<SettlementResponse>, ApiError> {
    let Json(batch) = body?;
    validate::version(batch.version)?;
    if batch.items.len() > MAX_BATCH_ITEMS {
        return Err(ApiError::too_many_items(MAX_BATCH_ITEMS));
    }
    let ids: Vec<_> = batch.items.iter().map(SettlementItem::hold_id).collect();
    let denials: Vec<Option<(Noted, Denial)>> = batch.items.iter().map(repeated_denials).collect();
    let outcomes = accept(&state, batch.items).await?;
    for ((noted, denial), outcome) in
        denials.into_iter().zip(&outcomes).filter_map(|(denials, outcome)| Some((denials?, outcome)))
    {
        if *outcome == Outcome::Recorded && denial.calls > 0 {
            state.tracker.verdicts().note_many(&noted, denial.calls);
            state.tracker.verdicts().keep(denial);
        }
    }
    let results =
        ids.into_iter().zip(outcomes).map(|(hold_id, outcome)| ItemResult { hold_id, outcome }).collect();
    Ok(Json(SettlementResponse { version: VERSION, results }))
}

/// Prices items and has the tracker record them; comes back after the commit.
pub async fn commit(state: &AppState, items: Vec<SettlementItem>) -> Result<Vec<Outcome>, TrackerFailure> {
    let prepared = prepare_all(items, state);
    let (handed_over, _waiting) = (Instant::now(), Waiting::settlements());
    let outcomes = state.tracker.record(prepared).await.inspect_err(metrics::settlements_failed)?;
    metrics::settlements_took(handed_over.elapsed());
    Ok(outcomes)
}

fn prepare_all(items: Vec<SettlementItem>, state: &AppState) -> Vec<(HoldKey, Item)> {
    let (prices, learned) = (state.prices.borrow(), state.learned.borrow());
    let identities = state.identities.borrow();
    let known = Known {
        identities: &identities,
        prices: &prices,
        learned: &learned,
        flagged: &state.flagged,
        default_output_tokens: state.estimates.default_output_tokens,
    };
    items.into_iter().map(|item| prepare(item, &known)).collect()
}

/// Calls that a filter refused by itself: how they are counted, and how many.
fn repeated_denials(item: &SettlementItem) -> Option<(Noted, Denial)> {
    let SettlementItem::RepeatedDenials(denials) = item else { return None };
    let noted = Noted {
        org: denials.payer.org.clone(),
        team: denials.payer.team.clone().unwrap_or_default(),
        user: denials.payer.user.clone().unwrap_or_default(),
        provider: denials.call.provider.clone(),
        model: denials.call.model.clone(),
        outcome: NotedOutcome::Denied,
        reason: DenyReason::OverBudget.as_str(),
        budget_id: denials.budget_id.max(0),
        needed_nanousd: 0,
        hold_id: denials.hold_id,
        at_unix_us: unix_now_us(),
    };
    let deny = Deny { reason: DenyReason::OverBudget, ..Deny::default() };
    let (payer, call) = (denials.payer.clone(), denials.call.clone());
    let calls = i64::try_from(denials.count).unwrap_or(i64::MAX).min(MAX_REPEATED_DENIALS);
    let denial = Denial::new(payer, call, denials.hold_id, deny, noted.at_unix_us);
    Some((noted, Denial { calls, budget_id: denials.budget_id.max(0), ..denial }))
}

/// What settlements are priced with.
struct Known<'a> {
    identities: &'a Identities,
    prices: &'a PriceBook,
    learned: &'a LearnedLengths,
    flagged: &'a Flagged,
    default_output_tokens: u64,
}

/// An item as the tracker takes it. One that can't be recorded is quarantined with the reason, so
/// that it doesn't hold up its batch; its hold then expires and is charged in full.
fn prepare(item: SettlementItem, known: &Known<'_>) -> (HoldKey, Item) {
    let hold_id = item.hold_id();
    let prepared = payer_of(&item, known).and_then(|payer| {
        let prepared = match &item {
            SettlementItem::Void(_) => Item::Void(payer.clone()),
            SettlementItem::Renew(_) => Item::Renew,
            SettlementItem::RepeatedDenials(denials) => {
                validate::call(&denials.call)?;
                // Leaves its id behind, so that a report that is sent twice counts once.
                Item::Void(payer.clone())
            }
            SettlementItem::Settle(settlement) => {
                let settlement = Settlement { payer: payer.clone(), ..Settlement::clone(settlement) };
                Item::Settle(Box::new(settle(&settlement, known)?))
            }
        };
        Ok((payer, prepared))
    });
    match prepared {
        Ok((payer, item)) => ((payer.org, hold_id), item),
        Err(reason) => {
            let payer = item.payer();
            tracing::error!(%hold_id, reason, "a settlement can't be recorded and is set aside");
            let org = payer.org.chars().filter(|c| !c.is_control()).take(MAX_NAME_BYTES).collect();
            // Written with `Debug`, which escapes whatever PostgreSQL's text would refuse.
            ((org, hold_id), Item::Quarantine(Quarantined { reason, item: format!("{item:?}") }))
        }
    }
}

/// Who pays, looked up if the filter never learnt it.
fn payer_of(item: &SettlementItem, known: &Known<'_>) -> Result<Payer, String> {
    validate::who(item.payer(), item.lookup())?;
    let payer = known.identities.resolve(item.payer(), item.lookup());
    let payer = payer.ok_or("lookup: nobody is known by these claims, and there is no fallback")?;
    validate::payer(&payer).map(|()| payer)
}

fn settle(settlement: &Settlement, known: &Known<'_>) -> Result<Settle, String> {
    validate::call(&settlement.call)?;
    validate::tags(&settlement.tags)?;
    validate::units(&settlement.units)?;
    bounded_tokens(&settlement.usage)?;
    let call = &settlement.call;
    let answered_model = settlement.answered_model.clone().filter(|model| validate::name("", model).is_ok());
    let started_at_unix_us = settlement.started_at_unix_ms.saturating_mul(1_000);
    let now_unix_us = unix_now_s().saturating_mul(1_000_000);
    let at_unix_s = clamp_started_at(started_at_unix_us, now_unix_us).div_euclid(1_000_000);
    let price = known
        .prices
        .find_answered(&call.provider, &call.model, answered_model.as_deref(), at_unix_s)
        .ok_or("no price is known for any model")?;
    let estimate = estimate(call.api, &settlement.size, known.output_tokens(settlement));
    let service_tier = service_tier(settlement);
    let estimate_nanousd = estimate.cost_nanousd(&price, service_tier.as_deref());
    let estimate_nanousd = estimate_nanousd.unwrap_or(MAX_AMOUNT_NANOUSD).min(MAX_AMOUNT_NANOUSD);
    let stands_for = known.prices.stands_for(&call.provider, &call.model, at_unix_s);
    let charge = charge(settlement, price, service_tier.as_deref(), &estimate, estimate_nanousd)?;
    known.flagged.warn_once(&call.provider, &call.model, charge.price_flag, &charge.unpriced);
    let duration = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    Ok(Settle {
        payer: settlement.payer.clone(),
        subject: subject(settlement),
        stands_for: stands_for.map(ToOwned::to_owned).collect(),
        asked_model: settlement
            .asked_model
            .clone()
            .filter(|model| *model != call.model && validate::name("", model).is_ok()),
        charge,
        facts: Facts {
            answered_model,
            response_id: settlement.response_id.clone().filter(|id| validate::name("", id).is_ok()),
            usage: settlement.usage,
            units: settlement.units.clone(),
            service_tier,
            reported_cost_nanousd: settlement.reported_cost_nanousd,
            usage_quality: settlement.usage_quality.as_str(),
            admission: match settlement.admission {
                Admission::Held => "held",
                Admission::FailOpen => "fail_open",
            },
            stream: call.stream,
            http_status: settlement.http_status,
            ending: settlement.ending.as_str(),
            duration_ms: Some(duration(settlement.duration_ms)),
            first_byte_ms: settlement.first_byte_ms.map(duration),
            answer_tokens: answer_tokens(settlement),
        },
        started_at_unix_us,
    })
}

/// The tier that the answer named. A name that can't be kept still says that the call wasn't a plain one.
fn service_tier(settlement: &Settlement) -> Option<String> {
    let told = settlement.service_tier.as_ref().filter(|told| !told.trim().is_empty())?;
    let is_good = validate::short_name("", told).is_ok();
    Some(if is_good { told.clone() } else { MALFORMED_TIER.to_owned() })
}

impl Known<'_> {
    /// The output expected of a call without a cap of its own, tokens.
    fn output_tokens(&self, settlement: &Settlement) -> u64 {
        let (payer, call) = (&settlement.payer, &settlement.call);
        let team = payer.team.as_deref().unwrap_or_default();
        let learned = self.learned.output_tokens(&payer.org, team, &call.provider, &call.model);
        learned.unwrap_or(self.default_output_tokens)
    }
}

/// What an answer needed per choice, when nothing cut it and its usage is known.
fn answer_tokens(settlement: &Settlement) -> Option<i64> {
    let Settlement { usage, size, .. } = settlement;
    let whole = settlement.usage_quality == UsageQuality::Exact
        && settlement.ending == Ending::Complete
        && (200..300).contains(&settlement.http_status)
        && size.max_output_tokens.is_none();
    if !whole || usage.output_tokens == 0 {
        return None;
    }
    let tokens = usage.output_tokens.saturating_add(usage.reasoning_tokens);
    i64::try_from(tokens.div_euclid(size.choices.max(1).into())).ok()
}

/// What a settlement charges. Where the price is not known, or not of all that occurred, what the provider
/// itself reported wins over the dearest known rate; where it is, our own arithmetic stands.
fn charge(
    settlement: &Settlement,
    price: Price,
    service_tier: Option<&str>,
    estimate: &Estimate,
    estimate_nanousd: i64,
) -> Result<Charge, String> {
    let (cost, mut unpriced) = cost(settlement, &price, service_tier, estimate)?;
    if settlement.usage_never_comes && matches!(cost, Cost::AtLeast(_)) {
        unpriced.push(UNTOLD_USAGE.to_owned());
    }
    // What was refused cost nothing at whatever price: none was used.
    let price_flag = if is_refused(settlement) { "" } else { price.flag(&unpriced) };
    let mut charge = Charge {
        cost,
        estimate_nanousd,
        price_id: price.price_id,
        price_flag,
        unpriced,
        priced_as: price.priced_as,
        price_match: price.matched.as_str(),
        price_effective_from_unix_s: price.effective_from_unix_s,
    };
    let reported = settlement.reported_cost_nanousd.filter(|cost| (1..=MAX_AMOUNT_NANOUSD).contains(cost));
    let exact = settlement.usage_quality == UsageQuality::Exact && !settlement.usage_never_comes;
    if let (false, true, Some(cost)) = (price_flag.is_empty(), exact, reported) {
        charge.cost = Cost::Exactly(cost);
        (charge.price_match, charge.price_flag) = ("reported", "");
        (charge.price_id, charge.price_effective_from_unix_s) = (None, None);
        charge.unpriced.clear();
    }
    Ok(charge)
}

/// What is known of a settlement's cost, and what of it had no known price. What was seen of an answer is
/// not all of it when the answer came whole but its usage did not, or never will; when it was not a
/// stream, since a provider sends such an answer only once all of it is made; or when the model thinks
/// out of sight, unless the request keeps it from that.
fn cost(
    settlement: &Settlement,
    price: &Price,
    service_tier: Option<&str>,
    estimate: &Estimate,
) -> Result<(Cost, Vec<String>), String> {
    let too_dear = || "the cost is beyond what one call can be".to_owned();
    let priced = |usage: &Usage| -> Result<Costed, String> {
        let used = Used { usage, units: &settlement.units, service_tier };
        let costed = price.cost(used).map_err(|_| too_dear())?;
        if costed.nanousd <= MAX_AMOUNT_NANOUSD { Ok(costed) } else { Err(too_dear()) }
    };
    match settlement.usage_quality {
        UsageQuality::Exact => {
            let costed = priced(&settlement.usage)?;
            let all = !costed.at_least && !settlement.usage_never_comes;
            let cost = if all { Cost::Exactly(costed.nanousd) } else { Cost::AtLeast(costed.nanousd) };
            Ok((cost, costed.unpriced))
        }
        UsageQuality::AtLeast => {
            // The sender knows the text it sent; the estimate counts the media in it as well.
            let input_tokens = settlement.usage.input_tokens.max(estimate.input_tokens);
            // Counted from bytes, which is rough; no provider bills more than the request's own cap.
            let most = settlement.size.max_output_tokens.map_or(u64::MAX, |_| estimate.output_tokens);
            let output_tokens = settlement.usage.output_tokens.min(most);
            let seen = priced(&Usage { input_tokens, output_tokens, ..settlement.usage })?;
            let all_seen = settlement.call.stream
                && settlement.ending != Ending::Complete
                && !settlement.may_think.unwrap_or(price.reasons)
                && !seen.at_least
                && !settlement.usage_never_comes;
            let cost = if all_seen { Cost::Exactly(seen.nanousd) } else { Cost::AtLeast(seen.nanousd) };
            Ok((cost, seen.unpriced))
        }
        UsageQuality::None if is_refused(settlement) => Ok((Cost::Exactly(0), Vec::new())),
        UsageQuality::None => Ok((Cost::AtLeast(0), Vec::new())),
    }
}

/// Whether the answer is an error and brought no usage: such a call is not billed.
fn is_refused(settlement: &Settlement) -> bool {
    settlement.usage_quality == UsageQuality::None
        && settlement.http_status != 0
        && !(200..300).contains(&settlement.http_status)
}

fn subject(settlement: &Settlement) -> Subject {
    Subject {
        team: settlement.payer.team.clone().unwrap_or_default(),
        user: settlement.payer.user.clone().unwrap_or_default(),
        provider: settlement.call.provider.clone(),
        model: settlement.call.model.clone(),
        api: settlement.call.api.as_str().to_owned(),
        tags: settlement.tags.clone(),
    }
}

fn bounded_tokens(usage: &Usage) -> Result<(), String> {
    if usage.classes().iter().all(|count| i64::try_from(*count).is_ok()) {
        Ok(())
    } else {
        Err("usage: a token count is beyond 9223372036854775807".to_owned())
    }
}

#[cfg(test)]
#[path = "settlements_tests.rs"]
mod tests;
