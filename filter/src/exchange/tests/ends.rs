//! The way down, and what is told at the end.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn what_was_never_sent_is_voided() {
    let mut gone = exchange("");
    ask(&mut gone, PLAIN);
    assert!(is_void(gone.finish(end(flags::CLIENT_GONE)).as_ref()));

    // The proxy answers in our place while the verdict is out; the verdict then changes nothing.
    let mut timed_out = exchange("");
    ask(&mut timed_out, PLAIN);
    let body = format!(r#"{{"version":1,"hold_id":"{}",{ALLOW}}}"#, timed_out.hold_id().unwrap());
    assert!(timed_out.response_headers(&headers(&[(":status", "504")]), true, false).is_empty());
    let late = CalloutAnswer { status: Some(200), marker: Some(b"1"), body: body.as_bytes() };
    assert_eq!(timed_out.hold_answered(late, START_MS), Step::Pause);
    assert!(is_void(timed_out.finish(end(0)).as_ref()));

    for (flag, attempts, voided) in [
        (flags::UPSTREAM_CONNECTION_FAILURE | 0x8000, Some(2), true),
        (flags::NO_ROUTE, None, true),
        (0, Some(0), true),
        (0, None, false),
        (flags::CLIENT_GONE, Some(1), false),
        (0x40, Some(1), false),
    ] {
        let mut exchange = sent("", PLAIN);
        exchange.response_headers(&headers(&[(":status", "503")]), false, false);
        assert_eq!(exchange.response_body(b"local answer", true, || START_MS), None);
        let item = exchange.finish(End { upstream_attempts: attempts, ..end(flag) });
        assert_eq!(is_void(item.as_ref()), voided, "{flag:x} {attempts:?}");
        if !voided {
            let settlement = settled(item);
            assert_eq!((settlement.http_status, settlement.usage_quality), (0, UsageQuality::None));
        }
    }

    // An answer from the upstream counts, whatever the proxy says of the connection afterwards.
    let mut answered = sent("", PLAIN);
    respond(&mut answered, &[], &["{"], false);
    settled(answered.finish(end(flags::UPSTREAM_CONNECTION_FAILURE)));
}

const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"eight by\"}}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
const RUNNING: &str = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
const ZERO: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":0}}\n\n";
const ERROR: &str = "data: {\"error\":{}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[test]
fn each_end_of_a_stream_is_told_with_what_is_known() {
    use Ending::{ClientGone, Complete, UpstreamCut};
    use UsageQuality::{AtLeast, Exact, None};
    let gone = flags::CLIENT_GONE;
    for (chunks, ends, flag, ending, quality, tokens) in [
        (vec![TEXT, USAGE, DONE], true, 0, Complete, Exact, (3, 4)),
        (vec![TEXT, USAGE, DONE], false, gone, Complete, Exact, (3, 4)),
        (vec![TEXT, USAGE], true, 0, Complete, Exact, (3, 4)),
        (vec![TEXT, USAGE], false, gone, ClientGone, Exact, (3, 4)),
        (vec![TEXT, RUNNING], false, 0, UpstreamCut, AtLeast, (3, 2)),
        (vec![TEXT, RUNNING], true, 0, UpstreamCut, AtLeast, (3, 2)),
        (vec![TEXT, DONE], true, 0, Complete, AtLeast, (7, 2)),
        (vec![TEXT, TEXT], false, gone, ClientGone, AtLeast, (7, 4)),
        (vec![TEXT], true, 0, UpstreamCut, AtLeast, (7, 2)),
        (vec![ERROR], true, 0, UpstreamCut, Exact, (0, 0)),
        (vec![ERROR, DONE], true, 0, UpstreamCut, Exact, (0, 0)),
        (vec![TEXT, ERROR, DONE], true, 0, UpstreamCut, AtLeast, (7, 2)),
        (vec![ERROR, TEXT, DONE], true, 0, UpstreamCut, AtLeast, (7, 2)),
        (vec![RUNNING, ERROR, DONE], true, 0, UpstreamCut, AtLeast, (3, 1)),
        (vec![TEXT, USAGE, ERROR, DONE], true, 0, Complete, Exact, (3, 4)),
        (vec![RUNNING, TEXT, DONE], true, 0, Complete, AtLeast, (3, 2)),
        (vec![TEXT, ZERO, DONE], true, 0, Complete, Exact, (3, 0)),
        (vec![TEXT, RUNNING, DONE], true, 0, Complete, Exact, (3, 1)),
        (vec![": ping\n\n"], false, 0, UpstreamCut, AtLeast, (7, 0)),
        (vec!["not an event"], true, 0, Complete, AtLeast, (7, 3)),
        (vec!["not an event"], false, gone, ClientGone, AtLeast, (7, 3)),
        (vec![TEXT, "data: {\"cut"], true, 0, UpstreamCut, AtLeast, (7, 5)),
        (vec![], false, gone, ClientGone, None, (0, 0)),
    ] {
        let mut exchange = sent("", STREAM);
        respond(&mut exchange, &[SSE], &chunks, ends);
        let settlement = settled(exchange.finish(end(flag)));
        let told = (settlement.ending, settlement.usage_quality);
        assert_eq!(told, (ending, quality), "{chunks:?} {ends} {flag:x}");
        let usage = settlement.usage;
        assert_eq!((usage.input_tokens, usage.output_tokens), tokens, "{chunks:?}");
    }
}

