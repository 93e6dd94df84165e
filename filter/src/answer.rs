//! The body of an answer on its way to the app: metered, and edited only where it must be.

#[cfg(test)]
mod tests;

use std::mem;

use purser_protocol::Usage;

use crate::chunk;
use crate::dialect::Reader;
use crate::frames::{Frame, Frames};
use crate::headers::Headers;
use crate::meter::Reading;
use crate::pool::{BodyBuffer, Pool};
use crate::sse::{self, Data, Piece, Splitter};
use crate::stream_edit::{self, Fate};
use crate::usage;
use crate::values::{Value, Values};

/// Reads an answer's body chunk by chunk.
#[derive(Debug)]
pub struct AnswerBody {
    kind: Kind,
    reader: Reader,
    reading: Reading,
    seen_bytes: u64,
    /// Its length, as far as the answer announces one and that is believed.
    announced_bytes: u64,
}

/// How an answer is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Reads its objects.
    pub reader: Reader,
    /// The answer was asked for as a stream.
    pub stream: bool,
    /// A stream carries usage only because the filter asked for it.
    pub edit: bool,
    /// Largest JSON answer that is kept, bytes.
    pub max_bytes: usize,
}

/// Bytes per token where only bytes are known. Text runs at three to five bytes a token.
pub const BYTES_PER_TOKEN: u64 = 4;

/// Longest body whose announced length is believed, bytes.
const MAX_ANNOUNCED_BYTES: u64 = 1 << 30;

/// So much of an answer is held back until it is known whether it is a stream of events, bytes.
const MAX_START_BYTES: usize = 64;

/// Longest event that is read where events carry whole answers or images, bytes.
const MAX_LARGE_EVENT_BYTES: usize = 8 << 20;

#[derive(Debug)]
enum Kind {
    Json(BodyBuffer),
    Events {
        splitter: Splitter,
        /// Take out what the app didn't ask for.
        edit: bool,
        /// The last event was taken out, and its last LF may still come.
        dropped: bool,
    },
    /// JSON objects one after the other.
    Values(Values),
    /// Amazon's binary messages.
    Frames(Frames),
    /// A stream was asked for, with usage that the app must not see, and the headers name none.
    Unsure {
        /// What came so far, as long as it may be either.
        start: Vec<u8>,
        /// How it is read when it isn't one.
        otherwise: Box<Kind>,
        max_event_bytes: usize,
    },
    /// It passes unread: nothing that can be read.
    Blind,
    /// It passes unread: its bytes are compressed and don't tell how much text they are.
    Encoded,
}

impl Kind {
    fn events(max_event_bytes: usize, edit: bool) -> Self {
        Self::Events { splitter: Splitter::new(max_event_bytes), edit, dropped: false }
    }

    /// The same, unless it turns out to be a stream of events.
    fn or_events(self, max_event_bytes: usize) -> Self {
        match self {
            Self::Events { .. } | Self::Encoded => self,
            other => Self::Unsure { start: Vec::new(), otherwise: Box::new(other), max_event_bytes },
        }
    }
}

impl AnswerBody {
    /// Chooses by the answer's headers how to read its body.
    #[must_use]
    pub fn new(headers: &Headers, plan: Plan, pool: &Pool) -> Self {
        let max_event_bytes =
            if plan.reader.has_large_events() { MAX_LARGE_EVENT_BYTES } else { sse::MAX_EVENT_BYTES };
        let media_type = media_type(headers);
        let mut reading = told_by_headers(headers);
        if plan.reader.is_sound(media_type.as_deref()) {
            reading.usage = Some(Usage::default());
        }
        let kind = if is_encoded(headers) {
            Kind::Encoded
        } else {
            match media_type.as_deref() {
                Some("text/event-stream") => Kind::events(max_event_bytes, plan.edit),
                Some("application/vnd.amazon.eventstream") => Kind::Frames(Frames::default()),
                Some(
                    "application/x-ndjson"
                    | "application/jsonl"
                    | "application/x-jsonlines"
                    | "application/stream+json",
                ) => Kind::Values(Values::new(max_event_bytes)),
                None | Some("application/json") if plan.stream && plan.reader.streams_values() => {
                    Kind::Values(Values::new(max_event_bytes))
                }
                None | Some("application/json") => Kind::Json(BodyBuffer::new(plan.max_bytes, pool.clone())),
                Some(_) => Kind::Blind,
            }
        };
        let kind = if plan.edit && headers.get(":status") == Some(b"200") {
            kind.or_events(max_event_bytes)
        } else {
            kind
        };
        let announced_bytes = number(headers, "content-length").unwrap_or(0);
        Self {
            kind,
            reader: plan.reader,
            reading,
            seen_bytes: 0,
            announced_bytes: MAX_ANNOUNCED_BYTES.min(announced_bytes),
        }
    }

