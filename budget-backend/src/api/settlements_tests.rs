use std::collections::BTreeMap;

use purser_protocol::{Api, Call, Payer, Size};
use uuid::Uuid;

use super::*;
use crate::histogram::{OUTPUT_TOKENS, bucket};
use crate::learned::LengthsRow;
use crate::pricing::{PriceRow, Rates};

fn settlement() -> Settlement {
    Settlement {
        hold_id: Uuid::from_u128(7),
        payer: Payer { org: "acme".into(), team: Some("search".into()), user: None },
        call: Call { api: Api::OpenaiChat, provider: "openai".into(), model: "gpt-4o".into(), stream: false },
        size: Size { choices: 1, ..Size::default() },
        admission: Admission::FailOpen,
        answered_model: None,
        response_id: None,
        usage: Usage { output_tokens: 60, reasoning_tokens: 30, ..Usage::default() },
        usage_quality: UsageQuality::Exact,
        http_status: 200,
        ending: Ending::Complete,
        started_at_unix_ms: 0,
        duration_ms: 1,
        first_byte_ms: None,
        tags: BTreeMap::new(),
        service_tier: None,
        units: BTreeMap::new(),
        reported_cost_nanousd: None,
        usage_never_comes: false,
    }
}

#[test]
fn only_a_whole_answer_of_known_length_that_nothing_capped_is_learned_from() {
    assert_eq!(answer_tokens(&settlement()), Some(90));
    let changed = |change: fn(&mut Settlement)| {
        let mut settlement = settlement();
        change(&mut settlement);
        answer_tokens(&settlement)
    };
    assert_eq!(changed(|s| s.size.choices = 3), Some(30));
    assert_eq!(changed(|s| s.size.choices = 0), Some(90));
    assert_eq!(changed(|s| s.http_status = 299), Some(90));
    for nothing in [
        changed(|s| s.size.max_output_tokens = Some(1_000)),
        changed(|s| s.usage_quality = UsageQuality::AtLeast),
        changed(|s| s.usage_quality = UsageQuality::None),
        changed(|s| s.ending = Ending::ClientGone),
        changed(|s| s.http_status = 500),
        changed(|s| s.http_status = 0),
        changed(|s| s.usage.output_tokens = 0),
    ] {
        assert_eq!(nothing, None);
    }
}

/// A price of a nano-USD per output token.
fn prices() -> PriceBook {
    PriceBook::new(vec![PriceRow {
        provider: "openai".into(),
        model: "gpt-4o".into(),
        effective_from_unix_s: 0,
        rates: Rates { output: 1_000_000, ..Rates::default() },
        reasons: false,
    }])
}

#[test]
fn without_usage_it_is_charged_what_recent_answers_needed() {
    let mut learned = LearnedLengths::new(95);
    let mut settlement = settlement();
    settlement.usage_quality = UsageQuality::None;
    let estimate = |settlement: &Settlement, learned: &LearnedLengths| {
        let prices = prices();
        let known = Known { prices: &prices, learned, default_output_tokens: 1_024 };
        settle(settlement, &known).unwrap().charge.estimate_nanousd
    };
    assert_eq!(estimate(&settlement, &learned), 1_024);
    let mut seen = vec![0; OUTPUT_TOKENS.len() + 1];
    seen[bucket(&OUTPUT_TOKENS, 50)] = 20;
    learned.apply([LengthsRow {
        org: "acme".into(),
        team: "search".into(),
        provider: "openai".into(),
        model: "gpt-4o".into(),
        seen,
    }]);
    assert_eq!(estimate(&settlement, &learned), 55);
    settlement.size.max_output_tokens = Some(10);
    assert_eq!(estimate(&settlement, &learned), 10, "its own cap says more");
}

#[test]
fn bad_tags_set_an_item_aside_with_the_reason_and_good_ones_go_along() {
    let (prices, learned) = (prices(), LearnedLengths::new(95));
    let known = Known { prices: &prices, learned: &learned, default_output_tokens: 1 };
    let with_tag = |value: &str| {
        let tags = BTreeMap::from([("project".to_owned(), value.to_owned())]);
        prepare(SettlementItem::Settle(Box::new(Settlement { tags, ..settlement() })), &known).1
    };
    match with_tag("blue") {
        Item::Settle(settle) => assert_eq!(settle.subject.tags["project"], "blue"),
        other => panic!("{other:?}"),
    }
    match with_tag("a\0b") {
        Item::Quarantine(aside) => {
            assert_eq!(aside.reason, "tags: expected no control characters in a value");
            assert!(!aside.item.contains('\0'));
        }
        other => panic!("{other:?}"),
    }
}
