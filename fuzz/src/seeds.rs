//! Inputs to begin with: the golden corpus, told to each check in its own terms.

use std::path::{Path, PathBuf};

use purser_filter::api::{Recognised, recognise};
use purser_filter::config::Dialect;
use purser_filter::headers::{Headers, serialize};
use purser_protocol::Api;

use crate::input::DIALECTS;
use crate::{answer, request};

/// The name of a check, and an input of it.
pub type Seed = (&'static str, Vec<u8>);

/// One case of the corpus, as its files have it.
struct Case {
    provider: String,
    path: String,
    request: Vec<u8>,
    content_type: String,
    response: Vec<u8>,
}

/// Every seed there is.
///
/// # Panics
/// When the repository's files can't be read.
#[must_use]
pub fn all() -> Vec<Seed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seeds = Vec::new();
    for api in folders(&root.join("filter/corpus")) {
        for case in folders(&api) {
            add_case(&read_case(&case), &mut seeds);
        }
    }
    for message in folders(&root.join("protocol/golden")) {
        seeds.push(("replies", [&[1, 1], read(&message).as_slice()].concat()));
    }
    seeds.push(("config", SHORT_CONFIG.to_vec()));
    seeds.push(("config", FULL_CONFIG.to_vec()));
    for edits in [&b"\x02\x01\x03\x02\x00\x06\x02\x01\x00 0123456789"[..], b"\x01\x00\x00\x03\x00 {}"] {
        seeds.push(("splice", edits.to_vec()));
    }
    assert!(seeds.len() > 300, "only {} seeds", seeds.len());
    seeds
}

const SHORT_CONFIG: &[u8] = br#"{"backend":{"cluster":"b","token":"0123456789abcdef"},"provider":"openai"}"#;
const FULL_CONFIG: &[u8] = br#"{"backend":{"cluster":"b","token":"0123456789abcdef","hold_timeout_ms":250,
    "settle_timeout_ms":5000,"renew_interval_s":240},"provider":"openai","dialect":"compatible",
    "identity":{"org":{"header":"x-budget-org"},"team":{"header":"x-budget-team"},
    "user":{"header":"x-budget-user"}},"unidentified":{"org":"acme","team":"t","user":"u"},
    "failure_mode":{"default":"closed","database":"open"},"fail_open":{"requests_per_minute":9,
    "usd_per_outage":"1.50"},"breaker":{"failures_in_a_row":3,"longest_pause_ms":900},"unknown_api":"allow","unreadable_request":"pass",
    "max_request_body_bytes":16777216,"max_metered_body_bytes":8388608,
    "outbox":{"max_bytes":8388608,"batch_items":128,"flush_interval_ms":50}}"#;

fn add_case(case: &Case, seeds: &mut Vec<Seed>) {
    let dialect = Dialect::of_provider(&case.provider);
    let number = DIALECTS.iter().position(|known| *known == dialect).expect("one of all");
    let number = u8::try_from(number).expect("few dialects");
    let pairs = [(":method", "POST"), (":path", case.path.as_str())];
    let headers = Headers::parse(serialize(&pairs)).expect("a block as it is written");
    let Recognised::Metered(route) = recognise(&headers, dialect) else {
        panic!("not metered: {}", case.path)
    };
    let by_path = match route.stream {
        None => 0,
        Some(false) => 0b01,
        Some(true) => 0b11,
    } | if route.model.is_some() { 0b100 } else { 0 };
    for wanted in [0, 0b110_0000] {
        seeds.push(("request", request::seed(route.api, number, by_path | wanted, &case.request)));
    }
    let body = case.response.as_slice();
    let edits = u8::from(case.content_type == "text/event-stream") << 1;
    seeds.push(("answer", answer::seed(route.api, number, &case.content_type, 1 | edits, body)));
    let cut = |more: &[u8]| [&[0, 0], more, body].concat();
    match case.content_type.as_str() {
        "text/event-stream" => {
            seeds.push(("events", cut(&[0])));
            if matches!(route.api, Api::OpenaiChat | Api::OpenaiCompletions) {
                seeds.push(("stream_edit", cut(&[])));
            }
        }
        "application/vnd.amazon.eventstream" => seeds.push(("frames", cut(&[0]))),
        _ => seeds.push(("values", cut(&[0]))),
    }
    seeds.push(("frames", [&[0, 0, 1, 8], b"metadata".as_slice(), &[200], body].concat()));
    seeds.push(("exchange", whole(case, number)));
}

/// A case as the events of an exchange.
fn whole(case: &Case, number: u8) -> Vec<u8> {
    let event = |kind: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len().div_ceil(4)).unwrap_or(u8::MAX);
        let mut event = vec![kind, length];
        event.extend(bytes.iter().chain([b' '; 3].iter()).take(usize::from(length) * 4));
        event
    };
    let path_bytes = u8::try_from(case.path.len()).expect("a short path");
    let mut input = vec![number % 6, 1, 0, 0, path_bytes];
    input.extend_from_slice(case.path.as_bytes());
    input.extend([0, 0]);
    input.extend(event(1, b""));
    input.extend(event(3, &case.request));
    input.extend(event(4, br#""verdict":"allow","held_nanousd":1}"#));
    input.extend(event(6, if case.content_type == "text/event-stream" { b"1234" } else { b"" }));
    input.extend(event(7, &case.response));
    input.extend(event(7, b""));
    input
}

fn read_case(folder: &Path) -> Case {
    let (line, headers, request) = split(&read(&folder.join("request.http")));
    let (_, response_headers, response) = split(&read(&folder.join("response.http")));
    let value = |headers: &[String], name: &str| {
        headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    Case {
        provider: value(&headers, "x-provider").expect("a provider"),
        path: line.split_once(' ').expect("method and path").1.to_owned(),
        request,
        content_type: value(&response_headers, "content-type").unwrap_or_default(),
        response,
    }
}

/// The first line, the other lines of the head, the body.
fn split(file: &[u8]) -> (String, Vec<String>, Vec<u8>) {
    let at = file.windows(2).position(|pair| pair == b"\n\n").expect("a head and a body");
    let (head, body) = file.split_at(at);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines().map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.collect(), body.get(2..).unwrap_or_default().to_vec())
}

/// What is in a folder, in order.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