    /// Whether the body may come out with another length.
    #[must_use]
    pub fn may_edit(&self) -> bool {
        matches!(self.kind, Kind::Events { edit: true, .. } | Kind::Unsure { .. })
    }

    /// Whether it comes in pieces that tell when it is done.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Events { .. } | Kind::Values(_) | Kind::Frames(_))
    }

    /// Takes the next chunk. Returns what the app gets in its place, or nothing when the chunk
    /// passes as it is.
    pub fn push(&mut self, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.seen_bytes = self.seen_bytes.saturating_add(length);
        let Kind::Unsure { start, otherwise, max_event_bytes } = &mut self.kind else {
            return self.read(bytes, is_last);
        };
        start.extend_from_slice(bytes);
        let begins_so = sse::begins(start).or((is_last || start.len() > MAX_START_BYTES).then_some(false));
        let Some(is_events) = begins_so else { return Some(Vec::new()) };
        let start = mem::take(start);
        self.kind = if is_events {
            Kind::events(*max_event_bytes, true)
        } else {
            mem::replace(otherwise, Kind::Blind)
        };
        let out = self.read(&start, is_last);
        // What was held back goes out with the rest.
        if start.len() == bytes.len() { out } else { Some(out.unwrap_or(start)) }
    }

    fn read(&mut self, bytes: &[u8], is_last: bool) -> Option<Vec<u8>> {
        let (reader, reading) = (self.reader, &mut self.reading);
        match &mut self.kind {
            Kind::Blind | Kind::Encoded | Kind::Unsure { .. } => {}
            Kind::Json(buffer) => buffer.push(bytes),
            Kind::Values(values) => values.push(bytes, |value| add_value(reader, &value, reading)),
            Kind::Frames(frames) => frames.push(bytes, |frame| add_frame(reader, &frame, reading)),
            Kind::Events { splitter, edit, dropped } => {
                let mut pass = Pass { reader, reading, edit: *edit, dropped, out: Vec::new() };
                splitter.push(bytes, |piece| pass.piece(piece));
                if is_last {
                    splitter.finish(|piece| pass.piece(piece));
                }
                let out = pass.out;
                return (*edit && out != bytes).then_some(out);
            }
        }
        None
    }

    /// Ends the body, also one that was cut. Returns what it told.
    #[must_use]
    pub fn finish(mut self) -> Reading {
        // A plain answer was made whole before its first byte was sent: who hangs up early pays for
        // the length it announced.
        let body_bytes = self.seen_bytes.max(self.announced_bytes);
        let (reader, reading) = (self.reader, &mut self.reading);
        let mut tokens = match self.kind {
            Kind::Blind | Kind::Unsure { .. } => body_bytes.div_ceil(BYTES_PER_TOKEN),
            Kind::Encoded => {
                reading.is_opaque = true;
                0
            }
            // Too long to be kept.
            Kind::Json(buffer) if buffer.bytes().is_empty() && self.seen_bytes > 0 => {
                reading.is_opaque = true;
                0
            }
            Kind::Json(buffer) => {
                let text_bytes = reader.body(buffer.bytes(), reading);
                text_bytes.unwrap_or(body_bytes).div_ceil(BYTES_PER_TOKEN)
            }
            Kind::Values(mut values) => {
                values.finish(|value| add_value(reader, &value, reading));
                reading.output_bytes.div_ceil(BYTES_PER_TOKEN)
            }
            Kind::Frames(mut frames) => {
                frames.finish(|frame| add_frame(reader, &frame, reading));
                reading.output_bytes.div_ceil(BYTES_PER_TOKEN)
            }
            Kind::Events { mut splitter, mut dropped, .. } => {
                let mut pass = Pass { reader, reading, edit: false, dropped: &mut dropped, out: Vec::new() };
                splitter.finish(|piece| pass.piece(piece));
                self.reading.output_bytes.div_ceil(BYTES_PER_TOKEN)
            }
        };
        if reader.has_no_text() {
            tokens = 0;
        }
        self.reading.output_tokens_seen = (self.seen_bytes > 0).then_some(tokens);
        self.reading
    }
}

