use super::*;
use crate::pricing::{CostLine, PriceBook, PriceMatch, PriceRow, Rates, Terms};
use std::sync::Arc;

const CHAT: Api = Api::OpenaiChat;

#[test]
fn the_cap_counts_once_per_choice() {
    let size =
        Size { text_bytes: 401, media_parts: 2, max_output_tokens: Some(50), choices: 3, ..Size::default() };
    let expected = Estimate { input_tokens: 101 + 3_000, output_tokens: 150, choices: 3, media: Media::None };
    assert_eq!(estimate(CHAT, &size, 1024), expected);
}

#[test]
fn without_a_cap_the_default_is_held() {
    let size = Size { text_bytes: 4, choices: 1, ..Size::default() };
    let expected = Estimate { input_tokens: 1, output_tokens: 1024, choices: 1, media: Media::None };
    assert_eq!(estimate(CHAT, &size, 1024), expected);
    // A missing number of choices is one.
    assert_eq!(estimate(CHAT, &Size { choices: 0, ..size }, 1024).output_tokens, 1024);
}

#[test]
fn an_absurd_request_reserves_no_more_than_the_longest_answers() {
    let size = Size { max_output_tokens: Some(u64::MAX), choices: u32::MAX, ..Size::default() };
    assert_eq!(estimate(CHAT, &size, 1).output_tokens, 128 * 1_048_576);
}

fn price(matched: PriceMatch) -> Price {
    let rates = Rates {
        input: 1_000_000,
        cache_write_1h: 2_000_000,
        output: 10_000_000,
        reasoning: 11_000_000,
        ..Rates::default()
    };
    Price { matched, ..priced(rates, Terms::default()) }
}

fn priced(rates: Rates, terms: Terms) -> Price {
    let row = PriceRow {
        price_id: 1,
        provider: "p".into(),
        model: "m".into(),
        effective_from_unix_s: 0,
        rates,
        reasons: false,
        terms: Arc::new(terms),
        unpriced: Arc::default(),
    };
    PriceBook::new([row], []).find("p", "m", 0).unwrap()
}

#[test]
fn a_bound_takes_the_dearest_of_everything() {
    let size = Size { text_bytes: 744, max_output_tokens: Some(50), choices: 3, ..Size::default() };
    let bound = upper_bound(CHAT, &size, &price(PriceMatch::Exact), 4_096).unwrap();
    assert_eq!((bound.amount_nanousd, bound.output_cap_tokens), (2 * 1_000 + 11 * 150, None));
}

#[test]
fn a_missing_cap_is_written_into_the_request() {
    let size = Size { choices: 2, ..Size::default() };
    let bound = upper_bound(CHAT, &size, &price(PriceMatch::Undated), 100).unwrap();
    assert_eq!((bound.amount_nanousd, bound.output_cap_tokens), (2 * 256 + 11 * 200, Some(100)));
}

#[test]
fn what_has_no_bound_is_said() {
    let exact = price(PriceMatch::Exact);
    assert!(upper_bound(CHAT, &Size { media_parts: 1, ..Size::default() }, &exact, 1).is_err());
    assert!(upper_bound(CHAT, &Size::default(), &price(PriceMatch::Ceiling), 1).is_err());
    let elsewhere = Size { server_context: true, max_output_tokens: Some(1), ..Size::default() };
    assert!(upper_bound(CHAT, &elsewhere, &exact, 1).is_err());
    let signed = Size { unchangeable: true, ..Size::default() };
    assert!(upper_bound(CHAT, &signed, &exact, 1).is_err());
    assert!(upper_bound(CHAT, &Size { max_output_tokens: Some(1), ..signed }, &exact, 1).is_ok());
    let unpriced = Price { unpriced: Arc::new(["output".to_owned()].into()), ..exact.clone() };
    assert!(upper_bound(CHAT, &Size::default(), &unpriced, 1).is_err());
    let absurd = Size { max_output_tokens: Some(u64::MAX), choices: 9, ..Size::default() };
    assert!(upper_bound(CHAT, &absurd, &exact, 1).is_err());
}

#[test]
fn an_impossible_size_is_an_error() {
    let size = Size { text_bytes: u64::MAX, media_parts: u32::MAX, ..Size::default() };
    let rates = Rates { input: i64::MAX, ..Rates::default() };
    assert_eq!(
        estimate(CHAT, &size, 1).cost_nanousd(&priced(rates, Terms::default()), None),
        Err(CostOverflow)
    );
}

