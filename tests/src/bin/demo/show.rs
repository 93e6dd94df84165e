//! How things are printed.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use crate::traffic::Outcome;

/// Columns whose numbers and amounts stand to the right.
const TO_THE_RIGHT: [&str; 7] = ["#", "cost", "spent", "limit", "output", "ledger", "bill"];

/// A table with these columns.
pub fn table(columns: &[&str]) -> Table {
    let line = LineStyle::none().fill('─').junction('─');
    let style = TableStyle::new().top_border(line).header_separator(line).bottom_border(line);
    let mut table = Table::new();
    table.load_style(style).set_header(columns.to_vec());
    for (name, column) in columns.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, 1));
        if TO_THE_RIGHT.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// An amount in USD with at least eight decimals, so that points stand below each other.
pub fn aligned(usd: &str) -> String {
    let decimals = usd.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    format!("{usd}{}", "0".repeat(8_usize.saturating_sub(decimals)))
}

/// What an answer said of budgets: its headers, and the message of a denial.
pub fn told(number: usize, outcome: &Outcome) {
    println!("\n  {} (call {number}): {}", outcome.step.name(), outcome.status);
    for (name, value) in &outcome.headers {
        println!("    {name}: {value}");
    }
    if !outcome.message.is_empty() {
        println!("    “{}”", outcome.message);
    }
}
