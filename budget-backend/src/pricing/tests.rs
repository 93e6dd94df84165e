use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use purser_protocol::Usage;

use super::*;

const MINI: Rates = Rates {
    input: 150_000_000,
    cached_input: 75_000_000,
    cache_write_5m: 150_000_000,
    cache_write_1h: 150_000_000,
    output: 600_000_000,
    reasoning: 600_000_000,
    audio_input: 150_000_000,
    audio_output: 600_000_000,
    image_input: 150_000_000,
    image_output: 600_000_000,
};

pub fn row(provider: &str, model: &str, from: i64, input: i64, output: i64) -> PriceRow {
    priced(provider, model, from, Rates { input, output, ..MINI }, Terms::default())
}

pub fn priced(provider: &str, model: &str, from: i64, rates: Rates, terms: Terms) -> PriceRow {
    PriceRow {
        price_id: 1,
        provider: provider.into(),
        model: model.into(),
        effective_from_unix_s: from,
        rates,
        reasons: false,
        terms: Arc::new(terms),
        unpriced: Arc::default(),
    }
}

/// USD per million tokens, in thousandths, of input, cached, written for 5 min and 1 h, output.
fn text_rates(thousandths: [i64; 5]) -> Rates {
    let [input, cached, w5, w1, output] = thousandths.map(|rate| Some(rate * 1_000_000));
    Rates::from_known([input, cached, w5, w1, output, None, None, None, None, None])
}

fn only(rates: Rates, terms: Terms) -> Price {
    PriceBook::new([priced("p", "m", 0, rates, terms)], []).find("p", "m", 0).unwrap()
}

fn cost(price: &Price, usage: &Usage, service_tier: Option<&str>) -> i64 {
    let costed = price.cost(Used { usage, units: &BTreeMap::new(), service_tier }).unwrap();
    assert!(costed.unpriced.is_empty() && !costed.at_least, "{costed:?}");
    costed.nanousd
}

#[test]
fn every_class_has_its_rate_and_the_sum_is_rounded_up_once() {
    let usage = |input, cached, output, reasoning| Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        output_tokens: output,
        reasoning_tokens: reasoning,
        ..Usage::default()
    };
    let mini = only(MINI, Terms::default());
    assert_eq!(cost(&mini, &usage(0, 0, 0, 0), None), 0);
    assert_eq!(cost(&mini, &usage(1000, 0, 0, 0), None), 150_000);
    assert_eq!(cost(&mini, &usage(1000, 400, 20, 5), None), 150_000 + 30_000 + 15_000);
    // Three thirds of a nano-dollar are one, not three.
    let third = Rates { input: 333_333, cached_input: 333_333, output: 333_333, ..MINI };
    let third = only(third, Terms::default());
    assert_eq!(cost(&third, &usage(1, 1, 1, 0), None), 1);
    assert_eq!(cost(&third, &usage(1, 0, 0, 0), None), 1);
}

/// Token counts as the providers tell them, made disjoint as the filter does, and what the provider's own
/// arithmetic says in nano-USD.
#[test]
fn the_providers_ways_to_count_come_to_the_providers_own_sums() {
    // OpenAI: 10,000 prompt tokens of which 6,000 cached; 2,000 completion tokens of which 1,500 reasoning.
    let gpt = only(text_rates([2_500, 250, 2_500, 2_500, 15_000]), Terms::default());
    let usage = Usage {
        input_tokens: 10_000 - 6_000,
        cached_input_tokens: 6_000,
        output_tokens: 2_000 - 1_500,
        reasoning_tokens: 1_500,
        ..Usage::default()
    };
    assert_eq!(cost(&gpt, &usage, None), 4_000 * 2_500 + 6_000 * 250 + 2_000 * 15_000);
    // Anthropic: input, reads and writes beside each other; writes split by lifetime.
    let claude = only(text_rates([5_000, 500, 6_250, 10_000, 25_000]), Terms::default());
    let usage = Usage {
        input_tokens: 21,
        cached_input_tokens: 188_086,
        cache_write_5m_tokens: 456,
        cache_write_1h_tokens: 100,
        output_tokens: 393,
        ..Usage::default()
    };
    let expected = 21 * 5_000 + 188_086 * 500 + 456 * 6_250 + 100 * 10_000 + 393 * 25_000;
    assert_eq!(cost(&claude, &usage, None), expected);
    // Gemini: thoughts beside the candidates, at the output rate.
    let gemini = only(text_rates([1_250, 125, 1_250, 1_250, 10_000]), Terms::default());
    let usage = Usage { input_tokens: 900, output_tokens: 40, reasoning_tokens: 160, ..Usage::default() };
    assert_eq!(cost(&gemini, &usage, None), 900 * 1_250 + 200 * 10_000);
}

