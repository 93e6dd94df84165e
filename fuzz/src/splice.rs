//! Splices: edits put in where they say, and every other byte as it was.

use purser_filter::splice::{Edit, apply};

use crate::input::Input;

/// Most edits of one case.
const MAX_EDITS: usize = 8;

/// The input: a number of edits, then each as start, length, text's length and whether it is turned
/// around, then the source.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut edits = Vec::new();
    for number in 0..input.below(MAX_EDITS + 1) {
        let start = usize::from(input.byte());
        let end = start + input.below(8);
        let text = vec![b'A' + u8::try_from(number).expect("few edits"); input.below(4)];
        // A range that runs backwards.
        let at = if input.byte() == 255 { end..start } else { start..end };
        edits.push(Edit { at, text });
    }
    let source = input.rest();
    let spliced = apply(source, &edits);
    assert_eq!(spliced.is_ok(), fits(source.len(), &edits), "{edits:?} in {} bytes", source.len());
    if let Ok(spliced) = spliced {
        assert_eq!(spliced, model(source, &edits), "{edits:?}");
        assert_only(source, &edits, &spliced);
    }
}

/// Whether edits lie within the source and don't touch each other's bytes.
fn fits(length: usize, edits: &[Edit]) -> bool {
    let within = |edit: &Edit| edit.at.start <= edit.at.end && edit.at.end <= length;
    let overlap = |a: &Edit, b: &Edit| {
        let (a, b) = (&a.at, &b.at);
        a.start.max(b.start) < a.end.min(b.end)
            || (a.is_empty() && b.start < a.start && a.start < b.end)
            || (b.is_empty() && a.start < b.start && b.start < a.end)
    };
    let apart = |(index, a): (usize, &Edit)| edits.iter().skip(index + 1).all(|b| !overlap(a, b));
    edits.iter().all(within) && edits.iter().enumerate().all(apart)
}

/// The result byte by byte: what is inserted before each, then the byte unless an edit covers it.
fn model(source: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut result = Vec::new();
    for at in 0..=source.len() {
        let starting = || edits.iter().filter(|edit| edit.at.start == at);
        // Inserts go before what is replaced at the same place.
        let inserts = starting().filter(|edit| edit.at.is_empty());
        for edit in inserts.chain(starting().filter(|edit| !edit.at.is_empty())) {
            result.extend_from_slice(&edit.text);
        }
        let covered = edits.iter().any(|edit| edit.at.contains(&at));
        result.extend(source.get(at).filter(|_| !covered));
    }
    result
}

/// Fails unless taking the spliced texts out of `spliced` and putting the source's own bytes back gives
/// the source.
///
/// # Panics
/// See above.
pub fn assert_only(source: &[u8], edits: &[Edit], spliced: &[u8]) {
    let mut sorted: Vec<&Edit> = edits.iter().collect();
    sorted.sort_by_key(|edit| (edit.at.start, edit.at.end));
    let (mut restored, mut rest) = (Vec::new(), spliced);
    for edit in sorted {
        let kept = edit.at.start - restored.len();
        let (before, after) = rest.split_at(kept);
        restored.extend_from_slice(before);
        rest = after.strip_prefix(edit.text.as_slice()).expect("an edit's text stands where it belongs");
        restored.extend_from_slice(source.get(edit.at.clone()).expect("an edit within the source"));
    }
    restored.extend_from_slice(rest);
    assert!(restored == source, "another byte changed: {edits:?}");
}
