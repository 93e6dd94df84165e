//! A path as its server reads it.

/// The segments of a path without its query, decoded, empty and dot segments resolved.
pub fn plain_segments(path: &[u8]) -> Vec<String> {
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

/// Whether every server reads a path in the same segments: none is a dot segment, and none has an encoded
/// slash but in an ARN.
pub fn is_literal(path: &[u8]) -> bool {
    let plain = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut segments = plain.split(|byte| *byte == b'/').map(percent_decode);
    segments.all(|segment| {
        let is_split = segment.contains(&b'/') && !segment.starts_with(b"arn:");
        !is_split && !segment.contains(&b'#') && segment != b"." && segment != b".."
    })
}

/// Bytes with their percent escapes resolved; what only looks like one stays.
pub fn percent_decode(path: &[u8]) -> Vec<u8> {
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
