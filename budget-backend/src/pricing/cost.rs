//! The arithmetic: Σ count × rate in 128 bit, rounded up once per request.

use std::collections::BTreeMap;

use purser_protocol::Usage;

use super::find::{Price, PriceMatch};
use super::rates::{CLASSES, IS_INPUT, Rates};
use super::terms::{ONE, all_plain};

/// Rates are per million.
pub const PER_MILLION: u128 = 1_000_000;

/// Units that stand for the same as tokens: where an answer counts tokens, these are not billed too.
const INSTEAD_OF_TOKENS: [&str; 5] =
    ["images", "input_images", "audio_seconds", "input_characters", "output_characters"];

/// Cached input that costs otherwise than cached text: the unit that counts its tokens, and the class
/// (index in [`CLASSES`]) whose occurrence means that some of the cached input may be such.
const CACHED_MEDIA: [(&str, usize); 3] = [
    ("cached_audio_input_tokens", 6),
    ("cache_write_audio_input_tokens", 6),
    ("cached_image_input_tokens", 8),
];

/// A cost beyond what an `i64` of nano-USD holds (9.2 billion USD): not a price, a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cost is beyond 9223372036 USD; the token counts can't be right")]
pub struct CostOverflow;

/// What a call used.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    /// Tokens by class.
    pub usage: &'a Usage,
    /// What costs by the piece.
    pub units: &'a BTreeMap<String, u64>,
    /// The tier that the answer named.
    pub service_tier: Option<&'a str>,
}

/// What it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costed {
    /// Nano-USD.
    pub nanousd: i64,
    /// What occurred and had no known price; charged at the dearest rate known for it.
    pub unpriced: Vec<String>,
    /// Whether something occurred that has no known rate anywhere: it costs more than `nanousd`.
    pub at_least: bool,
}

/// What a call costs, to the last part of a nano-USD.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    /// So many parts.
    pub parts: u128,
    /// So many of them are a nano-USD.
    pub of: u128,
}

/// [`Costed`], not rounded.
#[derive(Debug)]
pub(super) struct Exact {
    pub amount: Amount,
    pub unpriced: Vec<String>,
    pub at_least: bool,
}

/// Σ count × nano-USD per million, rounded up once.
///
/// # Errors
/// [`CostOverflow`].
pub fn sum_of_products<const N: usize>(classes: [(u64, i64); N]) -> Result<i64, CostOverflow> {
    rounded_up(sum(classes)?, PER_MILLION)
}

fn sum(products: impl IntoIterator<Item = (u64, i64)>) -> Result<u128, CostOverflow> {
    products.into_iter().try_fold(0_u128, |total, (count, rate)| {
        let rate = u128::try_from(rate).map_err(|_| CostOverflow)?;
        total.checked_add(u128::from(count) * rate).ok_or(CostOverflow)
    })
}

fn rounded_up(total: u128, divisor: u128) -> Result<i64, CostOverflow> {
    i64::try_from(total.div_ceil(divisor)).map_err(|_| CostOverflow)
}

/// All input of a request, cached, written, heard and seen: what size tiers go by.
#[must_use]
pub fn all_input_tokens(usage: &Usage) -> u64 {
    let classes = usage.classes().into_iter().zip(IS_INPUT);
    classes.filter(|(_, is_input)| *is_input).fold(0, |sum, (tokens, _)| sum.saturating_add(tokens))
}

/// As [`all_input_tokens`], with cached input that is counted as a unit.
fn input_tokens(used: Used<'_>) -> u64 {
    let cached = CACHED_MEDIA.into_iter().filter_map(|(name, _)| used.units.get(name));
    cached.fold(all_input_tokens(used.usage), |sum, tokens| sum.saturating_add(*tokens))
}

