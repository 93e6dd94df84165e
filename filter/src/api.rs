//! Which API a request speaks, from its method and path.

use purser_protocol::Api;

/// What a request is, before its body is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognised {
    /// A call that costs money and can be metered.
    Metered(Api),
    /// A method that only reads; it costs nothing.
    Harmless,
    /// Anything else that may cost money.
    Unknown,
}

/// Recognises a request. The path may carry a query; spellings that a server may take for the same
/// path (percent-encoded letters, doubled or trailing slashes, dot segments) count as that path, so
/// that a spelling is no way around the budget.
#[must_use]
pub fn recognise(method: &[u8], path: &[u8]) -> Recognised {
    match method {
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" => Recognised::Harmless,
        b"POST" if plain_segments(path) == ["v1", "chat", "completions"] => {
            Recognised::Metered(Api::OpenaiChat)
        }
        _ => Recognised::Unknown,
    }
}

fn plain_segments(path: &[u8]) -> Vec<String> {
    let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let decoded = percent_decode(path);
    let mut segments = Vec::new();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            name => segments.push(String::from_utf8_lossy(name).into_owned()),
        }
    }
    segments
}

fn percent_decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|pair| (pair, after)),
            _ => None,
        };
        if let Some(((high, low), after)) = escaped {
            decoded.push(high.wrapping_shl(4) | low);
            rest = after;
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn recognises_by_method_and_path() {
        let chat = Recognised::Metered(Api::OpenaiChat);
        for (method, path, expected) in [
            ("POST", "/v1/chat/completions", chat),
            ("POST", "/v1/chat/completions?stream=1&x=%2F", chat),
            ("POST", "/v1/chat/completions#x", chat),
            ("POST", "/v1/chat/completions/", chat),
            ("POST", "//v1//chat/completions", chat),
            ("POST", "/v1/chat/%63ompletions", chat),
            ("POST", "/v1%2Fchat%2fcompletions", chat),
            ("POST", "/v1/x/../chat/./completions", chat),
            ("POST", "/../v1/chat/completions", chat),
            ("GET", "/v1/chat/completions", Recognised::Harmless),
            ("HEAD", "/", Recognised::Harmless),
            ("OPTIONS", "/v1/chat/completions", Recognised::Harmless),
            ("POST", "/v1/chat/completions/abc", Recognised::Unknown),
            ("DELETE", "/v1/chat/completions/abc", Recognised::Unknown),
            ("PUT", "/v1/chat/completions", Recognised::Unknown),
            ("post", "/v1/chat/completions", Recognised::Unknown),
            ("CONNECT", "", Recognised::Unknown),
            ("", "", Recognised::Unknown),
            ("POST", "/v1/embeddings", Recognised::Unknown),
            ("POST", "/v1/chat/completions%", Recognised::Unknown),
            ("POST", "/v1/chat/completions%zz", Recognised::Unknown),
            ("POST", "/v1/chat/%ff", Recognised::Unknown),
        ] {
            assert_eq!(recognise(method.as_bytes(), path.as_bytes()), expected, "{method} {path}");
        }
    }
}
