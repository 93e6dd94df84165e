//! One event of a chat stream, or a whole chat answer: the members that matter for its cost.

use serde_json::value::RawValue;

use crate::json_scan::{self, Found};

/// What the data of an event is.
#[derive(Debug)]
pub enum Payload<'a> {
    /// `[DONE]`: the stream says that it is over.
    Done,
    /// A JSON object.
    Chunk(Chunk<'a>),
    /// Anything else.
    Other,
}

/// The members of an answer or of a part of it.
#[derive(Debug)]
pub struct Chunk<'a> {
    id: Option<Found<'a>>,
    model: Option<Found<'a>>,
    choices: Option<Found<'a>>,
    /// The usage, also when it is `null`.
    pub usage: Option<Found<'a>>,
}

/// Reads the data of an event.
#[must_use]
pub fn read(data: &[u8]) -> Payload<'_> {
    if data.trim_ascii() == b"[DONE]" {
        return Payload::Done;
    }
    match json_scan::object_bytes(data, &["id", "model", "choices", "usage"]) {
        Ok([id, model, choices, usage]) => Payload::Chunk(Chunk { id, model, choices, usage }),
        Err(_) => Payload::Other,
    }
}

impl Chunk<'_> {
    /// The provider's id of the answer.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        json_scan::string(self.id.as_ref()?.raw)
    }

    /// The model that answered.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        json_scan::string(self.model.as_ref()?.raw)
    }

    /// The text of the usage object, when it is one.
    #[must_use]
    pub fn usage_object(&self) -> Option<&str> {
        let raw = self.usage.as_ref()?.raw;
        raw.starts_with('{').then_some(raw)
    }

    /// Whether `choices` is there and empty. Alone it doesn't mark the usage chunk: some servers
    /// open a stream with one.
    #[must_use]
    pub fn has_empty_choices(&self) -> bool {
        self.choices.as_ref().is_some_and(|choices| {
            choices.raw.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(']'))
        })
    }

    /// Bytes of text, reasoning and tool calls that this part adds to the answer.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        let Some(choices) = self.choices.as_ref().and_then(|found| json_scan::elements(found.raw)) else {
            return 0;
        };
        sum(choices.into_iter().map(choice_bytes))
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn choice_bytes(choice: &RawValue) -> u64 {
    let Ok([Some(delta)]) = json_scan::object(choice.get(), &["delta"]) else {
        return 0;
    };
    let texts = ["content", "refusal", "reasoning_content", "reasoning"];
    let text = json_scan::object(delta.raw, &texts).map_or(0, |found| string_bytes(&found));
    let Ok([tool_calls, call]) = json_scan::object(delta.raw, &["tool_calls", "function_call"]) else {
        return text;
    };
    let call = call.map_or(0, |call| call_bytes(call.raw));
    let calls = tool_calls.and_then(|found| json_scan::elements(found.raw)).unwrap_or_default();
    let calls = calls.into_iter().map(|call| {
        let Ok([Some(function)]) = json_scan::object(call.get(), &["function"]) else {
            return 0;
        };
        call_bytes(function.raw)
    });
    sum([text, call, sum(calls)].into_iter())
}

fn call_bytes(function: &str) -> u64 {
    json_scan::object(function, &["name", "arguments"]).map_or(0, |found| string_bytes(&found))
}

fn string_bytes(found: &[Option<Found<'_>>]) -> u64 {
    sum(found.iter().flatten().map(|found| {
        let text = json_scan::string(found.raw).unwrap_or_default();
        u64::try_from(text.len()).unwrap_or(u64::MAX)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn chunk(data: &str) -> Chunk<'_> {
        match read(data.as_bytes()) {
            Payload::Chunk(chunk) => chunk,
            other => panic!("{data}: {other:?}"),
        }
    }

    #[test]
    fn tells_done_chunks_and_noise_apart() {
        assert!(matches!(read(b"[DONE]"), Payload::Done));
        assert!(matches!(read(b" [DONE] "), Payload::Done));
        for noise in [&b""[..], b"ping", b"[1]", b"{", b"\xff", b"[DONE", br#"{"id":1,"id":2}"#] {
            assert!(matches!(read(noise), Payload::Other), "{noise:?}");
        }
    }

    #[test]
    fn reads_members_of_any_type_without_harm() {
        let whole = chunk(r#"{"id":"c-1","model":"m","choices":[ ],"usage":{"a":1}}"#);
        assert_eq!(whole.id().as_deref(), Some("c-1"));
        assert_eq!(whole.model().as_deref(), Some("m"));
        assert_eq!(whole.usage_object(), Some(r#"{"a":1}"#));
        assert!(whole.has_empty_choices());
        let odd = chunk(r#"{"id":1,"model":null,"choices":{},"usage":null}"#);
        assert_eq!((odd.id(), odd.model(), odd.usage_object()), (None, None, None));
        assert!(!odd.has_empty_choices());
        assert_eq!(odd.output_bytes(), 0);
        assert!(!chunk(r#"{"choices":[{}]}"#).has_empty_choices());
        assert!(!chunk("{}").has_empty_choices());
    }

    #[test]
    fn counts_what_the_caller_gets() {
        for (choices, bytes) in [
            ("[]", 0),
            ("null", 0),
            (r#"[{"delta":{"role":"assistant","content":""}}]"#, 0),
            (r#"[{"delta":{"content":"h\u00e9"}}]"#, 3),
            (r#"[{"delta":{"content":"ab"}},{"delta":{"content":"c"}}]"#, 3),
            (r#"[{"delta":{"content":null,"refusal":"no"}}]"#, 2),
            (r#"[{"delta":{"reasoning_content":"hmm"}}]"#, 3),
            (r#"[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}},{}]}}]"#, 3),
            (r#"[{"delta":{"function_call":{"name":"f","arguments":"{}"}}}]"#, 3),
            (r#"[{"delta":[]},7,{"delta":{"content":7,"tool_calls":{}}}]"#, 0),
        ] {
            let data = format!(r#"{{"choices":{choices}}}"#);
            assert_eq!(chunk(&data).output_bytes(), bytes, "{choices}");
        }
    }
}
