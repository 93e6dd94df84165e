//! The body of an answer on its way to the app: metered, and edited only where it must be.

use crate::chunk::{self, Payload};
use crate::headers::Headers;
use crate::meter::{BodyBuffer, Pool, Reading};
use crate::sse::{self, Data, Piece, Splitter};
use crate::stream_edit::{self, Fate};

/// Reads an answer's body chunk by chunk.
#[derive(Debug)]
pub struct AnswerBody {
    kind: Kind,
    reading: Reading,
    seen_bytes: u64,
    /// Its length, as far as the answer announces one and that is believed.
    announced_bytes: u64,
}

/// Bytes per token where only bytes are known. Text runs at three to five bytes a token.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Longest body whose announced length is believed, bytes.
const MAX_ANNOUNCED_BYTES: u64 = 1 << 30;

#[derive(Debug)]
enum Kind {
    Json(BodyBuffer),
    Stream {
        splitter: Splitter,
        /// Take out what the app didn't ask for.
        edit: bool,
        /// The last event was taken out, and its last LF may still come.
        dropped: bool,
    },
    /// It passes unread: neither JSON nor a stream of events, or compressed. Text compresses to a
    /// quarter or so, which leaves a byte for a token.
    Blind {
        bytes_per_token: u64,
    },
}

impl AnswerBody {
    /// Chooses by the answer's headers how to read its body. `edit` says that a stream carries
    /// usage only because the filter asked for it.
    #[must_use]
    pub fn new(headers: &Headers, edit: bool, max_bytes: usize, pool: &Pool) -> Self {
        let kind = if is_encoded(headers) {
            Kind::Blind { bytes_per_token: 1 }
        } else {
            match media_type(headers).as_deref() {
                Some("text/event-stream") => {
                    Kind::Stream { splitter: Splitter::default(), edit, dropped: false }
                }
                None | Some("application/json") => Kind::Json(BodyBuffer::new(max_bytes, pool.clone())),
                Some(_) => Kind::Blind { bytes_per_token: BYTES_PER_TOKEN },
            }
        };
        let announced = headers.get("content-length").and_then(|digits| std::str::from_utf8(digits).ok());
        let announced_bytes = announced.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0);
        Self {
            kind,
            reading: Reading::default(),
            seen_bytes: 0,
            announced_bytes: MAX_ANNOUNCED_BYTES.min(announced_bytes),
        }
    }

    /// Whether the body may come out with another length.
    #[must_use]
    pub fn may_edit(&self) -> bool {
        matches!(self.kind, Kind::Stream { edit: true, .. })
    }

    /// Whether it is a stream of events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream { .. })
    }

    /// Takes the next chunk. Returns what the app gets in its place, or nothing when the chunk
    /// passes as it is.
    pub fn push(&mut self, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.seen_bytes = self.seen_bytes.saturating_add(length);
        match &mut self.kind {
            Kind::Blind { .. } => None,
            Kind::Json(buffer) => {
                buffer.push(bytes);
                None
            }
            Kind::Stream { splitter, edit, dropped } => {
                let mut pass = Pass { reading: &mut self.reading, edit: *edit, dropped, out: Vec::new() };
                splitter.push(bytes, |piece| pass.piece(piece));
                if is_last {
                    splitter.finish(|piece| pass.piece(piece));
                }
                let out = pass.out;
                (*edit && out != bytes).then_some(out)
            }
        }
    }

    /// Ends the body, also one that was cut. Returns what it told.
    #[must_use]
    pub fn finish(mut self) -> Reading {
        // A plain answer was made whole before its first byte was sent: who hangs up early pays for
        // the length it announced.
        let body_bytes = self.seen_bytes.max(self.announced_bytes);
        let reading = &mut self.reading;
        let tokens = match self.kind {
            Kind::Blind { bytes_per_token } => body_bytes.div_ceil(bytes_per_token),
            Kind::Json(buffer) => {
                let text_bytes = reading.add_body(buffer.bytes());
                text_bytes.unwrap_or(body_bytes).div_ceil(BYTES_PER_TOKEN)
            }
            Kind::Stream { mut splitter, mut dropped, .. } => {
                let mut pass = Pass { reading, edit: false, dropped: &mut dropped, out: Vec::new() };
                splitter.finish(|piece| pass.piece(piece));
                self.reading.output_bytes.div_ceil(BYTES_PER_TOKEN)
            }
        };
        self.reading.output_tokens_seen = (self.seen_bytes > 0).then_some(tokens);
        self.reading
    }
}

/// One run over pieces of a stream.
struct Pass<'p> {
    reading: &'p mut Reading,
    edit: bool,
    dropped: &'p mut bool,
    out: Vec<u8>,
}

