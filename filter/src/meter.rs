//! Reading usage out of an answer while it flows by.

use std::cell::Cell;
use std::rc::Rc;

use purser_protocol::{MAX_NAME_BYTES, Usage};

use crate::chunk::{self, Chunk, Payload};
use crate::usage;

/// What an answer told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The provider's usage; in a stream the last one.
    pub usage: Option<Usage>,
    /// That usage came in a chunk of its own or with the whole answer, so none follows.
    pub usage_is_final: bool,
    /// The model that answered.
    pub answered_model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Bytes of generated text seen, and of events that could not be read.
    pub output_bytes: u64,
    /// Tokens of output, at least, by what was seen of the body; absent when nothing was.
    pub output_tokens_seen: Option<u64>,
    /// An event of a stream could be read.
    pub saw_readable: bool,
    /// An event of a stream could not be read.
    pub saw_unread: bool,
    /// The answer is whole: the stream said so, or the body is one JSON object.
    pub is_done: bool,
}

impl Reading {
    /// Takes in the payload of one event of a stream.
    pub fn add_event(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::Done => self.is_done = true,
            Payload::Chunk(chunk) => {
                self.saw_readable = true;
                self.add_names(chunk);
                self.output_bytes = self.output_bytes.saturating_add(chunk.output_bytes().unwrap_or(0));
                if let Some(usage) = chunk.usage_object().and_then(usage::read_openai) {
                    self.usage = Some(usage);
                    self.usage_is_final = chunk.has_empty_choices();
                }
            }
            Payload::Other => {}
        }
    }

    /// Takes in what can't be read: so many bytes of a stream.
    pub fn add_unread(&mut self, bytes: usize) {
        self.saw_unread = true;
        self.output_bytes = self.output_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Takes in a whole JSON answer. Returns how many bytes of text were generated for it; nothing
    /// when it doesn't show.
    pub fn add_body(&mut self, body: &[u8]) -> Option<u64> {
        let Payload::Chunk(chunk) = chunk::read(body) else {
            return None;
        };
        self.add_names(&chunk);
        self.usage = chunk.usage_object().and_then(usage::read_openai);
        self.usage_is_final = true;
        self.is_done = true;
        chunk.output_bytes()
    }

    fn add_names(&mut self, chunk: &Chunk<'_>) {
        let bounded = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len());
        if self.answered_model.is_none() {
            self.answered_model = chunk.model().filter(bounded);
        }
        if self.response_id.is_none() {
            self.response_id = chunk.id().filter(bounded);
        }
    }
}

/// Memory that all answers of one proxy worker may use together for metering.
#[derive(Debug, Clone)]
pub struct Pool {
    free_bytes: Rc<Cell<usize>>,
}

impl Pool {
    /// A pool of a size.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { free_bytes: Rc::new(Cell::new(bytes)) }
    }
}

/// Keeps a JSON answer until it is whole, within bounds.
#[derive(Debug)]
pub struct BodyBuffer {
    bytes: Vec<u8>,
    max_bytes: usize,
    pool: Pool,
    overflowed: bool,
}

impl BodyBuffer {
    /// An empty buffer that takes at most `max_bytes`, out of the pool.
    #[must_use]
    pub fn new(max_bytes: usize, pool: Pool) -> Self {
        Self { bytes: Vec::new(), max_bytes, pool, overflowed: false }
    }

    /// Adds bytes. A body that outgrows its bound is forgotten: part of a JSON object tells nothing.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.overflowed {
            return;
        }
        let length = self.bytes.len().saturating_add(bytes.len());
        match self.pool.free_bytes.get().checked_sub(bytes.len()) {
            Some(free) if length <= self.max_bytes => {
                self.pool.free_bytes.set(free);
                self.bytes.extend_from_slice(bytes);
            }
            _ => {
                self.release();
                self.overflowed = true;
            }
        }
    }

    /// The body so far; empty after an overflow.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn release(&mut self) {
        let free = self.pool.free_bytes.get().saturating_add(self.bytes.len());
        self.pool.free_bytes.set(free);
        self.bytes = Vec::new();
    }
}

impl Drop for BodyBuffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn tokens(input: u64, output: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, ..Usage::default() }
    }

    #[test]
    fn the_last_usage_of_a_stream_counts() {
        let mut reading = Reading::default();
        for data in [
            r#"{"id":"c-1","model":"m-1","choices":[{"delta":{"content":"four"}}],"usage":null}"#,
            r#"{"id":"c-2","model":"m-2","choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":"x","completion_tokens":9}}"#,
        ] {
            reading.add_event(&chunk::read(data.as_bytes()));
        }
        assert_eq!(reading.usage, Some(tokens(1, 1)));
        assert!(!reading.usage_is_final && !reading.is_done);
        let last = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}"#;
        reading.add_event(&chunk::read(last.as_bytes()));
        reading.add_event(&chunk::read(b"[DONE]"));
        assert_eq!(
            reading,
            Reading {
                usage: Some(tokens(5, 6)),
                usage_is_final: true,
                answered_model: Some("m-1".to_owned()),
                response_id: Some("c-1".to_owned()),
                output_bytes: 4,
                output_tokens_seen: None,
                saw_readable: true,
                saw_unread: false,
                is_done: true,
            }
        );
    }

    #[test]
    fn a_body_is_read_whole_or_not_at_all() {
        let mut reading = Reading::default();
        let cut = br#"{"id":"c","model":"m","usage":{"prompt_tokens":3,"completion_"#;
        assert_eq!(reading.add_body(cut), None);
        assert_eq!(reading, Reading::default());
        let body = br#"

            {"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        assert_eq!(reading.add_body(body), Some(0));
        assert_eq!(reading.usage, Some(tokens(3, 4)));
        assert!(reading.is_done && reading.usage_is_final);
        let long = format!(r#"{{"id":"{}","model":""}}"#, "x".repeat(257));
        let mut reading = Reading::default();
        assert_eq!(reading.add_body(long.as_bytes()), None);
        assert_eq!((reading.response_id, reading.answered_model), (None, None));
    }

    #[test]
    fn buffers_stay_within_their_bound_and_the_pool() {
        let pool = Pool::new(10);
        let mut first = BodyBuffer::new(8, pool.clone());
        first.push(b"12345678");
        assert_eq!(first.bytes(), b"12345678");
        let mut second = BodyBuffer::new(8, pool.clone());
        second.push(b"123");
        assert_eq!(second.bytes(), b"");
        first.push(b"9");
        first.push(b"x");
        assert_eq!(first.bytes(), b"");
        assert_eq!(pool.free_bytes.get(), 10);
        let mut third = BodyBuffer::new(10, pool.clone());
        third.push(b"1234567890");
        drop(third);
        assert_eq!(pool.free_bytes.get(), 10);
    }
}
