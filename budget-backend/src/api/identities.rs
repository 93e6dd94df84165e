//! Identities: make one known, list those of an org, forget one.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use purser_protocol::{ClaimKind, Payer};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::openapi::PayerView;
use super::place::name;
use super::{ApiError, AppState, page, validate};
use crate::access::Caller;
use crate::admin::Editor;
use crate::admin::identities::{self, IdentityRow};
use crate::budget::Scope;
use crate::identity::{claim, kind_from_name};
use crate::window::rfc3339;

/// An identity as an operator makes it known.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewIdentity)]
pub struct Create {
    /// `api_key_sha256`, `spiffe_id` or `namespace`.
    kind: String,
    value: String,
    org: String,
    team: Option<String>,
    user: Option<String>,
}

/// Which identities to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// The org.
    #[param(example = "acme")]
    org: String,
    /// `api_key_sha256`, `spiffe_id` or `namespace`.
    kind: Option<String>,
    /// The `next_cursor` of the part before.
    cursor: Option<String>,
    /// Most rows in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// An identity.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Identity)]
pub struct IdentityView {
    identity_id: i64,
    kind: &'static str,
    value: String,
    #[serde(flatten)]
    #[schema(value_type = PayerView, inline)]
    payer: Payer,
    #[schema(required)]
    created_at: Option<String>,
}

/// Part of a listing; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
pub struct IdentityList {
    identities: Vec<IdentityView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Makes an identity known: every replica knows it a moment later.
#[utoipa::path(post, path = "/v1/identities", tag = "callers", request_body = Create,
    responses((status = 201, description = "Known.", body = IdentityView)))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<IdentityView>), ApiError> {
    let Json(body) = body?;
    let kind = kind(&body.kind)?;
    let claim = claim(kind, &body.value).map_err(ApiError::invalid)?;
    let payer = payer(body).map_err(ApiError::invalid)?;
    caller.edits(&place_of(&payer))?;
    match identities::create(&state.pool, &editor, &claim, &payer).await? {
        Some(row) => Ok((StatusCode::CREATED, Json(view(row)))),
        None => Err(ApiError::conflict(
            "an identity of this kind and value exists; DELETE /v1/identities/{identity_id} forgets it",
        )),
    }
}

/// Lists who is known by what, by number.
#[utoipa::path(get, path = "/v1/identities", tag = "callers", params(Filter),
    responses((status = 200, description = "Part of the listing.", body = IdentityList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<IdentityList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid_parameter)?;
    let seen = caller.reads_org(&filter.org)?;
    let kind = filter.kind.as_deref().map(kind).transpose()?;
    let limit = page::limit(filter.limit)?;
    let after = page::number(filter.cursor.as_deref())?.unwrap_or_default();
    let whose = (filter.org.as_str(), seen.team.as_deref());
    let rows = identities::page(&state.pool, whose, kind, after, limit.saturating_add(1)).await?;
    let (rows, next_cursor) = page::cut(rows, limit, |row| row.identity_id);
    Ok(Json(IdentityList { identities: rows.into_iter().map(view).collect(), next_cursor }))
}

/// The number of an identity.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "for the document alone")]
pub struct IdentityId {
    /// Its number.
    #[param(example = 1)]
    identity_id: i64,
}

/// Makes an identity name nobody any more; calls of the past keep their payer.
#[utoipa::path(delete, path = "/v1/identities/{identity_id}", tag = "callers", params(IdentityId),
    responses((status = 204, description = "Forgotten.")))]
pub async fn archive(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(identity_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let none = || ApiError::not_found(format!("there is no identity {identity_id}"));
    let number: i64 = identity_id.parse().map_err(|_| none())?;
    let payer = identities::payer(&state.pool, number).await?.ok_or_else(none)?;
    if !caller.may_edit(&place_of(&payer)) {
        return Err(none());
    }
    if identities::archive(&state.pool, &editor, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

fn place_of(payer: &Payer) -> Scope {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    Scope { org: payer.org.clone(), team: name(&payer.team), user: name(&payer.user) }
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