#[test]
fn a_call_s_own_price_and_its_size_count_in_the_estimate_and_the_bound() {
    use crate::pricing::SizeTier;
    let rates = Rates { input: 1_000_000, output: 1_000_000, ..Rates::default() };
    let dear = Rates { input: 3_000_000, output: 5_000_000, ..Rates::default() };
    let terms = Terms {
        sizes: vec![SizeTier { above_input_tokens: 100, at_threshold: false, rates: dear }],
        units_nanousd_per_million: [("requests".to_owned(), 7_000_000)].into(),
        ..Terms::default()
    };
    let price = priced(rates, terms);
    let cost = |input_tokens| {
        let estimate = Estimate { input_tokens, output_tokens: 10, choices: 1, media: Media::None };
        estimate.cost_nanousd(&price, None).unwrap()
    };
    assert_eq!((cost(100), cost(101)), (100 + 10 + 7, 303 + 50 + 7));
    let bound =
        upper_bound(CHAT, &Size { max_output_tokens: Some(10), ..Size::default() }, &price, 1).unwrap();
    assert_eq!(bound.amount_nanousd, 256 + 10 + 7);
}

#[test]
fn the_tier_asked_for_counts_in_the_estimate_and_one_nobody_knows_as_the_dearest() {
    use crate::pricing::Card;
    let rates = |input, output| Rates { input, output, reasoning: output, ..Rates::default() };
    let card = |input, output| Card { rates: rates(input, output), sizes: Vec::new() };
    let terms = Terms {
        service_tiers: [
            ("flex".to_owned(), card(500_000, 1_000_000)),
            ("priority".to_owned(), card(2_000_000, 4_000_000)),
        ]
        .into(),
        multipliers_millionths: [("us".to_owned(), 1_100_000)].into(),
        ..Terms::default()
    };
    let price = priced(rates(1_000_000, 2_000_000), terms);
    let estimate = Estimate { input_tokens: 100, output_tokens: 10, choices: 1, media: Media::None };
    for (tier, expected) in [
        (None, 120),
        (Some("auto"), 120),
        (Some("standard_only"), 120),
        (Some("flex"), 60),
        (Some("priority"), 240),
        (Some("priority+us"), 264),
        // No less than any known rate: priority, in the US.
        (Some("warp"), 264),
    ] {
        assert_eq!(estimate.cost_nanousd(&price, tier), Ok(expected), "{tier:?}");
    }
}

/// A price by the piece, and by tokens where `rates` is given.
fn by_the_piece(unit: &str, nanousd: i64, rates: Option<Rates>) -> Price {
    let units = [(unit.to_owned(), nanousd * 1_000_000)].into();
    let terms = Terms { units_nanousd_per_million: units, ..Terms::default() };
    let mut price = priced(rates.unwrap_or_default(), terms);
    if rates.is_none() {
        let every = crate::pricing::CLASSES.iter().map(|class| (*class).to_owned());
        price.unpriced = Arc::new(every.collect());
    }
    price
}

#[test]
fn media_are_held_by_the_piece_or_by_their_tokens_whichever_is_dearer() {
    let size = Size { text_bytes: 400, choices: 3, ..Size::default() };
    let held = |api, size: &Size, price: &Price| estimate(api, size, 1_024).cost_nanousd(price, None);
    let image = by_the_piece("images", 40_000_000, None);
    assert_eq!(held(Api::OpenaiImages, &size, &image), Ok(3 * 40_000_000));
    let rates = Rates { input: 5_000_000, image_output: 40_000_000, ..Rates::default() };
    let tokens = priced(rates, Terms::default());
    assert_eq!(held(Api::OpenaiImages, &size, &tokens), Ok(100 * 5 + 3 * 6_240 * 40));
    let both = by_the_piece("images", 1, Some(rates));
    assert_eq!(held(Api::OpenaiImages, &size, &both), Ok(100 * 5 + 3 * 6_240 * 40));
    let both = by_the_piece("images", 1_000_000, Some(rates));
    assert_eq!(held(Api::OpenaiImages, &size, &both), Ok(3 * 1_000_000));
    let heard = Size { media_parts: 1, choices: 1, ..Size::default() };
    let whisper = by_the_piece("audio_seconds", 100_000, None);
    assert_eq!(held(Api::OpenaiAudio, &heard, &whisper), Ok(600 * 100_000));
    let speech = by_the_piece("input_characters", 15_000, None);
    assert_eq!(held(Api::OpenaiAudio, &size, &speech), Ok(400 * 15_000));
    let spoken = priced(Rates { audio_output: 12_000_000, ..Rates::default() }, Terms::default());
    assert_eq!(held(Api::OpenaiAudio, &size, &spoken), Ok(536 * 12));
    let rerank = by_the_piece("search_units", 2_000_000, Some(Rates::default()));
    let search = Size { max_output_tokens: Some(0), ..size };
    assert_eq!(held(Api::Rerank, &search, &rerank), Ok(2_000_000));
}

