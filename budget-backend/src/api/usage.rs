//! `GET /v1/usage`: what an org used in a month.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use jiff::ToSpan;
use jiff::civil::Date;
use purser_protocol::format_usd;
use serde::{Deserialize, Serialize};

use super::{ApiError, AppState, validate};
use crate::histogram::{LATENCY_MS, percentile};
use crate::report::{self, By, Group, MAX_GROUPS, Sums};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    org: Option<String>,
    month: Option<String>,
    by: Option<String>,
}

/// Sums over some calls. No token is in two classes.
#[derive(Debug, Serialize)]
pub struct SumsView {
    requests: i64,
    /// Of these, charged from an estimate because no usage came back.
    estimated_requests: i64,
    input_tokens: i64,
    cached_input_tokens: i64,
    cache_write_5m_tokens: i64,
    cache_write_1h_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    audio_input_tokens: i64,
    audio_output_tokens: i64,
    image_input_tokens: i64,
    image_output_tokens: i64,
    cost_usd: String,
    /// At most this long took 95 of 100 calls; the upper end of a step of a log scale.
    p95_latency_ms: Option<i64>,
}

/// One group: who or what, and its sums.
#[derive(Debug, Default, Serialize)]
pub struct GroupView {
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(flatten)]
    sums: Option<SumsView>,
}

/// A report. Days are UTC days.
#[derive(Debug, Serialize)]
pub struct Usage {
    org: String,
    month: String,
    by: Option<String>,
    total: SumsView,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupView>>,
}

/// `GET /v1/usage?org=…&month=…&by=…`.
pub async fn report(
    State(state): State<AppState>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Json<Usage>, ApiError> {
    let Query(question) = question?;
    let (org, first, next, by) = check(&question).map_err(ApiError::bad_request)?;
    let groups = report::usage(&state.pool, &org, first, next, by).await?;
    if groups.len() > MAX_GROUPS {
        return Err(ApiError::invalid(format!(
            "by: the report has more than {MAX_GROUPS} groups; ask for fewer, such as by=team"
        )));
    }
    let mut total = Sums::default();
    for group in &groups {
        total.add(&group.sums);
    }
    let groups = question.by.is_some().then(|| groups.into_iter().map(view).collect());
    let month = first.strftime("%Y-%m").to_string();
    Ok(Json(Usage { org, month, by: question.by, total: sums(&total), groups }))
}

fn check(question: &Question) -> Result<(String, Date, Date, By), String> {
    let org = question.org.clone().ok_or("org: expected the name of one, as in org=acme")?;
    validate::name("org", &org)?;
    let text = question.month.as_deref().unwrap_or_default();
    let wrong = || format!("month: expected a year and a month, as in month=2026-11, got {text:?}");
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit());
    let (year, month) =
        text.split_once('-').filter(|(year, month)| digits(year, 4) && digits(month, 2)).ok_or_else(wrong)?;
    let first: Date = format!("{year}-{month}-01").parse().map_err(|_| wrong())?;
    let next = first.checked_add(1.month()).map_err(|_| wrong())?;
    let by = match question.by.as_deref() {
        None => By::Org,
        Some(name) => {
            By::from_name(name).ok_or_else(|| format!("by: expected one of {}, got {name:?}", By::NAMES))?
        }
    };
    Ok((org, first, next, by))
}

fn view(group: Group) -> GroupView {
    let mut view = GroupView { sums: Some(sums(&group.sums)), ..GroupView::default() };
    for (column, value) in group.names {
        let place = match column {
            "team" => &mut view.team,
            "user_name" => &mut view.user,
            "provider" => &mut view.provider,
            "model" => &mut view.model,
            "api" => &mut view.api,
            _ => &mut view.day,
        };
        *place = Some(value);
    }
    view
}

fn sums(sums: &Sums) -> SumsView {
    SumsView {
        requests: sums.requests,
        estimated_requests: sums.estimated_requests,
        input_tokens: sums.input_tokens,
        cached_input_tokens: sums.cached_input_tokens,
        cache_write_5m_tokens: sums.cache_write_5m_tokens,
        cache_write_1h_tokens: sums.cache_write_1h_tokens,
        output_tokens: sums.output_tokens,
        reasoning_tokens: sums.reasoning_tokens,
        audio_input_tokens: sums.audio_input_tokens,
        audio_output_tokens: sums.audio_output_tokens,
        image_input_tokens: sums.image_input_tokens,
        image_output_tokens: sums.image_output_tokens,
        cost_usd: format_usd(sums.cost_nanousd),
        p95_latency_ms: percentile(&LATENCY_MS, &sums.latency_counts, 95),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(org: &str, month: &str, by: Option<&str>) -> Question {
        Question { org: Some(org.to_owned()), month: Some(month.to_owned()), by: by.map(str::to_owned) }
    }

    #[test]
    fn what_is_wrong_with_a_question_is_said() {
        for (asked, expected) in [
            (Question { org: None, month: None, by: None }, "org: expected the name of one"),
            (question("", "2026-11", None), "org: expected a name"),
            (Question { month: None, ..question("acme", "", None) }, "month: expected a year and a month"),
            (question("acme", "2026-13", None), "as in month=2026-11, got \"2026-13\""),
            (question("acme", "2026-1", None), "got \"2026-1\""),
            (question("acme", "November", None), "got \"November\""),
            (question("acme", "9999-12", None), "got \"9999-12\""),
            (question("acme", "2026-11", Some("hour")), "by: expected one of team, user, model"),
        ] {
            let said = check(&asked).unwrap_err();
            assert!(said.contains(expected), "{asked:?}: {said}");
        }
        assert!(check(&question("acme", "2026-12", Some("day"))).is_ok());
    }
}
