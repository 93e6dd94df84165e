//! Budgets: make one, read one, list them with what they stand at, change one, archive one.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::budget_terms::{Create, LIMIT, check, checked};
use super::budget_views::{BudgetList, BudgetView, listing, one};
use super::error::Problem;
use super::ladder::LadderBody;
use super::place::UsdText;
use super::{ApiError, AppState, page, validate};
use crate::access::Caller;
use crate::admin::budgets::{self, BudgetChange, Changed, Expected, Listed};
use crate::admin::{self, BudgetRow, Editor};
use crate::budget::{EACH, Mode, Scope, zone_or_utc};
use crate::ledger::decide::{CounterKey, CounterRef};
use crate::ledger::store::insert_counters;
use crate::window::{Period, period};

/// Most revisions that one `If-Match` may name.
const MAX_ETAGS: usize = 16;

/// A change of a budget; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetChange)]
pub struct Change {
    limit_usd: Option<UsdText>,
    mode: Option<Mode>,
    strict: Option<bool>,
    /// Whole: a step that is left out is off.
    ladder: Option<LadderBody>,
}

/// Which budgets to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// The org.
    #[param(example = "acme")]
    org: String,
    /// This team's alone, and what each team gets.
    team: Option<String>,
    /// This user's alone, and what each user gets.
    user: Option<String>,
    /// Archived ones as well.
    #[serde(default)]
    #[param(required = false)]
    archived: bool,
    /// The `next_cursor` of the part before.
    cursor: Option<String>,
    /// Most rows in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// The number of a budget.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "for the document alone")]
pub struct BudgetId {
    /// Its number.
    #[param(example = 1)]
    budget_id: i64,
}

/// What an edit expects of what it edits.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "for the document alone")]
pub struct IfMatch {
    /// The `ETag` of the budget as it was read; `*` for whatever it is by now.
    #[param(rename = "If-Match")]
    if_match: String,
}

/// Makes a budget. A new one starts from what its running period has already spent.
#[utoipa::path(post, path = "/v1/budgets", tag = "budgets", request_body = Create,
    responses((status = 201, description = "Made.", body = BudgetView, headers(("ETag", description = "Its revision.")))))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<Response, ApiError> {
    let (org, terms) = body?.0.split();
    let budget = check(&org, terms, &state).map_err(ApiError::invalid)?;
    caller.edits(&budget.scope)?;
    let Some(row) = budgets::create(&state.pool, &editor, &budget).await? else {
        return Err(same_budget());
    };
    count_from_now(&state, &row).await?;
    answer(&state, StatusCode::CREATED, row).await
}

/// Reads a budget, active or archived, with what it stands at.
#[utoipa::path(get, path = "/v1/budgets/{budget_id}", tag = "budgets", params(BudgetId),
    responses((status = 200, description = "The budget.", body = BudgetView, headers(("ETag", description = "Its revision.")))))]
pub async fn read(
    State(state): State<AppState>,
    caller: Caller,
    Path(budget_id): Path<String>,
) -> Result<Response, ApiError> {
    let row = visible(&state, &caller, &budget_id).await?;
    answer(&state, StatusCode::OK, row).await
}

/// Changes a budget: acts on the next hold at every replica, and never touches what was spent.
#[utoipa::path(patch, path = "/v1/budgets/{budget_id}", tag = "budgets", params(BudgetId, IfMatch), request_body = Change,
    responses((status = 200, description = "Changed.", body = BudgetView, headers(("ETag", description = "Its revision."))),
        (status = 409, description = "Another budget would be the same.", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "It was changed meanwhile.", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`If-Match` is missing.", body = Problem, content_type = "application/problem+json")))]
pub async fn change(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(budget_id): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(change) = body?;
    let change = BudgetChange {
        limit_nanousd: change
            .limit_usd
            .map(|usd| usd.nanousd(LIMIT))
            .transpose()
            .map_err(ApiError::invalid)?,
        mode: change.mode,
        strict: change.strict,
        ladder: change.ladder.map(|ladder| checked(ladder, &state)).transpose().map_err(ApiError::invalid)?,
    };
    let changes_nothing = change.limit_nanousd.is_none()
        && change.mode.is_none()
        && change.strict.is_none()
        && change.ladder.is_none();
    if changes_nothing {
        return Err(ApiError::invalid("expected one of limit_usd, mode, strict, ladder"));
    }
    let row = editable(&state, &caller, &budget_id).await?;
    let expected = expected(&headers, row.budget_id)?;
    let changed = budgets::change(&state.pool, &editor, row.budget_id, &change, &expected).await?;
    answer(&state, StatusCode::OK, after(changed, &budget_id)?).await
}

/// Archives a budget: it stops counting; its history stays.
#[utoipa::path(delete, path = "/v1/budgets/{budget_id}", tag = "budgets", params(BudgetId, IfMatch),
    responses((status = 204, description = "Archived."),
        (status = 412, description = "It was changed meanwhile.", body = Problem, content_type = "application/problem+json"),
        (status = 428, description = "`If-Match` is missing.", body = Problem, content_type = "application/problem+json")))]