impl Price {
    /// What a call costs at this price.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn cost(&self, used: Used<'_>) -> Result<Costed, CostOverflow> {
        let Exact { amount, unpriced, at_least } = self.exact(used)?;
        Ok(Costed { nanousd: rounded_up(amount.parts, amount.of)?, unpriced, at_least })
    }

    /// The same before it is rounded.
    pub(super) fn exact(&self, used: Used<'_>) -> Result<Exact, CostOverflow> {
        let mut unpriced = Vec::new();
        let applied = self.terms.apply(&self.rates, input_tokens(used), used.service_tier);
        let mut rates = self.with_cached_media(applied.rates, used);
        if !self.is_known() && !all_plain(used.service_tier) {
            rates = rates.dearest(self.ceiling.every);
        } else if applied.unknown_tier.is_some() {
            unpriced.push("service_tier".to_owned());
        }
        let known_units = &self.terms.units_nanousd_per_million;
        let by_the_piece = used
            .units
            .iter()
            .any(|(name, count)| *count > 0 && is_instead(name) && known_units.contains_key(name));
        let mut tokens = Vec::new();
        let classes = CLASSES.into_iter().zip(used.usage.classes()).zip(rates.classes());
        for (((name, count), rate), ceiling) in classes.zip(self.ceiling.standard.classes()) {
            if count == 0 {
                continue;
            }
            if !self.unpriced.contains(name) {
                tokens.push((count, rate));
            } else if !by_the_piece {
                unpriced.push(name.to_owned());
                tokens.push((count, rate.max(ceiling)));
            }
        }
        let mut pieces = Vec::new();
        let mut at_least = false;
        for (name, count) in self.pieces(used.units) {
            if is_instead(name) && !tokens.is_empty() {
                continue;
            }
            let known = known_units.get(name);
            if known.is_none() {
                unpriced.push(name.to_owned());
            }
            match known.or_else(|| self.ceiling.units.get(name)) {
                Some(rate) if is_cached_media(name) => tokens.push((count, *rate)),
                Some(rate) => pieces.push((count, *rate)),
                None => at_least = true,
            }
        }
        let amount = total(sum(tokens)?, &applied.multipliers, sum(pieces)?)?;
        Ok(Exact { amount, unpriced, at_least })
    }

    /// Where cached sound or images cost otherwise than cached text, and the call has such and doesn't tell
    /// how much of it was cached: the dearer of the two for all that was.
    fn with_cached_media(&self, mut rates: Rates, used: Used<'_>) -> Rates {
        let occurring = used.usage.classes();
        for (name, class) in CACHED_MEDIA {
            let occurs = occurring.get(class).is_some_and(|count| *count > 0);
            let known = self.terms.units_nanousd_per_million.get(name);
            let Some(rate) = known.filter(|_| occurs && !used.units.contains_key(name)) else { continue };
            if name.starts_with("cached") {
                rates.cached_input = rates.cached_input.max(*rate);
            } else {
                rates.cache_write_5m = rates.cache_write_5m.max(*rate);
                rates.cache_write_1h = rates.cache_write_1h.max(*rate);
            }
        }
        rates
    }

    /// What is billed by the piece: what was counted, and the call itself where calls have a price.
    fn pieces<'a>(&self, units: &'a BTreeMap<String, u64>) -> impl Iterator<Item = (&'a str, u64)> {
        let call = (self.terms.per_call() > 0 && !units.contains_key("requests")).then_some(("requests", 1));
        let counted = units.iter().map(|(name, count)| (name.as_str(), *count));
        counted.filter(|(_, count)| *count > 0).chain(call)
    }

    /// Whether the model has a price of its own.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !matches!(self.matched, PriceMatch::Ceiling | PriceMatch::Configured)
    }
}

fn is_instead(name: &str) -> bool {
    INSTEAD_OF_TOKENS.contains(&name)
}

fn is_cached_media(name: &str) -> bool {
    CACHED_MEDIA.iter().any(|(unit, _)| *unit == name)
}

/// Tokens times their factors, and pieces.
fn total(tokens: u128, multipliers: &[i64], pieces: u128) -> Result<Amount, CostOverflow> {
    let (mut above, mut below) = (1_u128, 1_u128);
    for multiplier in multipliers {
        let factor = u128::try_from(*multiplier).map_err(|_| CostOverflow)?;
        let one = ONE.unsigned_abs().into();
        let common = greatest_common_divisor(factor, one);
        above = above.checked_mul(factor / common).ok_or(CostOverflow)?;
        below = below.checked_mul(one / common).ok_or(CostOverflow)?;
    }
    let tokens = tokens.checked_mul(above).ok_or(CostOverflow)?;
    let pieces = pieces.checked_mul(below).ok_or(CostOverflow)?;
    let of = below.checked_mul(PER_MILLION).ok_or(CostOverflow)?;
    Ok(Amount { parts: tokens.checked_add(pieces).ok_or(CostOverflow)?, of })
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// A rate raised by factors in millionths, rounded up.
pub(super) fn raised(rate: i64, multipliers: &[i64]) -> i64 {
    multipliers.iter().fold(rate, |rate, factor| {
        let raised = (i128::from(rate) * i128::from(*factor) + i128::from(ONE) - 1) / i128::from(ONE);
        i64::try_from(raised).unwrap_or(i64::MAX)
    })
}
