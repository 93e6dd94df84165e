//! The tracker's thread: takes batches off the queue, sweeps, and writes what was counted.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use purser_protocol::Outcome;

use super::denial_store::add_denials;
use super::model::{HoldKey, Item, Quarantined};
use super::session::Session;
use super::store::{self, Due, StepError};
use super::verdict_store::add_verdicts;
use super::{TrackerFailure, TrackerSettings, VerdictCounts, Work};
use crate::db::SyncConfig;

/// Most items written in one transaction.
const MAX_BATCH: usize = 512;

/// Most holds expired in one transaction.
const EXPIRE_BATCH: i64 = 256;

/// Most tombstones dropped in one transaction.
const DROP_BATCH: u64 = 2_000;

/// Most batches of each kind in one sweep.
const SWEEP_BATCHES: usize = 20;

/// How often counts of verdicts are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a failed connection attempt is remembered, so that a dead database is reported at once
/// instead of being dialled for every batch.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

/// The thread's state; its single steps are public to tests.
pub struct Worker {
    config: SyncConfig,
    settings: TrackerSettings,
    session: Option<Session>,
    connected_at: Instant,
    failed_at: Option<Instant>,
    swept_at: Instant,
    /// Where the search for due holds goes on; at the oldest when it has come to the end.
    due_after: Due,
    verdicts: VerdictCounts,
    flushed_at: Instant,
}

impl Worker {
    /// A worker that has not connected yet.
    #[must_use]
    pub fn new(config: impl Into<SyncConfig>, settings: TrackerSettings) -> Self {
        let now = Instant::now();
        Self {
            config: config.into(),
            settings,
            session: None,
            connected_at: now,
            failed_at: None,
            swept_at: now,
            due_after: Due::before_all(),
            verdicts: VerdictCounts::default(),
            flushed_at: now,
        }
    }

    /// Where verdicts are counted until [`Worker::flush`].
    #[must_use]
    pub fn verdicts(&self) -> &VerdictCounts {
        &self.verdicts
    }

