//! The catalogue that comes with the program: `catalogue/models.json`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use purser_protocol::parse_usd;
use serde::Deserialize;

use super::decimal::scaled;
use super::plan::Wanted;
use crate::pricing::off_peak::OffPeak;
use crate::pricing::terms::{Card, SizeTier};
use crate::pricing::{CLASSES, Rates, Terms};

/// The text of the catalogue.
pub const TEXT: &str = include_str!("../../catalogue/models.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    #[allow(dead_code, reason = "it is for people")]
    about: String,
    prices: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    provider: String,
    model: String,
    effective_from: Timestamp,
    source: String,
    #[serde(default)]
    reasons: bool,
    usd_per_mtok: BTreeMap<String, String>,
    #[serde(default)]
    above: Vec<ListedSize>,
    #[serde(default)]
    service_tiers: BTreeMap<String, ListedCard>,
    #[serde(default)]
    multipliers: BTreeMap<String, String>,
    #[serde(default)]
    usd_per_unit: BTreeMap<String, String>,
    #[serde(default)]
    unpriced: BTreeSet<String>,
    #[serde(default)]
    off_peak: Vec<OffPeak>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedCard {
    usd_per_mtok: BTreeMap<String, String>,
    #[serde(default)]
    above: Vec<ListedSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedSize {
    input_tokens: u64,
    #[serde(default)]
    at_threshold: bool,
    usd_per_mtok: BTreeMap<String, String>,
}

/// Reads the catalogue.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<Vec<Wanted>, String> {
    let catalogue: Catalogue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut seen = BTreeSet::new();
    catalogue
        .prices
        .into_iter()
        .map(|listed| {
            let key = format!("{} {}", listed.provider, listed.model);
            if !seen.insert(key.clone()) {
                return Err(format!("{key}: stands twice"));
            }
            wanted(listed, key.clone()).map_err(|problem| format!("{key}: {problem}"))
        })
        .collect()
}

fn wanted(listed: Listed, key: String) -> Result<Wanted, String> {
    let plain = ListedCard { usd_per_mtok: listed.usd_per_mtok, above: listed.above };
    let (rates, sizes) = card(&plain)?;
    let mut terms = Terms { sizes, off_peak: listed.off_peak, ..Terms::default() };
    for (name, tier) in &listed.service_tiers {
        let (rates, sizes) = card(tier)?;
        terms.service_tiers.insert(name.clone(), Card { rates, sizes });
    }
    for (name, factor) in &listed.multipliers {
        terms.multipliers_millionths.insert(name.clone(), exact(name, factor, 6)?);
    }
    for (name, rate) in &listed.usd_per_unit {
        terms.units_nanousd_per_million.insert(name.clone(), exact(name, rate, 15)?);
    }
    terms.check()?;
    Ok(Wanted {
        key,
        provider: listed.provider,
        model: listed.model,
        effective_from_unix_s: Some(listed.effective_from.as_second()),
        rates,
        reasons: listed.reasons,
        terms,
        unpriced: listed.unpriced,
        note: listed.source,
    })
}

fn card(listed: &ListedCard) -> Result<(Rates, Vec<SizeTier>), String> {
    let size = |size: &ListedSize| {
        Ok(SizeTier {
            above_input_tokens: size.input_tokens,
            at_threshold: size.at_threshold,
            rates: rates(&size.usd_per_mtok)?,
        })
    };
    let sizes = listed.above.iter().map(size).collect::<Result<_, String>>()?;
    Ok((rates(&listed.usd_per_mtok)?, sizes))
}

/// Rates in USD per million tokens by class; those that aren't named follow from input and output.
///
/// # Errors
/// The class and what is wrong.
pub fn rates(usd_per_mtok: &BTreeMap<String, String>) -> Result<Rates, String> {
    let mut known = [None; 10];
    for (name, usd) in usd_per_mtok {
        let class = CLASSES.iter().position(|class| class == name);
        let place = class.and_then(|class| known.get_mut(class));
        let place = place.ok_or_else(|| format!("{name}: expected one of {}", CLASSES.join(", ")))?;
        *place = Some(parse_usd(usd).map_err(|error| format!("{name}: {error}, got {usd:?}"))?);
    }
    Ok(Rates::from_known(known))
}

fn exact(name: &str, text: &str, power: i32) -> Result<i64, String> {
    match scaled(text, power) {
        Ok(number) if !number.rounded_up => Ok(number.value),
        Ok(_) => Err(format!("{name}: {text} is finer than can be kept")),
        Err(error) => Err(format!("{name}: {error}, got {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_reads_and_every_price_says_where_it_is_from() {
        let prices = parse(TEXT).unwrap();
        assert!(prices.len() > 50, "{}", prices.len());
        for price in &prices {
            assert!(
                price.note.starts_with("https://") || price.note.contains("names no page"),
                "{}: {:?}",
                price.key,
                price.note
            );
            // Sold by the token or by the piece; nothing is free because its price was left out.
            let by_the_piece = price.terms.units_nanousd_per_million.values().any(|rate| *rate > 0);
            assert!(price.rates.input > 0 || by_the_piece, "{}", price.key);
        }
        let find = |provider: &str, model: &str| {
            prices
                .iter()
                .find(|price| (price.provider.as_str(), price.model.as_str()) == (provider, model))
                .unwrap()
        };
        let opus = find("anthropic", "claude-opus-5").rates;
        assert_eq!(
            (opus.input, opus.cached_input, opus.cache_write_5m, opus.cache_write_1h, opus.output),
            (5_000_000_000, 500_000_000, 6_250_000_000, 10_000_000_000, 25_000_000_000)
        );
        let gemini = find("gemini", "gemini-2.5-pro");
        assert_eq!(gemini.terms.sizes[0].above_input_tokens, 200_000);
        assert_eq!(gemini.terms.sizes[0].rates.output, 15_000_000_000);
        assert!(find("xai", "grok-4.7").terms.sizes[0].at_threshold);
        for (provider, model, unit, nanousd_per_million) in [
            ("openai", "whisper-1", "audio_seconds", 100_000_000_000),
            ("openai", "gpt-4o-mini-transcribe", "audio_seconds", 50_000_000_000),
            ("openai", "tts-1-hd", "input_characters", 30_000_000_000),
            ("cohere", "rerank-v3.5", "search_units", 2_000_000_000_000),
        ] {
            let units = &find(provider, model).terms.units_nanousd_per_million;
            assert_eq!(units.get(unit), Some(&nanousd_per_million), "{model}");
        }
        let image = find("openai", "gpt-image-1").rates;
        assert_eq!((image.image_input, image.image_output), (10_000_000_000, 40_000_000_000));
        let deepseek = find("deepseek", "deepseek-v4-pro");
        assert!(deepseek.unpriced.contains("off_peak") && deepseek.terms.off_peak.len() == 2);
        assert!(
            prices.iter().all(|price| price.terms.off_peak.is_empty() != price.unpriced.contains("off_peak"))
        );
    }

    #[test]
    fn what_is_wrong_in_a_catalogue_is_named() {
        let with = |price: &str| format!(r#"{{"about": "", "prices": [{price}]}}"#);
        let good = r#"{"provider": "p", "model": "m", "effective_from": "2025-01-01T00:00:00Z", "source": "s",
            "usd_per_mtok": {"input": "1", "output": "2"}}"#;
        assert!(parse(&with(good)).is_ok());
        for (text, expected) in [
            (with(&format!("{good}, {good}")), "p m: stands twice"),
            (with(&good.replace("\"1\"", "\"-1\"")), "p m: input: expected a decimal amount"),
            (with(&good.replace("input", "inputs")), "p m: inputs: expected one of input, cached_input"),
            (with(&good.replace("\"source\"", "\"sauce\"")), "sauce"),
            ("[]".to_owned(), "invalid"),
        ] {
            let said = parse(&text).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }
}
