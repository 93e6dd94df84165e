//! A model that is sold by tokens, and by something that can't be priced: when that occurs.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use purser_protocol::{Api, Size, Usage};

use super::off_peak::OffPeak;
use super::tests::priced;
use super::*;
use crate::learned::LearnedLengths;
use crate::quote::{Pricer, Quotes};

/// A token of the model costs 1 and 2 nano-USD; the dearest of the provider 30 and 90, an image 50 and a
/// second 70.
fn book(unpriced: &[&str], terms: Terms) -> PriceBook {
    let model = PriceRow {
        unpriced: Arc::new(unpriced.iter().map(|name| (*name).to_owned()).collect()),
        ..priced("p", "m", 0, rates(1, 2), terms)
    };
    let units = [("images", 50), ("audio_seconds", 70)];
    let units = units.map(|(name, nanousd)| (name.to_owned(), nanousd * 1_000_000)).into();
    let terms = Terms { units_nanousd_per_million: units, ..Terms::default() };
    PriceBook::new([model, priced("p", "dear", 0, rates(30, 90), terms)], [])
}

fn rates(input: i64, output: i64) -> Rates {
    let mut known = [None; 10];
    (known[0], known[4]) = (Some(input * 1_000_000), Some(output * 1_000_000));
    Rates::from_known(known)
}

fn cost(price: &Price, usage: &Usage, units: &[(&str, u64)]) -> (i64, Vec<String>, bool) {
    let units: BTreeMap<String, u64> =
        units.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let costed = price.cost(Used { usage, units: &units, service_tier: None }).unwrap();
    assert_eq!(price.flag(&costed.unpriced), if costed.unpriced.is_empty() { "" } else { "partial" });
    (costed.nanousd, costed.unpriced, costed.at_least)
}

const TOKENS: Usage = Usage {
    input_tokens: 10,
    output_tokens: 5,
    cached_input_tokens: 0,
    cache_write_5m_tokens: 0,
    cache_write_1h_tokens: 0,
    reasoning_tokens: 0,
    audio_input_tokens: 0,
    audio_output_tokens: 0,
    image_input_tokens: 0,
    image_output_tokens: 0,
};
const LIST_NANOUSD: i64 = 10 + 2 * 5;
const CEILING_NANOUSD: i64 = 30 * 10 + 90 * 5;

#[test]
fn a_dimension_without_a_price_makes_a_call_unknown_where_it_occurs_and_nowhere_else() {
    let units = |rate: i64| {
        let units = [("images".to_owned(), rate * 1_000_000)].into();
        Terms { units_nanousd_per_million: units, ..Terms::default() }
    };
    let none = Terms::default;
    let no_tokens = Usage::default();
    for (name, terms, usage, told, nanousd, flagged) in [
        // A plain chat of a model that is also sold by the second.
        ("output_cost_per_second", none(), TOKENS, ("searches", 0), LIST_NANOUSD, false),
        ("output_cost_per_second", none(), TOKENS, ("audio_seconds", 0), LIST_NANOUSD, false),
        ("output_cost_per_second", none(), TOKENS, ("audio_seconds", 3), CEILING_NANOUSD + 3 * 70, true),
        ("input_cost_per_audio_per_second", none(), no_tokens, ("audio_seconds", 3), 3 * 70, true),
        // Speech tells its characters, which nobody has a rate for here.
        ("output_cost_per_second", none(), TOKENS, ("input_characters", 9), CEILING_NANOUSD, true),
        // Images that are paid as tokens are paid; by the piece, this one may be a dearer one.
        ("output_cost_per_image_4K", units(7), TOKENS, ("images", 2), LIST_NANOUSD, false),
        ("output_cost_per_image_4K", units(7), no_tokens, ("images", 2), 2 * 50, true),
        ("output_cost_per_image_4K", units(80), no_tokens, ("images", 2), 2 * 80, true),
        ("input_cost_per_pixel", units(7), no_tokens, ("images", 2), 2 * 50, true),
        ("tiered_pricing", none(), TOKENS, ("web_search_requests", 1), CEILING_NANOUSD, true),
        ("provider_specific_entry.flavour", none(), TOKENS, ("searches", 0), LIST_NANOUSD, false),
        // Video is counted among the tokens: no more than that to models that sell it as text.
        ("input_cost_per_video_token", none(), TOKENS, ("video_input_tokens", 4), CEILING_NANOUSD, true),
        ("output_cost_per_video_token", none(), TOKENS, ("video_output_tokens", 4), CEILING_NANOUSD, true),
        ("input_cost_per_pixel", none(), TOKENS, ("video_input_tokens", 4), LIST_NANOUSD, false),
    ] {
        let price = book(&[name], terms).find("p", "m", 0).unwrap();
        let (charged, unpriced, _) = cost(&price, &usage, &[told]);
        assert_eq!((charged, unpriced.iter().any(|of| of == name)), (nanousd, flagged), "{name} {told:?}");
    }
    // What no rate is known for anywhere costs more than is known.
    let price = book(&["output_cost_per_second"], Terms::default()).find("p", "m", 0).unwrap();
    assert!(cost(&price, &TOKENS, &[("input_characters", 9)]).2);
}

