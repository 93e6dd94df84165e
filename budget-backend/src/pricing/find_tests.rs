use super::find::without_date;
use super::tests::{priced, row, sized};
use super::*;

#[test]
fn a_price_is_found_by_name_then_alias_then_undated_then_as_a_ceiling_never_by_prefix() {
    let alias = |provider: &str, alias: &str, target: &str, model: &str| Alias {
        provider: provider.into(),
        alias: alias.into(),
        target_provider: target.into(),
        target_model: model.into(),
    };
    let book = PriceBook::new(
        [
            row("openai", "gpt-4o", 100, 25, 100),
            row("openai", "gpt-4o", 200, 20, 80),
            row("openai", "gpt-4o-mini", 100, 1, 6),
            row("anthropic", "claude-sonnet-4-5", 100, 30, 150),
            row("ollama", "*", 100, 2, 3),
        ],
        [
            alias("azure", "prod", "openai", "gpt-4o-2024-11-20"),
            alias("azure", "gone", "openai", "gpt-nothing"),
            // An exact name is no alias.
            alias("openai", "gpt-4o-mini", "openai", "gpt-4o"),
            alias("openai", "gpt-x-2025-01-01", "openai", "gpt-4o-mini"),
        ],
    );
    let find = |provider: &str, model: &str, at| {
        let price = book.find(provider, model, at).unwrap();
        (price.priced_as, price.matched, price.rates.input, price.rates.output)
    };
    let exact = PriceMatch::Exact;
    assert_eq!(find("openai", "gpt-4o", 150), ("gpt-4o".into(), exact, 25, 100));
    assert_eq!(find("openai", "gpt-4o", 200), ("gpt-4o".into(), exact, 20, 80));
    assert_eq!(find("openai", "gpt-4o-mini", 200), ("gpt-4o-mini".into(), exact, 1, 6));
    assert_eq!(find("azure", "prod", 200), ("gpt-4o".into(), PriceMatch::Alias, 20, 80));
    assert_eq!(find("azure", "gone", 200).1, PriceMatch::Ceiling);
    assert_eq!(find("openai", "gpt-x-2025-01-01", 200).1, PriceMatch::Alias);
    assert_eq!(find("openai", "gpt-4o-2024-08-06", 200), ("gpt-4o".into(), PriceMatch::Undated, 20, 80));
    assert_eq!(find("anthropic", "claude-sonnet-4-5-20250929", 200).1, PriceMatch::Undated);
    assert_eq!(find("anthropic", "claude-sonnet-4-5@20250929", 200).1, PriceMatch::Undated);
    // Unknown: the dearest of the provider that is in force; unknown provider: of everyone.
    assert_eq!(find("openai", "gpt-4o-mini-high", 200), ("*".into(), PriceMatch::Ceiling, 20, 80));
    assert_eq!(find("openai", "gpt-4o-mini-high", 199), ("*".into(), PriceMatch::Ceiling, 25, 100));
    assert_eq!(find("openai", "gpt", 200).1, PriceMatch::Ceiling);
    assert_eq!(find("selfhosted", "llama", 200), ("*".into(), PriceMatch::Ceiling, 30, 150));
    assert_eq!(find("ollama", "llama", 200), ("*".into(), PriceMatch::Configured, 2, 3));
    // Before its first date a model has no price of its own.
    assert_eq!(find("anthropic", "claude-sonnet-4-5", 50).1, PriceMatch::Ceiling);
    assert_eq!(PriceBook::default().find("openai", "gpt-4o", 1), None);
    let (steps, price) = book.explain("openai", "gpt-9-2026-01-01", 200);
    let rules: Vec<&str> = steps.iter().map(|step| step.rule.as_str()).collect();
    assert_eq!(rules, ["exact", "undated", "configured", "configured", "ceiling"]);
    assert_eq!(steps[1].sought, "openai gpt-9");
    assert_eq!(price.unwrap().matched, PriceMatch::Ceiling);
}