impl Pass<'_> {
    fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Event(event) => self.event(event),
            Piece::TrailingLf if *self.dropped => {}
            Piece::TrailingLf => self.emit(b"\n"),
            Piece::Opaque(bytes) => {
                *self.dropped = false;
                self.reading.add_unread(bytes.len());
                self.emit(bytes);
            }
        }
    }

    fn event(&mut self, event: &[u8]) {
        let fate = match sse::data(event) {
            Data::None => {
                if !sse::is_quiet(event) {
                    self.reading.add_unread(event.len());
                }
                Fate::Keep
            }
            Data::Lines(data) => {
                self.payload(event, &chunk::read(&data));
                Fate::Keep
            }
            Data::Line(at) => {
                let payload = chunk::read(event.get(at.clone()).unwrap_or_default());
                self.payload(event, &payload);
                if self.edit { stream_edit::edit(event, &at, &payload) } else { Fate::Keep }
            }
        };
        *self.dropped = fate == Fate::Drop;
        match fate {
            Fate::Drop => {}
            Fate::Keep => self.emit(event),
            Fate::Replace(changed) => self.emit(&changed),
        }
    }

    fn payload(&mut self, event: &[u8], payload: &Payload<'_>) {
        if matches!(payload, Payload::Other) {
            self.reading.add_unread(event.len());
        }
        self.reading.add_event(payload);
    }

    fn emit(&mut self, bytes: &[u8]) {
        if self.edit {
            self.out.extend_from_slice(bytes);
        }
    }
}

/// Whether the body is compressed or otherwise encoded.
#[must_use]
pub fn is_encoded(headers: &Headers) -> bool {
    headers.all("content-encoding").any(|value| {
        let value = value.trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })
}