#[test]
fn hours_of_a_discount_are_charged_at_the_list_price_and_flagged() {
    let noon = OffPeak { minutes_utc: vec![[720, 780]], weekdays: Vec::new(), weekday_zone: String::new() };
    let known = book(&["off_peak"], Terms { off_peak: vec![noon], ..Terms::default() });
    let untold = book(&["off_peak"], Terms::default());
    let flag = vec!["off_peak".to_owned()];
    for (book, hour, flags) in [
        (&known, 11, Vec::new()),
        (&known, 12, flag.clone()),
        (&known, 13, Vec::new()),
        (&untold, 11, flag.clone()),
        (&untold, 12, flag),
    ] {
        let at_unix_s = hour * 3_600;
        let price = book.find("p", "m", at_unix_s).unwrap();
        assert_eq!(cost(&price, &TOKENS, &[]), (LIST_NANOUSD, flags.clone(), false), "{hour}");
        // What `deny` goes by; a model that a ladder names is taken at its list price.
        let pricer = pricer(book, Api::OpenaiChat, at_unix_s);
        let quote = pricer.price("m").unwrap().quote;
        assert_eq!(quote.unknown_model, !flags.is_empty(), "{hour}");
        assert_eq!((quote.amount_nanousd, pricer.quote("m").unwrap().unknown_model), (100 + 20, false));
    }
}

#[test]
fn a_call_by_sound_of_a_model_with_an_unknown_price_by_time_is_held_as_an_unknown_model() {
    let book = book(&["output_cost_per_second"], Terms::default());
    let quote = |api, model: &str| pricer(&book, api, 0).price(model).unwrap().quote;
    let chat = quote(Api::OpenaiChat, "m");
    assert_eq!((chat.unknown_model, chat.amount_nanousd), (false, 120));
    let sound = quote(Api::OpenaiAudio, "m");
    let dear = quote(Api::OpenaiAudio, "dear");
    assert!(sound.unknown_model && !dear.unknown_model);
    assert!(sound.amount_nanousd >= dear.amount_nanousd, "{sound:?} {dear:?}");
}

fn pricer(book: &PriceBook, api: Api, at_unix_s: i64) -> Pricer {
    Pricer {
        prices: Arc::new(book.clone()),
        learned: Arc::new(LearnedLengths::new(95)),
        default_output_tokens: 10,
        strict_output_tokens: 10,
        org: "acme".into(),
        team: String::new(),
        provider: "p".into(),
        api,
        size: Size { text_bytes: 400, max_output_tokens: Some(10), choices: 1, ..Size::default() },
        service_tier: None,
        at_unix_s,
    }
}

proptest! {
    #[test]
    fn no_call_that_meets_something_unknown_costs_less_than_one_with_less_or_than_the_list_says(
        counts in prop::array::uniform10(0_u64..10_000),
        class in 0_usize..10,
        more in 1_u64..1_000,
        seconds in 0_u64..1_000,
        name in prop::sample::select(vec!["output_cost_per_second", "off_peak", "output_cost_per_image_4K"]),
    ) {
        let usage = |counts: [u64; 10]| Usage {
            input_tokens: counts[0],
            cached_input_tokens: counts[1],
            cache_write_5m_tokens: counts[2],
            cache_write_1h_tokens: counts[3],
            output_tokens: counts[4],
            reasoning_tokens: counts[5],
            audio_input_tokens: counts[6],
            audio_output_tokens: counts[7],
            image_input_tokens: counts[8],
            image_output_tokens: counts[9],
        };
        let mut increased = counts;
        increased[class] += more;
        let cost = |unpriced: &[&str], counts, seconds| {
            let price = book(unpriced, Terms::default()).find("p", "m", 0).unwrap();
            cost(&price, &usage(counts), &[("audio_seconds", seconds)])
        };
        let (of_fewer, of_more) = (cost(&[name], counts, seconds), cost(&[name], increased, seconds));
        prop_assert!(of_more.0 >= of_fewer.0, "{of_fewer:?} {of_more:?}");
        prop_assert!(of_more.0 >= cost(&[], increased, 0).0 && of_more.0 > 0);
        if counts != [0; 10] {
            prop_assert!(cost(&[name], counts, seconds + 1).0 >= of_fewer.0);
        }
        let flagged = name == "off_peak" || name.ends_with("second") && seconds > 0;
        prop_assert_eq!(of_more.1.contains(&name.to_owned()), flagged);
    }
}
