//! What tokens cost. Pure: a price book and arithmetic; no price is ever zero because it is unknown.

use std::collections::BTreeMap;

use purser_protocol::Usage;

const TOKENS_PER_MTOK: u128 = 1_000_000;

/// Rates in nano-USD per million tokens, one per class of [`Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Uncached input.
    pub input: i64,
    /// Input read from a cache.
    pub cached_input: i64,
    /// Input written to a five-minute cache.
    pub cache_write_5m: i64,
    /// Input written to a one-hour cache.
    pub cache_write_1h: i64,
    /// Visible output.
    pub output: i64,
    /// Reasoning.
    pub reasoning: i64,
}

impl Rates {
    /// The dearest class of input.
    #[must_use]
    pub fn dearest_input(&self) -> i64 {
        self.input.max(self.cached_input).max(self.cache_write_5m).max(self.cache_write_1h)
    }

    /// The dearest class of output.
    #[must_use]
    pub fn dearest_output(&self) -> i64 {
        self.output.max(self.reasoning)
    }

    fn dearest(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write_5m: self.cache_write_5m.max(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

/// A cost beyond what an `i64` of nano-USD holds (9.2 billion USD): not a price, a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cost is beyond 9223372036 USD; the token counts can't be right")]
pub struct CostOverflow;

/// Σ tokens × rate, in 128 bit, rounded up once.
///
/// # Errors
/// [`CostOverflow`].
pub fn cost_nanousd(usage: &Usage, rates: &Rates) -> Result<i64, CostOverflow> {
    sum_of_products([
        (usage.input_tokens, rates.input),
        (usage.cached_input_tokens, rates.cached_input),
        (usage.cache_write_5m_tokens, rates.cache_write_5m),
        (usage.cache_write_1h_tokens, rates.cache_write_1h),
        (usage.output_tokens, rates.output),
        (usage.reasoning_tokens, rates.reasoning),
        // No rates of their own yet; never nothing.
        (usage.audio_input_tokens, rates.input),
        (usage.image_input_tokens, rates.input),
        (usage.audio_output_tokens, rates.output),
        (usage.image_output_tokens, rates.output),
    ])
}

/// As [`cost_nanousd`], over any pairs of tokens and nano-USD per million tokens.
///
/// # Errors
/// [`CostOverflow`].
pub fn sum_of_products<const N: usize>(classes: [(u64, i64); N]) -> Result<i64, CostOverflow> {
    let mut total: u128 = 0;
    for (tokens, rate) in classes {
        let rate = u128::try_from(rate).map_err(|_| CostOverflow)?;
        total = total.checked_add(u128::from(tokens) * rate).ok_or(CostOverflow)?;
    }
    i64::try_from(total.div_ceil(TOKENS_PER_MTOK)).map_err(|_| CostOverflow)
}

/// One row of the price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// Who bills.
    pub provider: String,
    /// As the provider names it.
    pub model: String,
    /// From when it applies, Unix seconds.
    pub effective_from_unix_s: i64,
    /// The rates.
    pub rates: Rates,
    /// Whether the model thinks out of sight.
    pub reasons: bool,
}

/// How a price was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceMatch {
    /// By the very name.
    Exact,
    /// By the name without its date suffix.
    Undated,
    /// Unknown model: the dearest known rate of each class.
    Ceiling,
}

impl PriceMatch {
    /// The name in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Undated => "undated",
            Self::Ceiling => "ceiling",
        }
    }
}

/// A price that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// The rates to use.
    pub rates: Rates,
    /// Whether the model thinks out of sight; assumed of an unknown one.
    pub reasons: bool,
    /// The name of the row used; `"*"` for a ceiling.
    pub priced_as: String,
    /// How it was found.
    pub matched: PriceMatch,
    /// Since when the row applies, Unix seconds; `None` for a ceiling.
    pub effective_from_unix_s: Option<i64>,
}

