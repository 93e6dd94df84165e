//! Setting prices and aliases.

use std::collections::BTreeMap;

use budget_backend::admin::prices as list;
use budget_backend::prices::plan::{Entry, Source};
use budget_backend::prices::{catalogue, decimal};
use budget_backend::pricing::{Alias, Terms};
use sqlx::PgConnection;

use super::super::say;
use super::look::say_version;
use super::{AliasArguments, Failure, SetArguments, book, failed, seconds, wrong};

pub fn entry(arguments: &SetArguments) -> Result<Entry, String> {
    for (field, value) in [("--provider", &arguments.provider), ("--model", &arguments.model)] {
        if value.trim().is_empty() || value.trim() != value || value.chars().any(char::is_control) {
            return Err(format!("{field}: expected a name, got {value:?}"));
        }
    }
    let named: BTreeMap<String, String> = pairs("--rate", &arguments.rates)?;
    for side in ["input", "output"] {
        if !named.contains_key(side) {
            return Err(format!("--rate: expected {side} among them; an explicit {side}=0 is a price"));
        }
    }
    let rates = catalogue::rates(&named).map_err(|problem| format!("--rate {problem}"))?;
    let mut terms = Terms::default();
    if let Some(text) = &arguments.terms {
        terms = serde_json::from_str(text).map_err(|error| format!("--terms: {error}"))?;
    }
    for (unit, usd) in pairs("--unit", &arguments.units)? {
        let rate =
            decimal::scaled(&usd, 15).map_err(|error| format!("--unit {unit}: {error}, got {usd:?}"))?;
        if rate.rounded_up {
            return Err(format!("--unit {unit}: {usd} is finer than can be kept"));
        }
        terms.units_nanousd_per_million.insert(unit, rate.value);
    }
    terms.check().map_err(|problem| format!("--terms: {problem}"))?;
    Ok(Entry {
        provider: arguments.provider.clone(),
        model: arguments.model.clone(),
        effective_from_unix_s: seconds(arguments.effective_from),
        rates,
        reasons: arguments.reasons,
        terms,
        unpriced: std::collections::BTreeSet::new(),
        source: Source::Operator,
        note: arguments.note.clone(),
    })
}

fn pairs(field: &str, given: &[String]) -> Result<BTreeMap<String, String>, String> {
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
    let set =
        versions.iter().filter(|version| version.row.provider == provider && version.row.model == model);
    match set.max_by_key(|version| version.row.price_id) {
        Some(version) => say_version(version, false).map_err(failed),
        None => Err(failed("the price was added and is gone")),
    }
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
    let (book, _) = book(connection).await?;
    // A target without a price would leave the calls at the ceiling.
    let known = book.find(target, model, seconds(None)).is_some_and(|price| price.is_known());
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
    say(format!("{provider} {name} stands for {target} {model}")).map_err(failed)
}
