//! Tokens: an admin makes them, lists them, takes them back.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::place::{name, words};
use super::{ApiError, AppState, page};
use crate::access::token::{fingerprint, mint};
use crate::access::{Caller, EVERY_ORG, Reach, Role};
use crate::admin::Editor;
use crate::admin::tokens::{self, MAX_TOKENS, NewToken, TokenRow};
use crate::window::rfc3339;

/// Longest life of a token that has an end, days: ten years.
const MAX_DAYS: i32 = 3_660;

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken)]
pub struct Create {
    /// Whose it is, or what for.
    #[schema(min_length = 1, max_length = 256, example = "finance dashboard")]
    name: String,
    /// What it may.
    role: Role,
    /// The org it is for: of an editor always, of a viewer unless it sees every org; admins and filters are
    /// for every org.
    #[schema(min_length = 1, max_length = 256)]
    org: Option<String>,
    /// The team of the org it is for; the whole org without one.
    #[schema(min_length = 1, max_length = 256)]
    team: Option<String>,
    /// For how many days; until it is taken back when left out.
    #[schema(minimum = 1, maximum = 3660)]
    days: Option<i32>,
}

/// A token. Itself it is told when it is made, and never again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenView {
    token_id: i64,
    name: String,
    role: Role,
    /// `*`: every org.
    org: String,
    #[schema(required)]
    team: Option<String>,
    #[schema(required)]
    created_at: Option<String>,
    #[schema(required)]
    expires_at: Option<String>,
    #[schema(required)]
    revoked_at: Option<String>,
    /// To about a minute.
    #[schema(required)]
    last_used_at: Option<String>,
    /// The token, in the answer to its making alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token: Option<String>,
}

/// Part of a listing; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    tokens: Vec<TokenView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Makes a token. What it is, is told in the answer and nowhere else: kept is its SHA-256.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = Create,
    responses((status = 201, description = "Made.", body = TokenView)))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<TokenView>), ApiError> {
    caller.administers()?;
    let Json(body) = body?;
    let new = check(body.name, body.role, (body.org, body.team), body.days).map_err(ApiError::invalid)?;
    let none = || ApiError::unavailable("the system gives no random numbers");
    let token = mint().ok_or_else(none)?;
    let hash = fingerprint(token.as_bytes()).ok_or_else(none)?;
    let Some(row) = tokens::create(&state.pool, &editor, &new, &hash).await? else {
        return Err(ApiError::conflict(format!("{MAX_TOKENS} tokens are good already; take some back")));
    };
    Ok((StatusCode::CREATED, Json(TokenView { token: Some(token), ..view(row) })))
}

/// Checks what a token is to be.
///
/// # Errors
/// Says which field is wrong and what was expected.
pub fn check(
    token_name: String,
    role: Role,
    (org, team): (Option<String>, Option<String>),
    days: Option<i32>,
) -> Result<NewToken, String> {
    words("name", &token_name)?;
    for (field, value) in [("org", org.as_ref()), ("team", team.as_ref())] {
        let Some(value) = value else { continue };
        name(field, value)?;
        if value == EVERY_ORG {
            return Err(format!("{field}: expected the name of one; \"*\" is not"));
        }
    }
    match (role, &org, &team) {
        (Role::Admin | Role::DataPlane, Some(_), _) => {
            return Err(format!("org: a token of role {} is for every org; leave it out", role.as_str()));
        }
        (Role::Editor, None, _) => return Err("org: expected the org of the editor".to_owned()),
        (_, None, Some(_)) => return Err("team: expected an org with it; teams belong to orgs".to_owned()),
        _ => {}
    }
    if let Some(days) = days
        && !(1..=MAX_DAYS).contains(&days)
    {
        return Err(format!("days: expected 1 to {MAX_DAYS}, got {days}"));
    }
    Ok(NewToken { name: token_name, role, reach: Reach { org, team }, days })
}

/// Lists the tokens, those taken back included, by number.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(page::Page),
    responses((status = 200, description = "Part of the listing.", body = TokenList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    asked: Result<Query<page::Page>, QueryRejection>,
) -> Result<Json<TokenList>, ApiError> {
    let Query(asked) = asked?;
    caller.administers()?;
    let (after, limit) = (asked.after()?, asked.limit()?);
    let rows = tokens::page(&state.pool, after, limit.saturating_add(1)).await?;
    let (rows, next_cursor) = page::cut(rows, limit, |row| row.token_id);
    Ok(Json(TokenList { tokens: rows.into_iter().map(view).collect(), next_cursor }))
}

/// The number of a token.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "for the document alone")]
pub struct TokenId {
    /// Its number.
    #[param(example = 1)]
    token_id: i64,
}

/// Takes a token back: every replica refuses it a moment later.
#[utoipa::path(delete, path = "/v1/tokens/{token_id}", tag = "tokens", params(TokenId),
    responses((status = 204, description = "Taken back.")))]
pub async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(token_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.administers()?;
    let none = || ApiError::not_found(format!("no token {token_id} is good"));
    let number: i64 = token_id.parse().map_err(|_| none())?;
    if tokens::revoke(&state.pool, &editor, number).await? { Ok(StatusCode::NO_CONTENT) } else { Err(none()) }
}

/// A token as it is shown.
#[must_use]
pub fn view(row: TokenRow) -> TokenView {
    TokenView {
        token_id: row.token_id,
        name: row.name,
        role: row.role,
        org: row.reach.org.unwrap_or_else(|| EVERY_ORG.to_owned()),
        team: row.reach.team,
        created_at: rfc3339(row.created_at_unix_s),
        expires_at: row.expires_at_unix_s.and_then(rfc3339),
        revoked_at: row.revoked_at_unix_s.and_then(rfc3339),
        last_used_at: row.last_used_at_unix_s.and_then(rfc3339),
        token: None,
    }
}
