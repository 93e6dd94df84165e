//! Patterns of model names: `*` stands for any characters, `?` for one; ASCII capitals make no difference. Pure.

mod names;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

pub use names::Names;

/// Most patterns in one list.
pub const MAX_PATTERNS: usize = 64;

/// A list of patterns, in one order for one set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Patterns {
    names: Vec<String>,
    compiled: Vec<WildMatch>,
}

// By the names alone: what is compiled from them says the same.
impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Patterns {}

impl PartialOrd for Patterns {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Patterns {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.names.cmp(&other.names)
    }
}

impl From<Vec<String>> for Patterns {
    fn from(names: Vec<String>) -> Self {
        Self::new(names)
    }
}

impl From<Patterns> for Vec<String> {
    fn from(patterns: Patterns) -> Self {
        patterns.names
    }
}

impl Patterns {
    /// Sorts the patterns and drops repeats, so that the same set is the same list.
    #[must_use]
    pub fn new(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        let compiled = names.iter().map(|name| WildMatch::new_case_insensitive(name)).collect();
        Self { names, compiled }
    }

    /// The patterns as text, sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether one of them matches the whole name.
    #[must_use]
    pub fn any_match(&self, model: &str) -> bool {
        self.compiled.iter().any(|pattern| pattern.matches(model))
    }

    /// Whether one of them matches one of the model's names.
    #[must_use]
    pub fn meet(&self, names: &Names) -> bool {
        names.all().any(|name| self.any_match(name))
    }

    /// Whether they let the model through: one of them matches one of its own names, so that no prefix makes
    /// another model pass for it; or there is none.
    #[must_use]
    pub fn allow(&self, names: &Names) -> bool {
        self.is_empty() || names.own().any(|name| self.any_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(names: &[&str]) -> Patterns {
        Patterns::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_pattern_matches_the_whole_name() {
        for (pattern, model, expected) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-4o*", "gpt-4o-mini", true),
            ("*mini", "gpt-4o-mini", true),
            ("gpt-?o", "gpt-4o", true),
            ("gpt-?o", "gpt-41o", false),
            ("*", "anything", true),
            ("GPT-4o", "gpt-4o", true),
            ("gpt-4O*", "GPT-4o-mini", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(patterns(&[pattern]).any_match(model), expected, "{pattern} {model}");
        }
    }

    #[test]
    fn no_pattern_allows_everything_and_matches_nothing() {
        let (none, names) = (Patterns::default(), Names::of("gpt-4o", []));
        assert!(none.allow(&names) && !none.meet(&names) && !none.any_match("gpt-4o"));
    }

    #[test]
    fn the_same_set_is_the_same_list() {
        assert_eq!(patterns(&["b", "a", "b"]), patterns(&["a", "b"]));
    }
}
