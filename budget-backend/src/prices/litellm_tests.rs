use super::*;
use crate::pricing::{PriceBook, PriceRow, Rates, Used};
use purser_protocol::Usage;
use std::sync::Arc;

const FIXTURE: &str = include_str!("../../tests/fixtures/community-prices.json");

fn fixture() -> File {
    parse(FIXTURE, false).unwrap()
}

fn find<'a>(file: &'a File, provider: &str, model: &str) -> &'a Wanted {
    let found = file.wanted.iter().find(|price| price.provider == provider && price.model == model);
    found.unwrap_or_else(|| panic!("{provider} {model}: {:?}", file.wanted))
}

#[test]
fn every_key_is_a_price_or_is_skipped_with_the_reason() {
    let file = fixture();
    let Pairs(entries) = serde_json::from_str(FIXTURE).unwrap();
    let mut keys: Vec<&str> = file.wanted.iter().map(|price| price.key.as_str()).collect();
    keys.extend(file.skipped.iter().map(|skipped| skipped.key.as_str()));
    keys.sort_unstable();
    let mut expected: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let reasons: BTreeMap<&str, &str> =
        file.skipped.iter().map(|skipped| (skipped.key.as_str(), skipped.reason.as_str())).collect();
    assert_eq!(reasons["sample_spec"], "the format's documentation, not a model");
    assert_eq!(reasons["rules-only"], "names no provider and no price");
    assert_eq!(reasons["no-price"], "has no price");
    assert_eq!(reasons["twice"], "the same as \"acme/twice\", which is taken");
    let other = "another price than, and the same model as, \"acme/thrice\", which is taken";
    assert_eq!(reasons["thrice"], other);
    assert_eq!(file.ignored["max_tokens"], 1);
    assert_eq!(file.rounded_up, [("databricks/artifact".to_owned(), "input_cost_per_token".to_owned())]);
}

#[test]
fn rates_sizes_tiers_units_and_factors_are_taken_over_exactly() {
    let file = fixture();
    let full = find(&file, "openai", "gpt-full");
    assert_eq!(full.key, "gpt-full");
    assert!(full.reasons && full.unpriced.is_empty(), "{full:?}");
    assert_eq!(full.note, "https://example.com/prices");
    let r = full.rates;
    assert_eq!(
        r.classes(),
        [2_500, 250, 3_125, 5_000, 15_000, 20_000, 40_000, 80_000, 5_000, 30_000]
            .map(|rate| rate * 1_000_000)
    );
    assert_eq!(full.terms.sizes.len(), 1);
    let above = &full.terms.sizes[0];
    assert_eq!((above.above_input_tokens, above.at_threshold), (272_000, false));
    assert_eq!((above.rates.input, above.rates.output), (5_000_000_000, 22_500_000_000));
    assert_eq!(above.rates.cached_input, 500_000_000);
    assert_eq!(above.rates.cache_write_5m, 3_125_000_000, "not said: as below");
    let flex = &full.terms.service_tiers["flex"];
    assert_eq!((flex.rates.input, flex.rates.output), (1_250_000_000, 7_500_000_000));
    assert_eq!(flex.rates.cached_input, 250_000_000, "not said: the plain one");
    assert_eq!(flex.sizes[0].rates.input, 2_500_000_000);
    assert_eq!(flex.sizes[0].rates.output, 22_500_000_000, "not said: that of the size is dearer");
    assert_eq!(full.terms.service_tiers.keys().collect::<Vec<_>>(), ["batch", "flex", "priority"]);
    let factors = [("eu", 1_100_000), ("fast", 2_000_000), ("us", 1_100_000)];
    assert_eq!(full.terms.multipliers_millionths, factors.map(|(name, f)| (name.to_owned(), f)).into());
    let units = &full.terms.units_nanousd_per_million;
    assert_eq!(units["web_search_requests"], 10_000_000 * 1_000_000);
    assert_eq!(units["web_search_requests_high"], 12_000_000 * 1_000_000);
    assert!(find(&file, "xai", "grok").terms.sizes[0].at_threshold);
    let embedding = find(&file, "openai", "embedding");
    assert_eq!((embedding.rates.output, embedding.unpriced.len()), (0, 0));
    assert_eq!(find(&file, "bedrock", "converse").key, "converse");
    assert_eq!(find(&file, "vertex_ai", "claude@20250929").key, "vertex_ai/claude@20250929");
    let free = find(&file, "acme", "free");
    assert_eq!((free.rates, free.unpriced.len()), (Rates::default(), 0), "an explicit zero is a price");
}

#[test]
fn ranges_become_sizes_that_apply_to_everything() {
    let file = fixture();
    let tiered = find(&file, "dashscope", "tiered");
    assert_eq!((tiered.rates.input, tiered.rates.output), (50_000_000, 400_000_000));
    let sizes: Vec<_> = tiered.terms.sizes.iter().map(|s| (s.above_input_tokens, s.rates.input)).collect();
    assert_eq!(sizes, [(256_000, 250_000_000), (1_000_000, 500_000_000)]);
    assert_eq!(tiered.terms.sizes[1].rates.reasoning, 4_000_000_000);
}

