//! When a call meets what its model costs by and no rate of ours covers: per second, per pixel, by the size of
//! an image, per page.

use super::cost::{Used, is_instead};

/// Words of the names of such prices, and how the units end that an answer tells where it is about them.
/// Characters are told of speech alone, which is sold by its seconds.
const TOLD_BY: [(&str, &[&str]); 9] = [
    ("per_second", &["_seconds", "_characters"]),
    ("pixel", &["images"]),
    ("per_image_", &["images"]),
    ("video", &["video_tokens", "video_input_tokens", "video_output_tokens", "video_seconds", "videos"]),
    ("character", &["_characters"]),
    ("page", &["pages"]),
    ("credit", &["pages"]),
    ("guardrail", &["guardrail_units"]),
    ("tiered_pricing", &["queries", "search_units", "_search_requests"]),
];

/// Whether what a call used tells of the dimension of this name. Pieces that stand for what is paid as tokens
/// tell of none, except time, which costs beside them.
pub(super) fn occurs(name: &str, used: Used<'_>, paid_by_tokens: bool) -> bool {
    let told = TOLD_BY.iter().filter(|(word, _)| name.contains(word)).flat_map(|(_, ends)| *ends);
    let mut told = told.filter(|end| !paid_by_tokens || !is_instead(end) || is_time(end));
    told.any(|end| used.units.iter().any(|(unit, count)| *count > 0 && unit.ends_with(end)))
}

/// Whether a price is one by time.
pub(super) fn is_by_time(name: &str) -> bool {
    name.contains("per_second")
}

fn is_time(unit: &str) -> bool {
    unit.ends_with("_seconds")
}
