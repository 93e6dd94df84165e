//! Settlements that wait until the backend has acknowledged them.
//!
//! Items go out in batches, one batch at a time. What a batch's answer doesn't name stays and goes
//! out again; the backend knows repeats by their id. The queue is bounded in bytes: when the
//! backend is away for too long the newest items are lost, and the caller counts them. Their holds
//! then expire at the backend and are charged in full.

use std::collections::VecDeque;

use purser_protocol::{ItemResult, Outcome, SettlementItem, VERSION};
use uuid::Uuid;

use crate::config::OutboxLimits;
use crate::replies;
use crate::verdict::CalloutAnswer;

/// First and longest time between attempts, milliseconds. What waited for a backend is to be in the
/// ledger soon after it is back.
const BACK_OFF_MS: (u32, u32) = (100, 2_000);

/// Memory an item takes beside its text, bytes.
const ITEM_OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Item {
    hold_id: Uuid,
    queued_unix_ms: u64,
    json: Box<[u8]>,
}

impl Item {
    fn bytes(&self) -> usize {
        self.json.len().saturating_add(ITEM_OVERHEAD_BYTES)
    }
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    limits: OutboxLimits,
    queue: VecDeque<Item>,
    bytes: usize,
    /// How many items at the front are in the batch under way.
    in_flight: usize,
    /// Most items in the next batch; lower while looking for an item that the backend can't read.
    batch_items: usize,
    /// Attempts that failed in a row.
    failures: u32,
}

/// The queue is full; the item is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What an answer did to the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Items now in the ledger.
    pub recorded: u64,
    /// Items that were there already.
    pub duplicate: u64,
    /// Items that never can be: the hold's id and the backend's reason.
    pub rejected: Vec<(Uuid, String)>,
    /// Why the batch goes out again, when it does.
    pub failure: Option<String>,
}

impl Outbox {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: OutboxLimits) -> Self {
        Self {
            limits,
            queue: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            batch_items: limits.batch_items,
            failures: 0,
        }
    }

    /// Queues an item at `now_unix_ms`.
    ///
    /// # Errors
    /// [`Full`] when it doesn't fit; it is lost then.
    pub fn push(&mut self, item: &SettlementItem, now_unix_ms: u64) -> Result<(), Full> {
        let item = Item {
            hold_id: item.hold_id(),
            queued_unix_ms: now_unix_ms,
            json: serde_json::to_vec(item).map_err(|_| Full)?.into_boxed_slice(),
        };
        let bytes = self.bytes.saturating_add(item.bytes());
        if bytes > self.limits.max_bytes {
            return Err(Full);
        }
        self.bytes = bytes;
        self.queue.push_back(item);
        Ok(())
    }

    /// How many items wait, those under way included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a batch is under way.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether enough waits for a full batch.
    #[must_use]
    pub fn is_batch_full(&self) -> bool {
        self.queue.len() >= self.batch_items
    }

    /// Bytes that the items take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the oldest item has been waiting, milliseconds; 0 when there is none.
    #[must_use]
    pub fn oldest_ms(&self, now_unix_ms: u64) -> u64 {
        self.queue.front().map_or(0, |item| now_unix_ms.saturating_sub(item.queued_unix_ms))
    }

    /// The body of the next batch; nothing when the queue is empty or a batch is under way.
    pub fn take_batch(&mut self) -> Option<Vec<u8>> {
        if self.is_in_flight() || self.is_empty() {
            return None;
        }
        self.in_flight = self.queue.len().min(self.batch_items);
        let mut body = format!(r#"{{"version":{VERSION},"items":["#).into_bytes();
        for (index, item) in self.queue.iter().take(self.in_flight).enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&item.json);
        }
        body.extend_from_slice(b"]}");
        Some(body)
    }

    /// Takes in the answer to the batch under way; `None` when it could not even be sent.
    pub fn answered(&mut self, answer: Option<CalloutAnswer<'_>>) -> Tally {
        let sent = std::mem::take(&mut self.in_flight);
        let Some(answer) = answer else {
            return self.failed("the callout could not be sent".to_owned());
        };
        let results = match answer.status {
            Some(200) if answer.is_backends() => replies::batch(answer.body),
            Some(status @ (400 | 413 | 422)) if answer.is_backends() => {
                return self.unreadable(sent, status);
            }
            _ => None,
        };
        match results {
            Some(response) => self.acknowledge(sent, response),
            None => self.failed(match answer.status {
                Some(status) => format!("the callout came back with status {status}"),
                None => "the answer broke off".to_owned(),
            }),
        }
    }

    /// How long to wait before the next attempt, milliseconds: nothing when the queue is empty,
    /// otherwise growing with the failures in a row. `random` spreads the attempts of many proxies.
    #[must_use]
    pub fn wait_ms(&self, random: u32) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let Some(doublings) = self.failures.checked_sub(1) else {
            return Some(self.limits.flush_interval_ms);
        };
        let (first, longest) = BACK_OFF_MS;
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let half = first.saturating_mul(factor).min(longest).div_euclid(2);
        let spread = random.checked_rem(half).unwrap_or(0);
        Some(half.saturating_add(spread))
    }

    fn failed(&mut self, why: String) -> Tally {
        self.failures = self.failures.saturating_add(1);
        Tally { failure: Some(why), ..Tally::default() }
    }

    /// The backend can't read the batch as a whole. Smaller batches find the item at fault, so that
    /// it can't hold up the others.
    fn unreadable(&mut self, sent: usize, status: u16) -> Tally {
        let why = format!("the backend can't read the batch (status {status})");
        if sent > 1 {
            self.batch_items = sent.div_euclid(2);
            return self.failed(why);
        }
        let mut tally = Tally::default();
        if let Some(item) = self.queue.pop_front() {
            self.bytes = self.bytes.saturating_sub(item.bytes());
            tally.rejected.push((item.hold_id, why));
        }
        self.settle_down();
        tally
    }

    fn acknowledge(&mut self, sent: usize, mut results: Vec<ItemResult>) -> Tally {
        let mut tally = Tally::default();
        let mut kept = Vec::new();
        for item in self.queue.drain(..sent.min(self.queue.len())) {
            // They come in the order they were sent in, so that this looks at one of them.
            match results.iter().position(|result| result.hold_id == item.hold_id) {
                Some(at) => {
                    self.bytes = self.bytes.saturating_sub(item.bytes());
                    tally.add(item.hold_id, results.remove(at).outcome);
                }
                None => kept.push(item),
            }
        }
        let missing = kept.len();
        for item in kept.into_iter().rev() {
            self.queue.push_front(item);
        }
        if missing > 0 {
            let failed = self.failed(format!("the answer names no outcome for {missing} items"));
            tally.failure = failed.failure;
        } else {
            self.settle_down();
        }
        tally
    }

    fn settle_down(&mut self) {
        self.failures = 0;
        self.batch_items = self.limits.batch_items;
    }
}

impl Tally {
    fn add(&mut self, hold_id: Uuid, outcome: Outcome) {
        match outcome {
            Outcome::Recorded => self.recorded = self.recorded.saturating_add(1),
            Outcome::Duplicate => self.duplicate = self.duplicate.saturating_add(1),
            Outcome::Rejected { reason } => self.rejected.push((hold_id, reason)),
        }
    }
}

#[cfg(test)]
mod tests;
