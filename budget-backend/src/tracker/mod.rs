//! Cost writes: one sync thread over the `postgres` client, behind a bounded queue.
//!
//! Nobody waits for these writes on the hot path, so they stay simple and blocking; a batch is
//! acknowledged after its commit. Checks are async, in [`crate::ledger`]; both come from one
//! `DATABASE_URL` (see `docs/adr/0001-…`).

mod denial_store;
pub mod denials;
pub mod fold;
pub mod model;
mod read;
pub(crate) mod records;
pub(crate) mod rollup;
mod session;
pub mod store;
mod verdict_store;
pub mod verdicts;
mod worker;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use purser_protocol::Outcome;
use tokio::sync::oneshot;

use crate::db::SyncConfig;

pub use model::{HoldKey, Item};
pub use verdicts::VerdictCounts;
pub use worker::Worker;

/// The tracker could not write. Nothing of the batch is acknowledged; the sender tries again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrackerFailure {
    /// Its queue is full.
    #[error("too many settlements are waiting")]
    Overloaded,
    /// The database did not take it.
    #[error("the database is not available")]
    Database,
    /// The process is stopping.
    #[error("the backend is stopping")]
    Stopping,
}

/// How the tracker is set up.
#[derive(Debug, Clone, Copy)]
pub struct TrackerSettings {
    /// Batches that may wait.
    pub queue_len: usize,
    /// How often expired holds are looked for.
    pub sweep_interval: Duration,
    /// How long after a connection is made no hold is expired: settlements that waited for this
    /// backend or its database come first.
    pub sweep_grace: Duration,
    /// How long closed holds are kept as tombstones, seconds.
    pub tombstone_age_s: i64,
    /// How long a renewed hold lives on, seconds.
    pub hold_ttl_s: i64,
}

/// What a batch comes back with.
type Reply = Result<Vec<Outcome>, TrackerFailure>;

struct Work {
    items: Vec<(HoldKey, Item)>,
    reply: oneshot::Sender<Reply>,
}

/// The handle to the thread. Cheap to clone; the thread drains its queue and stops when the last
/// handle is gone.
#[derive(Clone)]
pub struct Tracker {
    queue: SyncSender<Work>,
    verdicts: VerdictCounts,
}

impl Tracker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        config: impl Into<SyncConfig>,
        settings: TrackerSettings,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (queue, works) = sync_channel(settings.queue_len.max(1));
        let worker = Worker::new(config, settings);
        let verdicts = worker.verdicts().clone();
        let thread =
            std::thread::Builder::new().name("tracker".to_owned()).spawn(move || worker.run(&works))?;
        Ok((Self { queue, verdicts }, thread))
    }

    /// Where verdicts are counted; the thread writes them about once a second.
    #[must_use]
    pub fn verdicts(&self) -> &VerdictCounts {
        &self.verdicts
    }

    /// Hands a batch over and waits for its commit.
    ///
    /// # Errors
    /// [`TrackerFailure`], at once when the queue is full.
    pub async fn record(&self, items: Vec<(HoldKey, Item)>) -> Reply {
        let (reply, outcome) = oneshot::channel();
        self.queue.try_send(Work { items, reply }).map_err(|error| match error {
            TrySendError::Full(_) => TrackerFailure::Overloaded,
            TrySendError::Disconnected(_) => TrackerFailure::Stopping,
        })?;
        outcome.await.unwrap_or(Err(TrackerFailure::Stopping))
    }
}
