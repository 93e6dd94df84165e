//! Taking out of a stream what is there only because the filter asked for usage.
//!
//! With `stream_options.include_usage` a server sends one more chunk, with empty `choices` and the
//! usage, and puts `"usage":null` into all others. An app that did not ask gets neither.

use std::ops::Range;

use crate::chunk::Payload;
use crate::splice::{self, Edit};

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes on as it is.
    Keep,
    /// It is taken out.
    Drop,
    /// It goes on changed.
    Replace(Vec<u8>),
}

/// Decides over one event. `data_at` is where its data stands in `event`, `payload` what that is.
#[must_use]
pub fn edit(event: &[u8], data_at: &Range<usize>, payload: &Payload<'_>) -> Fate {
    let Payload::Chunk(chunk) = payload else {
        return Fate::Keep;
    };
    let Some(usage) = &chunk.usage else {
        return Fate::Keep;
    };
    if is_usage_chunk(payload) {
        return Fate::Drop;
    }
    if !usage.is_null() {
        return Fate::Keep;
    }
    let edited =
        member_at(event, data_at, &usage.span).and_then(|at| splice::apply(event, &[Edit::delete(at)]).ok());
    edited.map_or(Fate::Keep, Fate::Replace)
}

/// Whether it is the chunk that a server sends for the usage alone.
#[must_use]
pub fn is_usage_chunk(payload: &Payload<'_>) -> bool {
    matches!(payload, Payload::Chunk(chunk) if chunk.usage_object().is_some() && chunk.has_empty_choices())
}

/// The place of a whole member, `"usage":null` with the comma that goes with it. Nothing when the
/// key is not written plainly; the member then stays.
fn member_at(event: &[u8], data_at: &Range<usize>, value_at: &Range<usize>) -> Option<Range<usize>> {
    let value_start = data_at.start.checked_add(value_at.start)?;
    let value_end = data_at.start.checked_add(value_at.end)?;
    let before_value = event.get(data_at.start..value_start)?;
    let before_colon = before_value.trim_ascii_end().strip_suffix(b":")?;
    let before_key = before_colon.trim_ascii_end().strip_suffix(b"\"usage\"")?;
    let before_key = before_key.trim_ascii_end();
    if let Some(before_comma) = before_key.strip_suffix(b",") {
        let start = data_at.start.checked_add(before_comma.len())?;
        return Some(start..value_end);
    }
    // The first member: the comma after it goes instead.
    let start = data_at.start.checked_add(before_key.len())?;
    let after_value = event.get(value_end..data_at.end)?;
    let mut end = value_end;
    if let Some(after_comma) = after_value.trim_ascii_start().strip_prefix(b",") {
        end = data_at.end.checked_sub(after_comma.len())?;
    }
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk;
    use crate::sse::{self, Data};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn fate(json: &str) -> Fate {
        let event = format!("event: x\ndata: {json}\n\n");
        let Data::Line(at) = sse::data(event.as_bytes()) else {
            panic!("one data line");
        };
        let payload = chunk::read(&event.as_bytes()[at.clone()]);
        edit(event.as_bytes(), &at, &payload)
    }

    fn replaced(json: &str) -> Fate {
        Fate::Replace(format!("event: x\ndata: {json}\n\n").into_bytes())
    }

    #[test]
    fn only_the_usage_chunk_is_taken_out() {
        for json in
            [r#"{"id":"x","choices":[],"usage":{"prompt_tokens":1}}"#, r#"{"usage":{},"choices":[ ]}"#]
        {
            assert_eq!(fate(json), Fate::Drop, "{json}");
        }
        for json in [
            "[DONE]",
            "noise",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"delta":{}}]}"#,
            r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"usage":null}]}"#,
            r#"{"choices":[],"us\u0061ge":null}"#,
            r#"{"error":{"message":"x"}}"#,
        ] {
            assert_eq!(fate(json), Fate::Keep, "{json}");
        }
    }

    #[test]
    fn the_null_member_goes_with_its_comma() {
        for (json, expected) in [
            (r#"{"id":"x","choices":[1],"usage":null}"#, r#"{"id":"x","choices":[1]}"#),
            (r#"{"id":"x","usage":null,"choices":[1]}"#, r#"{"id":"x","choices":[1]}"#),
            (r#"{"usage":null,"choices":[1]}"#, r#"{"choices":[1]}"#),
            (r#"{ "usage" : null , "choices":[1]}"#, r#"{ "choices":[1]}"#),
            (r#"{"a":1 , "usage" : null }"#, r#"{"a":1  }"#),
            (r#"{"usage":null}"#, "{}"),
            (r#"{"choices":[],"usage":null}"#, r#"{"choices":[]}"#),
            (
                r#"{"choices":[{"delta":{"content":",\"usage\":null"}}],"usage":null}"#,
                r#"{"choices":[{"delta":{"content":",\"usage\":null"}}]}"#,
            ),
        ] {
            assert_eq!(fate(json), replaced(expected), "{json}");
        }
    }
}
