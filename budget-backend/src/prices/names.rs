//! What may be a name in the price list: nothing that a look-up can't meet or that forges a line of output.

use purser_protocol::MAX_NAME_BYTES;

/// Longest note on where figures are from, bytes.
pub const MAX_NOTE_BYTES: usize = 4_096;

/// Most of a text that a message repeats, characters.
const MAX_SHOWN_CHARS: usize = 60;

/// Checks a provider, a model, an alias or a unit.
///
/// # Errors
/// The field, and what was expected of it.
pub fn check(field: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_NAME_BYTES {
        return Err(format!("{field}: expected at most {MAX_NAME_BYTES} bytes, got {}", value.len()));
    }
    if value.is_empty() || value.trim() != value || value.chars().any(char::is_control) {
        return Err(format!(
            "{field}: expected a name without control characters and without space around it, got {}",
            shown(value)
        ));
    }
    if value.chars().any(is_unseen) {
        let shown = shown(value);
        return Err(format!("{field}: expected a name without characters that aren't seen, got {shown}"));
    }
    Ok(())
}

/// Whether a character shows nothing, or turns round what stands after it: a name with one looks like another.
const fn is_unseen(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// Checks a note.
///
/// # Errors
/// The field, and what was expected of it.
pub fn check_note(field: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_NOTE_BYTES {
        return Err(format!("{field}: expected at most {MAX_NOTE_BYTES} bytes, got {}", value.len()));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{field}: expected a text without control characters, got {}", shown(value)));
    }
    Ok(())
}

/// A text for a message: quoted, escaped and cut.
#[must_use]
pub fn shown(value: &str) -> String {
    let start: String = value.chars().take(MAX_SHOWN_CHARS).collect();
    let more = if start.len() < value.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_call_has_or_that_forge_lines_are_refused() {
        for good in ["gpt-4o", "*", "models/a b", "a:0", "日本"] {
            assert_eq!(check("model", good), Ok(()), "{good:?}");
        }
        for bad in ["", " ", " a", "a ", "a\nb", "a\0", "\u{1b}[2J", "a\u{85}"] {
            let said = check("model", bad).unwrap_err();
            assert!(said.starts_with("model: expected a name"), "{said}");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
        for unseen in ["gpt\u{200b}-4o", "\u{202e}o4-tpg", "a\u{feff}b", "a\u{2028}b", "soft\u{ad}hyphen"] {
            let said = check("model", unseen).unwrap_err();
            assert!(said.contains("characters that aren't seen") && !said.contains(is_unseen), "{said:?}");
        }
        assert_eq!(check("m", &"x".repeat(256)), Ok(()));
        assert_eq!(check("m", &"x".repeat(257)).unwrap_err(), "m: expected at most 256 bytes, got 257");
        assert_eq!(check_note("note", ""), Ok(()));
        assert!(check_note("note", "a\0").unwrap_err().starts_with("note: expected a text"));
        assert!(check_note("note", &"x".repeat(4_097)).unwrap_err().contains("at most 4096"));
        assert!(shown(&"x".repeat(10_000)).len() < 100);
    }
}
