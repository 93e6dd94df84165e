//! The fake provider's own price list and billing arithmetic.

use serde::Serialize;

/// Rates of a model in pico-USD (10⁻¹² USD) a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Prompt tokens that are in no other class.
    pub input_picousd: u64,
    /// Prompt tokens read from the cache.
    pub cached_picousd: u64,
    /// Prompt tokens written to the cache for 5 minutes.
    pub cache_write_5m_picousd: u64,
    /// Prompt tokens written to the cache for an hour.
    pub cache_write_1h_picousd: u64,
    /// Audio in the prompt.
    pub audio_input_picousd: u64,
    /// Completion tokens, reasoning included.
    pub output_picousd: u64,
    /// What the model costs by the piece: a search, an image, a second, a character.
    pub piece_picousd: u64,
}

/// Tokens as they are billed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BilledTokens {
    /// Prompt tokens that are in no other class.
    pub input_tokens: u64,
    /// Prompt tokens read from the cache.
    pub cached_tokens: u64,
    /// Prompt tokens written to the cache for 5 minutes, or for a time the API doesn't tell.
    pub cache_write_5m_tokens: u64,
    /// Prompt tokens written to the cache for an hour.
    pub cache_write_1h_tokens: u64,
    /// Audio in the prompt, in no other class.
    pub audio_input_tokens: u64,
    /// Completion tokens of all choices, reasoning included.
    pub output_tokens: u64,
    /// How many of `output_tokens` are reasoning; not billed again.
    pub reasoning_tokens: u64,
    /// What is billed by the piece: searches, images, seconds, characters.
    pub pieces: u64,
}

/// What a listed model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OpenAiChat,
    OpenAiOther,
    Others,
}

/// Rates where a cache write costs what input costs, and audio too.
const fn price(input: u64, cached: u64, output: u64) -> Price {
    Price {
        input_picousd: input,
        cached_picousd: cached,
        cache_write_5m_picousd: input,
        cache_write_1h_picousd: input,
        audio_input_picousd: input,
        output_picousd: output,
        piece_picousd: 0,
    }
}

/// Rates and what a piece costs.
const fn with_pieces(price: Price, piece: u64) -> Price {
    Price { piece_picousd: piece, ..price }
}

/// Rates where a cache write costs a quarter more than input, and for an hour twice as much.
const fn claude(input: u64, cached: u64, output: u64) -> Price {
    Price {
        cache_write_5m_picousd: input / 4 * 5,
        cache_write_1h_picousd: input * 2,
        ..price(input, cached, output)
    }
}

/// Rates with a price of its own for audio.
const fn with_audio(price: Price, audio_input: u64) -> Price {
    Price { audio_input_picousd: audio_input, ..price }
}

/// A search of the web.
const SEARCH: u64 = 10_000_000_000;

/// Model and rates. 1,000,000 pico-USD a token is 1 USD a million tokens.
const PRICES: &[(&str, Kind, Price)] = &[
    ("gpt-4o-mini", Kind::OpenAiChat, with_pieces(price(150_000, 75_000, 600_000), SEARCH * 5 / 2)),
    ("gpt-4o", Kind::OpenAiChat, price(2_500_000, 1_250_000, 10_000_000)),
    ("gpt-4.1", Kind::OpenAiChat, price(2_000_000, 500_000, 8_000_000)),
    ("gpt-4.1-mini", Kind::OpenAiChat, price(400_000, 100_000, 1_600_000)),
    ("gpt-5.4", Kind::OpenAiChat, price(2_500_000, 250_000, 15_000_000)),
    ("gpt-5.4-mini", Kind::OpenAiChat, price(750_000, 75_000, 4_500_000)),
    ("gpt-5.4-nano", Kind::OpenAiChat, price(200_000, 20_000, 1_250_000)),
    ("o4-mini", Kind::OpenAiChat, price(1_100_000, 275_000, 4_400_000)),
    ("gpt-3.5-turbo", Kind::OpenAiChat, price(500_000, 500_000, 1_500_000)),
    ("gpt-3.5-turbo-instruct", Kind::OpenAiOther, price(1_500_000, 1_500_000, 2_000_000)),
    ("text-embedding-3-small", Kind::OpenAiOther, price(20_000, 20_000, 0)),
    ("text-embedding-3-large", Kind::OpenAiOther, price(130_000, 130_000, 0)),
    ("gpt-image-1", Kind::OpenAiOther, price(5_000_000, 1_250_000, 40_000_000)),
    ("dall-e-3", Kind::OpenAiOther, with_pieces(price(0, 0, 0), 40_000_000_000)),
    ("gpt-4o-transcribe", Kind::OpenAiOther, with_audio(price(2_500_000, 2_500_000, 10_000_000), 6_000_000)),
    ("whisper-1", Kind::OpenAiOther, with_pieces(price(0, 0, 0), 100_000_000)),
    ("tts-1", Kind::OpenAiOther, with_pieces(price(0, 0, 0), 15_000_000)),
    ("claude-sonnet-4-5", Kind::Others, with_pieces(claude(3_000_000, 300_000, 15_000_000), SEARCH)),
    ("claude-haiku-4-5", Kind::Others, claude(1_000_000, 100_000, 5_000_000)),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", Kind::Others, claude(3_300_000, 330_000, 16_500_000)),
    ("gemini-2.5-flash", Kind::Others, with_audio(price(300_000, 30_000, 2_500_000), 1_000_000)),
    ("gemini-embedding-001", Kind::Others, price(150_000, 150_000, 0)),
    ("gemini-2.5-pro", Kind::Others, price(1_250_000, 125_000, 10_000_000)),
    ("mistral-large-latest", Kind::Others, price(500_000, 50_000, 1_500_000)),
    ("mistral-small-latest", Kind::Others, price(150_000, 15_000, 600_000)),
    ("deepseek-chat", Kind::Others, price(280_000, 28_000, 420_000)),
    ("command-r-08-2024", Kind::Others, price(150_000, 150_000, 600_000)),
    ("embed-v4.0", Kind::Others, price(120_000, 120_000, 0)),
    ("rerank-v3.5", Kind::Others, with_pieces(price(0, 0, 0), 2_000_000_000)),
    // Served on hardware of one's own, which costs something, too.
    ("meta-llama/Llama-3.1-8B-Instruct", Kind::Others, price(20_000, 20_000, 30_000)),
    ("llama3.2", Kind::Others, price(10_000, 10_000, 20_000)),
];

