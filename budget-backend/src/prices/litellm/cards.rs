//! The file's own arithmetic: which rate applies at a size in a tier.

use std::collections::BTreeSet;

use super::{AT_THRESHOLD, IMAGE_OUTPUT, OUTPUT, REASONING, Reading};
use crate::pricing::Rates;
use crate::pricing::terms::SizeTier;

impl Reading<'_> {
    pub(super) fn sizes(&self, provider: &str, tier: Option<&str>) -> Vec<SizeTier> {
        let thresholds: BTreeSet<u64> = self.rates.keys().filter_map(|(_, above, _)| *above).collect();
        let tier_of = |above| SizeTier {
            above_input_tokens: above,
            at_threshold: AT_THRESHOLD.contains(&provider),
            rates: self.card(Some(above), tier),
        };
        thresholds.into_iter().map(tier_of).collect()
    }

    pub(super) fn card(&self, above: Option<u64>, tier: Option<&str>) -> Rates {
        Rates::from_known(self.known(above, tier))
    }

    /// What the file knows at a size in a tier. Models that make images and name no price of other output
    /// charge it as images.
    pub(super) fn known(&self, above: Option<u64>, tier: Option<&str>) -> [Option<i64>; 10] {
        let mut known: [Option<i64>; 10] = std::array::from_fn(|class| self.rate(class, above, tier));
        if known[OUTPUT].is_none_or(|rate| rate == 0) && known[IMAGE_OUTPUT].is_some() {
            known[OUTPUT] = known[IMAGE_OUTPUT];
        }
        known
    }

    /// A class's rate at a size in a tier, by the file's own arithmetic: the tier's rate, or the plain one
    /// where it has none; each threshold that is crossed replaces it by its own rate in that tier, or its
    /// plain one. Reasoning in a tier with a rate of output and none of reasoning costs what output does.
    fn rate(&self, class: usize, above: Option<u64>, tier: Option<&str>) -> Option<i64> {
        let get = |class, above, tier: Option<&str>| {
            self.rates.get(&(class, above, tier.map(str::to_owned))).copied()
        };
        let own_or_plain = |above| get(class, above, tier).or_else(|| get(class, above, None));
        let as_output =
            class == REASONING && get(class, None, tier).is_none() && get(OUTPUT, None, tier).is_some();
        let below = if as_output { None } else { own_or_plain(None) };
        let thresholds: BTreeSet<u64> = self.rates.keys().filter_map(|(_, above, _)| *above).collect();
        let crossed = thresholds.into_iter().rev().filter(|threshold| Some(*threshold) <= above);
        crossed.map(Some).find_map(own_or_plain).or(below)
    }
}
