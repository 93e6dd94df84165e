//! The figures of a price by name, and how two prices differ in them.

use std::collections::{BTreeMap, BTreeSet};

use purser_protocol::format_usd;

use super::plan::Wanted;
use super::units;
use crate::pricing::off_peak::{self, OFF_PEAK};
use crate::pricing::terms::SizeTier;
use crate::pricing::{CLASSES, PriceRow, Rates, Terms};

/// How the names of what has no known price begin.
const UNKNOWN: &str = "price of ";

/// One figure that differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Figure {
    /// What it is of: a class, or a tier or size and a class, a factor, a unit.
    pub name: String,
    /// What it was, USD per million; nothing where there was none.
    pub old: Option<String>,
    /// What it is to be.
    pub new: Option<String>,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |figure: &Option<String>| figure.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{} {} -> {}", self.name, text(&self.old), text(&self.new))
    }
}

/// What is to be told from another price: rank, so that classes come first, and name.
type Figures = BTreeMap<(usize, String), String>;

/// Every figure that a price has otherwise than a row, or all when there is no row.
#[must_use]
pub fn differences(row: Option<&PriceRow>, wanted: &Wanted) -> Vec<Figure> {
    let old = row.map(|row| figures(&row.rates, row.reasons, &row.terms, &row.unpriced)).unwrap_or_default();
    let new = figures(&wanted.rates, wanted.reasons, &wanted.terms, &wanted.unpriced);
    let names: BTreeSet<&(usize, String)> = old.keys().chain(new.keys()).collect();
    // Of a new price, what is unknown is no figure; the price names it anyway.
    let names = names.into_iter().filter(|(_, name)| row.is_some() || !name.starts_with(UNKNOWN));
    let figure = |key: &(usize, String)| {
        let (old, new) = (old.get(key).cloned(), new.get(key).cloned());
        (old != new).then(|| Figure { name: key.1.clone(), old, new })
    };
    names.filter_map(figure).collect()
}

fn figures(rates: &Rates, reasons: bool, terms: &Terms, unpriced: &BTreeSet<String>) -> Figures {
    let mut figures = Figures::new();
    card(&mut figures, "", rates, &terms.sizes);
    for (name, tier) in &terms.service_tiers {
        card(&mut figures, &format!("tier {name} "), &tier.rates, &tier.sizes);
    }
    let rest = CLASSES.len();
    for (name, factor) in &terms.multipliers_millionths {
        figures.insert((rest, format!("factor {name}")), format_usd(factor.saturating_mul(1_000)));
    }
    for (name, rate) in &terms.units_nanousd_per_million {
        figures.insert((rest, format!("unit {name}")), format_usd(*rate));
    }
    if !terms.off_peak.is_empty() {
        figures.insert((rest, "off-peak hours".to_owned()), off_peak::shown(&terms.off_peak));
    }
    if reasons {
        figures.insert((rest, "reasons".to_owned()), "yes".to_owned());
    }
    for name in unpriced {
        figures.insert((rest, format!("{UNKNOWN}{name}")), "unknown".to_owned());
    }
    figures
}

fn card(figures: &mut Figures, place: &str, rates: &Rates, sizes: &[SizeTier]) {
    for (rank, (class, rate)) in CLASSES.into_iter().zip(rates.classes()).enumerate() {
        let rank = if place.is_empty() { rank } else { CLASSES.len() };
        figures.insert((rank, format!("{place}{class}")), format_usd(rate));
    }
    for size in sizes {
        card(figures, &format!("{place}{} ", size_name(size)), &size.rates, &[]);
    }
}

/// What a row has beyond one rate per class, and the row that replaces it hasn't: sizes, tiers, factors,
/// pieces, hours, what has no known price. Of a tier that is gone, its sizes aren't named too.
#[must_use]
pub fn lost(before: &PriceRow, after: &PriceRow) -> Vec<String> {
    let names = |row: &PriceRow| {
        let Terms { sizes, service_tiers, multipliers_millionths, units_nanousd_per_million, off_peak } =
            row.terms.as_ref();
        let mut names: Vec<String> = sizes.iter().map(size_name).collect();
        for (name, card) in service_tiers {
            names.push(format!("tier {name}"));
            names.extend(card.sizes.iter().map(|size| format!("tier {name} {}", size_name(size))));
        }
        names.extend(multipliers_millionths.keys().map(|name| format!("factor {name}")));
        let met = units_nanousd_per_million.keys().filter(|name| units::check(name).is_ok());
        names.extend(met.map(|name| format!("unit {name}")));
        names.extend((!off_peak.is_empty()).then(|| "off-peak hours".to_owned()));
        let unknown = row.unpriced.iter().filter(|name| *name != OFF_PEAK);
        names.extend(unknown.map(|name| format!("no known price of {name}")));
        names.extend(row.reasons.then(|| "that the model reasons (--reasons)".to_owned()));
        names
    };
    let kept: BTreeSet<String> = names(after).into_iter().collect();
    let gone = |name: &String| !kept.contains(name);
    let of_a_gone_tier = |name: &String| {
        let mut tiers = before.terms.service_tiers.keys();
        tiers.any(|tier| {
            !after.terms.service_tiers.contains_key(tier) && name.starts_with(&format!("tier {tier} "))
        })
    };
    names(before).into_iter().filter(|name| gone(name) && !of_a_gone_tier(name)).collect()
}

/// From which input on a size's rates apply, for people.
#[must_use]
pub fn size_name(size: &SizeTier) -> String {
    let word = if size.at_threshold { "from" } else { "above" };
    format!("{word} {} input tokens", size.above_input_tokens)
}
