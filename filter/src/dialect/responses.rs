//! OpenAI Responses. A stream's last event carries the whole answer with its usage.

use super::{NotReadable, Read};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// Items of the output that cost by the piece.
const TOOLS: [(&str, &str); 5] = [
    ("web_search_call", "web_search_requests"),
    ("file_search_call", "file_search_calls"),
    ("code_interpreter_call", "code_interpreter_calls"),
    ("image_generation_call", "image_generation_calls"),
    ("computer_call", "computer_calls"),
];

/// One event of a stream.
pub fn event(text: &str, reading: &mut Reading) -> Read {
    let [kind, response, delta, item] =
        json_scan::object(text, &["type", "response", "delta", "item"]).map_err(|_| NotReadable)?;
    let kind = kind.and_then(|kind| json_scan::string(kind.raw)).unwrap_or_default();
    match kind.as_str() {
        "error" => reading.saw_error = true,
        "response.output_item.done" => {
            if let Some(item) = item {
                count_tool(item.raw, reading);
            }
        }
        _ if kind.ends_with(".delta") => reading.add_text(delta.as_ref()),
        _ => {
            let ends = matches!(
                kind.as_str(),
                "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled"
            );
            if let Some(response) = response {
                members(response.raw, ends, reading)?;
            }
            reading.saw_error |= kind == "response.failed";
            if ends {
                reading.is_done = true;
                reading.finish_usage();
            }
        }
    }
    Ok(())
}

/// A whole answer.
pub fn answer(text: &str, reading: &mut Reading) -> Read {
    members(text, true, reading)?;
    let [output] = json_scan::object(text, &["output"]).map_err(|_| NotReadable)?;
    reading.add_text(output.as_ref());
    Ok(())
}

fn members(raw: &str, is_whole: bool, reading: &mut Reading) -> Read {
    let [id, model, usage, tier, output] =
        json_scan::object(raw, &["id", "model", "usage", "service_tier", "output"])
            .map_err(|_| NotReadable)?;
    reading.add_names(model.as_ref(), id.as_ref());
    reading.add_tier(tier.as_ref());
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::RESPONSES);
        // Only the last word tells what the output came to.
        reading.output_is_open |= !is_whole && reading.usage.is_some();
    }
    let items = output.and_then(|output| json_scan::elements(output.raw)).unwrap_or_default();
    if is_whole && !items.is_empty() {
        // The whole answer has every item; what its stream has told of them is in there.
        for (_, unit) in TOOLS {
            reading.forget_units(unit);
        }
        for item in items {
            count_tool(item.get(), reading);
        }
    }
    Ok(())
}

fn count_tool(item: &str, reading: &mut Reading) {
    let Ok([Some(kind)]) = json_scan::object(item, &["type"]) else { return };
    let kind = json_scan::string(kind.raw).unwrap_or_default();
    if let Some((_, unit)) = TOOLS.iter().find(|(name, _)| *name == kind) {
        reading.add_unit(unit);
    }
}
