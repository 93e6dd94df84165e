//! Tables for people.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

/// Lines of fields of JSON objects under their headings. Amounts and counts stand on the right.
pub fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        table.add_row(columns.iter().map(|(_, field)| text(&row[*field])));
    }
    for (at, (_, field)) in columns.iter().enumerate() {
        let figures = rows.iter().all(|row| is_figure(&row[*field]));
        if let Some(column) = table.column_mut(at).filter(|_| figures) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // Names come from callers: nothing in them may move the terminal's cursor.
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

fn is_figure(value: &Value) -> bool {
    match value {
        Value::Number(_) | Value::Null => true,
        Value::String(text) => {
            text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit() || b == b'.')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_stand_on_the_right_and_nothing_moves_the_cursor() {
        let rows =
            [json!({"team": "a\u{1b}[2Jb", "cost_usd": "1.50"}), json!({"team": null, "cost_usd": "120.00"})];
        let text = table(&rows, &[("team", "team"), ("USD", "cost_usd")]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("a[2Jb") && lines[1].ends_with("  1.50"), "{text}");
        assert!(lines[2].trim_start().starts_with('-') && lines[2].ends_with("120.00"), "{text}");
    }
}
