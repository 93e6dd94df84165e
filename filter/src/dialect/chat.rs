//! OpenAI Chat and Completions.

use super::{NotReadable, Read};
use crate::chunk::Payload;
use crate::config::Dialect;
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// Takes in one event of a stream, or a whole answer.
pub fn event(payload: &Payload<'_>, dialect: Dialect, reading: &mut Reading) -> Read {
    let chunk = match payload {
        Payload::Done => {
            reading.is_done = true;
            return Ok(());
        }
        Payload::Other => return Err(NotReadable),
        Payload::Chunk(chunk) => chunk,
    };
    reading.saw_readable = true;
    reading.saw_error |= chunk.is_error();
    reading.add_names(chunk.model(), chunk.id());
    reading.add_tier(chunk.service_tier());
    if let Some(bytes) = chunk.output_bytes() {
        reading.add_text_bytes(bytes);
    }
    // OpenAI's search models search at most once a call, and tell it by nothing else.
    if dialect == Dialect::Openai && chunk.cites_a_url() {
        reading.set_units("web_search_requests", 1);
    }
    let Some(raw) = chunk.usage_object() else {
        return Ok(());
    };
    let before = reading.usage.take();
    reading.add_usage(raw, &usage::CHAT);
    if reading.usage.is_some() {
        reading.usage_is_final = chunk.has_empty_choices();
    } else {
        reading.usage = before;
    }
    if dialect == Dialect::Openrouter
        && let Ok([Some(cost)]) = json_scan::object(raw, &["cost"])
    {
        reading.reported_cost_nanousd = nanousd(cost.raw).or(reading.reported_cost_nanousd);
    }
    Ok(())
}

/// A decimal number of USD, with an exponent or without, in nano-USD, rounded up; without any float.
fn nanousd(raw: &str) -> Option<i64> {
    let (mantissa, exponent) = match raw.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (raw, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits: u128 = whole.parse::<u128>().ok()?.checked_mul(10_u128.checked_pow(length(fraction)?)?)?;
    let digits = digits.checked_add(if fraction.is_empty() { 0 } else { fraction.parse().ok()? })?;
    let scale = exponent.checked_sub(i32::try_from(length(fraction)?).ok()?)?.checked_add(9)?;
    let power = 10_u128.checked_pow(scale.unsigned_abs());
    let nanos = match (scale >= 0, power) {
        (true, power) => digits.checked_mul(power?)?,
        (false, Some(power)) => digits.div_ceil(power),
        (false, None) => u128::from(digits > 0),
    };
    i64::try_from(nanos).ok()
}

fn length(text: &str) -> Option<u32> {
    u32::try_from(text.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn money_is_read_without_floats() {
        for (raw, expected) in [
            ("0", Some(0)),
            ("0.00014", Some(140_000)),
            ("1.4e-4", Some(140_000)),
            ("12", Some(12_000_000_000)),
            ("1E2", Some(100_000_000_000)),
            ("0.0000000001", Some(1)),
            ("1e-40", Some(1)),
            ("0.1000", Some(100_000_000)),
            ("-1", None),
            ("\"1\"", None),
            ("null", None),
            ("1e", None),
            ("1e999999999999", None),
            ("99999999999", None),
        ] {
            assert_eq!(nanousd(raw), expected, "{raw}");
        }
    }
}
