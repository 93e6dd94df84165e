//! Reading JSON fields one by one, collecting mistakes instead of stopping at the first.

use std::ops::RangeInclusive;

use purser_protocol::MAX_TAG_BYTES;
use serde_json::{Map, Value};

use super::{Mistake, is_name, is_payer_name};

/// What a text must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// A name: 1 to 256 bytes, no control characters.
    Name,
    /// The name of one org, team or user: `*`, which in budgets means each one, is none.
    PayerName,
    /// A cost tag's value: 1 to 64 bytes, no control characters.
    Tag,
    /// A secret that fits into a header. Its value never shows up in a mistake.
    Token,
    /// A header that may be removed from every request.
    Header,
}

/// Headers that requests can't do without.
const RESERVED_HEADERS: [&str; 8] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
];

impl Text {
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Name => "a text of 1 to 256 bytes without control characters",
            Self::PayerName => "a text of 1 to 256 bytes without control characters, other than \"*\"",
            Self::Tag => "a text of 1 to 64 bytes without control characters",
            Self::Token => "at least 16 visible ASCII characters",
            Self::Header => "the name of a header in lower case, none that requests can't do without",
        }
    }

    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::Name => is_name(text),
            Self::PayerName => is_payer_name(text),
            Self::Tag => text.len() <= MAX_TAG_BYTES && is_name(text),
            Self::Token => (16..=4096).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()),
            Self::Header => {
                let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
                (1..=128).contains(&text.len())
                    && text.bytes().all(is_plain)
                    && !RESERVED_HEADERS.contains(&text)
            }
        }
    }

    fn got(self, value: &Value) -> String {
        match (self, value) {
            (Self::Token, Value::String(text)) => format!("a text of {} bytes", text.len()),
            (Self::Token, _) => "another type".to_owned(),
            _ => shown(value),
        }
    }
}

/// The fields of one object.
pub struct Fields<'a> {
    path: String,
    values: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Fields<'a> {
    pub fn root(value: &'a Value, mistakes: &'a mut Vec<Mistake>) -> Self {
        if !value.is_object() {
            mistakes.push(Mistake {
                path: String::new(),
                problem: format!("expected a JSON object, got {}", shown(value)),
            });
        }
        Self { path: String::new(), values: value.as_object(), known: Vec::new(), mistakes }
    }

    /// The object under a name. Where there is none its fields read as absent; that a required one
    /// is missing is one mistake, not one for each required field in it.
    pub fn section(&mut self, name: &'static str, required: bool) -> Fields<'_> {
        let value = self.take(name);
        match value {
            Some(value) if !value.is_object() => self.wrong(name, "an object", &shown(value)),
            None if required && self.values.is_some() => self.missing(name, "an object"),
            _ => {}
        }
        Fields {
            path: self.path_of(name),
            values: value.and_then(Value::as_object),
            known: Vec::new(),
            mistakes: self.mistakes,
        }
    }

    /// The field as it stands there, whatever it is.
    pub fn any(&mut self, name: &'static str) -> Option<&'a Value> {
        self.take(name)
    }

    /// The path of a field, for [`Fields::of`] and [`Fields::mistake_at`].
    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// The fields of an object that stands at `path`; none when it is no object, which is a mistake.
    pub fn of<'s>(&'s mut self, path: String, value: &'s Value) -> Fields<'s> {
        if !value.is_object() {
            self.mistake_at(&path, &format!("expected an object, got {}", shown(value)));
        }
        Fields { path, values: value.as_object(), known: Vec::new(), mistakes: self.mistakes }
    }

    /// Whether the object has a field.
    pub fn has(&self, name: &str) -> bool {
        self.values.is_some_and(|values| values.contains_key(name))
    }

    /// How many fields the object has; nothing when it is no object.
    pub fn len(&self) -> Option<usize> {
        self.values.map(Map::len)
    }

    pub fn is_object(&self, name: &str) -> bool {
        self.values.and_then(|values| values.get(name)).is_some_and(Value::is_object)
    }

    pub fn required_text(&mut self, name: &'static str, text: Text) -> String {
        if let Some(read) = self.optional_text(name, text) {
            return read;
        }
        if self.values.is_some_and(|values| !values.contains_key(name)) {
            self.missing(name, text.expected());
        }
        String::new()
    }

    pub fn optional_text(&mut self, name: &'static str, text: Text) -> Option<String> {
        let value = self.take(name)?;
        match value.as_str() {
            Some(read) if text.accepts(read) => Some(read.to_owned()),
            _ => {
                self.wrong(name, text.expected(), &text.got(value));
                None
            }
        }
    }

    pub fn size(&mut self, name: &'static str, range: RangeInclusive<u64>, default: usize) -> usize {
        self.integer(name, range).and_then(|read| usize::try_from(read).ok()).unwrap_or(default)
    }

    pub fn duration(&mut self, name: &'static str, range: RangeInclusive<u64>, default: u32) -> u32 {
        self.integer(name, range).and_then(|read| u32::try_from(read).ok()).unwrap_or(default)
    }

    fn integer(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(name)?;
        match value.as_u64() {
            Some(read) if range.contains(&read) => Some(read),
            _ => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                self.wrong(name, &expected, &shown(value));
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.take(name) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.wrong(name, "true or false", &shown(other));
                default
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, name: &'static str, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = self.take(name) else {
            return default;
        };
        let chosen = words.iter().find(|(word, _)| value.as_str() == Some(*word));
        if let Some((_, choice)) = chosen {
            return *choice;
        }
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.wrong(name, &quoted.join(" or "), &shown(value));
        default
    }

    /// A field that, when it is there, must be one word.
    pub fn only_choice(&mut self, name: &'static str, word: &str, expected: &str) {
        if let Some(value) = self.take(name)
            && value.as_str() != Some(word)
        {
            self.wrong(name, expected, &shown(value));
        }
    }

    /// A mistake of the object as a whole.
    pub fn mistake(&mut self, problem: &str) {
        let path = self.path.clone();
        self.mistake_at(&path, problem);
    }

    /// Reports the fields that nothing asked for.
    pub fn finish(self) {
        let unknown =
            self.values.into_iter().flat_map(Map::keys).filter(|name| !self.known.contains(&name.as_str()));
        for name in unknown {
            self.mistakes.push(Mistake {
                path: join(&self.path, name),
                problem: format!("unknown field, expected one of {}", self.known.join(", ")),
            });
        }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.values?.get(name)
    }

    /// A mistake at another place.
    pub fn mistake_at(&mut self, path: &str, problem: &str) {
        self.mistakes.push(Mistake { path: path.to_owned(), problem: problem.to_owned() });
    }

    fn wrong(&mut self, name: &str, expected: &str, got: &str) {
        let path = self.path_of(name);
        let problem = format!("expected {expected}, got {got}");
        self.mistakes.push(Mistake { path, problem });
    }

    fn missing(&mut self, name: &str, expected: &str) {
        let path = self.path_of(name);
        let problem = format!("missing, expected {expected}");
        self.mistakes.push(Mistake { path, problem });
    }
}

/// The path of a field in the object at `path`.
pub fn join(path: &str, name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    if path.is_empty() { short } else { format!("{path}.{short}") }
}

/// A value for a message, cut to a readable length.
pub fn shown(value: &Value) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    if text.chars().count() <= 64 {
        return text;
    }
    let short: String = text.chars().take(61).collect();
    format!("{short}...")
}
