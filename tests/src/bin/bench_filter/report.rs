//! Medians, spreads and targets, in whole nanoseconds.

use crate::load::Kind;

/// One round's cost of one part of a load, nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// With the filter that buffers and asks.
    pub buffer_ns: u64,
    /// With Purser.
    pub purser_ns: u64,
    /// With another build of it.
    pub other_ns: Option<u64>,
}

impl Turn {
    fn more_ns(self) -> i64 {
        signed(self.purser_ns) - signed(self.buffer_ns)
    }

    fn other_more_ns(self) -> Option<i64> {
        Some(signed(self.other_ns?) - signed(self.buffer_ns))
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).expect("less than centuries")
}

/// What a kind of load came to, over all rounds.
#[derive(Debug)]
pub struct Row {
    /// The load.
    pub kind: Kind,
    /// Parts of it in a round.
    pub parts: usize,
    /// Each round's.
    pub rounds: Vec<Turn>,
}

impl Row {
    /// What Purser took more, in the middle of the rounds, nanoseconds.
    pub fn more_ns(&self) -> i64 {
        median(self.rounds.iter().map(|turn| turn.more_ns()))
    }

    /// What the other build took more, in the middle of the rounds, nanoseconds.
    fn other_more_ns(&self) -> Option<i64> {
        let more: Option<Vec<i64>> = self.rounds.iter().map(|turn| turn.other_more_ns()).collect();
        more.map(|more| median(more.into_iter()))
    }

    /// The row as it is printed.
    pub fn line(&self) -> String {
        let other = self.other_more_ns().map(|ns| format!("; other build {}", us(ns)));
        let more: Vec<i64> = self.rounds.iter().map(|turn| turn.more_ns()).collect();
        format!(
            "{:<26} {:>7} {:>14} {:>12} {:>12}   {} to {}{}",
            self.kind.name(),
            self.parts,
            us(median(self.rounds.iter().map(|turn| signed(turn.buffer_ns)))),
            us(median(self.rounds.iter().map(|turn| signed(turn.purser_ns)))),
            us(self.more_ns()),
            us(more.iter().copied().min().unwrap_or_default()),
            us(more.iter().copied().max().unwrap_or_default()),
            other.unwrap_or_default(),
        )
    }
}

/// The head of the table of rows.
pub fn head() -> String {
    format!(
        "{:<26} {:>7} {:>14} {:>12} {:>12}   {}\n",
        "CPU of Envoy, µs each", "a round", "buffers, asks", "Purser", "more", "least to most"
    )
}

/// The value in the middle, the upper one of two.
pub fn median<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Nanoseconds as microseconds with one decimal.
pub fn us(ns: i64) -> String {
    let tenths = (ns.unsigned_abs() + 50) / 100;
    format!("{}{}.{}", if ns < 0 { "-" } else { "" }, tenths / 10, tenths % 10)
}

/// KiB as MB (of a million bytes) with two decimals.
pub fn mb(kib: i64) -> String {
    let hundredths = kib.unsigned_abs() * 1_024 / 10_000;
    format!("{}{}.{:02}", if kib < 0 { "-" } else { "" }, hundredths / 100, hundredths % 100)
}

/// Prints whether a target is met.
pub fn target(what: &str, is_met: bool) {
    println!("target {}: {what}", if is_met { "met" } else { "MISSED" });
}
