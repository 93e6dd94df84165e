//! Gemini. Every part of a stream has the shape of a whole answer; the last usage counts.

use super::{NotReadable, Read};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// A part of a stream, or a whole answer.
pub fn part(text: &str, reading: &mut Reading) -> Read {
    let keys = ["candidates", "usageMetadata", "modelVersion", "responseId", "promptFeedback", "error"];
    let [candidates, usage, model, id, feedback, error] =
        json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.saw_error |= error.is_some_and(|error| !error.is_null());
    reading.add_names(model.as_ref(), id.as_ref());
    let mut ends = feedback.is_some_and(|feedback| is_given(feedback.raw, "blockReason"));
    for candidate in candidates.and_then(|found| json_scan::elements(found.raw)).unwrap_or_default() {
        let Ok([content, finish, grounding]) =
            json_scan::object(candidate.get(), &["content", "finishReason", "groundingMetadata"])
        else {
            continue;
        };
        reading.add_text(content.as_ref());
        ends |= finish.is_some_and(|finish| !finish.is_null());
        if let Some(grounding) = grounding
            && let Ok([Some(queries)]) = json_scan::object(grounding.raw, &["webSearchQueries"])
            && let Some((count, _)) = json_scan::count_elements(queries.raw)
        {
            // Of its first generations each answer that was looked up is billed, since then each query.
            let model = reading.answered_model.as_deref().unwrap_or_default();
            let is_by_answer = ["gemini-1", "gemini-2"].iter().any(|start| model.starts_with(start));
            reading.set_units("web_search_requests", if is_by_answer { count.min(1) } else { count });
        }
    }
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::GEMINI);
        if let Ok([tier, traffic]) = json_scan::object(usage.raw, &["serviceTier", "trafficType"]) {
            reading.add_tier(traffic.as_ref());
            reading.add_tier(tier.as_ref());
            // Vertex calls its tiers by longer names.
            let short = reading.service_tier.as_deref().and_then(|name| name.strip_prefix("ON_DEMAND_"));
            if let Some(short) = short.map(str::to_ascii_lowercase) {
                reading.set_tier(short);
            }
        }
    }
    if ends {
        reading.finish_usage();
    }
    Ok(())
}

fn is_given(raw: &str, key: &'static str) -> bool {
    matches!(json_scan::object(raw, &[key]), Ok([Some(found)]) if !found.is_null())
}
