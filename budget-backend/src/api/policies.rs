//! Rules (kill switches, model lists, required budgets) and overrides.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use purser_protocol::Tier;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::TierName;
use super::place::{Place, patterns, words};
use super::{ApiError, AppState, validate};
use crate::access::Caller;
use crate::admin::Editor;
use crate::admin::policies::{self, NewOverride, OverrideRow, RuleRow};
use crate::pattern::Patterns;
use crate::window::rfc3339;

/// Longest override, minutes: whoever needs more than a day raises the budget.
const MAX_OVERRIDE_MINUTES: i32 = 24 * 60;

/// Which org to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OrgFilter {
    /// The org.
    #[param(example = "acme")]
    org: String,
}

/// A rule of one place.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rule)]
pub struct RuleBody {
    org: String,
    team: Option<String>,
    user: Option<String>,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    allowed_models: Vec<String>,
    #[serde(default)]
    denied_models: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Vec<TierName>)]
    required_tiers: Vec<Tier>,
    #[serde(default, skip_serializing_if = "UnknownModels::is_ceiling")]
    unknown_models: UnknownModels,
}

/// What becomes of calls to models without a price of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownModels {
    /// They are charged at the dearest known rate.
    #[default]
    Ceiling,
    /// They are refused.
    Deny,
}

impl UnknownModels {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    const fn is_ceiling(&self) -> bool {
        matches!(self, Self::Ceiling)
    }
}

/// A listing of rules.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleList {
    rules: Vec<RuleBody>,
}

/// Sets the rule of a place, whole; acts on the next hold.
#[utoipa::path(put, path = "/v1/rules", tag = "rules", request_body = RuleBody,
    responses((status = 200, description = "Set.", body = RuleBody)))]
pub async fn set_rule(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<RuleBody>, JsonRejection>,
) -> Result<Json<RuleBody>, ApiError> {
    let Json(body) = body?;
    let rule = check_rule(body).map_err(ApiError::invalid)?;
    caller.edits(&rule.scope)?;
    policies::set_rule(&state.pool, &editor, &rule).await?;
    Ok(Json(rule_body(rule)))
}

/// Lists the rules of an org.
#[utoipa::path(get, path = "/v1/rules", tag = "rules", params(OrgFilter),
    responses((status = 200, description = "The rules.", body = RuleList)))]
pub async fn rules(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<RuleList>, ApiError> {
    let org = org(filter)?;
    let seen = caller.reads_org(&org)?;
    let rules = policies::rules_of(&state.pool, &org, seen.team.as_deref()).await?;
    Ok(Json(RuleList { rules: rules.into_iter().map(rule_body).collect() }))
}

/// Takes the rule of a place away.
#[utoipa::path(delete, path = "/v1/rules", tag = "rules", params(Place),
    responses((status = 204, description = "Taken away.")))]
pub async fn delete_rule(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Query(place) = place?;
    let scope = place.scope().map_err(ApiError::invalid_parameter)?;
    caller.edits(&scope)?;
    if policies::delete_rule(&state.pool, &editor, &scope).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(format!("{scope} has no rule")))
    }
}

fn check_rule(body: RuleBody) -> Result<RuleRow, String> {
    let scope = Place { org: body.org, team: body.team, user: body.user }.scope()?;
    if !body.reason.is_empty() {
        words("reason", &body.reason)?;
    }
    if !body.required_tiers.is_empty() && scope.tier() != Tier::Org {
        return Err(
            "required_tiers: may stand on the org's own rule only; leave team and user out".to_owned()
        );
    }
    if body.unknown_models == UnknownModels::Deny && scope.tier() != Tier::Org {
        return Err(
            "unknown_models: may stand on the org's own rule only; leave team and user out".to_owned()
        );
    }
    Ok(RuleRow {
        scope,
        blocked: body.blocked,
        reason: body.reason,
        allowed_models: patterns("allowed_models", body.allowed_models)?,
        denied_models: patterns("denied_models", body.denied_models)?,
        required_tiers: body.required_tiers.iter().map(|tier| tier.as_str().to_owned()).collect(),
        deny_unknown_models: body.unknown_models == UnknownModels::Deny,
    })
}

fn rule_body(rule: RuleRow) -> RuleBody {
    let Place { org, team, user } = Place::from(&rule.scope);
    let tier =
        |name: &String| [Tier::Org, Tier::Team, Tier::User].into_iter().find(|tier| tier.as_str() == name);
    let names = |patterns: Patterns| patterns.names().to_vec();
    RuleBody {
        org,
        team,
        user,
        blocked: rule.blocked,
        reason: rule.reason,
        allowed_models: names(rule.allowed_models),
        denied_models: names(rule.denied_models),
        required_tiers: rule.required_tiers.iter().filter_map(tier).collect(),
        unknown_models: if rule.deny_unknown_models { UnknownModels::Deny } else { UnknownModels::Ceiling },
    }
}

