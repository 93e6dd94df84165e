//! What the app sees of an allowed call.

use purser_protocol::parse_usd;
use reqwest::StatusCode;
use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::{Answer, App, ping, ping_stream, post_chat, with};
use system_tests::harness::stack::Stack;
use system_tests::harness::within;
use uuid::Uuid;

/// Headers of the provider's answer that a proxy may change.
const HOP_HEADERS: [&str; 4] = ["date", "content-length", "transfer-encoding", "connection"];
/// Headers that come on the way.
const ADDED_HEADERS: [&str; 6] = [
    "server",
    "x-envoy-upstream-service-time",
    "x-purser-hold-id",
    "x-purser-remaining-org",
    "x-purser-remaining-team",
    "x-purser-remaining-user",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_the_providers_byte_for_byte() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let direct = FakeLlm::start().await.unwrap();
    let usage_on = json!({"stream_options": {"include_usage": true}});
    let usage_off = json!({"stream_options": {"include_usage": false}});
    let cases = [
        (ping(), vec![]),
        (ping_stream(), vec![]),
        (with(ping_stream(), &usage_on), vec![]),
        (with(ping_stream(), &usage_off), vec![]),
        (with(ping_stream(), &json!({"stream_options": null})), vec![]),
        (with(ping_stream(), &json!({"n": 3})), vec![("x-fake-words", "40")]),
        (ping_stream(), vec![("x-fake-chunk-bytes", "1")]),
        (ping_stream(), vec![("x-fake-chunk-bytes", "37")]),
        (with(ping_stream(), &usage_on), vec![("x-fake-chunk-bytes", "7")]),
        (ping_stream(), vec![("x-fake-words", "0")]),
        (with(ping_stream(), &json!({"max_completion_tokens": 3000})), vec![("x-fake-words", "3000")]),
        (ping_stream(), vec![("x-fake-buffered", "1")]),
        (with(ping_stream(), &usage_on), vec![("x-fake-buffered", "1")]),
        (ping_stream(), vec![("x-fake-fault", "no-done")]),
        (ping_stream(), vec![("x-fake-fault", "error-in-stream")]),
        (ping_stream(), vec![("x-fake-fault", "garbage")]),
        (ping(), vec![("x-fake-fault", "garbage")]),
        (ping(), vec![("x-fake-fault", "gzip")]),
        (ping(), vec![("x-fake-status", "400")]),
        (ping_stream(), vec![("x-fake-status", "429")]),
        (with(ping(), &json!({"model": "gpt-9"})), vec![]),
    ];
    for (number, (body, controls)) in cases.iter().enumerate() {
        let mut app = App::of("acme").with("x-fake-seed", &number.to_string());
        for (name, value) in controls {
            app = app.with(name, value);
        }
        let expected = post_chat(&stack.http, direct.addr, &app, body).await.unwrap();
        let expected = Answer::read(expected).await;
        let answer = stack.chat(&app, body).await;
        assert_eq!(answer.status, expected.status, "{body} {controls:?}");
        assert_eq!(answer.text(), expected.text(), "{body} {controls:?}");
        assert_eq!(answer.body, expected.body, "{body} {controls:?}");
        same_headers(&answer, &expected);
    }
    stack.database.settled("acme", cases.len()).await;
    stack.assert_healthy().await;
}

