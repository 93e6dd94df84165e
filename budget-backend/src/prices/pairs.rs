//! A JSON object as its pairs, values unread: numbers keep their text, and a key that stands twice is an
//! error instead of the last one winning.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The pairs, in the order of the text.
#[derive(Debug)]
pub struct Pairs<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
        let mut seen = std::collections::HashSet::new();
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{key:?} stands twice")));
            }
            pairs.push((key, value));
        }
        Ok(Pairs(pairs))
    }
}

/// Checks that no object in a JSON text has a key twice, however deep.
///
/// # Errors
/// The key; or that the text is no JSON.
pub fn no_key_twice(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<&RawValue>(text)?;
    match text.trim_start().as_bytes().first() {
        Some(b'{' | b'[') => serde_json::from_str::<Deep>(text).map(drop),
        _ => Ok(()),
    }
}

/// Any JSON of which only the keys matter.
struct Deep;

impl<'de> Deserialize<'de> for Deep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DeepVisitor)
    }
}

struct DeepVisitor;

impl<'de> Visitor<'de> for DeepVisitor {
    type Value = Deep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_unit<E: Error>(self) -> Result<Deep, E> {
        Ok(Deep)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Deep, A::Error> {
        while items.next_element::<Deep>()?.is_some() {}
        Ok(Deep)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Deep, A::Error> {
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                map.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format_args!("{} stands twice", super::names::shown(&key))));
            }
            seen.insert(key);
            map.next_value::<Deep>()?;
        }
        Ok(Deep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_at_any_depth() {
        for good in
            ["1", "null", "\"a\"", "{}", r#"{"a": [{"b": 1.5}, {"b": -2}], "b": {"a": true, "c": null}}"#]
        {
            assert!(no_key_twice(good).is_ok(), "{good}");
        }
        for bad in [r#"{"a": 1, "a": 1}"#, r#"[[{"b": {"a": 1, "\u0061": 2}}]]"#] {
            let said = no_key_twice(bad).unwrap_err().to_string();
            assert!(said.starts_with("\"a\" stands twice"), "{said}");
        }
        for bad in ["", "{", "{} {}", "[1,]"] {
            assert!(no_key_twice(bad).is_err(), "{bad}");
        }
        assert!(no_key_twice(&"[".repeat(100_000)).is_err());
    }
}
