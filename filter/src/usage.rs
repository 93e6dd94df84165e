//! A provider's usage, turned into classes that don't overlap.

use purser_protocol::Usage;

use crate::json_scan::{self, Found};

/// More tokens than any one call can use; a larger number is nonsense and counts as unknown.
const MAX_TOKENS: u64 = 1 << 40;

/// Reads OpenAI's usage object.
///
/// Its `prompt_tokens` include cached and cache-written ones and its `completion_tokens` include
/// reasoning; here each token lands in one class. Parts that exceed their whole are nonsense: then
/// only the whole counts, in the undiscounted class. Nothing is returned when a total is missing or
/// not a count.
#[must_use]
pub fn read_openai(raw: &str) -> Option<Usage> {
    let [prompt, completion, prompt_details, completion_details] = json_scan::object(
        raw,
        &["prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"],
    )
    .ok()?;
    let prompt = tokens(prompt.as_ref())?;
    let completion = tokens(completion.as_ref())?;
    let [cached, written] = details(prompt_details.as_ref(), ["cached_tokens", "cache_write_tokens"]);
    let [reasoning] = details(completion_details.as_ref(), ["reasoning_tokens"]);
    let (input, cached, written) = match prompt.checked_sub(cached.saturating_add(written)) {
        Some(input) => (input, cached, written),
        None => (prompt, 0, 0),
    };
    let (output, reasoning) = match completion.checked_sub(reasoning) {
        Some(output) => (output, reasoning),
        None => (completion, 0),
    };
    Some(Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        cache_write_5m_tokens: written,
        cache_write_1h_tokens: 0,
        output_tokens: output,
        reasoning_tokens: reasoning,
    })
}

fn tokens(found: Option<&Found<'_>>) -> Option<u64> {
    found?.raw.parse().ok().filter(|count| *count <= MAX_TOKENS)
}

/// Counts in a details object; 0 for what isn't there or isn't a count.
fn details<const N: usize>(found: Option<&Found<'_>>, keys: [&'static str; N]) -> [u64; N] {
    found
        .and_then(|found| json_scan::object(found.raw, &keys).ok())
        .map_or([0; N], |parts| parts.map(|part| tokens(part.as_ref()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn classes_do_not_overlap() {
        for (raw, expected) in [
            (r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#, [10, 0, 0, 0, 5, 0]),
            (
                r#"{"prompt_tokens":100,"completion_tokens":50,
                    "prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30,"audio_tokens":0},
                    "completion_tokens_details":{"reasoning_tokens":20,"audio_tokens":1}}"#,
                [10, 60, 30, 0, 30, 20],
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null,
                    "completion_tokens_details":null}"#,
                [1, 0, 0, 0, 2, 0],
            ),
            (
                r#"{"prompt_tokens":5,"completion_tokens":5,
                    "prompt_tokens_details":{"cached_tokens":6},
                    "completion_tokens_details":{"reasoning_tokens":6}}"#,
                [5, 0, 0, 0, 5, 0],
            ),
            (
                r#"{"prompt_tokens":5,"completion_tokens":5,
                    "prompt_tokens_details":{"cached_tokens":"x","cache_write_tokens":-1},
                    "completion_tokens_details":[1]}"#,
                [5, 0, 0, 0, 5, 0],
            ),
        ] {
            assert_eq!(read_openai(raw).map(|usage| usage.classes()), Some(expected), "{raw}");
        }
    }

    #[test]
    fn nonsense_is_unknown() {
        for raw in [
            "null",
            "[]",
            "7",
            "{}",
            r#"{"prompt_tokens":1}"#,
            r#"{"prompt_tokens":null,"completion_tokens":1}"#,
            r#"{"prompt_tokens":"1","completion_tokens":1}"#,
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1e3,"completion_tokens":1}"#,
            r#"{"prompt_tokens":18446744073709551616,"completion_tokens":1}"#,
            r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"prompt_tokens":2,"completion_tokens":1}"#,
        ] {
            assert_eq!(read_openai(raw), None, "{raw}");
        }
    }
}
