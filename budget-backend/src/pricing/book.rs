//! All prices, as of one reading of the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ceiling::Spans;
use super::find::without_date;
use super::rates::Rates;
use super::terms::Terms;

/// The model's name of a configured rate; as a provider's name it stands for all.
pub const ANY: &str = "*";

/// One version of a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// Its number; of two with the same start the larger applies.
    pub price_id: i64,
    /// Who bills.
    pub provider: String,
    /// As the provider names it; [`ANY`] for the provider's configured rate of unknown models.
    pub model: String,
    /// From when it applies, Unix seconds.
    pub effective_from_unix_s: i64,
    /// The rates of the standard tier.
    pub rates: Rates,
    /// Whether the model thinks out of sight.
    pub reasons: bool,
    /// Everything else.
    pub terms: Arc<Terms>,
    /// Classes, units and conditions without a known price.
    pub unpriced: Arc<BTreeSet<String>>,
}

/// A name that stands for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Who bills.
    pub provider: String,
    /// The name that calls use.
    pub alias: String,
    /// Whose price to use.
    pub target_provider: String,
    /// Of which model.
    pub target_model: String,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct PriceBook {
    /// Provider → model → rows by date, oldest first.
    pub(super) rows: BTreeMap<String, BTreeMap<String, Vec<Arc<PriceRow>>>>,
    /// Provider → name without a date → the models of that name.
    pub(super) named: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Provider → alias → target.
    pub(super) aliases: BTreeMap<String, BTreeMap<String, (String, String)>>,
    /// The dearest rates at any time.
    pub(super) spans: Spans,
}

impl PriceBook {
    /// Builds the book.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = PriceRow>, aliases: impl IntoIterator<Item = Alias>) -> Self {
        let mut book = Self::default();
        for row in rows {
            let models = book.rows.entry(row.provider.clone()).or_default();
            models.entry(row.model.clone()).or_default().push(Arc::new(row));
        }
        for rows in book.rows.values_mut().flat_map(BTreeMap::values_mut) {
            rows.sort_by_key(|row| (row.effective_from_unix_s, row.price_id));
        }
        for (provider, models) in &book.rows {
            let names = book.named.entry(provider.clone()).or_default();
            for model in models.keys() {
                let name = without_date(model).unwrap_or(model);
                names.entry(name.to_owned()).or_default().push(model.clone());
            }
        }
        for alias in aliases {
            let target = (alias.target_provider, alias.target_model);
            book.aliases.entry(alias.provider).or_default().insert(alias.alias, target);
        }
        book.spans = Spans::new(book.versions().map(|row| row.effective_from_unix_s));
        book
    }

    /// Everybody who bills: who has a price or an alias.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        let without_prices = self.aliases.keys().filter(|provider| !self.rows.contains_key(*provider));
        self.rows.keys().chain(without_prices).map(String::as_str)
    }

    /// Every name by which a model has a price.
    pub fn models_and_aliases(&self) -> impl Iterator<Item = &str> {
        let models = self.rows.values().flat_map(BTreeMap::keys).filter(|model| *model != ANY);
        models.chain(self.aliases.values().flat_map(BTreeMap::keys)).map(String::as_str)
    }

    /// How many models have a price.
    #[must_use]
    pub fn models(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    /// Every version, by provider, model and start.
    pub fn versions(&self) -> impl Iterator<Item = &PriceRow> {
        self.rows.values().flat_map(BTreeMap::values).flatten().map(AsRef::as_ref)
    }

    /// The row in force, by its very name.
    pub(super) fn row(&self, provider: &str, model: &str, at_unix_s: i64) -> Option<&Arc<PriceRow>> {
        let rows = self.rows.get(provider)?.get(model)?;
        rows.iter().rev().find(|row| row.effective_from_unix_s <= at_unix_s)
    }
}
