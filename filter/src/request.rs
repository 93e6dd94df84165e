//! What a request says about its cost: model, output cap, choices, sizes.

mod batch;
mod caps;
mod model;
pub mod multipart;
mod parameters;
mod shape;
mod stream;
#[cfg(test)]
mod tests;
mod thinking;
mod tools;

use std::fmt;
use std::ops::Range;

use purser_protocol::{Api, MAX_UNIT_BYTES, Size};

pub use caps::CapPlace;
pub use thinking::Thinking;

use crate::api::Route;
use crate::config::Dialect;
use crate::json_scan::{self, Found, ScanError};
use crate::media;
use crate::splice::Edit;
use shape::Shape;

/// A request, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// What bounds the cost.
    pub size: Size,
    /// Length of the body these facts come from, bytes.
    pub body_bytes: usize,
    /// What switches usage on in the stream; absent when the app asked for it itself, or when the
    /// answer carries usage anyway.
    pub usage_switch: Option<Edit>,
    /// Where the value of `model` stands; absent when the body doesn't name it.
    pub model_at: Option<Range<usize>>,
    /// Where an output cap goes.
    pub cap: CapPlace,
    /// The work is done later; its usage won't be told on this call.
    pub is_deferred: bool,
    /// Characters of text that are billed as such, for speech.
    pub input_characters: Option<u64>,
    /// The service tier asked for, when the body names one.
    pub service_tier: Option<String>,
    /// What it says of thinking, which is billed and not seen.
    pub thinking: Thinking,
}

/// What the headers say about how the body reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyKind {
    /// The request is signed: nothing in it may be changed.
    pub is_signed: bool,
    /// What separates the parts of a form.
    pub boundary: Option<String>,
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
    /// A form whose parts can't be told apart.
    Form,
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
            Self::Member { name, .. }
            | Self::Scan(ScanError::Duplicate(name) | ScanError::OtherCase(name)) => Some(name),
            Self::Empty | Self::Encoded | Self::Form | Self::Scan(_) => None,
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
            Self::Form => f.write_str("expected a form whose parts have names and a closing boundary"),
            Self::Member { name, expected } => write!(f, "{name}: expected {expected}"),
        }
    }
}

/// The members of a body that an API's shape names.
struct Members<'a> {
    keys: &'static [&'static str],
    found: Vec<Option<Found<'a>>>,
    /// The server may be one that reads keys without regard to case.
    folds_case: bool,
}

impl<'a> Members<'a> {
    fn of(text: &'a str, keys: &'static [&'static str], folds_case: bool) -> Result<Self, ScanError> {
        let mut found = vec![None; keys.len()];
        if folds_case {
            json_scan::members_of_any_case(text, keys, &mut found)?;
        } else {
            json_scan::members(text, keys, &mut found)?;
        }
        Ok(Self { keys, found, folds_case })
    }

    /// The members of an object in the text.
    fn within(&self, raw: &'a str, keys: &'static [&'static str]) -> Result<Self, ScanError> {
        Self::of(raw, keys, self.folds_case)
    }

    /// A member that is there and not `null`.
    fn value(&self, key: &str) -> Option<&Found<'a>> {
        self.given(key).filter(|found| !found.is_null())
    }

    /// A member that is there, `null` or not.
    fn given(&self, key: &str) -> Option<&Found<'a>> {
        let at = self.keys.iter().position(|name| *name == key)?;
        self.found.get(at)?.as_ref()
    }
}

/// Reads a request.
///
/// # Errors
/// [`Unreadable`] when the body is not what the API takes, or when a member that decides the cost is
/// missing, ambiguous or of a type that servers read differently.
pub fn read(route: &Route, kind: &BodyKind, body: &[u8]) -> Result<CallRequest, Unreadable> {
    if body.is_empty() {
        return Err(Unreadable::Empty);
    }
    if let Some(boundary) = &kind.boundary {
        return multipart::read(route, boundary, body);
    }
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::Scan(ScanError::NotUtf8))?;
    let shape = shape::of(route);
    let members = Members::of(text, shape.keys, folds_case(route.dialect)).map_err(Unreadable::Scan)?;
    let mut request = match route.api {
        Api::OpenaiBatches => batch::openai(body.len()),
        Api::AnthropicBatches => batch::anthropic(&members, body.len())?,
        _ => call(route, shape, &members, text)?,
    };
    if kind.is_signed {
        (request.model_at, request.usage_switch, request.cap) = (None, None, CapPlace::Fixed);
    }
    request.size.unchangeable = kind.is_signed;
    Ok(request)
}

