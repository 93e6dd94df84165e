//! Identities: make one known, list those of an org, forget one.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use purser_protocol::{ClaimKind, Payer};
use serde::{Deserialize, Serialize};

use super::place::{actor, name};
use super::{ApiError, AppState, validate};
use crate::admin::identities::{self, IdentityRow};
use crate::identity::{claim, kind_from_name};
use crate::window::rfc3339;

/// Rows of one answer, when nothing else is asked.
const PAGE_ROWS: i64 = 200;

/// Most rows of one answer.
const MAX_PAGE_ROWS: i64 = 1_000;

/// An identity as an operator makes it known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    kind: String,
    value: String,
    org: String,
    team: Option<String>,
    user: Option<String>,
}

/// Which identities to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    org: String,
    kind: Option<String>,
    after: Option<i64>,
    limit: Option<i64>,
}

/// An identity.
#[derive(Debug, Serialize)]
pub struct IdentityView {
    identity_id: i64,
    kind: &'static str,
    value: String,
    #[serde(flatten)]
    payer: Payer,
    created_at: Option<String>,
}

/// Part of a listing; `next_after` continues it.
#[derive(Debug, Serialize)]
pub struct IdentityList {
    identities: Vec<IdentityView>,
    next_after: Option<i64>,
}

/// `POST /v1/identities`: every replica knows it a moment later.
pub async fn create(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<IdentityView>), ApiError> {
    let Json(body) = body?;
    let kind = kind(&body.kind)?;
    let claim = claim(kind, &body.value).map_err(ApiError::invalid)?;
    let payer = payer(body).map_err(ApiError::invalid)?;
    match identities::create(&state.pool, &actor(&headers)?, &claim, &payer).await? {
        Some(row) => Ok((StatusCode::CREATED, Json(view(row)))),
        None => Err(ApiError::conflict(
            "an identity of this kind and value exists; DELETE /v1/identities/{identity_id} forgets it",
        )),
    }
}

/// `GET /v1/identities?org=…[&kind=…][&after=…][&limit=…]`: by number.
pub async fn list(
    State(state): State<AppState>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<IdentityList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid)?;
    let kind = filter.kind.as_deref().map(kind).transpose()?;
    let limit = filter.limit.unwrap_or(PAGE_ROWS);
    if !(1..=MAX_PAGE_ROWS).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: expected 1 to {MAX_PAGE_ROWS}, got {limit}")));
    }
    let after = filter.after.unwrap_or_default();
    let rows = identities::page(&state.pool, &filter.org, kind, after, limit).await?;
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let next_after = rows.last().filter(|_| full).map(|row| row.identity_id);
    Ok(Json(IdentityList { identities: rows.into_iter().map(view).collect(), next_after }))
}

/// `DELETE /v1/identities/{identity_id}`: it names nobody any more; calls of the past keep their payer.
pub async fn archive(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(identity_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let none = || ApiError::not_found(format!("there is no identity {identity_id}"));
    let number: i64 = identity_id.parse().map_err(|_| none())?;
    if identities::archive(&state.pool, &actor(&headers)?, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

fn kind(name: &str) -> Result<ClaimKind, ApiError> {
    kind_from_name(name)
        .ok_or_else(|| ApiError::invalid("kind: expected api_key_sha256, spiffe_id or namespace"))
}

fn payer(body: Create) -> Result<Payer, String> {
    let payer = Payer { org: body.org, team: body.team, user: body.user };
    for (field, value) in
        [("org", Some(&payer.org)), ("team", payer.team.as_ref()), ("user", payer.user.as_ref())]
    {
        let Some(value) = value else { continue };
        name(field, value)?;
        if value == "*" {
            return Err(format!("{field}: expected the name of one; \"*\" is not"));
        }
    }
    if payer.user.is_some() && payer.team.is_none() {
        return Err("user: expected a team with it; users belong to teams".to_owned());
    }
    Ok(payer)
}

fn view(row: IdentityRow) -> IdentityView {
    IdentityView {
        identity_id: row.identity_id,
        kind: row.claim.kind.as_str(),
        value: row.claim.value,
        payer: row.payer,
        created_at: rfc3339(row.created_at_unix_s),
    }
}
