use super::*;
use crate::api::Route;
use crate::config::Dialect;
use crate::headers::serialize;
use purser_protocol::{Api, Usage};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn body(pairs: &[(&str, &str)], edit: bool) -> AnswerBody {
    let headers = Headers::parse(serialize(pairs)).unwrap();
    let route = Route::new(Api::OpenaiChat, Dialect::Openai);
    let plan = Plan { reader: Reader::new(&route), stream: true, edit, max_bytes: 1000 };
    AnswerBody::new(&headers, plan, &Pool::new(1000))
}

const SSE: [(&str, &str); 1] = [("content-type", "Text/Event-Stream; charset=utf-8")];

/// A stream as a server sends it when asked for usage, with the line ends given, and what an
/// app that did not ask gets.
fn stream(eol: &str) -> (String, String) {
    let both = |event: String| (event.clone(), event);
    let parts = [
        both(format!(": keep-alive{eol}{eol}")),
        (
            format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"delta\":{{\"content\":\"h\u{e9}\"}}}}],\"usage\":null}}{eol}{eol}"
            ),
            format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"delta\":{{\"content\":\"h\u{e9}\"}}}}]}}{eol}{eol}"
            ),
        ),
        both(format!("data: {{\"choices\":[{{\"delta\":{{}}}}]}}{eol}{eol}")),
        (
            format!(
                "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":2}}}}{eol}{eol}"
            ),
            String::new(),
        ),
        both(format!("data: [DONE]{eol}{eol}")),
    ];
    parts.into_iter().unzip()
}

fn replay(mut body: AnswerBody, parts: &[&[u8]]) -> (Vec<u8>, Reading) {
    let mut out = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        match body.push(part, index + 1 == parts.len()) {
            Some(replaced) => out.extend(replaced),
            None => out.extend_from_slice(part),
        }
    }
    (out, body.finish())
}

fn read_usage() -> Option<Usage> {
    Some(Usage { input_tokens: 7, output_tokens: 2, ..Usage::default() })
}

#[test]
fn cuts_at_every_byte_give_the_same_answer_and_usage() {
    for eol in ["\n", "\r\n", "\r"] {
        let (sent, edited) = stream(eol);
        let sent = sent.as_bytes();
        for edit in [true, false] {
            let expected = if edit { edited.as_bytes() } else { sent };
            for cut in 0..=sent.len() {
                for size in [1, 2, 3, 7, sent.len()] {
                    let (head, tail) = sent.split_at(cut);
                    let mut parts = vec![head];
                    parts.extend(tail.chunks(size));
                    let (out, reading) = replay(body(&SSE, edit), &parts);
                    assert_eq!(out, expected, "{eol:?}, edit {edit}, cut {cut}, {size}");
                    assert_eq!(reading.usage, read_usage());
                    assert!(reading.is_done && reading.usage_is_final);
                    assert_eq!(reading.output_bytes, 3);
                }
            }
        }
    }
}

#[test]
fn a_whole_event_is_not_held_back() {
    let mut body = body(&SSE, true);
    let event = b"data: {\"choices\":[{}]}\n\n";
    assert_eq!(body.push(event, false), None);
    assert_eq!(body.push(b"data: {\"cho", false), Some(Vec::new()));
    let rest = body.push(b"ices\":[{}],\"usage\":null}\n\n", false);
    assert_eq!(rest.as_deref(), Some(&event[..]));
}

#[test]
fn an_unfinished_event_goes_out_at_the_end_and_counts() {
    let tail = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}";
    let mut body = body(&SSE, true);
    assert_eq!(body.push(&tail.as_bytes()[..20], false), Some(Vec::new()));
    let out = body.push(&tail.as_bytes()[20..], true);
    assert_eq!(out.as_deref(), Some(tail.as_bytes()));
    assert_eq!(body.finish().usage, read_usage());
}

#[test]
fn what_can_be_read_is_chosen_by_the_headers() {
    let json = r#"{"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    for (pairs, readable) in [
        (vec![("content-type", "application/json")], true),
        (vec![("content-type", "application/json; charset=utf-8")], true),
        (vec![], true),
        (vec![("content-encoding", "identity")], true),
        (vec![("content-encoding", "gzip")], false),
        (vec![("content-encoding", "identity"), ("content-encoding", "br")], false),
        (vec![("content-type", "text/html")], false),
    ] {
        let (head, tail) = json.as_bytes().split_at(20);
        let (out, reading) = replay(body(&pairs, true), &[head, tail, b""]);
        assert_eq!(out, json.as_bytes());
        assert_eq!(reading.usage.is_some(), readable, "{pairs:?}");
    }
    assert!(body(&SSE, true).may_edit() && body(&SSE, true).is_stream());
    assert!(!body(&SSE, false).may_edit());
    assert!(!body(&[], true).may_edit());
}