#[test]
fn what_can_t_be_priced_is_named_and_nothing_is_free_for_it() {
    let file = fixture();
    let unpriced = |provider: &str, model: &str| {
        find(&file, provider, model).unpriced.iter().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(unpriced("deepseek", "off-peak"), ["off_peak"]);
    let all: Vec<&str> = {
        let mut all = CLASSES.to_vec();
        all.sort_unstable();
        all
    };
    assert_eq!(unpriced("acme", "per-image"), all);
    let pixels: Vec<&str> = unpriced("acme", "per-pixel");
    assert!(pixels.contains(&"input_cost_per_pixel") && pixels.contains(&"output"), "{pixels:?}");
    assert!(!pixels.contains(&"output_cost_per_pixel"), "nothing is nothing, by whatever it is counted");
    assert!(unpriced("acme", "search").contains(&"tiered_pricing"));
    assert!(unpriced("acme", "spoken").is_empty());
    let spoken = &find(&file, "acme", "spoken").terms.units_nanousd_per_million;
    assert!(spoken.contains_key("cached_audio_input_tokens"), "{spoken:?}");
    let whisper = find(&file, "openai", "whisper");
    assert_eq!(whisper.terms.units_nanousd_per_million["audio_seconds"], 100_000 * 1_000_000);
    // Tokens of a model sold by the piece are charged at the dearest known rate.
    let book = PriceBook::new(file.wanted.iter().enumerate().map(|(number, wanted)| row(number, wanted)), []);
    let usage = Usage { output_tokens: 1_000, ..Usage::default() };
    let used = Used { usage: &usage, units: &BTreeMap::new(), service_tier: None };
    let costed = book.find("acme", "per-pixel", 0).unwrap().cost(used).unwrap();
    assert!(costed.nanousd > 0 && costed.unpriced == ["output"], "{costed:?}");
}

fn row(number: usize, wanted: &Wanted) -> PriceRow {
    PriceRow {
        price_id: i64::try_from(number).unwrap(),
        provider: wanted.provider.clone(),
        model: wanted.model.clone(),
        effective_from_unix_s: 0,
        rates: wanted.rates,
        reasons: wanted.reasons,
        terms: Arc::new(wanted.terms.clone()),
        unpriced: Arc::new(wanted.unpriced.clone()),
    }
}

#[test]
fn whatever_is_malformed_stops_it_all_with_entry_and_field() {
    let entry = |fields: &str| {
        format!(
            r#"{{"good": {{"litellm_provider": "p", "input_cost_per_token": 1e-6, "output_cost_per_token": 0}}, "bad": {{{fields}}}}}"#
        )
    };
    let p = r#""litellm_provider": "p""#;
    let at = |field: &str, problem: &str| format!("entry \"bad\", field {field:?}: {problem}");
    for (text, expected) in [
        (
            entry(&format!("{p}, \"input_cost_per_token\": \"2e-6\"")),
            at("input_cost_per_token", "expected a decimal number such as 2.5e-06, got \"2e-6\""),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_token\": true")),
            at("input_cost_per_token", "expected a decimal number such as 2.5e-06, got true"),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_token\": null")),
            at("input_cost_per_token", "expected a decimal number such as 2.5e-06, got null"),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_token\": -1e-6")),
            at("input_cost_per_token", "expected no negative number, got -1e-6"),
        ),
        (
            entry(&format!("{p}, \"output_cost_per_image\": -1")),
            at("output_cost_per_image", "expected no negative number, got -1"),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_pixel\": -1")),
            at("input_cost_per_pixel", "expected no negative number, got -1"),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_token\": 1e9")),
            at("input_cost_per_token", "the number is too large, got 1e9"),
        ),
        (
            entry(&format!("{p}, \"input_cost_per_thought\": 1")),
            at("input_cost_per_thought", "unknown field"),
        ),
        (entry(&format!("{p}, \"wisdom\": 1")), at("wisdom", "unknown field")),
        (
            entry(&format!("{p}, \"search_context_cost_per_query\": {{\"search_context_size_huge\": 1}}")),
            at("search_context_cost_per_query.search_context_size_huge", "unknown unit"),
        ),
        (
            entry(&format!("{p}, \"search_context_cost_per_query\": 1")),
            at("search_context_cost_per_query", "invalid type: integer `1`, expected a JSON object"),
        ),
        (
            entry(&format!("{p}, \"tiered_pricing\": [{{\"range\": [1, 2]}}]")),
            at("tiered_pricing[0].range", "expected it to begin at 0"),
        ),
        (
            entry(&format!("{p}, \"tiered_pricing\": [{{}}]")),
            at("tiered_pricing[0].range", "expected [low, high]"),
        ),
        (
            entry(&format!("{p}, \"tiered_pricing\": [{{\"range\": [0, 2], \"x\": 1}}]")),
            at("tiered_pricing[0].x", "unknown field"),
        ),
        (entry(&format!("{p}, \"mode\": 1")), at("mode", "expected a text, got 1")),
        (entry(&format!("{p}, {p}")), "entry \"bad\": \"litellm_provider\" stands twice".to_owned()),
        (entry("\"input_cost_per_token\": 1e-6"), at("litellm_provider", "expected who bills, got nothing")),
        (
            r#"{"a": {"litellm_provider": "p"}, "a": {}}"#.to_owned(),
            "not a price file in the LiteLLM format: \"a\" stands twice at line 1 column 41".to_owned(),
        ),
        (
            r#"{"": {"litellm_provider": "p"}}"#.to_owned(),
            "entry \"\": expected a name without control characters and without space around it, got \"\""
                .to_owned(),
        ),
        (
            entry(&format!("{p}, \"off_peak_pricing\": {{\"weekday_timezone\": \"Nowhere/No\"}}")),
            at(
                "off_peak_pricing.weekday_timezone",
                "expected the IANA name of a time zone such as \"Asia/Shanghai\", got \"Nowhere/No\"",
            ),
        ),
        (r#"{"a": []}"#.to_owned(), "entry \"a\": invalid type: sequence, expected a JSON object".to_owned()),
    ] {
        assert_eq!(parse(&text, false).unwrap_err().to_string(), expected, "{text}");
    }
    for text in
        ["", "[]", "{}", "prices", "{\"a\": {}", "{\"a\": {\"litellm_provider\": \"p\"}}", "{\"x\": 1}"]
    {
        let said = parse(text, false).unwrap_err().to_string();
        assert!(said.starts_with("not a price file") || said.starts_with("entry \"x\""), "{text}: {said}");
    }
}

