//! Where a listing goes on: what names its last entry, written so that nobody takes it apart.

use std::fmt::Write as _;

/// Longest cursor that is read, bytes: six names of the greatest length.
const MAX_BYTES: usize = 8_192;

/// The cursor of an entry.
pub fn encode(names: &[String]) -> String {
    let text = serde_json::Value::from(names).to_string();
    text.bytes().fold(String::with_capacity(text.len().saturating_mul(2)), |mut hex, byte| {
        // Writing into a text can't fail.
        let _written = write!(hex, "{byte:02x}");
        hex
    })
}

/// What names the entry, `count` texts.
///
/// # Errors
/// What was expected.
pub fn decode(cursor: &str, count: usize) -> Result<Vec<String>, String> {
    let expected = || "cursor: expected the next_cursor of an answer to the same question".to_owned();
    if cursor.len() > MAX_BYTES || !cursor.len().is_multiple_of(2) || !cursor.is_ascii() {
        return Err(expected());
    }
    let byte =
        |at: usize| cursor.get(at..at.saturating_add(2)).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let bytes = (0..cursor.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().ok_or_else(expected)?;
    let names: Vec<String> = serde_json::from_slice(&bytes).map_err(|_| expected())?;
    let sound = names.len() == count && names.iter().all(|name| !name.chars().any(char::is_control));
    if sound { Ok(names) } else { Err(expected()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let names = vec!["größe \"x\"".to_owned(), String::new()];
        let cursor = encode(&names);
        assert!(cursor.bytes().all(|byte| byte.is_ascii_hexdigit()), "{cursor}");
        assert_eq!(decode(&cursor, 2), Ok(names));
        let null = encode(&["a\0b".to_owned()]);
        for (wrong, count) in
            [(cursor.as_str(), 1), ("", 0), ("xyz", 0), ("5", 0), ("+1+1", 0), ("äö", 0), (&null, 1)]
        {
            assert!(decode(wrong, count).unwrap_err().starts_with("cursor: "), "{wrong}");
        }
    }
}
