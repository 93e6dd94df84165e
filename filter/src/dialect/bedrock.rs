//! Amazon Bedrock: Converse, and models invoked with their vendor's own JSON.

use super::{NotReadable, Read, anthropic, chat};
use crate::base64;
use crate::chunk;
use crate::config::Dialect;
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// An event of `ConverseStream`, named by its frame, or a whole answer of `Converse`.
#[inline(never)]
pub fn converse(kind: Option<&str>, text: &str, reading: &mut Reading) -> Read {
    let keys = ["usage", "output", "delta", "start", "serviceTier"];
    let [usage, output, delta, start, tier] = json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.add_text(output.as_ref());
    reading.add_text(delta.as_ref());
    reading.add_text(start.as_ref());
    if let Some(tier) = tier
        && let Ok([name]) = json_scan::object(tier.raw, &["type"])
    {
        reading.add_tier(name.as_ref());
    }
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::CONVERSE);
    }
    if kind == Some("metadata") {
        reading.finish_usage();
        reading.is_done = true;
    }
    Ok(())
}

/// A whole answer of `InvokeModel`.
pub fn invoked(text: &str, reading: &mut Reading) -> Read {
    let from_headers = reading.usage.take();
    let [usage, choices, output] =
        json_scan::object(text, &["usage", "choices", "output"]).map_err(|_| NotReadable)?;
    reading.add_usage(text, &usage::LLAMA);
    if choices.is_some() {
        chat::event(&chunk::read(text.as_bytes()), Dialect::Bedrock, reading)?;
    } else if output.is_some() {
        converse(None, text, reading)?;
    } else {
        anthropic::answer(text, reading)?;
    }
    if reading.usage.is_none()
        && let Some(usage) = usage
    {
        reading.add_usage(usage.raw, &usage::CONVERSE);
    }
    other_text(text, reading);
    reading.usage = reading.usage.or(from_headers);
    Ok(())
}

/// An event of `InvokeModelWithResponseStream`: the vendor's event, in base64.
pub fn invoke_event(text: &str, reading: &mut Reading) -> Read {
    let [bytes] = json_scan::object(text, &["bytes"]).map_err(|_| NotReadable)?;
    let encoded = bytes.and_then(|bytes| json_scan::string(bytes.raw)).ok_or(NotReadable)?;
    let decoded = base64::decode(encoded.as_bytes()).ok_or(NotReadable)?;
    let vendor = std::str::from_utf8(&decoded).map_err(|_| NotReadable)?;
    let keys = ["amazon-bedrock-invocationMetrics", "type", "choices", "contentBlockDelta", "metadata"];
    let [metrics, kind, choices, delta, metadata] =
        json_scan::object(vendor, &keys).map_err(|_| NotReadable)?;
    if choices.is_some() {
        chat::event(&chunk::read(vendor.as_bytes()), Dialect::Bedrock, reading)?;
    } else if kind.is_some() {
        anthropic::event(vendor, reading)?;
    }
    for inner in [delta, metadata].into_iter().flatten() {
        converse(None, inner.raw, reading)?;
    }
    other_text(vendor, reading);
    if let Some(metrics) = metrics {
        // The vendor's own usage, where there is one, tells more classes apart.
        if reading.usage.is_none() {
            reading.add_usage(metrics.raw, &usage::INVOCATION);
        } else if reading.output_is_open
            && let Ok([Some(output)]) = json_scan::object(metrics.raw, &["outputTokenCount"])
        {
            reading.add_usage(&format!("{{\"output_tokens\":{}}}", output.raw), &usage::ANTHROPIC);
        }
        reading.finish_usage();
        reading.is_done = true;
    }
    Ok(())
}

/// Text where other vendors have it.
#[inline(never)]
fn other_text(text: &str, reading: &mut Reading) {
    if let Ok(found) =
        json_scan::object(text, &["generation", "outputText", "completion", "outputs", "results"])
    {
        for text in found {
            reading.add_text(text.as_ref());
        }
    }
}
