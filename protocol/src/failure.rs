//! Why the backend could not decide, as it says itself.

use serde::{Deserialize, Serialize};

/// The `cause` in the body of the backend's own 503. A filter may treat each cause in its own way; a 503
/// without one, or with one it doesn't know, is a failure like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// It has too much to do, or is stopping. Another replica may do it.
    Busy,
    /// The database is not there, or says nothing.
    Database,
    /// The caller's deadline passed first.
    Deadline,
}

impl FailureCause {
    const WORDS: [(&str, Self); 3] =
        [("busy", Self::Busy), ("database", Self::Database), ("deadline", Self::Deadline)];

    /// The cause of a word, as it stands on the wire; nothing for a word this version doesn't know.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, cause)| *cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_wire() {
        for (word, cause) in FailureCause::WORDS {
            assert_eq!(serde_json::to_value(cause).unwrap(), word);
            assert_eq!(FailureCause::of(word), Some(cause));
        }
        assert_eq!(FailureCause::of("Busy"), None);
    }
}
