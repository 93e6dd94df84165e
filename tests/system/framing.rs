//! How the bytes travel makes no difference: HTTP/1.1 and HTTP/2 on either side, trailers, line ends,
//! bodies without a length, `Expect: 100-continue`.

use hyper::HeaderMap;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::{Answer, App, ping, ping_stream, post_chat, with};
use system_tests::harness::database::LedgerRow;
use system_tests::harness::raw;
use system_tests::harness::stack::{Setup, Stack};

use crate::failures::story;

fn usage_on() -> Value {
    with(ping_stream(), &json!({"stream_options": {"include_usage": true}}))
}

/// What the app sees without anything between it and the provider.
async fn expected(stack: &Stack, direct: &FakeLlm, app: &App, body: &Value) -> Answer {
    Answer::read(post_chat(&stack.http, direct.addr, app, body).await.unwrap()).await
}

/// Checks that each of the calls was recorded with the provider's own numbers, and as many tokens as
/// it bills.
async fn assert_exact(stack: &Stack, calls: usize) {
    let ledger = stack.database.settled("acme", calls).await;
    for row in &ledger {
        assert_eq!(story(row), ("settled", "held", "exact", "complete", 200), "{row:?}");
    }
    let total: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert_eq!(total.unsigned_abs(), stack.fake.billed().total_nanousd);
}

#[tokio::test(flavor = "multi_thread")]
async fn line_ends_and_missing_lengths_make_no_difference() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let direct = FakeLlm::start().await.unwrap();
    let cases = [
        (ping_stream(), vec![("x-fake-crlf", "1")]),
        (usage_on(), vec![("x-fake-crlf", "1")]),
        (ping_stream(), vec![("x-fake-crlf", "1"), ("x-fake-chunk-bytes", "1")]),
        (usage_on(), vec![("x-fake-crlf", "1"), ("x-fake-chunk-bytes", "3")]),
        (ping_stream(), vec![("x-fake-crlf", "1"), ("x-fake-buffered", "1")]),
        (with(ping_stream(), &json!({"n": 2})), vec![("x-fake-crlf", "1"), ("x-fake-chunk-bytes", "64")]),
        (ping(), vec![("x-fake-chunked", "1")]),
        (ping(), vec![("x-fake-chunked", "1"), ("x-fake-chunk-bytes", "5")]),
        (ping(), vec![("x-fake-trailers", "1"), ("te", "trailers")]),
        (ping_stream(), vec![("x-fake-trailers", "1"), ("te", "trailers")]),
    ];
    for (number, (body, controls)) in cases.iter().enumerate() {
        let app = App::of("acme").with("x-fake-seed", &number.to_string());
        let app = controls.iter().fold(app, |app, (name, value)| app.with(name, value));
        let expected = expected(&stack, &direct, &app, body).await;
        let answer = stack.chat(&app, body).await.expect(200);
        assert_eq!(answer.text(), expected.text(), "{body} {controls:?}");
    }
    assert_exact(&stack, cases.len()).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_version_of_http_on_either_side_is_the_same() {
    for (setup, version) in [(Setup::default(), "HTTP/1.1"), (Setup::default().http2_upstream(), "HTTP/2.0")]
    {
        let stack = setup.start().await;
        stack.backend.org_budget("acme", "10.00").await;
        let direct = FakeLlm::start().await.unwrap();
        let mut sent = 0;
        for body in [ping(), ping_stream(), usage_on()] {
            for trailers in [None, Some(())] {
                let sent_trailers = trailers.map(|()| {
                    HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("abc"))])
                });
                sent += 1;
                let app = App::of("acme").with("x-fake-seed", &sent.to_string());
                let expected = expected(&stack, &direct, &app, &body).await;
                let text = body.to_string();
                let answer = raw::http2(stack.envoy.egress, &app, &[&text], sent_trailers).await.expect(200);
                assert_eq!(answer.text(), expected.text(), "{body} to {version}");
                sent += 1;
                let answer = stack.chat(&app, &body).await.expect(200);
                assert_eq!(answer.text(), expected.text(), "{body} to {version}");
            }
        }
        let received = stack.fake.received();
        assert!(received.rows.iter().all(|row| row.version == version), "{received:?}");
        assert_exact(&stack, sent).await;
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_an_answer_arrive_and_end_it() {
    for setup in [Setup::default(), Setup::default().http2_upstream()] {
        let stack = setup.start().await;
        stack.backend.org_budget("acme", "10.00").await;
        let direct = FakeLlm::start().await.unwrap();
        let bodies = [ping(), ping_stream(), usage_on()];
        for (number, body) in bodies.iter().enumerate() {
            let app = App::of("acme").with("x-fake-seed", &number.to_string());
            let app = app.with("x-fake-trailers", "1").with("te", "trailers");
            let expected = expected(&stack, &direct, &app, body).await;
            let text = body.to_string();
            let (answer, trailers) = raw::http2_with_trailers(stack.envoy.egress, &app, &[&text], None).await;
            assert_eq!(answer.expect(200).text(), expected.text(), "{body}");
            assert_eq!(trailers.get("x-fake-trailer"), Some(&HeaderValue::from_static("end")), "{body}");
        }
        // And to an app that speaks HTTP/1.1.
        let body = ping_stream().to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: llm\r\nx-budget-org: acme\r\nx-fake-trailers: 1\r\nte: trailers\r\n\
             connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len(),
        );
        let answer = raw::http1(stack.envoy.egress, head.as_bytes()).await;
        assert!(answer.ends_with("\r\n0\r\nx-fake-trailer: end\r\n\r\n"), "{answer}");
        assert_exact(&stack, bodies.len() + 1).await;
        stack.assert_healthy().await;
    }
}