fn add_value(reader: Reader, value: &Value<'_>, reading: &mut Reading) {
    match value {
        Value::Object(bytes) => {
            if reader.event(None, bytes, reading).is_err() {
                reading.add_unread(bytes.len());
            }
        }
        Value::Unread(bytes) if reading.is_opaque || *bytes > sse::MAX_EVENT_BYTES => reading.add_opaque(),
        Value::Unread(bytes) => reading.add_unread(*bytes),
    }
}

fn add_frame(reader: Reader, frame: &Frame<'_>, reading: &mut Reading) {
    match frame {
        Frame::Message { is_exception: true, .. } => {
            (reading.saw_error, reading.saw_readable) = (true, true);
        }
        Frame::Message { kind, payload, .. } => {
            if reader.event(*kind, payload, reading).is_err() {
                reading.add_unread(payload.len());
            }
        }
        Frame::Unread(bytes) => reading.add_unread(*bytes),
    }
}

/// One run over pieces of a stream of events.
struct Pass<'p> {
    reader: Reader,
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
                self.reading.add_opaque();
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
            Data::Lines(data) if self.reader.is_chat() => {
                let payload = chunk::read(&data);
                self.chat_event(event, &payload);
                // No place in the event is the usage's alone, so it goes with all of it or stays.
                if self.edit && stream_edit::is_usage_chunk(&payload) { Fate::Drop } else { Fate::Keep }
            }
            Data::Lines(data) => {
                if self.reader.event(None, &data, self.reading).is_err() {
                    self.reading.add_unread(event.len());
                }
                Fate::Keep
            }
            Data::Line(at) if self.reader.is_chat() => {
                let payload = chunk::read(event.get(at.clone()).unwrap_or_default());
                self.chat_event(event, &payload);
                if self.edit { stream_edit::edit(event, &at, &payload) } else { Fate::Keep }
            }
            Data::Line(at) => {
                let data = event.get(at).unwrap_or_default();
                if self.reader.event(None, data, self.reading).is_err() {
                    self.reading.add_unread(event.len());
                }
                Fate::Keep
            }
        };
        *self.dropped = fate == Fate::Drop;
        match fate {
            Fate::Drop => {}
            Fate::Keep => self.emit(event),
            Fate::Replace(changed) => self.emit(&changed),
        }
    }

    fn chat_event(&mut self, event: &[u8], payload: &chunk::Payload<'_>) {
        if self.reader.chat_event(payload, self.reading).is_err() {
            self.reading.add_unread(event.len());
        }
    }

    fn emit(&mut self, bytes: &[u8]) {
        if self.edit {
            self.out.extend_from_slice(bytes);
        }
    }
}

fn number(headers: &Headers, name: &str) -> Option<u64> {
    std::str::from_utf8(headers.get(name)?).ok()?.trim().parse().ok()
}

/// Bedrock counts a plain invocation's tokens in headers, too, each class in one of its own.
fn told_by_headers(headers: &Headers) -> Reading {
    let mut reading = Reading::default();
    if let Some(input) = number(headers, "x-amzn-bedrock-input-token-count")
        && let Some(output) = number(headers, "x-amzn-bedrock-output-token-count")
    {
        let cached = number(headers, "x-amzn-bedrock-cache-read-input-token-count").unwrap_or(0);
        let written = number(headers, "x-amzn-bedrock-cache-write-input-token-count").unwrap_or(0);
        let told = format!(
            r#"{{"inputTokenCount":{input},"outputTokenCount":{output},
            "cacheReadInputTokenCount":{cached},"cacheWriteInputTokenCount":{written}}}"#
        );
        reading.add_usage(&told, &usage::INVOCATION);
        reading.finish_usage();
    }
    reading
}

/// Whether the body is compressed or otherwise encoded.
#[must_use]
pub fn is_encoded(headers: &Headers) -> bool {
    headers.all("content-encoding").any(|value| {
        let value = value.trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })
}

/// The content type without its parameters, in lower case. Several that differ say as little as none.
fn media_type(headers: &Headers) -> Option<String> {
    let values = headers.all("content-type").flat_map(|value| value.split(|byte| *byte == b','));
    let mut types = values.filter_map(|value| Some(value.split(|byte| *byte == b';').next()?.trim_ascii()));
    let first = types.next()?;
    let is_clear = types.all(|other| other.eq_ignore_ascii_case(first));
    is_clear.then(|| String::from_utf8_lossy(first).to_ascii_lowercase())
}