fn same_headers(answer: &Answer, expected: &Answer) {
    for (name, value) in &expected.headers {
        if !HOP_HEADERS.contains(&name.as_str()) {
            assert_eq!(answer.headers.get(name), Some(value), "{name}");
        }
    }
    for name in answer.headers.keys() {
        let known = expected.headers.contains_key(name)
            || HOP_HEADERS.contains(&name.as_str())
            || ADDED_HEADERS.contains(&name.as_str());
        assert!(known, "{name} came on the way: {:?}", answer.headers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_seen_before_the_last_is_produced() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let app = App::of("acme").with("x-fake-gate", "rest");
    let mut response = stack.open(&app, &ping_stream()).await;
    let mut seen = String::new();
    while !seen.contains(r#""content":"Money""#) {
        let chunk = within("the first word", response.chunk()).await.unwrap();
        seen.push_str(std::str::from_utf8(&chunk.expect("not the end")).unwrap());
    }
    assert_eq!(stack.fake.billed().rows, [], "the provider is not done yet");
    stack.fake.state.gates.open("rest");
    let rest = within("the rest", response.text()).await.unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    stack.database.settled("acme", 1).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_answer_names_its_hold_and_what_is_left() {
    let stack = Stack::start().await;
    for budget in [
        json!({"org": "acme", "window": "month", "limit_usd": "10.00"}),
        json!({"org": "acme", "team": "search", "window": "day", "limit_usd": "5.00"}),
        json!({"org": "acme", "team": "search", "user": "ann", "window": "day", "limit_usd": "1.00"}),
    ] {
        stack.backend.create_budget(budget).await;
    }
    let answer = stack.chat(&App::of("acme").team("search").user("ann"), &ping()).await.expect(200);
    let hold_id: Uuid = answer.header("x-purser-hold-id").parse().unwrap();
    assert_eq!(hold_id.get_version_num(), 7);
    let row = &stack.database.settled("acme", 1).await[0];
    for (tier, limit) in [("org", 10), ("team", 5), ("user", 1)] {
        let remaining = parse_usd(answer.header(&format!("x-purser-remaining-{tier}"))).unwrap();
        assert_eq!(remaining, limit * 1_000_000_000 - row.held_nanousd, "{tier}");
    }
    // Without a budget of a tier there is nothing to tell.
    stack.backend.org_budget("lone", "10.00").await;
    let answer = stack.chat(&App::of("lone").team("search").user("ann"), &ping()).await.expect(200);
    assert!(!answer.header("x-purser-remaining-org").is_empty());
    assert_eq!(answer.header("x-purser-remaining-team"), "");
    assert_eq!(answer.header("x-purser-remaining-user"), "");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_the_provider_is_the_request_and_nothing_of_ours() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let app = App::of("acme")
        .team("search")
        .user("ann")
        .with("authorization", "Bearer sk-app")
        .with("accept-encoding", "gzip, br")
        .with("x-own", "kept");
    stack.chat(&app, &ping()).await.expect(200);
    stack.chat(&app, &ping_stream()).await.expect(200);
    let rows = stack.fake.received().rows;
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(row.header("authorization"), Some("Bearer sk-app"));
        assert_eq!(row.header("x-own"), Some("kept"));
        assert_eq!(row.header("accept-encoding").unwrap_or("identity"), "identity");
        assert_eq!(row.header("content-length"), Some(row.body_bytes.to_string().as_str()));
        let ours = row
            .headers
            .iter()
            .find(|(name, _)| name.starts_with("x-budget-") || name.starts_with("x-purser-"));
        assert_eq!(ours, None, "{row:?}");
    }
    assert_eq!(rows[0].body, ping().to_string(), "a plain request goes out as it is");
    let sent: Value = serde_json::from_str(&rows[1].body).unwrap();
    assert_eq!(sent, with(ping_stream(), &json!({"stream_options": {"include_usage": true}})));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_megabytes_pass_unchanged() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "100.00").await;
    let text = "数 and so on. ".repeat(4 * 1024 * 1024 / 16);
    let body = with(ping(), &json!({"messages": [{"role": "user", "content": text}]}));
    for stream in [false, true] {
        let answer = stack.chat(&App::of("acme"), &with(body.clone(), &json!({"stream": stream}))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    let rows = stack.fake.received().rows;
    let sizes: Vec<usize> = rows.iter().map(|row| row.body_bytes).collect();
    let added = r#","stream_options":{"include_usage":true}"#.len();
    let plain = with(body.clone(), &json!({"stream": false})).to_string().len();
    assert_eq!(sizes, [plain, plain - 1 + added]);
    stack.database.settled("acme", 2).await;
    stack.assert_healthy().await;
}
