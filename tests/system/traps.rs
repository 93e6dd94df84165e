//! A trap ends a worker's filter and all its streams. What it had to tell the backend outlives it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use purser_protocol::SettlementItem;
use system_tests::harness::client::{App, http, ping, post_chat};
use system_tests::harness::envoy::Envoy;
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::Setup;
use system_tests::harness::wasm::with_trap_in;
use system_tests::harness::{environment, raw, wait_until};
use tempfile::TempDir;

/// The built filter, except that trailers trap it.
fn fragile() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let module = std::fs::read(environment("PURSER_WASM")).unwrap();
    let path = folder.path().join("fragile.wasm");
    std::fs::write(&path, with_trap_in(&module, "proxy_on_request_trailers")).unwrap();
    (folder, path)
}

/// A worker that says nothing counts as gone after some ten seconds instead of fifteen.
fn setup(module: &Path) -> Setup {
    let setup = Setup::default().value("PURSER_WASM", module.display());
    setup.edit(r#""settle_timeout_ms": 5000"#, r#""settle_timeout_ms": 1000"#)
}

/// Makes one worker's filter trap, whichever takes the connection.
async fn trap(envoy: &Envoy) {
    let body = ping().to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\nx-checksum: abc\r\n\r\n", body.len());
    let headers = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let answer = raw::http1(envoy.egress, &raw::chat_request(&App::of("acme"), headers, chunks)).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(envoy.log().contains("unreachable"), "{}", envoy.tail());
}

/// Calls until one is served, by a new filter if it has to be.
async fn call(envoy: &Envoy) {
    wait_until("a call that is served", async || {
        let response = post_chat(&http(), envoy.egress, &App::of("acme"), &ping()).await;
        let status = response.map_err(|error| error.to_string())?.status().as_u16();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

async fn wait_for_gauges(envoy: &Envoy, items: u64) {
    wait_until("the gauges", async || {
        let stats = envoy.stats("wasmcustom.purser_outbox").await;
        let gauge = |name: &str| stats[&format!("wasmcustom.purser_outbox_{name}")];
        let is_empty = items > 0 || gauge("bytes") == 0 && gauge("overdue;older_than_s=1;") == 0;
        if gauge("items") == items && is_empty { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_wait_outlive_a_trap() {
    let (_folder, module) = fragile();
    let mut stack = setup(&module).without_backend().start().await;
    // Over connections of their own: both workers have some.
    join_all((0..12).map(|_| call(&stack.envoy))).await;
    wait_for_gauges(&stack.envoy, 12).await;
    trap(&stack.envoy).await;
    stack.backend.start().await;
    // Each worker gets some of these, so that the one that trapped is replaced.
    join_all((0..12).map(|_| call(&stack.envoy))).await;
    let ledger = stack.database.settled("acme", 24).await;
    let billed = stack.fake.billed().total_nanousd;
    assert_eq!(ledger.iter().map(|row| row.cost_nanousd).sum::<i64>().unsigned_abs(), billed);
    wait_for_gauges(&stack.envoy, 0).await;
    let stats = stack.envoy.stats("").await;
    assert!(stats["wasmcustom.purser_outbox_inherited"] > 0, "{stats:?}");
    assert_eq!(stats["wasmcustom.purser_outbox_dropped"], 0);
    assert_eq!(stats["wasm.purser.vm_reload_success"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_under_way_outlives_a_trap() {
    let (_folder, module) = fragile();
    let stack = setup(&module).one_worker().start_scripted(Script::Allow).await;
    stack.backend.mute(true);
    join_all((0..5).map(|_| call(&stack.envoy))).await;
    wait_until("a batch under way", async || {
        if stack.backend.batches().is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
    wait_for_gauges(&stack.envoy, 5).await;
    trap(&stack.envoy).await;
    let asked: BTreeSet<_> = stack.backend.holds().iter().map(|hold| hold.hold_id).collect();
    stack.backend.play(Script::Allow);
    stack.backend.mute(false);
    call(&stack.envoy).await;
    wait_until("all settlements", async || {
        let items = stack.backend.batches().into_iter().flat_map(|batch| batch.items);
        let settled = items.filter(|item| matches!(item, SettlementItem::Settle(_)));
        let told: BTreeSet<_> = settled.map(|item| item.hold_id()).collect();
        if told.is_superset(&asked) { Ok(()) } else { Err(format!("{asked:?} {told:?}")) }
    })
    .await;
    wait_for_gauges(&stack.envoy, 0).await;
    assert_eq!(stack.envoy.stats("wasm.purser.vm_reload_success").await["wasm.purser.vm_reload_success"], 1);
}
