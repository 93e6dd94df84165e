//! `GET /v1/requests`: calls one by one, let through or refused, and the whole story of one.

mod story;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use purser_protocol::format_usd;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{ApiError, AppState, cursor, page, validate};
use crate::access::Caller;
use crate::admin::requests::{self, CallRow, DenialRow, Wanted};
use crate::budget::Scope;

pub use story::Story;

/// Which calls.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// The org; may be left out with a token of one org.
    org: Option<String>,
    /// Only this team's; empty for calls without one.
    team: Option<String>,
    /// Only this user's, of the team.
    user: Option<String>,
    /// The refused ones instead of those let through.
    denied: Option<bool>,
    /// The `next_cursor` of the answer to go on from.
    cursor: Option<String>,
    /// Most calls in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// Whose one call is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// The org; every org within reach is looked through when it is left out.
    org: Option<String>,
}

/// A call in a listing.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallView {
    hold_id: Uuid,
    /// When it was let through or refused.
    #[schema(required)]
    at: Option<String>,
    /// Empty without one.
    team: String,
    /// Empty without one.
    user: String,
    provider: String,
    model: String,
    api: String,
    /// The model asked for, when a cheaper one ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    asked_model: Option<String>,
    /// Of a call let through: `settled`, `estimated`, `expired` or `repriced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cause: Option<String>,
    /// Of a call let through, the upstream's status; 0 when no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    http_status: Option<i32>,
    /// Of a call let through, what it cost with every correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cost_usd: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    denied: Option<DenialView>,
}

/// Why a call was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct DenialView {
    /// `over_budget`, `blocked` and so on.
    reason: String,
    /// What the caller was told; empty where a filter refused by itself.
    message: String,
    /// How many calls: more than one where a filter refused by itself what had just been refused.
    calls: i64,
    /// The budget that refused, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    budget: Option<DeniedBudgetView>,
}

/// The budget that refused, as it stood then.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusingBudget)]
pub struct DeniedBudgetView {
    budget_id: i64,
    /// `org`, `team` or `user`; empty where a filter refused by itself.
    tier: String,
    /// `day`, `week`, `month` or `total`; empty where a filter refused by itself.
    window: String,
    #[schema(required)]
    limit_usd: Option<String>,
    #[schema(required)]
    spent_usd: Option<String>,
    #[schema(required)]
    held_usd: Option<String>,
    /// What the call would have held.
    #[schema(required)]
    needed_usd: Option<String>,
    #[schema(required)]
    resets_at: Option<String>,
}

/// A listing, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallList {
    requests: Vec<CallView>,
    /// Where the next page begins; null when this is the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The latest calls
///
/// Those let through and charged, or with `denied=true` those refused; of an org's refusals 10,000 an hour are
/// kept one by one.
#[utoipa::path(get, path = "/v1/requests", tag = "requests", params(Asked),
    responses((status = 200, description = "The calls, the latest first.", body = CallList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<CallList>, ApiError> {
    let Query(asked) = asked?;
    let wanted = wanted(&asked, &caller)?;
    let limit = page::limit(asked.limit)?;
    // One more than is told says whether there are more.
    let wanted = Wanted { limit: limit.saturating_add(1), ..wanted };
    let mut views: Vec<(i64, CallView)> = if asked.denied == Some(true) {
        let rows = requests::denied(&state.pool, &wanted).await?;
        rows.into_iter().map(|row| (row.at_unix_us, denied_view(row))).collect()
    } else {
        let rows = requests::latest(&state.pool, &wanted).await?;
        rows.into_iter().map(|row| (row.at_unix_us, call_view(row))).collect()
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = views.len() > limit;
    views.truncate(limit);
    let last = views.last().filter(|_| more);
    let next_cursor = last.map(|(at, view)| cursor::encode(&[at.to_string(), view.hold_id.to_string()]));
    Ok(Json(CallList { requests: views.into_iter().map(|(_, view)| view).collect(), next_cursor }))
}

/// The whole story of one call
///
/// Its verdict with every budget it met, what was held, the price used, what was charged and every correction;
/// of a refused one, why.
#[utoipa::path(get, path = "/v1/requests/{hold_id}", tag = "requests", params(
    ("hold_id" = Uuid, Path, description = "As in the answer's header `x-purser-hold-id`"), Whose),
    responses((status = 200, description = "The story.", body = Story)))]