pub fn sized() -> Terms {
    Terms {
        sizes: vec![SizeTier {
            above_input_tokens: 200_000,
            at_threshold: false,
            rates: text_rates([2_500, 250, 2_500, 2_500, 15_000]),
        }],
        ..Terms::default()
    }
}

#[test]
fn a_size_tier_is_all_or_nothing_and_counts_cached_and_written_input() {
    let low = text_rates([1_250, 125, 1_250, 1_250, 10_000]);
    let price = only(low, sized());
    let usage = |input, cached, written| Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        cache_write_5m_tokens: written,
        output_tokens: 10,
        ..Usage::default()
    };
    let at = [usage(200_000, 0, 0), usage(1_000, 198_000, 1_000)];
    assert_eq!(cost(&price, &at[0], None), 200_000 * 1_250 + 10 * 10_000);
    assert_eq!(cost(&price, &at[1], None), 2_000 * 1_250 + 198_000 * 125 + 10 * 10_000);
    let above = [usage(200_001, 0, 0), usage(1_000, 198_000, 1_001)];
    assert_eq!(cost(&price, &above[0], None), 200_001 * 2_500 + 10 * 15_000);
    assert_eq!(cost(&price, &above[1], None), 2_001 * 2_500 + 198_000 * 250 + 10 * 15_000);
    let mut terms = sized();
    terms.sizes[0].at_threshold = true;
    assert_eq!(cost(&only(low, terms), &at[0], None), 200_000 * 2_500 + 10 * 15_000);
}

#[test]
fn the_tier_that_the_answer_names_decides_and_an_unknown_one_is_the_dearest_and_flagged() {
    let plain = text_rates([4_000, 400, 5_000, 5_000, 20_000]);
    let mut terms = Terms::default();
    for (name, rates) in
        [("flex", [2_000, 200, 2_500, 2_500, 10_000]), ("priority", [8_000, 800, 10_000, 10_000, 40_000])]
    {
        terms.service_tiers.insert(name.into(), Card { rates: text_rates(rates), sizes: Vec::new() });
    }
    terms.multipliers_millionths = [("us".to_owned(), 1_100_000), ("fast".to_owned(), 2_000_000)].into();
    let price = only(plain, terms);
    let usage = Usage { input_tokens: 1_000, output_tokens: 100, ..Usage::default() };
    let (input, output) = (1_000, 100);
    let standard = input * 4_000 + output * 20_000;
    for (tier, expected) in [
        (None, standard),
        (Some("default"), standard),
        (Some("standard"), standard),
        (Some("flex"), standard / 2),
        (Some("Priority"), standard * 2),
        // No rate of its own, and never dearer.
        (Some("batch"), standard),
        (Some("us"), standard * 11 / 10),
        (Some("fast"), standard * 2),
        (Some("priority+us"), standard * 2 * 11 / 10),
    ] {
        assert_eq!(cost(&price, &usage, tier), expected, "{tier:?}");
    }
    let unknown = Used { usage: &usage, units: &BTreeMap::new(), service_tier: Some("warp") };
    let costed = price.cost(unknown).unwrap();
    // The dearest card with all factors that may apply together.
    assert_eq!((costed.nanousd, price.flag(&costed.unpriced)), (standard * 2 * 2 * 11 / 10, "partial"));
    assert_eq!(costed.unpriced, ["service_tier"]);
    // Two cards at once: nobody says what that costs, so the dearer, whichever comes last; one card twice is one.
    for tier in ["priority+flex", "flex+priority", "flex+fast+priority"] {
        let costed = price.cost(Used { service_tier: Some(tier), ..unknown }).unwrap();
        let fast = if tier.contains("fast") { 2 } else { 1 };
        assert_eq!(
            (costed.nanousd, costed.unpriced),
            (standard * 2 * fast, vec!["service_tier".to_owned()]),
            "{tier}"
        );
    }
    for tier in ["priority+batch", "batch+priority", "priority+priority", "standard+priority"] {
        assert_eq!(cost(&price, &usage, Some(tier)), standard * 2, "{tier}");
    }
    // One more nano-USD for the fraction, once.
    let one = Usage { input_tokens: 1, ..Usage::default() };
    assert_eq!(cost(&price, &one, Some("us")), 4_400);
    let odd = only(Rates { input: 1_000_001, ..MINI }, Terms::default());
    assert_eq!(cost(&odd, &one, None), 2);
}

