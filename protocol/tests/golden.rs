//! The JSON on the wire, pinned: what an older replica or filter wrote must read the same for ever.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test is meant to stop")]

use purser_protocol::{HoldRequest, HoldResponse, SettlementBatch, SettlementResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn golden(name: &str) -> String {
    let path = format!("{}/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Reads a golden file as `T` and writes it again: nothing may be lost or renamed.
fn round_trip<T: DeserializeOwned + Serialize>(name: &str) -> T {
    let text = golden(name);
    let message: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let before: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&message).unwrap(), before, "{name}");
    message
}

#[test]
fn every_golden_file_reads_and_writes_the_same() {
    for name in [
        "hold-request",
        "hold-request-least",
        "hold-request-tags",
        "hold-request-context",
        "hold-request-lookup",
    ] {
        round_trip::<HoldRequest>(name);
    }
    for name in [
        "hold-allow",
        "hold-allow-rewrite",
        "hold-allow-strict",
        "hold-deny",
        "hold-deny-strict",
        "hold-deny-total",
        "hold-allow-ladder",
        "hold-deny-exhausted",
        "hold-deny-unidentified",
    ] {
        round_trip::<HoldResponse>(name);
    }
    for name in [
        "settlement-batch",
        "settlement-batch-tags",
        "settlement-batch-renewal",
        "settlement-batch-units",
        "settlement-batch-lookup",
        "settlement-batch-denials",
    ] {
        round_trip::<SettlementBatch>(name);
    }
    round_trip::<SettlementResponse>("settlement-response");
    let files = std::fs::read_dir(format!("{}/golden", env!("CARGO_MANIFEST_DIR"))).unwrap().count();
    assert_eq!(files, 21, "a golden file that no test reads pins nothing");
}

#[test]
fn a_newer_writer_s_fields_are_ignored() {
    let mut newer: Value = serde_json::from_str(&golden("hold-request")).unwrap();
    newer["priority"] = json!("high");
    newer["payer"]["cost_center"] = json!(7);
    let older: HoldRequest = serde_json::from_value(newer).unwrap();
    assert_eq!(older, round_trip::<HoldRequest>("hold-request"));
}

#[test]
fn fields_that_came_later_have_defaults() {
    let mut least: Value = serde_json::from_str(&golden("hold-request-least")).unwrap();
    least["size"] = json!({"text_bytes": 0});
    let read: HoldRequest = serde_json::from_value(least).unwrap();
    assert_eq!(read, round_trip::<HoldRequest>("hold-request-least"));
}

#[test]
fn every_reason_has_one_name() {
    use purser_protocol::DenyReason;
    for name in [
        "over_budget",
        "closed",
        "not_priceable",
        "blocked",
        "model_not_allowed",
        "no_budget",
        "not_boundable",
        "unidentified",
        "other",
    ] {
        let reason: DenyReason = serde_json::from_value(json!(name)).unwrap();
        assert_eq!((reason.as_str(), serde_json::to_value(reason).unwrap()), (name, json!(name)));
    }
}

#[test]
fn an_unknown_reason_is_still_a_denial() {
    let mut newer: Value = serde_json::from_str(&golden("hold-deny")).unwrap();
    newer["reason"] = json!("not_invented_yet");
    let read: HoldResponse = serde_json::from_value(newer).unwrap();
    assert!(matches!(read.verdict, purser_protocol::Verdict::Deny(_)));
}

#[test]
fn every_api_has_one_name() {
    use purser_protocol::Api;
    for api in Api::ALL {
        assert_eq!(serde_json::to_value(api).unwrap(), json!(api.as_str()));
        assert_eq!(serde_json::from_value::<Api>(json!(api.as_str())).unwrap(), api);
    }
}
