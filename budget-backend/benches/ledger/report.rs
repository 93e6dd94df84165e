//! What is printed at the end: a table, the targets, and one line for machines.

use std::time::Duration;

use crate::load::Summary;
use crate::ms;
use crate::setup::Field;

/// Group commit must be so many times as fast as a transaction per check.
const LEAST_RATIO: u64 = 20;
/// And reach this many holds a second.
const LEAST_PER_S: u64 = 10_000;
/// At the open loop's rate 99 of 100 holds must be faster than this.
const MOST_P99: Duration = Duration::from_millis(10);

/// A line of the table.
pub struct Row {
    what: String,
    budgets: u64,
    history_rows: u64,
    summary: Summary,
}

impl Row {
    /// A measurement on a field, with so many rows of history in the database.
    pub fn new(what: &str, field: &Field, history_rows: u64, summary: &Summary) -> Self {
        Self { what: what.to_owned(), budgets: field.budgets(), history_rows, summary: summary.clone() }
    }
}

/// Everything measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    /// The median turn of a transaction per check.
    pub naive: Option<Summary>,
    /// The median turn of group commit.
    pub group: Option<Summary>,
    /// Group commit in the open loop.
    pub open_loop: Option<Summary>,
}

impl Report {
    /// Adds a line to the table, and prints it as it comes.
    pub fn add(&mut self, row: Row) {
        let Summary { per_s, p50, p99, .. } = row.summary;
        println!("{}: {per_s} holds/s, p50 {} ms, p99 {} ms", row.what, ms(p50), ms(p99));
        self.rows.push(row);
    }

    /// Prints the table, the targets and the result.
    pub fn print(&self) {
        println!("\n| what | budgets | rows of history | holds | holds/s | p50 ms | p99 ms | max ms |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        for Row { what, budgets, history_rows, summary } in &self.rows {
            let Summary { per_s, p50, p99, max, holds } = summary;
            println!(
                "| {what} | {budgets} | {history_rows} | {holds} | {per_s} | {} | {} | {} |",
                ms(*p50),
                ms(*p99),
                ms(*max)
            );
        }
        let (Some(naive), Some(group), Some(open)) = (&self.naive, &self.group, &self.open_loop) else {
            panic!("a measurement is missing");
        };
        let ratio_tenths = group.per_s.saturating_mul(10) / naive.per_s.max(1);
        let ratio = format!("{}.{}", ratio_tenths / 10, ratio_tenths % 10);
        println!();
        target(
            &format!("at least {LEAST_RATIO} times a transaction per check: {ratio}"),
            ratio_tenths >= LEAST_RATIO * 10,
        );
        target(&format!("at least {LEAST_PER_S} holds/s: {}", group.per_s), group.per_s >= LEAST_PER_S);
        target(
            &format!("p99 under {} ms in the open loop: {} ms", MOST_P99.as_millis(), ms(open.p99)),
            open.p99 < MOST_P99,
        );
        println!(
            "RESULT naive_per_s={} group_per_s={} ratio={ratio} p50_ms={} p99_ms={}",
            naive.per_s,
            group.per_s,
            ms(open.p50),
            ms(open.p99)
        );
    }
}

fn target(what: &str, met: bool) {
    println!("target {}: {what}", if met { "met" } else { "MISSED" });
}
