//! What a call may cost, before it goes out.

use purser_protocol::Size;

use crate::pricing::{CostOverflow, Rates, sum_of_products};

/// English text runs at about four bytes a token, and the size counts the JSON around the text too,
/// so that this errs on the high side for it.
const TEXT_BYTES_PER_TOKEN: u64 = 4;

/// A full-size image costs about this much with the vision models of today.
const TOKENS_PER_MEDIA_PART: u64 = 1_500;

/// The longest answer any model gives today. A larger cap means the same, and must not let one request
/// reserve a fortune.
const MAX_OUTPUT_TOKENS_PER_CHOICE: u64 = 1_048_576;

/// The most answers one request may ask for, by OpenAI's limit.
const MAX_CHOICES: u32 = 128;

/// Tokens a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Input.
    pub input_tokens: u64,
    /// Output over all choices.
    pub output_tokens: u64,
}

/// Input from the bytes of text and the media parts; output from the request's own cap, or without
/// one from `default_output_tokens` (never the model's maximum: holding that would deny calls whose
/// answers are short), times the number of choices.
#[must_use]
pub fn estimate(size: &Size, default_output_tokens: u64) -> Estimate {
    let text_tokens = size.text_bytes.div_ceil(TEXT_BYTES_PER_TOKEN);
    let media_tokens = u64::from(size.media_parts).saturating_mul(TOKENS_PER_MEDIA_PART);
    let cap = size.max_output_tokens.unwrap_or(default_output_tokens).min(MAX_OUTPUT_TOKENS_PER_CHOICE);
    Estimate {
        input_tokens: text_tokens.saturating_add(media_tokens),
        output_tokens: cap.saturating_mul(u64::from(size.choices.clamp(1, MAX_CHOICES))),
    }
}

impl Estimate {
    /// What these tokens cost at the uncached input rate and the dearest output rate, nano-USD.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn cost_nanousd(&self, rates: &Rates) -> Result<i64, CostOverflow> {
        sum_of_products([(self.input_tokens, rates.input), (self.output_tokens, rates.dearest_output())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_counts_once_per_choice() {
        let size = Size { text_bytes: 401, media_parts: 2, max_output_tokens: Some(50), choices: 3 };
        assert_eq!(estimate(&size, 1024), Estimate { input_tokens: 101 + 3_000, output_tokens: 150 });
    }

    #[test]
    fn without_a_cap_the_default_is_held() {
        let size = Size { text_bytes: 4, choices: 1, ..Size::default() };
        assert_eq!(estimate(&size, 1024), Estimate { input_tokens: 1, output_tokens: 1024 });
        // A missing number of choices is one.
        assert_eq!(estimate(&Size { choices: 0, ..size }, 1024).output_tokens, 1024);
    }

    #[test]
    fn an_absurd_request_reserves_no_more_than_the_longest_answers() {
        let size = Size { max_output_tokens: Some(u64::MAX), choices: u32::MAX, ..Size::default() };
        assert_eq!(estimate(&size, 1).output_tokens, 128 * 1_048_576);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let size = Size { text_bytes: u64::MAX, media_parts: u32::MAX, ..Size::default() };
        let rates = Rates { input: i64::MAX, ..Rates::default() };
        assert_eq!(estimate(&size, 1).cost_nanousd(&rates), Err(CostOverflow));
    }
}
