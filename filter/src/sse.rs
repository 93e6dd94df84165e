//! Cutting a stream of server-sent events into events, however its bytes arrive.
//!
//! Works on bytes: events are split at any byte, also inside a character. Lines end in LF, CRLF or
//! CR; an empty line ends an event. Nothing is held back longer than one event, and an event that
//! outgrows [`MAX_EVENT_BYTES`] is handed on unread.

use std::ops::Range;

/// Longest event that is read, bytes.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// A part of the stream. The parts together are the stream, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole event with the empty line that ends it.
    Event(&'a [u8]),
    /// The LF of an event whose last CR was handed on already.
    TrailingLf,
    /// A part of an event that is too long to be read.
    Opaque(&'a [u8]),
}

/// Whether a body that begins so is a stream of events; nothing while it may be or not be one.
#[must_use]
pub fn begins(start: &[u8]) -> Option<bool> {
    const STARTS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
    let blank = start.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = start.get(blank..).unwrap_or_default();
    if STARTS.iter().any(|field| line.starts_with(field)) {
        return Some(true);
    }
    let may_become = STARTS.iter().any(|field| field.starts_with(line));
    (!may_become).then_some(false)
}

/// Cuts a stream into [`Piece`]s.
#[derive(Debug)]
pub struct Splitter {
    /// The bytes of the event under way.
    event: Vec<u8>,
    max_event_bytes: usize,
    /// Nothing stands on the current line yet.
    line_is_empty: bool,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// That CR ended an event.
    after_event: bool,
    /// The event under way is too long and is handed on unread.
    is_opaque: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new(MAX_EVENT_BYTES)
    }
}

impl Splitter {
    /// A splitter that reads events up to a length.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            event: Vec::new(),
            max_event_bytes,
            line_is_empty: true,
            after_cr: false,
            after_event: false,
            is_opaque: false,
        }
    }

    /// Takes the next bytes; hands over every piece that they complete.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Piece<'_>)) {
        let mut rest = bytes;
        if self.after_event
            && let [b'\n', tail @ ..] = rest
        {
            sink(Piece::TrailingLf);
            (self.after_cr, self.after_event) = (false, false);
            rest = tail;
        }
        while let Some(end) = self.event_end(rest) {
            let (head, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            self.end_event(head, &mut sink);
            rest = tail;
            if self.after_cr
                && let [b'\n', tail @ ..] = rest
            {
                sink(Piece::TrailingLf);
                self.after_cr = false;
                rest = tail;
            }
            self.after_event = self.after_cr;
        }
        self.keep(rest, &mut sink);
    }

    /// Ends the stream; hands over what is left as if it were whole.
    pub fn finish(&mut self, mut sink: impl FnMut(Piece<'_>)) {
        if !self.event.is_empty() {
            sink(Piece::Event(&self.event));
        }
        *self = Self::new(self.max_event_bytes);
    }

    /// Reads on to the end of the event: the index after it, or nothing when it goes on.
    fn event_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            self.after_event = false;
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    if self.line_is_empty {
                        return index.checked_add(1);
                    }
                    self.line_is_empty = true;
                }
                _ => {
                    self.after_cr = false;
                    self.line_is_empty = false;
                }
            }
        }
        None
    }

    fn end_event(&mut self, head: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        // By its length alone: whether an event is read must not depend on where the stream was cut.
        let is_too_long = self.event.len().saturating_add(head.len()) > self.max_event_bytes;
        if self.is_opaque || (is_too_long && self.event.is_empty()) {
            sink(Piece::Opaque(head));
        } else if self.event.is_empty() {
            sink(Piece::Event(head));
        } else {
            self.event.extend_from_slice(head);
            sink(if is_too_long { Piece::Opaque(&self.event) } else { Piece::Event(&self.event) });
        }
        self.event.clear();
        self.is_opaque = false;
    }

    fn keep(&mut self, rest: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        if rest.is_empty() {
            return;
        }
        if self.is_opaque {
            sink(Piece::Opaque(rest));
            return;
        }
        self.event.extend_from_slice(rest);
        if self.event.len() > self.max_event_bytes {
            sink(Piece::Opaque(&self.event));
            self.event = Vec::new();
            self.is_opaque = true;
        }
    }
}

/// The data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// It has none: a comment, or another field.
    None,
    /// One `data` line; where its value stands in the event.
    Line(Range<usize>),
    /// Several `data` lines, joined as the standard says.
    Lines(Vec<u8>),
}

/// Finds the data of an event.
#[must_use]
pub fn data(event: &[u8]) -> Data {
    let mut found = Data::None;
    let mut start = 0_usize;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let end = start.saturating_add(line.len());
        if let Some(value) = data_value(line) {
            let at = end.saturating_sub(value.len())..end;
            found = match found {
                Data::None => Data::Line(at),
                Data::Line(first) => Data::Lines([event.get(first).unwrap_or_default(), value].join(&b'\n')),
                Data::Lines(mut lines) => {
                    // In place: an event may be a million lines.
                    lines.push(b'\n');
                    lines.extend_from_slice(value);
                    Data::Lines(lines)
                }
            };
        }
        start = end.saturating_add(1);
    }
    found
}

