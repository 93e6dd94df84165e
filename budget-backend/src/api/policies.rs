//! Rules (kill switches, model lists, required budgets), overrides, and the audit log.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use purser_protocol::Tier;
use serde::{Deserialize, Serialize};

use super::place::{Place, actor, patterns, words};
use super::{ApiError, AppState, validate};
use crate::admin::policies::{self, AuditRow, NewOverride, OverrideRow, RuleRow};
use crate::pattern::Patterns;
use crate::window::rfc3339;

/// Longest override, minutes: whoever needs more than a day raises the budget.
const MAX_OVERRIDE_MINUTES: i32 = 24 * 60;

/// Lines of the audit log in one answer.
const AUDIT_LINES: i64 = 200;

/// Which org to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgFilter {
    org: String,
}

/// A rule of one place.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
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
    required_tiers: Vec<Tier>,
    #[serde(default, skip_serializing_if = "UnknownModels::is_ceiling")]
    unknown_models: UnknownModels,
}

/// What becomes of calls to models without a price of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Serialize)]
pub struct RuleList {
    rules: Vec<RuleBody>,
}

/// `PUT /v1/rules`: sets the rule of a place, whole; acts on the next hold.
pub async fn set_rule(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<RuleBody>, JsonRejection>,
) -> Result<Json<RuleBody>, ApiError> {
    let Json(body) = body?;
    let rule = check_rule(body).map_err(ApiError::invalid)?;
    policies::set_rule(&state.pool, &actor(&headers)?, &rule).await?;
    Ok(Json(rule_body(rule)))
}

/// `GET /v1/rules?org=…`.
pub async fn rules(
    State(state): State<AppState>,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<RuleList>, ApiError> {
    let org = org(filter)?;
    let rules = policies::rules_of(&state.pool, &org).await?;
    Ok(Json(RuleList { rules: rules.into_iter().map(rule_body).collect() }))
}

/// `DELETE /v1/rules?org=…&team=…&user=…`.
pub async fn delete_rule(
    State(state): State<AppState>,
    headers: HeaderMap,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let Query(place) = place?;
    let scope = place.scope().map_err(ApiError::invalid)?;
    if policies::delete_rule(&state.pool, &actor(&headers)?, &scope).await? {
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
    validate::name("org", &filter.org).map_err(ApiError::invalid)?;
    Ok(filter.org)
}

/// An override as an operator asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartOverride {
    org: String,
    team: Option<String>,
    user: Option<String>,
    minutes: i64,
    reason: String,
    by: String,
}

/// An override.
#[derive(Debug, Serialize)]
pub struct OverrideView {
    override_id: i64,
    #[serde(flatten)]
    place: Place,
    by: String,
    reason: String,
    created_at: Option<String>,
    expires_at: Option<String>,
    ended_at: Option<String>,
    active: bool,
}

/// A listing of overrides.
#[derive(Debug, Serialize)]
pub struct OverrideList {
    overrides: Vec<OverrideView>,
}

/// `POST /v1/overrides`: from the next hold on, and until it expires, no budget refuses the place's
/// calls. Kill switches and model lists still do.
pub async fn start_override(
    State(state): State<AppState>,
    body: Result<Json<StartOverride>, JsonRejection>,
) -> Result<(StatusCode, Json<OverrideView>), ApiError> {
    let Json(body) = body?;
    let new = check_override(body).map_err(ApiError::invalid)?;
    let row = policies::create_override(&state.pool, &new).await?;
    tracing::warn!(override_id = row.override_id, scope = %row.scope, "budgets are overridden");
    Ok((StatusCode::CREATED, Json(override_view(row))))
}

/// `DELETE /v1/overrides/{override_id}`: ends it early.
pub async fn end_override(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(override_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let none = || ApiError::not_found(format!("no override {override_id} is in force"));
    let number: i64 = override_id.parse().map_err(|_| none())?;
    if policies::end_override(&state.pool, &actor(&headers)?, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

/// `GET /v1/overrides?org=…`: latest first, ended ones included.
pub async fn overrides(
    State(state): State<AppState>,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<OverrideList>, ApiError> {
    let rows = policies::overrides_of(&state.pool, &org(filter)?).await?;
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

/// Which part of the audit log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditFilter {
    org: String,
    before: Option<i64>,
}

/// A line of the audit log.
#[derive(Debug, Serialize)]
pub struct AuditView {
    audit_id: i64,
    at: Option<String>,
    actor: String,
    action: String,
    object: String,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
}

/// Part of the audit log; `next_before` continues it.
#[derive(Debug, Serialize)]
pub struct AuditList {
    audit: Vec<AuditView>,
    next_before: Option<i64>,
}

/// `GET /v1/audit?org=…[&before=…]`: every edit, latest first.
pub async fn audit(
    State(state): State<AppState>,
    filter: Result<Query<AuditFilter>, QueryRejection>,
) -> Result<Json<AuditList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid)?;
    let before = filter.before.unwrap_or(i64::MAX);
    let rows = policies::audit_of(&state.pool, &filter.org, before, AUDIT_LINES).await?;
    let full = i64::try_from(rows.len()).is_ok_and(|lines| lines == AUDIT_LINES);
    let next_before = rows.last().filter(|_| full).map(|row| row.audit_id);
    Ok(Json(AuditList { audit: rows.into_iter().map(audit_view).collect(), next_before }))
}

fn audit_view(row: AuditRow) -> AuditView {
    AuditView {
        audit_id: row.audit_id,
        at: rfc3339(row.at_unix_s),
        actor: row.actor,
        action: row.action,
        object: row.object,
        before: row.before,
        after: row.after,
    }
}
