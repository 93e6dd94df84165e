//! `GET /v1/usage`: who used what, in sums and series, as JSON or CSV.

mod sheet;
mod view;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::holds::unix_now_s;
use super::{ApiError, AppState, cursor, validate};
use crate::access::Caller;
use crate::admin;
use crate::report::{Filter, MAX_GROUPS, Order, Question, Range, columns};

pub use view::Usage;

/// Groups of an answer when it is not said how many.
const DEFAULT_LIMIT: usize = 1_000;

/// What is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// The org; every org when it is left out, with a token that reaches every one.
    org: Option<String>,
    /// Only this team; empty for calls without one.
    team: Option<String>,
    /// Only this user of the team; empty for calls without one.
    user: Option<String>,
    /// Only this provider.
    provider: Option<String>,
    /// Only this model.
    model: Option<String>,
    /// Only this API.
    api: Option<String>,
    /// Only calls with this cost tag, as `NAME=VALUE`.
    tag: Option<String>,
    /// A UTC month such as `2026-11`; the running one when no time is given.
    month: Option<String>,
    /// The first UTC day or whole hour.
    from: Option<String>,
    /// The first UTC day or whole hour after it.
    to: Option<String>,
    /// What names a group, separated by commas: `org`, `team`, `user`, `provider`, `model`, `api`, `day`, `hour`,
    /// `tag:NAME`. Without it, the sum alone.
    by: Option<String>,
    /// In which order groups come: by name, or the dearest first and then only the first ones.
    #[param(inline)]
    order: Option<Sort>,
    /// Most groups, 1 to 10000; 1000 when it is left out.
    limit: Option<usize>,
    /// The `next_cursor` of the answer to go on from.
    cursor: Option<String>,
    /// What is answered; CSV also where the request accepts `text/csv`.
    #[param(inline)]
    format: Option<Format>,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// By name.
    Name,
    /// The dearest first.
    Cost,
}

/// A form of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// JSON.
    Json,
    /// Comma-separated values.
    Csv,
}

/// Usage in sums and series.
///
/// Reads the rollups alone. A time of whole UTC days may be up to 1,100 days long; where hours or tags are
/// asked for, up to 7 days.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(Asked), responses(
    (status = 200, description = "The report", content(
        (Usage = "application/json"),
        (String = "text/csv"),
    )),
))]
pub async fn report(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked?;
    let wants_csv = asked.format.map_or_else(|| accepts_csv(&headers), |format| format == Format::Csv);
    let mut question = question(asked, unix_now_s()).map_err(ApiError::invalid_parameter)?;
    within_reach(&caller, &mut question)?;
    let report = admin::usage::report(&state.pool, &question).await?;
    let last = report.groups.last().filter(|_| report.more && question.order == Order::Name);
    let next_cursor = last.map(|group| cursor::encode(&group.names));
    if wants_csv {
        return sheet::answer(&question, &report, next_cursor);
    }
    Ok(Json(view::usage(&question, report, next_cursor)).into_response())
}

/// Leaves of a question what its caller may see.
fn within_reach(caller: &Caller, question: &mut Question) -> Result<(), ApiError> {
    let filter = &mut question.filter;
    if filter.org.is_none() {
        filter.org.clone_from(&caller.reach.org);
    }
    let Some(org) = &filter.org else { return Ok(()) };
    if let Some(own) = caller.reads_org(org)?.team {
        if filter.team.as_ref().is_some_and(|team| *team != own) {
            return Err(ApiError::not_found(format!("team: this token sees team {own} alone")));
        }
        filter.team = Some(own);
    }
    Ok(())
}

fn accepts_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/csv")
}

fn question(asked: Asked, now_unix_s: i64) -> Result<Question, String> {
    let filter = filter(&asked)?;
    let columns = columns(asked.by.as_deref().unwrap_or_default())?;
    let order = asked.order.map_or(Order::Name, |sort| match sort {
        Sort::Name => Order::Name,
        Sort::Cost => Order::Cost,
    });
    if order == Order::Cost && asked.cursor.is_some() {
        return Err("cursor: expected none with order=cost, which tells the first groups alone".to_owned());
    }
    let after = asked.cursor.as_deref().map(|text| cursor::decode(text, columns.len())).transpose()?;
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_GROUPS).contains(&limit) {
        return Err(format!("limit: expected 1 to {MAX_GROUPS}, got {limit}"));
    }
    let range = range(&asked, now_unix_s)?;
    let question = Question { filter, range, columns, order, limit, after };
    question.check()?;
    Ok(question)
}

