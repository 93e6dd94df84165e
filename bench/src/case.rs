//! What is measured side by side.

/// A configuration of Envoy and what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// Envoy alone: the shipped configuration without the filter.
    Alone,
    /// With a filter that does nothing.
    Noop,
    /// With a filter that asks, and lets everything through, whatever the answer: the floor of any check
    /// by callout.
    Floor,
    /// Purser as shipped, with PostgreSQL.
    Purser,
    /// Purser's filter, and a backend that makes a blocking transaction of every check and cost write.
    Blocking,
}

impl Case {
    /// Every case.
    pub const ALL: [Self; 5] = [Self::Alone, Self::Noop, Self::Floor, Self::Purser, Self::Blocking];

    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Alone => 'a',
            Self::Noop => 'b',
            Self::Floor => 'c',
            Self::Purser => 'd',
            Self::Blocking => 'e',
        }
    }

    /// What it is, in a table.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Alone => "(a) Envoy alone",
            Self::Noop => "(b) filter that does nothing",
            Self::Floor => "(c) callout to a constant answer",
            Self::Purser => "(d) Purser with PostgreSQL",
            Self::Blocking => "(e) a blocking transaction per check",
        }
    }

    /// The case of a letter.
    #[must_use]
    pub fn of(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.letter() == letter)
    }

    /// Whether Purser's filter is in it, and settles what it let through.
    #[must_use]
    pub const fn settles(self) -> bool {
        matches!(self, Self::Purser | Self::Blocking)
    }
}
