//! In which order the price of a call is looked for:
//!
//! 1. the exact name;
//! 2. an alias that an operator set, to the exact name it stands for, or that without its date suffix;
//! 3. the name without its date suffix;
//! 4. the provider's configured rate (the row `*`), then that of all providers (`*`, `*`);
//! 5. the dearest known rate of each class that the provider has, or where it has none, of anyone.
//!
//! Never a prefix of another name. Gemini's `models/` before a name is no part of it. 4 and 5 are for unknown models and flag the call. The model that the
//! answer names wins over the one asked for, unless only 4 or 5 are left for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::book::{ANY, PriceBook, PriceRow};
use super::ceiling::Ceiling;
use super::cost::raised;
use super::off_peak::{OFF_PEAK, may_lie_in};
use super::rates::Rates;
use super::terms::Terms;

/// How a price was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceMatch {
    /// By the very name.
    Exact,
    /// By an alias.
    Alias,
    /// By the name without its date suffix.
    Undated,
    /// Unknown model: the rate configured for such.
    Configured,
    /// Unknown model: the dearest known rate of each class.
    Ceiling,
}

impl PriceMatch {
    /// The name in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Alias => "alias",
            Self::Undated => "undated",
            Self::Configured => "configured",
            Self::Ceiling => "ceiling",
        }
    }
}

/// A price that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// The version; `None` for a ceiling.
    pub price_id: Option<i64>,
    /// How it was found.
    pub matched: PriceMatch,
    /// The name of the row used; `"*"` where the model is unknown.
    pub priced_as: String,
    /// Since when the row applies, Unix seconds; `None` for a ceiling.
    pub effective_from_unix_s: Option<i64>,
    /// Whether the model thinks out of sight; assumed of an unknown one.
    pub reasons: bool,
    /// The rates of the standard tier.
    pub rates: Rates,
    /// Sizes, tiers, multipliers, units.
    pub terms: Arc<Terms>,
    /// Classes, units and conditions without a known price; hours of a discount only if the call may lie in
    /// them.
    pub unpriced: Arc<BTreeSet<String>>,
    /// The dearest known rates, for these.
    pub ceiling: Arc<Ceiling>,
}

/// One step of a search, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub rule: PriceMatch,
    /// Provider and model looked for.
    pub sought: String,
    /// The version found.
    pub found: Option<i64>,
}

/// The provider whose own API has [`GEMINI_PREFIX`] before a model's name.
const GEMINI: &str = "gemini";

/// Before the name of a model where it is a resource's.
const GEMINI_PREFIX: &str = "models/";

/// A row found, and by which rule.
type OwnRow<'a> = (&'a Arc<PriceRow>, PriceMatch);

type Looking<'l, 'a> = &'l mut dyn FnMut(PriceMatch, &str, &str) -> Option<OwnRow<'a>>;

type Noting<'a> = &'a mut dyn FnMut(PriceMatch, &str, &str, Option<&PriceRow>);

impl PriceBook {
    /// The price of a call at an instant, in the order the module tells. `None` only when the book is
    /// empty.
    #[must_use]
    pub fn find(&self, provider: &str, model: &str, at_unix_s: i64) -> Option<Price> {
        self.search(provider, model, at_unix_s, &mut |_, _, _, _| {})
    }

    /// As [`Self::find`], with every step taken.
    #[must_use]
    pub fn explain(&self, provider: &str, model: &str, at_unix_s: i64) -> (Vec<Step>, Option<Price>) {
        let mut steps = Vec::new();
        let price = self.search(provider, model, at_unix_s, &mut |rule, provider, model, found| {
            let found = found.map(|row| row.price_id);
            steps.push(Step { rule, sought: format!("{provider} {model}"), found });
        });
        (steps, price)
    }

    fn search(&self, provider: &str, model: &str, at_unix_s: i64, note: Noting<'_>) -> Option<Price> {
        let mut look = |rule, provider: &str, model: &str| {
            let row = self.row(provider, model, at_unix_s);
            note(rule, provider, model, row.map(AsRef::as_ref));
            row.map(|row| (row, rule))
        };
        let model = self.plain(provider, model);
        let found = self
            .own(provider, model, &mut look)
            .or_else(|| look(PriceMatch::Configured, provider, ANY))
            .or_else(|| look(PriceMatch::Configured, ANY, ANY));
        let ceiling = self.ceiling(provider, at_unix_s)?;
        match found {
            Some((row, rule)) => Some(Self::found(row, rule, ceiling, at_unix_s)),
            None => {
                note(PriceMatch::Ceiling, provider, ANY, None);
                Some(Self::at_ceiling(ceiling))
            }
        }
    }