#[test]
fn units_cost_beside_tokens_or_instead_of_them() {
    let terms = Terms {
        units_nanousd_per_million: [
            ("web_search_requests".to_owned(), 10_000_000 * 1_000_000),
            ("images".to_owned(), 40_000_000 * 1_000_000),
            ("requests".to_owned(), 5_000 * 1_000_000),
        ]
        .into(),
        multipliers_millionths: [("us".to_owned(), 1_100_000)].into(),
        ..Terms::default()
    };
    let price = only(MINI, terms);
    let cost = |usage: &Usage, units: &[(&str, u64)], service_tier| {
        let units = units.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        price.cost(Used { usage, units: &units, service_tier }).unwrap()
    };
    let usage = Usage { output_tokens: 1_000, ..Usage::default() };
    let none = Usage::default();
    assert_eq!(cost(&usage, &[("web_search_requests", 3)], None).nanousd, 600_000 + 30_000_000 + 5_000);
    // The factor is on tokens.
    assert_eq!(cost(&usage, &[("web_search_requests", 3)], Some("us")).nanousd, 660_000 + 30_000_000 + 5_000);
    // An image that is billed by its tokens isn't billed as an image too.
    assert_eq!(cost(&usage, &[("images", 2)], None).nanousd, 600_000 + 5_000);
    assert_eq!(cost(&none, &[("images", 2)], None).nanousd, 80_000_000 + 5_000);
    let unknown = cost(&none, &[("minutes", 2), ("seconds", 0)], None);
    assert_eq!((unknown.unpriced, unknown.at_least), (vec!["minutes".to_owned()], true));
}

#[test]
fn a_class_without_a_known_price_costs_the_dearest_known_and_is_flagged_when_it_occurs() {
    let images = PriceRow {
        unpriced: Arc::new(CLASSES.iter().map(|class| (*class).to_owned()).collect()),
        ..priced(
            "p",
            "image-1",
            0,
            Rates::default(),
            Terms {
                units_nanousd_per_million: [("images".to_owned(), 7_000_000)].into(),
                ..Terms::default()
            },
        )
    };
    let book = PriceBook::new([images, row("p", "chat", 0, 25, 100)], []);
    let price = book.find("p", "image-1", 0).unwrap();
    let usage = Usage { output_tokens: 1_000_000, ..Usage::default() };
    let cost = |units: &[(&str, u64)]| {
        let units = units.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        price.cost(Used { usage: &usage, units: &units, service_tier: None }).unwrap()
    };
    let flagged = cost(&[]);
    assert_eq!((flagged.nanousd, flagged.unpriced), (100, vec!["output".to_owned()]));
    // It is sold by the image: the tokens are no price.
    assert_eq!(cost(&[("images", 2)]).nanousd, 14);
    assert!(cost(&[("images", 2)]).unpriced.is_empty());
}

#[test]
fn cached_sound_costs_what_it_costs_and_untold_the_dearer() {
    let units =
        [("cached_audio_input_tokens".to_owned(), 400_000), ("cached_image_input_tokens".to_owned(), 50_000)];
    let multipliers_millionths = [("us".to_owned(), 1_100_000)].into();
    let terms = Terms { units_nanousd_per_million: units.into(), multipliers_millionths, ..sized() };
    let price = only(
        Rates::from_known([
            Some(1_000_000),
            Some(100_000),
            None,
            None,
            Some(1),
            None,
            Some(2_000_000),
            None,
            None,
            None,
        ]),
        terms,
    );
    let cost = |usage: &Usage, units: &[(&str, u64)], service_tier| {
        let units = units.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        price.cost(Used { usage, units: &units, service_tier }).unwrap().nanousd
    };
    let text = Usage { cached_input_tokens: 1_000, ..Usage::default() };
    assert_eq!(cost(&text, &[], None), 100);
    assert_eq!(cost(&text, &[("cached_audio_input_tokens", 500)], None), 100 + 200);
    assert_eq!(cost(&text, &[("cached_audio_input_tokens", 500)], Some("us")), 330);
    let heard = Usage { audio_input_tokens: 10, ..text };
    assert_eq!(cost(&heard, &[], None), 400 + 20);
    assert_eq!(cost(&heard, &[("cached_audio_input_tokens", 0)], None), 100 + 20);
    // Images from the cache are cheaper than text here; what isn't told is charged as text.
    let seen = Usage { image_input_tokens: 10, ..text };
    assert_eq!(cost(&seen, &[], None), 100 + 10);
    // All of it counts towards the size.
    let large = Usage { cached_input_tokens: 199_000, ..Usage::default() };
    assert_eq!(cost(&large, &[("cached_audio_input_tokens", 1_000)], None), 19_900 + 400);
    assert_eq!(cost(&large, &[("cached_audio_input_tokens", 1_001)], None), 199_000 * 250 + 401);
}