/// OpenAI's chat models on the price list.
pub fn models() -> impl Iterator<Item = &'static str> {
    PRICES.iter().filter(|(_, kind, _)| *kind == Kind::OpenAiChat).map(|(model, ..)| *model)
}

/// The price of a model, by its name or by its name with a date (`gpt-4o-mini-2024-07-18`,
/// `claude-sonnet-4-5-20250929`), after a vendor or not (`openai/gpt-4o-mini`).
#[must_use]
pub fn price_of(model: &str) -> Option<Price> {
    let listed = |name: &str| PRICES.iter().find(|(listed, ..)| *listed == name).map(|(.., price)| *price);
    let of_name = |name: &str| listed(name).or_else(|| listed(without_date(name)?));
    of_name(model).or_else(|| of_name(model.split_once('/')?.1))
}

/// The listed model with the longest name that `name` ends in: deployments are called after what
/// they deploy.
#[must_use]
pub fn model_in(name: &str) -> Option<&'static str> {
    let ending = PRICES.iter().map(|(model, ..)| *model).filter(|model| name.ends_with(model));
    ending.max_by_key(|model| model.len())
}

/// `model` without a trailing `-YYYY-MM-DD` or `-YYYYMMDD`, when it has one.
fn without_date(model: &str) -> Option<&str> {
    let is_date = |date: &str, dashes: &[usize]| {
        date.bytes()
            .enumerate()
            .all(|(at, byte)| if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_digit() })
    };
    let split = |length: usize| model.split_at_checked(model.len().checked_sub(length)?);
    let long = split(11).filter(|(_, date)| is_date(date, &[0, 5, 8]));
    long.or_else(|| split(9).filter(|(_, date)| is_date(date, &[0]))).map(|(name, _)| name)
}

/// What these tokens cost, in nano-USD, rounded up. Saturates far beyond any bill.
#[must_use]
pub fn amount_nanousd(price: Price, tokens: BilledTokens) -> u64 {
    let picousd = [
        (tokens.input_tokens, price.input_picousd),
        (tokens.cached_tokens, price.cached_picousd),
        (tokens.cache_write_5m_tokens, price.cache_write_5m_picousd),
        (tokens.cache_write_1h_tokens, price.cache_write_1h_picousd),
        (tokens.audio_input_tokens, price.audio_input_picousd),
        (tokens.output_tokens, price.output_picousd),
        (tokens.pieces, price.piece_picousd),
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
            ("openai/gpt-4o-mini", Some(600_000)),
            ("claude-sonnet-4-5-20250929", Some(15_000_000)),
            ("claude-sonnet-4-5-2025092", None),
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
        let tokens = BilledTokens {
            input_tokens: 800,
            cached_tokens: 200,
            output_tokens: 100,
            reasoning_tokens: 60,
            ..BilledTokens::default()
        };
        // 800 × 150 + 200 × 75 + 100 × 600 nano-USD.
        assert_eq!(amount_nanousd(price, tokens), 195_000);
        let price = price_of("claude-sonnet-4-5").expect("a listed model");
        let tokens =
            BilledTokens { cache_write_5m_tokens: 10, cache_write_1h_tokens: 1, pieces: 2, ..tokens };
        // 800 × 3,000 + 200 × 300 + 10 × 3,750 + 6,000 + 100 × 15,000 nano-USD and two searches of a cent.
        assert_eq!(amount_nanousd(price, tokens), 4_003_500 + 20_000_000);
    }

    #[test]
    fn a_deployment_is_called_after_its_model() {
        assert_eq!(model_in("prod-gpt-4o-mini"), Some("gpt-4o-mini"));
        assert_eq!(model_in("gpt-4o"), Some("gpt-4o"));
        assert_eq!(model_in("something"), None);
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