    /// The model's own row, by the first three rules.
    fn own<'a>(&'a self, provider: &str, model: &str, look: Looking<'_, 'a>) -> Option<OwnRow<'a>> {
        let mut found = look(PriceMatch::Exact, provider, model).filter(|_| model != ANY);
        if found.is_none()
            && let Some((provider, model)) = self.alias(provider, model)
        {
            found = look(PriceMatch::Alias, provider, model).or_else(|| {
                without_date(model).and_then(|undated| look(PriceMatch::Alias, provider, undated))
            });
        }
        found.or_else(|| without_date(model).and_then(|undated| look(PriceMatch::Undated, provider, undated)))
    }

    /// The name without what Gemini's own API writes before it, unless it has a price or alias as it stands.
    fn plain<'a>(&self, provider: &str, model: &'a str) -> &'a str {
        let has = |names: Option<bool>| names.unwrap_or_default();
        let is_known = has(self.rows.get(provider).map(|rows| rows.contains_key(model)))
            || has(self.aliases.get(provider).map(|aliases| aliases.contains_key(model)));
        let plain = model.strip_prefix(GEMINI_PREFIX).filter(|_| provider == GEMINI && !is_known);
        plain.unwrap_or(model)
    }

    /// The names that the book has for what a call asks for: an alias's target, and the row that prices it.
    /// None of an unknown model.
    pub fn stands_for<'a>(
        &'a self,
        provider: &str,
        model: &str,
        at_unix_s: i64,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let model = self.plain(provider, model);
        let mut look =
            |rule, provider: &str, model: &str| self.row(provider, model, at_unix_s).map(|row| (row, rule));
        let row = self.own(provider, model, &mut look);
        let is_alias = row.is_none_or(|(_, rule)| rule != PriceMatch::Exact);
        let target = self.alias(provider, model).filter(|_| is_alias).map(|(_, target)| target);
        target.into_iter().chain(row.map(|(row, _)| row.model.as_str()))
    }

    /// What a name stands for.
    #[must_use]
    pub fn alias(&self, provider: &str, model: &str) -> Option<(&str, &str)> {
        let (provider, model) = self.aliases.get(provider)?.get(model)?;
        Some((provider, model))
    }

    /// The names that stand for a model at any provider: its own and its aliases.
    #[must_use]
    pub fn names_of(&self, model: &str) -> Vec<String> {
        let aliases = self.aliases.values().flatten();
        let meant = aliases
            .filter(|(_, (_, target))| target == model || without_date(target) == Some(model))
            .map(|(alias, _)| alias.clone());
        let names: BTreeSet<String> = meant.chain([model.to_owned()]).collect();
        names.into_iter().collect()
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
        let named = answered.and_then(|model| self.find(provider, model, at_unix_s)).filter(Price::is_known);
        named.or_else(|| self.find(provider, asked, at_unix_s))
    }

    /// As [`Self::find`], at the dearest rate of each class among the model and the dated models of its
    /// name, since an answer may name any of them, in every tier that an input of up to
    /// `most_input_tokens` may meet, with every factor on it: an upper bound.
    #[must_use]
    pub fn dearest(
        &self,
        provider: &str,
        model: &str,
        at_unix_s: i64,
        most_input_tokens: u64,
    ) -> Option<Price> {
        let mut price = self.find(provider, model, at_unix_s)?;
        let model = self.plain(provider, model);
        let (provider, model) = match price.matched {
            PriceMatch::Alias => self.alias(provider, model)?,
            _ => (provider, model),
        };
        let name = without_date(model).unwrap_or(model);
        let alike = self.named.get(provider).and_then(|names| names.get(name)).into_iter().flatten();
        let rows: Vec<&Arc<PriceRow>> =
            alike.filter_map(|other| self.row(provider, other, at_unix_s)).collect();
        let own = (price.rates, Arc::clone(&price.terms), Arc::clone(&price.unpriced));
        let others = rows.iter().map(|row| (row.rates, Arc::clone(&row.terms), Arc::clone(&row.unpriced)));
        let (mut rates, mut units) = (Rates::default(), BTreeMap::new());
        for (plain, terms, unpriced) in std::iter::once(own).chain(others) {
            let factors = terms.largest_multipliers();
            for card in terms.reachable(&plain, most_input_tokens) {
                rates = rates.dearest(card.with(card, |rate, _| raised(rate, &factors)));
            }
            for (name, rate) in &terms.units_nanousd_per_million {
                let dearest: &mut i64 = units.entry(name.clone()).or_default();
                *dearest = (*dearest).max(*rate);
            }
            if !unpriced.is_empty() {
                price.unpriced = Arc::new(price.unpriced.union(&unpriced).cloned().collect());
            }
        }
        price.rates = rates;
        price.terms = Arc::new(Terms { units_nanousd_per_million: units, ..Terms::default() });
        Some(price)
    }

    fn found(row: &PriceRow, matched: PriceMatch, ceiling: Arc<Ceiling>, at_unix_s: i64) -> Price {
        let mut unpriced = Arc::clone(&row.unpriced);
        if unpriced.contains(OFF_PEAK) && !may_lie_in(&row.terms.off_peak, at_unix_s) {
            Arc::make_mut(&mut unpriced).remove(OFF_PEAK);
        }
        Price {
            price_id: Some(row.price_id),
            matched,
            priced_as: row.model.clone(),
            effective_from_unix_s: Some(row.effective_from_unix_s),
            reasons: row.reasons || matched == PriceMatch::Configured,
            rates: row.rates,
            terms: Arc::clone(&row.terms),
            unpriced,
            ceiling,
        }
    }

    fn at_ceiling(ceiling: Arc<Ceiling>) -> Price {
        Price {
            price_id: None,
            matched: PriceMatch::Ceiling,
            priced_as: ANY.to_owned(),
            effective_from_unix_s: None,
            reasons: true,
            rates: ceiling.standard,
            terms: Arc::default(),
            unpriced: Arc::default(),
            ceiling,
        }
    }
}

impl Price {
    /// What the ledger says of it: `ceiling` for an unknown model, `partial` when something that
    /// occurred had no known price, else nothing.
    #[must_use]
    pub fn flag(&self, unpriced: &[String]) -> &'static str {
        match (self.is_known(), unpriced.is_empty()) {
            (false, _) => "ceiling",
            (true, false) => "partial",
            (true, true) => "",
        }
    }
}

/// `gpt-4o-2024-08-06` → `gpt-4o`; also `-20250929` and `@20250929`. `None` without such a suffix.
#[must_use]
pub fn without_date(model: &str) -> Option<&str> {
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
