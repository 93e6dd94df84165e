//! Bounds on what comes in. A name that PostgreSQL would refuse must not reach a batch.

use purser_protocol::{Call, MAX_NAME_BYTES, OLDEST_VERSION, Payer, VERSION};

use super::ApiError;

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

/// Checks the names of a call.
pub fn call(call: &Call) -> Result<(), String> {
    name("call.provider", &call.provider)?;
    name("call.model", &call.model)
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
    fn other_versions_are_refused() {
        assert!(version(VERSION).is_ok());
        assert!(version(VERSION + 1).is_err());
        assert!(version(0).is_err());
    }
}
