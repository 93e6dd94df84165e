//! Whole exchanges, their events in any order: one question to the backend at most, nothing goes out
//! after a refusal, and one settlement at most.

use std::rc::Rc;

use purser_filter::config::Config;
use purser_filter::exchange::{Arrival, End, Exchange, Step, Worker};
use purser_filter::headers::{Headers, serialize};
use purser_filter::pool::Pool;
use purser_filter::strict::StrictPayers;
use purser_filter::verdict::CalloutAnswer;
use purser_protocol::{HoldRequest, SettlementItem};

use crate::input::Input;

const START_MS: u64 = 1_700_000_000_000;
const PROVIDERS: [&str; 6] = ["openai", "anthropic", "gemini", "bedrock", "cohere", "ollama"];
const CONTENT_TYPES: [&str; 4] =
    ["application/json", "text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson"];

/// What has happened so far.
#[derive(Default)]
struct Seen {
    asked: u32,
    sent: u32,
    replied: bool,
}

/// The input: provider and policies, the path, then events: a number each, with a length and so many
/// bytes where it needs some.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let worker = worker(&mut input);
    let mut exchange = Exchange::new(Rc::clone(&worker));
    let mut seen = Seen::default();
    let path_bytes = usize::from(input.byte());
    let path = input.take(path_bytes);
    let pairs: [(&str, &[u8]); 4] = [
        (":method", b"POST"),
        (":path", path),
        ("x-budget-org", b"acme"),
        ("content-type", b"application/json"),
    ];
    let headers = Headers::parse(serialize(&pairs)).expect("a block as it is written");
    let random = (!input.flag()).then_some([7; 10]);
    let arrival = Arrival { now_unix_ms: START_MS, random };
    let step = exchange.request_headers(&headers, input.flag(), arrival);
    seen.step(&step);
    while !input.is_empty() {
        event(&mut exchange, &mut input, &mut seen);
    }
    let end = End { response_flags: 0, upstream_attempts: Some(1), now_unix_ms: START_MS + 9 };
    let item = exchange.finish(end);
    match &item {
        Some(SettlementItem::Settle(_)) => assert_eq!((seen.asked, seen.sent), (1, 1)),
        Some(SettlementItem::Void(_)) => assert_eq!((seen.asked, seen.sent), (1, 0)),
        _ => {}
    }
    assert_eq!(exchange.finish(end), None, "one settlement at most");
    let _notes = exchange.take_notes();
}

fn worker(input: &mut Input<'_>) -> Rc<Worker> {
    let provider = PROVIDERS[input.below(PROVIDERS.len())];
    let policy = |is_open: bool, open, closed| if is_open { open } else { closed };
    let json = format!(
        r#"{{"backend":{{"cluster":"b","token":"0123456789abcdef"}},"provider":"{provider}",
        "failure_mode":"{}","unknown_api":"{}","unreadable_request":"{}","max_request_body_bytes":1024}}"#,
        policy(input.flag(), "open", "closed"),
        policy(input.flag(), "allow", "deny"),
        policy(input.flag(), "pass", "deny"),
    );
    let config = Config::parse(json.as_bytes()).expect("a sound configuration");
    Rc::new(Worker::new(config, Pool::new(1 << 16), StrictPayers::default()))
}

/// Hands one event of the input to the exchange.
fn event(exchange: &mut Exchange, input: &mut Input<'_>, seen: &mut Seen) {
    let number = input.below(9);
    let length = usize::from(input.byte()) * 4;
    let bytes = input.take(length);
    let step = match number {
        0 => exchange.request_body(bytes.len(), false),
        1 => exchange.request_body(bytes.len(), true),
        2 => exchange.request_trailers(),
        3 => exchange.request_complete(bytes),
        4 => match exchange.hold_id() {
            Some(id) => {
                // What is said besides comes from the input.
                let more = String::from_utf8_lossy(bytes);
                let body = format!(r#"{{"version":1,"hold_id":"{id}",{more}"#);
                let answer = CalloutAnswer { status: Some(200), marker: Some(b"1"), body: body.as_bytes() };
                exchange.hold_answered(answer, START_MS + 1)
            }
            None => exchange.hold_not_sent(START_MS + 1),
        },
        5 => exchange.hold_not_sent(START_MS + 1),
        6 => {
            let content_type = CONTENT_TYPES[length / 4 % CONTENT_TYPES.len()];
            let pairs = [(":status", "200"), ("content-type", content_type)];
            let headers = Headers::parse(serialize(&pairs)).expect("a block as it is written");
            let _edits = exchange.response_headers(&headers, false, length % 3 != 0);
            return;
        }
        7 => {
            let was_metered = exchange.meters_response();
            let changed = exchange.response_body(bytes, length == 0, || START_MS + 5);
            assert!(was_metered || changed.is_none());
            return;
        }
        _ => return exchange.response_trailers(),
    };
    seen.step(&step);
}

impl Seen {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(asked) => {
                let hold: HoldRequest = serde_json::from_slice(asked).expect("a hold as the protocol has it");
                assert!(hold.size.choices >= 1);
                self.asked += 1;
            }
            Step::Forward(_) => {
                assert!(!self.replied, "it went out after a refusal");
                self.sent += 1;
            }
            Step::Reply(reply) => {
                assert!((400..600).contains(&reply.status));
                assert_eq!(self.sent, 0, "refused after it went out");
                self.replied = true;
            }
            Step::Continue | Step::Pause | Step::ReadBody => {}
        }
        assert!(self.asked <= 1 && self.sent <= 1);
    }
}
