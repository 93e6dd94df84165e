//! A report as CSV.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use purser_protocol::format_usd;

use super::ATTACHMENT;
use crate::api::ApiError;
use crate::report::{Column, Question, Report, Sums};

/// Where the next page begins.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-purser-next-cursor");

const MEASURES: [&str; 13] = [
    "requests",
    "estimated_requests",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "cost_usd",
];

/// The report with a line for each group, or one for the sum where no groups were asked for.
pub fn answer(
    question: &Question,
    report: &Report,
    next_cursor: Option<String>,
) -> Result<Response, ApiError> {
    let text = sheet(question, report).map_err(|error| {
        tracing::error!(%error, "a report could not be written as CSV");
        ApiError::unavailable("the report could not be written")
    })?;
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    headers.insert(header::CONTENT_DISPOSITION, ATTACHMENT);
    if let Some(cursor) = next_cursor.and_then(|cursor| HeaderValue::try_from(cursor).ok()) {
        headers.insert(NEXT_CURSOR, cursor);
    }
    Ok(response)
}

fn sheet(question: &Question, report: &Report) -> Result<Vec<u8>, csv::Error> {
    let mut lines = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let names = question.columns.iter().map(|column| harmless(&Column::name(column)));
    lines.write_record(names.chain(MEASURES.map(str::to_owned)))?;
    if question.columns.is_empty() {
        lines.write_record(figures(&report.total))?;
    }
    for group in &report.groups {
        lines.write_record(group.names.iter().map(|name| harmless(name)).chain(figures(&group.sums)))?;
    }
    lines.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}

/// A text that no spreadsheet takes for a formula: names come from callers.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '|', '%']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

fn figures(sums: &Sums) -> [String; 13] {
    [
        sums.requests.to_string(),
        sums.estimated_requests.to_string(),
        sums.input_tokens.to_string(),
        sums.cached_input_tokens.to_string(),
        sums.cache_write_5m_tokens.to_string(),
        sums.cache_write_1h_tokens.to_string(),
        sums.output_tokens.to_string(),
        sums.reasoning_tokens.to_string(),
        sums.audio_input_tokens.to_string(),
        sums.audio_output_tokens.to_string(),
        sums.image_input_tokens.to_string(),
        sums.image_output_tokens.to_string(),
        format_usd(sums.cost_nanousd),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Filter, Group, Order, Range, columns};

    #[test]
    fn names_are_quoted_and_never_formulas() {
        let question = Question {
            filter: Filter::default(),
            range: Range::month("2026-11").unwrap(),
            columns: columns("team").unwrap(),
            order: Order::Name,
            limit: 9,
            after: None,
        };
        let group = |name: &str| Group {
            names: vec![name.to_owned()],
            sums: Sums { requests: 2, cost_nanousd: -1_500_000_000, ..Sums::default() },
        };
        let names = ["=1+1", "@x", "-1", "+1", "a,b", "say \"hi\"", "größe", ""];
        let groups = names.map(group).to_vec();
        let text = sheet(&question, &Report { total: Sums::default(), groups, more: false }).unwrap();
        let text = String::from_utf8(text).unwrap();
        let firsts: Vec<&str> = text.lines().map(|line| line.split(",2,").next().unwrap()).collect();
        assert!(firsts[0].starts_with("team,requests,estimated_requests,"), "{text}");
        assert_eq!(firsts[1..], ["'=1+1", "'@x", "'-1", "'+1", "\"a,b\"", "\"say \"\"hi\"\"\"", "größe", ""]);
        assert!(text.lines().skip(1).all(|line| line.ends_with(",-1.50")), "{text}");
    }
}
