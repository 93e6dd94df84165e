//! Nothing that occurred is free because it is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purser_protocol::{Api, Size, Usage};

use super::tests::{priced, row};
use super::*;
use crate::estimate::{estimate, upper_bound};

const USED: Usage = Usage {
    input_tokens: 1_000,
    output_tokens: 1_290,
    cached_input_tokens: 0,
    cache_write_5m_tokens: 0,
    cache_write_1h_tokens: 0,
    reasoning_tokens: 0,
    audio_input_tokens: 0,
    audio_output_tokens: 0,
    image_input_tokens: 0,
    image_output_tokens: 0,
};

/// A model of rates all zero with pieces (nano-USD each) and names without a price, beside a chat model of 3
/// and 9 nano-USD a token, in tiers too.
fn free(pieces: &[(&str, i64)], unpriced: &[&str]) -> Price {
    book(Rates::default(), pieces, unpriced).find("p", "m", 0).unwrap()
}

fn book(rates: Rates, pieces: &[(&str, i64)], unpriced: &[&str]) -> PriceBook {
    let units = pieces.iter().map(|(name, nanousd)| ((*name).to_owned(), nanousd * 1_000_000)).collect();
    let terms = Terms { units_nanousd_per_million: units, ..Terms::default() };
    let unpriced = Arc::new(unpriced.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    let model = PriceRow { unpriced, ..priced("p", "m", 0, rates, terms) };
    let chat_rates = |times: i64| row("p", "chat", 0, 3_000_000 * times, 9_000_000 * times).rates;
    let chat_terms = Terms {
        service_tiers: [("priority".to_owned(), Card { rates: chat_rates(2), sizes: Vec::new() })].into(),
        multipliers_millionths: [("us".to_owned(), 1_100_000)].into(),
        ..Terms::default()
    };
    PriceBook::new([model, priced("p", "chat", 0, chat_rates(1), chat_terms)], [])
}

fn cost(price: &Price, usage: &Usage, units: &[(&str, u64)], tier: Option<&str>) -> (i64, String, bool) {
    let units: BTreeMap<String, u64> =
        units.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    let costed = price.cost(Used { usage, units: &units, service_tier: tier }).unwrap();
    (
        costed.nanousd,
        format!("{} {}", price.flag(&costed.unpriced), costed.unpriced.join(",")),
        costed.at_least,
    )
}

fn held(price: &Price, api: Api) -> i64 {
    let size = Size { text_bytes: 4_000, max_output_tokens: Some(10), choices: 2, ..Size::default() };
    let estimate = estimate(api, &size, 9);
    let amount = estimate.cost_nanousd(price, None).unwrap();
    assert_eq!(estimate.line(&size, price, None).unwrap().amount_nanousd(10), Ok(amount));
    amount
}

#[test]
fn tokens_that_cost_nothing_pay_for_no_piece() {
    let price = free(&[("images", 39_000_000)], &[]);
    let known = |nanousd, at_least| (nanousd, " ".to_owned(), at_least);
    assert_eq!(cost(&price, &USED, &[("images", 1)], None), known(39_000_000, false));
    assert_eq!(held(&price, Api::GeminiGenerate), 2 * 39_000_000);
    // None told: what was held. Told to be none: none.
    assert_eq!(cost(&price, &USED, &[], None), known(0, true));
    assert_eq!(cost(&price, &USED, &[("images", 0)], None), known(0, false));
    let size = Size { max_output_tokens: Some(10), ..Size::default() };
    assert!(upper_bound(Api::GeminiGenerate, &size, &price, 9).is_err());
    // Tokens that cost something do pay.
    let rates = Rates { output: 1_000_000, ..Rates::default() };
    let dear = book(rates, &[("images", 39_000_000)], &[]).find("p", "m", 0).unwrap();
    assert_eq!(cost(&dear, &USED, &[("images", 1)], None), known(1_290, false));
}

#[test]
fn an_answer_that_counts_nothing_is_not_free_where_pieces_are_sold() {
    let none = Usage::default();
    for unit in ["search_units", "images", "pages", "audio_seconds"] {
        let price = free(&[(unit, 2_000_000)], &[]);
        assert_eq!(cost(&price, &none, &[], None), (0, " ".to_owned(), true), "{unit}");
        assert_eq!(cost(&price, &none, &[(unit, 3)], None).0, 6_000_000, "{unit}");
    }
    assert_eq!(held(&free(&[("search_units", 2_000_000)], &[]), Api::Rerank), 2_000_000);
    // What tokens are sold beside is not what the model is sold by.
    let chat = free(&[("web_search_requests", 5)], &[]);
    assert_eq!(cost(&chat, &none, &[], None), (0, " ".to_owned(), false));
}

#[test]
fn what_can_t_be_priced_is_flagged_and_costs_the_dearest_known_where_nothing_else_does() {
    let ceiling = 1_000 * 3 + 1_290 * 9;
    for name in ["output_cost_per_second", "off_peak"] {
        let price = free(&[], &[name]);
        assert_eq!(cost(&price, &USED, &[], None), (ceiling, format!("partial {name}"), true));
        assert_eq!(held(&price, Api::OpenaiChat), 1_000 * 3 + 20 * 9);
        assert!(price.is_unpriceable());
        let nothing = cost(&price, &Usage::default(), &[], None);
        assert!(nothing.0 > 0 && nothing.2, "{nothing:?}");
        assert!(upper_bound(Api::OpenaiChat, &Size::default(), &price, 9).is_err());
    }
    // Rates or pieces of its own are a price; zeros that are said are one too.
    let by_the_image = free(&[("images", 7)], &["output_cost_per_pixel"]);
    assert!(!by_the_image.is_unpriceable() && !free(&[], &[]).is_unpriceable());
    let by_looks = (14, "partial output_cost_per_pixel".to_owned(), false);
    assert_eq!(cost(&by_the_image, &USED, &[("images", 2)], None), by_looks);
    assert_eq!(cost(&free(&[], &[]), &USED, &[], None), (0, " ".to_owned(), false));
    assert!(free(&[], &CLASSES).is_unpriceable());
}

#[test]
fn a_unit_that_nobody_prices_makes_no_call_free() {
    let ceiling = 1_000 * 3 + 1_290 * 9;
    let widgets = [("widgets", 3)];
    let flagged = "partial widgets".to_owned();
    assert_eq!(cost(&free(&[], &[]), &USED, &widgets, None), (ceiling, flagged.clone(), true));
    // Nothing but the unit: the dearest piece that is known, or token.
    let none = Usage::default();
    assert_eq!(
        cost(&free(&[("citations", 7_000)], &[]), &none, &widgets, None),
        (7_000, flagged.clone(), true)
    );
    assert_eq!(cost(&free(&[], &[]), &none, &widgets, None), (600, flagged, true));
}

#[test]
fn an_unknown_tier_is_never_cheaper_than_a_known_one_and_each_factor_counts_once() {
    let flat = Rates { input: 1_000_000, output: 1_000_000, ..Rates::default() };
    let book = book(flat, &[], &[]);
    let usage = Usage { input_tokens: 1_000, ..Usage::default() };
    let of = |model: &str, tier: &str| {
        let (nanousd, flag, _) = cost(&book.find("p", model, 0).unwrap(), &usage, &[], Some(tier));
        (nanousd, flag)
    };
    let partial = "partial service_tier".to_owned();
    for (model, tier, nanousd, flag) in [
        ("chat", "priority", 6_000, " "),
        ("chat", "us+US+us", 3_300, " "),
        ("chat", "priority+priority+us", 6_600, " "),
        // Every factor on the dearest card.
        ("chat", "hyper", 6_600, &partial),
        ("chat", "us+hyper", 6_600, &partial),
        // The tier's factor with another model of the provider; nobody's is the plain rate.
        ("m", "priority", 2_000, &partial),
        ("m", "us", 1_100, &partial),
        ("m", "hyper", 1_000, &partial),
        // More parts than anybody says.
        ("chat", "flex+auto+default+standard+batch+scale+global+reserved", 3_000, " "),
        ("chat", "flex+auto+default+standard+batch+scale+global+reserved+us", 6_600, &partial),
    ] {
        assert_eq!(of(model, tier), (nanousd, flag.to_owned()), "{model} {tier}");
    }
}
