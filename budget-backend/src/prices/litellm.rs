//! Reads the community's price file in the LiteLLM format. Every key becomes a price or is skipped with
//! the reason; whatever is malformed stops it all, named by entry and field.

mod cards;
mod nested;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::decimal::{DecimalError, scaled};
use super::fields::{Field, field, is_about_money};
use super::names;
use super::pairs::{Pairs, no_key_twice};
use super::plan::{Wanted, check_terms};
use crate::pricing::book::ANY;
use crate::pricing::terms::Card;
use crate::pricing::{CLASSES, Terms};

/// USD per token to nano-USD per million tokens.
const NANO_PER_MILLION: i32 = 15;

/// A factor to millionths.
const MILLIONTHS: i32 = 6;

/// The largest factor there is a place for.
const MAX_FACTOR_MILLIONTHS: i64 = 1_000_000_000;

/// Places in [`CLASSES`].
const OUTPUT: usize = 4;
const REASONING: usize = 5;
const IMAGE_OUTPUT: usize = 9;

/// Modes whose answers have no output tokens.
const WITHOUT_OUTPUT: [&str; 3] = ["embedding", "rerank", "moderation"];

/// Whose thresholds are reached by an input of just that size.
const AT_THRESHOLD: [&str; 1] = ["xai"];

/// The key of the file's documentation.
const SAMPLE: &str = "sample_spec";

/// Why the file can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", place(.entry.as_deref(), .field))]
pub struct FileError {
    /// The entry; `None` for the file as a whole.
    pub entry: Option<String>,
    /// Its field, or nothing for the entry as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

fn place(entry: Option<&str>, field: &str) -> String {
    let Some(entry) = entry else { return String::new() };
    match (entry, field) {
        (entry, "") => format!("entry {}: ", names::shown(entry)),
        (entry, field) => format!("entry {}, field {}: ", names::shown(entry), names::shown(field)),
    }
}

/// An entry that is not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its key.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Its prices.
    pub wanted: Vec<Wanted>,
    /// What is no price.
    pub skipped: Vec<Skipped>,
    /// Fields that say nothing about a call's cost, and in how many entries they stand.
    pub ignored: BTreeMap<String, usize>,
    /// Entries and fields finer than a nano-USD per million; rounded up to one.
    pub rounded_up: Vec<(String, String)>,
}

/// Reads a file. With `allow_unknown` a field that isn't known is taken for a price that can't be applied
/// if it seems to be about money, and is ignored if not.
///
/// # Errors
/// [`FileError`], the first one.
pub fn parse(text: &str, allow_unknown: bool) -> Result<File, FileError> {
    let whole = |problem: String| FileError { entry: None, field: String::new(), problem };
    if text.starts_with('\u{feff}') {
        return Err(whole("begins with a byte order mark; expected JSON in UTF-8 without one".to_owned()));
    }
    let Pairs(entries) = serde_json::from_str(text)
        .map_err(|error| whole(format!("not a price file in the LiteLLM format: {error}")))?;
    let mut file = File::default();
    for (key, value) in &entries {
        names::check("key", key).map_err(|problem| {
            let problem = problem.trim_start_matches("key: ").to_owned();
            FileError { entry: Some(key.clone()), field: String::new(), problem }
        })?;
        if key == SAMPLE {
            file.skip(key, "the format's documentation, not a model");
            continue;
        }
        Reading::new(key, allow_unknown).read(value, &mut file)?;
    }
    if file.wanted.is_empty() {
        return Err(whole("not a price file in the LiteLLM format: no entry has a price".to_owned()));
    }
    file.drop_same_models();
    Ok(file)
}

impl File {
    fn skip(&mut self, key: &str, reason: impl Into<String>) {
        self.skipped.push(Skipped { key: key.to_owned(), reason: reason.into() });
    }

    /// Two keys may name one model, with and without the provider before it. The one with it counts, unless
    /// it says of input or output that it is free and the other has a price: a trial's zeros make nothing free.
    fn drop_same_models(&mut self) {
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_by_key(|price| (price.free_sides(), price.key == price.model, price.key.clone()));
        let mut taken: BTreeMap<(String, String), Wanted> = BTreeMap::new();
        for price in wanted {
            let name = (price.provider.clone(), price.model.clone());
            match taken.get(&name) {
                None => {
                    taken.insert(name, price);
                }
                Some(first) => {
                    let same = (first.rates, &first.terms, &first.unpriced)
                        == (price.rates, &price.terms, &price.unpriced);
                    let dearer = price.free_sides() > first.free_sides();
                    let (reason, why) = match (same, dearer) {
                        (true, _) => ("the same as", ""),
                        (false, true) => ("free, and the same model as", ", since that has a price"),
                        (false, false) => ("another price than, and the same model as,", ""),
                    };
                    let reason = format!("{reason} {:?}, which is taken{why}", first.key);
                    self.skip(&price.key, reason);
                }
            }
        }
        self.wanted = taken.into_values().collect();
    }
}

