//! What the fake provider would bill.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::lock;
use super::price::{BilledTokens, Price, amount_nanousd};

/// Rows kept; older ones are dropped and counted. The total keeps their amounts.
const MAX_ROWS: usize = 65_536;

/// One billed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BilledRow {
    /// The `id` of the answer; one that was not sent where the API has none.
    pub response_id: String,
    /// The API it was asked of (`openai_chat`, `ollama`, …).
    pub api: &'static str,
    /// The model the answer names.
    pub model: String,
    /// Whether it was streamed.
    pub stream: bool,
    /// Whether it was produced to its end.
    pub complete: bool,
    /// Tokens by class.
    #[serde(flatten)]
    pub tokens: BilledTokens,
    /// Searches that the provider made by itself; they are among the pieces.
    pub web_searches: u64,
    /// The amount, nano-USD.
    pub amount_nanousd: u64,
}

/// The bill as `GET /billed` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BillView {
    /// The sum over all answers ever billed, nano-USD; rows that were dropped included.
    pub total_nanousd: u64,
    /// How many of the oldest rows were dropped.
    pub dropped_rows: u64,
    /// The newest rows, oldest first, in the order in which the answers ended.
    pub rows: Vec<BilledRow>,
}

#[derive(Debug, Default)]
struct Book {
    total_nanousd: u64,
    dropped_rows: u64,
    rows: VecDeque<BilledRow>,
}

/// The bill.
#[derive(Debug, Default)]
pub struct Bill(Mutex<Book>);

impl Bill {
    /// The bill so far.
    #[must_use]
    pub fn view(&self) -> BillView {
        let book = lock(&self.0);
        BillView {
            total_nanousd: book.total_nanousd,
            dropped_rows: book.dropped_rows,
            rows: book.rows.iter().cloned().collect(),
        }
    }

    fn push(&self, row: BilledRow) {
        let mut book = lock(&self.0);
        // 18 billion USD fit; a saturated total shows up in every comparison.
        book.total_nanousd = book.total_nanousd.saturating_add(row.amount_nanousd);
        if book.rows.len() == MAX_ROWS {
            book.rows.pop_front();
            book.dropped_rows += 1;
        }
        book.rows.push_back(row);
    }
}

/// An answer under way. It is billed exactly once: when it is closed as complete, or with what was
/// produced up to then when it is dropped.
#[derive(Debug)]
pub struct OpenBill {
    bill: Arc<Bill>,
    price: Price,
    row: Option<BilledRow>,
}

impl OpenBill {
    /// Opens the bill of an answer whose prompt was read and of which nothing is produced yet.
    #[must_use]
    pub fn open(bill: Arc<Bill>, price: Price, row: BilledRow) -> Self {
        Self { bill, price, row: Some(row) }
    }

    /// Adds output that was just produced.
    pub fn produce(&mut self, output_tokens: u64, reasoning_tokens: u64) {
        if let Some(row) = &mut self.row {
            row.tokens.output_tokens += output_tokens;
            row.tokens.reasoning_tokens += reasoning_tokens;
        }
    }

    /// The answer is whole: bill it now.
    pub fn close_complete(&mut self) {
        self.close(true);
    }

    /// Bills nothing for this answer.
    pub fn forgive(&mut self) {
        self.row = None;
    }

    fn close(&mut self, complete: bool) {
        if let Some(mut row) = self.row.take() {
            row.complete = complete;
            row.amount_nanousd = amount_nanousd(self.price, row.tokens);
            self.bill.push(row);
        }
    }
}

impl Drop for OpenBill {
    fn drop(&mut self) {
        self.close(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_llm::price::price_of;

    fn open(bill: &Arc<Bill>, response_id: &str) -> OpenBill {
        let row = BilledRow {
            response_id: response_id.to_owned(),
            api: "openai_chat",
            model: "gpt-4o-mini".to_owned(),
            stream: false,
            complete: false,
            tokens: BilledTokens { input_tokens: 10, ..BilledTokens::default() },
            web_searches: 0,
            amount_nanousd: 0,
        };
        let price = price_of("gpt-4o-mini").expect("a listed model");
        OpenBill::open(Arc::clone(bill), price, row)
    }

    #[test]
    fn an_answer_is_billed_once_complete_or_not() {
        let bill = Arc::new(Bill::default());
        let mut whole = open(&bill, "whole");
        whole.produce(5, 2);
        whole.close_complete();
        drop(whole);
        let mut cut = open(&bill, "cut");
        cut.produce(1, 0);
        drop(cut);
        let mut forgiven = open(&bill, "forgiven");
        forgiven.produce(100, 0);
        forgiven.forgive();
        drop(forgiven);

        let view = bill.view();
        let rows: Vec<_> = view
            .rows
            .iter()
            .map(|row| (row.response_id.as_str(), row.complete, row.amount_nanousd))
            .collect();
        assert_eq!(rows, [("whole", true, 4_500), ("cut", false, 2_100)]);
        assert_eq!(view.total_nanousd, 6_600);
    }

    #[test]
    fn the_total_keeps_what_the_rows_lose() {
        let bill = Arc::new(Bill::default());
        for _ in 0..MAX_ROWS + 3 {
            drop(open(&bill, "row"));
        }
        let view = bill.view();
        assert_eq!(view.rows.len(), MAX_ROWS);
        assert_eq!(view.dropped_rows, 3);
        assert_eq!(view.total_nanousd, (65_536 + 3) * 1_500);
    }
}
