//! What a price has beyond one rate per class: sizes, service tiers, multipliers, units. The jsonb
//! column `model_prices.terms` is this, read strictly: a field nobody knows is an error, not a discount.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::off_peak::OffPeak;
use super::rates::Rates;

/// One whole of a multiplier.
pub const ONE: i64 = 1_000_000;

/// Names of service tiers and places that cost what the plain rates say.
const STANDARD: [&str; 12] = [
    "",
    "auto",
    "default",
    "standard",
    "standard_only",
    "on_demand",
    "on-demand",
    "provisioned_throughput",
    "reserved",
    "scale",
    "global",
    "not_available",
];

/// Tiers that no provider charges more for: without a rate of theirs, the plain one is on the dear side.
const CHEAPER: [&str; 4] = ["flex", "batch", "on_demand_flex", "batch_api"];

/// Parts of a tier's name that are looked at; no provider says more than three.
const MAX_PARTS: usize = 8;

/// Multipliers that exclude each other, for the upper bound: a call is served in one place.
const PLACES: [&str; 3] = ["us", "eu", "regional"];

/// Rates that apply to the whole request, output too, when its input is larger than a threshold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeTier {
    /// The threshold: all input of the request, cached and written included, tokens.
    pub above_input_tokens: u64,
    /// Whether an input of just the threshold is in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_threshold: bool,
    /// The rates there.
    pub rates: Rates,
}

/// The rates of one service tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Below every threshold.
    pub rates: Rates,
    /// Above thresholds, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeTier>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Of the standard tier, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeTier>,
    /// By name: `batch`, `flex`, `priority` and others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_tiers: BTreeMap<String, Card>,
    /// Factors on the cost of tokens, in millionths, by the name the answer says (`us`, `fast`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub multipliers_millionths: BTreeMap<String, i64>,
    /// What costs by the piece, nano-USD per million pieces. `requests` is one per call by itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub units_nanousd_per_million: BTreeMap<String, i64>,
    /// When the provider charges less than all this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub off_peak: Vec<OffPeak>,
}

/// What applies to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The rates.
    pub rates: Rates,
    /// Factors on the cost of tokens, millionths.
    pub multipliers: Vec<i64>,
    /// What they are in no tier.
    pub plain: Rates,
    /// Parts of the tier's name that nothing is known of; `rates` and `multipliers` are then the dearest of
    /// the price.
    pub unknown_tiers: Vec<String>,
    /// Whether the name has parts with cards of their own: what they cost together nobody says, and `rates`
    /// is class by class the dearest of them.
    pub is_combined: bool,
}

impl Terms {
    /// What applies to an input of a size in the tier that the answer named; several parts of a name
    /// are joined by `+` (`priority+us`), each counts once, and what is beyond [`MAX_PARTS`] is unknown.
    #[must_use]
    pub fn apply(&self, rates: &Rates, input_tokens: u64, service_tier: Option<&str>) -> Applied {
        let plain = at_size(rates, &self.sizes, input_tokens);
        let mut applied = Applied {
            rates: plain,
            multipliers: Vec::new(),
            plain,
            unknown_tiers: Vec::new(),
            is_combined: false,
        };
        let (mut seen, mut cards) = (BTreeSet::new(), BTreeMap::new());
        for (number, part) in service_tier.unwrap_or_default().split('+').take(MAX_PARTS + 1).enumerate() {
            let name = canonical(part);
            if !seen.insert(name.clone()) && number < MAX_PARTS {
                continue;
            }
            if number >= MAX_PARTS {
                applied.unknown_tiers.push(name);
            } else if let Some((tier, card)) = self.service_tiers.get_key_value(&name) {
                cards.insert(tier.as_str(), card);
            } else if let Some(multiplier) = self.multipliers_millionths.get(&name) {
                applied.multipliers.push(*multiplier);
            } else if let Some(card) = self.service_tiers.get("priority").filter(|_| name == "fast") {
                // What is asked for as fast comes back as priority, and the other way round.
                cards.insert("priority", card);
            } else if !is_plain(&name) {
                applied.unknown_tiers.push(name);
            }
        }
        applied.is_combined = cards.len() > 1;
        let at_cards = cards.values().map(|card| at_size(&card.rates, &card.sizes, input_tokens));
        applied.rates = at_cards.reduce(Rates::dearest).unwrap_or(plain);
        if !applied.unknown_tiers.is_empty() {
            let cards = self.service_tiers.values();
            applied.rates = cards
                .map(|card| at_size(&card.rates, &card.sizes, input_tokens))
                .fold(applied.rates.dearest(plain), Rates::dearest);
            applied.multipliers = self.largest_multipliers();
        }
        applied
    }

