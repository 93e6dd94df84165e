//! What a chat request says about its cost: model, output cap, choices, sizes.

use std::fmt;
use std::ops::Range;

use purser_protocol::{MAX_NAME_BYTES, Size};

use crate::json_scan::{self, Found, ScanError};
use crate::media;
use crate::splice::Edit;

/// A chat request, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRequest {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// What bounds the cost.
    pub size: Size,
    /// Length of the body these facts come from, bytes.
    pub body_bytes: usize,
    /// What switches usage on in the stream; absent when the app asked for it itself, or when the
    /// answer is no stream and carries usage anyway.
    pub usage_switch: Option<Edit>,
    /// Where the value of `model` stands.
    pub model_at: Range<usize>,
    /// Where the values of the output caps stand, `null` included.
    pub caps_at: Vec<Range<usize>>,
}

/// Why a request can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// There is no body.
    Empty,
    /// The body is compressed or otherwise encoded.
    Encoded,
    /// The body is not one JSON object, or is ambiguous.
    Scan(ScanError),
    /// A member that decides the cost is missing or not of its type.
    Member {
        /// Its name.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl Unreadable {
    /// The member at fault, for the error's `param`.
    #[must_use]
    pub fn member(&self) -> Option<&'static str> {
        match self {
            Self::Member { name, .. } | Self::Scan(ScanError::Duplicate(name)) => Some(name),
            Self::Empty | Self::Encoded | Self::Scan(_) => None,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("expected a JSON object, got no body"),
            Self::Encoded => {
                f.write_str("content-encoding: expected none or identity; send the body uncompressed")
            }
            Self::Scan(error) => error.fmt(f),
            Self::Member { name, expected } => write!(f, "{name}: expected {expected}"),
        }
    }
}

const KEYS: [&str; 7] =
    ["model", "stream", "stream_options", "max_completion_tokens", "max_tokens", "n", "messages"];

/// Reads a chat request.
///
/// # Errors
/// [`Unreadable`] when the body is no JSON object, or when a member that decides the cost is
/// missing, ambiguous or of a type that servers read differently.
pub fn read(body: &[u8]) -> Result<ChatRequest, Unreadable> {
    if body.is_empty() {
        return Err(Unreadable::Empty);
    }
    let members = json_scan::object_bytes(body, &KEYS).map_err(Unreadable::Scan)?;
    let [model, stream, options, completion_cap, cap, choices, messages] = members;
    let (model, model_at) = read_model(model)?;
    let (stream, usage_switch) = read_stream(stream, options)?;
    let caps =
        [read_cap("max_completion_tokens", completion_cap.as_ref())?, read_cap("max_tokens", cap.as_ref())?];
    let media = messages.map(|found| media::measure(found.raw)).unwrap_or_default();
    let body_bytes = body.len();
    let text_bytes = body_bytes.saturating_sub(media.payload_bytes);
    Ok(ChatRequest {
        model,
        stream,
        size: Size {
            text_bytes: u64::try_from(text_bytes).unwrap_or(u64::MAX),
            media_parts: media.parts,
            // Servers differ in which of the two wins; the larger bounds both.
            max_output_tokens: caps.into_iter().flatten().max(),
            choices: read_choices(choices)?,
        },
        body_bytes,
        usage_switch,
        model_at,
        caps_at: [completion_cap, cap].into_iter().flatten().map(|found| found.span).collect(),
    })
}

