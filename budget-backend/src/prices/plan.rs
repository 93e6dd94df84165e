//! What to add to a price list so that it says what a file says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::figures::{self, Figure};
use super::names;
use crate::pricing::book::ANY;
use crate::pricing::off_peak::check_zone;
use crate::pricing::terms::canonical;
use crate::pricing::{PriceRow, Rates, Terms};

/// From when a model's price applies that had none: earlier than any call there is to price. A price is
/// a better guess for the past than a ceiling.
pub const SINCE_EVER_UNIX_S: i64 = 1_735_689_600;

/// Who added a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It came with the schema.
    Migration,
    /// It came with the program.
    Catalogue,
    /// It was imported from a file.
    Import,
    /// An operator set it.
    Operator,
}

impl Source {
    /// The name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Catalogue => "catalogue",
            Self::Import => "import",
            Self::Operator => "operator",
        }
    }

    /// The source of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Migration, Self::Catalogue, Self::Import, Self::Operator];
        all.into_iter().find(|source| source.as_str() == name)
    }

    /// Whether this source leaves alone what `other` set.
    const fn yields_to(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Catalogue | Self::Import, Self::Operator) | (Self::Catalogue, Self::Import)
        )
    }
}

/// A version as the database has it.
#[derive(Debug, Clone)]
pub struct Version {
    /// The price.
    pub row: PriceRow,
    /// Who added it.
    pub source: Source,
    /// Where its figures are from.
    pub note: String,
}

/// A version to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who bills.
    pub provider: String,
    /// As the provider names it.
    pub model: String,
    /// From when it applies, Unix seconds.
    pub effective_from_unix_s: i64,
    /// Rates of the standard tier.
    pub rates: Rates,
    /// Whether the model thinks out of sight.
    pub reasons: bool,
    /// Sizes, tiers, multipliers, units.
    pub terms: Terms,
    /// Classes, units and conditions without a known price.
    pub unpriced: BTreeSet<String>,
    /// Who adds it.
    pub source: Source,
    /// Where its figures are from.
    pub note: String,
}

impl Entry {
    /// Checks all that would make a version one that can't be read or met.
    ///
    /// # Errors
    /// The field and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        names::check("provider", &self.provider)?;
        names::check("model", &self.model)?;
        if self.provider == ANY && self.model != ANY {
            let (any, model) = (ANY, &self.model);
            return Err(format!("model: expected {any:?} with the provider {any:?}, got {model:?}"));
        }
        names::check_note("note", &self.note)?;
        if self.rates.classes().iter().any(|rate| *rate < 0) {
            return Err("rates: expected no negative rate".to_owned());
        }
        check_terms(&self.terms)?;
        self.unpriced.iter().try_for_each(|name| names::check("unpriced", name))
    }
}

/// Checks what terms say, and that every name in them can be met.
///
/// # Errors
/// The field and what is wrong with it.
pub fn check_terms(terms: &Terms) -> Result<(), String> {
    terms.check()?;
    for name in terms.service_tiers.keys() {
        names::check("service_tiers", name)?;
        never_said("service_tiers", name)?;
    }
    for name in terms.multipliers_millionths.keys() {
        names::check("multipliers_millionths", name)?;
        never_said("multipliers_millionths", name)?;
        if terms.service_tiers.contains_key(name) {
            let place = "multipliers_millionths";
            return Err(format!("{place}.{name}: expected another name than that of a service tier"));
        }
    }
    for hours in terms.off_peak.iter().filter(|hours| !hours.weekday_zone.is_empty()) {
        names::check("off_peak.weekday_zone", &hours.weekday_zone)?;
        check_zone(&hours.weekday_zone).map_err(|problem| format!("off_peak.weekday_zone: {problem}"))?;
    }
    let mut units = terms.units_nanousd_per_million.keys();
    units.try_for_each(|name| names::check("units_nanousd_per_million", name))
}

/// Names of tiers and factors are met in lower case, and a `+` parts them.
fn never_said(field: &str, name: &str) -> Result<(), String> {
    let expected = canonical(name);
    if expected != name {
        return Err(format!("{field}: {name:?} is never said; expected {expected:?}"));
    }
    if name.contains('+') {
        return Err(format!("{field}: {name:?} is never said; expected one for each part"));
    }
    Ok(())
}