    /// Every card's rates that an input of up to `most_input_tokens` may meet.
    pub fn reachable<'a>(
        &'a self,
        rates: &'a Rates,
        most_input_tokens: u64,
    ) -> impl Iterator<Item = Rates> + 'a {
        let cards = self.service_tiers.values().map(|card| (&card.rates, &card.sizes));
        std::iter::once((rates, &self.sizes)).chain(cards).flat_map(move |(rates, sizes)| {
            let larger = sizes.iter().filter(move |size| size.holds(most_input_tokens));
            std::iter::once(*rates).chain(larger.map(|size| size.rates))
        })
    }

    /// The largest factors that may apply together, millionths.
    #[must_use]
    pub fn largest_multipliers(&self) -> Vec<i64> {
        let (places, others): (Vec<_>, Vec<_>) =
            self.multipliers_millionths.iter().partition(|(name, _)| PLACES.contains(&name.as_str()));
        let place = places.into_iter().map(|(_, factor)| *factor).max();
        place.into_iter().chain(others.into_iter().map(|(_, factor)| *factor)).filter(|f| *f > ONE).collect()
    }

    /// What every call costs beside its tokens, nano-USD per million calls.
    #[must_use]
    pub fn per_call(&self) -> i64 {
        self.units_nanousd_per_million.get("requests").copied().unwrap_or(0)
    }

    /// Checks what the type can't: signs and the order of sizes.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        sizes_ascend("sizes", &self.sizes)?;
        for (name, card) in &self.service_tiers {
            not_negative(&format!("service_tiers.{name}"), &card.rates)?;
            sizes_ascend(&format!("service_tiers.{name}.sizes"), &card.sizes)?;
            if canonical(name) != *name {
                return Err(format!("service_tiers: {name:?} is never said; expected {:?}", canonical(name)));
            }
        }
        for (name, factor) in &self.multipliers_millionths {
            if !(1..=1_000 * ONE).contains(factor) {
                return Err(format!("multipliers_millionths.{name}: expected 1 to 1000000000, got {factor}"));
            }
        }
        self.off_peak.iter().try_for_each(OffPeak::check)?;
        for (name, rate) in &self.units_nanousd_per_million {
            if *rate < 0 {
                return Err(format!(
                    "units_nanousd_per_million.{name}: expected no negative rate, got {rate}"
                ));
            }
        }
        Ok(())
    }
}

impl SizeTier {
    fn holds(&self, input_tokens: u64) -> bool {
        input_tokens > self.above_input_tokens
            || (self.at_threshold && input_tokens == self.above_input_tokens)
    }
}

/// The tier's name as prices have it.
#[must_use]
pub fn canonical(name: &str) -> String {
    match name.trim().to_ascii_lowercase().as_str() {
        "batches" => "batch".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether a tier of this name costs no more than the plain rates.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    STANDARD.contains(&name) || CHEAPER.contains(&name)
}

/// Whether every part of a tier's name costs no more than the plain rates.
#[must_use]
pub fn all_plain(service_tier: Option<&str>) -> bool {
    service_tier.unwrap_or_default().split('+').all(|part| is_plain(&canonical(part)))
}

fn at_size(rates: &Rates, sizes: &[SizeTier], input_tokens: u64) -> Rates {
    sizes.iter().rev().find(|size| size.holds(input_tokens)).map_or(*rates, |size| size.rates)
}

fn sizes_ascend(field: &str, sizes: &[SizeTier]) -> Result<(), String> {
    for size in sizes {
        not_negative(field, &size.rates)?;
    }
    if sizes.is_sorted_by(|low, high| low.above_input_tokens < high.above_input_tokens) {
        Ok(())
    } else {
        Err(format!("{field}: expected thresholds in ascending order"))
    }
}

fn not_negative(field: &str, rates: &Rates) -> Result<(), String> {
    if rates.classes().iter().all(|rate| *rate >= 0) {
        Ok(())
    } else {
        Err(format!("{field}: expected no negative rate"))
    }
}