fn read_model(found: Option<Found<'_>>) -> Result<(String, Range<usize>), Unreadable> {
    let wrong = Unreadable::Member { name: "model", expected: "the name of a model, 1 to 256 bytes of text" };
    let found = found.ok_or(wrong.clone())?;
    match json_scan::string(found.raw) {
        Some(name) if (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains('\0') => {
            Ok((name, found.span))
        }
        _ => Err(wrong),
    }
}

fn read_flag(name: &'static str, found: Option<&Found<'_>>) -> Result<bool, Unreadable> {
    match found.map(|found| found.raw) {
        Some("true") => Ok(true),
        Some("false" | "null") | None => Ok(false),
        Some(_) => Err(Unreadable::Member { name, expected: "true or false" }),
    }
}

const USAGE_ON: &str = r#"{"include_usage":true}"#;

/// The stream flag, and what it takes to have usage in the stream.
fn read_stream(
    stream: Option<Found<'_>>,
    options: Option<Found<'_>>,
) -> Result<(bool, Option<Edit>), Unreadable> {
    let Some(stream) = stream.filter(|found| found.raw != "false" && !found.is_null()) else {
        return Ok((false, None));
    };
    read_flag("stream", Some(&stream))?;
    let Some(options) = options else {
        let text = format!(r#","stream_options":{USAGE_ON}"#);
        return Ok((true, Some(Edit::insert(stream.span.end, text))));
    };
    if options.is_null() {
        return Ok((true, Some(Edit::replace(options.span, USAGE_ON))));
    }
    let [include] = json_scan::object(options.raw, &["include_usage"]).map_err(|error| match error {
        ScanError::Duplicate(_) => Unreadable::Scan(error),
        _ => Unreadable::Member { name: "stream_options", expected: "an object" },
    })?;
    if read_flag("stream_options.include_usage", include.as_ref())? {
        return Ok((true, None));
    }
    let start = options.span.start;
    let edit = if let Some(include) = include {
        let at = start.saturating_add(include.span.start)..start.saturating_add(include.span.end);
        Edit::replace(at, "true")
    } else {
        let is_empty = options.raw.trim_start_matches('{').trim_start().starts_with('}');
        let comma = if is_empty { "" } else { "," };
        Edit::insert(start.saturating_add(1), format!(r#""include_usage":true{comma}"#))
    };
    Ok((true, Some(edit)))
}

fn read_cap(name: &'static str, found: Option<&Found<'_>>) -> Result<Option<u64>, Unreadable> {
    match found {
        Some(found) if !found.is_null() => found
            .raw
            .parse()
            .map(Some)
            .map_err(|_| Unreadable::Member { name, expected: "a whole number of tokens, 0 or more" }),
        _ => Ok(None),
    }
}

fn read_choices(found: Option<Found<'_>>) -> Result<u32, Unreadable> {
    match found {
        Some(found) if !found.is_null() => found
            .raw
            .parse()
            .ok()
            .filter(|choices| *choices >= 1)
            .ok_or(Unreadable::Member { name: "n", expected: "a whole number of choices, 1 or more" }),
        _ => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read_text(body: &str) -> Result<ChatRequest, Unreadable> {
        read(body.as_bytes())
    }

    #[test]
    fn reads_what_bounds_the_cost() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":null,
            "n":2,"max_completion_tokens":100,"stream":false,"model":"gpt-4o-mini"}"#;
        let request = read_text(body).unwrap();
        assert_eq!(request.model, "gpt-4o-mini");
        assert_eq!(&body[request.model_at], "\"gpt-4o-mini\"");
        assert!(!request.stream && request.usage_switch.is_none());
        assert_eq!(request.size.text_bytes, body.len() as u64);
        assert_eq!(request.size.max_output_tokens, Some(100));
        assert_eq!(request.size.choices, 2);
        let caps: Vec<&str> = request.caps_at.into_iter().map(|at| &body[at]).collect();
        assert_eq!(caps, ["100", "null"]);
        assert_eq!(
            read_text(r#"{"model":"m"}"#).unwrap().size,
            Size { text_bytes: 13, choices: 1, ..Size::default() }
        );
        assert_eq!(
            read_text(r#"{"model":"m","max_tokens":7,"max_completion_tokens":5}"#)
                .unwrap()
                .size
                .max_output_tokens,
            Some(7)
        );
    }

    #[test]
    fn media_payload_is_not_text() {
        let payload = "A".repeat(1000);
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"see"}},
            {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{payload}"}}}}]}}]}}"#
        );
        let size = read_text(&body).unwrap().size;
        assert_eq!(size.media_parts, 1);
        let text_bytes = body.len() - 1000 - "data:image/png;base64,".len();
        assert_eq!(size.text_bytes, text_bytes as u64);
    }

    #[test]
    fn switches_usage_on_where_the_app_did_not() {
        for (body, expected) in [
            (
                r#"{"stream":true,"model":"m"}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true},"model":"m"}"#),
            ),
            (
                r#"{"model":"m","stream_options":null,"stream":true}"#,
                Some(r#"{"model":"m","stream_options":{"include_usage":true},"stream":true}"#),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{ }}"#,
                Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true }}"#),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
                Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"x":1, "include_usage" : false}}"#,
                Some(r#"{"model":"m","stream":true,"stream_options":{"x":1, "include_usage" : true}}"#),
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":null}}"#,
                Some(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#),
            ),
            (r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#, None),
            (r#"{"model":"m","stream":null,"stream_options":{}}"#, None),
            (r#"{"model":"m","stream":false}"#, None),
        ] {
            let request = read_text(body).unwrap();
            let edited = request.usage_switch.map(|edit| splice::apply(body.as_bytes(), &[edit]).unwrap());
            assert_eq!(edited.as_deref(), expected.map(str::as_bytes), "{body}");
            if let Some(edited) = edited {
                let again = read(&edited).unwrap();
                assert!(again.stream && again.usage_switch.is_none(), "{body}");
            }
        }
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(257));
        for (body, expected) in [
            ("", "expected a JSON object, got no body"),
            ("hello", "expected JSON: expected value at line 1 column 1"),
            ("[]", "expected a JSON object"),
            ("\u{feff}{}", "expected JSON: expected value at line 1 column 1"),
            (r#"{"model":"m"} {}"#, "expected JSON: trailing characters at line 1 column 15"),
            (r#"{"model":"m","model":"n"}"#, "model: given twice"),
            (r#"{"model":"m","stream":true,"str\u0065am":false}"#, "stream: given twice"),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}"#,
                "include_usage: given twice",
            ),
            ("{}", "model: expected the name of a model, 1 to 256 bytes of text"),
            (r#"{"model":""}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
            (r#"{"model":7}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
            (r#"{"model":null}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
            (r#"{"model":"a\u0000"}"#, "model: expected the name of a model, 1 to 256 bytes of text"),
            (long.as_str(), "model: expected the name of a model, 1 to 256 bytes of text"),
            (r#"{"model":"m","stream":"true"}"#, "stream: expected true or false"),
            (r#"{"model":"m","stream":1}"#, "stream: expected true or false"),
            (r#"{"model":"m","stream":true,"stream_options":[]}"#, "stream_options: expected an object"),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":1}}"#,
                "stream_options.include_usage: expected true or false",
            ),
            (r#"{"model":"m","max_tokens":-1}"#, "max_tokens: expected a whole number of tokens, 0 or more"),
            (
                r#"{"model":"m","max_completion_tokens":1e9}"#,
                "max_completion_tokens: expected a whole number of tokens, 0 or more",
            ),
            (
                r#"{"model":"m","max_tokens":99999999999999999999}"#,
                "max_tokens: expected a whole number of tokens, 0 or more",
            ),
            (r#"{"model":"m","n":0}"#, "n: expected a whole number of choices, 1 or more"),
            (r#"{"model":"m","n":"2"}"#, "n: expected a whole number of choices, 1 or more"),
        ] {
            let error = read_text(body).unwrap_err();
            assert_eq!(error.to_string(), expected, "{body}");
        }
        assert_eq!(read(b"\xff{}").unwrap_err(), Unreadable::Scan(ScanError::NotUtf8));
    }

    #[test]
    fn survives_hostile_nesting() {
        let deep = 100_000;
        for key in ["messages", "stream_options", "model", "other"] {
            let body = format!("{{\"{key}\":{}{}}}", "[".repeat(deep), "]".repeat(deep));
            assert!(read_text(&body).is_err(), "{key}");
        }
        let messages = format!(
            "{{\"model\":\"m\",\"messages\":[{{\"content\":[{{\"image_url\":{{\"url\":{}{}}}}}]}}]}}",
            "[".repeat(deep),
            "]".repeat(deep)
        );
        assert_eq!(read_text(&messages).unwrap().size.media_parts, 1);
    }
}