#[test]
fn each_end_of_a_json_answer_is_told_with_what_is_known() {
    let whole = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    for (chunks, ends, flag, ending, quality) in [
        (vec![whole], true, 0, Ending::Complete, UsageQuality::Exact),
        (vec![whole], false, flags::CLIENT_GONE, Ending::Complete, UsageQuality::Exact),
        (vec!["{\"usage\""], false, 0, Ending::UpstreamCut, UsageQuality::AtLeast),
        (vec!["{\"error\":{}}"], true, 0, Ending::Complete, UsageQuality::Exact),
        (vec!["{\"error\":null}"], true, 0, Ending::Complete, UsageQuality::AtLeast),
        (vec!["<html>"], true, 0, Ending::Complete, UsageQuality::AtLeast),
        (vec![""], true, 0, Ending::Complete, UsageQuality::None),
    ] {
        let mut exchange = sent("", PLAIN);
        respond(&mut exchange, &[("content-type", "application/json")], &chunks, ends);
        let settlement = settled(exchange.finish(end(flag)));
        assert_eq!((settlement.ending, settlement.usage_quality), (ending, quality), "{chunks:?}");
    }
    // The end may come with trailers, and a body that can't be read ends, too.
    for pairs in [("content-encoding", "gzip"), ("content-type", "application/json")] {
        let mut exchange = sent("", PLAIN);
        respond(&mut exchange, &[pairs], &["?"], false);
        exchange.response_trailers();
        assert_eq!(settled(exchange.finish(end(0))).ending, Ending::Complete);
    }
}

#[test]
fn an_error_costs_nothing_unless_it_tells_its_usage() {
    let usage = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    for (status, body, quality) in [
        ("500", "{\"error\":{}}", UsageQuality::None),
        ("500", usage, UsageQuality::Exact),
        ("302", "moved", UsageQuality::None),
        ("206", "a part", UsageQuality::AtLeast),
    ] {
        let mut exchange = sent("", PLAIN);
        exchange.response_headers(&headers(&[(":status", status)]), false, true);
        exchange.response_body(body.as_bytes(), true, || START_MS);
        assert_eq!(settled(exchange.finish(end(0))).usage_quality, quality, "{status} {body}");
    }
}

