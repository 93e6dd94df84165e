//! Base64, for the events that Bedrock wraps.

/// Decodes standard base64, padded or not; nothing for anything else.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len().checked_sub(padding)?)?;
    if padding > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(digits.len());
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            bits = bits.checked_shl(6)? | value(*digit)?;
        }
        let missing = u32::try_from(4_usize.checked_sub(group.len())?).ok()?;
        let bytes = bits.checked_shl(missing.checked_mul(6)?)?.to_be_bytes();
        decoded.extend(bytes.iter().skip(1).take(group.len().checked_sub(1)?));
    }
    Some(decoded)
}

fn value(digit: u8) -> Option<u32> {
    Some(match digit {
        b'A'..=b'Z' => u32::from(digit.wrapping_sub(b'A')),
        b'a'..=b'z' => u32::from(digit.wrapping_sub(b'a')).wrapping_add(26),
        b'0'..=b'9' => u32::from(digit.wrapping_sub(b'0')).wrapping_add(52),
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn decodes_what_is_base64() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg", Some(b"foob")),
            ("//79", Some(b"\xff\xfe\xfd")),
            ("Z", None),
            ("Zg=a", None),
            ("Zg===", None),
            ("Z-_v", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
