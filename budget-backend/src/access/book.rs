//! The tokens that are good: the environment's, and those of the database, kept in memory so that nobody
//! waits for the database to be let in, and a filter is let in while it is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;

use super::failures::Failures;
use super::token::{Fingerprint, fingerprint};
use super::{Caller, Role};

/// The tokens of one kind of caller: one, or two while they are changed. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<[String]>);

impl Tokens {
    /// Of these.
    #[must_use]
    pub fn new(tokens: Vec<String>) -> Self {
        Self(tokens.into())
    }

    /// Whether one of them was given. Takes the same time for every guess of a length, whichever token
    /// it is near to, so that none can be guessed byte by byte.
    fn include(&self, given: &[u8]) -> bool {
        let none = Choice::from(0);
        self.0.iter().fold(none, |found, token| found | given.ct_eq(token.as_bytes())).into()
    }
}

/// A token of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    /// Who shows it.
    pub caller: Caller,
    /// From when on it is worth nothing, Unix seconds; `None`: never.
    pub expires_at_unix_s: Option<i64>,
}

/// The tokens of the database, by their hash. Looking one up tells by its time at most something of the
/// hash, from which there is no way back.
pub type TokenBook = HashMap<Fingerprint, KnownToken>;

/// Everything that lets callers in. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    filters: Tokens,
    operators: Tokens,
    book: watch::Receiver<Arc<TokenBook>>,
    failures: Arc<Failures>,
    uses: Arc<Mutex<HashMap<i64, i64>>>,
}

impl Doors {
    /// Of the environment's tokens and the database's.
    #[must_use]
    pub fn new(filters: Tokens, operators: Tokens, book: watch::Receiver<Arc<TokenBook>>) -> Self {
        Self { filters, operators, book, failures: Arc::default(), uses: Arc::default() }
    }

    /// Wrong tokens of late.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Who shows this token, to an operators' route; a filter's is known as well, by its role.
    #[must_use]
    pub fn operator(&self, given: &[u8], now_unix_s: i64) -> Option<Caller> {
        if self.operators.include(given) {
            return Some(Caller::of_environment());
        }
        if self.filters.include(given) {
            return Some(Caller { role: Role::DataPlane, ..Caller::of_environment() });
        }
        self.known(given, now_unix_s)
    }

    /// Whether this token is a filter's.
    #[must_use]
    pub fn is_filter(&self, given: &[u8], now_unix_s: i64) -> bool {
        self.filters.include(given)
            || self.known(given, now_unix_s).is_some_and(|caller| caller.role == Role::DataPlane)
    }

    fn known(&self, given: &[u8], now_unix_s: i64) -> Option<Caller> {
        let book = self.book.borrow();
        if book.is_empty() {
            return None;
        }
        let known = book.get(&fingerprint(given)?)?;
        if known.expires_at_unix_s.is_some_and(|at| at <= now_unix_s) {
            return None;
        }
        let caller = known.caller.clone();
        drop(book);
        if let Some(token_id) = caller.token_id {
            // No more entries than there are tokens in the book.
            self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(token_id, now_unix_s);
        }
        Some(caller)
    }

    /// When which tokens were used since this was asked last: number and Unix seconds.
    #[must_use]
    pub fn take_uses(&self) -> Vec<(i64, i64)> {
        std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reach;
    use super::*;

    #[test]
    fn either_token_is_taken_and_nothing_else() {
        let tokens = Tokens::new(vec!["the-old-token-of-it".to_owned(), "the-new-token".to_owned()]);
        for (given, expected) in [
            ("the-old-token-of-it", true),
            ("the-new-token", true),
            ("the-new-tokem", false),
            ("the-old-token-of-it,the-new-token", false),
            ("the-old", false),
            ("", false),
        ] {
            assert_eq!(tokens.include(given.as_bytes()), expected, "{given}");
        }
    }

    #[test]
    fn a_token_of_the_database_is_good_until_it_expires_and_its_use_is_noted() {
        let known = |token_id, role, expires_at_unix_s| {
            let caller = Caller { token_id: Some(token_id), name: "x".into(), role, reach: Reach::default() };
            KnownToken { caller, expires_at_unix_s }
        };
        let book: TokenBook = [
            (fingerprint(b"viewer").unwrap(), known(1, Role::Viewer, Some(100))),
            (fingerprint(b"filter").unwrap(), known(2, Role::DataPlane, None)),
        ]
        .into();
        let (_sender, book) = watch::channel(Arc::new(book));
        let tokens = |token: &str| Tokens::new(vec![token.to_owned()]);
        let doors = Doors::new(tokens("env-filter"), tokens("env-admin"), book);
        let role = |given: &str, at| doors.operator(given.as_bytes(), at).map(|caller| caller.role);
        assert_eq!(role("env-admin", 0), Some(Role::Admin));
        assert_eq!(role("env-filter", 0), Some(Role::DataPlane));
        assert_eq!(
            (role("viewer", 99), role("viewer", 100), role("viewe", 0)),
            (Some(Role::Viewer), None, None)
        );
        assert!(doors.is_filter(b"env-filter", 0) && doors.is_filter(b"filter", 0));
        assert!(!doors.is_filter(b"env-admin", 0) && !doors.is_filter(b"viewer", 0));
        let mut uses = doors.take_uses();
        uses.sort_unstable();
        assert_eq!(uses, [(1, 0), (2, 0)]);
        assert!(doors.take_uses().is_empty());
    }
}