#[test]
fn a_call_s_model_stands_for_its_alias_s_target_and_its_row_and_gemini_s_prefix_is_no_part_of_a_name() {
    let alias = |provider: &str, alias: &str, model: &str| Alias {
        provider: provider.into(),
        alias: alias.into(),
        target_provider: provider.into(),
        target_model: model.into(),
    };
    let book = PriceBook::new(
        [
            row("openai", "gpt-4o", 100, 20, 80),
            row("openai", "models/own", 100, 1, 2),
            row("gemini", "gemini-2.5-pro", 100, 5, 9),
            row("gemini", "models/tuned", 100, 6, 9),
        ],
        [
            alias("openai", "my-dep", "gpt-4o-2024-11-20"),
            alias("openai", "gone", "gpt-nothing"),
            alias("openai", "gpt-4o", "gpt-9"),
            alias("gemini", "latest", "gemini-2.5-pro"),
        ],
    );
    for (provider, model, expected) in [
        ("openai", "gpt-4o", vec!["gpt-4o"]),
        ("openai", "gpt-4o-2024-08-06", vec!["gpt-4o"]),
        ("openai", "my-dep", vec!["gpt-4o-2024-11-20", "gpt-4o"]),
        ("openai", "gone", vec!["gpt-nothing"]),
        ("openai", "unheard-of", vec![]),
        ("openai", "models/gpt-4o", vec![]),
        ("gemini", "models/gemini-2.5-pro", vec!["gemini-2.5-pro"]),
        ("gemini", "models/gemini-2.5-pro-20260101", vec!["gemini-2.5-pro"]),
        ("gemini", "models/latest", vec!["gemini-2.5-pro", "gemini-2.5-pro"]),
        ("gemini", "models/tuned", vec!["models/tuned"]),
    ] {
        assert_eq!(book.stands_for(provider, model, 200).collect::<Vec<_>>(), expected, "{provider} {model}");
    }
    for (model, matched, input) in [
        ("models/gemini-2.5-pro", PriceMatch::Exact, 5),
        ("models/gemini-2.5-pro-20260101", PriceMatch::Undated, 5),
        ("models/latest", PriceMatch::Alias, 5),
        ("models/tuned", PriceMatch::Exact, 6),
        ("models/unheard-of", PriceMatch::Ceiling, 6),
    ] {
        let (price, dearest) = (book.find("gemini", model, 200), book.dearest("gemini", model, 200, 1));
        assert_eq!(price.map(|price| (price.matched, price.rates.input)), Some((matched, input)), "{model}");
        assert_eq!(dearest.map(|price| price.rates.input), Some(input), "{model}");
    }
}

#[test]
fn of_two_versions_of_one_start_the_one_added_last_applies() {
    let wrong = PriceRow { price_id: 7, ..row("openai", "gpt-4o", 100, 1, 1) };
    let right = PriceRow { price_id: 8, ..row("openai", "gpt-4o", 100, 2, 2) };
    let earlier = PriceRow { price_id: 9, ..row("openai", "gpt-4o", 50, 3, 3) };
    let book = PriceBook::new([right, earlier, wrong], []);
    assert_eq!(book.find("openai", "gpt-4o", 100).unwrap().price_id, Some(8));
    assert_eq!(book.find("openai", "gpt-4o", 99).unwrap().price_id, Some(9));
}

#[test]
fn a_provider_of_free_models_makes_no_unknown_model_free() {
    let zero = Rates::default();
    let free = priced("ollama", "llama3", 0, zero, Terms::default());
    let book = PriceBook::new([free, row("openai", "gpt-4o", 0, 25, 100)], []);
    assert_eq!(book.find("ollama", "llama3", 0).unwrap().rates, zero, "an explicit zero is a price");
    let unknown = book.find("ollama", "llama4", 0).unwrap();
    assert_eq!((unknown.matched, unknown.rates.input, unknown.rates.output), (PriceMatch::Ceiling, 25, 100));
    assert!(unknown.rates.classes().iter().all(|rate| *rate > 0));
}

#[test]
fn a_ceiling_is_of_what_is_in_force_and_a_mistake_put_right_ceases_to_count() {
    let typo = PriceRow { price_id: 2, ..row("p", "big", 100, 3_000_000, 9_000_000) };
    let right = PriceRow { price_id: 3, ..row("p", "big", 100, 3, 9) };
    let future = row("p", "big", 300, 70, 90);
    let book =
        PriceBook::new([typo, row("p", "old", 0, 5, 6), row("p", "old", 200, 1, 1), right, future], []);
    let ceiling = |at| {
        let price = book.find("p", "unknown", at).unwrap();
        (price.matched, price.rates.input, price.rates.output)
    };
    // Asked for in any order, and again.
    for (at, input, output) in
        [(250, 3, 9), (100, 5, 9), (99, 5, 6), (-1, 5, 6), (300, 70, 90), (i64::MAX, 70, 90), (250, 3, 9)]
    {
        assert_eq!(ceiling(at), (PriceMatch::Ceiling, input, output), "{at}");
    }
    // Where nothing in force costs anything, what anything ever cost.
    let zero = priced("q", "free", 0, Rates::default(), Terms::default());
    let book = PriceBook::new([zero, row("q", "*", 50, 2, 3)], []);
    assert_eq!(book.ceiling("r", 10).map(|c| (c.standard.input, c.standard.output)), Some((2, 3)));
}

