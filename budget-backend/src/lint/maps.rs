//! What is wrong with a ladder's map of cheaper models. Pure.

use super::{Flaw, Used};
use crate::budget::{EACH, Scope};
use crate::pattern::Names;
use crate::pricing::{Price, PriceBook};

/// Of each pair of a budget's map what is wrong with it, and a sentence.
pub(super) fn flaws(used: &Used, all: &[Used], prices: &PriceBook, now_unix_s: i64) -> Vec<(Flaw, String)> {
    let set = &used.row.set;
    let mut flaws = Vec::new();
    for (model, target) in set.ladder.degrade.iter().flat_map(|degrade| &degrade.models) {
        let both = priced(prices, model, target, now_unix_s);
        let known = |model: &str| prices.providers().any(|p| price(prices, p, model, now_unix_s).is_some());
        if !known(target) {
            let message = format!("{model} would be degraded to {target}, which has no price");
            flaws.push((Flaw::TargetWithoutPrice, message));
        } else if both.is_empty() && known(model) {
            let message = format!("{model} would be degraded to {target}, which nobody has who has {model}");
            flaws.push((Flaw::TargetElsewhere, message));
        }
        for (provider, from, to) in &both {
            if let Some(side) = dearer(from, to) {
                let message =
                    format!("{model} would be degraded to {target}, whose {side} costs more at {provider}");
                flaws.push((Flaw::TargetDearer, message));
            }
            if makes_text(from) != makes_text(to) {
                let message = format!(
                    "{model} would be degraded to {target}, which is of another API at {provider}: one of them has no output"
                );
                flaws.push((Flaw::TargetOfAnotherApi, message));
            }
        }
        let covers = |model| set.models.is_empty() || set.models.meet(&Names::of(model, []));
        if !covers(model) {
            flaws.push((Flaw::ModelNotCovered, format!("its ladder names {model}, which it doesn't cover")));
        }
        if !covers(target) {
            let message =
                format!("its ladder degrades to {target}, which it doesn't cover and so doesn't limit");
            flaws.push((Flaw::TargetNotCovered, message));
        }
        for other in all.iter().filter(|other| may_meet(&set.scope, &other.row.set.scope)) {
            if let Some(next) = other.row.set.ladder.target(target) {
                let by = other.row.budget_id;
                let message = if next == model {
                    format!("{model} would be degraded to {target}, and that by budget {by} to {model} again")
                } else {
                    format!(
                        "{model} would be degraded to {target}; that budget {by} degrades it on to {next} never comes about: one step is taken"
                    )
                };
                flaws.push((Flaw::Chain, message));
            }
        }
    }
    flaws
}

/// Whether one call may meet budgets of both places.
fn may_meet(one: &Scope, other: &Scope) -> bool {
    let alike = |a: &str, b: &str| a == b || [a, b].iter().any(|name| name.is_empty() || *name == EACH);
    alike(&one.team, &other.team) && alike(&one.user, &other.user)
}

/// The prices of both, with each provider that has both.
fn priced<'a>(
    prices: &'a PriceBook,
    model: &str,
    target: &str,
    now_unix_s: i64,
) -> Vec<(&'a str, Price, Price)> {
    let of = |provider: &'a str| {
        let price = |model| price(prices, provider, model, now_unix_s);
        Some((provider, price(model)?, price(target)?))
    };
    prices.providers().filter_map(of).collect()
}

fn price(prices: &PriceBook, provider: &str, model: &str, now_unix_s: i64) -> Option<Price> {
    prices.find(provider, model, now_unix_s).filter(Price::is_priced)
}

/// Which side of text a target charges more for.
fn dearer(from: &Price, to: &Price) -> Option<&'static str> {
    if to.rates.output > from.rates.output {
        Some("output")
    } else if to.rates.input > from.rates.input {
        Some("input")
    } else {
        None
    }
}

/// Whether a model's text costs something: that of embeddings and of what is sold by the piece doesn't.
fn makes_text(price: &Price) -> bool {
    price.rates.output > 0 && !price.unpriced.contains("output")
}
