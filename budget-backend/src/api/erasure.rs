//! `POST /v1/erasures`: takes a user's name out of what calls leave behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, AppState, validate};
use crate::access::Caller;
use crate::admin::Editor;
use crate::admin::erasure::{Erasure, erase};

/// Whose name is to go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewErasure)]
pub struct Create {
    #[schema(min_length = 1, max_length = 256)]
    org: String,
    /// Of this team alone; of every team of the org without one.
    #[schema(min_length = 1, max_length = 256)]
    team: Option<String>,
    #[schema(min_length = 1, max_length = 256)]
    user: String,
}

/// What was erased.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Erasure)]
pub struct ErasureView {
    org: String,
    #[schema(required)]
    team: Option<String>,
    /// The name in its place; null when nothing told of this user.
    #[schema(required)]
    pseudonym: Option<String>,
    /// Rows changed, by table.
    rows: BTreeMap<String, i64>,
}

/// Erases a user's name
///
/// From the ledger, the rollups, verdicts, refusals, holds, counters and alerts; amounts and times stay, under a
/// made-up name that is kept nowhere beside the old one. What operators wrote themselves (budgets, rules,
/// identities, the audit log) stays as they wrote it. A second time there is nothing left to erase. Calls that come
/// afterwards leave the name again. Admins only.
#[utoipa::path(post, path = "/v1/erasures", tag = "callers", request_body = Create,
    responses((status = 200, description = "Erased, or nothing told of this user.", body = ErasureView)))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<Json<ErasureView>, ApiError> {
    caller.administers()?;
    let Json(body) = body?;
    for (field, value) in [("org", Some(&body.org)), ("team", body.team.as_ref()), ("user", Some(&body.user))]
    {
        let Some(value) = value else { continue };
        validate::name(field, value).map_err(ApiError::invalid)?;
        if value == crate::budget::EACH {
            return Err(ApiError::invalid(format!("{field}: expected the name of one")));
        }
    }
    let erasure = Erasure { org: body.org, team: body.team, user: body.user, pseudonym: pseudonym()? };
    let erased = erase(&state.pool, &editor, &erasure).await?;
    let found = erased.rows() > 0;
    Ok(Json(ErasureView {
        org: erasure.org,
        team: erasure.team,
        pseudonym: found.then_some(erasure.pseudonym),
        rows: erased.0.into_iter().map(|(table, rows)| (table.to_owned(), rows)).collect(),
    }))
}

/// A name that tells nothing and that nobody has.
fn pseudonym() -> Result<String, ApiError> {
    let mut bytes = [0_u8; 12];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| ApiError::unavailable("the system gives no random numbers"))?;
    Ok(bytes.iter().fold("erased-".to_owned(), |mut name, byte| {
        // Writing into a text can't fail.
        let _written = write!(name, "{byte:02x}");
        name
    }))
}
