//! The golden corpus: requests and answers of every API as providers send them, and what must become of
//! them, however their bytes are cut.

mod cases;

use std::rc::Rc;

use purser_protocol::{HoldRequest, Settlement, SettlementItem};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use crate::config::Config;
use crate::exchange::{Arrival, End, Exchange, Forward, Step, Worker, flags};
use crate::headers::{HeaderEdit, Headers, serialize};
use crate::pool::Pool;
use crate::strict::StrictPayers;
use crate::verdict::CalloutAnswer;
use cases::{ALL, Case};

const START_MS: u64 = 1_700_000_000_000;

/// A head of lines, and the body after the first empty one.
fn split(file: &'static [u8]) -> (Vec<(&'static str, &'static str)>, &'static str, &'static [u8]) {
    let at = file.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let head = std::str::from_utf8(&file[..at]).unwrap();
    let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
    (rest.lines().map(|line| line.split_once(": ").unwrap()).collect(), first, &file[at + 2..])
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::parse(serialize(pairs)).unwrap()
}

/// What came of a request on its way up.
struct Up {
    exchange: Exchange,
    hold: HoldRequest,
    forward: Forward,
    body: &'static [u8],
}

/// A request whose body is there and not yet read.
fn begin(case: &Case) -> (Exchange, &'static [u8]) {
    let (mut pairs, line, body) = split(case.request);
    let (method, path) = line.split_once(' ').unwrap();
    let provider = pairs.remove(0).1;
    let config =
        format!(r#"{{"backend":{{"cluster":"b","token":"0123456789abcdef"}},"provider":"{provider}"}}"#);
    let config = Config::parse(config.as_bytes()).unwrap();
    let worker = Worker::new(config, Pool::new(1 << 20), StrictPayers::default());
    let mut exchange = Exchange::new(Rc::new(worker));
    pairs.extend([(":method", method), (":path", path), ("x-budget-org", "acme")]);
    let arrival = Arrival { now_unix_ms: START_MS, random: Some([7; 10]) };
    assert_eq!(exchange.request_headers(&headers(&pairs), false, arrival), Step::Pause, "{}", case.name);
    assert_eq!(exchange.request_body(body.len(), true), Step::ReadBody);
    (exchange, body)
}

fn send(case: &Case) -> Up {
    let (mut exchange, body) = begin(case);
    let Step::Ask(asked) = exchange.request_complete(body) else { panic!("{}: not asked", case.name) };
    let hold: HoldRequest = serde_json::from_slice(&asked).unwrap();
    let verdict =
        format!(r#"{{"version":1,"hold_id":"{}","verdict":"allow","held_nanousd":1}}"#, hold.hold_id);
    let answer = CalloutAnswer { status: Some(200), marker: Some(b"1"), body: verdict.as_bytes() };
    let Step::Forward(forward) = exchange.hold_answered(answer, START_MS) else { panic!("{}", case.name) };
    Up { exchange, hold, forward, body }
}

/// Replays an answer in pieces. Returns what the app got, and the settlement.
fn replay(case: &Case, mut exchange: Exchange, pieces: &[&[u8]], ending: &str) -> (Vec<u8>, Settlement) {
    let (mut pairs, status, _) = split(case.response);
    pairs.push((":status", status));
    let length = case.response.len().to_string();
    let edits = {
        let mut all = pairs.clone();
        // The announced length matters to none of these but must go where the body may change.
        if case.edited.is_some() {
            all.push(("content-length", &length));
        }
        exchange.response_headers(&headers(&all), false, true)
    };
    let is_edited = edits.contains(&HeaderEdit::Remove("content-length".to_owned()));
    assert_eq!(is_edited, case.edited.is_some(), "{}", case.name);
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = ending == "complete" && index + 1 == pieces.len();
        match exchange.response_body(piece, is_last, || START_MS + 5) {
            Some(replaced) => out.extend(replaced),
            None => out.extend_from_slice(piece),
        }
    }
    let response_flags = if ending == "client_gone" { flags::CLIENT_GONE } else { 0 };
    let end = End { response_flags, upstream_attempts: Some(1), now_unix_ms: START_MS + 9 };
    match exchange.finish(end) {
        Some(SettlementItem::Settle(settlement)) => (out, *settlement),
        other => panic!("{}: {other:?}", case.name),
    }
}

/// The facts of a settlement that a case pins.
fn facts(settlement: &Settlement) -> Value {
    let names = [
        "input",
        "cached_input",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
        "audio_input",
        "audio_output",
        "image_input",
        "image_output",
    ];
    let classes = names.iter().zip(settlement.usage.classes()).filter(|(_, count)| *count > 0);
    let usage: serde_json::Map<String, Value> =
        classes.map(|(name, count)| (format!("{name}_tokens"), json!(count))).collect();
    json!({
        "ending": settlement.ending,
        "usage_quality": settlement.usage_quality,
        "usage": usage,
        "answered_model": settlement.answered_model,
        "response_id": settlement.response_id,
        "service_tier": settlement.service_tier,
        "units": settlement.units,
        "reported_cost_nanousd": settlement.reported_cost_nanousd,
        "usage_never_comes": settlement.usage_never_comes,
    })
}

/// Small pseudo-random numbers, the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

/// Every way to cut `body` that is tried: whole, in two at every byte, byte by byte, and at random.
fn cuts(body: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all: Vec<Vec<&[u8]>> = (0..=body.len()).map(|at| vec![&body[..at], &body[at..]]).collect();
    all.push(vec![body]);
    all.push(body.chunks(1).collect());
    let mut random = Random(42);
    for most in [3, 10, 40, 200] {
        let (mut pieces, mut rest) = (Vec::new(), body);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((1 + random.below(most)).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        all.push(pieces);
    }
    all
}

fn check(case: &Case) {
    let expected: Value = serde_json::from_str(case.expected).unwrap();
    let ending = expected["end"].as_str().unwrap();
    let up = send(case);
    let call = json!({"api": up.hold.call.api, "model": up.hold.call.model, "stream": up.hold.call.stream});
    assert_eq!(call, expected["call"], "{}", case.name);
    let size = up.hold.size;
    let size = json!({
        "max_output_tokens": size.max_output_tokens, "choices": size.choices, "media_parts": size.media_parts,
        "server_context": size.server_context, "unchangeable": size.unchangeable,
    });
    assert_eq!(size, expected["size"], "{}", case.name);
    let sent = up.forward.body.map(|rewrite| rewrite.apply(up.body, 1 << 20).unwrap());
    let to_upstream = case.edited.map(|(_, to_upstream)| to_upstream);
    assert_eq!(
        sent.as_deref().map(String::from_utf8_lossy),
        to_upstream.map(String::from_utf8_lossy),
        "{}: to the upstream",
        case.name
    );
    let body = split(case.response).2;
    let to_app = case.edited.map_or(body, |(to_app, _)| to_app);
    for pieces in cuts(body) {
        let (out, settlement) = replay(case, send(case).exchange, &pieces, ending);
        assert_eq!(facts(&settlement), expected["settlement"], "{}, {} pieces", case.name, pieces.len());
        // What was not ended may keep back the event under way; none of these is cut within one.
        assert_eq!(out, to_app, "{}: to the app, in {} pieces", case.name, pieces.len());
    }
}

/// One test for each API, so that they run side by side and a failure says where.
macro_rules! apis {
    ($($test:ident: $($folder:literal)+;)+) => {
        $(
            #[test]
            fn $test() {
                let folders = [$($folder),+];
                let of_api = |case: &&Case| folders.iter().any(|folder| case.name.starts_with(folder));
                let cases: Vec<&Case> = ALL.iter().filter(of_api).collect();
                assert!(!cases.is_empty());
                cases.into_iter().for_each(check);
            }
        )+

        #[test]
        fn every_case_belongs_to_a_test() {
            let folders = [$($($folder),+),+];
            for case in ALL {
                let count = folders.iter().filter(|folder| case.name.starts_with(**folder)).count();
                assert_eq!(count, 1, "{}", case.name);
            }
        }
    };
}

apis! {
    openai_chat: "openai_chat/";
    openai_responses: "openai_responses/";
    openai_completions_and_embeddings: "openai_completions/" "openai_embeddings/";
    openai_images_audio_and_batches: "openai_images/" "openai_audio/" "openai_batches/";
    anthropic: "anthropic_messages/" "anthropic_batches/";
    gemini: "gemini_generate/" "gemini_embed/";
    bedrock_converse: "bedrock_converse/";
    bedrock_invoke: "bedrock_invoke/";
    cohere_and_rerank: "cohere_chat/" "cohere_embed/" "rerank/";
    ollama: "ollama/" "ollama_embed/";
}

/// `bytes` with a few of them changed, taken out or doubled.
fn mutated(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut mutated = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(mutated.len());
        match random.below(4) {
            0 => mutated[at] ^= 1 << random.below(8),
            1 => mutated.truncate(at + 1),
            2 => drop(mutated.drain(at..(at + 1 + random.below(20)).min(mutated.len()))),
            _ => {
                let end = (at + random.below(60)).min(mutated.len());
                let piece = mutated[at..end].to_vec();
                mutated.splice(at..at, piece);
            }
        }
        if mutated.is_empty() {
            mutated.push(b'{');
        }
    }
    mutated
}

#[test]
fn damaged_answers_are_passed_on_as_they_are_and_settled_once() {
    let mut random = Random(7);
    for case in ALL {
        let body = split(case.response).2;
        for _ in 0..25 {
            let damaged = mutated(body, &mut random);
            let (head, tail) = damaged.split_at(random.below(damaged.len()));
            let (out, settlement) = replay(case, send(case).exchange, &[head, tail], "complete");
            if case.edited.is_none() {
                assert_eq!(out, damaged, "{}", case.name);
            } else {
                assert!(out.len() <= damaged.len(), "{}: only usage is taken out", case.name);
            }
            let most = settlement.usage.classes().into_iter().max();
            assert!(most <= Some(1 << 28), "{}: {settlement:?}", case.name);
        }
    }
}

#[test]
fn damaged_requests_are_asked_about_or_refused() {
    let mut random = Random(11);
    for case in ALL {
        for _ in 0..25 {
            let (mut exchange, body) = begin(case);
            let damaged = mutated(body, &mut random);
            match exchange.request_complete(&damaged) {
                Step::Ask(asked) => {
                    let hold: HoldRequest = serde_json::from_slice(&asked).unwrap();
                    assert!(hold.size.text_bytes <= damaged.len() as u64, "{}", case.name);
                }
                Step::Reply(reply) => assert_eq!(reply.status, 400, "{}", case.name),
                other => panic!("{}: {other:?}", case.name),
            }
        }
    }
}

/// A folder that no test reads pins nothing.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn every_folder_is_a_case() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let list = |path: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let cases: Vec<_> = list(folder.as_ref()).iter().flat_map(|api| list(api)).collect();
    assert_eq!(cases.len(), ALL.len());
    for path in cases {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
        assert!(ALL.iter().any(|case| case.name == name), "{name}");
    }
}
