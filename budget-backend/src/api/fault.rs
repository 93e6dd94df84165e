//! Where in a request a mistake is, as a problem tells it. Pure.

use std::error::Error;

use serde::Serialize;
use serde_path_to_error::Segment;
use utoipa::ToSchema;

/// Fields below which the names are models, which have dots of their own.
const MODEL_FIELDS: &str = "ladder.degrade.models.";

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Where in the body, as a JSON pointer in a fragment: `#/limit_usd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Which parameter of the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is wrong, and what was expected.
    pub detail: String,
}

impl Fault {
    /// Of a message in the form `field.below: what is wrong`, below a place in the body.
    #[must_use]
    pub fn in_body(message: &str, below: &str) -> Option<Self> {
        let (field, detail) = field_of(message)?;
        Some(Self { pointer: Some(pointer(field, below)), parameter: None, detail: detail.to_owned() })
    }
}

/// The field that a message begins with, and the rest of it.
fn field_of(message: &str) -> Option<(&str, &str)> {
    let (field, detail) = match message.strip_prefix(MODEL_FIELDS) {
        // A model's name may hold anything but the end of it.
        Some(rest) => {
            let (model, detail) = rest.split_once(": ")?;
            (message.get(..MODEL_FIELDS.len().saturating_add(model.len()))?, detail)
        }
        None => message.split_once(": ")?,
    };
    let part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.[]".contains(&byte);
    (field.starts_with(MODEL_FIELDS) || field.bytes().all(part)).then_some((field, detail))
}

fn pointer(field: &str, below: &str) -> String {
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let mut pointer = format!("#{below}");
    let (field, model) = match field.strip_prefix(MODEL_FIELDS) {
        Some(model) => (MODEL_FIELDS.trim_end_matches('.'), Some(model)),
        None => (field, None),
    };
    for name in field.split(['.', '[']) {
        pointer.push('/');
        pointer.push_str(&escaped(name.trim_end_matches(']')));
    }
    if let Some(model) = model {
        pointer.push('/');
        pointer.push_str(&escaped(model));
    }
    pointer
}

pub(super) fn of_parameter(message: &str) -> Option<Fault> {
    let (field, detail) = field_of(message)?;
    Some(Fault { pointer: None, parameter: Some(field.to_owned()), detail: detail.to_owned() })
}

/// Where a deserialiser stopped: the path, if its error is below `error`.
pub(super) fn path_of<'a, E: Error + 'static>(
    error: &'a (dyn Error + 'static),
) -> Option<(&'a serde_path_to_error::Path, String)> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<serde_path_to_error::Error<E>>() {
            return Some((found.path(), found.inner().to_string()));
        }
        source = error.source();
    }
    None
}

/// The body is JSON by a machine: a line and a column help nobody.
pub(super) fn without_place(detail: &str) -> String {
    match detail.split(" at line ").next().unwrap_or_default() {
        // What the parser says of a number where one of some texts may stand.
        "expected value" => "expected a value of another type, or one at all".to_owned(),
        detail => detail.to_owned(),
    }
}

pub(super) fn pointer_of(path: &serde_path_to_error::Path) -> String {
    let mut pointer = "#".to_owned();
    for segment in path {
        let name = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&name);
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_by_its_beginning_where_it_belongs() {
        for (message, expected) in [
            ("limit_usd: expected an amount", Some("#/limit_usd")),
            ("models[3]: expected a name", Some("#/models/3")),
            ("ladder.clamp.floor_tokens: expected more", Some("#/ladder/clamp/floor_tokens")),
            ("ladder.degrade.models.gpt-4.1/x: no price", Some("#/ladder/degrade/models/gpt-4.1~1x")),
            ("expected one of limit_usd, mode", None),
            ("x-purser-actor: expected a few words", None),
            ("there is no budget 7: none", None),
        ] {
            let fault = Fault::in_body(message, "");
            assert_eq!(fault.and_then(|fault| fault.pointer).as_deref(), expected, "{message}");
        }
        let below = Fault::in_body("user: expected a team", "/budgets/4").unwrap();
        assert_eq!(
            (below.pointer.as_deref(), below.detail.as_str()),
            (Some("#/budgets/4/user"), "expected a team")
        );
    }
}
