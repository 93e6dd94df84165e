//! How additions to the price list change what unknown models cost. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purser_protocol::format_usd;
use serde::Serialize;

use super::figures::Figure;
use super::plan::{Entry, Version};
use crate::pricing::book::ANY;
use crate::pricing::{CLASSES, Ceiling, PriceBook, PriceRow};

/// What an unknown model of a provider costs, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CeilingChange {
    /// Who bills.
    pub provider: String,
    /// Each class whose dearest known rate changes, and each unit, USD per million.
    pub figures: Vec<Figure>,
}

impl std::fmt::Display for CeilingChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures: Vec<String> = self.figures.iter().map(ToString::to_string).collect();
        write!(f, "ceiling of unknown models of {}  {}", self.provider, figures.join("; "))
    }
}

/// What changes by adding `entries` to `versions`, by provider, as of an instant.
#[must_use]
pub fn raised(versions: &[Version], entries: &[Entry], at_unix_s: i64) -> Vec<CeilingChange> {
    let known = || versions.iter().map(|version| version.row.clone());
    let next_id = known().map(|row| row.price_id).max().unwrap_or(0).saturating_add(1);
    let added = (next_id..).zip(entries).map(|(price_id, entry)| row(price_id, entry));
    let (before, after) = (PriceBook::new(known(), []), PriceBook::new(known().chain(added), []));
    let providers: BTreeSet<&str> = after.providers().filter(|provider| *provider != ANY).collect();
    let change = |provider: &str| {
        let at = |book: &PriceBook| book.ceiling(provider, at_unix_s).map(|ceiling| rates(&ceiling));
        let (old, new) = (at(&before).unwrap_or_default(), at(&after).unwrap_or_default());
        let names: BTreeSet<&(usize, String)> = old.keys().chain(new.keys()).collect();
        let figure = |key: &(usize, String)| {
            let usd = |rates: &BTreeMap<(usize, String), i64>| rates.get(key).map(|rate| format_usd(*rate));
            Some(Figure { name: key.1.clone(), old: usd(&old), new: usd(&new) })
                .filter(|figure| figure.old != figure.new)
        };
        let figures: Vec<Figure> = names.into_iter().filter_map(figure).collect();
        (!figures.is_empty()).then(|| CeilingChange { provider: provider.to_owned(), figures })
    };
    providers.into_iter().filter_map(change).collect()
}

/// Rates by rank, so that classes come first, and name.
fn rates(ceiling: &Ceiling) -> BTreeMap<(usize, String), i64> {
    let classes = CLASSES.into_iter().map(str::to_owned).enumerate().zip(ceiling.standard.classes());
    let units = ceiling.units.iter().map(|(name, rate)| ((CLASSES.len(), format!("unit {name}")), *rate));
    classes.chain(units).collect()
}

fn row(price_id: i64, entry: &Entry) -> PriceRow {
    PriceRow {
        price_id,
        provider: entry.provider.clone(),
        model: entry.model.clone(),
        effective_from_unix_s: entry.effective_from_unix_s,
        rates: entry.rates,
        reasons: entry.reasons,
        terms: Arc::new(entry.terms.clone()),
        unpriced: Arc::new(entry.unpriced.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::plan::Source;
    use crate::pricing::{Rates, Terms};

    fn entry(provider: &str, model: &str, usd: i64) -> Entry {
        let rate = usd * 1_000_000_000;
        Entry {
            provider: provider.into(),
            model: model.into(),
            effective_from_unix_s: 0,
            rates: Rates::from_known([
                Some(rate),
                None,
                None,
                None,
                Some(rate),
                None,
                None,
                None,
                None,
                None,
            ]),
            reasons: false,
            terms: Terms::default(),
            unpriced: BTreeSet::new(),
            source: Source::Import,
            note: String::new(),
        }
    }

    #[test]
    fn a_dearer_model_raises_the_ceiling_of_its_provider_alone() {
        let version =
            |entry: &Entry| Version { row: row(1, entry), source: Source::Catalogue, note: String::new() };
        let versions = [version(&entry("a", "m", 3)), version(&entry("b", "m", 30))];
        let changes = raised(&versions, &[entry("a", "cheap", 1), entry("a", "dear", 7)], 9);
        assert_eq!(changes.len(), 1, "{changes:?}");
        let said = changes[0].to_string();
        assert!(
            said.starts_with("ceiling of unknown models of a  input 3.00 -> 7.00; cached_input 3.00 -> 7.00"),
            "{said}"
        );
        // A new provider's unknown models cost what anyone's did.
        let new = raised(&versions, &[entry("c", "m", 1)], 9);
        assert!(new[0].to_string().contains("of c  input 30.00 -> 1.00;"), "{new:?}");
        assert!(raised(&versions, &[entry("a", "cheap", 1)], 9).is_empty());
        assert!(raised(&versions, &[], 9).is_empty());
        // A mistake that is put right lowers it.
        let fixed = raised(&versions, &[entry("b", "m", 2)], 9);
        assert!(fixed[0].to_string().contains("of b  input 30.00 -> 2.00;"), "{fixed:?}");
    }
}
