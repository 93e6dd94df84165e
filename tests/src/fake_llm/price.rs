//! The fake provider's own price list and billing arithmetic.

use serde::Serialize;

/// Rates of a model in pico-USD (10⁻¹² USD) a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Prompt tokens that were not cached.
    pub input_picousd: u64,
    /// Prompt tokens read from the cache.
    pub cached_picousd: u64,
    /// Completion tokens, reasoning included.
    pub output_picousd: u64,
}

/// Tokens as they are billed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BilledTokens {
    /// Prompt tokens that were not cached.
    pub input_tokens: u64,
    /// Prompt tokens read from the cache.
    pub cached_tokens: u64,
    /// Completion tokens of all choices, reasoning included.
    pub output_tokens: u64,
    /// How many of `output_tokens` are reasoning; not billed again.
    pub reasoning_tokens: u64,
}

const fn price(input_picousd: u64, cached_picousd: u64, output_picousd: u64) -> Price {
    Price { input_picousd, cached_picousd, output_picousd }
}

/// Model and rates. 1,000,000 pico-USD a token is 1 USD a million tokens.
const PRICES: &[(&str, Price)] = &[
    ("gpt-4o-mini", price(150_000, 75_000, 600_000)),
    ("gpt-4o", price(2_500_000, 1_250_000, 10_000_000)),
    ("gpt-4.1", price(2_000_000, 500_000, 8_000_000)),
    ("gpt-4.1-mini", price(400_000, 100_000, 1_600_000)),
    ("gpt-5.4", price(2_500_000, 250_000, 15_000_000)),
    ("gpt-5.4-mini", price(750_000, 75_000, 4_500_000)),
    ("gpt-5.4-nano", price(200_000, 20_000, 1_250_000)),
    ("o4-mini", price(1_100_000, 275_000, 4_400_000)),
];

/// The models on the price list.
pub fn models() -> impl Iterator<Item = &'static str> {
    PRICES.iter().map(|(model, _)| *model)
}

/// The price of a model, by its name or by its name with a date (`gpt-4o-mini-2024-07-18`).
#[must_use]
pub fn price_of(model: &str) -> Option<Price> {
    let listed = |name: &str| PRICES.iter().find(|(listed, _)| *listed == name).map(|(_, price)| *price);
    listed(model).or_else(|| listed(without_date(model)?))
}

/// `model` without a trailing `-YYYY-MM-DD`, when it has one.
fn without_date(model: &str) -> Option<&str> {
    let (name, date) = model.split_at_checked(model.len().checked_sub(11)?)?;
    let dated = date.bytes().enumerate().all(|(at, byte)| match at {
        0 | 5 | 8 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    dated.then_some(name)
}

/// What these tokens cost, in nano-USD, rounded up. Saturates far beyond any bill.
#[must_use]
pub fn amount_nanousd(price: Price, tokens: BilledTokens) -> u64 {
    let picousd = [
        (tokens.input_tokens, price.input_picousd),
        (tokens.cached_tokens, price.cached_picousd),
        (tokens.output_tokens, price.output_picousd),
    ]
    .into_iter()
    .map(|(tokens, picousd)| u128::from(tokens) * u128::from(picousd))
    .sum::<u128>();
    u64::try_from(picousd.div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_date_have_the_same_price() {
        for (model, expected) in [
            ("gpt-4o-mini", Some(600_000)),
            ("gpt-4o-mini-2024-07-18", Some(600_000)),
            ("gpt-4o", Some(10_000_000)),
            ("gpt-4o-2024-08-06", Some(10_000_000)),
            ("gpt-4o-mini-2024-7-18", None),
            ("gpt-4o-minimal", None),
            ("-2024-07-18", None),
            ("2024-07-18", None),
            ("gpt-9", None),
            ("", None),
            ("日本語のモデル名", None),
        ] {
            let output = price_of(model).map(|price| price.output_picousd);
            assert_eq!(output, expected, "{model}");
        }
    }

    #[test]
    fn bills_each_class_at_its_rate() {
        let price = price_of("gpt-4o-mini").expect("a listed model");
        let tokens =
            BilledTokens { input_tokens: 800, cached_tokens: 200, output_tokens: 100, reasoning_tokens: 60 };
        // 800 × 150 + 200 × 75 + 100 × 600 nano-USD.
        assert_eq!(amount_nanousd(price, tokens), 195_000);
    }

    #[test]
    fn rounds_up_once_for_the_whole_answer() {
        let tokens = |input_tokens, output_tokens| BilledTokens {
            input_tokens,
            output_tokens,
            ..BilledTokens::default()
        };
        let rates = price(300, 0, 300);
        assert_eq!(amount_nanousd(rates, tokens(0, 0)), 0);
        assert_eq!(amount_nanousd(rates, tokens(1, 1)), 1);
        assert_eq!(amount_nanousd(rates, tokens(2, 2)), 2);
        assert_eq!(amount_nanousd(rates, tokens(u64::MAX, u64::MAX)), 11_068_046_444_225_730_969);
    }
}