fn org(filter: Result<Query<OrgFilter>, QueryRejection>) -> Result<String, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid_parameter)?;
    Ok(filter.org)
}

/// An override as an operator asks for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOverride)]
pub struct StartOverride {
    org: String,
    team: Option<String>,
    user: Option<String>,
    #[schema(minimum = 1, maximum = 1440)]
    minutes: i64,
    reason: String,
    by: String,
}

/// An override.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Override)]
pub struct OverrideView {
    override_id: i64,
    #[serde(flatten)]
    #[schema(value_type = super::openapi::PayerView, inline)]
    place: Place,
    by: String,
    reason: String,
    #[schema(required)]
    created_at: Option<String>,
    #[schema(required)]
    expires_at: Option<String>,
    #[schema(required)]
    ended_at: Option<String>,
    active: bool,
}

/// A listing of overrides.
#[derive(Debug, Serialize, ToSchema)]
pub struct OverrideList {
    overrides: Vec<OverrideView>,
}

/// Starts an override: from the next hold on, and until it expires, no budget refuses the place's calls.
/// Kill switches and model lists still do.
#[utoipa::path(post, path = "/v1/overrides", tag = "rules", request_body = StartOverride,
    responses((status = 201, description = "Started.", body = OverrideView)))]
pub async fn start_override(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<StartOverride>, JsonRejection>,
) -> Result<(StatusCode, Json<OverrideView>), ApiError> {
    let Json(body) = body?;
    let new = check_override(body).map_err(ApiError::invalid)?;
    caller.edits(&new.scope)?;
    // Whoever breaks the glass signs for it.
    let editor = Editor { name: caller.signature(Some(&new.created_by)), ..editor };
    let row = policies::create_override(&state.pool, &editor, &new).await?;
    tracing::warn!(override_id = row.override_id, scope = %row.scope, "budgets are overridden");
    Ok((StatusCode::CREATED, Json(override_view(row))))
}

/// The number of an override.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "for the document alone")]
pub struct OverrideId {
    /// Its number.
    #[param(example = 1)]
    override_id: i64,
}

/// Ends an override early.
#[utoipa::path(delete, path = "/v1/overrides/{override_id}", tag = "rules", params(OverrideId),
    responses((status = 204, description = "Ended.")))]
pub async fn end_override(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(override_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let none = || ApiError::not_found(format!("no override {override_id} is in force"));
    let number: i64 = override_id.parse().map_err(|_| none())?;
    let scope = policies::override_scope(&state.pool, number).await?.ok_or_else(none)?;
    if !caller.may_edit(&scope) {
        return Err(none());
    }
    if policies::end_override(&state.pool, &editor, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

/// Lists the overrides of an org, the latest first, ended ones included.
#[utoipa::path(get, path = "/v1/overrides", tag = "rules", params(OrgFilter),
    responses((status = 200, description = "The overrides.", body = OverrideList)))]
pub async fn overrides(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<OverrideList>, ApiError> {
    let org = org(filter)?;
    let seen = caller.reads_org(&org)?;
    let rows = policies::overrides_of(&state.pool, &org, seen.team.as_deref()).await?;
    Ok(Json(OverrideList { overrides: rows.into_iter().map(override_view).collect() }))
}

fn check_override(body: StartOverride) -> Result<NewOverride, String> {
    let scope = Place { org: body.org, team: body.team, user: body.user }.scope()?;
    words("reason", &body.reason)?;
    words("by", &body.by)?;
    let minutes = i32::try_from(body.minutes)
        .ok()
        .filter(|minutes| (1..=MAX_OVERRIDE_MINUTES).contains(minutes))
        .ok_or_else(|| format!("minutes: expected 1 to {MAX_OVERRIDE_MINUTES}, got {}", body.minutes))?;
    Ok(NewOverride { scope, created_by: body.by, reason: body.reason, minutes })
}

fn override_view(row: OverrideRow) -> OverrideView {
    OverrideView {
        override_id: row.override_id,
        place: Place::from(&row.scope),
        by: row.created_by,
        reason: row.reason,
        created_at: rfc3339(row.created_at_unix_s),
        expires_at: rfc3339(row.expires_at_unix_s),
        ended_at: row.ended_at_unix_s.and_then(rfc3339),
        active: row.active,
    }
}
