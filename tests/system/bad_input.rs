//! Requests that can't be budgeted as they are: a clear answer, never a hang, never a trap, never a
//! way around the budget.

use futures_util::future::join_all;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::raw;
use system_tests::harness::stack::{Setup, Stack};

fn with_length(body: impl AsRef<[u8]>) -> String {
    let bytes = body.as_ref().len();
    format!("content-type: application/json\r\ncontent-length: {bytes}\r\n")
}

/// Status, headers and JSON body of a raw answer.
fn parts(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.unwrap_or_else(|| panic!("no status: {answer:?}")), head.to_lowercase(), body)
}

fn assert_refused(what: &str, answer: &str, status: u16) {
    let (seen, head, body) = parts(answer);
    assert_eq!(seen, status, "{what}: {answer}");
    assert!(head.contains("content-type: application/json"), "{what}: {answer}");
    assert!(head.contains("x-should-retry: false"), "{what}: {answer}");
    assert_eq!(body["error"]["type"], "invalid_request_error", "{what}: {answer}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_in_the_providers_shape() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme");
    let deep = format!(r#"{{"model":{}"#, "[".repeat(100_000));
    let bodies: [(&str, &[u8]); 14] = [
        ("not JSON", b"hello"),
        ("no object", b"[]"),
        ("half an object", br#"{"model":"gpt-4o""#),
        ("an empty body", b""),
        ("no model", br#"{"messages":[]}"#),
        ("a model of another type", br#"{"model":7,"messages":[]}"#),
        ("two models", br#"{"model":"gpt-4o-mini","model":"gpt-4o","messages":[]}"#),
        ("two objects", br#"{"model":"gpt-4o"}{"model":"gpt-4o"}"#),
        ("a cap of another type", br#"{"model":"gpt-4o","max_tokens":"9"}"#),
        ("a stream flag of another type", br#"{"model":"gpt-4o","stream":"yes"}"#),
        ("no choices", br#"{"model":"gpt-4o","n":0}"#),
        ("a control character", b"{\"model\":\"gpt-4o\0\"}"),
        ("not UTF-8", b"{\"model\":\"gpt-\xff\"}"),
        ("hostile nesting", deep.as_bytes()),
    ];
    let mut requests = vec![("no body at all", raw::chat_request(&app, "", ""))];
    for (what, body) in bodies {
        requests.push((what, raw::chat_request(&app, &with_length(body), body)));
    }
    let body = ping().to_string();
    for encoding in ["gzip", "br", "identity, gzip", "made-up"] {
        let headers = format!("{}content-encoding: {encoding}\r\n", with_length(&body));
        requests.push((encoding, raw::chat_request(&app, &headers, &body)));
    }
    // Side by side: Envoy lets a refused connection linger for a second.
    let answers = join_all(requests.iter().map(|(_, request)| raw::http1(stack.envoy.egress, request)));
    for ((what, _), answer) in requests.iter().zip(answers.await) {
        assert_refused(what, &answer, 400);
    }
    assert_eq!(stack.fake.received().attempts, 0);
    assert_eq!(
        stack.database.counters("acme").await.iter().map(|counter| counter.held_nanousd).sum::<i64>(),
        0
    );
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_maximum_is_refused_however_it_is_announced() {
    let stack = Setup::default().start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let app = App::of("acme");
    let size = 17 * 1024 * 1024;
    let announced = format!("content-type: application/json\r\ncontent-length: {size}\r\n");
    let answer = raw::http1(stack.envoy.egress, &raw::chat_request(&app, &announced, "{")).await;
    assert_refused("announced", &answer, 413);
    let text = "x".repeat(size);
    let chunked = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let headers = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let answer = raw::http1(stack.envoy.egress, &raw::chat_request(&app, headers, &chunked)).await;
    assert_refused("in chunks", &answer, 413);
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_framing_is_budgeted_like_any_other() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    stack.backend.org_budget("broke", "0.000000001").await;
    let (egress, body) = (stack.envoy.egress, ping_stream().to_string());
    let trailers =
        || HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("abc"))]);
    let (first, second) = body.split_at(body.len() / 2);
    for (org, status) in [("acme", 200), ("broke", 429)] {
        let app = App::of(org);
        for pieces in [vec![body.as_str()], vec![first, second], vec![first, "", second]] {
            let answer = raw::http2(egress, &app, &pieces, Some(trailers())).await.expect(status);
            let again = raw::http2(egress, &app, &pieces, None).await.expect(status);
            for answer in [answer, again] {
                assert!(!answer.header("x-purser-hold-id").is_empty());
                assert_eq!(answer.text().ends_with("data: [DONE]\n\n"), status == 200);
            }
        }
        // A chunk for each byte.
        let chunks: String = body.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect();
        for end in ["0\r\n\r\n", "0\r\nx-checksum: abc\r\n\r\n"] {
            let headers = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
            let request = raw::chat_request(&app, headers, format!("{chunks}{end}"));
            assert_eq!(parts(&raw::http1(egress, &request).await).0, status, "{org} {end:?}");
        }
    }
    stack.database.settled("acme", 8).await;
    let received = stack.fake.received();
    assert_eq!(received.attempts, 8, "none of the calls of the broke org");
    for row in received.rows {
        let sent: Value = serde_json::from_str(&row.body).unwrap();
        assert_eq!(sent["stream_options"], json!({"include_usage": true}), "{row:?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_comes_to_its_end_reaches_nobody() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "1.00").await;
    let body = ping().to_string();
    let half = &body[..body.len() / 2];
    let request = raw::chat_request(&App::of("acme"), &with_length(&body), half);
    raw::http1_then_leave(stack.envoy.egress, &request).await;
    // A whole call afterwards: what the half one left behind would be seen by now.
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    stack.database.settled("acme", 1).await;
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_the_path_is_a_way_around() {
    let stack = Stack::start().await;
    stack.backend.org_budget("broke", "0.000000001").await;
    let body = ping().to_string();
    let mut requests = Vec::new();
    for path in [
        "/v1/chat/completions?x=1",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/x/../v1/chat/completions",
        "/v1/chat/%63ompletions",
        "/v1/chat%2fcompletions",
        "/V1/Chat/Completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/V1/messages/",
        "/v1/messages/batches",
        "/v1beta/models/gemini-2.5-pro%3AgenerateContent",
        "/model/m/Converse",
        "/api/chat",
        "/",
    ] {
        for method in ["POST", "PUT", "PATCH", "MADEUP"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: llm.example\r\nconnection: close\r\nx-budget-org: broke\r\n{}\r\n{body}",
                with_length(&body)
            );
            requests.push((format!("{method} {path}"), request));
        }
    }
    // A connection that stops being HTTP can't be metered.
    let upgrade = "GET /v1/realtime HTTP/1.1\r\nhost: llm.example\r\nconnection: close, upgrade\r\nx-budget-org: broke\r\nupgrade: websocket\r\n\r\n";
    requests.push(("an upgrade".to_owned(), upgrade.to_owned()));
    // What only deletes is free, unless a server may take it for something else.
    let disguised = "DELETE /v1/chat/completions HTTP/1.1\r\nhost: llm.example\r\nconnection: close\r\nx-budget-org: broke\r\nx-http-method-override: POST\r\n\r\n";
    requests.push(("a disguise".to_owned(), disguised.to_owned()));
    let answers = requests.iter().map(|(_, request)| raw::http1(stack.envoy.egress, request.as_bytes()));
    for ((what, _), answer) in requests.iter().zip(join_all(answers).await) {
        let (status, _, _) = parts(&answer);
        assert!((400..500).contains(&status), "{what}: {status}");
    }
    assert_eq!(stack.fake.received().attempts, 0);
    let models = stack.http.get(format!("http://{}/v1/models", stack.envoy.egress)).send().await.unwrap();
    assert_eq!(models.status().as_u16(), 200, "reading costs nothing");
    stack.assert_healthy().await;
}
