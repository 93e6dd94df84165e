//! `PUT /v1/budgets:apply`: makes an org's budgets those of a file, for those who keep them under version
//! control. What the file says twice changes nothing the second time.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use purser_protocol::{Window, format_usd};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::budget_terms::{Terms, check};
use super::budgets::count_from_now;
use super::fault::Fault;
use super::place::Place;
use super::{ApiError, AppState};
use crate::access::{Caller, Reach};
use crate::admin::budget_sets::{self, Applied};
use crate::admin::budgets;
use crate::admin::{Editor, NewBudget};
use crate::budget::{Mode, Scope};
use crate::budget_set::twice;
use crate::ladder::Ladder;

/// Most budgets of one set.
pub const MAX_BUDGETS: usize = 1_000;

/// Most mistakes that are listed at once.
const MAX_FAULTS: usize = 100;

/// How far a file in YAML may be nested, and how much it may hold; aliases that multiply stop there too.
const YAML_DEPTH: usize = 16;
const YAML_NODES: usize = 200_000;

/// The budgets that an org is to have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetSet {
    /// The org.
    #[schema(min_length = 1, max_length = 256, example = "acme")]
    org: String,
    /// Its budgets.
    #[schema(max_items = 1000)]
    budgets: Vec<Terms>,
}

/// How a set is applied.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct How {
    /// Only tells what would be done.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
    /// Archives what the set doesn't have. Without it, such budgets are left alone.
    #[serde(default)]
    #[param(required = false)]
    prune: bool,
}

/// A budget of the set.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppliedBudget {
    /// Its number; none for what a dry run would make.
    #[schema(required)]
    budget_id: Option<i64>,
    #[serde(flatten)]
    #[schema(value_type = super::openapi::PayerView, inline)]
    place: Place,
    #[schema(value_type = super::openapi::WindowName)]
    window: Window,
    time_zone: String,
    models: Vec<String>,
    #[serde(flatten)]
    #[schema(inline)]
    set: SetView,
}

/// What can be changed in a budget.
#[derive(Debug, Serialize, ToSchema)]
pub struct SetView {
    limit_usd: String,
    mode: Mode,
    strict: bool,
    #[serde(skip_serializing_if = "Ladder::is_empty")]
    #[schema(required = false)]
    ladder: Ladder,
}

/// A budget that is changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedBudget {
    /// As it is then.
    #[serde(flatten)]
    #[schema(inline)]
    after: AppliedBudget,
    /// As it was.
    before: SetView,
}

/// What was done, or would be.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppliedSet)]
pub struct Outcome {
    org: String,
    dry_run: bool,
    prune: bool,
    created: Vec<AppliedBudget>,
    changed: Vec<ChangedBudget>,
    /// Numbers of those that are as the set has them.
    unchanged: Vec<i64>,
    archived: Vec<AppliedBudget>,
}

/// Makes an org's budgets those of a set, in JSON or YAML, all or nothing. A team's editor makes its team's.
#[utoipa::path(put, path = "/v1/budgets:apply", tag = "budgets", params(How),
    request_body(content((BudgetSet = "application/json"), (BudgetSet = "application/yaml"))),
    responses((status = 200, description = "Done, or in a dry run told.", body = Outcome)))]
