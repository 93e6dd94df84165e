//! A call without a verdict: whether it goes out all the same.

use purser_protocol::Admission;
use uuid::Uuid;

use super::{Exchange, Note, Pending, Step, verdicts};
use crate::config::FailureMode;
use crate::denial;
use crate::headers::HeaderEdit;
use crate::outage::Ticket;
use crate::outage::cause::{self, Cause};
use crate::rewrite::Feasible;
use crate::verdict::{Failure, Outcome};

impl Exchange {
    /// The backend is not asked, since it failed just now.
    pub(super) fn not_asked(&mut self, pending: Pending, failure: Failure, now_unix_ms: u64) -> Step {
        self.note(Note::NotAsked);
        self.without_verdict(pending, failure, false, now_unix_ms)
    }

    /// Tells what a callout came to, so that others need not find out for themselves.
    pub(super) fn tell_outage(
        &mut self,
        ticket: Option<Ticket>,
        outcome: &Outcome,
        hold_id: Uuid,
        now_unix_ms: u64,
    ) {
        let outage = &self.worker.outage;
        let (change, is_over) = match outcome {
            Outcome::Decided(_) => outage.answered(ticket, now_unix_ms),
            Outcome::Rejected(_) => (outage.spoke(ticket), false),
            Outcome::Failed(failure) => {
                // As random as an id has to be.
                let (_, random) = hold_id.as_u64_pair();
                (outage.failed(ticket, *failure, now_unix_ms, random), false)
            }
        };
        self.notes.extend(change.map(Note::Breaker));
        if is_over {
            self.note(Note::OutageOver);
        }
    }

    /// There is no verdict: the failure mode decides, and nothing else asks for it. `may_be_held` says that
    /// the backend may have granted what nobody heard of.
    pub(super) fn without_verdict(
        &mut self,
        pending: Pending,
        failure: Failure,
        may_be_held: bool,
        now_unix_ms: u64,
    ) -> Step {
        let cause = Cause::of(failure);
        let (worker, hold_id) = (&self.worker, pending.hold_id);
        let is_open = cause::mode(cause, &worker.config.failure_mode, &*worker.proxy) == FailureMode::Open
            && !worker.strict.remembers(&pending.caller, now_unix_ms);
        if is_open && worker.outage.pass(&pending.call.model, now_unix_ms) {
            self.note(Note::FailedOpen(failure));
            self.line.verdict = Some(verdicts::FAILED_OPEN);
            let edits = vec![
                HeaderEdit::set("x-purser-failed-open", "true"),
                HeaderEdit::set("x-purser-failure-cause", cause.as_str()),
            ];
            return self.forward(pending, Feasible::default(), Admission::FailOpen, edits, None);
        }
        self.worker.outage.refused(now_unix_ms);
        let void = may_be_held.then(|| pending.void());
        let (note, verdict, reply) = if is_open {
            let reply = denial::bound_reached(self.family, hold_id);
            (Note::BoundReached(failure), verdicts::FAILED_BOUND, reply)
        } else {
            let reply = denial::failed_closed(self.family, Some(hold_id));
            let note = match failure {
                Failure::Rejected(status) => Note::BackendRejected(status),
                other => Note::FailedClosed(other),
            };
            (note, verdicts::FAILED_CLOSED, reply)
        };
        self.note(note);
        self.line.verdict = Some(verdict);
        self.reply(reply, void)
    }
}
