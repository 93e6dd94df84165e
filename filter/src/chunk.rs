//! One event of a chat stream, or a whole chat answer: the members that matter for its cost.

use crate::json_scan::{self, Found};
use crate::text;

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
    service_tier: Option<Found<'a>>,
    error: Option<Found<'a>>,
    /// The usage, also when it is `null`.
    pub usage: Option<Found<'a>>,
}

/// Reads the data of an event.
#[must_use]
pub fn read(data: &[u8]) -> Payload<'_> {
    if data.trim_ascii() == b"[DONE]" {
        return Payload::Done;
    }
    match json_scan::object_bytes(data, &["id", "model", "choices", "usage", "service_tier", "error"]) {
        Ok([id, model, choices, usage, service_tier, error]) => {
            Payload::Chunk(Chunk { id, model, choices, service_tier, error, usage })
        }
        Err(_) => Payload::Other,
    }
}

impl Chunk<'_> {
    /// The provider's id of the answer.
    #[must_use]
    pub const fn id(&self) -> Option<&Found<'_>> {
        self.id.as_ref()
    }

    /// The model that answered.
    #[must_use]
    pub const fn model(&self) -> Option<&Found<'_>> {
        self.model.as_ref()
    }

    /// The service tier that answered.
    #[must_use]
    pub const fn service_tier(&self) -> Option<&Found<'_>> {
        self.service_tier.as_ref()
    }

    /// Whether it tells of an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.error.as_ref().is_some_and(|error| !error.is_null())
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

    /// Bytes of text, reasoning and tool calls in this part of the answer, or in the whole of it;
    /// nothing when it has no list of choices.
    #[must_use]
    pub fn output_bytes(&self) -> Option<u64> {
        let choices = json_scan::elements(self.choices.as_ref()?.raw)?;
        let mut bytes = 0_u64;
        for choice in choices {
            let Ok(parts) = json_scan::object(choice.get(), &["delta", "message", "text"]) else { continue };
            for part in parts.into_iter().flatten() {
                bytes = bytes.saturating_add(text::bytes(part.raw));
            }
        }
        Some(bytes)
    }
}

impl Chunk<'_> {
    /// Whether a choice cites a page of the web: it was searched for the answer.
    #[must_use]
    pub fn cites_a_url(&self) -> bool {
        // Looked for before it is read: few answers have any. One letter is found faster than a word.
        let may_cite = |found: &&Found<'_>| {
            let mut marks = found.raw.match_indices('_');
            marks.any(|(at, _)| found.raw.get(at..).is_some_and(|rest| rest.starts_with("_citation\"")))
        };
        let Some(choices) = self.choices.as_ref().filter(may_cite) else {
            return false;
        };
        let cites = |part: &Found<'_>| {
            let Ok([Some(notes)]) = json_scan::object(part.raw, &["annotations"]) else { return false };
            json_scan::elements(notes.raw).unwrap_or_default().into_iter().any(|note| {
                matches!(json_scan::object(note.get(), &["type"]),
                    Ok([Some(kind)]) if kind.raw == "\"url_citation\"")
            })
        };
        json_scan::elements(choices.raw).unwrap_or_default().into_iter().any(|choice| {
            json_scan::object(choice.get(), &["delta", "message"])
                .is_ok_and(|parts| parts.iter().flatten().any(cites))
        })
    }
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
        assert_eq!(whole.id().map(|found| found.raw), Some("\"c-1\""));
        assert_eq!(whole.model().map(|found| found.raw), Some("\"m\""));
        assert!(!whole.is_error());
        assert!(chunk(r#"{"error":{"message":"x"}}"#).is_error());
        assert_eq!(whole.usage_object(), Some(r#"{"a":1}"#));
        assert!(whole.has_empty_choices());
        let odd = chunk(r#"{"id":1,"model":null,"choices":{},"usage":null}"#);
        assert_eq!(odd.usage_object(), None);
        assert!(!odd.has_empty_choices());
        assert_eq!(odd.output_bytes(), None);
        assert!(!chunk(r#"{"choices":[{}]}"#).has_empty_choices());
        assert!(!chunk("{}").has_empty_choices());
    }

    #[test]
    fn counts_what_the_caller_gets() {
        for (choices, bytes) in [
            ("[]", 0),
            (r#"[{"text":"four","finish_reason":"stop"}]"#, 4),
            (r#"[{"message":{"role":"assistant","content":"four","annotations":[]}}]"#, 4),
            (r#"[{"delta":{"role":"assistant","content":""}}]"#, 0),
            (r#"[{"delta":{"content":"h\u00e9"}}]"#, 3),
            (r#"[{"delta":{"content":"ab"}},{"delta":{"content":"c"}}]"#, 3),
            (r#"[{"delta":{"content":null,"refusal":"no"}}]"#, 2),
            (r#"[{"delta":{"reasoning_content":"hmm"}}]"#, 3),
            (r#"[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}},{}]}}]"#, 3),
            (r#"[{"delta":{"function_call":{"name":"f","arguments":"{}"}}}]"#, 3),
            (r#"[{"delta":[]},7,{"delta":{"content":7,"tool_calls":{}}}]"#, 0),
            (r#"[{"delta":{"tool_calls":[{"id":"call-1","type":"custom","custom":{"input":"ab"}}]}}]"#, 2),
            (r#"[{"delta":{"audio":{"data":"AAAA","transcript":"hey"}},"logprobs":{"x":"no"}}]"#, 3),
        ] {
            let data = format!(r#"{{"choices":{choices}}}"#);
            assert_eq!(chunk(&data).output_bytes(), Some(bytes), "{choices}");
        }
    }
}
