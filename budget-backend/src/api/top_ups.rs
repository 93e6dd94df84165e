//! Top-ups: an extra amount for the running period of a budget.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::budget_views::{BudgetView, view};
use super::budgets::{BudgetId, counter_key, editable, no_such_budget, running_period};
use super::place::{UsdText, name, words};
use super::{ApiError, AppState};
use crate::access::Caller;
use crate::admin::policies::TopUp;
use crate::admin::{self, BudgetRow, Editor, NewBudget};
use crate::budget::{EACH, Mode, Scope};

/// An extra amount for the running period.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TopUp)]
pub struct TopUpBody {
    amount_usd: UsdText,
    #[serde(default)]
    reason: String,
    /// For a `*` budget the team or user it is for.
    subject: Option<String>,
}

/// Adds to the limit of the running period; acts on the next hold.
#[utoipa::path(post, path = "/v1/budgets/{budget_id}/top-ups", tag = "budgets", params(BudgetId), request_body = TopUpBody,
    responses((status = 201, description = "Added.", body = BudgetView)))]
pub async fn top_up(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(budget_id): Path<String>,
    body: Result<Json<TopUpBody>, JsonRejection>,
) -> Result<(StatusCode, Json<BudgetView>), ApiError> {
    let Json(body) = body?;
    let none = || no_such_budget(&budget_id);
    let row = editable(&state, &caller, &budget_id).await?;
    let subject = check_subject(&row.set.scope, body.subject).map_err(ApiError::invalid)?;
    let amount_nanousd = body.amount_usd.nanousd("amount_usd").map_err(ApiError::invalid)?;
    if amount_nanousd == 0 {
        return Err(ApiError::invalid("amount_usd: expected more than nothing"));
    }
    if !body.reason.is_empty() {
        words("reason", &body.reason).map_err(ApiError::invalid)?;
    }
    refuse_if_replaced(&state, &row, &subject).await?;
    let period = running_period(&state, &row).await?;
    let top_up = TopUp { counter: counter_key(&row, &subject, period), amount_nanousd, reason: body.reason };
    match admin::policies::top_up(&state.pool, &editor, &top_up).await {
        Ok(Some(standing)) => Ok((StatusCode::CREATED, Json(view(&row, period, &standing)))),
        Ok(None) => Err(none()),
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code.starts_with("22")) => {
            Err(ApiError::invalid("amount_usd: the top-ups of this period would be beyond what fits"))
        }
        Err(error) => Err(error.into()),
    }
}

/// A top-up of one whose own budget replaces this `*` budget would do nothing, and is told so.
async fn refuse_if_replaced(state: &AppState, row: &BudgetRow, subject: &str) -> Result<(), ApiError> {
    if subject.is_empty() {
        return Ok(());
    }
    let set = &row.set;
    let own = |place: &str| if place == EACH { subject.to_owned() } else { place.to_owned() };
    let own = Scope { org: set.scope.org.clone(), team: own(&set.scope.team), user: own(&set.scope.user) };
    let (_, rows) = admin::budgets_of(&state.pool, &own.org).await?;
    let replaces = |other: &NewBudget| {
        (&other.scope, other.window, &other.models, other.mode)
            == (&own, set.window, &set.models, Mode::Enforce)
    };
    match rows.iter().find(|other| replaces(&other.set)) {
        Some(other) => Err(ApiError::conflict(format!(
            "{own} has a budget of its own, {}, which replaces this one; top that one up",
            other.budget_id
        ))),
        None => Ok(()),
    }
}

/// Whom a top-up is for: nobody in particular, but for a `*` budget one team or user.
fn check_subject(scope: &Scope, subject: Option<String>) -> Result<String, String> {
    let each = scope.team == EACH || scope.user == EACH;
    match subject {
        Some(_) if !each => Err("subject: only for a budget of each team or user".to_owned()),
        None if each => Err("subject: expected the name of the team or user to top up".to_owned()),
        Some(one) if one == EACH => Err("subject: expected the name of one".to_owned()),
        Some(one) => name("subject", &one).map(|()| one),
        None => Ok(String::new()),
    }
}
