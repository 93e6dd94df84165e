//! What a call may cost, before it goes out.

use purser_protocol::Size;

use crate::pricing::{CostOverflow, Price, sum_of_products};

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

/// What a provider adds around the text it is sent, tokens. The bytes count the JSON around each
/// message already, which is longer than what marks a message for the model.
const OVERHEAD_TOKENS: u64 = 256;

/// The most a call can cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Nano-USD.
    pub amount_nanousd: i64,
    /// The output cap it counts on and the request lacks, tokens per choice: it has to be written
    /// into the request.
    pub output_cap_tokens: Option<u64>,
}

/// The most input tokens that a request without media and without context elsewhere can have: every byte
/// of text a token, since no tokenizer makes more of it, and what a provider adds.
#[must_use]
pub const fn most_input_tokens(size: &Size) -> u64 {
    size.text_bytes.saturating_add(OVERHEAD_TOKENS)
}

/// The true upper bound of what a call may cost at `price`, which must be the dearest of what the call
/// may meet: all input at the dearest class of text; the cap, or `default_cap_tokens` if there is none,
/// for every choice at the dearest class of output; and what each call costs by itself.
///
/// # Errors
/// What can't be bounded.
pub fn upper_bound(size: &Size, price: &Price, default_cap_tokens: u64) -> Result<Bound, &'static str> {
    if size.media_parts > 0 {
        return Err("media in the request");
    }
    if size.server_context {
        return Err("the model reads more than the request carries");
    }
    if !price.is_known() {
        return Err("a model without a price of its own");
    }
    if ["input", "output"].iter().any(|class| price.unpriced.contains(*class)) {
        return Err("a model whose tokens have no known price");
    }
    if size.unchangeable && size.max_output_tokens.is_none() {
        return Err("a request without an output cap, which can't be given one");
    }
    let output_cap_tokens = size.max_output_tokens.is_none().then_some(default_cap_tokens);
    let cap = size.max_output_tokens.unwrap_or(default_cap_tokens);
    let output_tokens = cap.saturating_mul(size.choices.max(1).into());
    let rates = &price.rates;
    let classes = [
        (most_input_tokens(size), rates.dearest_text_input()),
        (output_tokens, rates.dearest_output()),
        (1, price.terms.per_call()),
    ];
    let amount_nanousd = sum_of_products(classes).map_err(|_| "an output cap beyond all measure")?;
    Ok(Bound { amount_nanousd, output_cap_tokens })
}

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
    /// What these tokens cost at the uncached input rate and the dearer of text and reasoning, nano-USD,
    /// with what each call costs by itself.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn cost_nanousd(&self, price: &Price) -> Result<i64, CostOverflow> {
        let rates = price.expected_rates(self.input_tokens);
        sum_of_products([
            (self.input_tokens, rates.input),
            (self.output_tokens, rates.output.max(rates.reasoning)),
            (1, price.terms.per_call()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::{PriceBook, PriceMatch, PriceRow, Rates, Terms};
    use std::sync::Arc;

    #[test]
    fn the_cap_counts_once_per_choice() {
        let size = Size {
            text_bytes: 401,
            media_parts: 2,
            max_output_tokens: Some(50),
            choices: 3,
            ..Size::default()
        };
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

    fn price(matched: PriceMatch) -> Price {
        let rates = Rates {
            input: 1_000_000,
            cache_write_1h: 2_000_000,
            output: 10_000_000,
            reasoning: 11_000_000,
            ..Rates::default()
        };
        Price { matched, ..priced(rates, Terms::default()) }
    }

    fn priced(rates: Rates, terms: Terms) -> Price {
        let row = PriceRow {
            price_id: 1,
            provider: "p".into(),
            model: "m".into(),
            effective_from_unix_s: 0,
            rates,
            reasons: false,
            terms: Arc::new(terms),
            unpriced: Arc::default(),
        };
        PriceBook::new([row], []).find("p", "m", 0).unwrap()
    }

    #[test]
    fn a_bound_takes_the_dearest_of_everything() {
        let size = Size { text_bytes: 744, max_output_tokens: Some(50), choices: 3, ..Size::default() };
        let bound = upper_bound(&size, &price(PriceMatch::Exact), 4_096).unwrap();
        assert_eq!(bound, Bound { amount_nanousd: 2 * 1_000 + 11 * 150, output_cap_tokens: None });
    }

    #[test]
    fn a_missing_cap_is_written_into_the_request() {
        let size = Size { choices: 2, ..Size::default() };
        let bound = upper_bound(&size, &price(PriceMatch::Undated), 100).unwrap();
        assert_eq!(bound, Bound { amount_nanousd: 2 * 256 + 11 * 200, output_cap_tokens: Some(100) });
    }

    #[test]
    fn what_has_no_bound_is_said() {
        let exact = price(PriceMatch::Exact);
        assert!(upper_bound(&Size { media_parts: 1, ..Size::default() }, &exact, 1).is_err());
        assert!(upper_bound(&Size::default(), &price(PriceMatch::Ceiling), 1).is_err());
        let elsewhere = Size { server_context: true, max_output_tokens: Some(1), ..Size::default() };
        assert!(upper_bound(&elsewhere, &exact, 1).is_err());
        let signed = Size { unchangeable: true, ..Size::default() };
        assert!(upper_bound(&signed, &exact, 1).is_err());
        assert!(upper_bound(&Size { max_output_tokens: Some(1), ..signed }, &exact, 1).is_ok());
        let unpriced = Price { unpriced: Arc::new(["output".to_owned()].into()), ..exact.clone() };
        assert!(upper_bound(&Size::default(), &unpriced, 1).is_err());
        let absurd = Size { max_output_tokens: Some(u64::MAX), choices: 9, ..Size::default() };
        assert!(upper_bound(&absurd, &exact, 1).is_err());
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        let size = Size { text_bytes: u64::MAX, media_parts: u32::MAX, ..Size::default() };
        let rates = Rates { input: i64::MAX, ..Rates::default() };
        assert_eq!(estimate(&size, 1).cost_nanousd(&priced(rates, Terms::default())), Err(CostOverflow));
    }

    #[test]
    fn a_call_s_own_price_and_its_size_count_in_the_estimate_and_the_bound() {
        use crate::pricing::SizeTier;
        let rates = Rates { input: 1_000_000, output: 1_000_000, ..Rates::default() };
        let dear = Rates { input: 3_000_000, output: 5_000_000, ..Rates::default() };
        let terms = Terms {
            sizes: vec![SizeTier { above_input_tokens: 100, at_threshold: false, rates: dear }],
            units_nanousd_per_million: [("requests".to_owned(), 7_000_000)].into(),
            ..Terms::default()
        };
        let price = priced(rates, terms);
        let cost = |input_tokens| Estimate { input_tokens, output_tokens: 10 }.cost_nanousd(&price).unwrap();
        assert_eq!((cost(100), cost(101)), (100 + 10 + 7, 303 + 50 + 7));
        let bound = upper_bound(&Size { max_output_tokens: Some(10), ..Size::default() }, &price, 1).unwrap();
        assert_eq!(bound.amount_nanousd, 256 + 10 + 7);
    }
}
