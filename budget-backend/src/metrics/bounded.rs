//! Which values of a label have counts of their own.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The first so many different names; once one is in, it stays.
#[derive(Debug)]
pub struct Bounded {
    max: usize,
    names: Mutex<BTreeSet<String>>,
}

impl Bounded {
    /// None yet.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, names: Mutex::new(BTreeSet::new()) }
    }

    /// Whether the name has its own, now.
    pub fn admits(&self, name: &str) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name) || (names.len() < self.max && names.insert(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_stay_and_later_ones_are_left_out() {
        let bounded = Bounded::new(2);
        assert!(bounded.admits("a") && bounded.admits("b") && bounded.admits("a"));
        assert!(!bounded.admits("c"));
        assert!(bounded.admits("b"));
    }
}