#[test]
fn an_impossible_count_is_an_error_not_a_wrong_number() {
    let usage = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
    let dear = only(Rates { input: i64::MAX, output: i64::MAX, ..MINI }, Terms::default());
    let used = Used { usage: &usage, units: &BTreeMap::new(), service_tier: None };
    assert_eq!(dear.cost(used), Err(CostOverflow));
    assert_eq!(only(Rates { input: -1, ..MINI }, Terms::default()).cost(used), Err(CostOverflow));
}

#[test]
fn terms_are_read_strictly() {
    let full = r#"{"sizes": [{"above_input_tokens": 1, "rates": {"input": 1, "cached_input": 1, "cache_write_5m": 1,
        "cache_write_1h": 1, "output": 1, "reasoning": 1, "audio_input": 1, "audio_output": 1, "image_input": 1,
        "image_output": 1}}]}"#;
    let terms: Terms = serde_json::from_str(full).unwrap();
    assert_eq!(terms.check(), Ok(()));
    assert_eq!(serde_json::from_str::<Terms>(&serde_json::to_string(&terms).unwrap()).unwrap(), terms);
    for bad in [
        r#"{"size": []}"#,
        r#"{"sizes": [{"above_input_tokens": 1, "rates": {"input": 1}}]}"#,
        r#"{"multipliers_millionths": {"us": 1.1}}"#,
    ] {
        assert!(serde_json::from_str::<Terms>(bad).is_err(), "{bad}");
    }
    for (change, said) in [
        (full.replace("\"output\": 1", "\"output\": -1"), "sizes: expected no negative rate"),
        (r#"{"multipliers_millionths": {"us": 0}}"#.to_owned(), "multipliers_millionths.us"),
        (r#"{"units_nanousd_per_million": {"images": -1}}"#.to_owned(), "units_nanousd_per_million.images"),
    ] {
        let terms: Terms = serde_json::from_str(&change).unwrap();
        assert!(terms.check().unwrap_err().starts_with(said), "{change}");
    }
}

fn usage_of(t: [u64; 10]) -> Usage {
    Usage {
        input_tokens: t[0],
        cached_input_tokens: t[1],
        cache_write_5m_tokens: t[2],
        cache_write_1h_tokens: t[3],
        output_tokens: t[4],
        reasoning_tokens: t[5],
        audio_input_tokens: t[6],
        audio_output_tokens: t[7],
        image_input_tokens: t[8],
        image_output_tokens: t[9],
    }
}

proptest! {
    #[test]
    fn cost_grows_with_every_class_and_is_zero_only_without_tokens(
        tokens in prop::array::uniform10(0_u64..10_000_000),
        class in 0_usize..10,
        more in 1_u64..1_000_000,
    ) {
        // Dearer above the threshold, as every provider has it.
        let mut terms = sized();
        terms.sizes[0].rates = MINI.with(MINI, |rate, _| rate * 2);
        let price = only(MINI, terms);
        let low = cost(&price, &usage_of(tokens), None);
        let mut grown = tokens;
        grown[class] += more;
        prop_assert!(cost(&price, &usage_of(grown), None) > low);
        prop_assert_eq!(low == 0, tokens.iter().all(|count| *count == 0));
    }

    #[test]
    fn cost_is_the_sum_that_schoolbook_arithmetic_gives(
        tokens in prop::array::uniform10(0_u64..10_000_000),
        rates in prop::array::uniform10(0_i64..1_000_000_000_000),
    ) {
        let price = only(Rates::from_classes(rates), Terms::default());
        // In whole nano-USD and millionths apart, carried by hand.
        let (mut whole, mut millionths) = (0_u64, 0_u64);
        for (count, rate) in tokens.iter().zip(rates) {
            let rate = rate.unsigned_abs();
            whole += count * (rate / 1_000_000);
            millionths += count * (rate % 1_000_000);
        }
        let expected = whole + millionths / 1_000_000 + u64::from(millionths % 1_000_000 > 0);
        prop_assert_eq!(cost(&price, &usage_of(tokens), None).unsigned_abs(), expected);
    }
}
