//! A new configuration gets new filters; what the old ones have to tell is told.

use std::collections::BTreeSet;
use std::path::Path;

use purser_protocol::SettlementItem;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::{Answer, App, http, ping, post_chat};
use system_tests::harness::envoy::Envoy;
use system_tests::harness::scripted::{Script, ScriptedBackend};
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

/// The configuration without its listener, which it takes from a file instead, and that file.
fn split(text: &str, file: &Path) -> (String, String) {
    let (head, rest) = text.split_once("  listeners:\n  - ").unwrap();
    let (listener, clusters) = rest.split_once("\n  clusters:").unwrap();
    let listener: Vec<_> = listener.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    let listener = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  {}\n",
        listener.join("\n")
    );
    let source = format!(
        "node: {{id: test, cluster: test}}\ndynamic_resources:\n  lds_config:\n    path_config_source: {{path: \"{}\"}}\n",
        file.display()
    );
    (format!("{source}{head}  clusters:{clusters}"), listener)
}

/// Envoy reads a file again when another is moved to its place.
fn put(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

async fn wait_for(envoy: &Envoy, name: &str, value: u64) {
    wait_until(name, async || {
        let stats = envoy.stats(name).await;
        if stats.get(name) == Some(&value) { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_wait_outlive_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, fake) = (ScriptedBackend::start(Script::Allow).await, FakeLlm::start().await.unwrap());
    let setup = Setup::default().one_worker();
    let setup = setup.edit(r#""settle_timeout_ms": 5000"#, r#""settle_timeout_ms": 1000"#);
    let config = setup.egress_config(backend.addr, fake.addr);
    let file = folder.path().join("listeners.yaml");
    let (text, listener) = split(&config.render(), &file);
    put(&file, &listener);
    let drain_soon = ["--drain-time-s", "1"];
    let mut envoy = Envoy::start_with(&config, &text, &drain_soon, folder.path(), http()).await;
    let call = async || {
        let response = post_chat(&http(), envoy.egress, &App::of("acme"), &ping()).await;
        Answer::read(response.unwrap()).await.expect(200);
    };
    backend.mute(true);
    for _ in 0..5 {
        call().await;
    }
    wait_for(&envoy, "wasmcustom.purser_outbox_items", 5).await;
    put(&file, &listener.replace(r#""flush_interval_ms": 50"#, r#""flush_interval_ms": 60"#));
    wait_for(&envoy, "listener_manager.total_filter_chains_draining", 1).await;
    call().await;
    // The old filters are retired now, with the backend saying nothing yet.
    wait_for(&envoy, "listener_manager.total_filter_chains_draining", 0).await;
    let asked: BTreeSet<_> = backend.holds().iter().map(|hold| hold.hold_id).collect();
    assert_eq!(asked.len(), 6);
    backend.play(Script::Allow);
    backend.mute(false);
    wait_until("all settlements", async || {
        let items = backend.batches().into_iter().flat_map(|batch| batch.items);
        let settled = items.filter(|item| matches!(item, SettlementItem::Settle(_)));
        let told: BTreeSet<_> = settled.map(|item| item.hold_id()).collect();
        if told == asked { Ok(()) } else { Err(format!("{asked:?} {told:?}")) }
    })
    .await;
    wait_for(&envoy, "wasmcustom.purser_outbox_items", 0).await;
    envoy.assert_sound().await;
}
