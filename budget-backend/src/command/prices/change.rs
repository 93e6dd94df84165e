//! Setting prices and aliases.

use std::collections::BTreeMap;
use std::io::Write;

use budget_backend::admin::prices as list;
use budget_backend::prices::plan::{self, Entry, Source, Version};
use budget_backend::prices::{catalogue, decimal, figures, names, pairs, units};
use budget_backend::pricing::book::ANY;
use budget_backend::pricing::off_peak::OFF_PEAK;
use budget_backend::pricing::{Alias, Terms};
use jiff::Timestamp;
use sqlx::PgConnection;

use super::look::say_version;
use super::{AliasArguments, Failure, SetArguments, book, failed, say, seconds, wrong};

pub fn entry(arguments: &SetArguments) -> Result<Entry, String> {
    for (field, value) in [("--provider", &arguments.provider), ("--model", &arguments.model)] {
        names::check(field, value)?;
    }
    if arguments.provider == ANY && arguments.model != ANY {
        let model = &arguments.model;
        return Err(format!("--model: expected {ANY:?} with --provider {ANY:?}, got {model:?}"));
    }
    names::check_note("--note", &arguments.note)?;
    let rates: BTreeMap<String, String> = named("--rate", &arguments.rates)?;
    for side in ["input", "output"] {
        if !rates.contains_key(side) {
            return Err(format!("--rate: expected {side} among them; an explicit {side}=0 is a price"));
        }
    }
    let rates = catalogue::rates(&rates).map_err(|problem| format!("--rate {problem}"))?;
    let mut terms = Terms::default();
    if let Some(text) = &arguments.terms {
        pairs::no_key_twice(text).map_err(|error| format!("--terms: {error}"))?;
        if !text.trim_start().starts_with('{') {
            return Err(format!("--terms: expected a JSON object, got {}", names::shown(text)));
        }
        terms = serde_json::from_str(text).map_err(|error| format!("--terms: {error}"))?;
        for unit in terms.units_nanousd_per_million.keys() {
            let place = "--terms: units_nanousd_per_million";
            units::check(unit).map_err(|problem| format!("{place}: {problem}"))?;
        }
    }
    for (unit, usd) in named("--unit", &arguments.units)? {
        let rate =
            decimal::scaled(&usd, 15).map_err(|error| format!("--unit {unit}: {error}, got {usd:?}"))?;
        if rate.rounded_up {
            return Err(format!("--unit {unit}: {usd} is finer than can be kept"));
        }
        units::check(&unit).map_err(|problem| format!("--unit: {problem}"))?;
        if terms.units_nanousd_per_million.insert(unit.clone(), rate.value).is_some() {
            return Err(format!("--unit {unit}: expected it there or in --terms, got it in both"));
        }
    }
    plan::check_terms(&terms).map_err(|problem| format!("--terms: {problem}"))?;
    // Hours of a discount are what has no known price.
    let discounted = (!terms.off_peak.is_empty()).then(|| OFF_PEAK.to_owned());
    Ok(Entry {
        provider: arguments.provider.clone(),
        model: arguments.model.clone(),
        effective_from_unix_s: seconds(arguments.effective_from),
        rates,
        reasons: arguments.reasons,
        terms,
        unpriced: discounted.into_iter().collect(),
        source: Source::Operator,
        note: arguments.note.clone(),
    })
}

fn named(field: &str, given: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    for pair in given {
        let Some((name, usd)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("{field}: expected NAME=USD, got {pair:?}"));
        };
        if pairs.insert(name.to_owned(), usd.to_owned()).is_some() {
            return Err(format!("{field}: {name} stands twice"));
        }
    }
    Ok(pairs)
}

