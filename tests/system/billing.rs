//! What the filter settles against what the provider bills.

use purser_protocol::{Ending, Settlement, SettlementItem, UsageQuality};
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::stack::ScriptedStack;

/// Waits for the settlements of so many calls, in the order in which they ended.
pub async fn settlements(stack: &ScriptedStack, count: usize) -> Vec<Settlement> {
    let items = stack.backend.settlements(count).await;
    let settle = |item| match item {
        SettlementItem::Settle(settlement) => *settlement,
        other => panic!("not sent: {other:?}"),
    };
    items.into_iter().map(settle).collect()
}

/// Checks a settlement class by class. Not every API tells how much of the output is reasoning. Of an
/// answer that was not whole, the settlement says at least what was seen.
pub fn assert_billed(name: &str, settlement: &Settlement, billed: &BilledRow, tells_reasoning: bool) {
    let what = format!("{name}: {settlement:?} {billed:?}");
    if let Some(id) = &settlement.response_id {
        assert_eq!(*id, billed.response_id, "{what}");
    }
    assert_eq!(settlement.call.stream, billed.stream, "{what}");
    let (usage, tokens) = (settlement.usage, billed.tokens);
    if !billed.complete {
        assert_ne!(settlement.usage_quality, UsageQuality::Exact, "{what}");
        let output = usage.output_tokens + usage.reasoning_tokens;
        assert!(output >= tokens.output_tokens - tokens.reasoning_tokens, "{what}");
        return;
    }
    assert_eq!(settlement.usage_quality, UsageQuality::Exact, "{what}");
    assert_eq!(settlement.ending, Ending::Complete, "{what}");
    assert_eq!(settlement.http_status, 200, "{what}");
    let settled = [
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.audio_input_tokens,
        usage.output_tokens + usage.reasoning_tokens,
    ];
    let billed_tokens = [
        tokens.input_tokens,
        tokens.cached_tokens,
        tokens.cache_write_5m_tokens,
        tokens.cache_write_1h_tokens,
        tokens.audio_input_tokens,
        tokens.output_tokens,
    ];
    assert_eq!(settled, billed_tokens, "{what}");
    let others = [usage.audio_output_tokens, usage.image_input_tokens, usage.image_output_tokens];
    assert_eq!(others, [0; 3], "{what}");
    if tells_reasoning {
        assert_eq!(usage.reasoning_tokens, tokens.reasoning_tokens, "{what}");
    }
    assert_eq!(settlement.units.values().sum::<u64>(), billed.web_searches, "{what}");
}
