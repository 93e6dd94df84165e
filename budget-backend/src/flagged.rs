//! Says once per model, in the log, that calls of it are not priced by a known price.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pricing::cost::UNTOLD_USAGE;

/// Most models remembered; beyond them the one said longest ago is forgotten, and said again when it is met.
const MAX_MODELS: usize = 1_000;

/// What was said already. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Flagged(Arc<Mutex<Recent>>);

/// Provider, model, flag.
type Said = (String, String, &'static str);

/// What was said lately.
#[derive(Debug, Default)]
struct Recent {
    said: BTreeSet<Said>,
    /// The same, the oldest first.
    order: VecDeque<Said>,
}

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
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = (provider.to_owned(), model.to_owned(), flag);
        if !recent.said.insert(said.clone()) {
            return false;
        }
        recent.order.push_back(said);
        if recent.order.len() > MAX_MODELS
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.said.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_said_once_per_flag_and_the_oldest_is_forgotten() {
        let flagged = Flagged::default();
        assert!(flagged.is_new("openai", "gpt-x", "ceiling"));
        assert!(!flagged.is_new("openai", "gpt-x", "ceiling"));
        assert!(flagged.is_new("openai", "gpt-x", "partial") && flagged.is_new("azure", "gpt-x", "ceiling"));
        for number in 0..2 * MAX_MODELS {
            assert!(flagged.is_new("openai", &number.to_string(), "ceiling"), "{number}");
        }
        // A real model is still said after any number of made-up ones, and no more are kept than so many.
        assert!(flagged.is_new("openai", "one-more", "ceiling"));
        assert!(!flagged.is_new("openai", "one-more", "ceiling"));
        assert!(flagged.is_new("openai", "gpt-x", "ceiling"), "forgotten");
        let recent = flagged.0.lock().unwrap();
        assert_eq!((recent.said.len(), recent.order.len()), (MAX_MODELS, MAX_MODELS));
    }
}
