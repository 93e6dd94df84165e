//! Settlements kept on disk while the database is away. Optional: without it a settlement that can't be
//! committed is answered 503 and stays with its filter, which is safe too, but is lost when that Envoy is.
//!
//! What is acknowledged from here has been synced to disk, so it survives the process. It goes to the
//! tracker when the database is back, in the order it came; the ledger's ids make repeats harmless. One
//! thread owns the file; whatever queued up during its last sync is synced together.

mod drain;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use purser_protocol::SettlementItem;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use crate::metrics;

pub use drain::Drain;
pub use store::{OpenError, Store};

/// Batches that may wait for the disk; more are refused.
const QUEUE_LEN: usize = 256;

/// Most batches synced together.
const MAX_GATHERED: usize = 256;

/// What one batch takes beside its own text, bytes: its key, and its share of the file's pages.
const OVERHEAD_BYTES: u64 = 64;

/// `PURSER_SPOOL_DIR` and `PURSER_SPOOL_MAX_BYTES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// A folder of this replica's own, on a disk that outlives the process.
    pub dir: PathBuf,
    /// Most bytes of settlements kept.
    pub max_bytes: u64,
}

/// The spool did not take it. Nothing is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpoolFailure {
    /// It holds as much as it may.
    #[error("the database is not available, and the spool is full")]
    Full,
    /// Its queue is full.
    #[error("the database is not available, and too many settlements are waiting for the disk")]
    Overloaded,
    /// The disk refused.
    #[error("the database is not available, and the spool can't be written")]
    Disk,
}

/// What is in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Batches that wait for the database.
    pub batches: u64,
    /// What they take, bytes.
    pub bytes: u64,
    /// What they may take, bytes.
    pub max_bytes: u64,
}

/// A batch as it is kept: its place in the order, and its text.
pub type Kept = (u64, Vec<u8>);

/// A batch's text, and where it is said that it is kept.
type Put = (Vec<u8>, oneshot::Sender<Result<(), SpoolFailure>>);

enum Work {
    Put(Put),
    First(usize, oneshot::Sender<Vec<Kept>>),
    Remove(Vec<u64>, oneshot::Sender<bool>),
    SetAside(Kept, oneshot::Sender<bool>),
}

#[derive(Debug)]
struct Counts {
    batches: AtomicU64,
    bytes: AtomicU64,
    max_bytes: u64,
    filled: Notify,
}

impl Counts {
    /// Tells whoever scrapes.
    fn tell(&self) {
        metrics::spooled(self.batches.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
    }
}

/// The handle to the spool. Cheap to clone; its thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Spool {
    queue: SyncSender<Work>,
    counts: Arc<Counts>,
}

impl Spool {
    /// Opens the file and starts its thread.
    ///
    /// # Errors
    /// [`OpenError`]; a damaged file is none: it is set aside, and a new one begun.
    pub fn start(settings: &SpoolSettings) -> Result<(Self, JoinHandle<()>), OpenError> {
        let store = Store::open(&settings.dir)?;
        let (batches, bytes) = store.size()?;
        if batches > 0 {
            tracing::warn!(batches, bytes, "settlements of an earlier run are in the spool");
        }
        let counts = Arc::new(Counts {
            batches: AtomicU64::new(batches),
            bytes: AtomicU64::new(bytes.saturating_add(batches.saturating_mul(OVERHEAD_BYTES))),
            max_bytes: settings.max_bytes,
            filled: Notify::new(),
        });
        let (queue, works) = sync_channel(QUEUE_LEN);
        let keeper = Keeper { store, counts: Arc::clone(&counts) };
        counts.tell();
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(move || keeper.run(&works));
        Ok((Self { queue, counts }, thread.map_err(OpenError::Thread)?))
    }

