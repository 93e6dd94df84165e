//! What a worker keeps from call to call: live holds, and payers of strict budgets.

use super::*;
use crate::strict::REMEMBERED_MS;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const INTERVAL_MS: u64 = 240_000;
const NONE: [Uuid; 0] = [];

/// The holds that are renewed `intervals` after the start.
fn renewed(worker: &Worker, intervals: u64) -> Vec<Uuid> {
    let Some(body) = worker.live.take_batch(START_MS + intervals * INTERVAL_MS) else {
        return Vec::new();
    };
    worker.live.answered(None);
    let batch: purser_protocol::SettlementBatch = serde_json::from_slice(&body).unwrap();
    batch.items.iter().map(SettlementItem::hold_id).collect()
}

fn granted(worker: &Rc<Worker>) -> Exchange {
    let mut exchange = Exchange::new(Rc::clone(worker));
    ask(&mut exchange, STREAM);
    assert!(matches!(answer(&mut exchange, 200, ALLOW), Step::Forward(_)));
    exchange
}

#[test]
fn a_call_is_renewed_from_its_grant_to_its_end() {
    let worker = worker("");
    let mut exchange = Exchange::new(Rc::clone(&worker));
    let hold = ask(&mut exchange, STREAM);
    assert_eq!(renewed(&worker, 1), NONE, "nothing is granted yet");
    answer(&mut exchange, 200, ALLOW);
    assert_eq!(renewed(&worker, 1), [hold.hold_id]);
    respond(&mut exchange, &[SSE], &["data: {}\n\n"], false);
    assert_eq!(renewed(&worker, 2), [hold.hold_id]);
    settled(exchange.finish(end(0)));
    assert_eq!(renewed(&worker, 3), NONE);
}

#[test]
fn every_ending_ends_the_renewals() {
    type Ending = fn(Exchange);
    let endings: [(&str, Ending); 5] = [
        ("complete", |mut exchange| {
            respond(&mut exchange, &[SSE], &["data: [DONE]\n\n"], true);
            settled(exchange.finish(end(0)));
        }),
        ("client gone", |mut exchange| {
            settled(exchange.finish(end(flags::CLIENT_GONE)));
        }),
        ("never sent", |mut exchange| {
            assert!(is_void(exchange.finish(end(flags::NO_ROUTE)).as_ref()));
        }),
        ("not to be sent", |mut exchange| {
            assert_eq!(status(&exchange.host_failed(None)), 503);
        }),
        ("dropped", drop),
    ];
    for (name, ending) in endings {
        let worker = worker("");
        let exchange = granted(&worker);
        assert_eq!(renewed(&worker, 1).len(), 1, "{name}");
        ending(exchange);
        assert_eq!(renewed(&worker, 2), NONE, "{name}");
    }
}

#[test]
fn what_holds_nothing_is_not_renewed() {
    for (config, code, verdict) in [("", 200, DENY), ("", 503, ""), (CLOSED, 503, ""), ("", 401, "")] {
        let worker = worker(config);
        let mut exchange = Exchange::new(Rc::clone(&worker));
        ask(&mut exchange, PLAIN);
        answer(&mut exchange, code, verdict);
        assert_eq!(renewed(&worker, 1), NONE, "{code} {verdict}");
    }
}

/// What a call of `user` gets without a verdict, `after_ms` after the start: the status of the
/// refusal, or nothing when it goes out.
fn without_verdict(worker: &Rc<Worker>, user: &str, after_ms: u64) -> Option<u16> {
    let mut exchange = asked(worker, user);
    match exchange.hold_not_sent(START_MS + after_ms) {
        Step::Reply(reply) => {
            assert_eq!(reply, crate::denial::failed_closed(Family::Openai, reply_hold(&reply)));
            assert_eq!(exchange.take_notes(), [Note::FailedClosed(Failure::NotSent)]);
            Some(reply.status)
        }
        Step::Forward(_) => {
            assert_eq!(exchange.take_notes(), [Note::FailedOpen(Failure::NotSent)]);
            None
        }
        other => panic!("{other:?}"),
    }
}

fn reply_hold(reply: &Reply) -> Option<Uuid> {
    let header = reply.headers.iter().find(|(name, _)| *name == crate::denial::HOLD_ID_HEADER);
    header.map(|(_, id)| id.parse().unwrap())
}

fn asked(worker: &Rc<Worker>, user: &str) -> Exchange {
    let mut exchange = Exchange::new(Rc::clone(worker));
    begin(&mut exchange, &[("x-budget-team", "search"), ("x-budget-user", user)], false);
    exchange.request_body(PLAIN.len(), true);
    assert!(matches!(exchange.request_complete(PLAIN.as_bytes()), Step::Ask(_)));
    exchange
}

#[test]
fn a_payer_of_a_strict_budget_is_not_let_through_without_a_verdict() {
    let denied = r#""verdict":"deny","reason":"over_budget","message":"used up","strict":true"#;
    for verdict in [&format!(r#"{ALLOW},"strict":true"#), denied] {
        let worker = worker("");
        assert_eq!(without_verdict(&worker, "ann", 0), None, "nothing is known yet");
        answer(&mut asked(&worker, "ann"), 200, verdict);
        for ordinary in [ALLOW, DENY] {
            answer(&mut asked(&worker, "bob"), 200, ordinary);
        }
        assert_eq!(without_verdict(&worker, "ann", 1_000), Some(503), "{verdict}");
        assert_eq!(without_verdict(&worker, "bob", 1_000), None, "{verdict}");
        answer(&mut asked(&worker, "ann"), 200, ALLOW);
        assert_eq!(without_verdict(&worker, "ann", REMEMBERED_MS - 1), Some(503), "{verdict}");
        assert_eq!(without_verdict(&worker, "ann", REMEMBERED_MS), None, "{verdict}");
    }
}
