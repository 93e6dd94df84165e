//! Payers of strict budgets, as far as verdicts have told of late.
//!
//! A strict budget must not be overspent, so its payers are not let through without a verdict, not
//! even where the route fails open. Each worker remembers what its own calls were told.

use std::cell::RefCell;
use std::rc::Rc;

use crate::identity::Caller;
use crate::recent::Recent;

/// How long a payer is remembered after the last verdict that said so, milliseconds. A clock set back
/// prolongs it.
pub const REMEMBERED_MS: u64 = 600_000;

/// Most payers a worker remembers; beyond it the one whose verdict is the oldest is forgotten. Names
/// are at most 256 bytes and claims 512, so that they take 32 MiB at the very most.
pub const MAX_PAYERS: usize = 4_096;

/// The payers of strict budgets that one worker remembers.
#[derive(Debug, Clone)]
pub struct StrictPayers(Rc<RefCell<Recent<String, u64>>>);

impl Default for StrictPayers {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Recent::new(MAX_PAYERS))))
    }
}

impl StrictPayers {
    /// A verdict says now that a strict budget is touched.
    pub fn remember(&self, caller: &Caller, now_unix_ms: u64) {
        self.0.borrow_mut().put(caller.key(), now_unix_ms);
    }

    /// Whether a verdict of the last ten minutes said so of this very caller.
    #[must_use]
    pub fn remembers(&self, caller: &Caller, now_unix_ms: u64) -> bool {
        let told = self.0.borrow().get(&caller.key()).copied();
        told.is_some_and(|told_unix_ms| now_unix_ms.saturating_sub(told_unix_ms) < REMEMBERED_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use purser_protocol::{Claim, ClaimKind, Lookup, Payer};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const START_MS: u64 = 1_700_000_000_000;

    fn payer(org: &str, team: Option<&str>, user: Option<&str>) -> Caller {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        Caller { payer: Payer { org: org.to_owned(), team: owned(team), user: owned(user) }, lookup: None }
    }

    #[test]
    fn a_payer_is_remembered_for_ten_minutes() {
        let strict = StrictPayers::default();
        let ann = payer("acme", Some("search"), Some("ann"));
        assert!(!strict.remembers(&ann, START_MS));
        strict.remember(&ann, START_MS);
        assert!(strict.remembers(&ann, START_MS + REMEMBERED_MS - 1));
        assert!(!strict.remembers(&ann, START_MS + REMEMBERED_MS));
        assert!(strict.remembers(&ann, START_MS - 3_600_000), "a clock set back doesn't open the route");
        strict.remember(&ann, START_MS + 5_000);
        assert!(strict.remembers(&ann, START_MS + REMEMBERED_MS));
    }

    #[test]
    fn only_the_very_payer_is_remembered() {
        let strict = StrictPayers::default();
        strict.remember(&payer("acme", Some("search"), None), START_MS);
        for other in [
            payer("acme", None, None),
            payer("acme", Some("search"), Some("ann")),
            payer("acme", None, Some("search")),
            payer("Acme", Some("search"), None),
            Caller { lookup: Some(Lookup::default()), ..payer("acme", Some("search"), None) },
        ] {
            assert!(!strict.remembers(&other, START_MS), "{other:?}");
        }
        let by_key = |value: &str| {
            let claims = vec![Claim { kind: ClaimKind::ApiKeySha256, value: value.to_owned() }];
            Caller { lookup: Some(Lookup { claims, fallback: None }), ..payer("", None, None) }
        };
        strict.remember(&by_key("a"), START_MS);
        assert!(strict.remembers(&by_key("a"), START_MS));
        assert!(!strict.remembers(&by_key("b"), START_MS));
    }

    #[test]
    fn the_oldest_is_forgotten_beyond_the_bound() {
        let strict = StrictPayers::default();
        let number = |number: usize| payer(&number.to_string(), None, None);
        for told in 0..MAX_PAYERS {
            strict.remember(&number(told), START_MS);
        }
        strict.remember(&number(0), START_MS);
        strict.remember(&number(MAX_PAYERS), START_MS);
        for (payer, expected) in [(0, true), (1, false), (2, true), (MAX_PAYERS, true)] {
            assert_eq!(strict.remembers(&number(payer), START_MS), expected, "{payer}");
        }
    }
}
