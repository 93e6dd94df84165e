//! `GET /v1/audit`: who edited what, when, and what it was before.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, AppState, page, validate};
use crate::access::{Caller, EVERY_ORG};
use crate::admin::audit::{self, Asked, AuditRow};
use crate::budget::Scope;
use crate::window::rfc3339;

/// Which part of the audit log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    /// The org; `*` for what concerns every org, such as an admin's tokens.
    #[param(example = "acme")]
    org: String,
    /// Edits of what is this team's alone.
    team: Option<String>,
    /// Edits by whom, as the log names them.
    actor: Option<String>,
    /// `insert`, `update` or `delete`.
    action: Option<String>,
    /// The kind of thing edited, by its table, such as `budgets`.
    object: Option<String>,
    /// From this instant on, RFC 3339.
    from: Option<String>,
    /// Before this instant.
    to: Option<String>,
    /// The `next_cursor` of the part before.
    cursor: Option<String>,
    /// Most rows in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// An edit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Edit)]
pub struct AuditView {
    audit_id: i64,
    #[schema(required)]
    at: Option<String>,
    actor: String,
    action: String,
    object: String,
    /// The row before; none for one that was made.
    #[schema(required, value_type = Option<Object>)]
    before: Option<serde_json::Value>,
    /// The row after; none for one that was deleted.
    #[schema(required, value_type = Option<Object>)]
    after: Option<serde_json::Value>,
}

/// Part of the audit log; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub struct AuditList {
    audit: Vec<AuditView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Lists every edit, the latest first.
#[utoipa::path(get, path = "/v1/audit", tag = "looking closer", params(AuditFilter),
    responses((status = 200, description = "Part of the log.", body = AuditList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<AuditFilter>, QueryRejection>,
) -> Result<Json<AuditList>, ApiError> {
    let Query(filter) = filter?;
    let limit = page::limit(filter.limit)?;
    let asked = check(&caller, filter, limit.saturating_add(1))?;
    let rows = audit::page(&state.pool, &asked).await?;
    let (rows, next_cursor) = page::cut(rows, limit, |row| row.audit_id);
    Ok(Json(AuditList { audit: rows.into_iter().map(view).collect(), next_cursor }))
}

fn check(caller: &Caller, filter: AuditFilter, limit: i64) -> Result<Asked, ApiError> {
    for (field, value) in [
        ("org", Some(&filter.org)),
        ("team", filter.team.as_ref()),
        ("actor", filter.actor.as_ref()),
        ("action", filter.action.as_ref()),
        ("object", filter.object.as_ref()),
    ] {
        value.map_or(Ok(()), |value| validate::name(field, value)).map_err(ApiError::invalid_parameter)?;
    }
    if filter.org == EVERY_ORG {
        caller.administers()?;
    }
    let seen = caller.reads_org(&filter.org)?;
    if let Some(team) = filter.team.as_ref().filter(|_| seen.team.is_some()) {
        caller.reads(&Scope::new(&filter.org, team, ""))?;
    }
    Ok(Asked {
        before: page::number(filter.cursor.as_deref())?.unwrap_or(i64::MAX),
        from_unix_us: instant("from", filter.from.as_deref())?,
        to_unix_us: instant("to", filter.to.as_deref())?,
        org: filter.org,
        team: seen.team.or(filter.team),
        actor: filter.actor,
        action: filter.action,
        object: filter.object,
        limit,
    })
}

fn instant(field: &str, text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let instant: Result<Timestamp, _> = text.parse();
    let expected = || format!("{field}: expected an instant, as in 2026-11-23T12:00:00Z");
    instant.map(|at| Some(at.as_microsecond())).map_err(|_| ApiError::invalid_parameter(expected()))
}

fn view(row: AuditRow) -> AuditView {
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
