//! Headers that steer proxies: what an app says in them decides nothing here.

use serde_json::{Value, json};
use system_tests::harness::client::{App, CHAT_PATH, ping};
use system_tests::harness::raw;
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::within;
use tokio::process::Command;

/// An app that asks Envoy to try its calls again, in parallel, and to wait for none.
fn pushy() -> App {
    [
        ("x-envoy-retry-on", "5xx,gateway-error,reset,retriable-4xx,retriable-status-codes"),
        ("x-envoy-retriable-status-codes", "429,500,503"),
        ("x-envoy-max-retries", "5"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-internal", "true"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
    ]
    .into_iter()
    .fold(App::of("acme"), |app, (name, value)| app.with(name, value))
}

/// As shipped Envoy takes every caller for a stranger. An operator may have it know those of the network.
const NEIGHBOURS: &str = "stat_prefix: egress
          use_remote_address: true
          internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";

#[tokio::test(flavor = "multi_thread")]
async fn an_app_cannot_have_envoy_bill_a_call_twice_or_cut_it_short() {
    let stack = billed_once(Setup::default()).await;
    for row in stack.fake.received().rows {
        for (name, value) in &row.headers {
            assert!(!name.starts_with("x-envoy-"), "{name} reaches the provider: {value}");
        }
    }
    stack.assert_healthy().await;
    billed_once(Setup::default().edit("stat_prefix: egress", NEIGHBOURS)).await.assert_healthy().await;
}

async fn billed_once(setup: Setup) -> Stack {
    let stack = setup.one_worker().start().await;
    stack.backend.org_budget("acme", "10.00").await;
    // Longer than the app would have Envoy wait; and errors that it would have it try again.
    stack.chat(&pushy().with("x-fake-delay-ms", "300"), &ping()).await.expect(200);
    let entries = stack.database.settled("acme", 1).await;
    assert_eq!(stack.fake.received().attempts, 1);
    let failed = stack.chat(&pushy().with("x-fake-status", "503"), &ping()).await;
    assert_eq!(failed.status.as_u16(), 503);
    assert_eq!(stack.fake.received().attempts, 2, "an error was tried again");
    let failed = stack.chat(&pushy().with("x-fake-fault", "error-in-stream"), &ping()).await;
    assert_eq!(failed.status.as_u16(), 500);
    assert_eq!(stack.fake.received().attempts, 3, "an error was tried again");
    let billed = stack.fake.billed();
    assert_eq!(billed.rows.len(), 1, "{billed:?}");
    assert_eq!(u64::try_from(entries[0].cost_nanousd), Ok(billed.total_nanousd));
    stack
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logged_path_is_the_one_that_was_called() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let forged = App::of("acme")
        .with("x-envoy-original-path", "/v1/models")
        .with("x-envoy-original-host", "models.example")
        .with("x-original-url", "/v1/models");
    stack.chat(&forged, &ping()).await.expect(200);
    let line = stack.envoy.access_log(1).await.remove(0);
    assert_eq!(line["path"], CHAT_PATH, "{line}");
    stack.assert_healthy().await;
}

/// A request of the trusted hop that names headers as its connection's own: Envoy takes those out.
async fn with_connection(stack: &Stack, nominated: &str) -> String {
    let body = ping().to_string();
    let request = format!(
        "POST {CHAT_PATH} HTTP/1.1\r\nhost: llm.example\r\nconnection: close, {nominated}\r\n\
         x-budget-org: acme\r\nx-budget-team: search\r\nx-budget-user: ann\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    raw::http1(stack.envoy.egress, request.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_is_taken_out_of_a_call_is_nobody() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    for nominated in ["x-budget-org", "X-Budget-Org", "x-budget-user, x-budget-org"] {
        let answer = with_connection(&stack, nominated).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{nominated}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], json!("unidentified"), "{nominated}: {body}");
    }
    assert_eq!(stack.fake.received().attempts, 0);
    assert_eq!(stack.database.ledger("acme").await, []);
    stack.assert_healthy().await;
}

/// A call over HTTP/2 without anybody who pays, by curl, which tells of a broken stream rather than of an
/// answer that comes while it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_over_http2_is_an_answer_and_not_a_broken_stream() {
    let stack = Stack::start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let url = |path: &str| format!("http://{}{path}", stack.envoy.egress);
    for (kib, header, path, expected) in [
        (1, "x-other: 1", CHAT_PATH, "unidentified"),
        (8_192, "x-other: 1", CHAT_PATH, "unidentified"),
        (8_192, "x-budget-org: acme", "/v1/videos", "unknown_api"),
        (8_192, "content-encoding: br\nx-budget-org: acme", CHAT_PATH, "unreadable_request"),
    ] {
        std::fs::write(&file, format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(kib << 10))).unwrap();
        for protocol in ["--http2-prior-knowledge", "--http1.1"] {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--noproxy", "*", "--max-time", "60", protocol, "--data-binary"]);
            curl.arg(format!("@{}", file.display())).arg(url(path)).kill_on_drop(true);
            for header in header.lines().chain(["content-type: application/json", "expect:"]) {
                curl.args(["-H", header]);
            }
            let output = within("curl", curl.output()).await.unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{expected} {kib} KiB {protocol}: {error}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["error"]["code"], expected, "{kib} KiB {protocol}: {answer}");
        }
    }
    assert_eq!(stack.fake.received().attempts, 0);
    assert_eq!(stack.envoy.stats("purser_refused;reason=unreadable;").await.into_values().sum::<u64>(), 2);
    stack.assert_healthy().await;
}
