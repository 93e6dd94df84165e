//! Whole exchanges, event by event.

mod apis;
mod ends;
mod failures;
mod ladder;
mod requests;
mod worker;

use super::*;
use crate::api::PathClass;
use crate::config::Policy;
use crate::headers::{Headers, serialize};
use crate::request::Unreadable;
use crate::rewrite::RewriteError;
use crate::verdict::{CalloutAnswer, Failure};
use purser_protocol::{Api, Ending, HoldRequest, Settlement, SettlementItem, Usage, UsageQuality};

const START_MS: u64 = 1_700_000_000_000;
const PLAIN: &str = r#"{"model":"m","max_tokens":9}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;
const SSE: (&str, &str) = ("content-type", "text/event-stream");

fn worker(more: &str) -> Rc<Worker> {
    let json =
        format!(r#"{{"backend":{{"cluster":"b","token":"0123456789abcdef"}},"provider":"openai"{more}}}"#);
    let config = Config::parse(json.as_bytes()).unwrap();
    Rc::new(Worker::new(config, Pool::new(1 << 20), StrictPayers::default()))
}

fn exchange(more: &str) -> Exchange {
    Exchange::new(worker(more))
}

const CLOSED: &str = r#","failure_mode":"closed""#;
const PASSING: &str = r#","unknown_api":"allow","unreadable_request":"pass""#;

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::parse(serialize(pairs)).unwrap()
}

fn arrival() -> Arrival {
    Arrival { now_unix_ms: START_MS, random: Some([7; 10]) }
}

fn begin(exchange: &mut Exchange, more: &[(&str, &str)], is_whole: bool) -> Step {
    let mut pairs = vec![(":method", "POST"), (":path", "/v1/chat/completions"), ("x-budget-org", "acme")];
    pairs.extend(more);
    exchange.request_headers(&headers(&pairs), is_whole, arrival())
}

/// Takes a request to the point where the backend is asked.
fn ask(exchange: &mut Exchange, body: &str) -> HoldRequest {
    let length = body.len().to_string();
    assert_eq!(begin(exchange, &[("content-length", &length)], false), Step::Pause);
    assert_eq!(exchange.request_body(body.len() / 2, false), Step::Pause);
    assert_eq!(exchange.request_body(body.len(), true), Step::ReadBody);
    match exchange.request_complete(body.as_bytes()) {
        Step::Ask(asked) => serde_json::from_slice(&asked).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn answer(exchange: &mut Exchange, status: u16, verdict: &str) -> Step {
    let id = exchange.hold_id().unwrap();
    let body = format!(r#"{{"version":1,"hold_id":"{id}",{verdict}}}"#);
    let answer = CalloutAnswer { status: Some(status), marker: Some(b"1"), body: body.as_bytes() };
    exchange.hold_answered(answer, START_MS)
}

const ALLOW: &str = r#""verdict":"allow","held_nanousd":5"#;
const DENY: &str = r#""verdict":"deny","reason":"over_budget","message":"no money""#;

/// A request that went out.
fn sent(more: &str, body: &str) -> Exchange {
    let mut exchange = exchange(more);
    ask(&mut exchange, body);
    assert!(matches!(answer(&mut exchange, 200, ALLOW), Step::Forward(_)));
    exchange
}

fn status(step: &Step) -> u16 {
    match step {
        Step::Reply(reply) => reply.status,
        other => panic!("{other:?}"),
    }
}

fn end(response_flags: u64) -> End {
    End { response_flags, upstream_attempts: Some(1), now_unix_ms: START_MS + 40 }
}

fn settled(item: Option<SettlementItem>) -> Settlement {
    match item {
        Some(SettlementItem::Settle(settlement)) => *settlement,
        other => panic!("{other:?}"),
    }
}

fn is_void(item: Option<&SettlementItem>) -> bool {
    matches!(item, Some(SettlementItem::Void(_)))
}

fn respond(exchange: &mut Exchange, pairs: &[(&str, &str)], chunks: &[&str], ends: bool) {
    let mut all = vec![(":status", "200")];
    all.extend(pairs);
    exchange.response_headers(&headers(&all), false, true);
    for (index, chunk) in chunks.iter().enumerate() {
        let is_last = ends && index + 1 == chunks.len();
        exchange.response_body(chunk.as_bytes(), is_last, || START_MS + 20);
    }
}