pub async fn apply(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    how: Result<Query<How>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Outcome>, ApiError> {
    let Query(how) = how?;
    let body = body.map_err(|rejection| ApiError::of_framework(rejection.status(), rejection.body_text()))?;
    let set = read(&headers, &body)?;
    super::place::name("org", &set.org).map_err(ApiError::invalid)?;
    caller.edits_anything()?;
    caller.reads_org(&set.org)?;
    let org = set.org;
    let wanted = checked(&org, set.budgets, &state)?;
    if let Some(outside) = wanted.iter().find(|budget| !caller.may_edit(&budget.scope)) {
        caller.edits(&outside.scope)?;
    }
    let Reach { team, .. } = caller.reach;
    let kind = (how.dry_run, how.prune);
    let applied = budget_sets::apply(&state.pool, &editor, (&org, team.as_deref()), wanted, kind).await?;
    for (budget_id, _) in &applied.created {
        if let Some(row) = made(&state, *budget_id).await? {
            count_from_now(&state, &row).await?;
        }
    }
    Ok(Json(outcome(org, &how, applied)))
}

async fn made(state: &AppState, budget_id: Option<i64>) -> Result<Option<crate::admin::BudgetRow>, ApiError> {
    match budget_id {
        Some(budget_id) => Ok(budgets::find(&state.pool, budget_id).await?),
        None => Ok(None),
    }
}

/// Reads the set: JSON or YAML, by the type of the content.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<BudgetSet, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let set = serde_path_to_error::deserialize(&mut json).map_err(|error| {
                let data = error.inner().is_data();
                ApiError::unreadable(error.path(), &error.inner().to_string(), data)
            })?;
            json.end().map_err(|error| ApiError::bad_request(format!("the body: {error}")))?;
            Ok(set)
        }
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => yaml(body),
        _ => Err(ApiError::media_type("Content-Type: expected application/json or application/yaml")),
    }
}

fn yaml(body: &[u8]) -> Result<BudgetSet, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body: expected UTF-8"))?;
    let mut options = serde_saphyr::Options::default();
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = YAML_DEPTH;
    budget.max_nodes = YAML_NODES;
    options.budget = Some(budget);
    // No text beside the message: a snippet is for terminals.
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ApiError::invalid(format!("the body: expected a set of budgets in YAML: {error}")))
}

/// Checks all of them, and tells everything that is wrong at once.
fn checked(org: &str, asked: Vec<Terms>, state: &AppState) -> Result<Vec<NewBudget>, ApiError> {
    if asked.len() > MAX_BUDGETS {
        return Err(ApiError::invalid(format!(
            "budgets: expected at most {MAX_BUDGETS}, got {}",
            asked.len()
        )));
    }
    let (mut wanted, mut faults, mut first) = (Vec::new(), Vec::new(), None);
    for (number, terms) in asked.into_iter().enumerate() {
        match check(org, terms, state) {
            Ok(budget) => wanted.push(budget),
            Err(problem) => {
                let below = format!("/budgets/{number}");
                let without =
                    Fault { pointer: Some(format!("#{below}")), parameter: None, detail: problem.clone() };
                first.get_or_insert_with(|| format!("budgets[{number}].{problem}"));
                faults.push(Fault::in_body(&problem, &below).unwrap_or(without));
            }
        }
    }
    if let Some(first) = first {
        let more = faults.len().saturating_sub(1);
        let detail = if more > 0 { format!("{first} (and {more} more)") } else { first };
        faults.truncate(MAX_FAULTS);
        return Err(ApiError::faulty(detail, faults));
    }
    if let Some(place) = twice(&wanted) {
        return Err(ApiError::invalid(format!(
            "budgets[{place}]: another one before it is for the same place, window, time zone, mode and models"
        )));
    }
    Ok(wanted)
}

fn set_view(set: &NewBudget) -> SetView {
    SetView {
        limit_usd: format_usd(set.limit_nanousd),
        mode: set.mode,
        strict: set.strict,
        ladder: set.ladder.clone(),
    }
}

fn applied_view(budget_id: Option<i64>, set: &NewBudget) -> AppliedBudget {
    AppliedBudget {
        budget_id,
        place: Place::from(&Scope::clone(&set.scope)),
        window: set.window,
        time_zone: set.time_zone.clone(),
        models: set.models.names().to_vec(),
        set: set_view(set),
    }
}

fn outcome(org: String, how: &How, applied: Applied) -> Outcome {
    let created = applied.created.iter().map(|(budget_id, set)| applied_view(*budget_id, set));
    let changed = applied.changed.iter().map(|(row, wanted)| ChangedBudget {
        after: applied_view(Some(row.budget_id), wanted),
        before: set_view(&row.set),
    });
    Outcome {
        org,
        dry_run: how.dry_run,
        prune: how.prune,
        created: created.collect(),
        changed: changed.collect(),
        unchanged: applied.unchanged.iter().map(|row| row.budget_id).collect(),
        archived: applied.archived.iter().map(|row| applied_view(Some(row.budget_id), &row.set)).collect(),
    }
}
