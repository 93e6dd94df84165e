//! What no input may take: more memory than its bound for a stream without an end, or more stack than a
//! filter has for JSON without a floor.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

use purser_filter::answer::{AnswerBody, Plan};
use purser_filter::api::Route;
use purser_filter::dialect::Reader;
use purser_filter::headers::{Headers, serialize};
use purser_filter::pool::Pool;
use purser_filter::request::{self, BodyKind};
use purser_fuzz::input::DIALECTS;
use purser_protocol::Api;

/// A stream that is cut nowhere, bytes.
const STREAM_BYTES: usize = 40 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// What one answer may take of the pool.
const MAX_BODY_BYTES: usize = 1 << 20;
/// The longest event that is kept is 8 MiB; what joins its lines doubles it.
const MOST_KIB: u64 = 24 << 10;
/// As much as the filter's module has.
const STACK_BYTES: usize = 1 << 20;

/// The most memory this process ever had, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number of kB")
}

/// Sends `start`, then `filler` for as long as the stream lasts.
fn endless(api: Api, content_type: &str, start: &[u8], filler: &[u8]) {
    let pool = Pool::new(64 << 20);
    let headers = Headers::parse(serialize(&[("content-type", content_type)])).expect("a block");
    let reader = Reader::new(&Route::new(api, DIALECTS[0]));
    let plan = Plan { reader, stream: true, edit: true, max_bytes: MAX_BODY_BYTES };
    let mut body = AnswerBody::new(&headers, plan, &pool);
    let chunk = filler.repeat(CHUNK_BYTES / filler.len());
    let before_kib = peak_kib();
    let mut held_back = start.len();
    body.push(start, false);
    for _ in 0..STREAM_BYTES / CHUNK_BYTES {
        let out = body.push(&chunk, false).map_or(chunk.len(), |changed| changed.len());
        held_back = (held_back + chunk.len()).saturating_sub(out);
    }
    let grown_kib = peak_kib() - before_kib;
    assert!(grown_kib < MOST_KIB, "{content_type}: {grown_kib} KiB for {STREAM_BYTES} bytes");
    assert!(held_back <= 9 << 20, "{content_type}: {held_back} bytes held back");
    let _reading = body.finish();
    assert_eq!(pool.free_bytes(), 64 << 20);
}

/// One after the other: they watch the memory of one process.
#[test]
fn streams_without_an_end_stay_within_their_bound() {
    endless(Api::OpenaiChat, "text/event-stream", b"data: {\"a\":\"", b"x");
    endless(Api::OpenaiResponses, "text/event-stream", b"data: {\"a\":\"", b"x");
    endless(Api::AnthropicMessages, "text/event-stream", b"", b"data: x\n");
    endless(Api::GeminiGenerate, "application/json", b"[{\"a\":\"", b"x");
    endless(Api::Ollama, "application/x-ndjson", b"{\"a\":", b"[");
    endless(Api::OpenaiChat, "application/json", b"{\"a\":\"", b"x");
    // Lengths that announce 4 GiB, with the checksum that makes them believed.
    let mut prelude = u32::MAX.to_be_bytes().to_vec();
    prelude.extend(0_u32.to_be_bytes());
    prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
    endless(Api::BedrockConverse, "application/vnd.amazon.eventstream", &prelude, b"x");
}

#[test]
fn json_without_a_floor_costs_no_stack() {
    let check = || {
        for api in Api::ALL {
            for open in ["[", "{\"content\":", "[{\"content\":[{\"source\":"] {
                for member in ["messages", "input", "contents", "prompt", "requests", "images", "skipped"] {
                    let deep = open.repeat(4_000);
                    let body = format!("{{\"model\":\"m\",\"{member}\":{deep}");
                    let _refused =
                        request::read(&Route::new(api, DIALECTS[0]), &BodyKind::default(), body.as_bytes());
                    let closed: String = deep.chars().rev().filter_map(closing).collect();
                    let body = format!("{body}0{closed}}}");
                    let _read =
                        request::read(&Route::new(api, DIALECTS[0]), &BodyKind::default(), body.as_bytes());
                }
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(check).expect("a thread");
    assert!(thread.join().is_ok());
}

fn closing(open: char) -> Option<char> {
    match open {
        '[' => Some(']'),
        '{' => Some('}'),
        _ => None,
    }
}