fn filter(asked: &Asked) -> Result<Filter, String> {
    if let Some(org) = &asked.org {
        validate::name("org", org)?;
    }
    // An empty one means calls without it.
    for (field, value) in [
        ("team", &asked.team),
        ("user", &asked.user),
        ("provider", &asked.provider),
        ("model", &asked.model),
        ("api", &asked.api),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            validate::name(field, value)?;
        }
    }
    if asked.user.is_some() && asked.team.is_none() {
        return Err("user: expected its team as well, since a user is one of a team".to_owned());
    }
    let tag = match asked.tag.as_deref().map(|tag| tag.split_once('=').unwrap_or(("", ""))) {
        None => None,
        Some((name, value))
            if name.is_empty() || [name, value].iter().any(|text| text.chars().any(char::is_control)) =>
        {
            return Err(format!(
                "tag: expected NAME=VALUE, got {:?}",
                asked.tag.as_deref().unwrap_or_default()
            ));
        }
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
    };
    Ok(Filter {
        org: asked.org.clone(),
        team: asked.team.clone(),
        user: asked.user.clone(),
        provider: asked.provider.clone(),
        model: asked.model.clone(),
        api: asked.api.clone(),
        tag,
    })
}

fn range(asked: &Asked, now_unix_s: i64) -> Result<Range, String> {
    match (&asked.month, &asked.from, &asked.to) {
        (Some(month), None, None) => Range::month(month),
        (None, Some(from), Some(to)) => Range::between(from, to),
        (None, None, None) => Range::month_of(now_unix_s).ok_or_else(|| "month: expected one".to_owned()),
        (Some(_), ..) => Err("month: expected either a month or from and to".to_owned()),
        (None, Some(_), None) => Err("to: expected with from".to_owned()),
        (None, None, Some(_)) => Err("from: expected with to".to_owned()),
    }
}

/// Names the file that a browser would keep.
const ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment; filename=\"usage.csv\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_question_is_said() {
        let some = |text: &str| Some(text.to_owned());
        for (asked, said) in [
            (Asked { org: some(""), ..Asked::default() }, "org: expected a name"),
            (Asked { month: some("2026-13"), ..Asked::default() }, "month: expected a year and a month"),
            (Asked { from: some("2026-11-01"), ..Asked::default() }, "to: expected with from"),
            (Asked { to: some("2026-11-01"), ..Asked::default() }, "from: expected with to"),
            (
                Asked { month: some("2026-11"), from: some("2026-11-01"), ..Asked::default() },
                "month: expected either",
            ),
            (Asked { by: some("colour"), ..Asked::default() }, "by: expected a list of org, team"),
            (Asked { limit: Some(0), ..Asked::default() }, "limit: expected 1 to 10000, got 0"),
            (Asked { user: some("ann"), ..Asked::default() }, "user: expected its team"),
            (Asked { team: some("a\u{7}"), ..Asked::default() }, "team: expected no control"),
            (Asked { tag: some("project"), ..Asked::default() }, "tag: expected NAME=VALUE"),
            (Asked { cursor: some("00"), ..Asked::default() }, "cursor: expected"),
            (
                Asked { cursor: some("5b5d"), order: Some(Sort::Cost), ..Asked::default() },
                "cursor: expected none with order=cost",
            ),
            (
                Asked { month: some("2026-11"), by: some("hour"), ..Asked::default() },
                "from, to: expected at most 168",
            ),
        ] {
            let problem = question(asked, 1_795_478_400).unwrap_err();
            assert!(problem.starts_with(said), "{problem}, not {said}");
        }
        let running = question(Asked::default(), 1_795_478_400).unwrap();
        assert_eq!(running.range, Range::month("2026-11").unwrap());
    }
}
