use std::collections::BTreeMap;
use std::sync::Arc;

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
        lookup: None,
        asked_model: None,
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
        may_think: None,
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
    let row = PriceRow {
        price_id: 3,
        provider: "openai".into(),
        model: "gpt-4o".into(),
        effective_from_unix_s: 0,
        rates: Rates { output: 1_000_000, ..Rates::default() },
        reasons: false,
        terms: Arc::default(),
        unpriced: Arc::default(),
    };
    PriceBook::new([row], [])
}

#[test]
fn without_usage_it_is_charged_what_recent_answers_needed() {
    let mut learned = LearnedLengths::new(95);
    let mut settlement = settlement();
    settlement.usage_quality = UsageQuality::None;
    let estimate = |settlement: &Settlement, learned: &LearnedLengths| {
        let prices = prices();
        let known = Known {
            identities: &Identities::default(),
            prices: &prices,
            learned,
            flagged: &Flagged::default(),
            default_output_tokens: 1_024,
        };
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
    let flagged = Flagged::default();
    let known = Known {
        identities: &Identities::default(),
        prices: &prices,
        learned: &learned,
        flagged: &flagged,
        default_output_tokens: 1,
    };
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

fn charge_of(settlement: &Settlement) -> Charge {
    let (prices, learned, flagged) = (prices(), LearnedLengths::new(95), Flagged::default());
    let known = Known {
        identities: &Identities::default(),
        prices: &prices,
        learned: &learned,
        flagged: &flagged,
        default_output_tokens: 1,
    };
    settle(settlement, &known).unwrap().charge
}

#[test]
fn a_reported_cost_wins_where_no_price_is_known_and_nowhere_else() {
    let mut reported = settlement();
    reported.usage.reasoning_tokens = 0;
    reported.reported_cost_nanousd = Some(7);
    let known = charge_of(&reported);
    assert_eq!((known.cost, known.price_match, known.price_id), (Cost::Exactly(60), "exact", Some(3)));
    reported.call.model = "who-knows".into();
    let charge = charge_of(&reported);
    assert_eq!((charge.cost, charge.price_match, charge.price_flag), (Cost::Exactly(7), "reported", ""));
    // Not zero because it is unknown, and not a negative price either.
    for nothing in [None, Some(0), Some(-7)] {
        reported.reported_cost_nanousd = nothing;
        let charge = charge_of(&reported);
        assert_eq!((charge.cost, charge.price_flag), (Cost::Exactly(60), "ceiling"), "{nothing:?}");
        assert_eq!((charge.price_match, charge.price_id), ("ceiling", None));
    }
}

#[test]
fn usage_that_never_comes_is_charged_the_estimate_at_once() {
    let mut taken_on = settlement();
    (taken_on.usage, taken_on.usage_quality) = (Usage::default(), UsageQuality::None);
    taken_on.usage_never_comes = true;
    let charge = charge_of(&taken_on);
    assert_eq!((charge.cost, charge.price_flag), (Cost::AtLeast(0), "partial"));
    assert_eq!(charge.unpriced, ["usage"]);
    taken_on.usage_quality = UsageQuality::Exact;
    taken_on.usage.output_tokens = 5;
    assert_eq!(charge_of(&taken_on).cost, Cost::AtLeast(5));
    taken_on.usage_quality = UsageQuality::None;
    taken_on.http_status = 400;
    assert_eq!(charge_of(&taken_on).cost, Cost::Exactly(0), "it was refused");
}

#[test]
fn a_unit_without_any_known_price_is_charged_at_least_the_estimate_and_flagged() {
    let mut searched = settlement();
    searched.units = BTreeMap::from([("web_search_requests".to_owned(), 2)]);
    searched.usage.reasoning_tokens = 0;
    let charge = charge_of(&searched);
    assert_eq!((charge.cost, charge.price_flag), (Cost::AtLeast(60), "partial"));
    assert_eq!(charge.unpriced, ["web_search_requests"]);
    searched.units = BTreeMap::from([("x".repeat(65), 2)]);
    let (prices, learned, flagged) = (prices(), LearnedLengths::new(95), Flagged::default());
    let known = Known {
        identities: &Identities::default(),
        prices: &prices,
        learned: &learned,
        flagged: &flagged,
        default_output_tokens: 1,
    };
    assert!(settle(&searched, &known).unwrap_err().starts_with("units: "));
}

#[test]
fn a_tier_whose_name_can_t_be_kept_is_an_unknown_one() {
    let with_tier = |tier: Option<String>| {
        let (prices, learned, flagged) = (prices(), LearnedLengths::new(95), Flagged::default());
        let known = Known {
            identities: &Identities::default(),
            prices: &prices,
            learned: &learned,
            flagged: &flagged,
            default_output_tokens: 1,
        };
        let settled = settle(&Settlement { service_tier: tier, ..settlement() }, &known).unwrap();
        (settled.facts.service_tier, settled.charge.price_flag, settled.charge.unpriced)
    };
    let kept = |tier: &str| Some(tier.to_owned());
    let unknown = |tier: &str| (kept(tier), "partial", vec!["service_tier".to_owned()]);
    assert_eq!(with_tier(kept(&"x".repeat(65))), unknown("(malformed)"));
    assert_eq!(with_tier(kept("warp\0")), unknown("(malformed)"));
    assert_eq!(with_tier(kept("warp")), unknown("warp"));
    assert_eq!(with_tier(kept("default")), (kept("default"), "", Vec::new()));
    for none in [None, kept(""), kept(" ")] {
        assert_eq!(with_tier(none), (None, "", Vec::new()));
    }
}

#[test]
fn a_call_that_was_refused_used_no_price_and_has_no_flag() {
    let mut refused = settlement();
    refused.call.model = "who-knows".into();
    (refused.usage, refused.usage_quality) = (Usage::default(), UsageQuality::None);
    for (http_status, cost, flag) in [
        (404, Cost::Exactly(0), ""),
        (429, Cost::Exactly(0), ""),
        // It went out and nothing came back, or an answer without usage: charged the estimate.
        (0, Cost::AtLeast(0), "ceiling"),
        (200, Cost::AtLeast(0), "ceiling"),
    ] {
        refused.http_status = http_status;
        let charge = charge_of(&refused);
        assert_eq!((charge.cost, charge.price_flag), (cost, flag), "{http_status}");
    }
    // One that failed after it was used is billed, and flagged.
    refused.http_status = 500;
    refused.usage_quality = UsageQuality::Exact;
    refused.usage.output_tokens = 5;
    let charge = charge_of(&refused);
    assert_eq!((charge.cost, charge.price_flag), (Cost::Exactly(5), "ceiling"));
}
