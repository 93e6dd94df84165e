//! The arithmetic: Σ count × rate in 128 bit, rounded up once per request.

use std::collections::BTreeMap;
use std::sync::Arc;

use purser_protocol::Usage;

use super::dimensions::{is_by_time, occurs};
use super::find::{Price, PriceMatch};
use super::off_peak::OFF_PEAK;
use super::rates::{CLASSES, IS_INPUT, Rates};
use super::terms::{ONE, Terms, all_plain};

/// Rates are per million.
pub const PER_MILLION: u128 = 1_000_000;

/// Units that stand for the same as tokens: where an answer counts tokens that cost something, these are
/// not billed too.
const INSTEAD_OF_TOKENS: [&str; 5] =
    ["images", "input_images", "audio_seconds", "input_characters", "output_characters"];

/// Units that tell which of the tokens were video. They are counted among the input and output and cost
/// nothing beside them; a model with a price of its own for them is met by it.
const AMONG_TOKENS: [&str; 2] = ["video_input_tokens", "video_output_tokens"];

/// What models without tokens are sold by beside these.
const BESIDE_TOKENS: [&str; 5] = ["search_units", "queries", "pages", "annotated_pages", "text_messages"];

/// What `unpriced` names of a call whose usage never comes back: work that goes on elsewhere.
pub const UNTOLD_USAGE: &str = "usage";

