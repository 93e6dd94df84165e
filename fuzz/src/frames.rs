//! Amazon's binary messages: the same messages and the same number of unread bytes, however the stream
//! is cut; what was framed rightly is read.

use purser_filter::frames::{Frame, Frames};

use crate::input::{Cuts, Input};

/// What came of a stream, runs of unread bytes as one.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message { kind: Option<String>, is_exception: bool, payload: Vec<u8> },
    Unread(usize),
}

/// The input: how to cut, whether the rest is a stream or what to frame rightly, that.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = Cuts::of(&mut input);
    let (stream, payloads) = if input.flag() { framed(input) } else { (input.rest().to_vec(), Vec::new()) };
    let whole = run(&[&stream]);
    assert_eq!(whole, run(&cuts.apply(&stream)), "the same, however it is cut");
    let mut read = whole.iter();
    for expected in payloads {
        match read.next() {
            Some(Seen::Message { payload, .. }) => assert_eq!(*payload, expected),
            other => panic!("a sound message was not read: {other:?}"),
        }
    }
    let unread: usize =
        whole.iter().map(|seen| if let Seen::Unread(bytes) = seen { *bytes } else { 0 }).sum();
    assert!(unread <= stream.len());
}

fn run(chunks: &[&[u8]]) -> Vec<Seen> {
    let (mut frames, mut seen) = (Frames::default(), Vec::new());
    for chunk in chunks {
        frames.push(chunk, |frame| take(&frame, &mut seen));
    }
    frames.finish(|frame| take(&frame, &mut seen));
    seen
}

fn take(frame: &Frame<'_>, seen: &mut Vec<Seen>) {
    match frame {
        Frame::Message { kind, is_exception, payload } => seen.push(Seen::Message {
            kind: kind.map(str::to_owned),
            is_exception: *is_exception,
            payload: payload.to_vec(),
        }),
        Frame::Unread(bytes) => match seen.last_mut() {
            Some(Seen::Unread(run)) => *run += bytes,
            _ => seen.push(Seen::Unread(*bytes)),
        },
    }
}

/// Messages with sound checksums: each a kind's length, a payload's length, and their bytes; headers that
/// are no text make the payload unreadable, so they are text. What doesn't fill one follows as it is.
fn framed(mut input: Input<'_>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut stream, mut payloads) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let length = input.below(32);
        let kind = String::from_utf8_lossy(input.take(length)).into_owned();
        let length = usize::from(input.byte());
        let payload = input.take(length);
        stream.extend(message(&kind, payload));
        payloads.push(payload.to_vec());
    }
    (stream, payloads)
}

/// One message with one header.
#[must_use]
pub fn message(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = b"\x0b:event-type\x07".to_vec();
    headers.extend(u16::try_from(kind.len()).expect("a short kind").to_be_bytes());
    headers.extend(kind.as_bytes());
    let length = |bytes: usize| u32::try_from(bytes).expect("a short message").to_be_bytes();
    let mut message = length(12 + headers.len() + payload.len() + 4).to_vec();
    message.extend(length(headers.len()));
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}
