//! A budget's ladder as an operator writes it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::place::name;
use crate::ladder::{Clamp, Degrade, Ladder, MAX_MODELS};
use crate::pricing::{Price, PriceBook};

// As in `crate::ladder`, but a misspelt step is a mistake here.
/// The steps; what is left out is off.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderBody {
    warn_at_percent: Option<u32>,
    degrade: Option<DegradeBody>,
    clamp: Option<ClampBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DegradeBody {
    at_percent: u32,
    models: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClampBody {
    floor_tokens: u64,
}

impl LadderBody {
    /// The ladder, checked.
    ///
    /// # Errors
    /// The path and what is wrong there.
    pub fn check(self, prices: &PriceBook, at_unix_s: i64) -> Result<Ladder, String> {
        let ladder = Ladder {
            warn_at_percent: self.warn_at_percent,
            degrade: self.degrade.map(|DegradeBody { at_percent, models }| Degrade { at_percent, models }),
            clamp: self.clamp.map(|ClampBody { floor_tokens }| Clamp { floor_tokens }),
        };
        // Names first: a message about a circle repeats them.
        let models = ladder.degrade.iter().flat_map(|degrade| &degrade.models).take(MAX_MODELS);
        for (model, target) in models.clone() {
            name("ladder.degrade.models", model)?;
            name(&format!("ladder.degrade.models.{model}"), target)?;
        }
        ladder.check("ladder")?;
        for (model, target) in models {
            if !is_priced(prices, model, target, at_unix_s) {
                return Err(format!(
                    "ladder.degrade.models.{model}: no price is known for {target:?} where {model:?} may run"
                ));
            }
        }
        Ok(ladder)
    }
}

/// Whether one of the providers that know the model has a price of its own for the target; if none knows
/// the model, any provider will do.
fn is_priced(prices: &PriceBook, model: &str, target: &str, at_unix_s: i64) -> bool {
    let knows = |provider: &str, model: &str| {
        prices.find(provider, model, at_unix_s).is_some_and(|price: Price| price.is_priced())
    };
    let of_model: Vec<&str> = prices.providers().filter(|provider| knows(provider, model)).collect();
    if of_model.is_empty() {
        return prices.providers().any(|provider| knows(provider, target));
    }
    of_model.into_iter().any(|provider| knows(provider, target))
}