#[test]
fn a_plain_answer_costs_its_announced_length_however_early_the_client_leaves() {
    let mut exchange = sent("", PLAIN);
    let json = ("content-type", "application/json");
    respond(&mut exchange, &[json, ("content-length", "8000")], &["{\"id\":"], false);
    let settlement = settled(exchange.finish(end(flags::CLIENT_GONE)));
    assert_eq!(settlement.usage_quality, UsageQuality::AtLeast);
    assert_eq!((settlement.usage.input_tokens, settlement.usage.output_tokens), (7, 2000));
}

#[test]
fn what_is_too_long_to_be_read_is_charged_what_was_held() {
    let large = "x".repeat(9 << 20);
    let event = format!("data: {}\n\n", &large[..2 << 20]);
    let gone = flags::CLIENT_GONE;
    for (kind, chunks, ends, flag, quality, output_tokens) in [
        ("application/json", vec!["{", &large], true, 0, UsageQuality::None, 0),
        ("application/json", vec!["{", &large], false, gone, UsageQuality::None, 0),
        ("text/event-stream", vec![&*event, TEXT, DONE], true, 0, UsageQuality::AtLeast, 2),
        ("text/event-stream", vec![TEXT, &*event], false, gone, UsageQuality::None, 0),
        ("text/event-stream", vec![&*event], true, 0, UsageQuality::None, 0),
        ("text/event-stream", vec![&*event, TEXT, USAGE, DONE], true, 0, UsageQuality::Exact, 4),
        ("text/event-stream", vec![&*event, ERROR], true, 0, UsageQuality::None, 0),
        ("text/event-stream", vec![RUNNING, &*event], true, 0, UsageQuality::AtLeast, 1),
        ("text/event-stream", vec![RUNNING, &*event, DONE], true, 0, UsageQuality::AtLeast, 1),
    ] {
        let mut exchange = sent("", STREAM);
        exchange.take_notes();
        respond(&mut exchange, &[("content-type", kind)], &chunks, ends);
        let settlement = settled(exchange.finish(end(flag)));
        let what = format!("{kind}, {} chunks, {ends}: {settlement:?}", chunks.len());
        assert_eq!(settlement.usage_quality, quality, "{what}");
        assert_eq!(settlement.usage.output_tokens, output_tokens, "{what}");
        let is_noted = settlement.ending == Ending::Complete && quality != UsageQuality::Exact;
        assert_eq!(exchange.take_notes().contains(&Note::UnreadAnswer), is_noted, "{what}");
    }
}

#[test]
fn only_an_answer_that_may_be_edited_loses_its_length() {
    let length = HeaderEdit::Remove("content-length".to_owned());
    let asked = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    for (body, pairs, edited) in [
        (STREAM, vec![SSE], true),
        (STREAM, vec![SSE, ("content-encoding", "gzip")], false),
        // It was asked for as a stream, and may be one all the same.
        (STREAM, vec![("content-type", "application/json")], true),
        (STREAM, vec![], true),
        (PLAIN, vec![("content-type", "application/json")], false),
        (asked, vec![SSE], false),
        (PLAIN, vec![SSE], false),
    ] {
        let mut exchange = sent("", body);
        let mut all = vec![(":status", "200"), ("content-length", "10")];
        all.extend(&pairs);
        let edits = exchange.response_headers(&headers(&all), false, true);
        assert_eq!(edits.contains(&length), edited, "{body} {pairs:?}");
        let changed = exchange.response_body(USAGE.as_bytes(), false, || START_MS);
        assert_eq!(changed, edited.then(Vec::new), "{body} {pairs:?}");
    }
}

#[test]
fn a_request_without_any_body_callback_is_noted() {
    let mut silent = exchange("");
    begin(&mut silent, &[], false);
    assert_eq!(silent.finish(end(flags::CLIENT_GONE)), None);
    assert_eq!(silent.take_notes(), [Note::NoBody]);
    let mut begun = exchange("");
    begin(&mut begun, &[], false);
    begun.request_body(1, false);
    assert_eq!(begun.finish(end(flags::CLIENT_GONE)), None);
    assert!(begun.take_notes().is_empty());
}
