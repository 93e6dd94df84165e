//! Cost writes: one sync thread over the `postgres` client, behind a bounded queue.
//!
//! Nobody waits for these writes on the hot path, so they stay simple and blocking; a batch is
//! acknowledged after its commit. Checks are async, in [`crate::ledger`]; both come from one
//! `DATABASE_URL` (see `docs/adr/0001-…`).

pub mod fold;
pub mod model;
mod records;
pub mod store;

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use purser_protocol::Outcome;
use tokio::sync::oneshot;

pub use model::{HoldKey, Item};
use store::StepError;

/// Most items written in one transaction.
const MAX_BATCH: usize = 512;

/// Most holds expired, or tombstones dropped, at a time.
const SWEEP_BATCH: i64 = 256;

/// How long a failed connection attempt is remembered, so that a dead database is reported at once
/// instead of being dialled for every batch.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

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
}

impl Tracker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(config: Config, settings: TrackerSettings) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (queue, works) = sync_channel(settings.queue_len.max(1));
        let worker = Worker::new(config, settings);
        let thread =
            std::thread::Builder::new().name("tracker".to_owned()).spawn(move || worker.run(&works))?;
        Ok((Self { queue }, thread))
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

/// The thread's state; its single steps are public to tests.
pub struct Worker {
    config: Config,
    settings: TrackerSettings,
    client: Option<Client>,
    connected_at: Instant,
    failed_at: Option<Instant>,
    swept_at: Instant,
}

impl Worker {
    /// A worker that has not connected yet.
    #[must_use]
    pub fn new(config: Config, settings: TrackerSettings) -> Self {
        let now = Instant::now();
        Self { config, settings, client: None, connected_at: now, failed_at: None, swept_at: now }
    }

    fn run(mut self, works: &Receiver<Work>) {
        loop {
            match works.recv_timeout(self.settings.sweep_interval) {
                Ok(first) => self.write(gather(first, works)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.swept_at.elapsed() >= self.settings.sweep_interval {
                self.sweep();
                self.swept_at = Instant::now();
            }
        }
    }

    /// Writes some works in one transaction and answers each.
    fn write(&mut self, works: Vec<Work>) {
        let mut items = Vec::new();
        let mut replies = Vec::new();
        for work in works {
            replies.push((work.items.len(), work.reply));
            items.extend(work.items);
        }
        let mut result = self.step(&items).map(Vec::into_iter);
        for (count, reply) in replies {
            let part = match &mut result {
                Ok(outcomes) => Ok(outcomes.by_ref().take(count).collect()),
                Err(failure) => Err(failure.clone()),
            };
            // The caller may have hung up; its items are in the ledger and a repeat is a duplicate.
            let _gone = reply.send(part);
        }
    }

    /// Writes one batch. An item the database can't store is set aside and the rest is written.
    ///
    /// # Errors
    /// [`TrackerFailure::Database`]; then nothing was acknowledged.
    pub fn step(&mut self, items: &[(HoldKey, Item)]) -> Result<Vec<Outcome>, TrackerFailure> {
        match self.attempt(items) {
            Ok(outcomes) => Ok(outcomes),
            Err(StepError::Unavailable(error)) => {
                tracing::error!(error, items = items.len(), "settlements were not written");
                Err(TrackerFailure::Database)
            }
            Err(StepError::Data(error)) => match items {
                [(key, item)] => self.set_aside(key, item, error),
                _ => items.iter().try_fold(Vec::with_capacity(items.len()), |mut outcomes, item| {
                    outcomes.extend(self.step(std::slice::from_ref(item))?);
                    Ok(outcomes)
                }),
            },
        }
    }

    fn set_aside(
        &mut self,
        key: &HoldKey,
        item: &Item,
        reason: String,
    ) -> Result<Vec<Outcome>, TrackerFailure> {
        tracing::error!(hold_id = %key.1, reason, "a settlement can't be recorded and is set aside");
        let quarantined = model::Quarantined { reason, item: format!("{item:?}") };
        let aside = [(key.clone(), Item::Quarantine(quarantined))];
        self.attempt(&aside).map_err(|error| {
            tracing::error!(%error, hold_id = %key.1, "a settlement could not even be set aside");
            TrackerFailure::Database
        })
    }

    fn attempt(&mut self, items: &[(HoldKey, Item)]) -> Result<Vec<Outcome>, StepError> {
        let client = self.client()?;
        let result = store::step(client, items);
        self.forget_if_broken(&result);
        result
    }

    /// Charges open holds whose time is up, and drops old tombstones. Gives the number of holds charged.
    pub fn sweep(&mut self) -> usize {
        match self.try_sweep() {
            Ok(expired) => {
                if expired > 0 {
                    tracing::warn!(expired, "holds expired unsettled and were charged in full");
                }
                expired
            }
            Err(error) => {
                tracing::warn!(%error, "expired holds could not be swept");
                0
            }
        }
    }

    fn try_sweep(&mut self) -> Result<usize, StepError> {
        let result = self.client().and_then(|client| store::due_holds(client, SWEEP_BATCH));
        self.forget_if_broken(&result);
        let due = result?;
        if due.is_empty() || self.connected_at.elapsed() < self.settings.sweep_grace {
            let age_s = self.settings.tombstone_age_s;
            let dropped = self.client().and_then(|client| store::drop_tombstones(client, age_s, SWEEP_BATCH));
            self.forget_if_broken(&dropped);
            return dropped.map(|_| 0);
        }
        let items: Vec<(HoldKey, Item)> = due.into_iter().map(|key| (key, Item::Expire)).collect();
        let outcomes = self.attempt(&items)?;
        Ok(outcomes.iter().filter(|outcome| **outcome == Outcome::Recorded).count())
    }

    fn client(&mut self) -> Result<&mut Client, StepError> {
        if self.client.as_ref().is_some_and(Client::is_closed) {
            self.client = None;
        }
        if self.client.is_none() {
            if self.failed_at.is_some_and(|at| at.elapsed() < RECONNECT_PAUSE) {
                return Err(StepError::Unavailable("the last attempt to connect failed".to_owned()));
            }
            match self.config.connect(NoTls) {
                Ok(client) => {
                    self.client = Some(client);
                    self.connected_at = Instant::now();
                    self.failed_at = None;
                }
                Err(error) => {
                    self.failed_at = Some(Instant::now());
                    return Err(error.into());
                }
            }
        }
        self.client.as_mut().ok_or_else(|| StepError::Unavailable("no connection".to_owned()))
    }

    /// After a failure the connection's state is unknown; the next batch starts on a new one.
    fn forget_if_broken<T>(&mut self, result: &Result<T, StepError>) {
        if matches!(result, Err(StepError::Unavailable(_))) {
            self.client = None;
        }
    }
}

/// Takes what else has queued up, up to a batch.
fn gather(first: Work, works: &Receiver<Work>) -> Vec<Work> {
    let mut items = first.items.len();
    let mut gathered = vec![first];
    while items < MAX_BATCH {
        let Ok(work) = works.try_recv() else { break };
        items = items.saturating_add(work.items.len());
        gathered.push(work);
    }
    gathered
}
