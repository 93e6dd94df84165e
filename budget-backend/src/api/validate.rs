//! Bounds on what comes in. A name that PostgreSQL would refuse must not reach a batch.

use std::collections::BTreeMap;

use purser_protocol::{
    Call, Lookup, MAX_NAME_BYTES, MAX_TAG_BYTES, MAX_TAGS, MAX_UNIT_BYTES, MAX_UNITS, OLDEST_VERSION, Payer,
    VERSION,
};

use super::ApiError;
use crate::identity::check_lookup;

/// Longest text of a call's tags. They are part of the rollup's key, and an index takes 2,704 bytes: this
/// and five names of [`MAX_NAME_BYTES`].
const MAX_TAGS_JSON_BYTES: usize = 1_200;

/// Checks the version of a message.
pub fn version(version: u16) -> Result<(), ApiError> {
    if (OLDEST_VERSION..=VERSION).contains(&version) {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "version: this backend speaks {OLDEST_VERSION} to {VERSION}, got {version}"
        )))
    }
}

/// Checks one name.
pub fn name(field: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        Err(format!("{field}: expected a name, got an empty text"))
    } else if value.len() > MAX_NAME_BYTES {
        Err(format!("{field}: expected at most {MAX_NAME_BYTES} bytes, got {}", value.len()))
    } else if value.chars().any(char::is_control) {
        Err(format!("{field}: expected no control characters"))
    } else {
        Ok(())
    }
}

/// Checks a payer's names. `*` is not one: in a budget it means "each one".
pub fn payer(payer: &Payer) -> Result<(), String> {
    let places = [
        ("payer.org", Some(&payer.org)),
        ("payer.team", payer.team.as_ref()),
        ("payer.user", payer.user.as_ref()),
    ];
    for (field, value) in places {
        let Some(value) = value else { continue };
        name(field, value)?;
        if value == "*" {
            return Err(format!("{field}: \"*\" is not the name of one"));
        }
    }
    Ok(())
}

/// Checks what is said of who pays: the payer, or where its org is to be looked up, what it is looked up
/// by and what is known of it.
pub fn who(known: &Payer, lookup: Option<&Lookup>) -> Result<(), String> {
    let Some(lookup) = lookup.filter(|_| known.org.is_empty()) else { return payer(known) };
    check_lookup(lookup)?;
    // Whoever it turns out to be is an org's.
    payer(&Payer { org: "-".to_owned(), ..known.clone() })?;
    lookup.fallback.as_ref().map_or(Ok(()), |fallback| {
        payer(fallback).map_err(|problem| problem.replacen("payer", "lookup.fallback", 1))
    })
}

/// Checks the names of a call.
pub fn call(call: &Call) -> Result<(), String> {
    name("call.provider", &call.provider)?;
    name("call.model", &call.model)
}

/// Checks cost tags: how many, and that names and values are short and of visible characters. A value
/// may be empty.
pub fn tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > MAX_TAGS {
        return Err(format!("tags: expected at most {MAX_TAGS}, got {}", tags.len()));
    }
    for (tag, value) in tags {
        if tag.is_empty() {
            return Err("tags: expected a name, got an empty text".to_owned());
        }
        for (what, text) in [("name", tag), ("value", value)] {
            // The name itself is not repeated: it may be what is wrong.
            if text.len() > MAX_TAG_BYTES {
                let length = text.len();
                return Err(format!(
                    "tags: expected at most {MAX_TAG_BYTES} bytes in a {what}, got {length}"
                ));
            }
            if text.chars().any(char::is_control) {
                return Err(format!("tags: expected no control characters in a {what}"));
            }
        }
    }
    // Names and values of the greatest length fit; quotes and backslashes take two bytes each.
    let length = serde_json::to_string(tags).map_or(usize::MAX, |json| json.len());
    if length > MAX_TAGS_JSON_BYTES {
        return Err(format!("tags: expected at most {MAX_TAGS_JSON_BYTES} bytes as JSON, got {length}"));
    }
    Ok(())
}

