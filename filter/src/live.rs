//! Holds of calls that are still running, and when the backend must hear of them so that it doesn't
//! let them expire.
//!
//! A renewal that fails isn't sent again: the next one comes an interval later, and a hold outlives
//! several of them. Renewals go in batches of their own, beside the outbox and never in its way.

use std::cell::RefCell;
use std::rc::Rc;

use purser_protocol::{MAX_BATCH_ITEMS, Outcome, Payer, Renew, SettlementBatch, SettlementItem, VERSION};
use uuid::Uuid;

use crate::recent::Recent;
use crate::replies;
use crate::verdict::CalloutAnswer;

/// Most calls of one worker whose holds are renewed. Names are at most 256 bytes, so that they take
/// 32 MiB at the very most.
pub const MAX_LIVE_HOLDS: usize = 32_768;

/// Least time between two batches, milliseconds: many renewals due at once don't come at once.
const PAUSE_MS: u64 = 50;

/// The holds of one worker's running calls.
#[derive(Debug, Clone)]
pub struct LiveHolds(Rc<RefCell<Registry>>);

#[derive(Debug)]
struct Registry {
    interval_ms: u64,
    /// In the order of their turns: who was granted or renewed longest ago comes first.
    holds: Recent<Uuid, Live>,
    /// The holds in the batch under way.
    in_flight: Option<Vec<Uuid>>,
}

#[derive(Debug)]
struct Live {
    payer: Payer,
    /// When it was granted or last renewed, milliseconds since the Unix epoch.
    since_unix_ms: u64,
}

/// A running call's place among the live holds; dropping it ends the renewals.
#[derive(Debug)]
pub struct LiveHold {
    hold_id: Uuid,
    registry: Rc<RefCell<Registry>>,
}

impl Drop for LiveHold {
    fn drop(&mut self) {
        self.registry.borrow_mut().holds.remove(&self.hold_id);
    }
}

/// What became of the renewals of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewals {
    /// Holds that live on.
    pub recorded: u64,
    /// Holds that are not open any more; they are not renewed again.
    pub duplicate: u64,
    /// Renewals without such an answer. Their next turn is an interval later.
    pub failed: u64,
}

impl LiveHolds {
    /// None yet. Each will be renewed every `interval_s` seconds, which is at least 1.
    #[must_use]
    pub fn new(interval_s: u32) -> Self {
        Self::bounded(interval_s, MAX_LIVE_HOLDS)
    }

    fn bounded(interval_s: u32, max_holds: usize) -> Self {
        Self(Rc::new(RefCell::new(Registry {
            interval_ms: u64::from(interval_s.max(1)).saturating_mul(1_000),
            holds: Recent::new(max_holds),
            in_flight: None,
        })))
    }

    /// Whether the next call pushes another one out, which is then not renewed any more: the one that
    /// was granted or renewed longest ago.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.borrow().holds.is_full()
    }

    /// A call begins whose hold was granted just now.
    #[must_use]
    pub fn enter(&self, hold_id: Uuid, payer: Payer, now_unix_ms: u64) -> LiveHold {
        self.0.borrow_mut().holds.put(hold_id, Live { payer, since_unix_ms: now_unix_ms });
        LiveHold { hold_id, registry: Rc::clone(&self.0) }
    }

    /// The body of the next batch: those due, nothing but renewals. Nothing when none is due or a
    /// batch is under way. Whatever comes of it, those in it are due again an interval later.
    pub fn take_batch(&self, now_unix_ms: u64) -> Option<Vec<u8>> {
        let mut registry = self.0.borrow_mut();
        if registry.in_flight.is_some() {
            return None;
        }
        let mut items = Vec::new();
        while items.len() < MAX_BATCH_ITEMS
            && let Some(renew) = registry.renew_oldest(now_unix_ms)
        {
            items.push(SettlementItem::Renew(renew));
        }
        if items.is_empty() {
            return None;
        }
        registry.in_flight = Some(items.iter().map(SettlementItem::hold_id).collect());
        // Texts and ids alone can't fail to serialize; an empty body would be counted as failed.
        Some(serde_json::to_vec(&SettlementBatch { version: VERSION, items }).unwrap_or_default())
    }

    /// Takes in the answer to the batch under way; `None` when it could not even be sent.
    pub fn answered(&self, answer: Option<CalloutAnswer<'_>>) -> Renewals {
        let mut registry = self.0.borrow_mut();
        let mut sent = registry.in_flight.take().unwrap_or_default();
        let results = answer
            .filter(|answer| answer.status == Some(200) && answer.is_backends())
            .and_then(|answer| replies::batch(answer.body));
        let mut renewals = Renewals::default();
        for result in results.unwrap_or_default() {
            let Some(at) = sent.iter().position(|id| *id == result.hold_id) else { continue };
            sent.remove(at);
            match result.outcome {
                Outcome::Recorded => renewals.recorded = renewals.recorded.saturating_add(1),
                Outcome::Duplicate => renewals.duplicate = renewals.duplicate.saturating_add(1),
                Outcome::Rejected { .. } => renewals.failed = renewals.failed.saturating_add(1),
            }
            if result.outcome != Outcome::Recorded {
                registry.holds.remove(&result.hold_id);
            }
        }
        let unanswered = u64::try_from(sent.len()).unwrap_or(u64::MAX);
        renewals.failed = renewals.failed.saturating_add(unanswered);
        renewals
    }

    /// How long to wait before looking for renewals again, milliseconds; nothing when no call is
    /// running or a batch is under way.
    #[must_use]
    pub fn wait_ms(&self, now_unix_ms: u64) -> Option<u32> {
        let registry = self.0.borrow();
        if registry.in_flight.is_some() {
            return None;
        }
        let (_, live) = registry.holds.oldest()?;
        let left = registry.interval_ms.saturating_sub(now_unix_ms.abs_diff(live.since_unix_ms));
        u32::try_from(left.max(PAUSE_MS)).ok()
    }
}

impl Registry {
    /// Renews the hold whose turn it is, if it is due. A clock that jumps back by less than an interval
    /// puts it off by less than another; one that jumps farther makes it due.
    fn renew_oldest(&mut self, now_unix_ms: u64) -> Option<Renew> {
        let (hold_id, live) = self.holds.oldest()?;
        if now_unix_ms.abs_diff(live.since_unix_ms) < self.interval_ms {
            return None;
        }
        let renew = Renew { hold_id: *hold_id, payer: live.payer.clone() };
        self.holds.put(renew.hold_id, Live { payer: renew.payer.clone(), since_unix_ms: now_unix_ms });
        Some(renew)
    }
}

#[cfg(test)]
mod tests;