#[test]
fn what_is_unknown_can_be_let_in_as_a_price_that_can_t_be_applied() {
    let text = r#"{"m": {"litellm_provider": "p", "input_cost_per_token": 1e-6, "output_cost_per_token": 0,
        "input_cost_per_thought": 1, "wisdom": [1]}}"#;
    let file = parse(text, true).unwrap();
    assert_eq!(file.wanted[0].unpriced, ["input_cost_per_thought".to_owned()].into());
    assert_eq!(file.ignored["wisdom"], 1);
}

#[test]
fn of_two_keys_of_one_model_zeros_never_win_over_a_price() {
    let entry = |key: &str, input: &str, output: &str, more: &str| {
        format!(
            r#""{key}": {{"litellm_provider": "openai", "input_cost_per_token": {input}, "output_cost_per_token": {output}{more}}}"#
        )
    };
    let taken = |first: String, second: String| {
        let file = parse(&format!("{{{first}, {second}}}"), false).unwrap();
        let [price] = file.wanted.as_slice() else { panic!("{:?}", file.wanted) };
        assert_eq!((price.provider.as_str(), price.model.as_str()), ("openai", "a"));
        let [skipped] = file.skipped.as_slice() else { panic!("{:?}", file.skipped) };
        (price.key.clone(), format!("{}: {}", skipped.key, skipped.reason))
    };
    let why = |key: &str, reason: &str| (key.to_owned(), reason.to_owned());
    let (own, other) =
        ("openai/a: free, and the same model as", "a: another price than, and the same model as,");
    let since = "which is taken, since that has a price";
    let priority = ", \"input_cost_per_token_priority\": 1e-6";
    for (with_provider, without, expected) in [
        (("0", "0", ""), ("1e-6", "1e-6", ""), why("a", &format!("{own} \"a\", {since}"))),
        (("0", "0", priority), ("1e-6", "1e-6", ""), why("a", &format!("{own} \"a\", {since}"))),
        (("0", "2e-6", ""), ("1e-6", "1e-6", ""), why("a", &format!("{own} \"a\", {since}"))),
        (
            ("1e-6", "1e-6", ""),
            ("0", "0", ""),
            why("openai/a", &format!("a: free, and the same model as \"openai/a\", {since}")),
        ),
        (
            ("1e-6", "1e-6", ""),
            ("2e-6", "2e-6", ""),
            why("openai/a", &format!("{other} \"openai/a\", which is taken")),
        ),
        (("0", "0", ""), ("0.0", "0", ""), why("openai/a", "a: the same as \"openai/a\", which is taken")),
        // Zeros beside a price by the piece are how such a model is sold.
        (
            ("0", "0", ", \"output_cost_per_image\": 0.04"),
            ("1e-6", "1e-6", ""),
            why("openai/a", &format!("{other} \"openai/a\", which is taken")),
        ),
    ] {
        let first = entry("openai/a", with_provider.0, with_provider.1, with_provider.2);
        let second = entry("a", without.0, without.1, without.2);
        assert_eq!(taken(first.clone(), second.clone()), expected);
        assert_eq!(taken(second, first), expected, "in whatever order they stand");
    }
}
