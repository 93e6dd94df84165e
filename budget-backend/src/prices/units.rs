//! Names of what costs by the piece.

use super::names;

/// Pieces that are charged: those that filters count, by the names they give them; those that stand for the
/// call itself or for what was in a cache; and those that models without tokens are sold by, of which a call
/// that tells none is no free one. Price files have a few more (searches by their size), which are kept and
/// never met.
pub const PRICED_BY_THE_PIECE: [&str; 22] = [
    "annotated_pages",
    "audio_seconds",
    "cache_write_audio_input_tokens",
    "cached_audio_input_tokens",
    "cached_image_input_tokens",
    "code_execution_requests",
    "code_interpreter_calls",
    "computer_calls",
    "file_search_calls",
    "image_generation_calls",
    "images",
    "input_characters",
    "input_images",
    "output_characters",
    "pages",
    "queries",
    "requests",
    "search_queries",
    "search_units",
    "text_messages",
    "web_fetch_requests",
    "web_search_requests",
];

/// Checks that calls tell of a piece: a price by any other name would never be charged.
///
/// # Errors
/// What was expected.
pub fn check(name: &str) -> Result<(), String> {
    if PRICED_BY_THE_PIECE.contains(&name) {
        return Ok(());
    }
    let known = PRICED_BY_THE_PIECE.join(", ");
    Err(format!("no call tells of {}; expected one of {known}", names::shown(name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pricing::cost::is_among_tokens;

    /// Names in quotes of some source text that look like a unit's.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('"').skip(1).step_by(2)
    }

    /// What the filter's sources say that it counts.
    fn told_by_the_filter() -> BTreeSet<String> {
        let tables = include_str!("../../../filter/src/usage/tables.rs");
        let of_tables = tables.split("units: &[").skip(1).filter_map(|rest| rest.split_once("],\n"));
        // A pair of where it stands and what it is called: the name comes last.
        let lines = of_tables.flat_map(|(list, _)| list.lines().map(str::to_owned).collect::<Vec<_>>());
        let mut told: BTreeSet<String> =
            lines.filter_map(|line| quoted(&line).last().map(str::to_owned)).collect();
        let (_, tools) =
            include_str!("../../../filter/src/dialect/responses.rs").split_once("const TOOLS").unwrap();
        let (tools, _) = tools.split_once("];").unwrap();
        told.extend(tools.lines().filter_map(|line| quoted(line).last().map(str::to_owned)));
        for (source, call) in [
            (include_str!("../../../filter/src/dialect/chat.rs"), "set_units("),
            (include_str!("../../../filter/src/dialect/gemini.rs"), "set_units("),
            (include_str!("../../../filter/src/dialect/media.rs"), "set_units("),
            (include_str!("../../../filter/src/exchange/end.rs"), "units.insert("),
        ] {
            let names = source.split(call).skip(1).filter(|rest| rest.starts_with('"'));
            told.extend(names.filter_map(|rest| quoted(rest).next().map(str::to_owned)));
        }
        told
    }

    #[test]
    fn what_filters_count_can_be_priced_and_a_misspelt_name_can_t() {
        assert!(PRICED_BY_THE_PIECE.is_sorted());
        let told = told_by_the_filter();
        assert!(
            told.len() >= 12 && told.contains("search_queries") && told.contains("input_characters"),
            "{told:?}"
        );
        let is_unknown = |name: &&String| check(name).is_err() && !is_among_tokens(name);
        let unknown: Vec<_> = told.iter().filter(is_unknown).collect();
        assert!(unknown.is_empty(), "filters count what can't be priced: {unknown:?}");
        let said = check("image").unwrap_err();
        assert!(
            said.starts_with("no call tells of \"image\"; expected one of ") && said.contains(", images,"),
            "{said}"
        );
    }
}
