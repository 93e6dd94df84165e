//! The ledger's entries as the database has them, and against what the provider bills.

use std::collections::BTreeMap;

use sqlx::FromRow;
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::backend;
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::within;

/// A row of the ledger with all that pricing says of it.
#[derive(Debug, FromRow)]
pub struct Entry {
    pub api: String,
    pub response_id: Option<String>,
    pub cost_nanousd: i64,
    pub held_nanousd: i64,
    pub cause: String,
    pub usage_quality: String,
    pub http_status: i32,
    pub ending: String,
    pub stream: bool,
    pub price_match: String,
    pub price_flag: String,
    pub service_tier: Option<String>,
    /// JSON.
    pub units: String,
    pub input_tokens: i64,
    pub cached_input_tokens: i64,
    pub cache_write_5m_tokens: i64,
    pub cache_write_1h_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub audio_input_tokens: i64,
    pub audio_output_tokens: i64,
    pub image_input_tokens: i64,
    pub image_output_tokens: i64,
}

impl Entry {
    /// Cause, quality of the usage, ending and status.
    pub fn story(&self) -> (&str, &str, &str, i32) {
        (&self.cause, &self.usage_quality, &self.ending, self.http_status)
    }
}

/// Starts everything for a provider, with prices beside those of the catalogue: arguments of
/// `budget-backend prices`, a line each.
pub async fn start(setup: Setup, prices: &str) -> Stack {
    let mut stack = setup.start().await;
    let lines = prices.lines().map(str::trim).filter(|line| !line.is_empty());
    let commands: Vec<_> = lines.map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    if !commands.is_empty() {
        // A backend reads its list at its start; when else it does is not what is tested here.
        assert!(stack.backend.stop().await);
        for arguments in commands {
            let mut command = backend::command();
            command
                .arg("prices")
                .args(&arguments)
                .env("DATABASE_URL", &stack.database.url)
                .kill_on_drop(true);
            let output = within("the price", command.output()).await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}: {said}");
        }
        stack.backend.start().await;
    }
    stack.backend.org_budget("acme", "1000.00").await;
    stack
}

/// Waits for so many entries. In the order in which their calls came.
pub async fn entries(stack: &Stack, count: usize) -> Vec<Entry> {
    stack.database.settled("acme", count).await;
    let rows = sqlx::query_as(
        "SELECT api, response_id, cost_nanousd, held_nanousd, cause, usage_quality, http_status, ending,
            stream, price_match, price_flag, service_tier, units::text AS units, input_tokens,
            cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
            audio_input_tokens, audio_output_tokens, image_input_tokens, image_output_tokens
           FROM llm_requests WHERE org = 'acme' ORDER BY hold_id, entry",
    );
    rows.fetch_all(&stack.database.pool).await.unwrap()
}

/// Checks an entry against the bill: class by class and to the nano-dollar. Of an answer that was not
/// whole, it says at least what was billed.
pub fn assert_billed(name: &str, entry: &Entry, billed: &BilledRow, tells_reasoning: bool) {
    let what = format!("{name}: {entry:#?} {billed:#?}");
    if let Some(id) = &entry.response_id {
        assert_eq!(*id, billed.response_id, "{what}");
    }
    assert_eq!((entry.api.as_str(), entry.stream), (billed.api, billed.stream), "{what}");
    let cost = u64::try_from(entry.cost_nanousd).unwrap();
    if !billed.complete {
        assert_ne!(entry.usage_quality, "exact", "{what}");
        assert!(cost >= billed.amount_nanousd, "{what}");
        return;
    }
    assert_eq!(entry.story(), ("settled", "exact", "complete", 200), "{what}");
    assert_eq!(entry.price_flag, "", "{what}");
    let tokens = billed.tokens;
    let output = entry.output_tokens + entry.image_output_tokens + entry.audio_output_tokens;
    for (recorded, billed) in [
        (entry.input_tokens + entry.image_input_tokens, tokens.input_tokens),
        (entry.cached_input_tokens, tokens.cached_tokens),
        (entry.cache_write_5m_tokens, tokens.cache_write_5m_tokens),
        (entry.cache_write_1h_tokens, tokens.cache_write_1h_tokens),
        (entry.audio_input_tokens, tokens.audio_input_tokens),
        (output + entry.reasoning_tokens, tokens.output_tokens),
        (entry.cost_nanousd, billed.amount_nanousd),
    ] {
        assert_eq!(u64::try_from(recorded), Ok(billed), "{what}");
    }
    assert!(cost > 0, "{what}");
    if tokens.pieces > 0 {
        let units: BTreeMap<String, u64> = serde_json::from_str(&entry.units).unwrap();
        assert_eq!(units.values().sum::<u64>(), tokens.pieces, "{what}");
    }
    if tells_reasoning {
        assert_eq!(u64::try_from(entry.reasoning_tokens), Ok(tokens.reasoning_tokens), "{what}");
    }
}