/// The content type without its parameters, in lower case.
fn media_type(headers: &Headers) -> Option<String> {
    let value = headers.get("content-type")?;
    let essence = value.split(|byte| *byte == b';').next()?.trim_ascii();
    Some(String::from_utf8_lossy(essence).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::serialize;
    use purser_protocol::Usage;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn body(pairs: &[(&str, &str)], edit: bool) -> AnswerBody {
        let headers = Headers::parse(serialize(pairs)).unwrap();
        AnswerBody::new(&headers, edit, 1000, &Pool::new(1000))
    }

    const SSE: [(&str, &str); 1] = [("content-type", "Text/Event-Stream; charset=utf-8")];

    /// A stream as a server sends it when asked for usage, with the line ends given, and what an
    /// app that did not ask gets.
    fn stream(eol: &str) -> (String, String) {
        let both = |event: String| (event.clone(), event);
        let parts = [
            both(format!(": keep-alive{eol}{eol}")),
            (
                format!(
                    "data: {{\"id\":\"c\",\"choices\":[{{\"delta\":{{\"content\":\"h\u{e9}\"}}}}],\"usage\":null}}{eol}{eol}"
                ),
                format!(
                    "data: {{\"id\":\"c\",\"choices\":[{{\"delta\":{{\"content\":\"h\u{e9}\"}}}}]}}{eol}{eol}"
                ),
            ),
            both(format!("data: {{\"choices\":[{{\"delta\":{{}}}}]}}{eol}{eol}")),
            (
                format!(
                    "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":2}}}}{eol}{eol}"
                ),
                String::new(),
            ),
            both(format!("data: [DONE]{eol}{eol}")),
        ];
        parts.into_iter().unzip()
    }

    fn replay(mut body: AnswerBody, parts: &[&[u8]]) -> (Vec<u8>, Reading) {
        let mut out = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match body.push(part, index + 1 == parts.len()) {
                Some(replaced) => out.extend(replaced),
                None => out.extend_from_slice(part),
            }
        }
        (out, body.finish())
    }

    fn read_usage() -> Option<Usage> {
        Some(Usage { input_tokens: 7, output_tokens: 2, ..Usage::default() })
    }

    #[test]
    fn cuts_at_every_byte_give_the_same_answer_and_usage() {
        for eol in ["\n", "\r\n", "\r"] {
            let (sent, edited) = stream(eol);
            let sent = sent.as_bytes();
            for edit in [true, false] {
                let expected = if edit { edited.as_bytes() } else { sent };
                for cut in 0..=sent.len() {
                    for size in [1, 2, 3, 7, sent.len()] {
                        let (head, tail) = sent.split_at(cut);
                        let mut parts = vec![head];
                        parts.extend(tail.chunks(size));
                        let (out, reading) = replay(body(&SSE, edit), &parts);
                        assert_eq!(out, expected, "{eol:?}, edit {edit}, cut {cut}, {size}");
                        assert_eq!(reading.usage, read_usage());
                        assert!(reading.is_done && reading.usage_is_final);
                        assert_eq!(reading.output_bytes, 3);
                    }
                }
            }
        }
    }

    #[test]
    fn a_whole_event_is_not_held_back() {
        let mut body = body(&SSE, true);
        let event = b"data: {\"choices\":[{}]}\n\n";
        assert_eq!(body.push(event, false), None);
        assert_eq!(body.push(b"data: {\"cho", false), Some(Vec::new()));
        let rest = body.push(b"ices\":[{}],\"usage\":null}\n\n", false);
        assert_eq!(rest.as_deref(), Some(&event[..]));
    }

    #[test]
    fn an_unfinished_event_goes_out_at_the_end_and_counts() {
        let tail = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}";
        let mut body = body(&SSE, true);
        assert_eq!(body.push(&tail.as_bytes()[..20], false), Some(Vec::new()));
        let out = body.push(&tail.as_bytes()[20..], true);
        assert_eq!(out.as_deref(), Some(tail.as_bytes()));
        assert_eq!(body.finish().usage, read_usage());
    }

    #[test]
    fn what_can_be_read_is_chosen_by_the_headers() {
        let json = r#"{"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
        for (pairs, readable) in [
            (vec![("content-type", "application/json")], true),
            (vec![("content-type", "application/json; charset=utf-8")], true),
            (vec![], true),
            (vec![("content-encoding", "identity")], true),
            (vec![("content-encoding", "gzip")], false),
            (vec![("content-encoding", "identity"), ("content-encoding", "br")], false),
            (vec![("content-type", "text/html")], false),
        ] {
            let (head, tail) = json.as_bytes().split_at(20);
            let (out, reading) = replay(body(&pairs, true), &[head, tail, b""]);
            assert_eq!(out, json.as_bytes());
            assert_eq!(reading.usage.is_some(), readable, "{pairs:?}");
        }
        assert!(body(&SSE, true).may_edit() && body(&SSE, true).is_stream());
        assert!(!body(&SSE, false).may_edit());
        assert!(!body(&[], true).may_edit());
    }

    #[test]
    fn what_was_seen_is_counted_in_tokens() {
        let text = r#"{"choices":[{"message":{"role":"assistant","content":"nine byte"}}]}"#;
        let error = r#"{"error":{"message":"no"}}"#;
        let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"nine byte\"}}]}\n\n";
        let (json, sse) = (("content-type", "application/json"), SSE[0]);
        let gzip = ("content-encoding", "gzip");
        let long = ("content-length", "4001");
        for (pairs, body_text, tokens) in [
            (vec![json], "", None),
            (vec![json, long], "", None),
            (vec![json], text, Some(3)),
            // Readable, but no text shows: every byte counts.
            (vec![json], error, Some(7)),
            (vec![json], &text[..42], Some(11)),
            (vec![json, long], "{", Some(1001)),
            (vec![json, long], text, Some(3)),
            (vec![json, ("content-length", "9999999999999")], "{", Some(1 << 28)),
            (vec![json, ("content-length", "-1")], "{", Some(1)),
            (vec![json, gzip], "12345", Some(5)),
            (vec![sse, gzip, long], "12345", Some(4001)),
            (vec![("content-type", "text/html")], "12345", Some(2)),
            (vec![sse], delta, Some(3)),
            (vec![sse, long], delta, Some(3)),
            (vec![sse], ": ping\n\nevent: x\nid\nretry: 5\n\n", Some(0)),
            (vec![sse], "data: {\"cut\n\n", Some(4)),
            (vec![sse], "data: {\ndata: \"cut\n\n", Some(5)),
            (vec![sse], "no events\n\n", Some(3)),
        ] {
            let mut body = body(&pairs, false);
            body.push(body_text.as_bytes(), false);
            assert_eq!(body.finish().output_tokens_seen, tokens, "{pairs:?} {body_text}");
        }
        let mut large = body(&[json], false);
        (0..5).for_each(|_| drop(large.push(&[b' '; 400], false)));
        assert_eq!(large.finish().output_tokens_seen, Some(500));
        let mut event = body(&SSE, false);
        event.push(&vec![b'x'; sse::MAX_EVENT_BYTES + 4], false);
        event.push(format!("1234\n\n{delta}").as_bytes(), false);
        let expected = (sse::MAX_EVENT_BYTES + 4 + 6 + 9).div_ceil(4);
        assert_eq!(event.finish().output_tokens_seen, Some(expected as u64));
    }
}
