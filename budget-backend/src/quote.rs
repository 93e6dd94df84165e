//! What a call would hold, by the model that runs it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use purser_protocol::{Api, Size, format_usd};

use crate::estimate::{Bound, Estimate, estimate, most_input_tokens, upper_bound};
use crate::learned::LearnedLengths;
use crate::pattern::Names;
use crate::pricing::{CostLine, Price, PriceBook};

/// Most one hold may reserve: a million USD. A request that asks for more can't be right.
pub const MAX_AMOUNT_NANOUSD: i64 = 1_000_000_000_000_000;

/// What a call holds with one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What to hold, nano-USD.
    pub amount_nanousd: i64,
    /// The same at another output cap, which then has to be written into the request.
    pub line: CostLine,
    /// What to hold where a strict budget is touched, or why nothing bounds it.
    pub bound: Result<Bound, &'static str>,
    /// Whether no price of its own is known for the model, or none that a call can be charged by, or what the
    /// call may cost by has none.
    pub unknown_model: bool,
    /// Whether the request has output whose cap can be lowered on its way.
    pub clampable: bool,
}

impl Quote {
    /// Whether the call is expected to cost less by this quote than by another.
    #[must_use]
    pub const fn is_cheaper_than(&self, other: &Self) -> bool {
        self.amount_nanousd < other.amount_nanousd
    }
}

/// Quotes a call for models other than the one it asks for.
pub trait Quotes: fmt::Debug + Send + Sync {
    /// What it would hold; `None` when the request can't be changed to that model, or not priced.
    fn quote(&self, model: &str) -> Option<Quote>;

    /// The names under which a model goes, with those that the price list has for it.
    fn names(&self, model: &str) -> Names {
        Names::of(model, [])
    }
}

impl Quotes for BTreeMap<String, Quote> {
    fn quote(&self, model: &str) -> Option<Quote> {
        self.get(model).cloned()
    }
}

/// A call, and all that its quotes are made from. Snapshots: quoting asks nobody.
#[derive(Debug, Clone)]
pub struct Pricer {
    /// The prices in force.
    pub prices: Arc<PriceBook>,
    /// How long answers are.
    pub learned: Arc<LearnedLengths>,
    /// Output held for a request without a cap, tokens, until enough was learned.
    pub default_output_tokens: u64,
    /// The cap written into a request without one where a budget is strict, tokens.
    pub strict_output_tokens: u64,
    /// Who pays: the organisation.
    pub org: String,
    /// The team, or `""`.
    pub team: String,
    /// Who bills.
    pub provider: String,
    /// The API spoken.
    pub api: Api,
    /// What bounds the cost.
    pub size: Size,
    /// The tier asked for.
    pub service_tier: Option<String>,
    /// The instant whose prices count, Unix seconds.
    pub at_unix_s: i64,
}

/// A quote with what led to it.
#[derive(Debug, Clone)]
pub struct Quoted {
    /// The quote.
    pub quote: Quote,
    /// The price used.
    pub price: Price,
    /// The tokens estimated.
    pub estimate: Estimate,
    /// The output that answers of this model needed lately, tokens; `None` while too few are known.
    pub learned_output_tokens: Option<u64>,
}

impl Pricer {
    /// Quotes the call for a model.
    ///
    /// # Errors
    /// Says why it can't be priced.
    pub fn price(&self, model: &str) -> Result<Quoted, String> {
        let unpriced = "no price is known for any model";
        let price = self.prices.find(&self.provider, model, self.at_unix_s).ok_or(unpriced)?;
        let most_input_tokens = most_input_tokens(&self.size);
        let mut dearest =
            self.prices.dearest(&self.provider, model, self.at_unix_s, most_input_tokens).ok_or(unpriced)?;
        dearest.rates = price.raised_for_tier(dearest.rates, self.service_tier.as_deref());
        let learned_output_tokens = self.learned.output_tokens(&self.org, &self.team, &self.provider, model);
        let output_tokens = learned_output_tokens.unwrap_or(self.default_output_tokens);
        let estimate = estimate(self.api, &self.size, output_tokens);
        let tier = self.service_tier.as_deref();
        let too_dear = || format!("the request may cost more than {} USD", format_usd(MAX_AMOUNT_NANOUSD));
        let met = self.meets_what_has_no_price(&price);
        let held_at = if met { price.raised_to_ceiling() } else { price.clone() };
        let amount_nanousd = estimate
            .cost_nanousd(&held_at, tier)
            .ok()
            .filter(|amount| *amount <= MAX_AMOUNT_NANOUSD)
            .ok_or_else(too_dear)?;
        let line = estimate.line(&self.size, &held_at, tier).map_err(|_| too_dear())?;
        let bound =
            upper_bound(self.api, &self.size, &dearest, self.strict_output_tokens).and_then(|bound| {
                (bound.amount_nanousd <= MAX_AMOUNT_NANOUSD)
                    .then_some(bound)
                    .ok_or("a size beyond all measure")
            });
        let quote = Quote {
            amount_nanousd,
            line,
            bound,
            unknown_model: !price.is_priced() || met || price.is_maybe_discounted(),
            clampable: is_clampable(self.api, &self.size),
        };
        Ok(Quoted { quote, price, estimate, learned_output_tokens })
    }

