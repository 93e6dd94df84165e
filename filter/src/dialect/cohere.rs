//! Cohere's Chat, and rerank as Cohere and others have it.

use super::{NotReadable, Read, media};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// An event of a stream, or a whole answer, of either version.
pub fn chat(text: &str, reading: &mut Reading) -> Read {
    older_chat(text, reading)?;
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

/// What only the first version has. Its last event holds the whole answer once more.
fn older_chat(text: &str, reading: &mut Reading) -> Read {
    let keys = ["event_type", "generation_id", "text", "meta", "response"];
    let [kind, id, said, meta, response] = json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.add_names(None, id.as_ref());
    reading.add_text(said.as_ref());
    if let Some(meta) = meta {
        reading.add_usage(meta.raw, &usage::COHERE);
    }
    if kind.and_then(|kind| json_scan::string(kind.raw)).as_deref() == Some("stream-end") {
        if let Some(response) = response
            && let Ok([Some(meta)]) = json_scan::object(response.raw, &["meta"])
        {
            reading.add_usage(meta.raw, &usage::COHERE);
        }
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
        media::add_billed(meta.raw, reading);
    }
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::EMBEDDINGS);
    }
    Ok(())
}
