//! Another model in a request's path.

use std::fmt::Write as _;

use crate::api::path::percent_decode;
use crate::api::{Recognised, Route, recognise};
use crate::headers::{Headers, serialize};

/// Segments after which a model's name stands: Gemini and Vertex, Azure, Bedrock.
const BEFORE_MODEL: [&str; 3] = ["models", "deployments", "model"];

/// `path` with another model in the place of the one that `route` read from it. Nothing when the name isn't
/// one segment of its own, or when the result would not read as the same call of the other model.
#[must_use]
pub fn with_model(path: &str, route: &Route, model: &str) -> Option<String> {
    let asked = route.model.as_deref()?;
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (plain, rest) = path.split_at_checked(end)?;
    let mut segments: Vec<&str> = plain.split('/').collect();
    let named = segments.windows(2).enumerate().rev().find_map(|(index, pair)| match pair {
        [before, name] if BEFORE_MODEL.contains(before) => {
            Some((index.checked_add(1)?, verb_of(name, asked)?))
        }
        _ => None,
    });
    let (at, verb) = named?;
    let replaced = encode(model, &verb);
    *segments.get_mut(at)? = &replaced;
    let new = format!("{}{rest}", segments.join("/"));
    reads_as(&new, route, model).then_some(new)
}

/// What follows the model in a segment: nothing, or a verb with its colon.
fn verb_of(segment: &str, model: &str) -> Option<String> {
    let decoded = String::from_utf8(percent_decode(segment.as_bytes())).ok()?;
    let verb = decoded.strip_prefix(model)?;
    (verb.is_empty() || verb.starts_with(':')).then(|| verb.to_owned())
}

fn encode(model: &str, verb: &str) -> String {
    let mut text = String::new();
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing into a text can't fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text.push_str(verb);
    text
}

fn reads_as(path: &str, route: &Route, model: &str) -> bool {
    let headers = Headers::parse(serialize(&[(":method", "POST"), (":path", path)])).unwrap_or_default();
    let expected = Route { model: Some(model.to_owned()), ..route.clone() };
    recognise(&headers, route.dialect) == Recognised::Metered(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dialect;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rewritten(dialect: Dialect, path: &str, model: &str) -> Option<String> {
        let headers = Headers::parse(serialize(&[(":method", "POST"), (":path", path)])).unwrap();
        match recognise(&headers, dialect) {
            Recognised::Metered(route) => with_model(path, &route, model),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn each_kind_of_path_takes_another_model() {
        for (dialect, path, model, expected) in [
            (
                Dialect::Gemini,
                "/v1beta/models/gemini-big:streamGenerateContent?alt=sse&key=x",
                "gemini-small",
                "/v1beta/models/gemini-small:streamGenerateContent?alt=sse&key=x",
            ),
            (Dialect::Gemini, "/v1/models/a%2Eb%3AgenerateContent", "c", "/v1/models/c:generateContent"),
            (
                Dialect::Gemini,
                "/v1/projects/p/locations/l/publishers/anthropic/models/claude-big@1:rawPredict",
                "claude-small@2",
                "/v1/projects/p/locations/l/publishers/anthropic/models/claude-small%402:rawPredict",
            ),
            (
                Dialect::Openai,
                "/openai/deployments/big/chat/completions?api-version=2024-10-21",
                "small 2/x",
                "/openai/deployments/small%202%2Fx/chat/completions?api-version=2024-10-21",
            ),
            (
                Dialect::Bedrock,
                "/model/anthropic.claude-3-opus-20240229-v1%3A0/converse",
                "anthropic.claude-3-haiku-20240307-v1:0",
                "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse",
            ),
            (Dialect::Bedrock, "/model/a.b-v1:0/invoke", "c", "/model/c/invoke"),
        ] {
            let found = rewritten(dialect, path, model);
            // A slash in a name would be read as another path.
            let expected = (!model.contains('/')).then_some(expected);
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_would_read_as_another_call_is_left_alone() {
        for (dialect, path, model) in [
            (Dialect::Bedrock, "/model/arn%3Aaws%3Abedrock%2Fprofile/x/converse", "c"),
            (Dialect::Gemini, "/v1/models%2Fgemini:generateContent", "c"),
            (Dialect::Gemini, "/v1/tunedModels/mine:generateContent", "c"),
            (Dialect::Openai, "/openai/deployments/big/chat/completions", ".."),
            (Dialect::Gemini, "/v1/models/g:generateContent", "/x"),
            (Dialect::Openai, "/openai/deployments/../deployments/big/../big/chat/completions", "/"),
        ] {
            assert_eq!(rewritten(dialect, path, model), None, "{path}");
        }
        let bodied = Route::new(purser_protocol::Api::OpenaiChat, Dialect::Openai);
        assert_eq!(with_model("/v1/chat/completions", &bodied, "c"), None);
    }
}