pub async fn set(connection: &mut PgConnection, entry: Entry) -> Result<(), Failure> {
    let (provider, model) = (entry.provider.clone(), entry.model.clone());
    list::add(connection, false, |_| ((), vec![entry])).await.map_err(failed)?;
    let versions = list::versions(connection).await.map_err(failed)?;
    let of_model: Vec<&Version> = versions
        .iter()
        .filter(|version| version.row.provider == provider && version.row.model == model)
        .collect();
    let Some(set) = of_model.iter().max_by_key(|version| version.row.price_id) else {
        return Err(failed("the price was added and is gone"));
    };
    let now = seconds(None);
    let in_force = of_model.iter().rfind(|version| version.row.effective_from_unix_s <= now);
    let in_force = in_force.is_some_and(|version| version.row.price_id == set.row.price_id);
    say_version(set, in_force).map_err(failed)?;
    say_lost(&of_model, set)?;
    let start = set.row.effective_from_unix_s;
    if !in_force {
        let why = if start > now { "it applies from its start on" } else { "a version that starts later is" };
        say(format!("  not in force now: {why}")).map_err(failed)?;
    }
    for later in of_model.iter().filter(|version| version.row.effective_from_unix_s > start) {
        let from = Timestamp::from_second(later.row.effective_from_unix_s).map_err(failed)?;
        let (price_id, by) = (later.row.price_id, later.source.as_str());
        warn(&format!(
            "price {price_id}, by {by}, applies instead from {from} on; set one from then on, too"
        ));
    }
    Ok(())
}

/// A version replaces the one before it whole: says what of that one it doesn't have.
fn say_lost(of_model: &[&Version], set: &Version) -> Result<(), Failure> {
    let before = of_model.iter().rfind(|version| {
        version.row.price_id != set.row.price_id
            && version.row.effective_from_unix_s <= set.row.effective_from_unix_s
    });
    let Some(before) = before else { return Ok(()) };
    let lost = figures::lost(&before.row, &set.row);
    if lost.is_empty() {
        return Ok(());
    }
    let (price_id, lost) = (before.row.price_id, lost.join(", "));
    say(format!("  replaces price {price_id} whole, and has not, as that had: {lost}")).map_err(failed)
}

fn warn(text: &str) {
    let _closed = writeln!(std::io::stderr(), "budget-backend: warning: {text}");
}

pub async fn alias(connection: &mut PgConnection, arguments: &AliasArguments) -> Result<(), Failure> {
    let (provider, name) = (&arguments.provider, &arguments.name);
    let Some(model) = &arguments.model else {
        return match list::remove_alias(connection, provider, name).await.map_err(failed)? {
            true => say(format!("{provider} {name} stands for nothing now")).map_err(failed),
            false => Err((format!("{provider} {name} is no alias"), 1)),
        };
    };
    let target = arguments.to_provider.as_ref().unwrap_or(provider);
    let (book, versions) = book(connection).await?;
    // A target without a price would leave the calls at the ceiling.
    let known = book.find(target, model, seconds(None)).is_some_and(|price| price.is_priced());
    if !known {
        return Err(wrong(format!("no price of {target} {model} is known; set it first")));
    }
    let alias = Alias {
        provider: provider.clone(),
        alias: name.clone(),
        target_provider: target.clone(),
        target_model: model.clone(),
    };
    list::set_alias(connection, &alias).await.map_err(failed)?;
    let own = versions.iter().find(|version| version.row.provider == *provider && version.row.model == *name);
    if let Some(own) = own {
        let price_id = own.row.price_id;
        warn(&format!("{provider} {name} has a price of its own, {price_id}; that comes before the alias"));
    }
    say(format!("{provider} {name} stands for {target} {model}")).map_err(failed)
}

/// Checks what an alias is to be before the database is asked.
///
/// # Errors
/// The argument and what was expected.
pub fn check_alias(arguments: &AliasArguments) -> Result<(), String> {
    let given = [
        ("NAME", Some(&arguments.name)),
        ("--provider", Some(&arguments.provider)),
        ("--model", arguments.model.as_ref()),
        ("--to-provider", arguments.to_provider.as_ref()),
    ];
    for (field, value) in given.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        names::check(field, value)?;
        if value == ANY {
            return Err(format!("{field}: expected the name of one, got {ANY:?}"));
        }
    }
    Ok(())
}