/// Class, threshold, tier.
type RateKey = (usize, Option<u64>, Option<String>);

/// One entry while it is read.
struct Reading<'a> {
    key: &'a str,
    allow_unknown: bool,
    provider: Option<String>,
    mode: String,
    source: String,
    reasons: bool,
    rates: BTreeMap<RateKey, i64>,
    terms: Terms,
    unpriced: BTreeSet<String>,
    rounded_up: Vec<String>,
    /// Rates in hours of a discount: field, class, rate.
    discounted: Vec<(String, usize, i64)>,
}

impl<'a> Reading<'a> {
    fn new(key: &'a str, allow_unknown: bool) -> Self {
        Self {
            key,
            allow_unknown,
            provider: None,
            mode: String::new(),
            source: String::new(),
            reasons: false,
            rates: BTreeMap::new(),
            terms: Terms::default(),
            unpriced: BTreeSet::new(),
            rounded_up: Vec::new(),
            discounted: Vec::new(),
        }
    }

    fn error(&self, field: &str, problem: impl Into<String>) -> FileError {
        FileError { entry: Some(self.key.to_owned()), field: field.to_owned(), problem: problem.into() }
    }

    fn read(mut self, value: &RawValue, file: &mut File) -> Result<(), FileError> {
        let Pairs(fields) = self.object("", value)?;
        for (name, value) in &fields {
            self.checked(name, names::check("", name))?;
            no_key_twice(value.get()).map_err(|error| self.error(name, without_place(&error)))?;
            match name.as_str() {
                "litellm_provider" => {
                    let provider = self.text(name, value)?;
                    self.checked(name, names::check("", &provider))?;
                    self.provider = Some(provider);
                }
                "mode" => self.mode = self.text(name, value)?,
                _ => {}
            }
        }
        for (name, value) in &fields {
            self.field(name, value, file)?;
        }
        file.rounded_up.extend(self.rounded_up.drain(..).map(|field| (self.key.to_owned(), field)));
        let Some(provider) = self.provider.take() else {
            if self.rates.is_empty() && self.terms == Terms::default() {
                file.skip(self.key, "names no provider and no price");
                return Ok(());
            }
            return Err(self.error("litellm_provider", "expected who bills, got nothing"));
        };
        if self.rates.is_empty() && self.terms == Terms::default() && self.unpriced.is_empty() {
            file.skip(self.key, "has no price");
            return Ok(());
        }
        let price = self.finish(&provider)?;
        if [&price.provider, &price.model].iter().any(|name| name.rsplit('/').next() == Some(ANY)) {
            let reason = "stands for any model; `prices set --model '*'` sets a rate of unknown models";
            file.skip(&price.key, reason);
        } else {
            file.wanted.push(price);
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: &RawValue, file: &mut File) -> Result<(), FileError> {
        match field(name, &self.mode) {
            Field::Provider | Field::Mode => {}
            Field::Source => {
                self.source = self.text(name, value)?;
                self.checked(name, names::check_note("", &self.source))?;
            }
            Field::Reasons => {
                self.reasons = serde_json::from_str(value.get())
                    .map_err(|_| self.error(name, format!("expected true or false, got {}", shown(value))))?;
            }
            Field::Rate(class, above, tier) => {
                let rate = self.number(name, value, NANO_PER_MILLION)?;
                let class = self.rates.entry((class, above, tier)).or_insert(rate);
                // Two names of one rate: the dearer, should they differ.
                *class = (*class).max(rate);
            }
            Field::Unit(unit) => {
                let rate = self.number(name, value, NANO_PER_MILLION)?;
                let known = self.terms.units_nanousd_per_million.entry(unit.to_owned()).or_insert(rate);
                *known = (*known).max(rate);
            }
            Field::Multiplier(place) => self.multiplier(name, place, value)?,
            Field::SearchContext => self.search_context(name, value)?,
            Field::TieredPricing => self.tiered(name, value)?,
            Field::OffPeak => self.off_peak(name, value)?,
            Field::ProviderSpecific => self.provider_specific(name, value)?,
            Field::Unpriceable => self.unpriceable(name, value)?,
            Field::Irrelevant => {
                *file.ignored.entry(name.to_owned()).or_default() += 1;
            }
            Field::Unknown if self.allow_unknown && is_about_money(name) => {
                self.checked(name, names::check("", name))?;
                self.no_negative(name, value)?;
                self.unpriced.insert(name.to_owned());
            }
            Field::Unknown if self.allow_unknown => {
                *file.ignored.entry(name.to_owned()).or_default() += 1;
            }
            Field::Unknown => return Err(self.error(name, "unknown field")),
        }
        Ok(())
    }

    fn object<'v>(&self, field: &str, value: &'v RawValue) -> Result<Pairs<'v>, FileError> {
        serde_json::from_str(value.get()).map_err(|error| self.error(field, without_place(&error)))
    }

    fn checked(&self, field: &str, check: Result<(), String>) -> Result<(), FileError> {
        check.map_err(|problem| self.error(field, problem.trim_start_matches(": ")))
    }

    fn text(&self, field: &str, value: &RawValue) -> Result<String, FileError> {
        serde_json::from_str(value.get())
            .map_err(|_| self.error(field, format!("expected a text, got {}", shown(value))))
    }

    fn number(&mut self, field: &str, value: &RawValue, power: i32) -> Result<i64, FileError> {
        let number = scaled(value.get(), power).map_err(|error| match error {
            DecimalError::TooLarge | DecimalError::Negative | DecimalError::NotDecimal => {
                self.error(field, format!("{error}, got {}", shown(value)))
            }
        })?;
        if number.rounded_up {
            self.rounded_up.push(field.to_owned());
        }
        Ok(number.value)
    }

    fn multiplier(&mut self, field: &str, name: &str, value: &RawValue) -> Result<(), FileError> {
        let factor = self.number(field, value, MILLIONTHS)?;
        if !(1..=MAX_FACTOR_MILLIONTHS).contains(&factor) {
            return Err(
                self.error(field, format!("expected a factor above 0 up to 1000, got {}", shown(value)))
            );
        }
        let known = self.terms.multipliers_millionths.entry(name.to_owned()).or_insert(factor);
        *known = (*known).max(factor);
        Ok(())
    }

    fn finish(mut self, provider: &str) -> Result<Wanted, FileError> {
        let billed_by = billed_by(provider);
        let model = [provider, billed_by]
            .into_iter()
            .find_map(|prefix| self.key.strip_prefix(prefix)?.strip_prefix('/'))
            .unwrap_or(self.key);
        if model.is_empty() {
            return Err(self.error("", "names no model"));
        }
        if WITHOUT_OUTPUT.contains(&self.mode.as_str()) {
            self.rates.entry((OUTPUT, None, None)).or_insert(0);
        }
        let known = self.known(None, None);
        for (class, name) in CLASSES.into_iter().enumerate() {
            let side = if crate::pricing::rates::IS_INPUT[class] { 0 } else { OUTPUT };
            if known[class].is_none() && known[side].is_none() {
                self.unpriced.insert(name.to_owned());
            }
        }
        let mut terms = std::mem::take(&mut self.terms);
        terms.sizes = self.sizes(billed_by, None);
        let tiers: BTreeSet<String> = self.rates.keys().filter_map(|(_, _, tier)| tier.clone()).collect();
        for tier in tiers {
            let card =
                Card { rates: self.card(None, Some(&tier)), sizes: self.sizes(billed_by, Some(&tier)) };
            terms.service_tiers.insert(tier, card);
        }
        self.checked("", names::check("", model))?;
        self.checked("", check_terms(&terms))?;
        let rates = self.card(None, None);
        self.check_discount(&rates)?;
        Ok(Wanted {
            key: self.key.to_owned(),
            provider: billed_by.to_owned(),
            model: model.to_owned(),
            effective_from_unix_s: None,
            rates,
            reasons: self.reasons,
            terms,
            unpriced: self.unpriced,
            note: self.source,
        })
    }
}

/// The provider's name as routes have it: the file tells some apart by the API they speak.
fn billed_by(provider: &str) -> &str {
    match provider {
        "bedrock_converse" => "bedrock",
        "text-completion-openai" => "openai",
        "azure_text" => "azure",
        "cohere_chat" => "cohere",
        "text-completion-codestral" => "codestral",
        "text-completion-inception" => "inception",
        "fireworks_ai-embedding-models" => "fireworks_ai",
        other if other.starts_with("vertex_ai-") => "vertex_ai",
        other => other,
    }
}

/// The position is one within the value and would mislead.
fn without_place(error: &serde_json::Error) -> String {
    error.to_string().split(" at line ").next().unwrap_or_default().to_owned()
}

fn shown(value: &RawValue) -> String {
    const MAX_CHARS: usize = 40;
    let start: String = value.get().chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    if start.len() < value.get().len() { format!("{start}…") } else { start }
}

#[cfg(test)]
#[path = "litellm_tests.rs"]
mod tests;
