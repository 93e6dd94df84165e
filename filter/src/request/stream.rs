//! The stream flag of a request, and what it takes to have usage in the stream.

use purser_protocol::Api;

use super::shape::{Shape, StreamFlag};
use super::{Members, Unreadable, flag};
use crate::api::Route;
use crate::json_scan::ScanError;
use crate::splice::Edit;

const USAGE_ON: &str = r#"{"include_usage":true}"#;

/// Whether the answer is a stream, and the edit that has it tell its usage.
pub fn read(route: &Route, shape: &Shape, members: &Members<'_>) -> Result<(bool, Option<Edit>), Unreadable> {
    let by_path = route.stream.unwrap_or(false);
    let stream = match shape.stream {
        StreamFlag::Path => by_path,
        StreamFlag::Body(default) => match members.value("stream") {
            Some(found) => flag("stream", Some(found))? || by_path,
            None => default || by_path,
        },
    };
    let switches = matches!(route.api, Api::OpenaiChat | Api::OpenaiCompletions);
    if !stream || !switches || route.no_usage_switch {
        return Ok((stream, None));
    }
    Ok((true, usage_switch(members)?))
}

fn usage_switch(members: &Members<'_>) -> Result<Option<Edit>, Unreadable> {
    let Some(options) = members.given("stream_options") else {
        let text = format!(r#","stream_options":{USAGE_ON}"#);
        // The flag stands in the body, or there would be no stream.
        return Ok(members.given("stream").map(|stream| Edit::insert(stream.span.end, text)));
    };
    if options.is_null() {
        return Ok(Some(Edit::replace(options.span.clone(), USAGE_ON)));
    }
    let within = members.within(options.raw, &["include_usage"]).map_err(|error| match error {
        ScanError::Duplicate(_) | ScanError::OtherCase(_) => Unreadable::Scan(error),
        _ => Unreadable::Member { name: "stream_options", expected: "an object" },
    })?;
    let include = within.given("include_usage");
    if flag("stream_options.include_usage", include)? {
        return Ok(None);
    }
    let start = options.span.start;
    if let Some(include) = include {
        let at = start.saturating_add(include.span.start)..start.saturating_add(include.span.end);
        return Ok(Some(Edit::replace(at, "true")));
    }
    let is_empty = options.raw.trim_start_matches('{').trim_start().starts_with('}');
    let comma = if is_empty { "" } else { "," };
    Ok(Some(Edit::insert(start.saturating_add(1), format!(r#""include_usage":true{comma}"#))))
}
