//! From the spool into the ledger, when the database is back.

use std::time::Duration;

use purser_protocol::{Outcome, SettlementItem};

use super::Spool;
use crate::server::presence::Presence;
use crate::tracker::TrackerFailure;

/// Batches handed to the tracker together; it writes them in the order given.
const BATCHES: usize = 16;

/// Pause after a failure, and between two looks while the database is away.
const PAUSE: Duration = Duration::from_millis(250);

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// Nothing is left.
    Empty,
    /// Some went; there may be more.
    Some,
    /// It can't go on now.
    Stuck,
}

/// Drains a spool through `commit`, which records the items of one batch.
pub struct Drain<C> {
    spool: Spool,
    presence: Presence,
    commit: C,
    settled: u64,
}

impl<C, F> Drain<C>
where
    C: Fn(Vec<SettlementItem>) -> F,
    F: Future<Output = Result<Vec<Outcome>, TrackerFailure>>,
{
    /// Of a spool.
    pub fn new(spool: Spool, presence: Presence, commit: C) -> Self {
        Self { spool, presence, commit, settled: 0 }
    }

    /// Drains until `stop`, and then what still goes without waiting.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let pause = match self.step().await {
                Drained::Some => Duration::ZERO,
                Drained::Stuck => PAUSE,
                Drained::Empty => {
                    tokio::select! {
                        () = &mut stop => break,
                        () = self.spool.counts.filled.notified() => Duration::ZERO,
                    }
                }
            };
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        while self.step().await == Drained::Some {}
        let left = self.spool.standing();
        if left.batches > 0 {
            tracing::warn!(left.batches, left.bytes, "settlements stay in the spool for the next start");
        }
    }

    /// Drains a few batches.
    async fn step(&mut self) -> Drained {
        if self.spool.standing().batches == 0 {
            return Drained::Empty;
        }
        if self.presence.is_away() {
            return Drained::Stuck;
        }
        let kept = self.spool.first(BATCHES).await;
        if kept.is_empty() {
            // There are some, and they can't be read just now.
            return Drained::Stuck;
        }
        let (mut ids, mut commits) = (Vec::new(), Vec::new());
        for (id, text) in kept {
            if let Ok(items) = serde_json::from_slice::<Vec<SettlementItem>>(&text) {
                ids.push(id);
                commits.push((self.commit)(items));
            } else if !self.spool.set_aside((id, text)).await {
                return Drained::Stuck;
            }
        }
        let results = all_in_order(commits).await;
        let mut done = Vec::new();
        for (id, result) in ids.iter().zip(&results) {
            match result {
                Ok(outcomes) => {
                    let settled = u64::try_from(outcomes.len()).unwrap_or(u64::MAX);
                    crate::metrics::drained(settled);
                    self.settled = self.settled.saturating_add(settled);
                    done.push(*id);
                }
                Err(error) => {
                    tracing::warn!(%error, "spooled settlements were not written yet");
                    self.presence.suspect();
                }
            }
        }
        let all = done.len() == results.len();
        // What can't be taken out now is settled again, which changes nothing.
        if !(self.spool.remove(done).await && all) {
            return Drained::Stuck;
        }
        if self.spool.standing().batches == 0 {
            tracing::info!(settled = self.settled, "the spool is empty again");
            self.settled = 0;
        }
        Drained::Some
    }
}

/// Runs futures side by side, each polled for the first time in order.
async fn all_in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}
