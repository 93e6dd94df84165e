//! Settlements that wait until the backend has acknowledged them.
//!
//! Items go out in batches, one batch at a time. What a batch's answer doesn't name stays and goes
//! out again; the backend knows repeats by their id. The queue is bounded in bytes: when the
//! backend is away for too long the newest items are lost, and the caller counts them. Their holds
//! then expire at the backend and are charged in full. A [`Journal`] keeps a copy outside the VM, for whoever
//! comes after a trap.

use std::collections::VecDeque;

use purser_protocol::{ItemResult, Outcome, SettlementItem, VERSION};
use uuid::Uuid;

use crate::config::OutboxLimits;
use crate::journal::{Estate, Journal, Kept, Place};
use crate::replies;
use crate::verdict::CalloutAnswer;

/// First and longest time between attempts, milliseconds. What waited for a backend is to be in the
/// ledger soon after it is back.
const BACK_OFF_MS: (u32, u32) = (100, 2_000);

#[derive(Debug)]
struct Item {
    hold_id: Uuid,
    queued_unix_ms: u64,
    json: Box<[u8]>,
    bytes: usize,
    /// Where it stands in the journal, if it does.
    place: Option<Place>,
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
    journal: Option<Journal>,
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
            journal: None,
        }
    }

    /// The same, with a copy of it in a journal.
    #[must_use]
    pub fn journaled(self, journal: Journal) -> Self {
        Self { journal: Some(journal), ..self }
    }

    /// Queues an item at `now_unix_ms`.
    ///
    /// # Errors
    /// [`Full`] when it doesn't fit; it is lost then.
    pub fn push(&mut self, item: &SettlementItem, now_unix_ms: u64) -> Result<(), Full> {
        let json = serde_json::to_vec(item).map_err(|_| Full)?;
        self.put(Kept { hold_id: item.hold_id(), queued_unix_ms: now_unix_ms, json }, now_unix_ms)
    }

    fn put(&mut self, kept: Kept, now_unix_ms: u64) -> Result<(), Full> {
        let bytes = kept.bytes();
        if self.bytes.saturating_add(bytes) > self.limits.max_bytes {
            return Err(Full);
        }
        let place = self.journal.as_mut().and_then(|journal| journal.write(&kept, now_unix_ms));
        let Kept { hold_id, queued_unix_ms, json } = kept;
        self.bytes = self.bytes.saturating_add(bytes);
        self.queue.push_back(Item { hold_id, queued_unix_ms, json: json.into_boxed_slice(), bytes, place });
        if self.queue.len() == 1 {
            self.beat(now_unix_ms);
        }
        Ok(())
    }

    /// Whether there is a copy of it outside the VM.
    #[must_use]
    pub const fn is_journaled(&self) -> bool {
        self.journal.is_some()
    }

    /// Tells the journal that this outbox lives, and what of it is open.
    pub fn beat(&mut self, now_unix_ms: u64) {
        if let Some(journal) = &mut self.journal {
            journal.beat(self.queue.iter().find_map(|item| item.place), self.bytes, now_unix_ms);
        }
    }

    /// Looks for the journal of a VM that is gone, whose items fit in here.
    pub fn look(&mut self, now_unix_ms: u64) -> Option<Estate> {
        let room_bytes = self.limits.max_bytes.saturating_sub(self.bytes);
        self.journal.as_mut()?.look(room_bytes, now_unix_ms)
    }

    /// How long to wait before looking again, milliseconds; nothing when there is nothing to look for.
    #[must_use]
    pub fn look_wait_ms(&self) -> Option<u32> {
        self.journal.as_ref()?.wait_ms()
    }

    /// Takes over what a VM that is gone has left; how many items found no room and are lost.
    pub fn inherit(&mut self, mut estate: Estate, now_unix_ms: u64) -> usize {
        let items = std::mem::take(&mut estate.items);
        let lost = items.into_iter().filter_map(|item| self.put(item, now_unix_ms).err()).count();
        self.beat(now_unix_ms);
        if let Some(journal) = &mut self.journal {
            journal.bury(&estate);
        }
        lost
    }

    /// An item needs no place in the journal any more. `is_oldest` says that none before it does.
    fn leave(&mut self, place: Option<Place>, is_oldest: bool) {
        match (&mut self.journal, place) {
            (Some(journal), Some(place)) if is_oldest => journal.free(place),
            (Some(journal), Some(place)) => journal.erase(place),
            _ => {}
        }
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
            self.bytes = self.bytes.saturating_sub(item.bytes);
            tally.rejected.push((item.hold_id, why));
            self.leave(item.place, true);
        }
        self.settle_down();
        tally
    }

    fn acknowledge(&mut self, sent: usize, mut results: Vec<ItemResult>) -> Tally {
        let mut tally = Tally::default();
        let mut kept = Vec::new();
        let mut left = Vec::new();
        for item in self.queue.drain(..sent.min(self.queue.len())) {
            // They come in the order they were sent in, so that this looks at one of them.
            match results.iter().position(|result| result.hold_id == item.hold_id) {
                Some(at) => {
                    self.bytes = self.bytes.saturating_sub(item.bytes);
                    tally.add(item.hold_id, results.remove(at).outcome);
                    left.push((item.place, kept.is_empty()));
                }
                None => kept.push(item),
            }
        }
        for (place, is_oldest) in left {
            self.leave(place, is_oldest);
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