/// Most names of what can't be priced that are told of one call.
const MAX_UNPRICEABLE: usize = 8;

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
    /// Whether something occurred that has no known rate anywhere, or what the model is sold by was not
    /// told: it costs more than `nanousd`.
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
        let applied = self.terms.apply(&self.rates, input_tokens(used), used.service_tier);
        let mut unpriced = Vec::new();
        let mut rates = applied.rates;
        if !self.is_known() && !all_plain(used.service_tier) {
            rates = rates.dearest(self.ceiling.every);
        } else if !applied.unknown_tiers.is_empty() {
            unpriced.push("service_tier".to_owned());
            let factor = [self.tier_factor(&applied.unknown_tiers)];
            rates = rates.dearest(applied.plain.with(applied.plain, |rate, _| raised(rate, &factor)));
        } else if applied.is_combined {
            unpriced.push("service_tier".to_owned());
        }
        let rates = self.with_cached_media(rates, used);
        let mut tokens = self.tokens(&rates, used, &mut unpriced);
        let mut pieces = Vec::new();
        let mut at_least = false;
        let instead = costs(&tokens);
        let met: Vec<&str> = self.unpriceable().filter(|name| occurs(name, used, instead)).collect();
        if !met.is_empty() {
            // The call counts as one of an unknown model, and is never cheaper than at its own rates. Tokens
            // that are said to cost nothing still do.
            if instead {
                tokens = self.tokens(&rates.dearest(self.ceiling.standard), used, &mut Vec::new());
            }
            unpriced.extend(met.iter().take(MAX_UNPRICEABLE).map(|name| (*name).to_owned()));
        }
        for (name, count) in self.pieces(used.units) {
            if is_instead(name) && instead && met.is_empty() {
                continue;
            }
            let known = self.terms.units_nanousd_per_million.get(name);
            if known.is_none() {
                unpriced.push(name.to_owned());
            }
            let ceiling = self.ceiling.units.get(name);
            let rate = if met.is_empty() { known.or(ceiling) } else { known.max(ceiling) };
            match rate {
                Some(rate) if is_cached_media(name) => tokens.push((count, *rate)),
                Some(rate) => pieces.push((count, *rate)),
                None => at_least = true,
            }
        }
        if costs(&tokens) || costs(&pieces) {
            if self.is_maybe_discounted() {
                unpriced.push(OFF_PEAK.to_owned());
            }
        } else {
            if self.is_free_of_tokens() {
                let names =
                    self.unpriceable().filter(|name| !used.units.contains_key(*name) && !met.contains(name));
                unpriced.extend(names.take(MAX_UNPRICEABLE).map(str::to_owned));
                at_least |= self.unpriceable().next().is_some();
            }
            if at_least {
                self.push_ceiling(used.usage, &mut tokens, &mut pieces);
            }
            at_least |= self.is_untold(used);
        }
        let amount = total(sum(tokens)?, &applied.multipliers, sum(pieces)?)?;
        Ok(Exact { amount, unpriced, at_least })
    }

    /// How many times the plain rate other models of the provider cost in these tiers, millionths.
    fn tier_factor(&self, tiers: &[String]) -> i64 {
        let factors = tiers.iter().filter_map(|name| self.ceiling.tier_factors.get(name));
        factors.max().copied().unwrap_or(ONE).max(ONE)
    }

    /// Raises rates to what a tier asked for costs with other models of the provider where this one has
    /// no rates for it: for an upper bound.
    #[must_use]
    pub fn raised_for_tier(&self, rates: Rates, service_tier: Option<&str>) -> Rates {
        let unknown = self.terms.apply(&self.rates, 0, service_tier).unknown_tiers;
        let factor = [self.tier_factor(&unknown)];
        rates.with(rates, |rate, _| raised(rate, &factor))
    }

    /// Counts and rates of the tokens; those without a known price at the dearest known, unless the call is
    /// paid by the piece.
    fn tokens(&self, rates: &Rates, used: Used<'_>, unpriced: &mut Vec<String>) -> Vec<(u64, i64)> {
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
        tokens
    }

    /// What stands for a cost that nobody knows where nothing else of the call costs anything: its tokens at
    /// the dearest known rates, or without tokens the dearest known piece.
    fn push_ceiling(&self, usage: &Usage, tokens: &mut Vec<(u64, i64)>, pieces: &mut Vec<(u64, i64)>) {
        tokens.extend(usage.classes().into_iter().zip(self.ceiling.standard.classes()));
        if !costs(tokens) {
            let token = self.ceiling.standard.dearest_input().max(self.ceiling.standard.dearest_output());
            pieces.push((1, self.ceiling.units.values().copied().fold(token, i64::max)));
        }
    }

    /// Whether no class of tokens with a known price costs anything, in any tier.
    #[must_use]
    pub fn is_free_of_tokens(&self) -> bool {
        let mut cards = self.terms.reachable(&self.rates, u64::MAX);
        cards.all(|card| {
            let mut classes = CLASSES.into_iter().zip(card.classes());
            classes.all(|(name, rate)| rate == 0 || self.unpriced.contains(name))
        })
    }

    /// What the model costs by and no call tells.
    fn unpriceable(&self) -> impl Iterator<Item = &str> {
        self.unpriced.iter().map(String::as_str).filter(|name| !CLASSES.contains(name))
    }

    /// Whether the call may lie in hours of a discount that isn't known: its list price bounds what it costs.
    #[must_use]
    pub fn is_maybe_discounted(&self) -> bool {
        self.unpriced.contains(OFF_PEAK)
    }

    /// Whether the model has a price by time that can't be applied: a call by sound meets it.
    #[must_use]
    pub fn is_by_unpriced_time(&self) -> bool {
        self.unpriceable().any(is_by_time)
    }

    /// The same with no rate below the dearest known: what a call is held at that meets what has no price.
    #[must_use]
    pub fn raised_to_ceiling(&self) -> Self {
        let mut terms = Terms::clone(&self.terms);
        for (name, rate) in &self.ceiling.units {
            let known = terms.units_nanousd_per_million.entry(name.clone()).or_default();
            *known = (*known).max(*rate);
        }
        Self { rates: self.rates.dearest(self.ceiling.every), terms: Arc::new(terms), ..self.clone() }
    }

    /// The pieces the model is sold by, with rates above zero: nano-USD per million.
    pub fn sold_by(&self) -> impl Iterator<Item = (&str, i64)> {
        let units = self.terms.units_nanousd_per_million.iter();
        units
            .map(|(name, rate)| (name.as_str(), *rate))
            .filter(|(name, rate)| *rate > 0 && (is_instead(name) || BESIDE_TOKENS.contains(name)))
    }

    /// Whether all that the model costs by can't be priced: it is as good as unknown.
    #[must_use]
    pub fn is_unpriceable(&self) -> bool {
        let no_tokens = CLASSES.iter().all(|class| self.unpriced.contains(*class));
        let by_the_piece = self.terms.units_nanousd_per_million.values().any(|rate| *rate > 0);
        self.is_free_of_tokens() && !by_the_piece && (no_tokens || self.unpriceable().next().is_some())
    }

    /// Whether the model is sold by the piece and the call tells of none, not even that there was none.
    fn is_untold(&self, used: Used<'_>) -> bool {
        let counted = used.usage.classes().iter().any(|count| *count > 0);
        let mut sold_by = self.sold_by().peekable();
        sold_by.peek().is_some()
            && (!counted || self.is_free_of_tokens())
            && !sold_by.any(|(name, _)| used.units.contains_key(name))
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
        counted.filter(|(name, count)| *count > 0 && !is_among_tokens(name)).chain(call)
    }

    /// Whether the model has a price of its own that calls can be charged by.
    #[must_use]
    pub fn is_priced(&self) -> bool {
        self.is_known() && !self.is_unpriceable()
    }

    /// Whether the model has a price of its own.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !matches!(self.matched, PriceMatch::Ceiling | PriceMatch::Configured)
    }
}

/// Whether any of the counts has a rate above zero.
fn costs(products: &[(u64, i64)]) -> bool {
    products.iter().any(|(count, rate)| *count > 0 && *rate > 0)
}

pub(super) fn is_instead(name: &str) -> bool {
    INSTEAD_OF_TOKENS.contains(&name)
}

/// Whether a unit only tells of what some of the tokens were.
pub fn is_among_tokens(name: &str) -> bool {
    AMONG_TOKENS.contains(&name)
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
