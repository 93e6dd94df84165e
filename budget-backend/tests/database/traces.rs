//! Traces by OTLP, as a collector gets them, and ids of requests.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use reqwest::Method;
use serde_json::Value;
use sqlx::PgPool;

use crate::api::{ADMIN, TOKEN, hold_request};
use crate::metrics::Process;
use crate::support::*;

type Received = Arc<Mutex<Vec<u8>>>;

async fn receive(State(received): State<Received>, body: Bytes) {
    received.lock().unwrap().extend_from_slice(&body);
}

/// Bytes of text in a protobuf message are there as they are.
fn has(received: &Received, needle: &[u8]) -> bool {
    received.lock().unwrap().windows(needle.len()).any(|window| window == needle)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_is_part_of_its_caller_s_trace(pool: PgPool) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = format!("http://{}", listener.local_addr().unwrap());
    let received = Received::default();
    let router =
        axum::Router::new().route("/v1/traces", axum::routing::post(receive)).with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let process =
        Process::start(&pool, &[("PURSER_OTLP_ENDPOINT", &collector), ("OTEL_BSP_SCHEDULE_DELAY", "50")])
            .await;
    let client = reqwest::Client::new();
    let answer = client
        .post(format!("{}/v1/holds", process.base))
        .bearer_auth(TOKEN)
        .header("content-type", "application/json")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "the-id-of-the-test")
        .body(hold_request(id(1)).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "the-id-of-the-test");
    // One that Envoy chose not to trace.
    let unsampled = client.get(format!("{}/v1/budgets?org=acme", process.base)).bearer_auth(ADMIN);
    let unsampled =
        unsampled.header("traceparent", "00-11111111111111111111111111111111-b7ad6b7169203331-00");
    let made_up = unsampled.send().await.unwrap();
    assert!(made_up.headers()["x-request-id"].len() > 10);
    process.send(Method::GET, "/v1/rules?org=acme", ADMIN, &Value::Null).await;
    let until = in_time();
    while !(has(&received, b"POST /v1/holds") && has(&received, b"GET /v1/rules")) {
        assert!(std::time::Instant::now() < until, "the collector never got them");
        tokio::task::yield_now().await;
    }
    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    let parent_id = 0xb7ad_6b71_6920_3331_u64.to_be_bytes();
    assert!(has(&received, &trace_id) && has(&received, &parent_id));
    for text in ["purser-budget-backend", "the-id-of-the-test", "http.response.status_code"] {
        assert!(has(&received, text.as_bytes()), "{text}");
    }
    assert!(!has(&received, b"GET /v1/budgets") && !has(&received, &[0x11; 16]));
    // Nothing of who paid for what.
    for text in ["acme", "search", TOKEN, ADMIN] {
        assert!(!has(&received, text.as_bytes()), "{text}");
    }
}
