//! Ollama. Every line of a stream has the shape of a whole answer; the one that is done tells its usage.

use super::{NotReadable, Read};
use crate::json_scan;
use crate::meter::Reading;
use crate::usage;

/// A line of a stream, or a whole answer.
pub fn part(text: &str, reading: &mut Reading) -> Read {
    let keys = ["model", "message", "response", "thinking", "done", "error"];
    let [model, message, response, thinking, done, error] =
        json_scan::object(text, &keys).map_err(|_| NotReadable)?;
    reading.saw_error |= error.is_some_and(|error| !error.is_null());
    reading.add_names(model.as_ref(), None);
    for text in [message, response, thinking] {
        reading.add_text(text.as_ref());
    }
    if done.is_some_and(|done| done.raw == "true") {
        reading.add_usage(text, &usage::OLLAMA);
        reading.finish_usage();
        reading.is_done = true;
    }
    Ok(())
}
