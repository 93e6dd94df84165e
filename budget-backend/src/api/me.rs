//! `GET /v1/me`: who a caller is, and what its budgets have left.
//!
//! Who pays is what the token reaches, made narrower by `team` and `user`. A filter's token reaches everyone
//! and belongs to nobody: with it, and with an admin's, the payer is named, or found by what the workload
//! shows of itself, as a hold finds it. So a route of the mesh that adds the filter's token and the
//! workload's SPIFFE id lets apps ask for themselves.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use purser_protocol::{Claim, ClaimKind, Lookup, Payer, Tier, Window, format_usd};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, AppState, validate};
use crate::access::{Caller, Role};
use crate::admin::me::{self, Own, OwnError};
use crate::budget::{Mode, Scope};
use crate::window::rfc3339;

/// Whose budgets.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// The org that pays; may be left out with a token of one org.
    org: Option<String>,
    /// Its team; may be left out with a token of one team.
    team: Option<String>,
    /// A user of the team.
    user: Option<String>,
    /// The workload's SPIFFE id, instead of an org.
    spiffe_id: Option<String>,
    /// Its namespace, instead of an org.
    namespace: Option<String>,
    /// The fingerprint of its API key, instead of an org.
    api_key_sha256: Option<String>,
}

/// Who asks, and what is left.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// The token's name.
    name: String,
    role: Role,
    /// Where the token reaches: null for every org.
    #[schema(required)]
    reaches_org: Option<String>,
    /// Null for every team.
    #[schema(required)]
    reaches_team: Option<String>,
    /// Whose budgets these are; null when nobody was named.
    #[schema(required)]
    payer: Option<PayerView>,
    /// Every budget that calls of this payer may meet, in the order of tiers.
    budgets: Vec<OwnView>,
}

/// Who pays.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MyPayer)]
pub struct PayerView {
    org: String,
    #[schema(required)]
    team: Option<String>,
    #[schema(required)]
    user: Option<String>,
}

/// A budget that calls may meet.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MyBudget)]
pub struct OwnView {
    budget_id: i64,
    #[schema(value_type = String, example = "team")]
    tier: Tier,
    #[schema(value_type = String, example = "month")]
    window: Window,
    #[schema(value_type = String, example = "enforce")]
    mode: Mode,
    /// The models it covers; none means every model.
    models: Vec<String>,
    /// With top-ups. Null, as what is spent and held, in a tier beyond the token's reach.
    #[schema(required)]
    limit_usd: Option<String>,
    #[schema(required)]
    spent_usd: Option<String>,
    #[schema(required)]
    held_usd: Option<String>,
    /// What is neither spent nor held.
    remaining_usd: String,
    #[schema(required)]
    period_start: Option<String>,
    /// When it starts anew; null for a budget for good.
    #[schema(required)]
    resets_at: Option<String>,
}

/// Who a caller is, and what its budgets have left
///
/// With a filter's token as well: then `org`, or what the workload shows of itself, says who pays.
#[utoipa::path(get, path = "/v1/me", tag = "callers", params(Asked),
    responses((status = 200, description = "The caller and its budgets.", body = Me)))]
pub async fn me(
    State(state): State<AppState>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Me>, ApiError> {
    let Query(asked) = asked?;
    let payer = payer(&state, &caller, asked)?;
    let own = match &payer {
        Some(payer) => me::budgets_of(&state.pool, payer).await.map_err(|error| match error {
            OwnError::Database(error) => ApiError::from(error),
            OwnError::Window(error) => ApiError::unavailable(error.to_string()),
        })?,
        None => Vec::new(),
    };
    Ok(Json(Me {
        name: caller.name.clone(),
        role: caller.role,
        reaches_org: caller.reach.org.clone(),
        reaches_team: caller.reach.team.clone(),
        budgets: own.iter().map(|own| view(&caller, own)).collect(),
        payer: payer.map(|payer| PayerView { org: payer.org, team: payer.team, user: payer.user }),
    }))
}

/// Who pays; `None` when nobody is named and the token is of no org.
fn payer(state: &AppState, caller: &Caller, asked: Asked) -> Result<Option<Payer>, ApiError> {
    let claims = claims(&asked);
    let named = Payer {
        org: asked.org.or_else(|| caller.reach.org.clone().filter(|_| claims.is_empty())).unwrap_or_default(),
        team: asked.team.or_else(|| caller.reach.team.clone()),
        user: asked.user,
    };
    if named.org.is_empty() && claims.is_empty() {
        let alone = named.team.is_none() && named.user.is_none();
        return if alone {
            Ok(None)
        } else {
            Err(ApiError::invalid_parameter("org: expected the name of one"))
        };
    }
    if !named.org.is_empty() && !claims.is_empty() {
        return Err(ApiError::invalid_parameter("org: expected either an org or what a workload shows"));
    }
    let lookup = Lookup { claims, fallback: None };
    validate::who(&named, Some(&lookup)).map_err(ApiError::invalid_parameter)?;
    let payer = state.identities.borrow().resolve(&named, Some(&lookup));
    let Some(payer) = payer else { return Err(ApiError::not_found("nobody is known by these claims")) };
    if payer.user.is_some() && payer.team.is_none() {
        return Err(ApiError::invalid_parameter(
            "user: expected its team as well, since a user is one of a team",
        ));
    }
    let place = Scope::new(&payer.org, payer.team.as_deref().unwrap_or_default(), "");
    if caller.role != Role::DataPlane {
        caller.reads(&place)?;
    }
    Ok(Some(payer))
}

fn claims(asked: &Asked) -> Vec<Claim> {
    [
        (ClaimKind::SpiffeId, &asked.spiffe_id),
        (ClaimKind::ApiKeySha256, &asked.api_key_sha256),
        (ClaimKind::Namespace, &asked.namespace),
    ]
    .into_iter()
    .filter_map(|(kind, value)| Some(Claim { kind, value: value.clone()? }))
    .collect()
}

fn view(caller: &Caller, own: &Own) -> OwnView {
    let (set, standing) = (&own.row.set, &own.standing);
    let limit_nanousd = set.limit_nanousd.saturating_add(standing.topped_up_nanousd);
    let left = limit_nanousd.saturating_sub(standing.spent_nanousd).saturating_sub(standing.held_nanousd);
    // What an org has spent is what its other teams have: of it only that which its answers tell anyhow.
    let told = caller.role == Role::DataPlane || caller.reach.team.is_none() || set.scope.tier() != Tier::Org;
    let amount = |nanousd: i64| told.then(|| format_usd(nanousd));
    OwnView {
        budget_id: own.row.budget_id,
        tier: set.scope.tier(),
        window: set.window,
        mode: set.mode,
        models: set.models.names().to_vec(),
        limit_usd: amount(limit_nanousd),
        spent_usd: amount(standing.spent_nanousd),
        held_usd: amount(standing.held_nanousd),
        remaining_usd: format_usd(left),
        period_start: rfc3339(own.period.start_unix_s).filter(|_| own.period.end_unix_s.is_some()),
        resets_at: own.period.end_unix_s.and_then(rfc3339),
    }
}