const STREAM: &str = "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"id\":\"c1\",\"model\":\"gpt-4o-mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":1}}\n\n\
    data: [DONE]\n\n";
/// Comments, other fields, data over several lines and without a space, and something after the end.
const ODD_STREAM: &str = ": waiting\n\n\nevent: message\nid: 7\nretry: 5\n\
    data:{\"id\":\"c1\",\ndata: \"choices\":[{\"index\":0,\ndata:  \"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n\
    :\ndata: {\"id\":\"c1\",\"model\":\"gpt-4o-mini\",\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":8,\"completion_tokens\":1}}\n\n\
    data: [DONE]\n\n: bye\n\ndata: {\"id\":\"c2\"}\n\n";
const PLAIN: &str =
    r#"{"id":"c1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":8,"completion_tokens":1}}"#;
const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";

/// An answer whose end is that of its connection, through Envoy: it arrives as it was sent. Returns
/// what was recorded, once the rest is checked.
async fn passes(body: &Value, kind: &str, answer: &str) -> LedgerRow {
    let bytes = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{answer}");
    let upstream = raw::answer_and_close(bytes.into_bytes()).await;
    let stack = Setup::default().upstream(upstream).start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let seen = stack.chat(&App::of("acme"), body).await.expect(200);
    assert_eq!(seen.text(), answer);
    let row = stack.database.settled("acme", 1).await.remove(0);
    assert_eq!((row.ending.as_str(), row.http_status), ("complete", 200), "{row:?}");
    assert!(row.cost_nanousd > 0, "{row:?}");
    stack.assert_healthy().await;
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    for (body, kind, answer) in [(usage_on(), EVENTS, STREAM), (ping(), JSON, PLAIN)] {
        let row = passes(&body, kind, answer).await;
        assert_eq!(story(&row), ("settled", "held", "exact", "complete", 200), "{row:?}");
        assert_eq!((row.input_tokens, row.output_tokens), (8, 1), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_use_all_of_its_format() {
    for answer in [ODD_STREAM.to_owned(), ODD_STREAM.replace('\n', "\r\n")] {
        let row = passes(&usage_on(), EVENTS, &answer).await;
        assert_eq!(row.usage_quality, "exact", "{row:?}");
        assert_eq!((row.input_tokens, row.output_tokens), (8, 1), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_lies_about_its_type_passes_and_is_charged() {
    for (body, kind, answer) in [
        (usage_on(), JSON, STREAM),
        (usage_on(), "text/plain", STREAM),
        (ping(), EVENTS, PLAIN),
        (ping(), "text/html", "<html>It works!</html>"),
    ] {
        let row = passes(&body, kind, answer).await;
        assert!(row.usage_quality != "exact" || row.input_tokens == 8, "{kind} {row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it_and_its_answer() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    stack.backend.org_budget("broke", "0.000000001").await;
    let body = ping_stream().to_string();
    let announced = |bytes: usize| {
        format!("content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {bytes}\r\n")
    };
    for (org, status) in [("acme", "200"), ("broke", "429")] {
        let head = raw::chat_request(&App::of(org), &announced(body.len()), "");
        let answer = raw::http1_expecting(stack.envoy.egress, &head, body.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{org}: {answer}");
        assert_eq!(answer.contains("data: [DONE]"), status == "200", "{answer}");
    }
    assert_exact(&stack, 1).await;
    let received = stack.fake.received();
    assert_eq!(received.attempts, 1);
    let sent: Value = serde_json::from_str(&received.rows[0].body).unwrap();
    assert_eq!(sent, with(ping_stream(), &json!({"stream_options": {"include_usage": true}})));
    stack.assert_healthy().await;
}
