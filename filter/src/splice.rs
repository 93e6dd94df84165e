//! Changing a few bytes of a body and leaving all others as they are.

use std::fmt;
use std::ops::Range;

/// One replacement. An empty range inserts before its start, an empty text deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The bytes to replace.
    pub at: Range<usize>,
    /// What stands there afterwards.
    pub text: Vec<u8>,
}

impl Edit {
    /// Replaces a range.
    pub fn replace(at: Range<usize>, text: impl Into<Vec<u8>>) -> Self {
        Self { at, text: text.into() }
    }

    /// Inserts before a position.
    pub fn insert(at: usize, text: impl Into<Vec<u8>>) -> Self {
        Self::replace(at..at, text)
    }

    /// Deletes a range.
    #[must_use]
    pub fn delete(at: Range<usize>) -> Self {
        Self::replace(at, Vec::new())
    }
}

/// The edits overlap or reach beyond the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("edits that overlap or reach beyond the body")
    }
}

/// Applies edits, given in any order; inserts at one place keep their order.
///
/// # Errors
/// [`Unfit`], and then nothing is changed.
pub fn apply(source: &[u8], edits: &[Edit]) -> Result<Vec<u8>, Unfit> {
    // There are only ever a few; inserting keeps the order of those at one place.
    let mut sorted: Vec<&Edit> = Vec::with_capacity(edits.len());
    for edit in edits {
        let place = |other: &&Edit| (other.at.start, other.at.end) <= (edit.at.start, edit.at.end);
        sorted.insert(sorted.partition_point(place), edit);
    }
    let added = sorted.iter().fold(0_usize, |sum, edit| sum.saturating_add(edit.text.len()));
    let mut result = Vec::with_capacity(source.len().saturating_add(added));
    let mut copied_to = 0;
    for edit in sorted {
        result.extend_from_slice(source.get(copied_to..edit.at.start).ok_or(Unfit)?);
        source.get(edit.at.clone()).ok_or(Unfit)?;
        result.extend_from_slice(&edit.text);
        copied_to = edit.at.end;
    }
    result.extend_from_slice(source.get(copied_to..).ok_or(Unfit)?);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn changes_what_it_says_and_nothing_else() {
        let edits = [
            Edit::replace(6..11, "there"),
            Edit::insert(0, ">"),
            Edit::insert(0, ">"),
            Edit::delete(5..6),
            Edit::insert(11, "!"),
        ];
        assert_eq!(apply(b"hello world", &edits).unwrap(), b">>hellothere!");
        assert_eq!(apply(b"", &[]).unwrap(), b"");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let reversed = Edit { at: Range { start: 3, end: 1 }, text: Vec::new() };
        for edits in [
            vec![Edit::delete(0..4)],
            vec![Edit::insert(4, "x")],
            vec![Edit::delete(0..2), Edit::delete(1..3)],
            vec![Edit::delete(0..2), Edit::insert(1, "x")],
            vec![reversed],
        ] {
            assert_eq!(apply(b"abc", &edits), Err(Unfit), "{edits:?}");
        }
    }

    /// Every pair of ranges over a short text, against the obvious model: bytes outside the ranges
    /// stay, in order.
    #[test]
    fn keeps_every_byte_outside_the_edits() {
        let source = b"0123456";
        for a in 0..=source.len() {
            for b in a..=source.len() {
                for c in b..=source.len() {
                    for d in c..=source.len() {
                        let edits = [Edit::replace(c..d, "Y"), Edit::replace(a..b, "X")];
                        let mut model = source[..a].to_vec();
                        model.push(b'X');
                        model.extend_from_slice(&source[b..c]);
                        model.push(b'Y');
                        model.extend_from_slice(&source[d..]);
                        // Two inserts at one place keep the order given.
                        if a == b && b == c && c == d {
                            model.swap(a, a + 1);
                        }
                        assert_eq!(apply(source, &edits).unwrap(), model, "{edits:?}");
                    }
                }
            }
        }
    }
}