    /// Whether a call of this API is about what the model has an unknown price by: sound, by its seconds.
    fn meets_what_has_no_price(&self, price: &Price) -> bool {
        self.api == Api::OpenaiAudio && price.is_by_unpriced_time()
    }
}

impl Quotes for Pricer {
    fn quote(&self, model: &str) -> Option<Quote> {
        let changeable = !self.size.unchangeable && names_its_model(self.api);
        let quoted = changeable.then(|| self.price(model).ok()).flatten()?;
        // Whoever named this model to run instead wants it at its list price, whatever the hour.
        let unknown_model = !quoted.price.is_priced() || self.meets_what_has_no_price(&quoted.price);
        Some(Quote { unknown_model, ..quoted.quote })
    }

    fn names(&self, model: &str) -> Names {
        Names::of(model, self.prices.stands_for(&self.provider, model, self.at_unix_s))
    }
}

/// Whether a request of this API names one model in itself; the work of a batch is in a file, or names
/// one for each of its parts.
const fn names_its_model(api: Api) -> bool {
    !matches!(api, Api::OpenaiBatches | Api::AnthropicBatches)
}

/// Whether the output cap of a request can be lowered on its way.
const fn is_clampable(api: Api, size: &Size) -> bool {
    let has_cap = match api {
        Api::OpenaiChat
        | Api::OpenaiResponses
        | Api::OpenaiCompletions
        | Api::AnthropicMessages
        | Api::GeminiGenerate
        | Api::BedrockConverse
        | Api::CohereChat
        | Api::Ollama => true,
        // The vendor's own JSON: where there is no cap, nobody knows its name.
        Api::BedrockInvoke => size.max_output_tokens.is_some(),
        Api::OpenaiEmbeddings
        | Api::OpenaiImages
        | Api::OpenaiAudio
        | Api::OpenaiBatches
        | Api::AnthropicBatches
        | Api::GeminiEmbed
        | Api::CohereEmbed
        | Api::OllamaEmbed
        | Api::Rerank => false,
    };
    has_cap && !size.unchangeable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::{Card, PriceRow, Rates, SizeTier, Terms, Used};
    use purser_protocol::Usage;

    fn pricer(api: Api, size: Size) -> Pricer {
        let row = |model: &str, rate: i64| PriceRow {
            price_id: rate,
            provider: "p".into(),
            model: model.into(),
            effective_from_unix_s: 0,
            rates: Rates { input: rate, output: rate, reasoning: rate, ..Rates::default() },
            reasons: false,
            terms: Arc::new(Terms::default()),
            unpriced: Arc::default(),
        };
        Pricer {
            prices: Arc::new(PriceBook::new([row("big", 10_000_000), row("small", 1_000_000)], [])),
            learned: Arc::new(LearnedLengths::new(95)),
            default_output_tokens: 10,
            strict_output_tokens: 20,
            org: "acme".into(),
            team: String::new(),
            provider: "p".into(),
            api,
            size,
            service_tier: None,
            at_unix_s: 0,
        }
    }

    #[test]
    fn a_quote_s_amount_lies_on_its_line() {
        let size = Size { text_bytes: 400, max_output_tokens: Some(50), choices: 2, ..Size::default() };
        let pricer = pricer(Api::OpenaiChat, size);
        let big = pricer.price("big").unwrap().quote;
        assert_eq!((big.amount_nanousd, big.line.amount_nanousd(50)), (2_000, Ok(2_000)));
        assert_eq!(big.line.most_tokens(1_500), Some(25));
        assert_eq!(pricer.quote("small").unwrap().amount_nanousd, 200);
        // Of an unknown model it is the ceiling, and says so.
        assert!(pricer.quote("new").unwrap().unknown_model);
    }

    #[test]
    fn a_tier_that_only_other_models_have_rates_for_is_in_the_amount_and_in_the_bound() {
        let size = Size { text_bytes: 400, max_output_tokens: Some(50), choices: 1, ..Size::default() };
        let mut pricer = pricer(Api::OpenaiChat, size);
        let rates = Rates { input: 2, output: 2, ..Rates::default() };
        let fast = [("fast".to_owned(), 2_500_000)].into();
        let fast = Terms { multipliers_millionths: fast, ..Terms::default() };
        let row = |model: &str, rates, terms, unpriced: &[&str]| PriceRow {
            price_id: 1,
            provider: "p".into(),
            model: model.into(),
            effective_from_unix_s: 0,
            rates,
            reasons: false,
            terms: Arc::new(terms),
            unpriced: Arc::new(unpriced.iter().map(|name| (*name).to_owned()).collect()),
        };
        let plain = Rates { input: 1_000_000, output: 1_000_000, ..Rates::default() };
        let film = row("film", Rates::default(), Terms::default(), &["output_cost_per_second"]);
        let rows = [row("other", rates, fast, &[]), row("m", plain, Terms::default(), &[]), film];
        pricer.prices = Arc::new(PriceBook::new(rows, []));
        let amounts = |pricer: &Pricer| {
            let quote = pricer.price("m").unwrap().quote;
            (quote.amount_nanousd, quote.bound.unwrap().amount_nanousd)
        };
        assert_eq!(amounts(&pricer), (100 + 50, 400 + 256 + 50));
        pricer.service_tier = Some("fast".into());
        assert_eq!(amounts(&pricer), (150 * 5 / 2, 706 * 5 / 2));
        // What no call can be charged by is as good as no price.
        let film = pricer.price("film").unwrap().quote;
        assert!(film.unknown_model && film.amount_nanousd > 0 && film.bound.is_err(), "{film:?}");
        assert!(!pricer.price("m").unwrap().quote.unknown_model);
    }

    #[test]
    fn no_tier_of_the_model_that_an_answer_names_exceeds_the_bound_whatever_was_asked_for() {
        let size = Size { text_bytes: 4_000, max_output_tokens: Some(50), choices: 2, ..Size::default() };
        let mut pricer = pricer(Api::OpenaiChat, size);
        let rates = |nanousd: i64| {
            let rate = Some(nanousd * 1_000_000);
            Rates::from_known([
                rate,
                None,
                None,
                None,
                rate.map(|rate| 4 * rate),
                None,
                None,
                None,
                None,
                None,
            ])
        };
        let card = |nanousd| Card {
            rates: rates(nanousd),
            sizes: vec![SizeTier {
                above_input_tokens: 3_000,
                at_threshold: false,
                rates: rates(2 * nanousd),
            }],
        };
        let terms = Terms {
            service_tiers: [("priority", card(7)), ("flex", card(1))]
                .map(|(name, card)| (name.into(), card))
                .into(),
            multipliers_millionths: [("us".to_owned(), 1_100_000), ("speed".to_owned(), 3_000_000)].into(),
            ..Terms::default()
        };
        let row = PriceRow {
            price_id: 1,
            provider: "p".into(),
            model: "m".into(),
            effective_from_unix_s: 0,
            rates: rates(3),
            reasons: true,
            terms: Arc::new(terms),
            unpriced: Arc::default(),
        };
        pricer.prices = Arc::new(PriceBook::new([row], []));
        let price = pricer.prices.find("p", "m", 0).unwrap();
        // The most that the request can come to, as tokens.
        let usage = Usage { input_tokens: 4_256, reasoning_tokens: 100, ..Usage::default() };
        for asked in [None, Some("auto"), Some("default"), Some("flex"), Some("priority")] {
            pricer.service_tier = asked.map(str::to_owned);
            let bound = pricer.price("m").unwrap().quote.bound.unwrap().amount_nanousd;
            for answered in
                ["", "auto", "default", "flex", "priority", "us", "speed+priority+us", "unheard-of"]
            {
                let used = Used { usage: &usage, units: &BTreeMap::new(), service_tier: Some(answered) };
                let cost = price.cost(used).unwrap().nanousd;
                assert!(
                    cost > 0 && cost <= bound,
                    "asked for {asked:?}, answered {answered}: {cost} of {bound}"
                );
            }
        }
    }

    #[test]
    fn what_can_t_be_changed_is_quoted_for_no_other_model_and_has_no_cap_to_lower() {
        let size = Size { text_bytes: 4, choices: 1, ..Size::default() };
        let signed = Size { unchangeable: true, ..size };
        for (api, size, other_model, clampable) in [
            (Api::OpenaiChat, size, true, true),
            (Api::OpenaiChat, signed, false, false),
            (Api::OpenaiEmbeddings, size, true, false),
            (Api::OpenaiBatches, size, false, false),
            (Api::BedrockInvoke, size, true, false),
            (Api::BedrockInvoke, Size { max_output_tokens: Some(9), ..size }, true, true),
        ] {
            let pricer = pricer(api, size);
            assert_eq!(pricer.quote("small").is_some(), other_model, "{api:?}");
            assert_eq!(pricer.price("big").unwrap().quote.clampable, clampable, "{api:?}");
        }
    }
}
