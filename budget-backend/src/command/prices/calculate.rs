//! What calls would cost.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use budget_backend::prices::pairs;
use budget_backend::pricing::{PriceBook, Used};
use purser_protocol::{Usage, format_usd};
use serde::Deserialize;
use sqlx::PgConnection;

use super::{CostArguments, Failure, book, failed, say, seconds, wrong};

/// Longest line, bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// A call, as its settlement tells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    provider: String,
    model: String,
    #[serde(default)]
    answered_model: Option<String>,
    #[serde(default)]
    usage: BTreeMap<String, u64>,
    #[serde(default)]
    units: BTreeMap<String, u64>,
    #[serde(default)]
    service_tier: Option<String>,
}

pub async fn cost(connection: &mut PgConnection, arguments: &CostArguments) -> Result<(), Failure> {
    let (book, _) = book(connection).await?;
    let at_unix_s = seconds(arguments.at);
    let mut input = std::io::stdin().lock();
    for number in 1_u64.. {
        let mut line = String::new();
        let limited = input.by_ref().take(MAX_LINE_BYTES.saturating_add(1)).read_line(&mut line);
        let length = limited.map_err(|error| wrong(format!("line {number}: {error}")))?;
        if length == 0 {
            break;
        }
        if u64::try_from(length).is_ok_and(|length| length > MAX_LINE_BYTES) {
            return Err(wrong(format!("line {number}: expected at most {MAX_LINE_BYTES} bytes")));
        }
        if !line.trim().is_empty() {
            let told = answer(&book, &line, at_unix_s);
            say(told.map_err(|problem| wrong(format!("line {number}: {problem}")))?).map_err(failed)?;
        }
    }
    Ok(())
}

fn answer(book: &PriceBook, line: &str, at_unix_s: i64) -> Result<serde_json::Value, String> {
    pairs::no_key_twice(line).map_err(|error| error.to_string())?;
    let asked: Asked = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let usage = usage(&asked.usage)?;
    let answered = asked.answered_model.as_deref();
    let price = book
        .find_answered(&asked.provider, &asked.model, answered, at_unix_s)
        .ok_or("no price is known for any model")?;
    let used = Used { usage: &usage, units: &asked.units, service_tier: asked.service_tier.as_deref() };
    let costed = price.cost(used).map_err(|error| error.to_string())?;
    Ok(serde_json::json!({
        "nanousd": costed.nanousd,
        "usd": format_usd(costed.nanousd),
        "priced_as": price.priced_as,
        "match": price.matched.as_str(),
        "flag": price.flag(&costed.unpriced),
        "unpriced": costed.unpriced,
        "at_least": costed.at_least,
    }))
}

/// By the names of the wire; one that nobody knows is an error and not nothing.
fn usage(counts: &BTreeMap<String, u64>) -> Result<Usage, String> {
    let known = serde_json::to_value(Usage {
        audio_input_tokens: 1,
        audio_output_tokens: 1,
        image_input_tokens: 1,
        image_output_tokens: 1,
        ..Usage::default()
    });
    let known = known.map_err(|error| error.to_string())?;
    if let Some(name) = counts.keys().find(|name| known.get(name).is_none()) {
        let names: Vec<&str> =
            known.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        return Err(format!("usage.{name}: expected one of {}", names.join(", ")));
    }
    let counts = serde_json::to_value(counts).map_err(|error| error.to_string())?;
    serde_json::from_value(counts).map_err(|error| format!("usage: {error}"))
}
