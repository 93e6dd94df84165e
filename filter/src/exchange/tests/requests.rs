//! The way up: held, sent, refused.

use std::collections::BTreeMap;

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_call_is_held_sent_and_settled() {
    let mut exchange = exchange("");
    let hold = ask(&mut exchange, PLAIN);
    assert_eq!(hold.payer.org, "acme");
    assert_eq!((hold.call.model.as_str(), hold.call.stream), ("m", false));
    assert_eq!((hold.call.provider.as_str(), hold.call.api), ("openai", Api::OpenaiChat));
    assert_eq!((hold.size.max_output_tokens, hold.deadline_ms), (Some(9), 250));
    assert_eq!(exchange.request_body(PLAIN.len(), true), Step::Pause);
    let verdict = format!(
        r#"{ALLOW},"remaining":[{{"tier":"org","window":"day","limit_nanousd":9,"remaining_nanousd":1500000000}}]"#
    );
    let Step::Forward(forward) = answer(&mut exchange, 200, &verdict) else { panic!("not sent") };
    let expected = ["x-budget-org", "x-budget-team", "x-budget-user"]
        .map(|name| HeaderEdit::Remove(name.to_owned()))
        .into_iter()
        .chain([HeaderEdit::set("accept-encoding", "identity")])
        .collect::<Vec<_>>();
    assert_eq!((forward.headers, forward.body), (expected, None));
    assert_eq!(exchange.take_notes(), [Note::Allowed]);

    let pairs = [(":status", "200"), ("content-type", "application/json")];
    let edits = exchange.response_headers(&headers(&pairs), false, true);
    let id = hold.hold_id.to_string();
    let expected =
        [HeaderEdit::set("x-purser-hold-id", &id), HeaderEdit::set("x-purser-remaining-org", "1.50")];
    assert_eq!(edits, expected);
    let body = r#"{"id":"c","model":"m-1","usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    assert!(exchange.meters_response());
    assert_eq!(exchange.response_body(body.as_bytes(), true, || START_MS + 20), None);
    let settlement = settled(exchange.finish(end(0)));
    assert_eq!(
        settlement,
        Settlement {
            hold_id: hold.hold_id,
            payer: hold.payer,
            lookup: None,
            asked_model: None,
            call: hold.call,
            size: hold.size,
            admission: Admission::Held,
            answered_model: Some("m-1".to_owned()),
            response_id: Some("c".to_owned()),
            usage: Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() },
            usage_quality: UsageQuality::Exact,
            http_status: 200,
            ending: Ending::Complete,
            started_at_unix_ms: 1_700_000_000_000,
            duration_ms: 40,
            first_byte_ms: Some(20),
            tags: BTreeMap::new(),
            service_tier: None,
            units: BTreeMap::new(),
            reported_cost_nanousd: None,
            usage_never_comes: false,
            may_think: None,
        }
    );
    assert_eq!(exchange.finish(end(0)), None, "only once");
}

#[test]
fn a_rewrite_is_carried_out_and_settled_as_sent() {
    let mut exchange = exchange("");
    ask(&mut exchange, STREAM);
    let verdict = format!(r#"{ALLOW},"rewrite":{{"model":"cheap","max_output_tokens":7}}"#);
    let Step::Forward(forward) = answer(&mut exchange, 200, &verdict) else { panic!("not sent") };
    assert!(forward.announces_length);
    let body = forward.body.unwrap().apply(STREAM.as_bytes(), 1000).unwrap();
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"model":"cheap","max_completion_tokens":7,"stream":true,"stream_options":{"include_usage":true}}"#
    );
    let settlement = settled(exchange.finish(end(0)));
    assert_eq!(settlement.call.model, "cheap");
    assert_eq!(settlement.size.max_output_tokens, Some(7));
}

