//! Answers of every API and content type: the same reading and the same bytes to the app, however they
//! are cut; without an edit, the bytes as they came; and the memory given back.

use purser_filter::answer::{AnswerBody, Plan};
use purser_filter::dialect::Reader;
use purser_filter::headers::{Headers, serialize};
use purser_filter::meter::Reading;
use purser_filter::pool::Pool;
use purser_protocol::{Api, MAX_NAME_BYTES, MAX_UNITS};

use crate::input::{Cuts, Input};

/// What an answer may say it is, in the order in which inputs number them.
pub const CONTENT_TYPES: [&str; 6] = [
    "application/json",
    "text/event-stream",
    "application/vnd.amazon.eventstream",
    "application/x-ndjson",
    "image/png",
    "",
];

const POOL_BYTES: usize = 1 << 20;

/// A count of several parts that may each be this large.
const MOST_TOKENS: u64 = 1 << 42;

/// The input: API, dialect, content type, flags, how to cut, the body.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let reader = Reader::new(&input.route());
    let content_type = CONTENT_TYPES[input.below(CONTENT_TYPES.len())];
    let flags = input.byte();
    let has = |bit: u8| flags & (1 << bit) != 0;
    let cuts = Cuts::of(&mut input);
    let body = input.rest();
    let max_bytes = if has(2) { 64 } else { POOL_BYTES };
    let plan = Plan { reader, stream: has(0), edit: has(1) && reader.is_chat(), max_bytes };
    let mut pairs = Vec::new();
    if !content_type.is_empty() {
        pairs.push(("content-type", content_type));
    }
    if has(3) {
        pairs.push(("content-encoding", "gzip"));
    }
    if has(4) {
        pairs.push(("content-length", "18446744073709551616"));
    }
    if has(5) {
        pairs.push(("x-amzn-bedrock-input-token-count", "7"));
        pairs.push(("x-amzn-bedrock-output-token-count", "9"));
    }
    let headers = Headers::parse(serialize(&pairs)).expect("a block as it is written");
    let (whole, reading) = run(&headers, plan, &[body]);
    let cut = run(&headers, plan, &cuts.apply(body));
    assert!((&whole, &reading) == (&cut.0, &cut.1), "cut: {:?}\nwhole: {reading:?}", cut.1);
    if !plan.edit {
        assert!(whole == body, "an answer that isn't edited changed");
    }
    check_reading(&reading, body);
}

fn run(headers: &Headers, plan: Plan, chunks: &[&[u8]]) -> (Vec<u8>, Reading) {
    let pool = Pool::new(POOL_BYTES);
    let mut body = AnswerBody::new(headers, plan, &pool);
    let mut out = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        match body.push(chunk, index + 1 == chunks.len()) {
            Some(changed) => {
                assert!(body.may_edit(), "changed without being asked to");
                out.extend(changed);
            }
            None => out.extend_from_slice(chunk),
        }
    }
    let reading = body.finish();
    assert_eq!(pool.free_bytes(), POOL_BYTES, "memory is given back");
    (out, reading)
}

fn check_reading(reading: &Reading, body: &[u8]) {
    if let Some(usage) = &reading.usage {
        assert!(usage.classes().into_iter().all(|count| count <= MOST_TOKENS), "{usage:?}");
    }
    assert!(reading.units.len() <= MAX_UNITS);
    for name in [&reading.answered_model, &reading.response_id].into_iter().flatten() {
        assert!((1..=MAX_NAME_BYTES).contains(&name.len()));
    }
    assert!(reading.reported_cost_nanousd.is_none_or(|cost| cost >= 0), "{reading:?}");
    // No byte of the body is counted twice as text.
    assert!(reading.output_bytes <= u64::try_from(body.len()).expect("a short body"), "{reading:?}");
}

/// An input of this check.
#[must_use]
pub fn seed(api: Api, dialect: u8, content_type: &str, flags: u8, body: &[u8]) -> Vec<u8> {
    let place = |at: Option<usize>| u8::try_from(at.unwrap_or(CONTENT_TYPES.len() - 1)).expect("few");
    let api = place(Api::ALL.iter().position(|known| *known == api));
    let kind = place(CONTENT_TYPES.iter().position(|known| *known == content_type));
    [&[api, dialect, kind, flags, 0, 0], body].concat()
}
