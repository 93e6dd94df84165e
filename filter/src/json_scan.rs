//! Finding a few members of a JSON object, and where in the text they stand, without building a
//! tree. Members that are not asked for are skipped without recursion, so that nesting costs no
//! stack.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// For a `serde` visitor that walks to strings: numbers, truth values and null are passed over.
macro_rules! scalars_are_passed_over {
    () => {
        fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
            Ok(())
        }

        fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
            Ok(())
        }

        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
            Ok(())
        }

        fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
            Ok(())
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
            Ok(())
        }
    };
}
pub(crate) use scalars_are_passed_over;

/// A member's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its JSON text.
    pub raw: &'a str,
    /// Where that stands in the scanned text, in bytes.
    pub span: Range<usize>,
}

impl Found<'_> {
    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.raw == "null"
    }
}

/// Why a text can't be scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanError {
    /// Not UTF-8, so not JSON.
    NotUtf8,
    /// Not JSON, or something follows it; what the parser said.
    NotJson(String),
    /// JSON, but not an object.
    NotAnObject,
    /// The member stands there twice; readers differ in which one they take.
    Duplicate(&'static str),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("expected JSON, got bytes that are not UTF-8"),
            Self::NotJson(why) => write!(f, "expected JSON: {why}"),
            Self::NotAnObject => f.write_str("expected a JSON object"),
            Self::Duplicate(key) => write!(f, "{key}: given twice"),
        }
    }
}

/// Finds members of the object that `text` is, by key; the result is in the order of `keys`.
///
/// # Errors
/// [`ScanError`] when `text` is not one JSON object, or names one of `keys` twice.
pub fn object<'a, const N: usize>(
    text: &'a str,
    keys: &[&'static str; N],
) -> Result<[Option<Found<'a>>; N], ScanError> {
    let duplicate = Cell::new(None);
    let seed = ObjectSeed { keys, duplicate: &duplicate };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let values = seed.deserialize(&mut deserializer).and_then(|values| deserializer.end().map(|()| values));
    match values {
        Ok(values) => Ok(values.map(|value| value.and_then(|raw| locate(text, raw.get())))),
        Err(error) => Err(match duplicate.get() {
            Some(key) => ScanError::Duplicate(key),
            None if error.is_data() => ScanError::NotAnObject,
            None => ScanError::NotJson(error.to_string()),
        }),
    }
}

/// Like [`object`], for bytes.
///
/// # Errors
/// As [`object`], and [`ScanError::NotUtf8`].
pub fn object_bytes<'a, const N: usize>(
    bytes: &'a [u8],
    keys: &[&'static str; N],
) -> Result<[Option<Found<'a>>; N], ScanError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ScanError::NotUtf8)?;
    object(text, keys)
}

/// A message of the backend's, or nothing when the bytes are no such message. One parser reads all
/// JSON here; it works on text.
#[must_use]
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()
}

/// The text of a JSON string, or nothing for any other value.
#[must_use]
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// A slice of `whole`, as found by a parser that borrows, with its place.
fn locate<'a>(whole: &'a str, part: &'a str) -> Option<Found<'a>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    let raw = whole.get(start..end)?;
    Some(Found { raw, span: start..end })
}

struct ObjectSeed<'k, const N: usize> {
    keys: &'k [&'static str; N],
    duplicate: &'k Cell<Option<&'static str>>,
}

impl<'de, const N: usize> DeserializeSeed<'de> for ObjectSeed<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for ObjectSeed<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(index) = map.next_key_seed(KeySeed(self.keys))? {
            let Some((slot, key)) =
                index.and_then(|index| Some((values.get_mut(index)?, *self.keys.get(index)?)))
            else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if slot.is_some() {
                self.duplicate.set(Some(key));
                return Err(de::Error::custom("duplicate"));
            }
            *slot = Some(map.next_value::<&RawValue>()?);
        }
        Ok(values)
    }
}

/// Reads a key as its index among those asked for.
struct KeySeed<'k>(&'k [&'static str]);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|key| *key == text))
    }
}

/// The elements of a JSON array as raw text, or nothing for any other value.
#[must_use]
pub fn elements(raw: &str) -> Option<Vec<&RawValue>> {
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    let elements = Vec::<&RawValue>::deserialize(&mut deserializer).ok()?;
    deserializer.end().ok().map(|()| elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const KEYS: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn finds_members_with_their_place() {
        let text = " {\"x\":{\"a\":0}, \"\\u0062\" : [1, {}] ,\"a\":\"é\\\"\", \"z\": null}\n";
        let [a, b, c] = object(text, &KEYS).unwrap();
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.raw, &text[a.span.clone()]), (r#""é\"""#, r#""é\"""#));
        assert_eq!((b.raw, &text[b.span.clone()]), ("[1, {}]", "[1, {}]"));
        assert_eq!(c, None);
        assert_eq!(string(a.raw).as_deref(), Some("é\""));
        assert_eq!(string(b.raw), None);
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        let not_json = |text: &str| matches!(object(text, &KEYS), Err(ScanError::NotJson(_)));
        for text in ["", " ", "{", r#"{"a"}"#, r#"{"a":1,}"#, "{} {}", "{}x", r#"{"a":01}"#] {
            assert!(not_json(text), "{text}: {:?}", object(text, &KEYS));
        }
        for text in ["[]", "1", "null", "\"{}\"", "[{}]"] {
            assert_eq!(object(text, &KEYS), Err(ScanError::NotAnObject), "{text}");
        }
        assert_eq!(object_bytes(b"{\"x\":\"\xff\"}", &KEYS), Err(ScanError::NotUtf8));
        assert_eq!(object_bytes(b"\xff\xfe{\0}\0", &KEYS), Err(ScanError::NotUtf8));
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#] {
            assert_eq!(object(twice, &KEYS), Err(ScanError::Duplicate("a")));
        }
        assert!(object(r#"{"x":1,"x":2}"#, &KEYS).is_ok());
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = 100_000;
        for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
            for key in ["a", "skipped"] {
                let inner = if open == "[" { "" } else { "0" };
                let (open, close) = (open.repeat(deep), close.repeat(deep));
                let text = format!("{{\"{key}\":{open}{inner}{close}}}");
                assert!(object(&text, &KEYS).is_ok());
                assert!(object(&text[..text.len() / 2], &KEYS).is_err());
            }
        }
    }

    #[test]
    fn lists_elements() {
        let raw: Vec<&str> = elements("[1, {\"a\":2} ,[]]").unwrap().into_iter().map(RawValue::get).collect();
        assert_eq!(raw, ["1", "{\"a\":2}", "[]"]);
        assert!(elements("{}").is_none());
        assert!(elements("[").is_none());
    }
}
