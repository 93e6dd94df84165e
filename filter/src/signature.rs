//! Requests signed with AWS Signature Version 4: neither their body nor a header that the signature
//! covers may be changed.

use crate::api::Route;
use crate::config::Dialect;
use crate::headers::Headers;

const ALGORITHM: &[u8] = b"AWS4-";

/// Whether a request is signed. Only Bedrock takes signatures: anywhere else what looks like one is the
/// app's own, and no way to have its request left alone. A query that looks signed counts without an
/// `authorization` only, which would be what the call is allowed by.
#[must_use]
pub fn is_signed(headers: &Headers, route: &Route) -> bool {
    if route.dialect != Dialect::Bedrock {
        return false;
    }
    let mut given = headers.all("authorization").peekable();
    if given.peek().is_some() {
        return given.any(|value| value.trim_ascii_start().starts_with(ALGORITHM));
    }
    let path = headers.get(":path").unwrap_or_default();
    query(path).any(|(name, _)| name.eq_ignore_ascii_case(b"x-amz-signature"))
}

/// Whether the signature of a signed request covers a header.
#[must_use]
pub fn covers(headers: &Headers, name: &str) -> bool {
    let is_named = |list: &[u8], between: u8| {
        list.split(|byte| *byte == between).any(|signed| signed.eq_ignore_ascii_case(name.as_bytes()))
    };
    let by_header = headers.all("authorization").any(|value| {
        let mut parts = value.split(|byte| matches!(byte, b',' | b' '));
        parts.any(|part| part.strip_prefix(b"SignedHeaders=").is_some_and(|list| is_named(list, b';')))
    });
    let path = headers.get(":path").unwrap_or_default();
    let by_query = query(path).any(|(key, list)| {
        // The names are separated by an encoded semicolon.
        let text = String::from_utf8_lossy(list).to_ascii_lowercase().replace("%3b", ";");
        key.eq_ignore_ascii_case(b"x-amz-signedheaders") && is_named(text.as_bytes(), b';')
    });
    by_header || by_query
}

fn query(path: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let query = path.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
    query.split(|byte| *byte == b'&').map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use purser_protocol::Api;

    use super::*;
    use crate::headers::serialize;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn tells_what_a_signature_covers() {
        let signed = "AWS4-HMAC-SHA256 Credential=k/d/r/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0";
        let more = signed.replace("host;", "accept-encoding;host;");
        for (pairs, is, covered) in [
            (vec![("authorization", signed)], true, false),
            (vec![("authorization", more.as_str())], true, true),
            (vec![("authorization", "Bearer AWS4-HMAC-SHA256")], false, false),
            (vec![(":path", "/m?X-Amz-Signature=0&X-Amz-SignedHeaders=host%3Baccept-encoding")], true, true),
            (vec![(":path", "/m?x-amz-signature=0&X-Amz-SignedHeaders=host")], true, false),
            (vec![(":path", "/m?signature=0")], false, false),
            (vec![(":path", "/m?X-Amz-Signature=0"), ("authorization", "Bearer k")], false, false),
            (vec![], false, false),
        ] {
            let headers = Headers::parse(serialize(&pairs)).unwrap();
            let bedrock = Route::new(Api::BedrockConverse, Dialect::Bedrock);
            assert_eq!(
                (is_signed(&headers, &bedrock), covers(&headers, "accept-encoding")),
                (is, covered),
                "{pairs:?}"
            );
            let chat = Route::new(Api::OpenaiChat, Dialect::Openai);
            assert!(!is_signed(&headers, &chat), "{pairs:?}: not where nobody reads signatures");
        }
    }
}