#[test]
fn ceilings_of_many_versions_are_those_of_each_instant() {
    let rows = (0..900).map(|n| row("p", &format!("m{}", n % 210), n, 1 + (n * 7_919) % 1_000, n + 1));
    let rows: Vec<PriceRow> = rows.collect();
    let book = PriceBook::new(rows.clone(), []);
    for at in [0, 1, 209, 210, 500, 899, 9_999].into_iter().chain(300..400) {
        let in_force = rows.iter().filter(|row| {
            let later = rows.iter().any(|other| {
                other.model == row.model
                    && (row.effective_from_unix_s + 1..=at).contains(&other.effective_from_unix_s)
            });
            row.effective_from_unix_s <= at && !later
        });
        let expected = in_force.map(|row| row.rates.input).max();
        assert_eq!(book.ceiling("p", at).map(|ceiling| ceiling.standard.input), expected, "{at}");
    }
}

#[test]
fn the_answered_model_wins_when_it_has_a_price() {
    let book = PriceBook::new([row("openai", "big", 0, 100, 100), row("openai", "small", 0, 1, 1)], []);
    let priced_as =
        |asked: &str, answered| book.find_answered("openai", asked, answered, 1).unwrap().priced_as;
    assert_eq!(priced_as("big", Some("small")), "small");
    assert_eq!(priced_as("small", Some("big-2026-01-01")), "big");
    assert_eq!(priced_as("small", Some("who-knows")), "small");
    assert_eq!(priced_as("small", None), "small");
    assert_eq!(priced_as("who-knows", Some("nobody")), "*");
}

#[test]
fn the_dearest_of_a_name_covers_its_dated_models_its_tiers_and_no_others() {
    let rates = |input, output| Rates { input, output, ..Rates::default() };
    let mut terms = sized();
    terms.sizes[0].rates = rates(60, 90);
    terms.service_tiers.insert("priority".into(), Card { rates: rates(10, 300), sizes: Vec::new() });
    terms.multipliers_millionths =
        [("us".to_owned(), 1_100_000), ("eu".to_owned(), 1_100_000), ("half".to_owned(), 500_000)].into();
    terms.units_nanousd_per_million.insert("requests".into(), 9);
    let book = PriceBook::new(
        [
            row("openai", "gpt-4o", 0, 25, 100),
            row("openai", "gpt-4o-2024-05-13", 0, 50, 90),
            row("openai", "gpt-4o-mini", 0, 900, 900),
            row("azure", "gpt-4o-2024-08-06", 0, 800, 800),
            priced("gemini", "pro", 0, rates(20, 80), terms),
        ],
        [Alias {
            provider: "azure".into(),
            alias: "prod".into(),
            target_provider: "openai".into(),
            target_model: "gpt-4o".into(),
        }],
    );
    let dearest = |provider: &str, model: &str, input_tokens| {
        let price = book.dearest(provider, model, 1, input_tokens).unwrap();
        (price.rates.input, price.rates.output, price.matched)
    };
    assert_eq!(dearest("openai", "gpt-4o", 1), (50, 100, PriceMatch::Exact));
    assert_eq!(dearest("openai", "gpt-4o-2024-11-20", 1), (50, 100, PriceMatch::Undated));
    assert_eq!(dearest("azure", "prod", 1), (50, 100, PriceMatch::Alias));
    assert_eq!(dearest("openai", "unknown", 1).2, PriceMatch::Ceiling);
    // Served in the US or the EU, not in both: 1.1 times; a discount bounds nothing.
    assert_eq!(dearest("gemini", "pro", 200_000), (22, 330, PriceMatch::Exact));
    assert_eq!(dearest("gemini", "pro", 200_001), (66, 330, PriceMatch::Exact));
    assert_eq!(book.dearest("gemini", "pro", 1, 1).unwrap().terms.per_call(), 9);
}

#[test]
fn dates_are_only_dates() {
    for (model, expected) in [
        ("gpt-4o-2024-08-06", Some("gpt-4o")),
        ("claude-20250929", Some("claude")),
        ("claude@20250929", Some("claude")),
        ("gpt-4o", None),
        ("-2024-08-06", None),
        ("model-2024-8-06", None),
        ("modèle-2024-08-06", Some("modèle")),
        ("é-202409", None),
    ] {
        assert_eq!(without_date(model), expected, "{model}");
    }
}
