//! Batches: work that is taken on and done later. What it costs is on no bill of this call.

use serde_json::Value;

use super::answer::hash;
use super::call::{Call, Refusal};
use super::wire::{Wire, wire};

/// A batch whose requests are in a file.
pub fn openai(call: &Call) -> Result<Wire, Refusal> {
    let tree = call.tree()?;
    let text = |name: &str| tree.get(name).and_then(Value::as_str).map(str::to_owned);
    let file = text("input_file_id").ok_or_else(|| Refusal::bad_request("input_file_id is required"))?;
    Ok(wire!({
        "id": (format!("batch_{:016x}", hash(&file, 1))),
        "object": "batch",
        "endpoint": (text("endpoint").unwrap_or_default()),
        "input_file_id": file,
        "completion_window": "24h",
        "status": "validating",
        "created_at": 1_700_000_000,
        "request_counts": {"total": 0, "completed": 0, "failed": 0}
    }))
}

/// A batch with its requests.
pub fn anthropic(call: &Call) -> Result<Wire, Refusal> {
    let tree = call.tree()?;
    let requests = tree.get("requests").and_then(Value::as_array).filter(|requests| !requests.is_empty());
    let requests = requests.ok_or_else(|| Refusal::bad_request("requests: Field required"))?;
    let processing = requests.len() as u64;
    Ok(wire!({
        "id": (format!("msgbatch_01{:016x}", hash(call.path, processing))),
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": {
            "processing": processing, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0
        },
        "created_at": "2026-01-02T03:04:05Z",
        "expires_at": "2026-01-03T03:04:05Z",
        "ended_at": null,
        "archived_at": null,
        "cancel_initiated_at": null,
        "results_url": null
    }))
}
