//! Finding a few members of a JSON object, and where in the text they stand, without building a
//! tree. Members that are not asked for are skipped without recursion, so that nesting costs no
//! stack.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
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
    /// The member stands there in other letters; some readers take it for the same.
    OtherCase(&'static str),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("expected JSON, got bytes that are not UTF-8"),
            Self::NotJson(why) => write!(f, "expected JSON: {why}"),
            Self::NotAnObject => f.write_str("expected a JSON object"),
            Self::Duplicate(key) => write!(f, "{key}: given twice"),
            Self::OtherCase(key) => write!(f, "{key}: expected in these letters, got other capitals"),
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
    let mut found = [const { None }; N];
    members(text, keys, &mut found)?;
    Ok(found)
}

/// Like [`object`], for keys whose number is not known beforehand: `found` has one place for each.
///
/// # Errors
/// As [`object`].
pub fn members<'a>(
    text: &'a str,
    keys: &[&'static str],
    found: &mut [Option<Found<'a>>],
) -> Result<(), ScanError> {
    scan(text, keys, found, false)
}

/// Like [`members`], for servers that read keys without regard to case, as those in Go do.
///
/// # Errors
/// As [`object`], and [`ScanError::OtherCase`] when a key differs from one of `keys` in case only.
pub fn members_of_any_case<'a>(
    text: &'a str,
    keys: &[&'static str],
    found: &mut [Option<Found<'a>>],
) -> Result<(), ScanError> {
    scan(text, keys, found, true)
}

fn scan<'a>(
    text: &'a str,
    keys: &[&'static str],
    found: &mut [Option<Found<'a>>],
    folds_case: bool,
) -> Result<(), ScanError> {
    let fault = Cell::new(None);
    let seed = ObjectSeed { keys, folds_case, fault: &fault, text, found };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|error| match fault.take() {
        Some(fault) => fault,
        None if error.is_data() => ScanError::NotAnObject,
        None => ScanError::NotJson(error.to_string()),
    })
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

struct ObjectSeed<'k, 'a> {
    keys: &'k [&'static str],
    folds_case: bool,
    fault: &'k Cell<Option<ScanError>>,
    text: &'a str,
    found: &'k mut [Option<Found<'a>>],
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for ObjectSeed<'_, 'a> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for ObjectSeed<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let seed = KeySeed { keys: self.keys, folds_case: self.folds_case, fault: self.fault };
        while let Some(index) = map.next_key_seed(seed)? {
            let place = index.and_then(|index| Some((self.found.get_mut(index)?, *self.keys.get(index)?)));
            let Some((slot, key)) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if slot.is_some() {
                self.fault.set(Some(ScanError::Duplicate(key)));
                return Err(de::Error::custom("duplicate"));
            }
            *slot = locate(self.text, map.next_value::<&RawValue>()?.get());
        }
        Ok(())
    }
}

/// Reads a key as its index among those asked for.
#[derive(Clone, Copy)]
struct KeySeed<'k> {
    keys: &'k [&'static str],
    folds_case: bool,
    fault: &'k Cell<Option<ScanError>>,
}

/// Whether a key is another's in other letters, by the folding of Unicode: a long s and the sign of the
/// kelvin are letters of ASCII, too.
fn is_other_case(text: &str, key: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    text.chars().map(fold).eq(key.chars().map(fold))
}

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
        let exact = self.keys.iter().position(|key| *key == text);
        if exact.is_none()
            && self.folds_case
            && let Some(key) = self.keys.iter().find(|key| is_other_case(text, key))
        {
            self.fault.set(Some(ScanError::OtherCase(key)));
            return Err(E::custom("other case"));
        }
        Ok(exact)
    }
}

/// How many elements a JSON array has and how the first begins; nothing for any other value.
#[must_use]
pub fn count_elements(raw: &str) -> Option<(u64, Option<&str>)> {
    struct Count;
    impl<'de> Visitor<'de> for Count {
        type Value = (u64, Option<&'de str>);

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let first = seq.next_element::<&RawValue>()?.map(RawValue::get);
            let mut count = u64::from(first.is_some());
            while seq.next_element::<IgnoredAny>()?.is_some() {
                count = count.saturating_add(1);
            }
            Ok((count, first))
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    de::Deserializer::deserialize_seq(&mut deserializer, Count).ok()
}

/// Most elements of a list that are looked at one by one.
pub const MAX_ELEMENTS: usize = 65_536;

/// The elements of a JSON array as raw text, or nothing for any other value and for a list of more than
/// [`MAX_ELEMENTS`].
#[must_use]
pub fn elements(raw: &str) -> Option<Vec<&RawValue>> {
    struct Elements;
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == MAX_ELEMENTS {
                    return Err(de::Error::custom("too many elements"));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    let elements = de::Deserializer::deserialize_seq(&mut deserializer, Elements).ok()?;
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
    fn keys_in_other_letters_are_told() {
        let keys = ["stream", "max_tokens"];
        let read = |text| members_of_any_case(text, &keys, &mut [const { None }; 2]);
        for (text, expected) in [
            (r#"{"stream":1,"max_tokens":2,"streams":3,"a":{"Stream":1}}"#, Ok(())),
            (r#"{"Stream":1}"#, Err(ScanError::OtherCase("stream"))),
            (r#"{"\u0053tream":1}"#, Err(ScanError::OtherCase("stream"))),
            (r#"{"\u017ftream":1}"#, Err(ScanError::OtherCase("stream"))),
            (r#"{"max_tokens":1,"max_to\u212aens":1}"#, Err(ScanError::OtherCase("max_tokens"))),
            (r#"{"stream":1,"stream":1}"#, Err(ScanError::Duplicate("stream"))),
        ] {
            assert_eq!(read(text), expected, "{text}");
            let exact = members(text, &keys, &mut [const { None }; 2]);
            assert_eq!(exact.is_ok(), !matches!(expected, Err(ScanError::Duplicate(_))), "{text}");
        }
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
        assert_eq!(count_elements("[ 1, {\"a\":2} ,[]]"), Some((3, Some("1"))));
        assert_eq!(count_elements("[]"), Some((0, None)));
        assert_eq!((count_elements("{}"), count_elements("[1")), (None, None));
        assert!(elements("{}").is_none());
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert_eq!(elements(&many(MAX_ELEMENTS)).map(|all| all.len()), Some(MAX_ELEMENTS));
        assert!(elements(&many(MAX_ELEMENTS + 1)).is_none());
        assert!(elements("[").is_none());
    }
}
