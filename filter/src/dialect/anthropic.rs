//! Anthropic Messages. A stream tells its input at the start and its output, cumulative, at the end.

use super::{NotReadable, Read};
use crate::json_scan::{self, Found};
use crate::meter::Reading;
use crate::usage;

/// Tiers, speeds and places that cost what the list says.
const USUAL: [&str; 3] = ["standard", "global", "not_available"];

/// One event of a stream.
#[inline(never)]
pub fn event(text: &str, reading: &mut Reading) -> Read {
    let [kind, message, delta, usage, block] =
        json_scan::object(text, &["type", "message", "delta", "usage", "content_block"])
            .map_err(|_| NotReadable)?;
    let kind = kind.and_then(|kind| json_scan::string(kind.raw)).unwrap_or_default();
    match kind.as_str() {
        "message_start" => {
            if let Some(message) = message {
                members(message.raw, reading)?;
                // Its output is only a beginning; what it comes to follows at the end.
                reading.output_is_open = true;
            }
        }
        "content_block_start" => reading.add_text(block.as_ref()),
        "content_block_delta" => reading.add_text(delta.as_ref()),
        "message_delta" => {
            if let Some(usage) = usage {
                add_usage(usage.raw, reading);
            }
            // The last of them says why it stopped.
            if let Some(delta) = delta
                && let Ok([Some(stop)]) = json_scan::object(delta.raw, &["stop_reason"])
                && !stop.is_null()
            {
                reading.finish_usage();
            }
        }
        "message_stop" => {
            reading.finish_usage();
            reading.is_done = true;
        }
        "error" => reading.saw_error = true,
        _ => {}
    }
    Ok(())
}

/// A whole answer.
#[inline(never)]
pub fn answer(text: &str, reading: &mut Reading) -> Read {
    let content = members(text, reading)?;
    reading.add_text(content.as_ref());
    Ok(())
}

fn members<'a>(raw: &'a str, reading: &mut Reading) -> Result<Option<Found<'a>>, NotReadable> {
    let [id, model, usage, content] =
        json_scan::object(raw, &["id", "model", "usage", "content"]).map_err(|_| NotReadable)?;
    reading.add_names(model.as_ref(), id.as_ref());
    if let Some(usage) = usage {
        add_usage(usage.raw, reading);
    }
    Ok(content)
}

fn add_usage(raw: &str, reading: &mut Reading) {
    reading.add_usage(raw, &usage::ANTHROPIC);
    if let Ok([Some(list)]) = json_scan::object(raw, &["iterations"])
        && !list.is_null()
        && let Some(told) = reading.usage
    {
        match usage::with_iterations(list.raw, told) {
            Some(whole) => reading.usage = Some(whole),
            None => (reading.output_was_told, reading.output_is_open) = (false, true),
        }
    }
    let Ok(told) = json_scan::object(raw, &["service_tier", "speed", "inference_geo"]) else { return };
    reading.add_tier(told.first().and_then(Option::as_ref));
    // Speed and place have prices of their own, whatever the tier.
    let names = told.into_iter().flatten().filter_map(|found| json_scan::string(found.raw));
    let special: Vec<String> = names.filter(|name| !USUAL.contains(&name.as_str())).collect();
    reading.set_tier(special.join("+"));
}
