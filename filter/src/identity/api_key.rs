//! The fingerprint of the API key that an app sends to its provider. The key itself goes no further.

use sha2::{Digest as _, Sha256};

use super::IdentityError;
use crate::api::path::percent_decode;
use crate::headers::Headers;

/// Schemes of `authorization` after which the key stands; of `Basic` it is name and password together, as
/// they stand there, in base64.
const SCHEMES: [&[u8]; 2] = [b"bearer", b"basic"];

const HEADERS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// SHA-256 of the key in 64 hexadecimal digits; nothing without a key. A signature is none.
///
/// # Errors
/// [`IdentityError::Repeated`] when several keys are given that differ: nobody knows which of them the
/// provider takes.
pub fn fingerprint(headers: &Headers) -> Result<Option<String>, IdentityError> {
    let authorization = headers.all("authorization").filter_map(|value| {
        let value = value.trim_ascii_start();
        let end = value.iter().position(u8::is_ascii_whitespace)?;
        let (scheme, key) = value.split_at_checked(end)?;
        SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)).then(|| key.to_vec())
    });
    let plain =
        HEADERS.into_iter().flat_map(|name| headers.all(name).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let path = headers.get(":path").unwrap_or_default();
    let query = path.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    let in_query = query.split(|byte| *byte == b'&').filter_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next()?, halves.next()?);
        (percent_decode(name) == b"key").then(|| percent_decode(value))
    });
    let keys = authorization.chain(plain).chain(in_query);
    let mut found: Option<Vec<u8>> = None;
    for key in keys {
        let key = key.trim_ascii();
        match &found {
            _ if key.is_empty() => {}
            // A header that was given twice may come joined; no provider's key has a comma.
            _ if key.contains(&b',') => return Err(IdentityError::Repeated("API key".to_owned())),
            None => found = Some(key.to_vec()),
            Some(first) if first == key => {}
            Some(_) => return Err(IdentityError::Repeated("API key".to_owned())),
        }
    }
    Ok(found.map(|key| hex(&Sha256::digest(key))))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte.wrapping_shr(4)), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::serialize;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(pairs: &[(&str, &str)]) -> Result<Option<String>, IdentityError> {
        fingerprint(&Headers::parse(serialize(pairs)).unwrap())
    }

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_key_is_found_wherever_providers_take_it() {
        for pairs in [
            [("authorization", "Bearer abc")],
            [("authorization", "bearer  abc ")],
            [("authorization", "Bearer\tabc")],
            [("authorization", "Basic abc")],
            [("authorization", " BASIC  abc ")],
            [(":path", "/m?%6bey=abc")],
            [("x-api-key", "abc")],
            [("api-key", "abc")],
            [("x-goog-api-key", "abc")],
            [(":path", "/v1beta/models/m:generateContent?alt=sse&key=abc")],
            [(":path", "/m?key=%61bc")],
        ] {
            assert_eq!(of(&pairs), Ok(Some(ABC.to_owned())), "{pairs:?}");
        }
        assert_eq!(of(&[("x-api-key", "abc"), ("authorization", "Bearer abc")]), Ok(Some(ABC.to_owned())));
    }

    #[test]
    fn no_key_is_none_and_two_are_refused() {
        for pairs in [
            vec![],
            vec![("authorization", "AWS4-HMAC-SHA256 Credential=x")],
            vec![("authorization", "abc")],
            vec![("authorization", "Digest abc")],
            vec![("authorization", "Bearerabc")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Basic")],
            vec![("x-api-key", " ")],
            vec![(":path", "/m?monkey=abc")],
        ] {
            assert_eq!(of(&pairs), Ok(None), "{pairs:?}");
        }
        assert!(of(&[("authorization", "Bearer abc, Bearer abd")]).is_err());
        for other in [
            ("authorization", "Bearer abd"),
            ("authorization", "Basic abd"),
            (":path", "/?key=abd"),
            ("api-key", "abd"),
            ("x-api-key", "b"),
        ] {
            let two = of(&[("x-api-key", "abc"), other]);
            assert_eq!(two, Err(IdentityError::Repeated("API key".to_owned())), "{other:?}");
        }
    }
}