#[test]
fn a_cap_alone_is_carried_out_and_settled_as_sent() {
    for (body, expected) in [
        (r#"{"model":"m"}"#, r#"{"model":"m","max_completion_tokens":7}"#),
        (PLAIN, r#"{"model":"m","max_tokens":7}"#),
    ] {
        let mut exchange = exchange("");
        ask(&mut exchange, body);
        let verdict = format!(r#"{ALLOW},"strict":true,"rewrite":{{"max_output_tokens":7}}"#);
        let Step::Forward(forward) = answer(&mut exchange, 200, &verdict) else { panic!("not sent") };
        let sent = forward.body.unwrap().apply(body.as_bytes(), 1000).unwrap();
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!((settlement.call.model.as_str(), settlement.size.max_output_tokens), ("m", Some(7)));
    }
}

#[test]
fn a_body_without_announced_length_gets_none() {
    let mut exchange = exchange("");
    assert_eq!(begin(&mut exchange, &[], false), Step::Pause);
    assert_eq!(exchange.request_body(STREAM.len(), false), Step::Pause);
    // Trailers instead of a last chunk.
    assert_eq!(exchange.request_trailers(), Step::ReadBody);
    assert!(matches!(exchange.request_complete(STREAM.as_bytes()), Step::Ask(_)));
    assert_eq!(exchange.request_trailers(), Step::Pause);
    let Step::Forward(forward) = answer(&mut exchange, 200, ALLOW) else { panic!("not sent") };
    assert!(!forward.announces_length && forward.body.is_some());
    assert_eq!(exchange.request_trailers(), Step::Continue);
}

#[test]
fn refusals_before_the_backend_is_asked_leave_nothing() {
    for (config, pairs, is_whole, body, expected) in [
        ("", vec![("x-budget-org", "again")], false, "", 403),
        ("", vec![("content-encoding", "gzip")], false, "", 400),
        ("", vec![("content-length", "16777217")], false, "", 413),
        ("", vec![("content-length", "99999999999999999999")], false, PLAIN, 0),
        ("", vec![], true, "", 400),
        ("", vec![], false, "hello", 400),
        ("", vec![], false, "", 400),
        ("", vec![], false, r#"{"stream":true}"#, 400),
        (r#","max_request_body_bytes":1024"#, vec![], false, &"x".repeat(1025), 413),
    ] {
        let mut exchange = exchange(config);
        let mut step = begin(&mut exchange, &pairs, is_whole);
        if step == Step::Pause {
            step = exchange.request_body(body.len(), true);
        }
        if step == Step::ReadBody {
            step = exchange.request_complete(body.as_bytes());
        }
        if expected == 0 {
            assert!(matches!(step, Step::Ask(_)), "{pairs:?}");
            continue;
        }
        assert_eq!(status(&step), expected, "{pairs:?} {body}");
        assert_eq!(exchange.request_body(1, true), Step::Pause);
        assert!(exchange.response_headers(&headers(&[(":status", "400")]), false, false).is_empty());
        assert_eq!(exchange.finish(end(0)), None);
        assert_eq!(exchange.hold_id(), None);
    }
    let mut exchange = exchange("");
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions")];
    assert_eq!(status(&exchange.request_headers(&headers(&pairs), true, arrival())), 403);
}

#[test]
fn a_refusal_waits_for_the_end_of_a_body_that_is_not_too_large() {
    const SMALL: &str = r#","max_request_body_bytes":1024"#;
    let nobody = vec![(":method", "POST"), (":path", "/v1/chat/completions")];
    let unknown = vec![(":method", "POST"), (":path", "/v1/videos"), ("x-budget-org", "acme")];
    let encoded = [("x-budget-org", "acme"), ("content-encoding", "br")];
    let encoded = [nobody.clone(), encoded.to_vec()].concat();
    for (pairs, expected) in [(nobody, 403), (unknown, 403), (encoded, 400)] {
        for (pieces, ends_with_trailers) in
            [(&[10, 1_024][..], false), (&[10, 1_024], true), (&[10, 1_025], false), (&[], true)]
        {
            let mut exchange = exchange(SMALL);
            assert_eq!(exchange.request_headers(&headers(&pairs), false, arrival()), Step::Pause);
            let mut step = Step::Pause;
            for (index, bytes) in pieces.iter().enumerate() {
                assert_eq!(step, Step::Pause, "{pieces:?}");
                let is_last = *bytes == 1_024 && index + 1 == pieces.len() && !ends_with_trailers;
                step = exchange.request_body(*bytes, is_last);
            }
            if ends_with_trailers {
                assert_eq!(step, Step::Pause, "{pieces:?}");
                step = exchange.request_trailers();
            }
            assert_eq!(status(&step), expected, "{pieces:?}");
            // Once, and nothing goes out whatever else comes.
            assert_eq!(exchange.request_body(2_000, true), Step::Pause);
            assert_eq!(exchange.finish(end(0)), None);
        }
    }
}

#[test]
fn what_is_refused_for_its_body_is_counted() {
    for (pairs, body, note) in [
        (vec![], "hello", Note::UnreadableRefused),
        (vec![("content-encoding", "br")], "", Note::UnreadableRefused),
        (vec![("content-length", "16777217")], "", Note::TooLarge),
    ] {
        let mut exchange = exchange("");
        if begin(&mut exchange, &pairs, false) == Step::Pause
            && exchange.request_body(body.len(), true) == Step::ReadBody
        {
            exchange.request_complete(body.as_bytes());
        }
        assert_eq!(exchange.take_notes(), [note]);
    }
}

#[test]
fn what_is_not_metered_passes_or_is_refused_by_configuration() {
    let passes = |step: &Step| match step {
        Step::Forward(forward) => forward.headers.len() == 3 && forward.body.is_none(),
        _ => false,
    };
    let request = |config: &str, method: &str, path: &str| {
        let mut exchange = exchange(config);
        let pairs = [(":method", method), (":path", path)];
        let mut step = exchange.request_headers(&headers(&pairs), false, arrival());
        if step == Step::Pause {
            step = exchange.request_body(10, true);
        }
        (exchange, step)
    };
    let (mut exchange, step) = request("", "GET", "/v1/models");
    assert!(passes(&step));
    assert_eq!(exchange.request_body(10, true), Step::Continue);
    assert!(exchange.take_notes().is_empty());
    assert!(!exchange.meters_response());
    assert_eq!(exchange.finish(end(0)), None);
    let (mut exchange, step) = request("", "POST", "/v1/videos");
    assert_eq!(status(&step), 403);
    assert_eq!(exchange.take_notes(), [Note::UnknownApi(PathClass::Videos, Policy::Deny)]);
    let (mut exchange, step) = request(PASSING, "POST", "/v1/videos");
    assert!(passes(&step));
    assert_eq!(exchange.take_notes(), [Note::UnknownApi(PathClass::Videos, Policy::Pass)]);
    for config in ["", PASSING] {
        let (mut exchange, step) = request(config, "CONNECT", "");
        assert_eq!(status(&step), 403);
        assert_eq!(exchange.take_notes(), [Note::UpgradeRefused]);
    }

    let mut exchange = self::exchange(PASSING);
    assert!(passes(&begin(&mut exchange, &[], true)));
    assert_eq!(exchange.take_notes(), [Note::UnreadablePassed(Unreadable::Empty)]);
    let mut exchange = self::exchange(PASSING);
    assert!(passes(&begin(&mut exchange, &[("content-encoding", "br")], false)));
    let mut exchange = self::exchange(PASSING);
    begin(&mut exchange, &[], false);
    exchange.request_body(5, true);
    assert!(passes(&exchange.request_complete(b"hello")));
    assert_eq!(exchange.finish(end(0)), None);
}

#[test]
fn a_denial_leaves_nothing() {
    for config in ["", CLOSED] {
        let mut exchange = exchange(config);
        ask(&mut exchange, PLAIN);
        assert_eq!(status(&answer(&mut exchange, 200, DENY)), 429);
        assert_eq!(exchange.take_notes(), [Note::Denied]);
        assert_eq!(exchange.finish(end(0)), None);
    }
}

#[test]
fn without_a_verdict_the_failure_mode_decides() {
    let failures = [
        (None, Failure::NotSent, false),
        (Some((504, "timeout")), Failure::Status(504), true),
        (Some((200, "not json")), Failure::NotAVerdict, true),
        (Some((0, "")), Failure::BrokenOff, true),
    ];
    for (callout, failure, may_be_held) in failures {
        let fail = |exchange: &mut Exchange| match callout {
            None => exchange.hold_not_sent(START_MS),
            Some((code, body)) => {
                let status = (code > 0).then_some(code);
                let answer = CalloutAnswer { status, marker: None, body: body.as_bytes() };
                exchange.hold_answered(answer, START_MS)
            }
        };
        let mut open = exchange("");
        ask(&mut open, PLAIN);
        assert!(matches!(fail(&mut open), Step::Forward(_)));
        assert_eq!(open.take_notes(), [Note::FailedOpen(failure)]);
        let edits = open.response_headers(&headers(&[(":status", "200")]), true, true);
        assert!(edits.contains(&HeaderEdit::set("x-purser-failed-open", "true")));
        let settlement = settled(open.finish(end(0)));
        assert_eq!(settlement.admission, Admission::FailOpen);

        let mut closed = exchange(CLOSED);
        ask(&mut closed, PLAIN);
        assert_eq!(status(&fail(&mut closed)), 503);
        assert_eq!(closed.take_notes(), [Note::FailedClosed(failure)]);
        assert_eq!(is_void(closed.finish(end(0)).as_ref()), may_be_held);
    }
}

#[test]
fn a_backend_that_refuses_to_decide_closes_every_route() {
    for config in ["", CLOSED] {
        let mut exchange = exchange(config);
        ask(&mut exchange, PLAIN);
        assert_eq!(status(&answer(&mut exchange, 401, ALLOW)), 503);
        assert_eq!(exchange.take_notes(), [Note::BackendRejected(401)]);
        assert_eq!(exchange.finish(end(0)), None);
    }
}

#[test]
fn what_the_host_cannot_send_is_refused_and_voided() {
    for (cause, expected) in
        [(None, 503), (Some(RewriteError::Changed), 503), (Some(RewriteError::TooLarge), 413)]
    {
        let mut exchange = sent("", PLAIN);
        assert_eq!(status(&exchange.host_failed(cause)), expected);
        assert!(is_void(exchange.finish(end(0)).as_ref()));
    }
    let mut exchange = exchange("");
    let no_randomness = Arrival { random: None, ..arrival() };
    let pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-budget-org", "acme")];
    assert_eq!(exchange.request_headers(&headers(&pairs), false, no_randomness), Step::Pause);
    assert_eq!(status(&exchange.request_complete(PLAIN.as_bytes())), 503);
    assert_eq!(exchange.finish(end(0)), None);
}
