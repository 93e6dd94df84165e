//! A filter that traps: the shipped configuration lets nothing pass for it, and its worker gets a new one. The
//! real filter can't be made to trap, so one stands in for it that does so when it is told to.

use system_tests::harness::client::{App, ping};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

/// More headers than this are a trap.
const HEADERS: u8 = 40;

/// A section of a WebAssembly module.
fn section(id: u8, items: &[&[u8]]) -> Vec<u8> {
    let body = items.concat();
    let length = |bytes: usize| u8::try_from(bytes).ok().filter(|length| *length < 128).unwrap();
    let mut section = vec![id, length(body.len() + 1), length(items.len())];
    section.extend_from_slice(&body);
    section
}

fn export(name: &str, kind: u8, index: u8) -> Vec<u8> {
    let mut export = vec![u8::try_from(name.len()).unwrap()];
    export.extend_from_slice(name.as_bytes());
    export.extend_from_slice(&[kind, index]);
    export
}

/// A filter that lets requests pass, and traps at one with more than [`HEADERS`] headers.
fn trapping_filter() -> Vec<u8> {
    const I32: u8 = 0x7f;
    // Its length; no locals; more headers than that: a trap; else 0, which is "go on".
    let on_request_headers = [13, 0, 0x20, 1, 0x41, HEADERS, 0x4a, 0x04, 0x40, 0x00, 0x0b, 0x41, 0, 0x0b];
    let exports = [
        export("memory", 2, 0),
        export("proxy_abi_version_0_2_1", 0, 0),
        export("malloc", 0, 1),
        export("proxy_on_request_headers", 0, 2),
    ];
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend(section(1, &[&[0x60, 0, 0], &[0x60, 1, I32, 1, I32], &[0x60, 3, I32, I32, I32, 1, I32]]));
    module.extend(section(3, &[&[0], &[1], &[2]]));
    module.extend(section(5, &[&[0, 1]]));
    module.extend(section(7, &exports.each_ref().map(Vec::as_slice)));
    module.extend(section(10, &[&[2, 0, 0x0b], &[4, 0, 0x41, 0, 0x0b], &on_request_headers]));
    module
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_stops_its_own_call_and_the_worker_gets_a_new_filter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trapping.wasm");
    std::fs::write(&path, trapping_filter()).unwrap();
    let setup = Setup::default().one_worker().value("PURSER_WASM", path.display());
    let stack = setup.start_scripted(Script::Allow).await;
    let app = App::of("acme");
    stack.chat(&app, &ping()).await.expect(200);

    let trap = (0..HEADERS).fold(app.clone(), |app, number| app.with(&format!("x-{number}"), "1"));
    stack.chat(&trap, &ping()).await.expect(503);
    assert_eq!(stack.fake.received().attempts, 1, "it did not pass");

    wait_until("a new filter", async || {
        let answer = stack.chat(&app, &ping()).await;
        if answer.status.as_u16() == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    let stats = stack.envoy.stats("wasm.purser.vm_reload_success").await;
    assert!(stats.values().sum::<u64>() >= 1, "{stats:?}");
}
