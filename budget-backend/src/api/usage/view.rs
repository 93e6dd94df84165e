//! A report as JSON.

use std::collections::BTreeMap;

use purser_protocol::format_usd;
use serde::Serialize;
use utoipa::ToSchema;

use crate::histogram::{LATENCY_MS, percentile};
use crate::report::{Column, Group, Question, Report, Sums};
use crate::window::rfc3339;

/// Sums over some calls. No token is in two classes.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct SumsView {
    /// Calls.
    requests: i64,
    /// Of these, charged from an estimate because no usage came back.
    estimated_requests: i64,
    /// Input neither read from nor written to a cache, tokens.
    input_tokens: i64,
    /// Input read from the provider's cache.
    cached_input_tokens: i64,
    /// Input written to it for five minutes.
    cache_write_5m_tokens: i64,
    /// Input written to it for an hour.
    cache_write_1h_tokens: i64,
    /// Output the caller sees.
    output_tokens: i64,
    /// Output spent on reasoning.
    reasoning_tokens: i64,
    /// Audio in the input.
    audio_input_tokens: i64,
    /// Audio in the output.
    audio_output_tokens: i64,
    /// Images in the input.
    image_input_tokens: i64,
    /// Images in the output.
    image_output_tokens: i64,
    /// What they cost, USD.
    #[schema(example = "12.50")]
    cost_usd: String,
    /// At most this long took 95 of 100 calls, milliseconds; the upper end of a step of a log scale. Null
    /// where nothing was timed, and where hours or tags are asked for.
    p95_latency_ms: Option<i64>,
}

/// One group: who or what, and its sums. Of its names those that were asked for.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct GroupView {
    /// The org.
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    /// The team; empty for calls without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    /// The user; empty for calls without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Who bills.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// The model that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The API spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<String>,
    /// The UTC day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-23")]
    day: Option<String>,
    /// The UTC hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-23T14:00:00Z")]
    hour: Option<String>,
    /// Cost tags and their values; empty for calls without one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    sums: SumsView,
}

/// A report. Days and hours are UTC's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// The org; null for every org.
    org: Option<String>,
    /// The first instant.
    from: Option<String>,
    /// The first instant after it.
    to: Option<String>,
    /// What names a group.
    by: Vec<String>,
    /// Over every group, those of other pages as well.
    total: SumsView,
    /// The groups, unless only the sum was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupView>>,
    /// Where the next page begins; null when this is the last.
    next_cursor: Option<String>,
}

/// A report as it is told.
pub fn usage(question: &Question, report: Report, next_cursor: Option<String>) -> Usage {
    let columns = &question.columns;
    let groups = report.groups.into_iter().map(|group| view(columns, group)).collect();
    Usage {
        org: question.filter.org.clone(),
        from: rfc3339(question.range.from_unix_s),
        to: rfc3339(question.range.to_unix_s),
        by: columns.iter().map(Column::name).collect(),
        total: sums(&report.total),
        groups: Some(groups).filter(|_| !columns.is_empty()),
        next_cursor,
    }
}

fn view(columns: &[Column], group: Group) -> GroupView {
    let mut view = GroupView { sums: sums(&group.sums), ..GroupView::default() };
    for (column, name) in columns.iter().zip(group.names) {
        let place = match column {
            Column::Org => &mut view.org,
            Column::Team => &mut view.team,
            Column::User => &mut view.user,
            Column::Provider => &mut view.provider,
            Column::Model => &mut view.model,
            Column::Api => &mut view.api,
            Column::Day => &mut view.day,
            Column::Hour => &mut view.hour,
            Column::Tag(tag) => {
                view.tags.insert(tag.clone(), name);
                continue;
            }
        };
        *place = Some(name);
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
