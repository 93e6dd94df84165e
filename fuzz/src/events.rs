//! Server-sent events: the pieces are the stream, and the data of its events is what a plain reader of
//! the standard finds, however the bytes arrive.

use purser_filter::sse::{self, Data, Piece, Splitter};

use crate::input::{Cuts, Input};

/// An event of the plain reader.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its bytes, with the empty line that ends it.
    pub raw: &'a [u8],
    /// That line is there; the last event of a stream may lack it.
    pub is_ended: bool,
    /// The values of its `data` lines.
    pub data: Vec<&'a [u8]>,
}

/// What came of a stream: each piece, runs of unread bytes as one.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Event(Option<Vec<u8>>),
    Opaque(Vec<u8>),
}

/// The input: how to cut, the longest event, the stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = Cuts::of(&mut input);
    let max_event_bytes = match input.byte() {
        0..128 => usize::MAX,
        short => usize::from(short) - 120,
    };
    let stream = input.rest();
    let events = plain(stream);
    let whole = run(max_event_bytes, &[stream], &events);
    let cut = run(max_event_bytes, &cuts.apply(stream), &events);
    assert_eq!(whole, cut, "the same, however it is cut");
    if max_event_bytes == usize::MAX {
        let read: Vec<Option<Vec<u8>>> = whole
            .into_iter()
            .map(|seen| match seen {
                Seen::Event(data) => data,
                Seen::Opaque(bytes) => panic!("unread: {bytes:?}"),
            })
            .collect();
        assert_eq!(read, events.iter().map(joined).collect::<Vec<_>>());
    }
}

/// The data of an event as the standard has it.
fn joined(event: &Event<'_>) -> Option<Vec<u8>> {
    (!event.data.is_empty()).then(|| event.data.join(&b'\n'))
}

fn run(max_event_bytes: usize, chunks: &[&[u8]], events: &[Event<'_>]) -> Vec<Seen> {
    let mut splitter = Splitter::new(max_event_bytes);
    let (mut seen, mut out, mut fed) = (Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        splitter.push(chunk, |piece| take(piece, &mut seen, &mut out));
        fed += chunk.len();
        // Whatever ended by now is out, but for an LF that may belong to its last CR.
        let mut ended = 0;
        for event in events {
            ended += event.raw.len();
            let goes_on = ended > fed || !event.is_ended;
            assert!(goes_on || out.len() + 1 >= ended, "an event is held back longer than it lasts");
        }
    }
    splitter.finish(|piece| take(piece, &mut seen, &mut out));
    assert_eq!(out, chunks.concat(), "the pieces are the stream");
    seen
}

fn take(piece: Piece<'_>, seen: &mut Vec<Seen>, out: &mut Vec<u8>) {
    match piece {
        Piece::Event(raw) => {
            out.extend_from_slice(raw);
            seen.push(Seen::Event(match sse::data(raw) {
                Data::None => None,
                Data::Line(at) => Some(raw.get(at).expect("data within its event").to_vec()),
                Data::Lines(lines) => Some(lines),
            }));
        }
        Piece::TrailingLf => out.push(b'\n'),
        Piece::Opaque(bytes) => {
            out.extend_from_slice(bytes);
            match seen.last_mut() {
                Some(Seen::Opaque(run)) => run.extend_from_slice(bytes),
                _ => seen.push(Seen::Opaque(bytes.to_vec())),
            }
        }
    }
}

/// The events of a whole stream: its lines, gathered up to each empty one. A byte order mark may stand
/// before a line.
#[must_use]
pub fn plain(stream: &[u8]) -> Vec<Event<'_>> {
    let (mut events, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let (mut length, mut data) = (0, Vec::new());
        let is_ended = loop {
            let tail = rest.get(length..).expect("within the rest");
            let end = tail.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let line = tail.get(..end.unwrap_or(tail.len())).expect("within the line");
            let ending = match end.and_then(|end| tail.get(end..)) {
                Some([b'\r', b'\n', ..]) => 2,
                Some(_) => 1,
                None => 0,
            };
            length += line.len() + ending;
            data.extend(value(line));
            if line.is_empty() || ending == 0 {
                break ending > 0;
            }
        };
        let (raw, tail) = rest.split_at(length);
        events.push(Event { raw, is_ended, data });
        rest = tail;
    }
    events
}

fn value(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    if line == b"data" {
        return Some(b"");
    }
    let value = line.strip_prefix(b"data:")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}
