//! Who pays, from the headers that a trusted hop set.

use std::fmt;

use purser_protocol::{MAX_NAME_BYTES, Payer};

use crate::config::{Config, Unidentified, is_name};
use crate::headers::{HeaderEdit, Headers};

/// Why nobody can be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// The org's header, named here, is missing, and there is no default payer.
    Missing(String),
    /// The header, named here, stands there more than once, so that it isn't clear who pays.
    Repeated(String),
    /// The header, named here, holds no usable name.
    NotAName(String),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(header) => write!(f, "header {header} is missing"),
            Self::Repeated(header) => write!(f, "header {header} is given more than once"),
            Self::NotAName(header) => write!(
                f,
                "header {header}: expected at most {MAX_NAME_BYTES} bytes of UTF-8 without control characters"
            ),
        }
    }
}

/// Resolves the payer. A call without an org falls to the configured payer, as a whole.
///
/// # Errors
/// [`IdentityError`]; a header that is there but wrong is never taken for a missing one.
pub fn payer(headers: &Headers, config: &Config) -> Result<Payer, IdentityError> {
    let names = &config.identity;
    let org = name(headers, &names.org_header)?;
    let team = name(headers, &names.team_header)?;
    let user = name(headers, &names.user_header)?;
    match (org, &config.unidentified) {
        (Some(org), _) => Ok(Payer { org, team, user }),
        (None, Unidentified::Payer(payer)) => Ok(payer.clone()),
        (None, Unidentified::Deny) => Err(IdentityError::Missing(names.org_header.clone())),
    }
}

/// Takes the payer's headers out of a request.
#[must_use]
pub fn strip(config: &Config) -> Vec<HeaderEdit> {
    let names = &config.identity;
    [&names.org_header, &names.team_header, &names.user_header]
        .map(|name| HeaderEdit::Remove(name.clone()))
        .to_vec()
}

fn name(headers: &Headers, header: &str) -> Result<Option<String>, IdentityError> {
    let mut values = headers.all(header);
    let value = values.next().map_or(&b""[..], <[u8]>::trim_ascii);
    if values.next().is_some() {
        return Err(IdentityError::Repeated(header.to_owned()));
    }
    match std::str::from_utf8(value) {
        Ok("") => Ok(None),
        Ok(name) if is_name(name) => Ok(Some(name.to_owned())),
        _ => Err(IdentityError::NotAName(header.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::serialize;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn config(unidentified: &str) -> Config {
        let json = format!(
            r#"{{"backend":{{"cluster":"b","token":"0123456789abcdef"}},"provider":"p",
                "identity":{{"org":{{"header":"x-o"}},"team":{{"header":"x-t"}},"user":{{"header":"x-u"}}}},
                "unidentified":{unidentified}}}"#
        );
        Config::parse(json.as_bytes()).unwrap()
    }

    fn resolve(pairs: &[(&str, &[u8])], unidentified: &str) -> Result<Payer, IdentityError> {
        let headers = Headers::parse(serialize(pairs)).unwrap();
        payer(&headers, &config(unidentified))
    }

    fn named(org: &str, team: Option<&str>, user: Option<&str>) -> Payer {
        Payer { org: org.to_owned(), team: team.map(str::to_owned), user: user.map(str::to_owned) }
    }

    #[test]
    fn resolves_or_says_why_not() {
        let long = [b'x'; 257];
        let default = r#"{"org":"demo","team":"default"}"#;
        let header = |name: &str| name.to_owned();
        for (pairs, unidentified, expected) in [
            (
                vec![("x-o", &b"acme"[..]), ("x-t", b" search "), ("x-u", b"ann")],
                "\"deny\"",
                Ok(named("acme", Some("search"), Some("ann"))),
            ),
            (vec![("x-o", b"acme"), ("x-t", b"")], "\"deny\"", Ok(named("acme", None, None))),
            (vec![("x-o", "m\u{fc}ller".as_bytes())], "\"deny\"", Ok(named("m\u{fc}ller", None, None))),
            (vec![], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
            (vec![("x-t", b"search")], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
            (vec![("x-o", b" ")], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
            (vec![("x-t", b"search")], default, Ok(named("demo", Some("default"), None))),
            (vec![("x-o", b"acme")], default, Ok(named("acme", None, None))),
            (vec![("x-o", b"a"), ("x-o", b"b")], default, Err(IdentityError::Repeated(header("x-o")))),
            (vec![("x-u", b"a"), ("x-u", b"a")], default, Err(IdentityError::Repeated(header("x-u")))),
            (vec![("x-o", b"\xff")], default, Err(IdentityError::NotAName(header("x-o")))),
            (vec![("x-o", &long[..])], default, Err(IdentityError::NotAName(header("x-o")))),
            (vec![("x-o", b"a\tb")], default, Err(IdentityError::NotAName(header("x-o")))),
        ] {
            assert_eq!(resolve(&pairs, unidentified), expected, "{pairs:?}");
        }
    }
}
