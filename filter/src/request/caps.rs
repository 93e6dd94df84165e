//! Output caps and numbers of answers, and where a cap can be written.

use std::ops::Range;

use super::shape::Shape;
use super::{Members, Unreadable};
use crate::json_scan::{Found, ScanError};
use crate::splice::Edit;

/// Where an output cap goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CapPlace {
    /// It replaces those of these values that are larger, and those that are no cap.
    At(Vec<CapValue>),
    /// There is none yet: it is inserted, between two texts.
    New {
        /// Before this byte.
        at: usize,
        /// What stands before the number.
        before: String,
        /// What stands after it.
        after: &'static str,
    },
    /// Nothing is generated that a cap could bound.
    Needless,
    /// It can't be written: the request is signed, or the API has no such member.
    Fixed,
}

/// The value of a member that caps output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapValue {
    /// Where it stands.
    pub at: Range<usize>,
    /// The cap, tokens; nothing when it is `null` or otherwise means none.
    pub tokens: Option<u64>,
}

impl CapPlace {
    /// The edits that write a cap, tokens; nothing when it can't be written. Of several caps in a request
    /// servers may obey any, so a smaller one stays as it is.
    #[must_use]
    pub fn edits(&self, cap: u64) -> Option<Vec<Edit>> {
        match self {
            Self::At(places) => {
                let larger = places.iter().filter(|place| place.tokens.is_none_or(|tokens| tokens > cap));
                Some(larger.map(|place| Edit::replace(place.at.clone(), cap.to_string())).collect())
            }
            Self::New { at, before, after } => Some(vec![Edit::insert(*at, format!("{before}{cap}{after}"))]),
            Self::Needless => Some(Vec::new()),
            Self::Fixed => None,
        }
    }
}

/// What a request says about caps.
pub struct Caps {
    pub tokens: Option<u64>,
    pub choices: u32,
    pub place: CapPlace,
}

/// Reads the caps and numbers of answers of a request whose text is `text`.
pub fn read(
    shape: &Shape,
    members: &Members<'_>,
    model_at: Option<&Range<usize>>,
    text: &str,
) -> Result<Caps, Unreadable> {
    let mut caps = Caps { tokens: None, choices: 1, place: CapPlace::Fixed };
    let mut places = Vec::new();
    for key in shape.caps {
        caps.cap(key, members.given(key), 0, &mut places)?;
    }
    for key in shape.choices {
        caps.choice(key, members.value(key))?;
    }
    let (holders, inner_keys) = shape.cap_holders;
    let mut first_holder = None;
    for holder_key in holders {
        let Some(holder) = members.value(holder_key) else { continue };
        first_holder = first_holder.or(Some(holder));
        let read = |keys| holder_members(members, holder_key, holder, keys);
        for (key, found) in inner_keys.iter().zip(read(inner_keys)?) {
            caps.cap(key, found.as_ref(), holder.span.start, &mut places)?;
        }
        for (key, found) in shape.choices.iter().zip(read(shape.choices)?) {
            caps.choice(key, found.as_ref().filter(|found| !found.is_null()))?;
        }
    }
    caps.place = if !places.is_empty() {
        CapPlace::At(places)
    } else if shape.has_no_output {
        CapPlace::Needless
    } else {
        new_place(shape, first_holder, model_at, text).unwrap_or(CapPlace::Fixed)
    };
    Ok(caps)
}

fn holder_members<'a>(
    members: &Members<'a>,
    name: &'static str,
    holder: &Found<'a>,
    keys: &'static [&'static str],
) -> Result<Vec<Option<Found<'a>>>, Unreadable> {
    let within = members.within(holder.raw, keys).map_err(|error| match error {
        ScanError::Duplicate(_) | ScanError::OtherCase(_) => Unreadable::Scan(error),
        _ => Unreadable::Member { name, expected: "an object" },
    })?;
    Ok(within.found)
}

/// Where a cap goes that isn't there yet.
fn new_place(
    shape: &Shape,
    holder: Option<&Found<'_>>,
    model_at: Option<&Range<usize>>,
    text: &str,
) -> Option<CapPlace> {
    let cap = shape.own_cap;
    if cap.is_empty() {
        return None;
    }
    let new = |at: usize, before: String, after| Some(CapPlace::New { at, before, after });
    let comma = |object: &str| {
        let is_empty = object.trim_start().trim_start_matches('{').trim_start().starts_with('}');
        if is_empty { "" } else { "," }
    };
    if let Some(holder) = holder {
        return new(holder.span.start.checked_add(1)?, format!("\"{cap}\":"), comma(holder.raw));
    }
    let root = text.find('{')?.checked_add(1)?;
    match (shape.cap_holders.0.first(), model_at) {
        (Some(name), _) => {
            let after = if comma(text).is_empty() { "}" } else { "}," };
            new(root, format!("\"{name}\":{{\"{cap}\":"), after)
        }
        (None, Some(model_at)) => new(model_at.end, format!(",\"{cap}\":"), ""),
        (None, None) => new(root, format!("\"{cap}\":"), comma(text)),
    }
}

impl Caps {
    fn cap(
        &mut self,
        name: &'static str,
        found: Option<&Found<'_>>,
        offset: usize,
        places: &mut Vec<CapValue>,
    ) -> Result<(), Unreadable> {
        let Some(found) = found else { return Ok(()) };
        let at = offset.saturating_add(found.span.start)..offset.saturating_add(found.span.end);
        // Ollama's -1 and -2 mean no cap.
        let is_none = found.is_null() || (name == "num_predict" && found.raw.starts_with('-'));
        let wrong = Unreadable::Member { name, expected: "a whole number of tokens, 0 or more" };
        let tokens = if is_none { None } else { Some(found.raw.parse().map_err(|_| wrong)?) };
        places.push(CapValue { at, tokens });
        self.tokens = self.tokens.max(tokens);
        Ok(())
    }

    fn choice(&mut self, name: &'static str, found: Option<&Found<'_>>) -> Result<(), Unreadable> {
        let Some(found) = found else { return Ok(()) };
        let asked = found.raw.parse().ok().filter(|choices| *choices >= 1);
        let wrong = Unreadable::Member { name, expected: "a whole number of choices, 1 or more" };
        self.choices = self.choices.max(asked.ok_or(wrong)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use purser_protocol::{Api, Rewrite};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::api::Route;
    use crate::config::Dialect;
    use crate::request::{BodyKind, read};
    use crate::rewrite::BodyRewrite;

    #[test]
    fn of_several_caps_none_is_raised_and_all_that_are_larger_are_lowered() {
        for (api, dialect, body, expected) in [
            (
                Api::OpenaiChat,
                Dialect::Openai,
                r#"{"model":"m","max_tokens":5,"max_completion_tokens":90}"#,
                r#"{"model":"m","max_tokens":5,"max_completion_tokens":7}"#,
            ),
            (
                Api::OpenaiChat,
                Dialect::Openai,
                r#"{"max_completion_tokens":0,"max_tokens":null,"model":"m"}"#,
                r#"{"max_completion_tokens":0,"max_tokens":7,"model":"m"}"#,
            ),
            (
                Api::Ollama,
                Dialect::Ollama,
                r#"{"model":"m","options":{"num_predict":-1}}"#,
                r#"{"model":"m","options":{"num_predict":7}}"#,
            ),
        ] {
            let request = read(&Route::new(api, dialect), &BodyKind::default(), body.as_bytes()).unwrap();
            let verdict = Rewrite { max_output_tokens: Some(7), ..Default::default() };
            let out = BodyRewrite::of(&request, &verdict).unwrap().apply(body.as_bytes(), 1000).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
