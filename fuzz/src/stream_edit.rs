//! Edited streams: what the filter asked for goes, whatever the chunks, and nothing else does.

use std::collections::BTreeMap;

use purser_filter::answer::{AnswerBody, Plan};
use purser_filter::api::Route;
use purser_filter::chunk::{self, Payload};
use purser_filter::config::Dialect;
use purser_filter::dialect::Reader;
use purser_filter::headers::{Headers, serialize};
use purser_filter::pool::Pool;
use purser_protocol::Api;
use serde_json::value::RawValue;

use crate::events::{Event, plain};
use crate::input::{Cuts, Input};

/// The input: how to cut, the stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = Cuts::of(&mut input);
    let stream = input.rest();
    let whole = edited(&[stream]);
    assert!(whole == edited(&cuts.apply(stream)), "the same, however it is cut");
    let mut rest = whole.as_slice();
    for event in plain(stream) {
        rest = expect(&event, rest);
    }
    assert!(rest.is_empty(), "added at the end: {:?}", String::from_utf8_lossy(rest));
}

/// What an app gets of a stream whose usage it did not ask for.
fn edited(chunks: &[&[u8]]) -> Vec<u8> {
    let headers = Headers::parse(serialize(&[("content-type", "text/event-stream")])).unwrap();
    let reader = Reader::new(&Route::new(Api::OpenaiChat, Dialect::Openai));
    let plan = Plan { reader, stream: true, edit: true, max_bytes: 1 << 20 };
    let mut body = AnswerBody::new(&headers, plan, &Pool::new(1 << 20));
    let mut out = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        match body.push(chunk, index + 1 == chunks.len()) {
            Some(changed) => out.extend(changed),
            None => out.extend_from_slice(chunk),
        }
    }
    out
}

/// The members of an object, by name; the last of a name counts.
type Members<'t> = BTreeMap<String, &'t RawValue>;

/// Takes an event, as it must come out, off the front of the output.
fn expect<'o>(event: &Event<'_>, out: &'o [u8]) -> &'o [u8] {
    let kept = out.strip_prefix(event.raw);
    let joined = event.data.join(&b'\n');
    let members: Option<Members<'_>> = match chunk::read(&joined) {
        // A member given twice is read by no one the same way: such an event stays.
        Payload::Chunk(_) => serde_json::from_slice(&joined).ok(),
        _ => None,
    };
    let Some(mut members) = members else {
        return kept.expect("an event without a chunk stays");
    };
    let is_empty =
        |raw: &&RawValue| serde_json::from_str::<Vec<&RawValue>>(raw.get()).is_ok_and(|all| all.is_empty());
    match members.get("usage").map(|usage| usage.get()) {
        Some(usage) if usage.starts_with('{') && members.get("choices").is_some_and(is_empty) => out,
        // Of an event of several lines no part is taken out.
        Some("null") if event.data.len() == 1 => {
            let has_plain_key = event.raw.windows(7).any(|window| window == b"\"usage\"");
            if let Some(rest) = kept {
                assert!(!has_plain_key || is_nested(event), "\"usage\":null stays: {event:?}");
                return rest;
            }
            members.remove("usage");
            shortened(event, &members, out)
        }
        _ => kept.expect("an event with usage of its own, without any, or of several lines stays"),
    }
}

/// Whether the key that is written plainly may be another one than the top-level member's.
fn is_nested(event: &Event<'_>) -> bool {
    let text = String::from_utf8_lossy(event.raw);
    text.matches("\"usage\"").count() > 1 || text.contains("\\u")
}

fn text<'t>((key, raw): (&'t String, &&'t RawValue)) -> (&'t String, &'t str) {
    (key, raw.get())
}

/// An event that lost one run of bytes, and with it one member.
fn shortened<'o>(event: &Event<'_>, expected: &Members<'_>, out: &'o [u8]) -> &'o [u8] {
    let raw = event.raw;
    let common = raw.iter().zip(out).take_while(|(a, b)| a == b).count();
    for lost in 1..=raw.len() - common {
        // The run may begin earlier than where the bytes first differ.
        for start in (0..=common).rev() {
            let (Some(head), Some(tail)) = (raw.get(..start), raw.get(start + lost..)) else { continue };
            let length = head.len() + tail.len();
            let Some((candidate, rest)) = out.split_at_checked(length) else { continue };
            if !(candidate.starts_with(head) && candidate.ends_with(tail)) {
                continue;
            }
            if let [Event { data, .. }] = plain(candidate).as_slice()
                && let [data] = data.as_slice()
                && let Ok(members) = serde_json::from_slice::<Members<'_>>(data)
                && members.iter().map(text).eq(expected.iter().map(text))
            {
                return rest;
            }
        }
    }
    panic!("{event:?} came out as {:?}", String::from_utf8_lossy(out));
}