/// A price that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What the file calls it.
    pub key: String,
    /// Who bills.
    pub provider: String,
    /// As the provider names it.
    pub model: String,
    /// From when it applies, when the file says.
    pub effective_from_unix_s: Option<i64>,
    /// Rates of the standard tier.
    pub rates: Rates,
    /// Whether the model thinks out of sight.
    pub reasons: bool,
    /// Sizes, tiers, multipliers, units.
    pub terms: Terms,
    /// Classes, units and conditions without a known price.
    pub unpriced: BTreeSet<String>,
    /// Where its figures are from.
    pub note: String,
}

impl Wanted {
    /// Of input and output, how many cost nothing outside of service tiers, where nothing else stands for
    /// them: no piece with a price, and nothing without a known one.
    #[must_use]
    pub fn free_sides(&self) -> usize {
        if !self.unpriced.is_empty() || self.terms.units_nanousd_per_million.values().any(|rate| *rate > 0) {
            return 0;
        }
        let sizes = self.terms.sizes.iter().map(|size| size.rates);
        let dearest = sizes.fold(self.rates, Rates::dearest);
        [dearest.dearest_input(), dearest.dearest_output()].iter().filter(|rate| **rate == 0).count()
    }
}

/// What becomes of one price of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The list says so already.
    Unchanged,
    /// The model had no price: all figures.
    Added(Vec<Figure>),
    /// It had another: what differs.
    Changed(Vec<Figure>),
    /// Somebody whose word counts more has set it.
    Kept(Source),
}

/// What becomes of one price of a file, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What the file calls it.
    pub key: String,
    /// Who bills.
    pub provider: String,
    /// As the provider names it.
    pub model: String,
    /// What has no known price.
    pub unpriced: BTreeSet<String>,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// Compares what a file wants with the list and gives what becomes of each price, and what to add.
/// Changes apply from `changed_from_unix_s` unless the file says otherwise; so do additions when
/// `added_from_unix_s` says no other time.
#[must_use]
pub fn plan(
    versions: &[Version],
    wanted: Vec<Wanted>,
    source: Source,
    added_from_unix_s: i64,
    changed_from_unix_s: i64,
) -> (Vec<Planned>, Vec<Entry>) {
    let mut by_model: BTreeMap<(&str, &str), Vec<&Version>> = BTreeMap::new();
    for version in versions {
        by_model.entry((&version.row.provider, &version.row.model)).or_default().push(version);
    }
    for versions in by_model.values_mut() {
        versions.sort_by_key(|version| (version.row.effective_from_unix_s, version.row.price_id));
    }
    let (mut planned, mut entries) = (Vec::new(), Vec::new());
    for wanted in wanted {
        let known = by_model.get(&(wanted.provider.as_str(), wanted.model.as_str()));
        let at = wanted.effective_from_unix_s.unwrap_or(changed_from_unix_s);
        let (outcome, from_unix_s) = match known {
            None => (
                Outcome::Added(figures::differences(None, &wanted)),
                wanted.effective_from_unix_s.unwrap_or(added_from_unix_s),
            ),
            Some(known) => (compare(known, &wanted, source, at), at),
        };
        planned.push(Planned {
            key: wanted.key.clone(),
            provider: wanted.provider.clone(),
            model: wanted.model.clone(),
            unpriced: wanted.unpriced.clone(),
            outcome: outcome.clone(),
        });
        if matches!(outcome, Outcome::Added(_) | Outcome::Changed(_)) {
            entries.push(entry(wanted, source, from_unix_s));
        }
    }
    (planned, entries)
}

fn compare(known: &[&Version], wanted: &Wanted, source: Source, at_unix_s: i64) -> Outcome {
    // What was added last is what is wanted, whenever it starts.
    let last = known.iter().max_by_key(|version| version.row.price_id);
    if let Some(last) = last.filter(|last| source.yields_to(last.source)) {
        return Outcome::Kept(last.source);
    }
    let in_force = known.iter().rev().find(|version| version.row.effective_from_unix_s <= at_unix_s);
    let figures = figures::differences(in_force.map(|version| &version.row), wanted);
    if figures.is_empty() { Outcome::Unchanged } else { Outcome::Changed(figures) }
}

fn entry(wanted: Wanted, source: Source, effective_from_unix_s: i64) -> Entry {
    Entry {
        provider: wanted.provider,
        model: wanted.model,
        effective_from_unix_s,
        rates: wanted.rates,
        reasons: wanted.reasons,
        terms: wanted.terms,
        unpriced: wanted.unpriced,
        source,
        note: wanted.note,
    }
}
