//! A call of Anthropic's that the server made of several: each is counted in a list of its own.

use purser_protocol::Usage;

use super::{ANTHROPIC, Counts, MAX_TOKENS, read};
use crate::json_scan;

/// The usage of a call whose parts are listed, as when the server summed up a long conversation first.
/// What stands beside the list may leave such parts out; where they come to more, that counts. Nothing
/// when the list can't be read. As documented by the provider, not tried against it.
#[must_use]
pub fn with_iterations(list: &str, told: Usage) -> Option<Usage> {
    let mut sum = Usage::default();
    for item in json_scan::elements(list)? {
        let part = read(item.get(), &ANTHROPIC, &mut Counts::default())?;
        sum = Usage {
            input_tokens: sum.input_tokens.saturating_add(part.input_tokens),
            cached_input_tokens: sum.cached_input_tokens.saturating_add(part.cached_input_tokens),
            cache_write_5m_tokens: sum.cache_write_5m_tokens.saturating_add(part.cache_write_5m_tokens),
            cache_write_1h_tokens: sum.cache_write_1h_tokens.saturating_add(part.cache_write_1h_tokens),
            output_tokens: sum.output_tokens.saturating_add(part.output_tokens),
            reasoning_tokens: sum.reasoning_tokens.saturating_add(part.reasoning_tokens),
            ..sum
        };
    }
    if sum.classes().into_iter().any(|count| count > MAX_TOKENS) {
        return None;
    }
    // A list may leave out how a class is split, so what it has more goes to the class of the rest.
    let written = [sum.cache_write_5m_tokens, sum.cache_write_1h_tokens];
    let told_written = [told.cache_write_5m_tokens, told.cache_write_1h_tokens];
    let made = [sum.output_tokens, sum.reasoning_tokens];
    let told_made = [told.output_tokens, told.reasoning_tokens];
    Some(Usage {
        input_tokens: told.input_tokens.max(sum.input_tokens),
        cached_input_tokens: told.cached_input_tokens.max(sum.cached_input_tokens),
        cache_write_5m_tokens: told.cache_write_5m_tokens.saturating_add(more(written, told_written)),
        output_tokens: told.output_tokens.saturating_add(more(made, told_made)),
        ..told
    })
}

fn more(sum: [u64; 2], told: [u64; 2]) -> u64 {
    let whole = |parts: [u64; 2]| parts.into_iter().fold(0, u64::saturating_add);
    whole(sum).saturating_sub(whole(told))
}
