//! Calls of other APIs than Chat, where the way up or down is another.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=k/d/r/bedrock/aws4_request, SignedHeaders=host, Signature=0";
const CONVERSE: &str = r#"{"messages":[]}"#;

fn asked(path: &str, more: &[(&str, &str)], body: &str) -> Exchange {
    let mut exchange = exchange("");
    let mut pairs = vec![(":method", "POST"), (":path", path), ("x-budget-org", "acme")];
    pairs.extend(more);
    assert_eq!(exchange.request_headers(&headers(&pairs), false, arrival()), Step::Pause, "{path}");
    assert_eq!(exchange.request_body(body.len(), true), Step::ReadBody);
    assert!(matches!(exchange.request_complete(body.as_bytes()), Step::Ask(_)), "{path}");
    exchange
}

#[test]
fn a_signed_request_goes_out_as_it_came() {
    let rewrite = format!(r#"{ALLOW},"rewrite":{{"max_output_tokens":7}}"#);
    let more = SIGNED.replace("=host", "=accept-encoding;host");
    for (authorization, sets_encoding) in [(SIGNED, true), (more.as_str(), false)] {
        let mut exchange = asked("/model/m/converse", &[("authorization", authorization)], CONVERSE);
        let Step::Forward(forward) = answer(&mut exchange, 200, &rewrite) else { panic!("not sent") };
        assert_eq!(forward.body, None);
        let encoding = HeaderEdit::set("accept-encoding", "identity");
        assert_eq!(forward.headers.contains(&encoding), sets_encoding, "{authorization}");
        assert_eq!(exchange.take_notes(), [Note::NotRewritten, Note::Allowed]);
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!((settlement.call.model.as_str(), settlement.size.max_output_tokens), ("m", None));
        assert!(settlement.size.unchangeable);
    }
}

#[test]
fn a_strict_budget_refuses_what_its_rewrite_cannot_bound() {
    let strict = format!(r#"{ALLOW},"strict":true,"rewrite":{{"max_output_tokens":7}}"#);
    let mut exchange = asked("/model/m/converse", &[("authorization", SIGNED)], CONVERSE);
    let Step::Reply(reply) = answer(&mut exchange, 200, &strict) else { panic!("not refused") };
    assert_eq!((reply.status, reply.details), (403, "purser_not_boundable"));
    assert!(reply.headers.contains(&("x-amzn-errortype", "AccessDeniedException".to_owned())));
    assert_eq!(exchange.take_notes(), [Note::NotRewritten, Note::Denied]);
    assert!(is_void(exchange.finish(end(0)).as_ref()), "what was granted is given back");
    // Without a signature the cap goes in.
    let mut exchange = asked("/model/m/converse", &[], CONVERSE);
    let Step::Forward(forward) = answer(&mut exchange, 200, &strict) else { panic!("not sent") };
    let body = forward.body.unwrap().apply(CONVERSE.as_bytes(), 1000).unwrap();
    assert_eq!(body, br#"{"inferenceConfig":{"maxTokens":7},"messages":[]}"#);
}

#[test]
fn each_refusal_has_the_shape_of_its_api() {
    for (path, body, over, marker) in [
        ("/v1/responses", r#"{"model":"m"}"#, 429, r#""code":"insufficient_quota""#),
        ("/v1/messages", r#"{"model":"m","max_tokens":1}"#, 429, r#""type":"rate_limit_error""#),
        ("/v1beta/models/m:generateContent", "{}", 429, r#""status":"RESOURCE_EXHAUSTED""#),
        ("/model/m/converse", CONVERSE, 400, r#"{"message":"no money"}"#),
        ("/v2/chat", r#"{"model":"m"}"#, 402, r#"{"message":"no money"}"#),
        ("/api/chat", r#"{"model":"m"}"#, 429, r#"{"error":"no money"}"#),
    ] {
        let Step::Reply(reply) = answer(&mut asked(path, &[], body), 200, DENY) else { panic!("{path}") };
        assert_eq!(reply.status, over, "{path}");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.contains(marker), "{path}: {text}");

        let mut large = exchange("");
        let pairs =
            [(":method", "POST"), (":path", path), ("x-budget-org", "acme"), ("content-length", "16777217")];
        assert_eq!(status(&large.request_headers(&headers(&pairs), false, arrival())), 413, "{path}");
    }
}

#[test]
fn work_that_is_done_later_is_charged_at_once() {
    let body = r#"{"model":"m","background":true}"#;
    for (status, answer_body, never) in [
        ("200", r#"{"id":"r","status":"queued","usage":null}"#, true),
        ("200", r#"{"id":"r","usage":{"input_tokens":1,"output_tokens":2}}"#, false),
        ("400", r#"{"error":{}}"#, false),
        ("200", "not json", true),
    ] {
        let mut exchange = asked("/v1/responses", &[], body);
        answer(&mut exchange, 200, ALLOW);
        exchange.response_headers(&headers(&[(":status", status)]), false, true);
        exchange.response_body(answer_body.as_bytes(), true, || START_MS);
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!(settlement.usage_never_comes, never, "{status} {answer_body}");
    }
}

#[test]
fn a_cut_stream_says_whether_its_model_may_have_thought() {
    let on = r#","thinking":{"type":"adaptive"}"#;
    let search = r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#;
    for (model, said, answered, expected) in [
        ("claude-sonnet-4-5", "", "claude-sonnet-4-5-20250929", Some(false)),
        ("claude-sonnet-4-5", on, "claude-sonnet-4-5-20250929", None),
        ("claude-sonnet-4-5", search, "claude-sonnet-4-5-20250929", None),
        ("claude-sonnet-4-5", "", "claude-opus-5", None),
        ("claude-opus-5", "", "claude-opus-5", None),
    ] {
        let body = format!(r#"{{"model":"{model}","max_tokens":9,"stream":true,"messages":[]{said}}}"#);
        let mut exchange = asked("/v1/messages", &[], &body);
        answer(&mut exchange, 200, ALLOW);
        let start = format!(
            "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"model\":\"{answered}\",\
             \"usage\":{{\"input_tokens\":3,\"output_tokens\":1}}}}}}\n\n"
        );
        respond(&mut exchange, &[SSE], &[&start], false);
        let settlement = settled(exchange.finish(end(flags::CLIENT_GONE)));
        assert_eq!(settlement.usage_quality, UsageQuality::AtLeast);
        assert_eq!(settlement.may_think, expected, "{model} {said} {answered}");
    }
}

#[test]
fn a_usage_of_zeros_is_not_believed_of_an_answer_with_text() {
    let usage = r#""usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#;
    let plain = |text: &str| format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],{usage}}}"#);
    let stream = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n\
             data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
        )
    };
    let json = ("content-type", "application/json");
    for (asked, kind, body, quality, tokens) in [
        (PLAIN, json, plain("eight by"), UsageQuality::AtLeast, (7, 2)),
        (STREAM, SSE, stream("eight by"), UsageQuality::AtLeast, (7, 2)),
        // Nothing came, and nothing was counted.
        (PLAIN, json, plain(""), UsageQuality::Exact, (0, 0)),
        (STREAM, SSE, stream(""), UsageQuality::Exact, (0, 0)),
    ] {
        let mut exchange = sent("", asked);
        respond(&mut exchange, &[kind], &[&body], true);
        let settlement = settled(exchange.finish(end(0)));
        let used = (settlement.usage.input_tokens, settlement.usage.output_tokens);
        assert_eq!((settlement.usage_quality, used), (quality, tokens), "{body}");
        assert_eq!(settlement.ending, Ending::Complete);
    }
}

#[test]
fn a_call_that_names_no_model_is_asked_for_under_a_name_of_its_own() {
    for (path, body, answer_body, answered) in [
        ("/v1/images/generations", r#"{"prompt":"x"}"#, r#"{"data":[{}]}"#, None),
        (
            "/v1/responses",
            r#"{"prompt":{"id":"p"}}"#,
            r#"{"id":"r","model":"gpt-5.4","usage":{"input_tokens":1,"output_tokens":2}}"#,
            Some("gpt-5.4"),
        ),
    ] {
        let mut exchange = asked(path, &[], body);
        answer(&mut exchange, 200, ALLOW);
        respond(&mut exchange, &[("content-type", "application/json")], &[answer_body], true);
        let settlement = settled(exchange.finish(end(0)));
        assert_eq!(settlement.call.model, "unspecified", "{path}");
        assert_eq!(settlement.answered_model.as_deref(), answered, "{path}");
    }
}

#[test]
fn an_answer_that_tells_nothing_is_noted() {
    for (pairs, body, noted) in [
        (vec![("content-encoding", "gzip")], "xx", true),
        (vec![("content-type", "text/html")], "xx", true),
        (vec![], r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#, false),
    ] {
        let mut exchange = sent("", PLAIN);
        exchange.take_notes();
        respond(&mut exchange, &pairs, &[body], true);
        settled(exchange.finish(end(0)));
        let notes = exchange.take_notes();
        assert_eq!(notes.contains(&Note::UnreadAnswer), noted, "{pairs:?}");
        let is_used = notes.iter().any(|note| matches!(note, Note::Used { model, .. } if model == "m"));
        // Compressed bytes tell no tokens at all.
        assert_eq!(is_used, !pairs.contains(&("content-encoding", "gzip")), "{notes:?}");
    }
}