/// Whether an event without data is what keeps a stream alive or names its events: nothing in it can
/// be the answer's text.
#[must_use]
pub fn is_quiet(event: &[u8]) -> bool {
    event.split(|byte| matches!(byte, b'\n' | b'\r')).all(|line| {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let field = line.split(|byte| *byte == b':').next().unwrap_or_default();
        matches!(field, b"" | b"event" | b"id" | b"retry")
    })
}

fn data_value(line: &[u8]) -> Option<&[u8]> {
    // A byte order mark may stand before the first event.
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    match line.strip_prefix(b"data")? {
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        [] => Some(&[]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[derive(Debug, PartialEq)]
    enum Owned {
        Event(Vec<u8>),
        Lf,
        Opaque(Vec<u8>),
    }

    fn collect(max: usize, parts: &[&[u8]]) -> Vec<Owned> {
        let mut splitter = Splitter::new(max);
        let mut pieces = Vec::new();
        let mut sink = |piece: Piece<'_>| {
            pieces.push(match piece {
                Piece::Event(raw) => Owned::Event(raw.to_vec()),
                Piece::TrailingLf => Owned::Lf,
                Piece::Opaque(raw) => Owned::Opaque(raw.to_vec()),
            });
        };
        for part in parts {
            splitter.push(part, &mut sink);
        }
        splitter.finish(&mut sink);
        pieces
    }

    fn bytes(pieces: &[Owned]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|piece| match piece {
                Owned::Event(raw) | Owned::Opaque(raw) => raw.clone(),
                Owned::Lf => vec![b'\n'],
            })
            .collect()
    }

    /// The data of each event, which must not depend on where the stream was cut.
    fn payloads(pieces: &[Owned]) -> Vec<Vec<u8>> {
        pieces
            .iter()
            .filter_map(|piece| match piece {
                Owned::Event(raw) => match data(raw) {
                    Data::None => None,
                    Data::Line(at) => Some(raw[at].to_vec()),
                    Data::Lines(lines) => Some(lines),
                },
                _ => None,
            })
            .collect()
    }

    const STREAM: &str = "\u{feff}data: one\n\n: comment\n\ndata:two\r\n\r\nevent: x\rdata: thr\u{e9}e\r\r\
        \n\n\r\n\r\rid: 1\ndata: a\ndata\ndata: b\r\n\ndatum: no\n\ndata:  spaced\n\r\ndata: tail";

    #[test]
    fn cuts_at_every_byte_give_the_same_events() {
        let stream = STREAM.as_bytes();
        let whole = collect(1000, &[stream]);
        assert_eq!(bytes(&whole), stream);
        let expected: Vec<&[u8]> =
            vec![b"one", b"two", "thr\u{e9}e".as_bytes(), b"a\n\nb", b" spaced", b"tail"];
        assert_eq!(payloads(&whole), expected);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let parts = [&stream[..first], &stream[first..second], &stream[second..]];
                let pieces = collect(1000, &parts);
                assert_eq!(bytes(&pieces), stream, "cut at {first}, {second}");
                assert_eq!(payloads(&pieces), expected, "cut at {first}, {second}");
            }
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(payloads(&collect(1000, &single)), expected);
    }

    #[test]
    fn an_event_goes_out_with_its_last_byte() {
        for ending in ["\n\n", "\r\r", "\r\n\r\n", "\n\r"] {
            let event = format!("data: x{ending}");
            let mut splitter = Splitter::default();
            let mut count = 0;
            splitter.push(event.as_bytes(), |_| count += 1);
            assert!(count >= 1, "{ending:?}");
            assert!(splitter.event.is_empty());
        }
    }

    #[test]
    fn oversize_events_pass_unread_and_the_next_is_read_again() {
        let long = format!("data: {}\r\n\r\ndata: next\n\n", "x".repeat(50));
        let stream = long.as_bytes();
        for size in 1..stream.len() {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            let pieces = collect(20, &parts);
            assert_eq!(bytes(&pieces), stream, "chunks of {size}");
            assert_eq!(payloads(&pieces), [b"next"], "chunks of {size}");
        }
    }

    #[test]
    fn whether_an_event_is_too_long_does_not_depend_on_the_cuts() {
        let stream = b"data: 12345\n\ndata: 123456\n\ndata: 1\n\n";
        for size in 1..=stream.len() {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(payloads(&collect(13, &parts)), [&b"12345"[..], b"1"], "chunks of {size}");
        }
    }

    #[test]
    fn an_event_of_a_million_lines_is_joined_in_one_go() {
        let event = "data\n".repeat(1 << 20);
        assert_eq!(data(event.as_bytes()), Data::Lines(vec![b'\n'; (1 << 20) - 1]));
    }
}
