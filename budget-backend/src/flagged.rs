//! Says once per model, in the log, that calls of it are not priced by a known price.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::pricing::cost::UNTOLD_USAGE;

/// Most models remembered; beyond them it is silent, since the ledger has each call's flag.
const MAX_MODELS: usize = 1_000;

/// What was said already. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Flagged(Arc<Mutex<BTreeSet<Said>>>);

/// Provider, model, flag.
type Said = (String, String, &'static str);

impl Flagged {
    /// Warns of a model, unless it did before. `flag` as in the ledger; empty flags say nothing, nor do
    /// calls whose usage alone is unknown.
    pub fn warn_once(&self, provider: &str, model: &str, flag: &'static str, unpriced: &[String]) {
        // Usage that isn't told is no matter of the price.
        let is_price = !flag.is_empty() && unpriced != [UNTOLD_USAGE];
        if !is_price || !self.is_new(provider, model, flag) {
            return;
        }
        tracing::warn!(
            provider,
            model,
            flag,
            ?unpriced,
            "calls of this model are not priced by a known price"
        );
    }

    fn is_new(&self, provider: &str, model: &str, flag: &'static str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MAX_MODELS && said.insert((provider.to_owned(), model.to_owned(), flag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_said_once_per_flag_and_no_more_than_so_many() {
        let flagged = Flagged::default();
        assert!(flagged.is_new("openai", "gpt-x", "ceiling"));
        assert!(!flagged.is_new("openai", "gpt-x", "ceiling"));
        assert!(flagged.is_new("openai", "gpt-x", "partial") && flagged.is_new("azure", "gpt-x", "ceiling"));
        for number in 0..2 * MAX_MODELS {
            flagged.is_new("openai", &number.to_string(), "ceiling");
        }
        assert!(!flagged.is_new("openai", "one-more", "ceiling"));
    }
}
