//! Looking at the price list.

use budget_backend::admin::prices as list;
use budget_backend::prices::figures::size_name;
use budget_backend::prices::plan::Version;
use budget_backend::pricing::off_peak;
use budget_backend::pricing::{CLASSES, PriceMatch, PriceRow, Rates};
use jiff::Timestamp;
use purser_protocol::format_usd;
use sqlx::PgConnection;

use super::super::text;
use super::{ExplainArguments, Failure, ListArguments, ShowArguments, book, failed, say, seconds};

pub async fn list_prices(connection: &mut PgConnection, arguments: &ListArguments) -> Result<(), Failure> {
    let (book, versions) = book(connection).await?;
    let now = seconds(None);
    for version in &versions {
        let row = &version.row;
        let wanted = arguments.provider.as_ref().is_none_or(|provider| *provider == row.provider);
        let in_force = versions.iter().rfind(|other| {
            (&other.row.provider, &other.row.model) == (&row.provider, &row.model)
                && other.row.effective_from_unix_s <= now
        });
        if wanted && in_force.is_some_and(|in_force| in_force.row.price_id == row.price_id) {
            say(line(version)).map_err(failed)?;
        }
    }
    for alias in list::aliases(connection).await.map_err(failed)? {
        if arguments.provider.as_ref().is_none_or(|provider| *provider == alias.provider) {
            let (from, to) = (&alias.alias, &alias.target_model);
            say(format!("{} {from} is {} {to}", alias.provider, alias.target_provider)).map_err(failed)?;
        }
    }
    say(format!("{} models in all; USD per million tokens", book.models())).map_err(failed)
}

fn line(version: &Version) -> String {
    let row = &version.row;
    let marks = [
        (!row.terms.sizes.is_empty(), "sizes"),
        (!row.terms.service_tiers.is_empty(), "tiers"),
        (!row.terms.multipliers_millionths.is_empty(), "multipliers"),
        (!row.terms.units_nanousd_per_million.is_empty(), "units"),
        (!row.unpriced.is_empty(), "partial"),
    ];
    let marks: Vec<&str> = marks.iter().filter(|(there, _)| *there).map(|(_, mark)| *mark).collect();
    format!(
        "{} {}  in {}  cached {}  out {}  {}{}{}",
        row.provider,
        row.model,
        format_usd(row.rates.input),
        format_usd(row.rates.cached_input),
        format_usd(row.rates.output),
        version.source.as_str(),
        if marks.is_empty() { "" } else { "  " },
        marks.join(",")
    )
}

pub async fn show(connection: &mut PgConnection, arguments: &ShowArguments) -> Result<(), Failure> {
    let (_, versions) = book(connection).await?;
    let at = seconds(arguments.at);
    let of_model = |version: &&Version| {
        version.row.model == arguments.model
            && arguments.provider.as_ref().is_none_or(|provider| *provider == version.row.provider)
    };
    let shown: Vec<&Version> = versions.iter().filter(of_model).collect();
    if shown.is_empty() {
        return Err((format!("no price of {:?} is known by that name; try explain", arguments.model), 1));
    }
    for version in &shown {
        let in_force = shown.iter().rfind(|other| {
            other.row.provider == version.row.provider && other.row.effective_from_unix_s <= at
        });
        let in_force = in_force.is_some_and(|other| other.row.price_id == version.row.price_id);
        say_version(version, in_force).map_err(failed)?;
    }
    // Versions come by provider, and of one the earliest first.
    for first in shown.chunk_by(|a, b| a.row.provider == b.row.provider).filter_map(<[_]>::first) {
        if first.row.effective_from_unix_s > at {
            let PriceRow { provider, model, .. } = &first.row;
            let at = Timestamp::from_second(at).map_err(failed)?;
            say(format!("none of {provider} {model} is in force at {at}; see explain")).map_err(failed)?;
        }
    }
    Ok(())
}

pub fn say_version(version: &Version, in_force: bool) -> Result<(), String> {
    let row = &version.row;
    let since = Timestamp::from_second(row.effective_from_unix_s).map_err(text)?;
    let mark = if in_force { "  in force" } else { "" };
    say(format!(
        "price {}: {} {} from {since}, by {}{mark}",
        row.price_id,
        row.provider,
        row.model,
        version.source.as_str()
    ))?;
    say(format!("  USD per million tokens: {}", rates_text(&row.rates)))?;
    for size in &row.terms.sizes {
        say(format!("  {}: {}", size_name(size), rates_text(&size.rates)))?;
    }
    for (name, card) in &row.terms.service_tiers {
        say(format!("  tier {name}: {}", rates_text(&card.rates)))?;
        for size in &card.sizes {
            say(format!("  tier {name} {}: {}", size_name(size), rates_text(&size.rates)))?;
        }
    }
    for (name, factor) in &row.terms.multipliers_millionths {
        say(format!("  times {} for {name}", format_usd(factor.saturating_mul(1_000))))?;
    }
    for (name, rate) in &row.terms.units_nanousd_per_million {
        say(format!("  USD per million {name}: {}", format_usd(*rate)))?;
    }
    if !row.terms.off_peak.is_empty() {
        say(format!("  less, by how much isn't kept: {}", off_peak::shown(&row.terms.off_peak)))?;
    }
    for name in row.unpriced.iter() {
        say(format!("  no known price: {name}"))?;
    }
    if !version.note.is_empty() {
        say(format!("  from {}", version.note))?;
    }
    Ok(())
}

fn rates_text(rates: &Rates) -> String {
    let classes = CLASSES.into_iter().zip(rates.classes());
    classes.map(|(class, rate)| format!("{class} {}", format_usd(rate))).collect::<Vec<_>>().join(", ")
}

pub async fn explain(connection: &mut PgConnection, arguments: &ExplainArguments) -> Result<(), Failure> {
    let (book, versions) = book(connection).await?;
    let at = seconds(arguments.at);
    let asked = [(arguments.answered.as_deref(), "answered"), (Some(arguments.model.as_str()), "asked for")];
    for (model, what) in asked.into_iter().filter_map(|(model, what)| model.map(|model| (model, what))) {
        say(format!("the model {what}: {} {model}", arguments.provider)).map_err(failed)?;
        let (steps, price) = book.explain(&arguments.provider, model, at);
        for step in steps {
            let found = match (step.rule, step.found) {
                (PriceMatch::Ceiling, _) => "the dearest known rates".to_owned(),
                (_, Some(price_id)) => format!("found, price {price_id}"),
                (_, None) => "nothing".to_owned(),
            };
            say(format!("  {}: {}: {found}", step.rule.as_str(), step.sought)).map_err(failed)?;
        }
        let Some(price) = price else { return Err(failed("the price list is empty")) };
        if price.is_known() || what == "asked for" {
            let unpriced: Vec<&str> = price.unpriced.iter().map(String::as_str).collect();
            let flag = match (price.is_known(), unpriced.is_empty()) {
                (false, _) => "; the call is flagged ceiling".to_owned(),
                (true, true) => String::new(),
                (true, false) => format!("; flagged partial where it costs by {}", unpriced.join(", ")),
            };
            say(format!("matched: {}, priced as {}{flag}", price.matched.as_str(), price.priced_as))
                .map_err(failed)?;
            say(format!("  rates: {}", rates_text(&price.rates))).map_err(failed)?;
            let version = versions.iter().find(|version| Some(version.row.price_id) == price.price_id);
            return version.map_or(Ok(()), |version| say_version(version, true)).map_err(failed);
        }
    }
    Ok(())
}