/// Whether a server may take a key in other letters for the same: those in Go do, and any may be in Go.
const fn folds_case(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Ollama | Dialect::Compatible)
}

fn call(route: &Route, shape: &Shape, members: &Members<'_>, text: &str) -> Result<CallRequest, Unreadable> {
    let (model, model_at) = match &route.model {
        Some(model) => (model::check(Some(model.clone()))?, None),
        None if model::is_left_out(route.api, members) => (model::UNSPECIFIED.to_owned(), None),
        None => {
            let found = members.given("model");
            let name = found.and_then(|found| json_scan::string(found.raw));
            (model::check(name)?, found.map(|found| found.span.clone()))
        }
    };
    let (stream, usage_switch) = stream::read(route, shape, members)?;
    let caps = caps::read(shape, members, model_at.as_ref(), text)?;
    let mut media = media::Media::default();
    for key in shape.content {
        if let Some(found) = members.value(key) {
            media::measure(found.raw, *key == "images", &mut media);
        }
    }
    let text_bytes = text.len().saturating_sub(media.payload_bytes);
    Ok(CallRequest {
        stream,
        size: Size {
            text_bytes: u64::try_from(text_bytes).unwrap_or(u64::MAX),
            media_parts: media.parts,
            max_output_tokens: if shape.has_no_output { Some(0) } else { caps.tokens },
            choices: choices(route, caps.choices, members)?,
            server_context: media.by_reference
                || tools::run_at_provider(route.api, members)
                || tools::changes_context(members)
                || tools::asked_by_name(&model)
                || shape.context.iter().any(|key| members.value(key).is_some()),
            unchangeable: false,
        },
        model,
        body_bytes: text.len(),
        usage_switch,
        model_at,
        cap: caps.place,
        is_deferred: flag("background", members.value("background"))?,
        input_characters: input_characters(route, members)?,
        service_tier: service_tier(members)?,
        thinking: thinking::read(route, members),
    })
}

/// The length of what is to be spoken: without it nothing would say what speech costs.
fn input_characters(route: &Route, members: &Members<'_>) -> Result<Option<u64>, Unreadable> {
    if !route.is_speech {
        return Ok(None);
    }
    let input = members.value("input").and_then(|found| json_scan::string(found.raw));
    let input = input.ok_or(Unreadable::Member { name: "input", expected: "the text to be spoken" })?;
    Ok(Some(u64::try_from(input.chars().count()).unwrap_or(u64::MAX)))
}

/// The tier decides the price; one that can't be told is not guessed.
fn service_tier(members: &Members<'_>) -> Result<Option<String>, Unreadable> {
    let Some(found) = members.value("service_tier") else { return Ok(None) };
    let is_sound =
        |tier: &String| (1..=MAX_UNIT_BYTES).contains(&tier.len()) && !tier.chars().any(char::is_control);
    let expected = "the name of a service tier, 1 to 64 bytes of text";
    let tier = json_scan::string(found.raw).filter(is_sound);
    tier.map(Some).ok_or(Unreadable::Member { name: "service_tier", expected })
}

/// Answers asked for: with a list of prompts, so many for each of them.
fn choices(route: &Route, asked: u32, members: &Members<'_>) -> Result<u32, Unreadable> {
    if route.api != Api::OpenaiCompletions {
        return Ok(asked);
    }
    let prompts = members.value("prompt").and_then(|found| json_scan::count_elements(found.raw));
    let prompts = match prompts {
        // A list of numbers is one prompt, in tokens.
        Some((count, Some(first))) if first.starts_with(['"', '[']) => count,
        _ => 1,
    };
    let all = u64::from(asked).saturating_mul(prompts);
    u32::try_from(all).map_err(|_| Unreadable::Member { name: "prompt", expected: "fewer prompts" })
}

fn flag(name: &'static str, found: Option<&Found<'_>>) -> Result<bool, Unreadable> {
    match found.map(|found| found.raw) {
        Some("true") => Ok(true),
        Some("false" | "null") | None => Ok(false),
        Some(_) => Err(Unreadable::Member { name, expected: "true or false" }),
    }
}
