//! JSON values one after the other, as lines or in an array: the same objects, however the stream is cut,
//! and those that a general parser finds.

use purser_filter::values::{Value, Values};
use serde_json::value::RawValue;

use crate::input::{Cuts, Input};

/// What came of a stream, runs of unread bytes as one.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Object(Vec<u8>),
    Unread(usize),
}

/// The input: how to cut, the longest object, the stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = Cuts::of(&mut input);
    let max_object_bytes = match input.byte() {
        0..128 => usize::MAX,
        short => usize::from(short) - 120,
    };
    let stream = input.rest();
    let whole = run(max_object_bytes, &[stream]);
    assert_eq!(whole, run(max_object_bytes, &cuts.apply(stream)), "the same, however it is cut");
    for seen in &whole {
        let (Seen::Object(bytes), true) = (seen, max_object_bytes < usize::MAX) else { continue };
        assert!(bytes.len() <= max_object_bytes, "an object that is too long was kept");
    }
    if let Some(expected) = objects(stream).filter(|_| max_object_bytes == usize::MAX) {
        assert_eq!(whole, expected);
    }
}

fn run(max_object_bytes: usize, chunks: &[&[u8]]) -> Vec<Seen> {
    let (mut values, mut seen) = (Values::new(max_object_bytes), Vec::new());
    let mut take = |value: Value<'_>| match value {
        Value::Object(bytes) => seen.push(Seen::Object(bytes.to_vec())),
        Value::Unread(bytes) => match seen.last_mut() {
            Some(Seen::Unread(run)) => *run += bytes,
            _ => seen.push(Seen::Unread(bytes)),
        },
    };
    for chunk in chunks {
        values.push(chunk, &mut take);
    }
    values.finish(&mut take);
    seen
}

/// The objects that a general parser finds, if the stream is an array of objects or a row of them.
fn objects(stream: &[u8]) -> Option<Vec<Seen>> {
    let text = std::str::from_utf8(stream).ok()?;
    let row = || {
        let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        values.collect::<Result<Vec<_>, _>>().ok()
    };
    let found = serde_json::from_str::<Vec<&RawValue>>(text).ok().or_else(row)?;
    let object =
        |raw: &&RawValue| raw.get().starts_with('{').then(|| Seen::Object(raw.get().as_bytes().to_vec()));
    found.iter().map(object).collect()
}
