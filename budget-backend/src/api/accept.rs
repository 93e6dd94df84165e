//! Taking settlements on: into the ledger, or onto the disk while the database is away.

use std::time::Duration;

use purser_protocol::{Outcome, SettlementItem};

use super::{ApiError, AppState, settlements};
use crate::metrics;
use crate::tracker::TrackerFailure;

/// Longest wait for a commit; a filter waits for its answer a second longer by default. What is written
/// after that is a repeat when it is sent again.
const COMMIT_LIMIT: Duration = Duration::from_secs(4);

/// Longest wait for a commit when the disk can take it instead.
const COMMIT_LIMIT_WITH_SPOOL: Duration = Duration::from_secs(2);

/// Records a batch; answers when it is committed, or synced to the disk.
///
/// # Errors
/// 503 when neither is possible now; then nothing is acknowledged, and the sender keeps it.
pub async fn accept(state: &AppState, items: Vec<SettlementItem>) -> Result<Vec<Outcome>, ApiError> {
    let Some(spool) = state.spool.as_ref().filter(|_| worth_keeping(&items)) else {
        return Ok(committed(state, items, COMMIT_LIMIT).await?);
    };
    let kept = items.clone();
    let failure = match committed(state, items, COMMIT_LIMIT_WITH_SPOOL).await {
        Ok(outcomes) => return Ok(outcomes),
        Err(failure) => failure,
    };
    tracing::debug!(%failure, items = kept.len(), "settlements go to the spool");
    spool.put(&kept).await.map_err(|failure| ApiError::unavailable(failure.to_string()))?;
    Ok(vec![Outcome::Recorded; kept.len()])
}

/// Settlements and voids are; that a call was still running says nothing any more when it is read.
fn worth_keeping(items: &[SettlementItem]) -> bool {
    items.iter().any(|item| matches!(item, SettlementItem::Settle(_) | SettlementItem::Void(_)))
}

async fn committed(
    state: &AppState,
    items: Vec<SettlementItem>,
    limit: Duration,
) -> Result<Vec<Outcome>, TrackerFailure> {
    let away = || {
        metrics::settlements_failed(&TrackerFailure::Database);
        Err(TrackerFailure::Database)
    };
    if state.presence.is_away() {
        return away();
    }
    let committed = tokio::time::timeout(limit, settlements::commit(state, items)).await;
    let committed = committed.unwrap_or_else(|_| away());
    match &committed {
        Ok(_) => state.presence.served(),
        Err(TrackerFailure::Database) => state.presence.suspect(),
        Err(_) => {}
    }
    committed
}