/// Checks what costs by the piece: how many kinds, and that names are short and visible.
pub fn units(units: &BTreeMap<String, u64>) -> Result<(), String> {
    if units.len() > MAX_UNITS {
        return Err(format!("units: expected at most {MAX_UNITS}, got {}", units.len()));
    }
    for (unit, count) in units {
        short_name("units", unit)?;
        if i64::try_from(*count).is_err() {
            return Err("units: a count is beyond 9223372036854775807".to_owned());
        }
    }
    Ok(())
}

/// Checks the name of a unit or of a service tier.
pub fn short_name(field: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_UNIT_BYTES {
        return Err(format!(
            "{field}: expected at most {MAX_UNIT_BYTES} bytes in a name, got {}",
            value.len()
        ));
    }
    name(field, value)
}

/// A number of days to look back, `default` if none is given.
pub fn days(given: Option<i32>, default: i32, most: i32) -> Result<i32, String> {
    let days = given.unwrap_or(default);
    if (1..=most).contains(&days) { Ok(days) } else { Err(format!("days: expected 1 to {most}, got {days}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        for (value, good) in [
            ("acme", true),
            ("Größe/x y", true),
            ("", false),
            ("a\0b", false),
            ("a\nb", false),
            (&"x".repeat(256), true),
            (&"x".repeat(257), false),
        ] {
            assert_eq!(name("payer.org", value).is_ok(), good, "{value:?}");
        }
    }

    #[test]
    fn a_payer_can_t_be_each_one() {
        let star = Payer { org: "acme".into(), team: Some("*".into()), user: None };
        assert!(payer(&star).unwrap_err().starts_with("payer.team"));
    }

    #[test]
    fn tags_are_bounded() {
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let many = |count: usize| (0..count).map(|number| (number.to_string(), "x".to_owned())).collect();
        let (longest, too_long) = ("x".repeat(64), "x".repeat(65));
        for (given, problem) in [
            (BTreeMap::new(), None),
            (one("project", "größe x/y"), None),
            (one("project", ""), None),
            (one(&longest, &longest), None),
            (many(8), None),
            (many(9), Some("expected at most 8, got 9")),
            ((0..8).map(|n| (format!("{n:064}"), "x".repeat(64))).collect(), None),
            (
                (0..8).map(|n| (format!("{n:064}"), "\"".repeat(64))).collect(),
                Some("1200 bytes as JSON, got"),
            ),
            (one("", "x"), Some("expected a name")),
            (one(&too_long, "x"), Some("64 bytes in a name, got 65")),
            (one("project", &too_long), Some("64 bytes in a value, got 65")),
            (one("a\nb", "x"), Some("no control characters in a name")),
            (one("project", "a\0b"), Some("no control characters in a value")),
        ] {
            let checked = tags(&given);
            let right = match (&checked, problem) {
                (Ok(()), None) => true,
                (Err(message), Some(part)) => message.starts_with("tags: ") && message.contains(part),
                _ => false,
            };
            assert!(right, "{given:?}: {checked:?}");
        }
    }

    #[test]
    fn units_are_bounded() {
        let one = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let many = |count: usize| (0..count).map(|number| (number.to_string(), 1)).collect();
        let (longest, too_long) = ("x".repeat(64), "x".repeat(65));
        for (given, problem) in [
            (one("images", 3), None),
            (one(&longest, 0), None),
            (many(16), None),
            (many(17), Some("expected at most 16, got 17")),
            (one(&too_long, 1), Some("64 bytes in a name, got 65")),
            (one("", 1), Some("expected a name")),
            (one("a\0", 1), Some("no control characters")),
            (one("images", u64::MAX), Some("beyond")),
        ] {
            let checked = units(&given);
            let right = match (&checked, problem) {
                (Ok(()), None) => true,
                (Err(message), Some(part)) => message.starts_with("units: ") && message.contains(part),
                _ => false,
            };
            assert!(right, "{given:?}: {checked:?}");
        }
    }

    #[test]
    fn other_versions_are_refused() {
        assert!(version(VERSION).is_ok());
        assert!(version(VERSION + 1).is_err());
        assert!(version(0).is_err());
    }
}