pub async fn one(
    State(state): State<AppState>,
    caller: Caller,
    Path(hold_id): Path<String>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<Story>, ApiError> {
    let Query(whose) = whose?;
    let none = || ApiError::not_found("there is no such request within reach of this token");
    let id: Uuid = hold_id.parse().map_err(|_| none())?;
    if let Some(org) = &whose.org {
        validate::name("org", org).map_err(ApiError::invalid_parameter)?;
        caller.reads_org(org)?;
    }
    let org = whose.org.as_ref().or(caller.reach.org.as_ref());
    let org = requests::org_of(&state.pool, org.map(String::as_str), id).await?.ok_or_else(none)?;
    let story = requests::story(&state.pool, &org, id).await?.ok_or_else(none)?;
    let story = story::tell(id, story);
    if caller.may_read(&Scope::new(&org, &story.team, "")) { Ok(Json(story)) } else { Err(none()) }
}

fn wanted(asked: &Asked, caller: &Caller) -> Result<Wanted, ApiError> {
    let invalid = ApiError::invalid_parameter;
    let org = asked.org.clone().or_else(|| caller.reach.org.clone());
    let org = org.ok_or_else(|| invalid("org: expected the name of one, as in org=acme".to_owned()))?;
    validate::name("org", &org).map_err(invalid)?;
    for (field, value) in [("team", &asked.team), ("user", &asked.user)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            validate::name(field, value).map_err(invalid)?;
        }
    }
    let mut team = asked.team.clone();
    if let Some(own) = caller.reads_org(&org)?.team {
        if team.as_ref().is_some_and(|team| *team != own) {
            return Err(ApiError::not_found(format!("team: this token sees team {own} alone")));
        }
        team = Some(own);
    }
    if asked.user.is_some() && team.is_none() {
        return Err(invalid("user: expected its team as well, since a user is one of a team".to_owned()));
    }
    let before = asked.cursor.as_deref().map(before).transpose().map_err(invalid)?;
    Ok(Wanted { org, team, user: asked.user.clone(), before, limit: 0 })
}

fn before(text: &str) -> Result<(i64, Uuid), String> {
    let names = cursor::decode(text, 2)?;
    let read = match names.as_slice() {
        [at, id] => at.parse().ok().zip(id.parse().ok()),
        _ => None,
    };
    // Beyond the calendar nothing lies before or after.
    read.filter(|(at, _)| instant(*at).is_some())
        .ok_or_else(|| "cursor: expected the next_cursor of an answer to the same question".to_owned())
}

/// An instant as RFC 3339.
fn instant(unix_us: i64) -> Option<String> {
    Timestamp::from_microsecond(unix_us).ok().map(|at| at.to_string())
}

fn call_view(row: CallRow) -> CallView {
    let [team, user, provider, model, api] = row.names;
    CallView {
        hold_id: row.hold_id,
        at: instant(row.at_unix_us),
        team,
        user,
        provider,
        model,
        api,
        asked_model: row.asked_model,
        cause: Some(row.cause),
        http_status: Some(row.http_status),
        cost_usd: Some(format_usd(row.cost_nanousd)),
        denied: None,
    }
}

fn denied_view(row: DenialRow) -> CallView {
    let denied = denial_view(&row);
    let [team, user, provider, model, api] = row.names;
    CallView {
        hold_id: row.hold_id,
        at: instant(row.at_unix_us),
        team,
        user,
        provider,
        model,
        api,
        asked_model: None,
        cause: None,
        http_status: None,
        cost_usd: None,
        denied: Some(denied),
    }
}

fn denial_view(row: &DenialRow) -> DenialView {
    let [limit, spent, held, needed] = row.amounts_nanousd.map(|amount| amount.map(format_usd));
    let budget = DeniedBudgetView {
        budget_id: row.budget_id,
        tier: row.tier.clone(),
        window: row.window.clone(),
        limit_usd: limit,
        spent_usd: spent,
        held_usd: held,
        needed_usd: needed,
        resets_at: row.resets_at_unix_s.and_then(crate::window::rfc3339),
    };
    DenialView {
        reason: row.reason.clone(),
        message: row.message.clone(),
        calls: row.calls,
        budget: (row.budget_id != 0).then_some(budget),
    }
}