    pub(super) fn run(mut self, works: &Receiver<Work>) {
        loop {
            let next_sweep = self.settings.sweep_interval.saturating_sub(self.swept_at.elapsed());
            let next_flush = FLUSH_INTERVAL.saturating_sub(self.flushed_at.elapsed());
            match works.recv_timeout(next_sweep.min(next_flush)) {
                Ok(first) => self.write(gather(first, works)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.flushed_at.elapsed() >= FLUSH_INTERVAL {
                self.flush();
            }
            if self.swept_at.elapsed() >= self.settings.sweep_interval {
                self.sweep_between(|worker| worker.serve(works));
                self.swept_at = Instant::now();
            }
        }
        self.flush();
    }

    /// Writes what has queued up; `false` when the process is stopping.
    fn serve(&mut self, works: &Receiver<Work>) -> bool {
        match works.try_recv() {
            Ok(first) => self.write(gather(first, works)),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return false,
        }
        true
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
            Err(StepError::Data(error)) => match items {
                [(key, item)] => self.set_aside(key, item, error),
                _ => items.iter().try_fold(Vec::with_capacity(items.len()), |mut outcomes, item| {
                    outcomes.extend(self.step(std::slice::from_ref(item))?);
                    Ok(outcomes)
                }),
            },
            Err(error) => {
                tracing::error!(%error, items = items.len(), "settlements were not written");
                Err(TrackerFailure::Database)
            }
        }
    }

    fn set_aside(
        &mut self,
        key: &HoldKey,
        item: &Item,
        reason: String,
    ) -> Result<Vec<Outcome>, TrackerFailure> {
        tracing::error!(hold_id = %key.1, reason, "a settlement can't be recorded and is set aside");
        let quarantined = Quarantined { reason, item: format!("{item:?}") };
        let aside = [(key.clone(), Item::Quarantine(quarantined))];
        self.attempt(&aside).map_err(|error| {
            tracing::error!(%error, hold_id = %key.1, "a settlement could not even be set aside");
            TrackerFailure::Database
        })
    }

    fn attempt(&mut self, items: &[(HoldKey, Item)]) -> Result<Vec<Outcome>, StepError> {
        let hold_ttl_s = self.settings.hold_ttl_s;
        self.with_session(|session| store::step(session, items, hold_ttl_s))
    }

    /// Charges open holds whose time is up, and drops old tombstones. Gives the number of holds charged.
    pub fn sweep(&mut self) -> usize {
        self.sweep_between(|_| true)
    }

    /// A sweep that asks between its batches whether to go on.
    fn sweep_between(&mut self, mut between: impl FnMut(&mut Self) -> bool) -> usize {
        let mut expired = 0;
        let swept = self.expire(&mut expired, &mut between).and_then(|()| self.drop_old(&mut between));
        if expired > 0 {
            tracing::warn!(expired, "holds expired unsettled and were charged in full");
        }
        if let Err(error) = swept {
            tracing::warn!(%error, "the sweep of holds was not finished");
        }
        expired
    }

    fn expire(
        &mut self,
        expired: &mut usize,
        between: &mut impl FnMut(&mut Self) -> bool,
    ) -> Result<(), StepError> {
        for _ in 0..SWEEP_BATCHES {
            self.session()?;
            if self.connected_at.elapsed() < self.settings.sweep_grace {
                return Ok(());
            }
            let after = self.due_after.clone();
            let due = self.with_session(|session| store::due_holds(session, &after, EXPIRE_BATCH))?;
            let more = i64::try_from(due.len()) == Ok(EXPIRE_BATCH);
            // Whatever becomes of these: they must not stand before the others for ever. Their turn
            // comes again when all that are due have had one.
            let last = due.last().filter(|_| more).cloned();
            self.due_after = last.unwrap_or_else(Due::before_all);
            let items: Vec<(HoldKey, Item)> = due.into_iter().map(|due| (due.key, Item::Expire)).collect();
            *expired = expired.saturating_add(self.expire_batch(&items)?);
            if !more || !between(self) {
                break;
            }
        }
        Ok(())
    }

    /// Expires some holds; gives how many were charged.
    fn expire_batch(&mut self, items: &[(HoldKey, Item)]) -> Result<usize, StepError> {
        match self.attempt(items) {
            Ok(outcomes) => Ok(recorded(&outcomes)),
            Err(StepError::Data(_)) => self.expire_each(items),
            Err(error) => Err(error),
        }
    }

    /// Expires each for itself; one that can't be charged doesn't keep the others from it.
    fn expire_each(&mut self, items: &[(HoldKey, Item)]) -> Result<usize, StepError> {
        let (mut charged, mut failed) = (0_usize, 0_usize);
        let mut first: Option<(&HoldKey, String)> = None;
        let mut result = Ok(());
        for item in items {
            match self.attempt(std::slice::from_ref(item)) {
                Ok(outcomes) => charged = charged.saturating_add(recorded(&outcomes)),
                Err(StepError::Data(error)) => {
                    failed = failed.saturating_add(1);
                    first.get_or_insert((&item.0, error));
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let Some(((org, hold_id), error)) = first {
            tracing::error!(failed, org, %hold_id, error, "expired holds can't be charged; this is the first");
        }
        result.map(|()| charged)
    }

    fn drop_old(&mut self, between: &mut impl FnMut(&mut Self) -> bool) -> Result<(), StepError> {
        let age_s = self.settings.tombstone_age_s;
        let limit = i64::try_from(DROP_BATCH).unwrap_or(i64::MAX);
        for _ in 0..SWEEP_BATCHES {
            let dropped = self.with_session(|session| store::drop_tombstones(session, age_s, limit))?;
            if dropped < DROP_BATCH || !between(self) {
                break;
            }
        }
        Ok(())
    }

    /// Writes the verdicts counted so far; what can't be written now is kept for the next time.
    pub fn flush(&mut self) {
        self.flushed_at = Instant::now();
        self.flush_denials();
        let (rows, lost) = self.verdicts.take();
        if lost > 0 {
            tracing::warn!(lost, "verdicts of too many orgs at once; these are in no count");
        }
        if rows.is_empty() {
            return;
        }
        match self.with_session(|session| add_verdicts(session, &rows)) {
            Ok(()) => {}
            // Trying again won't help, and must not keep the others from being written.
            Err(StepError::Data(error)) => {
                tracing::error!(
                    error,
                    rows = rows.len(),
                    "counts of verdicts can't be stored and are dropped"
                );
            }
            Err(error) => {
                tracing::warn!(%error, rows = rows.len(), "counts of verdicts were not written yet");
                self.verdicts.give_back(rows);
            }
        }
    }

    /// Writes the refusals kept so far, as [`Worker::flush`] does with the counts.
    fn flush_denials(&mut self) {
        let denials = self.verdicts.take_denials();
        if denials.is_empty() {
            return;
        }
        match self.with_session(|session| add_denials(session, &denials)) {
            Ok(()) => {}
            Err(StepError::Data(error)) => {
                tracing::error!(
                    error,
                    denials = denials.len(),
                    "refusals can't be stored and are only counted"
                );
            }
            Err(error) => {
                tracing::warn!(%error, denials = denials.len(), "refusals were not written yet");
                self.verdicts.give_back_denials(denials);
            }
        }
    }

    fn with_session<T>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let result = self.session().and_then(work);
        // After such a failure the connection's state is unknown; the next batch starts on a new one.
        if matches!(result, Err(StepError::Unavailable(_))) {
            self.session = None;
        }
        result
    }

    fn session(&mut self) -> Result<&mut Session, StepError> {
        if self.session.as_ref().is_some_and(Session::is_closed) {
            self.session = None;
        }
        if self.session.is_none() {
            if self.failed_at.is_some_and(|at| at.elapsed() < RECONNECT_PAUSE) {
                return Err(StepError::Unavailable("the last attempt to connect failed".to_owned()));
            }
            match Session::connect(&self.config) {
                Ok(session) => {
                    self.session = Some(session);
                    self.connected_at = Instant::now();
                    self.failed_at = None;
                }
                Err(error) => {
                    self.failed_at = Some(Instant::now());
                    return Err(StepError::Unavailable(error.to_string()));
                }
            }
        }
        self.session.as_mut().ok_or_else(|| StepError::Unavailable("no connection".to_owned()))
    }
}

/// How many were recorded.
fn recorded(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| **outcome == Outcome::Recorded).count()
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
