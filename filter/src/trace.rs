//! The caller's trace, by which the backend's own spans join it.

use crate::headers::Headers;

/// The header, on requests and on callouts (W3C Trace Context).
pub const HEADER: &str = "traceparent";

/// `00-`, 32 digits of the trace, 16 of the caller's span, 2 of flags.
const SHAPE: [usize; 4] = [2, 32, 16, 2];

/// What the request says of its trace; nothing if that isn't well formed, since the backend could not use
/// it either.
#[must_use]
pub fn parent(headers: &Headers) -> Option<String> {
    let value = std::str::from_utf8(headers.get(HEADER)?).ok()?;
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = value.split('-');
    let is_well_formed =
        SHAPE.iter().all(|length| parts.next().is_some_and(|part| part.len() == *length && is_hex(part)));
    (is_well_formed && parts.next().is_none()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::serialize;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(value: &str) -> Option<String> {
        parent(&Headers::parse(serialize(&[(HEADER, value)])).unwrap())
    }

    #[test]
    fn only_what_is_well_formed_is_handed_on() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(of(good).as_deref(), Some(good));
        let spoilt = [
            "",
            "00",
            &good.to_uppercase(),
            &good.replace('-', "_"),
            &format!("{good}-00"),
            &format!("{good}\r\nx: y"),
            &good.replacen("0a", "0", 1),
            &good.replacen("0a", "ü", 1),
        ];
        for value in spoilt {
            assert_eq!(of(value), None, "{value:?}");
        }
    }
}
