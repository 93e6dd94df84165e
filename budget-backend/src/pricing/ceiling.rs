//! The dearest known rates as of an instant: what unknown models and classes without a price cost.
//!
//! Only rows in force at the instant count, so that a mistake ceases to count once it is put right. They are
//! gathered when first asked for, once for each span between two starts of prices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::book::{ANY, PriceBook, PriceRow};
use super::rates::{CLASSES, IS_INPUT, Rates};
use super::terms::{ONE, Terms};

/// Most spans kept at once. Calls are of the present one; a repricing goes through the past.
const MAX_SPANS: usize = 64;

/// The largest factor that is believed of a tier, millionths; as of multipliers.
const MAX_FACTOR: i64 = 1_000 * ONE;

/// The dearest known rates, for what has none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// Of the standard tier, of any size.
    pub standard: Rates,
    /// Of any tier.
    pub every: Rates,
    /// By the piece, nano-USD per million.
    pub units: BTreeMap<String, i64>,
    /// By service tier, how many times the plain rate it costs at most, millionths.
    pub tier_factors: BTreeMap<String, i64>,
}

/// The ceilings of one span.
#[derive(Debug)]
struct Span {
    by_provider: BTreeMap<String, Arc<Ceiling>>,
    anyone: Arc<Ceiling>,
}

/// Spans by their number; see the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    /// When a price starts to apply, ascending, each once.
    starts_unix_s: Vec<i64>,
    gathered: Arc<Mutex<BTreeMap<usize, Arc<Span>>>>,
}

impl Spans {
    /// Of the starts of all rows.
    pub(super) fn new(starts_unix_s: impl IntoIterator<Item = i64>) -> Self {
        let mut starts_unix_s: Vec<i64> = starts_unix_s.into_iter().collect();
        starts_unix_s.sort_unstable();
        starts_unix_s.dedup();
        Self { starts_unix_s, gathered: Arc::default() }
    }

    /// The span of an instant and an instant that stands for it. Before the first price it is the first
    /// span: no time was free. `None` without any price.
    fn at(&self, at_unix_s: i64) -> Option<(usize, i64)> {
        let number = self.starts_unix_s.partition_point(|start| *start <= at_unix_s).saturating_sub(1);
        self.starts_unix_s.get(number).map(|start| (number, *start))
    }

    fn get(&self, at_unix_s: i64, gather: impl FnOnce(i64) -> Span) -> Option<Arc<Span>> {
        let (number, at_unix_s) = self.at(at_unix_s)?;
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(span) = gathered.get(&number) {
            return Some(Arc::clone(span));
        }
        let span = Arc::new(gather(at_unix_s));
        if gathered.len() >= MAX_SPANS {
            gathered.pop_first();
        }
        gathered.insert(number, Arc::clone(&span));
        Some(span)
    }
}

impl PriceBook {
    /// The dearest rates of a provider that are in force, class by class, or where it has none, of anyone.
    /// `None` only when nothing has a price.
    #[must_use]
    pub fn ceiling(&self, provider: &str, at_unix_s: i64) -> Option<Arc<Ceiling>> {
        let span = self.spans.get(at_unix_s, |at_unix_s| self.span(at_unix_s))?;
        Some(Arc::clone(span.by_provider.get(provider).unwrap_or(&span.anyone)))
    }

    fn span(&self, at_unix_s: i64) -> Span {
        let mut everyone = Known::default();
        let mut by_provider = BTreeMap::new();
        for (provider, models) in &self.rows {
            let mut known = Known::default();
            for model in models.keys().filter(|model| *model != ANY) {
                if let Some(row) = self.row(provider, model, at_unix_s) {
                    known.add(row);
                }
            }
            everyone.merge(&known);
            by_provider.insert(provider.clone(), known);
        }
        let anyone = if everyone.is_free() {
            // Nothing in force has a price above zero: the last resort is whatever anything ever cost.
            let mut ever = Known::default();
            self.versions().for_each(|row| ever.add(row));
            everyone.ceiling(&ever.ceiling(&Ceiling::default()))
        } else {
            everyone.ceiling(&Ceiling::default())
        };
        let by_provider = by_provider
            .into_iter()
            .map(|(provider, known)| (provider, Arc::new(known.ceiling(&anyone))))
            .collect();
        Span { by_provider, anyone: Arc::new(anyone) }
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
        let tiers = row.terms.service_tiers.iter();
        let tier_factors = tiers
            .map(|(name, card)| (name.clone(), factor(known(row.rates), known(card.rates))))
            .chain(row.terms.multipliers_millionths.iter().map(|(name, factor)| (name.clone(), *factor)));
        self.merge(&Self(Ceiling {
            standard: standard.unwrap_or_default(),
            every: every.unwrap_or_default(),
            units: row.terms.units_nanousd_per_million.clone(),
            tier_factors: tier_factors.collect(),
        }));
    }

    fn merge(&mut self, other: &Self) {
        self.0.standard = self.0.standard.dearest(other.0.standard);
        self.0.every = self.0.every.dearest(other.0.every);
        keep_dearest(&mut self.0.units, &other.0.units);
        keep_dearest(&mut self.0.tier_factors, &other.0.tier_factors);
    }

    /// Whether a side has no rate above zero.
    fn is_free(&self) -> bool {
        self.0.standard.input == 0 || self.0.standard.output == 0
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
            tier_factors: self.0.tier_factors.clone(),
        }
    }
}

fn keep_dearest(into: &mut BTreeMap<String, i64>, from: &BTreeMap<String, i64>) {
    for (name, rate) in from {
        let dearest = into.entry(name.clone()).or_default();
        *dearest = (*dearest).max(*rate);
    }
}

/// How many times the plain rate of text a tier costs, millionths, rounded up.
fn factor(plain: Rates, tier: Rates) -> i64 {
    let times = |plain: i64, tier: i64| {
        let times = (i128::from(tier) * i128::from(ONE)).checked_add(i128::from(plain) - 1)?;
        i64::try_from(times.checked_div(plain.into())?).ok()
    };
    let sides = [(plain.input, tier.input), (plain.output, tier.output)];
    let sides = sides.into_iter().filter_map(|(plain, tier)| times(plain, tier));
    sides.max().unwrap_or(ONE).clamp(1, MAX_FACTOR)
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
