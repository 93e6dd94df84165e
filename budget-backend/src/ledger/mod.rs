//! The ledger's hot path: holds, decided in group-committed lanes.
//!
//! This side is async, over the sqlx pool, because a caller waits for the answer and a blocked thread
//! per waiting check is what once made this path slow. What calls cost is written by the sync thread
//! in [`crate::tracker`]; both come from one `DATABASE_URL` (see `docs/adr/0001-…`).

pub mod counters;
pub mod decide;
mod lane;
pub mod look;
pub mod policies;
pub mod policy_rows;
pub mod steps;
pub mod store;
pub mod terms;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use purser_protocol::{Api, Payer};
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::quote::{Quote, Quotes};

pub use decide::{Decision, Grant, Refusal};

/// A hold as the ledger decides it: priced already.
#[derive(Debug, Clone)]
pub struct HoldAsk {
    /// The id, made by the caller.
    pub hold_id: Uuid,
    /// Who pays.
    pub payer: Payer,
    /// Who bills.
    pub provider: String,
    /// The model asked for.
    pub model: String,
    /// The API spoken.
    pub api: Api,
    /// What to hold.
    pub quote: Quote,
    /// What to hold if another model runs it.
    pub others: Arc<dyn Quotes>,
    /// Cost tags.
    pub tags: BTreeMap<String, String>,
}

/// The ledger could not decide. Not a denial: nothing is known about the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldFailure {
    /// The lane's queue is full.
    #[error("too many holds are waiting")]
    Overloaded,
    /// The caller's deadline passed first.
    #[error("the deadline passed before a decision")]
    Deadline,
    /// The database did not answer, or not in time.
    #[error("the database is not available")]
    Database,
    /// The process is stopping.
    #[error("the backend is stopping")]
    Stopping,
}

/// How the lanes are set up.
#[derive(Debug, Clone, Copy)]
pub struct LedgerSettings {
    /// Tasks that commit batches side by side; an org always uses the same one.
    pub lanes: usize,
    /// Holds that may wait in one lane.
    pub queue_len: usize,
    /// How long a hold lives without a settlement, seconds.
    pub hold_ttl_s: i64,
}

/// The handle to the lanes. Cheap to clone; the lanes stop when the last handle is gone.
#[derive(Clone)]
pub struct Ledger {
    lanes: Vec<mpsc::Sender<lane::Waiting>>,
}

impl Ledger {
    /// Starts the lanes on the current runtime. The handles finish once every [`Ledger`] is dropped
    /// and the queues are empty.
    #[must_use]
    pub fn start(pool: &PgPool, settings: LedgerSettings) -> (Self, Vec<JoinHandle<()>>) {
        let (lanes, tasks) = (0..settings.lanes.max(1))
            .map(|_| {
                let (sender, queue) = mpsc::channel(settings.queue_len.max(1));
                (sender, tokio::spawn(lane::run(pool.clone(), settings.hold_ttl_s, queue)))
            })
            .unzip();
        (Self { lanes }, tasks)
    }

    /// Decides a hold by `deadline`.
    ///
    /// # Errors
    /// [`HoldFailure`], at once when the queue is full and at the deadline at the latest. The hold
    /// may have been granted all the same; the caller voids it.
    pub async fn hold(&self, ask: HoldAsk, deadline: Instant) -> Result<Decision, HoldFailure> {
        let lane = self.lane(&ask.payer.org).ok_or(HoldFailure::Stopping)?;
        let (reply, answer) = oneshot::channel();
        lane.try_send(lane::Waiting { ask, deadline, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => HoldFailure::Overloaded,
            mpsc::error::TrySendError::Closed(_) => HoldFailure::Stopping,
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(HoldFailure::Stopping),
            Err(_) => Err(HoldFailure::Deadline),
        }
    }

    fn lane(&self, org: &str) -> Option<&mpsc::Sender<lane::Waiting>> {
        let mut hasher = DefaultHasher::new();
        org.hash(&mut hasher);
        let lanes = u64::try_from(self.lanes.len()).ok()?;
        let index = hasher.finish().checked_rem(lanes)?;
        self.lanes.get(usize::try_from(index).ok()?)
    }
}
