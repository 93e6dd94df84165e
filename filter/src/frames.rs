//! Cutting a stream of `application/vnd.amazon.eventstream` into messages, however its bytes arrive.
//!
//! A message is its total length, the length of its headers, a checksum of those two, the headers, the
//! payload, and a checksum of all before. Only lengths whose checksum fits are believed; a message that
//! is too long is passed over unread, and after a broken one nothing can be told apart any more.

/// Longest message that is read, bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// A part of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message.
    Message {
        /// The name of its event or exception.
        kind: Option<&'a str>,
        /// It tells of an error.
        is_exception: bool,
        /// What it carries.
        payload: &'a [u8],
    },
    /// So many bytes that can't be read.
    Unread(usize),
}

/// Cuts a stream into [`Frame`]s.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bytes of the message under way.
    message: Vec<u8>,
    /// Bytes to pass over.
    skip: usize,
    is_broken: bool,
}

impl Frames {
    /// Takes the next bytes; hands over every message that they complete.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Frame<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.is_broken {
                sink(Frame::Unread(rest.len()));
                return;
            }
            let skipped = self.skip.min(rest.len());
            if skipped > 0 {
                sink(Frame::Unread(skipped));
                self.skip = self.skip.saturating_sub(skipped);
                rest = rest.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = self.wanted_bytes().saturating_sub(self.message.len());
            let (head, tail) = rest.split_at_checked(wanted).unwrap_or((rest, &[]));
            self.message.extend_from_slice(head);
            rest = tail;
            if head.len() == wanted {
                self.advance(&mut sink);
            }
        }
    }

    /// Ends the stream: what is left of a message can't be read.
    pub fn finish(&mut self, mut sink: impl FnMut(Frame<'_>)) {
        if !self.message.is_empty() {
            sink(Frame::Unread(self.message.len()));
        }
        *self = Self::default();
    }

    /// How long the message under way is, as far as that is known.
    fn wanted_bytes(&self) -> usize {
        if self.message.len() < PRELUDE_BYTES {
            return PRELUDE_BYTES;
        }
        number(&self.message, 0).unwrap_or(PRELUDE_BYTES)
    }

    /// The prelude or the whole message is there.
    fn advance(&mut self, sink: &mut impl FnMut(Frame<'_>)) {
        let Some((total, headers)) = lengths(&self.message) else {
            return self.give_up(sink);
        };
        if self.message.len() < total {
            if total > MAX_MESSAGE_BYTES {
                sink(Frame::Unread(self.message.len()));
                self.skip = total.saturating_sub(self.message.len());
                self.message.clear();
            }
            return;
        }
        match read(&self.message, headers) {
            Some(frame) => {
                sink(frame);
                self.message.clear();
            }
            None => self.give_up(sink),
        }
    }

    fn give_up(&mut self, sink: &mut impl FnMut(Frame<'_>)) {
        sink(Frame::Unread(self.message.len()));
        self.message = Vec::new();
        self.is_broken = true;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

fn checksum_fits(bytes: &[u8], at: usize) -> bool {
    let expected = bytes.get(..at).map(crc32fast::hash).and_then(|sum| usize::try_from(sum).ok());
    expected.is_some() && expected == number(bytes, at)
}

/// The lengths of a message and of its headers, when its prelude is sound.
fn lengths(message: &[u8]) -> Option<(usize, usize)> {
    let (total, headers) = (number(message, 0)?, number(message, 4)?);
    let least = headers.checked_add(PRELUDE_BYTES)?.checked_add(CHECKSUM_BYTES)?;
    (checksum_fits(message, 8) && least <= total).then_some((total, headers))
}

fn read(message: &[u8], headers: usize) -> Option<Frame<'_>> {
    let payload_end = message.len().checked_sub(CHECKSUM_BYTES)?;
    if !checksum_fits(message, payload_end) {
        return None;
    }
    let headers_end = PRELUDE_BYTES.checked_add(headers)?;
    let mut rest = message.get(PRELUDE_BYTES..headers_end)?;
    let (mut kind, mut is_exception) = (None, false);
    while !rest.is_empty() {
        let (name, value, tail) = header(rest)?;
        match name {
            b":event-type" => kind = value,
            b":exception-type" | b":error-code" => (kind, is_exception) = (value, true),
            b":message-type" => is_exception |= matches!(value, Some("exception" | "error")),
            _ => {}
        }
        rest = tail;
    }
    Some(Frame::Message { kind, is_exception, payload: message.get(headers_end..payload_end)? })
}

/// One header: its name, its value when that is text, and what follows.
fn header(bytes: &[u8]) -> Option<(&[u8], Option<&str>, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (kind, rest) = rest.split_first()?;
    let fixed = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let (length, rest) = rest.split_at_checked(2)?;
            let length = usize::from(u16::from_be_bytes(length.try_into().ok()?));
            let (value, rest) = rest.split_at_checked(length)?;
            let text = if *kind == 7 { std::str::from_utf8(value).ok() } else { None };
            return Some((name, text, rest));
        }
        _ => return None,
    };
    Some((name, None, rest.get(fixed..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// A message with one text header and, to be passed over, one of each other type.
    fn message(kind: (&str, &str), payload: &[u8]) -> Vec<u8> {
        let mut headers = Vec::new();
        for (kind, value) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (5, 8), (8, 8), (9, 16)] {
            headers.extend([1, b'x', kind]);
            headers.extend(vec![0; value]);
        }
        headers.extend([1, b'b', 6, 0, 2, 255, 255]);
        headers.push(u8::try_from(kind.0.len()).unwrap());
        headers.extend(kind.0.as_bytes());
        headers.extend([7, 0, u8::try_from(kind.1.len()).unwrap()]);
        headers.extend(kind.1.as_bytes());
        let total = u32::try_from(12 + headers.len() + payload.len() + 4).unwrap();
        let mut message = total.to_be_bytes().to_vec();
        message.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message.extend(headers);
        message.extend(payload);
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message
    }

    fn collect(parts: &[&[u8]]) -> Vec<(String, bool, Vec<u8>)> {
        let mut frames = Frames::default();
        let mut read = Vec::new();
        let mut take = |frame: Frame<'_>| match frame {
            Frame::Message { kind, is_exception, payload } => {
                read.push((kind.unwrap_or("-").to_owned(), is_exception, payload.to_vec()));
            }
            Frame::Unread(bytes) => match read.last_mut() {
                Some((kind, _, payload)) if kind == "unread" => payload.extend(vec![0; bytes]),
                _ => read.push(("unread".to_owned(), false, vec![0; bytes])),
            },
        };
        for part in parts {
            frames.push(part, &mut take);
        }
        frames.finish(&mut take);
        read
    }

    #[test]
    fn cuts_at_every_byte_give_the_same_messages() {
        let mut stream = message((":event-type", "metadata"), b"{}");
        stream.extend(message((":exception-type", "throttlingException"), b""));
        stream.extend(message((":other", "x"), b"payload"));
        stream.extend(&message((":event-type", "cut"), b"cut")[..20]);
        let expected = [
            ("metadata".to_owned(), false, b"{}".to_vec()),
            ("throttlingException".to_owned(), true, Vec::new()),
            ("-".to_owned(), false, b"payload".to_vec()),
            ("unread".to_owned(), false, vec![0; 20]),
        ];
        for cut in 0..=stream.len() {
            let (head, tail) = stream.split_at(cut);
            assert_eq!(collect(&[head, tail]), expected, "cut at {cut}");
        }
        assert_eq!(collect(&stream.chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn one_wrong_bit_anywhere_is_noticed_and_nothing_after_it_is_believed() {
        let good = message((":event-type", "metadata"), b"{}");
        for at in 0..good.len() {
            let mut stream = good.clone();
            stream[at] ^= 0x10;
            stream.extend(&good);
            let read = collect(&[&stream]);
            assert!(read.iter().all(|(kind, _, _)| kind == "unread"), "bit in byte {at}: {read:?}");
            assert_eq!(read.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>(), stream.len());
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_passed_over_and_the_next_is_read() {
        let mut stream = message((":event-type", "chunk"), &vec![b'x'; MAX_MESSAGE_BYTES]);
        let long = stream.len();
        stream.extend(message((":event-type", "metadata"), b"{}"));
        for size in [1_000, 65_536, stream.len()] {
            let read = collect(&stream.chunks(size).collect::<Vec<_>>());
            assert_eq!(read.len(), 2, "chunks of {size}");
            assert_eq!((read[0].2.len(), read[1].0.as_str()), (long, "metadata"));
        }
    }
}