#[test]
fn what_was_seen_is_counted_in_tokens() {
    let text = r#"{"choices":[{"message":{"role":"assistant","content":"nine byte"}}]}"#;
    let error = r#"{"error":{"message":"no"}}"#;
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"nine byte\"}}]}\n\n";
    let (json, sse) = (("content-type", "application/json"), SSE[0]);
    let gzip = ("content-encoding", "gzip");
    let long = ("content-length", "4001");
    for (pairs, body_text, tokens) in [
        (vec![json], "", None),
        (vec![json, long], "", None),
        (vec![json], text, Some(3)),
        // Readable, but no text shows: every byte counts.
        (vec![json], error, Some(7)),
        (vec![json], &text[..42], Some(11)),
        (vec![json, long], "{", Some(1001)),
        (vec![json, long], text, Some(3)),
        (vec![json, ("content-length", "9999999999999")], "{", Some(1 << 28)),
        (vec![json, ("content-length", "-1")], "{", Some(1)),
        (vec![json, gzip], "12345", Some(0)),
        (vec![sse, gzip, long], "12345", Some(0)),
        (vec![("content-type", "text/html")], "12345", Some(2)),
        (vec![sse], delta, Some(3)),
        (vec![sse, long], delta, Some(3)),
        (vec![sse], ": ping\n\nevent: x\nid\nretry: 5\n\n", Some(0)),
        (vec![sse], "data: {\"cut\n\n", Some(4)),
        (vec![sse], "data: {\ndata: \"cut\n\n", Some(5)),
        (vec![sse], "no events\n\n", Some(3)),
    ] {
        let mut body = body(&pairs, false);
        body.push(body_text.as_bytes(), false);
        assert_eq!(body.finish().output_tokens_seen, tokens, "{pairs:?} {body_text}");
    }
    let mut large = body(&[json], false);
    (0..5).for_each(|_| drop(large.push(&[b' '; 400], false)));
    let large = large.finish();
    assert_eq!((large.output_tokens_seen, large.is_opaque), (Some(0), true));
    let mut event = body(&SSE, false);
    event.push(&vec![b'x'; sse::MAX_EVENT_BYTES + 4], false);
    event.push(format!("1234\n\n{delta}").as_bytes(), false);
    let event = event.finish();
    assert_eq!((event.output_tokens_seen, event.is_opaque), (Some(3), true));
}

#[test]
fn a_stream_that_was_asked_for_usage_is_edited_whatever_it_is_called() {
    let (sent, edited) = stream("\n");
    let status = (":status", "200");
    for types in [&[][..], &["application/json"], &["text/plain"], &["text/event-stream", "text/html"]] {
        let mut pairs = vec![status];
        pairs.extend(types.iter().map(|name| ("content-type", *name)));
        for cut in 0..=sent.len() {
            let (head, tail) = sent.as_bytes().split_at(cut);
            let (out, reading) = replay(body(&pairs, true), &[head, tail, b""]);
            assert_eq!(out, edited.as_bytes(), "{types:?}, cut {cut}");
            assert_eq!(reading.usage, read_usage());
        }
        assert!(body(&pairs, true).may_edit() && !body(&pairs, false).may_edit());
    }
    // Nobody else's answer is touched.
    assert!(!body(&[(":status", "500")], true).may_edit());
    assert!(!body(&[status, ("content-encoding", "gzip")], true).may_edit());
}

#[test]
fn what_only_begins_like_a_stream_passes_as_it_is() {
    let spaces = "\n".repeat(100);
    let json = r#"{"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    for (sent, usage) in [
        (json, read_usage()),
        (&format!("\r\n{json}"), read_usage()),
        (&spaces, None),
        ("dat", None),
        ("", None),
    ] {
        for cut in 0..=sent.len() {
            let (head, tail) = sent.as_bytes().split_at(cut);
            let (out, reading) = replay(body(&[(":status", "200")], true), &[head, tail, b""]);
            assert_eq!(out, sent.as_bytes(), "cut {cut}");
            assert_eq!(reading.usage, usage, "{sent}");
        }
    }
}

#[test]
fn several_content_types_count_only_where_they_agree() {
    let typed = |types: &[&str]| {
        let pairs: Vec<_> = types.iter().map(|name| ("content-type", *name)).collect();
        media_type(&Headers::parse(serialize(&pairs)).unwrap())
    };
    let (sse, json) = ("Text/Event-Stream; charset=utf-8", "application/json");
    assert_eq!(typed(&[]), None);
    assert_eq!(typed(&[sse, "text/event-stream"]).as_deref(), Some("text/event-stream"));
    assert_eq!(typed(&["application/json, application/json"]).as_deref(), Some(json));
    assert_eq!(typed(&[sse, json]), None);
    assert_eq!(typed(&["application/json, text/plain"]), None);
}
