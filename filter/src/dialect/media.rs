//! Answers that are not text: vectors, images, sound; and batches, which tell nothing yet.

use super::{NotReadable, Read};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// A whole answer of embeddings, by whomever: each has its own place for the usage.
pub fn embeddings(text: &str, reading: &mut Reading) -> Read {
    let keys = ["id", "model", "usage", "usageMetadata", "meta", "prompt_eval_count"];
    let [id, model, usage, of_gemini, of_cohere, of_ollama] =
        json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.add_names(model.as_ref(), id.as_ref());
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::EMBEDDINGS);
    }
    if let Some(usage) = of_gemini {
        reading.add_usage(usage.raw, &usage::GEMINI);
    }
    if let Some(meta) = of_cohere {
        add_billed(meta.raw, reading);
    }
    if let Some(count) = of_ollama {
        reading.add_usage(&format!("{{\"prompt_tokens\":{}}}", count.raw), &usage::EMBEDDINGS);
    }
    Ok(())
}

/// What Cohere bills.
#[inline(never)]
pub fn add_billed(meta: &str, reading: &mut Reading) {
    reading.add_usage(meta, &usage::COHERE);
    if reading.has_units("search_units") || reading.has_units("input_images") {
        reading.owe_no_tokens();
    }
}

/// A whole answer with images, or an event of a stream of them.
pub fn images(text: &str, is_whole: bool, reading: &mut Reading) -> Read {
    let [data, usage, kind] = json_scan::object(text, &["data", "usage", "type"]).map_err(|_| NotReadable)?;
    if let Some((count, _)) = data.and_then(|data| json_scan::count_elements(data.raw)) {
        reading.set_units("images", count);
    }
    let kind = kind.and_then(|kind| json_scan::string(kind.raw)).unwrap_or_default();
    reading.saw_error |= kind == "error";
    if !is_whole && kind.ends_with(".completed") {
        reading.add_unit("images");
        reading.is_done = true;
    }
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::IMAGES);
        reading.finish_usage();
    } else if is_whole && reading.has_units("images") {
        // Billed by the image.
        reading.owe_no_tokens();
    }
    Ok(())
}

/// A whole transcript, or an event of a stream of one or of speech.
pub fn audio(text: &str, reading: &mut Reading) -> Read {
    let [usage, kind] = json_scan::object(text, &["usage", "type"]).map_err(|_| NotReadable)?;
    let kind = kind.and_then(|kind| json_scan::string(kind.raw)).unwrap_or_default();
    reading.saw_error |= kind == "error";
    if let Some(usage) = usage {
        reading.add_usage(usage.raw, &usage::TRANSCRIPTION);
        // Billed by the second.
        if reading.has_units("audio_seconds") {
            reading.owe_no_tokens();
        }
    }
    if kind.ends_with(".done") {
        reading.finish_usage();
        reading.is_done = true;
    }
    Ok(())
}

/// The answer to a batch: taken on, not done.
pub fn batch(text: &str, reading: &mut Reading) -> Read {
    let [id] = json_scan::object(text, &["id"]).map_err(|_| NotReadable)?;
    reading.add_names(None, id.as_ref());
    Ok(())
}
