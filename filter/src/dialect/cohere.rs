//! Cohere's Chat, and rerank as Cohere and others have it.

use super::{NotReadable, Read};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// An event of a stream, or a whole answer.
pub fn chat(text: &str, reading: &mut Reading) -> Read {
    let keys = ["type", "id", "message", "delta", "usage"];
    let [kind, id, message, delta, usage] = json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.add_names(None, id.as_ref());
    reading.add_text(message.as_ref());
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::COHERE);
    }
    let Some(delta) = delta else {
        return Ok(());
    };
    let [message, usage, error] =
        json_scan::object(delta.raw, &["message", "usage", "error"]).map_err(|_| NotReadable)?;
    reading.add_text(message.as_ref());
    reading.saw_error |= error.is_some_and(|error| !error.is_null());
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::COHERE);
    }
    if kind.and_then(|kind| json_scan::string(kind.raw)).as_deref() == Some("message-end") {
        reading.finish_usage();
        reading.is_done = true;
    }
    Ok(())
}

/// A whole answer of a rerank.
pub fn rerank(text: &str, reading: &mut Reading) -> Read {
    let [id, model, meta, usage] =
        json_scan::object(text, &["id", "model", "meta", "usage"]).map_err(|_| NotReadable)?;
    reading.add_names(model.as_ref(), id.as_ref());
    if let Some(meta) = meta {
        reading.add_usage(meta.raw, &usage::COHERE);
        // Billed by the search: no tokens are told, and none are owed.
        if reading.has_units("search_units") {
            reading.usage = Some(reading.usage.unwrap_or_default());
        }
    }
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::EMBEDDINGS);
    }
    Ok(())
}
