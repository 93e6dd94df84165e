//! The shipped configuration, as Envoy judges it.

use system_tests::harness::backend::ReservedPort;
use system_tests::harness::stack::Setup;

async fn validate(setup: Setup) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let port = ReservedPort::take();
    let output = setup.egress_config(port.addr, port.addr).validate(folder.path()).await;
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_configuration_is_valid() {
    for setup in [
        Setup::as_shipped(),
        Setup::as_shipped().fail_closed(),
        Setup::as_shipped().unidentified(r#"{"org":"demo","team":"default","user":"default"}"#),
    ] {
        let (valid, log) = validate(setup).await;
        assert!(valid, "{log}");
        assert!(!log.contains("deprecated"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_named_with_its_path() {
    let setup = Setup::as_shipped()
        .unidentified(r#"{"org":7}"#)
        .failure_mode("sometimes")
        .edit("purser_backend\",", "\",");
    let (valid, log) = validate(setup).await;
    assert!(!valid, "{log}");
    for path in ["unidentified.org", "failure_mode", "backend.cluster"] {
        assert!(log.contains(path), "{path} is not in {log}");
    }
    let (valid, log) = validate(Setup::as_shipped().failure_mode("open\", \"made_up\": \"1")).await;
    assert!(!valid && log.contains("made_up"), "an unknown field is a mistake: {log}");
    let (valid, log) = validate(Setup::as_shipped().unidentified("{")).await;
    assert!(!valid && log.contains("JSON"), "{log}");
}
