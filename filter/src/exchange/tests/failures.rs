//! Calls without a verdict: what goes out, what is refused, and what is given back.

use super::*;
use crate::outage::breaker::Change;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const OPENS_SOON: &str =
    r#","breaker":{"failures_in_a_row":2,"first_pause_ms":1000,"longest_pause_ms":1000}"#;

/// Brings a call to where the backend would be asked, at a time.
fn complete(worker: &Rc<Worker>, after_ms: u64) -> (Exchange, Step) {
    let mut exchange = Exchange::new(Rc::clone(worker));
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-budget-org", "acme")];
    let arrival = Arrival { now_unix_ms: START_MS + after_ms, random: Some([0; 10]) };
    exchange.request_headers(&headers(&pairs), false, arrival);
    exchange.request_body(PLAIN.len(), true);
    let step = exchange.request_complete(PLAIN.as_bytes());
    (exchange, step)
}

fn asks(worker: &Rc<Worker>, after_ms: u64) -> Exchange {
    let (exchange, step) = complete(worker, after_ms);
    assert!(matches!(step, Step::Ask(_)), "{step:?}");
    exchange
}

/// A call whose callout failed; its last step and its notes.
fn fail(worker: &Rc<Worker>, after_ms: u64) -> (Exchange, Step, Vec<Note>) {
    let mut exchange = asks(worker, after_ms);
    let answer = CalloutAnswer { status: Some(504), marker: None, body: b"upstream request timeout" };
    let step = exchange.hold_answered(answer, START_MS + after_ms);
    let notes = exchange.take_notes();
    (exchange, step, notes)
}

const TIMEOUT: Failure = Failure::Status(504);

#[test]
fn a_bound_that_is_used_up_refuses_as_failed_and_never_as_denied() {
    let worker = worker(r#","fail_open":{"requests_per_minute":1},"breaker":{"failures_in_a_row":0}"#);
    let (mut open, step, notes) = fail(&worker, 0);
    assert!(matches!(step, Step::Forward(_)));
    assert_eq!(notes, [Note::FailedOpen(TIMEOUT)]);
    let edits = open.response_headers(&headers(&[(":status", "200")]), true, true);
    assert!(edits.contains(&HeaderEdit::set("x-purser-failure-cause", "timeout")));
    assert_eq!(settled(open.finish(end(0))).admission, Admission::FailOpen);

    let (mut refused, step, notes) = fail(&worker, 1);
    match step {
        Step::Reply(reply) => {
            assert_eq!((reply.status, reply.details), (503, "purser_failed_bound"));
            assert!(String::from_utf8(reply.body).unwrap().contains("budget_service_unavailable"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(notes, [Note::BoundReached(TIMEOUT)]);
    assert_eq!(refused.line().verdict, Some("failed_bound"));
    assert!(is_void(refused.finish(end(0)).as_ref()), "the backend may have held it too late");
    // A verdict is a verdict.
    let mut denied = asks(&worker, 2);
    assert_eq!(status(&answer(&mut denied, 200, DENY)), 429);
    let mut allowed = asks(&worker, 3);
    assert!(matches!(answer(&mut allowed, 200, ALLOW), Step::Forward(_)));
}

#[test]
fn money_that_goes_out_is_reckoned_at_the_last_hold() {
    let worker = worker(r#","fail_open":{"usd_per_outage":"0.000000011"},"breaker":{"failures_in_a_row":0}"#);
    answer(&mut asks(&worker, 0), 200, r#""verdict":"allow","held_nanousd":900,"clamped":true"#);
    answer(&mut asks(&worker, 0), 200, ALLOW);
    for expected in [true, true, false] {
        let (_, step, _) = fail(&worker, 0);
        assert_eq!(matches!(step, Step::Forward(_)), expected, "5 each, of 11");
    }
}

#[test]
fn a_backend_that_fails_is_not_asked_for_a_while() {
    for (more, passes) in [("", true), (CLOSED, false)] {
        let worker = worker(&format!("{OPENS_SOON}{more}"));
        fail(&worker, 0);
        let (_, _, notes) = fail(&worker, 0);
        assert_eq!(notes[0], Note::Breaker(Change::Opened));
        let (mut spared, step) = complete(&worker, 1);
        assert_eq!(matches!(step, Step::Forward(_)), passes);
        let decided = if passes { Note::FailedOpen(TIMEOUT) } else { Note::FailedClosed(TIMEOUT) };
        assert_eq!(spared.take_notes(), [Note::NotAsked, decided]);
        match spared.finish(end(0)) {
            Some(SettlementItem::Settle(settlement)) if passes => {
                assert_eq!(settlement.admission, Admission::FailOpen);
            }
            None if !passes => {}
            other => panic!("nobody was asked, so nothing is held: {other:?}"),
        }
        // One asks, the others don't until it is answered.
        let mut probe = asks(&worker, 1_000);
        assert!(!matches!(complete(&worker, 1_001).1, Step::Ask(_)));
        answer(&mut probe, 200, ALLOW);
        assert_eq!(probe.take_notes()[0], Note::Breaker(Change::Closed));
        asks(&worker, 1_002);
    }
}

#[test]
fn a_probe_whose_client_left_is_replaced_and_voided() {
    let worker = worker(OPENS_SOON);
    fail(&worker, 0);
    fail(&worker, 0);
    let mut probe = asks(&worker, 1_000);
    assert!(is_void(probe.finish(end(flags::CLIENT_GONE)).as_ref()));
    drop(probe);
    asks(&worker, 1_001);
}

#[test]
fn a_strict_payer_fails_closed_whatever_the_breaker_does() {
    let worker = worker(OPENS_SOON);
    answer(&mut asks(&worker, 0), 200, &format!(r#"{ALLOW},"strict":true"#));
    for _ in 0..2 {
        let (mut exchange, step, _) = fail(&worker, 0);
        assert_eq!(status(&step), 503);
        assert!(is_void(exchange.finish(end(0)).as_ref()));
    }
    let (mut spared, step) = complete(&worker, 1);
    assert_eq!(status(&step), 503);
    assert_eq!(spared.take_notes(), [Note::NotAsked, Note::FailedClosed(TIMEOUT)]);
    assert_eq!(spared.finish(end(0)), None);
}

#[test]
fn a_rejection_is_a_cause_of_its_own_and_no_reason_to_stop_asking() {
    let rejected_open = r#","failure_mode":{"default":"closed","rejected":"open"}"#;
    for (more, expected) in
        [("", Note::BackendRejected(401)), (rejected_open, Note::FailedOpen(Failure::Rejected(401)))]
    {
        let worker = worker(&format!("{OPENS_SOON}{more}"));
        for _ in 0..5 {
            let mut exchange = asks(&worker, 0);
            answer(&mut exchange, 401, ALLOW);
            assert_eq!(exchange.take_notes(), std::slice::from_ref(&expected));
        }
    }
}