    /// What is in it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            batches: self.counts.batches.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            max_bytes: self.counts.max_bytes,
        }
    }

    /// Keeps a batch; it is on disk when this comes back.
    ///
    /// # Errors
    /// [`SpoolFailure`], at once when it is full.
    pub async fn put(&self, items: &[SettlementItem]) -> Result<(), SpoolFailure> {
        let text = serde_json::to_vec(items).map_err(|_| SpoolFailure::Disk)?;
        let (reply, done) = oneshot::channel();
        self.queue.try_send(Work::Put((text, reply))).map_err(|error| match error {
            TrySendError::Full(_) => SpoolFailure::Overloaded,
            TrySendError::Disconnected(_) => SpoolFailure::Disk,
        })?;
        done.await.unwrap_or(Err(SpoolFailure::Disk))
    }

    /// The oldest batches.
    async fn first(&self, count: usize) -> Vec<Kept> {
        self.ask(|reply| Work::First(count, reply)).await.unwrap_or_default()
    }

    /// Forgets batches that are in the ledger.
    async fn remove(&self, ids: Vec<u64>) -> bool {
        self.ask(|reply| Work::Remove(ids, reply)).await.unwrap_or(false)
    }

    /// Puts a batch that can't be read into a file of its own.
    async fn set_aside(&self, kept: Kept) -> bool {
        self.ask(|reply| Work::SetAside(kept, reply)).await.unwrap_or(false)
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(work(reply)).ok()?;
        answer.await.ok()
    }
}

/// The thread's state.
struct Keeper {
    store: Store,
    counts: Arc<Counts>,
}

impl Keeper {
    fn run(mut self, works: &Receiver<Work>) {
        while let Ok(first) = works.recv() {
            let mut puts = Vec::new();
            let mut next = Some(first);
            while let Some(work) = next.take() {
                match work {
                    Work::Put(put) => {
                        puts.push(put);
                        if puts.len() < MAX_GATHERED {
                            next = works.try_recv().ok();
                        }
                    }
                    other => {
                        self.put(std::mem::take(&mut puts));
                        self.other(other);
                    }
                }
            }
            self.put(puts);
        }
    }

    fn put(&mut self, puts: Vec<Put>) {
        let mut bytes = self.counts.bytes.load(Ordering::Relaxed);
        let (mut texts, mut replies) = (Vec::new(), Vec::new());
        for (text, reply) in puts {
            let with_it = bytes.saturating_add(size_bytes(&text));
            if with_it > self.counts.max_bytes {
                let _gone = reply.send(Err(SpoolFailure::Full));
                continue;
            }
            bytes = with_it;
            texts.push(text);
            replies.push(reply);
        }
        if texts.is_empty() {
            return;
        }
        let written = self.store.append(&texts);
        if let Err(error) = &written {
            tracing::error!(%error, batches = texts.len(), "settlements could not be spooled");
        } else {
            let count = u64::try_from(texts.len()).unwrap_or(u64::MAX);
            let before = self.counts.batches.fetch_add(count, Ordering::Relaxed);
            self.counts.bytes.store(bytes, Ordering::Relaxed);
            self.counts.tell();
            if before == 0 {
                tracing::warn!("the database is away: settlements are spooled");
            }
            self.counts.filled.notify_one();
        }
        for reply in replies {
            // The caller may have hung up; what is kept is settled all the same.
            let _gone = reply.send(if written.is_ok() { Ok(()) } else { Err(SpoolFailure::Disk) });
        }
    }

    fn other(&mut self, work: Work) {
        match work {
            Work::Put(..) => {}
            Work::First(count, reply) => {
                let kept = self.store.first(count).unwrap_or_else(|error| {
                    tracing::error!(%error, "the spool can't be read");
                    Vec::new()
                });
                let _gone = reply.send(kept);
            }
            Work::Remove(ids, reply) => {
                let removed = self.remove(&ids);
                let _gone = reply.send(removed);
            }
            Work::SetAside(kept, reply) => {
                let aside = self.store.set_aside(&kept.1);
                let done = match aside {
                    Ok(file) => {
                        let file = file.display();
                        tracing::error!(%file, "a spooled batch can't be read and is set aside");
                        self.remove(&[kept.0])
                    }
                    Err(error) => {
                        tracing::error!(%error, "a spooled batch can't be read, nor set aside");
                        false
                    }
                };
                let _gone = reply.send(done);
            }
        }
    }

    fn remove(&mut self, ids: &[u64]) -> bool {
        match self.store.remove(ids) {
            Ok((removed, bytes)) => {
                let freed = bytes.saturating_add(removed.saturating_mul(OVERHEAD_BYTES));
                self.counts.batches.fetch_sub(removed, Ordering::Relaxed);
                self.counts.bytes.fetch_sub(freed, Ordering::Relaxed);
                self.counts.tell();
                true
            }
            Err(error) => {
                tracing::error!(%error, "settled batches could not be taken out of the spool yet");
                false
            }
        }
    }
}

fn size_bytes(text: &[u8]) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(OVERHEAD_BYTES)
}
