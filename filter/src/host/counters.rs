//! The filter's counters, and its one gauge, in the proxy's statistics. Labels are written into the names
//! (`name;label=value;`); the proxy's `stats_tags` take them apart.

use crate::api::PathClass;
use crate::config::Policy;
use crate::exchange::Note;
use crate::hostcalls::{self, Metric};
use crate::live::Renewals;
use crate::outbox::Tally;

/// A counter; nothing when the proxy would not define it.
type Counter = Option<u32>;

/// All of them, by the ids that the proxy gave them.
pub struct Counters {
    allowed: Counter,
    denied: Counter,
    failed_open: Counter,
    failed_closed: Counter,
    backend_rejected: Counter,
    unknown_passed: Counter,
    unknown_refused: Counter,
    /// In the order of [`PathClass::ALL`].
    unknown_paths: [Counter; PathClass::ALL.len()],
    upgrade_refused: Counter,
    not_rewritten: Counter,
    unread_answers: Counter,
    unreadable: Counter,
    recorded: Counter,
    duplicate: Counter,
    rejected: Counter,
    dropped: Counter,
    renewals_recorded: Counter,
    renewals_duplicate: Counter,
    renewals_failed: Counter,
    renewals_dropped: Counter,
    outbox_items: Option<u32>,
}

impl Counters {
    /// Defines them. Defining one again gives the same counter.
    pub fn define() -> Self {
        let counter = |name: &str| hostcalls::metric(Metric::Counter, name).ok();
        Self {
            allowed: counter("purser_verdicts;outcome=allow;"),
            denied: counter("purser_verdicts;outcome=deny;"),
            failed_open: counter("purser_failed_open"),
            failed_closed: counter("purser_failed_closed"),
            backend_rejected: counter("purser_backend_rejected"),
            unknown_passed: counter("purser_unmetered;reason=unknown_api;"),
            unknown_refused: counter("purser_refused;reason=unknown_api;"),
            unknown_paths: PathClass::ALL
                .map(|class| counter(&format!("purser_unknown_api;path={};", class.as_str()))),
            upgrade_refused: counter("purser_refused;reason=upgrade;"),
            not_rewritten: counter("purser_not_rewritten"),
            unread_answers: counter("purser_unread_answers"),
            unreadable: counter("purser_unmetered;reason=unreadable;"),
            recorded: counter("purser_settlements;outcome=recorded;"),
            duplicate: counter("purser_settlements;outcome=duplicate;"),
            rejected: counter("purser_settlements;outcome=rejected;"),
            dropped: counter("purser_outbox_dropped"),
            renewals_recorded: counter("purser_renewals;outcome=recorded;"),
            renewals_duplicate: counter("purser_renewals;outcome=duplicate;"),
            renewals_failed: counter("purser_renewals_failed"),
            renewals_dropped: counter("purser_renewals_dropped"),
            outbox_items: hostcalls::metric(Metric::Gauge, "purser_outbox_items").ok(),
        }
    }

    /// Counts what happened to a request.
    pub fn note(&self, note: &Note) {
        let counter = match note {
            Note::Allowed => self.allowed,
            Note::Denied => self.denied,
            Note::FailedOpen(_) => self.failed_open,
            Note::FailedClosed(_) => self.failed_closed,
            Note::BackendRejected(_) => self.backend_rejected,
            Note::UnknownApi(class, policy) => {
                add(self.unknown_paths.get(class.index()).copied().flatten(), 1);
                match policy {
                    Policy::Deny => self.unknown_refused,
                    Policy::Pass => self.unknown_passed,
                }
            }
            Note::UpgradeRefused => self.upgrade_refused,
            Note::NotRewritten => self.not_rewritten,
            Note::UnreadAnswer => self.unread_answers,
            Note::UnreadablePassed(_) => self.unreadable,
            Note::RenewalDropped => self.renewals_dropped,
            Note::NoBody => None,
        };
        add(counter, 1);
    }

    /// Counts what became of a batch.
    pub fn tally(&self, tally: &Tally) {
        add(self.recorded, tally.recorded);
        add(self.duplicate, tally.duplicate);
        let rejected = u64::try_from(tally.rejected.len()).unwrap_or(u64::MAX);
        add(self.rejected, rejected);
    }

    /// Counts what became of renewals.
    pub fn renewals(&self, renewals: Renewals) {
        add(self.renewals_recorded, renewals.recorded);
        add(self.renewals_duplicate, renewals.duplicate);
        add(self.renewals_failed, renewals.failed);
    }

    /// Counts a settlement that did not fit into the outbox.
    pub fn outbox_dropped(&self) {
        add(self.dropped, 1);
    }

    /// Tells how many items an outbox has, when it had `before`. All workers share the gauge and each
    /// adds what is its own.
    pub fn outbox_items(&self, before: usize, now: usize) {
        let size = |items: usize| i64::try_from(items).unwrap_or(i64::MAX);
        let by = size(now).saturating_sub(size(before));
        if let Some(id) = self.outbox_items
            && by != 0
        {
            // As for counters.
            let _ = hostcalls::shift(id, by);
        }
    }
}

fn add(counter: Counter, by: u64) {
    if let Some(id) = counter {
        // A count that the proxy refuses is not worth failing a request for.
        let _ = hostcalls::count(id, by);
    }
}