pub async fn archive(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(budget_id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let row = editable(&state, &caller, &budget_id).await?;
    let expected = expected(&headers, row.budget_id)?;
    after(budgets::archive(&state.pool, &editor, row.budget_id, &expected).await?, &budget_id)?;
    Ok(StatusCode::NO_CONTENT)
}

fn after(changed: Changed, budget_id: &str) -> Result<BudgetRow, ApiError> {
    match changed {
        Changed::To(row) => Ok(*row),
        Changed::Missing => Err(no_such_budget(budget_id)),
        Changed::Clash => Err(same_budget()),
        Changed::Meanwhile => Err(ApiError::changed_meanwhile(format!(
            "If-Match: budget {budget_id} was changed meanwhile; read it again for its ETag"
        ))),
    }
}

fn same_budget() -> ApiError {
    ApiError::conflict(
        "an active budget for this place, window, time zone, mode and models exists; PATCH /v1/budgets/{budget_id} changes it",
    )
}

pub(super) fn no_such_budget(budget_id: impl std::fmt::Display) -> ApiError {
    ApiError::not_found(format!("there is no active budget {budget_id}"))
}

/// A budget of this caller's, active or archived; what is another's is as if it did not exist.
pub(super) async fn visible(
    state: &AppState,
    caller: &Caller,
    budget_id: &str,
) -> Result<BudgetRow, ApiError> {
    let none = || ApiError::not_found(format!("there is no budget {budget_id}"));
    let number: i64 = budget_id.parse().map_err(|_| none())?;
    let row = budgets::find(&state.pool, number).await?.ok_or_else(none)?;
    if caller.may_read(&row.set.scope) { Ok(row) } else { Err(none()) }
}

/// The same of an active one that this caller may edit.
pub(super) async fn editable(
    state: &AppState,
    caller: &Caller,
    budget_id: &str,
) -> Result<BudgetRow, ApiError> {
    caller.edits_anything()?;
    let row = visible(state, caller, budget_id).await.ok().filter(|row| row.archived_at_unix_s.is_none());
    row.filter(|row| caller.may_edit(&row.set.scope)).ok_or_else(|| no_such_budget(budget_id))
}

/// What a budget is known by for `If-Match`: what was set, not what it stands at.
fn etag(row: &BudgetRow) -> String {
    format!("\"{}-{}\"", row.budget_id, row.revision)
}

/// The revisions of a budget that an `If-Match` names.
fn expected(headers: &HeaderMap, budget_id: i64) -> Result<Expected, ApiError> {
    let Some(given) = headers.get(header::IF_MATCH) else {
        return Err(ApiError::precondition_required(
            "If-Match: expected the budget's ETag, or * to edit whatever it is by now",
        ));
    };
    let given = given.to_str().unwrap_or_default().trim();
    if given == "*" {
        return Ok(None);
    }
    let start = format!("\"{budget_id}-");
    let revision = |tag: &str| tag.trim().strip_prefix(&start)?.strip_suffix('"')?.parse().ok();
    Ok(Some(given.split(',').take(MAX_ETAGS).filter_map(revision).collect()))
}

pub(super) async fn answer(
    state: &AppState,
    status: StatusCode,
    row: BudgetRow,
) -> Result<Response, ApiError> {
    let etag = etag(&row);
    let view: BudgetView = one(state, row).await?;
    let headers: [(HeaderName, String); 1] = [(header::ETAG, etag)];
    Ok((status, headers, Json(view)).into_response())
}

/// Lists the budgets of an org with what they stand at; those counted under a `*` budget as well.
#[utoipa::path(get, path = "/v1/budgets", tag = "budgets", params(Filter),
    responses((status = 200, description = "Part of the listing.", body = BudgetList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<BudgetList>, ApiError> {
    let Query(filter) = filter?;
    for (field, value) in
        [("org", Some(&filter.org)), ("team", filter.team.as_ref()), ("user", filter.user.as_ref())]
    {
        value.map_or(Ok(()), |value| validate::name(field, value)).map_err(ApiError::invalid_parameter)?;
    }
    let seen = caller.reads_org(&filter.org)?;
    if let (Some(own), Some(asked)) = (&seen.team, &filter.team)
        && own != asked
    {
        caller.reads(&Scope::new(&filter.org, asked, ""))?;
    }
    let listed = Listed {
        org: filter.org,
        team: seen.team.or(filter.team),
        user: filter.user,
        archived: filter.archived,
        from_id: 0,
        limit: page::limit(filter.limit)?,
    };
    Ok(Json(listing(&state, listed, filter.cursor.as_deref()).await?))
}

/// Makes the running period's counter, so that the budget shows at once what its period has spent. The
/// first hold would make it as well; a `*` budget's counters wait for their subjects.
pub(super) async fn count_from_now(state: &AppState, row: &BudgetRow) -> Result<(), ApiError> {
    let scope = &row.set.scope;
    if scope.team == EACH || scope.user == EACH {
        return Ok(());
    }
    let key = counter_key(row, "", running_period(state, row).await?);
    Ok(insert_counters(&state.pool, &[key].into()).await?)
}

pub(super) async fn running_period(state: &AppState, row: &BudgetRow) -> Result<Period, ApiError> {
    period_at(row, admin::now_unix_s(&state.pool).await?)
}

pub(super) fn period_at(row: &BudgetRow, at_unix_s: i64) -> Result<Period, ApiError> {
    let zone = zone_or_utc(row.budget_id, &row.set.time_zone);
    period(row.set.window, &zone, at_unix_s).map_err(|error| ApiError::unavailable(error.to_string()))
}

pub(super) fn counter_key(row: &BudgetRow, subject: &str, period: Period) -> CounterKey {
    let counter = CounterRef {
        budget_id: row.budget_id,
        subject: subject.to_owned(),
        period_start_unix_s: period.start_unix_s,
    };
    CounterKey { org: row.set.scope.org.clone(), counter }
}