#[test]
fn images_of_one_price_each_are_bounded_and_other_media_are_not() {
    let size = Size { text_bytes: 400, choices: 3, ..Size::default() };
    let image = by_the_piece("images", 40_000_000, None);
    let bound = upper_bound(Api::OpenaiImages, &size, &image, 9).unwrap();
    assert_eq!((bound.amount_nanousd, bound.output_cap_tokens), (3 * 40_000_000, None));
    let mut by_looks = image.clone();
    Arc::make_mut(&mut by_looks.unpriced).insert("output_cost_per_image_4K".to_owned());
    let tokens = priced(Rates { image_output: 1, ..Rates::default() }, Terms::default());
    for (api, price) in
        [(Api::OpenaiImages, &by_looks), (Api::OpenaiImages, &tokens), (Api::OpenaiAudio, &tokens)]
    {
        assert!(upper_bound(api, &size, price, 9).is_err(), "{api:?}");
    }
    let edit = Size { media_parts: 1, ..size };
    assert!(upper_bound(Api::OpenaiImages, &edit, &image, 9).is_err());
}

#[test]
fn the_cap_that_an_amount_pays_is_the_inverse_of_the_cost() {
    for (rates, choices) in [((1, 1), 1), ((3_333_333, 7_777_777), 3), ((0, 999_999), 128), ((5, 123), 7)] {
        let rates = Rates { input: rates.0, output: rates.1, reasoning: rates.1, ..Rates::default() };
        let price = priced(rates, Terms::default());
        let size = Size { text_bytes: 1_234, choices, max_output_tokens: Some(50), ..Size::default() };
        let estimate = estimate(CHAT, &size, 9);
        let line = estimate.line(&size, &price, None).unwrap();
        let raised = estimate.line(&size, &price, Some("us+fast")).unwrap();
        assert_eq!(raised.amount_nanousd(50), estimate.cost_nanousd(&price, Some("us+fast")), "{rates:?}");
        let bound = upper_bound(CHAT, &size, &price, 9).unwrap();
        assert_eq!(line.amount_nanousd(50), estimate.cost_nanousd(&price, None), "{rates:?}");
        assert_eq!(bound.line.amount_nanousd(50), Ok(bound.amount_nanousd), "{rates:?}");
        for line in [line, raised, bound.line] {
            for cap in (0..200).chain([1_000, 99_999]) {
                let amount = line.amount_nanousd(cap).unwrap();
                let most = line.most_tokens(amount).unwrap();
                assert!(most >= cap && line.amount_nanousd(most) == Ok(amount), "{rates:?}, {cap}: {most}");
                assert!(line.amount_nanousd(most + 1).unwrap() > amount, "{rates:?}, {cap}: {most}");
            }
        }
    }
}

#[test]
fn no_cap_saves_anything_where_output_is_free_or_the_input_alone_is_too_dear() {
    let free = CostLine::new([(1_000_000, 5)], 1, 0).unwrap();
    assert_eq!((free.amount_nanousd(7), free.most_tokens(9)), (Ok(5), None));
    let dear = CostLine::new([(1_000_000, 5)], 1, 1).unwrap();
    assert_eq!((dear.most_tokens(4), dear.most_tokens(5), dear.most_tokens(-1)), (None, Some(0), None));
    assert_eq!(dear.most_tokens(i64::MAX), Some(u64::MAX));
    assert_eq!(dear.amount_nanousd(u64::MAX), Ok(18_446_744_073_715));
}
