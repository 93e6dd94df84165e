//! All prices, as of one reading of the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::find::without_date;
use super::rates::{CLASSES, IS_INPUT, Rates};
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

/// The dearest known rates, for what has none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Of the standard tier, of any size.
    pub standard: Rates,
    /// Of any tier.
    pub every: Rates,
    /// By the piece, nano-USD per million.
    pub units: BTreeMap<String, i64>,
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
    /// By provider.
    ceilings: BTreeMap<String, Arc<Ceiling>>,
    /// Of everyone.
    ceiling: Option<Arc<Ceiling>>,
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
        book.find_ceilings();
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

    /// The dearest known rates of a provider, class by class, or where it has none, of anyone. `None`
    /// only when nothing has a price.
    #[must_use]
    pub fn ceiling(&self, provider: &str) -> Option<Arc<Ceiling>> {
        self.ceilings.get(provider).or(self.ceiling.as_ref()).cloned()
    }

    fn find_ceilings(&mut self) {
        let mut everyone = Known::default();
        let mut by_provider = BTreeMap::new();
        for (provider, models) in &self.rows {
            let mut known = Known::default();
            for row in models.values().flatten().filter(|row| row.model != ANY) {
                known.add(row);
            }
            everyone.merge(&known);
            by_provider.insert(provider.clone(), known);
        }
        if self.rows.is_empty() {
            return;
        }
        let anyone = everyone.ceiling(&Ceiling::default());
        self.ceilings = by_provider
            .into_iter()
            .map(|(provider, known)| (provider, Arc::new(known.ceiling(&anyone))))
            .collect();
        self.ceiling = Some(Arc::new(anyone));
    }
}

/// The dearest of what was added.
#[derive(Default)]
struct Known(Ceiling);

impl Known {
    fn add(&mut self, row: &PriceRow) {
        let unknown = CLASSES.map(|class| row.unpriced.contains(class));
        let known = |rates: Rates| {
            let mut classes = rates.classes();
            for (rate, unknown) in classes.iter_mut().zip(unknown) {
                *rate = if unknown { 0 } else { *rate };
            }
            Rates::from_classes(classes)
        };
        let plain = Terms { sizes: row.terms.sizes.clone(), ..Terms::default() };
        let standard = plain.reachable(&row.rates, u64::MAX).map(known).reduce(Rates::dearest);
        let every = row.terms.reachable(&row.rates, u64::MAX).map(known).reduce(Rates::dearest);
        self.merge(&Self(Ceiling {
            standard: standard.unwrap_or_default(),
            every: every.unwrap_or_default(),
            units: row.terms.units_nanousd_per_million.clone(),
        }));
    }

    fn merge(&mut self, other: &Self) {
        self.0.standard = self.0.standard.dearest(other.0.standard);
        self.0.every = self.0.every.dearest(other.0.every);
        for (name, rate) in &other.0.units {
            let dearest = self.0.units.entry(name.clone()).or_default();
            *dearest = (*dearest).max(*rate);
        }
    }

    /// With what others charge where nothing, or nothing but zeros, is known.
    fn ceiling(&self, others: &Ceiling) -> Ceiling {
        let mut units = others.units.clone();
        units.extend(
            self.0.units.iter().filter(|(_, rate)| **rate > 0).map(|(name, rate)| (name.clone(), *rate)),
        );
        Ceiling {
            standard: filled(self.0.standard, others.standard),
            every: filled(self.0.every, others.every),
            units,
        }
    }
}

/// Where a class has no rate above zero: that of text, or where text has none either, the others'.
fn filled(rates: Rates, others: Rates) -> Rates {
    let first = |own: i64, other: i64| if own > 0 { own } else { other };
    let (input, output) = (first(rates.input, others.input), first(rates.output, others.output));
    let mut classes = rates.classes();
    for (rate, is_input) in classes.iter_mut().zip(IS_INPUT) {
        *rate = first(*rate, if is_input { input } else { output });
    }
    Rates::from_classes(classes)
}