/// All prices, as of one reading of the table.
#[derive(Debug, Clone, Default)]
pub struct PriceBook {
    /// Provider → model → rows by date, oldest first.
    rows: BTreeMap<String, BTreeMap<String, Vec<PriceRow>>>,
    /// Provider → name without a date → the models of that name.
    named: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl PriceBook {
    /// Builds the book.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = PriceRow>) -> Self {
        let mut book = Self::default();
        for row in rows {
            let models = book.rows.entry(row.provider.clone()).or_default();
            models.entry(row.model.clone()).or_default().push(row);
        }
        for rows in book.rows.values_mut().flat_map(BTreeMap::values_mut) {
            rows.sort_by_key(|row| row.effective_from_unix_s);
        }
        for (provider, models) in &book.rows {
            let names = book.named.entry(provider.clone()).or_default();
            for model in models.keys() {
                let name = without_date(model).unwrap_or(model);
                names.entry(name.to_owned()).or_default().push(model.clone());
            }
        }
        book
    }

    /// How many models have a price.
    #[must_use]
    pub fn models(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    /// The price of a call at an instant. Order: the exact name; the name without its date suffix;
    /// else the dearest rate of each class this provider has, or if it has none, anyone. Never a
    /// prefix of another name. `None` only when the book is empty.
    #[must_use]
    pub fn find(&self, provider: &str, model: &str, at_unix_s: i64) -> Option<Price> {
        if let Some(row) = self.row(provider, model, at_unix_s) {
            return Some(Self::found(row, PriceMatch::Exact));
        }
        let undated = without_date(model).and_then(|name| self.row(provider, name, at_unix_s));
        if let Some(row) = undated {
            return Some(Self::found(row, PriceMatch::Undated));
        }
        self.ceiling(provider)
    }

    /// As [`Self::find`], preferring the model the answer named when it has a price of its own.
    #[must_use]
    pub fn find_answered(
        &self,
        provider: &str,
        asked: &str,
        answered: Option<&str>,
        at_unix_s: i64,
    ) -> Option<Price> {
        let named = answered
            .and_then(|model| self.find(provider, model, at_unix_s))
            .filter(|price| price.matched != PriceMatch::Ceiling);
        named.or_else(|| self.find(provider, asked, at_unix_s))
    }

    /// As [`Self::find`], at the dearest rate of each class among the model and the dated models of its
    /// name: an answer may name any of them, and is charged at its price.
    #[must_use]
    pub fn dearest(&self, provider: &str, model: &str, at_unix_s: i64) -> Option<Price> {
        let price = self.find(provider, model, at_unix_s)?;
        let name = without_date(model).unwrap_or(model);
        let alike = self.named.get(provider).and_then(|names| names.get(name)).into_iter().flatten();
        let rows = alike.filter_map(|other| self.row(provider, other, at_unix_s));
        let rates = rows.map(|row| row.rates).fold(price.rates, Rates::dearest);
        Some(Price { rates, ..price })
    }

    fn row(&self, provider: &str, model: &str, at_unix_s: i64) -> Option<&PriceRow> {
        let rows = self.rows.get(provider)?.get(model)?;
        rows.iter().rev().find(|row| row.effective_from_unix_s <= at_unix_s)
    }

    fn found(row: &PriceRow, matched: PriceMatch) -> Price {
        Price {
            rates: row.rates,
            reasons: row.reasons,
            priced_as: row.model.clone(),
            matched,
            effective_from_unix_s: Some(row.effective_from_unix_s),
        }
    }

    fn ceiling(&self, provider: &str) -> Option<Price> {
        let dearest = |models: &BTreeMap<String, Vec<PriceRow>>| {
            models.values().flatten().map(|row| row.rates).reduce(Rates::dearest)
        };
        let rates = self
            .rows
            .get(provider)
            .and_then(dearest)
            .or_else(|| self.rows.values().filter_map(dearest).reduce(Rates::dearest))?;
        Some(Price {
            rates,
            reasons: true,
            priced_as: "*".to_owned(),
            matched: PriceMatch::Ceiling,
            effective_from_unix_s: None,
        })
    }
}

/// `gpt-4o-2024-08-06` → `gpt-4o`; also `-20250929` and `@20250929`. `None` without such a suffix.
fn without_date(model: &str) -> Option<&str> {
    let shapes: [(&str, usize); 3] = [("-dddd-dd-dd", 11), ("-dddddddd", 9), ("@dddddddd", 9)];
    shapes.iter().find_map(|(shape, length)| {
        let at = model.len().checked_sub(*length).filter(|at| *at > 0)?;
        let suffix = model.as_bytes().get(at..)?;
        let fits = suffix.iter().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
            b'd' => byte.is_ascii_digit(),
            other => *byte == other,
        });
        if fits { model.get(..at) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINI: Rates = Rates {
        input: 150_000_000,
        cached_input: 75_000_000,
        cache_write_5m: 150_000_000,
        cache_write_1h: 150_000_000,
        output: 600_000_000,
        reasoning: 600_000_000,
    };

    fn row(provider: &str, model: &str, from: i64, input: i64, output: i64) -> PriceRow {
        PriceRow {
            provider: provider.into(),
            model: model.into(),
            effective_from_unix_s: from,
            rates: Rates { input, output, ..MINI },
            reasons: false,
        }
    }

    #[test]
    fn every_class_has_its_rate_and_the_sum_is_rounded_up_once() {
        let usage = |input, cached, output, reasoning| Usage {
            input_tokens: input,
            cached_input_tokens: cached,
            output_tokens: output,
            reasoning_tokens: reasoning,
            ..Usage::default()
        };
        assert_eq!(cost_nanousd(&usage(0, 0, 0, 0), &MINI), Ok(0));
        assert_eq!(cost_nanousd(&usage(1000, 0, 0, 0), &MINI), Ok(150_000));
        assert_eq!(cost_nanousd(&usage(1000, 400, 20, 5), &MINI), Ok(150_000 + 30_000 + 15_000));
        // Three thirds of a nano-dollar are one, not three.
        let third = Rates { input: 333_333, cached_input: 333_333, output: 333_333, ..MINI };
        assert_eq!(cost_nanousd(&usage(1, 1, 1, 0), &third), Ok(1));
        assert_eq!(cost_nanousd(&usage(1, 0, 0, 0), &third), Ok(1));
    }

    #[test]
    fn an_impossible_count_is_an_error_not_a_wrong_number() {
        let usage = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        let dear = Rates { input: i64::MAX, output: i64::MAX, ..MINI };
        assert_eq!(cost_nanousd(&usage, &dear), Err(CostOverflow));
        assert_eq!(cost_nanousd(&usage, &Rates { input: -1, ..MINI }), Err(CostOverflow));
    }

    #[test]
    fn a_price_is_found_by_name_then_undated_then_as_a_ceiling_never_by_prefix() {
        let book = PriceBook::new([
            row("openai", "gpt-4o", 100, 25, 100),
            row("openai", "gpt-4o", 200, 20, 80),
            row("openai", "gpt-4o-mini", 100, 1, 6),
            row("anthropic", "claude-sonnet-4-5", 100, 30, 150),
        ]);
        let find = |provider: &str, model: &str, at| {
            let price = book.find(provider, model, at).unwrap();
            (price.priced_as, price.matched, price.rates.input, price.rates.output)
        };
        let exact = PriceMatch::Exact;
        assert_eq!(find("openai", "gpt-4o", 150), ("gpt-4o".into(), exact, 25, 100));
        assert_eq!(find("openai", "gpt-4o", 200), ("gpt-4o".into(), exact, 20, 80));
        assert_eq!(find("openai", "gpt-4o-2024-08-06", 200), ("gpt-4o".into(), PriceMatch::Undated, 20, 80));
        assert_eq!(find("anthropic", "claude-sonnet-4-5-20250929", 200).1, PriceMatch::Undated);
        assert_eq!(find("anthropic", "claude-sonnet-4-5@20250929", 200).1, PriceMatch::Undated);
        // Unknown: the dearest of the provider, over all its rows; unknown provider: of everyone.
        assert_eq!(find("openai", "gpt-4o-mini-high", 200), ("*".into(), PriceMatch::Ceiling, 25, 100));
        assert_eq!(find("openai", "gpt", 200).1, PriceMatch::Ceiling);
        assert_eq!(find("selfhosted", "llama", 200), ("*".into(), PriceMatch::Ceiling, 30, 150));
        // Before its first date a model has no price of its own.
        assert_eq!(find("openai", "gpt-4o-mini", 50).1, PriceMatch::Ceiling);
        assert_eq!(PriceBook::default().find("openai", "gpt-4o", 1), None);
    }

    #[test]
    fn the_answered_model_wins_when_it_has_a_price() {
        let book = PriceBook::new([row("openai", "big", 0, 100, 100), row("openai", "small", 0, 1, 1)]);
        let priced_as =
            |asked: &str, answered| book.find_answered("openai", asked, answered, 1).unwrap().priced_as;
        assert_eq!(priced_as("big", Some("small")), "small");
        assert_eq!(priced_as("small", Some("big-2026-01-01")), "big");
        assert_eq!(priced_as("small", Some("who-knows")), "small");
        assert_eq!(priced_as("small", None), "small");
        assert_eq!(priced_as("who-knows", Some("nobody")), "*");
    }

    #[test]
    fn the_dearest_of_a_name_covers_its_dated_models_and_no_others() {
        let book = PriceBook::new([
            row("openai", "gpt-4o", 0, 25, 100),
            row("openai", "gpt-4o-2024-05-13", 0, 50, 90),
            row("openai", "gpt-4o-mini", 0, 900, 900),
            row("azure", "gpt-4o-2024-08-06", 0, 800, 800),
        ]);
        let rates = |model: &str| {
            let price = book.dearest("openai", model, 1).unwrap();
            (price.rates.input, price.rates.output, price.matched)
        };
        assert_eq!(rates("gpt-4o"), (50, 100, PriceMatch::Exact));
        assert_eq!(rates("gpt-4o-2024-11-20"), (50, 100, PriceMatch::Undated));
        assert_eq!(rates("unknown").2, PriceMatch::Ceiling);
    }

    #[test]
    fn dates_are_only_dates() {
        for (model, expected) in [
            ("gpt-4o-2024-08-06", Some("gpt-4o")),
            ("claude-20250929", Some("claude")),
            ("claude@20250929", Some("claude")),
            ("gpt-4o", None),
            ("-2024-08-06", None),
            ("model-2024-8-06", None),
            ("modèle-2024-08-06", Some("modèle")),
            ("é-202409", None),
        ] {
            assert_eq!(without_date(model), expected, "{model}");
        }
    }

    proptest! {
        #[test]
        fn cost_grows_with_every_class_and_is_zero_only_without_tokens(
            tokens in prop::array::uniform6(0_u64..10_000_000),
            more in prop::array::uniform6(0_u64..1_000),
        ) {
            let usage = |t: [u64; 6]| Usage {
                input_tokens: t[0], cached_input_tokens: t[1], cache_write_5m_tokens: t[2],
                cache_write_1h_tokens: t[3], output_tokens: t[4], reasoning_tokens: t[5],
                ..Usage::default()
            };
            let low = cost_nanousd(&usage(tokens), &MINI).unwrap();
            let sum = std::array::from_fn(|class| tokens[class] + more[class]);
            prop_assert!(cost_nanousd(&usage(sum), &MINI).unwrap() >= low);
            prop_assert_eq!(low == 0, tokens.iter().all(|count| *count == 0));
        }
    }
}
