//! The backend's answer, and what the request goes out as.

use std::mem;

use purser_protocol::{Admission, Allow, Deny, DenyReason, Payer, Verdict};
use uuid::Uuid;

use super::{Exchange, Forward, Note, Pending, Sent, State, Step, verdicts};
use crate::config::FailureMode;
use crate::denial::{self, HOLD_ID_HEADER, Reply};
use crate::exhausted::Refused;
use crate::headers::HeaderEdit;
use crate::identity::{self, Caller, WithoutOrg};
use crate::live::LiveHold;
use crate::rewrite::{self, BodyRewrite, Feasible, RewriteError};
use crate::success;
use crate::verdict::{self, CalloutAnswer, Failure, Outcome};

impl Exchange {
    /// The backend, or something on the way, answered at `now_unix_ms`.
    pub fn hold_answered(&mut self, answer: CalloutAnswer<'_>, now_unix_ms: u64) -> Step {
        let State::Asked(pending) = &self.state else {
            return Step::Pause;
        };
        let outcome = verdict::read(answer, pending.hold_id);
        self.hold_outcome(outcome, now_unix_ms)
    }

    /// The callout could not be sent at `now_unix_ms`.
    pub fn hold_not_sent(&mut self, now_unix_ms: u64) -> Step {
        self.hold_outcome(Outcome::Failed(Failure::NotSent), now_unix_ms)
    }

    fn hold_outcome(&mut self, outcome: Outcome, now_unix_ms: u64) -> Step {
        let mut pending = match mem::replace(&mut self.state, State::Refused(None)) {
            State::Asked(pending) => *pending,
            other => {
                self.state = other;
                return Step::Pause;
            }
        };
        match outcome {
            Outcome::Decided(Verdict::Allow(allow)) => {
                self.learn(&mut pending, allow.payer.as_ref(), allow.strict, now_unix_ms);
                self.granted(pending, &allow, now_unix_ms)
            }
            Outcome::Decided(Verdict::Deny(deny)) => {
                let asked = pending.caller.clone();
                self.learn(&mut pending, deny.payer.as_ref(), deny.strict, now_unix_ms);
                let Caller { payer, .. } = pending.caller;
                let refused = Refused { deny, hold_id: pending.hold_id, payer };
                self.worker.exhausted.remember(&asked, &pending.call, refused.clone(), now_unix_ms);
                self.note(Note::Denied);
                let reply = self.deny(&refused.deny, refused.hold_id);
                self.reply(reply, None)
            }
            Outcome::Rejected(status) => {
                self.note(Note::BackendRejected(status));
                self.line.verdict = Some(verdicts::FAILED_CLOSED);
                self.reply(denial::failed_closed(self.family, Some(pending.hold_id)), None)
            }
            Outcome::Failed(failure) if self.fails_open(&pending.caller, now_unix_ms) => {
                self.note(Note::FailedOpen(failure));
                self.line.verdict = Some(verdicts::FAILED_OPEN);
                let edits = vec![HeaderEdit::set("x-purser-failed-open", "true")];
                self.forward(pending, Feasible::default(), Admission::FailOpen, edits, None)
            }
            Outcome::Failed(failure) => {
                self.note(Note::FailedClosed(failure));
                self.line.verdict = Some(verdicts::FAILED_CLOSED);
                // Unless the callout never left, the backend may have granted what nobody heard of.
                let void = (failure != Failure::NotSent).then(|| pending.void());
                self.reply(denial::failed_closed(self.family, Some(pending.hold_id)), void)
            }
        }
    }

    /// Takes in what a verdict tells of the caller: who it is, when that was looked up, and whether a strict
    /// budget is theirs. What was asked for and what was found are both remembered, since without a verdict
    /// only the former is known.
    fn learn(&mut self, pending: &mut Pending, payer: Option<&Payer>, strict: bool, now_unix_ms: u64) {
        if strict {
            self.worker.strict.remember(&pending.caller, now_unix_ms);
        }
        let Some(payer) = payer.filter(|_| pending.caller.lookup.is_some()) else { return };
        pending.caller = Caller { payer: payer.clone(), lookup: None };
        self.line.payer = Some(payer.clone());
        if strict {
            self.worker.strict.remember(&pending.caller, now_unix_ms);
        }
    }

    /// Whether a call of this payer goes out without a verdict. Nothing else asks for the failure mode.
    fn fails_open(&self, caller: &Caller, now_unix_ms: u64) -> bool {
        let is_strict = self.worker.strict.remembers(caller, now_unix_ms);
        self.worker.config.failure_mode == FailureMode::Open && !is_strict
    }

    /// The call goes out: its hold is renewed from now on.
    fn go_live(&mut self, pending: &Pending, now_unix_ms: u64) -> LiveHold {
        if self.worker.live.is_full() {
            self.note(Note::RenewalDropped);
        }
        self.worker.live.enter(pending.hold_id, pending.caller.payer.clone(), now_unix_ms)
    }

    /// A denial of the backend's.
    fn deny(&mut self, deny: &Deny, hold_id: Uuid) -> Reply {
        let is_nobody = deny.reason == DenyReason::Unidentified;
        self.line.verdict = Some(if is_nobody { verdicts::UNIDENTIFIED } else { verdicts::DENIED });
        if is_nobody {
            self.note(Note::WithoutOrg(WithoutOrg::Refused));
        }
        let show_amounts = self.worker.config.denials.show_amounts;
        denial::denied(self.family, deny, hold_id, show_amounts)
    }

    /// The denial of a moment ago holds for this call, too.
    pub(super) fn refuse_again(&mut self, refused: &Refused) -> Step {
        self.note(Note::DeniedAgain);
        self.line.payer = Some(refused.payer.clone());
        self.line.hold_id = Some(refused.hold_id);
        let mut reply = self.deny(&refused.deny, refused.hold_id);
        reply.headers.push(("x-purser-denial-cached", "true".to_owned()));
        self.line.verdict = Some(verdicts::DENIED_CACHED);
        self.reply(reply, None)
    }

    /// Carries a grant out: the call goes as it is, or changed as the grant says, or not at all.
    fn granted(&mut self, mut pending: Pending, allow: &Allow, now_unix_ms: u64) -> Step {
        let wanted = allow.rewrite.clone().unwrap_or_default();
        let feasible = rewrite::feasible(&pending.request, pending.model_path.as_ref(), &wanted);
        if feasible.falls_short {
            self.note(Note::NotRewritten);
            // Less is held than the call may cost as it stands.
            if allow.strict || allow.clamped || wanted.model.is_some() {
                return self.not_changeable(&pending, allow);
            }
        }
        let model = feasible.rewrite.model.clone().filter(|model| *model != pending.call.model);
        pending.asked_model = model.map(|model| mem::replace(&mut pending.call.model, model));
        let is_degraded = pending.asked_model.is_some();
        let (note, verdict) = match (is_degraded, allow.clamped) {
            (false, false) => (Note::Allowed, verdicts::ALLOW),
            (true, false) => (Note::Degraded, verdicts::DEGRADED),
            (false, true) => (Note::Clamped, verdicts::CLAMPED),
            (true, true) => (Note::Degraded, verdicts::DEGRADED_CLAMPED),
        };
        self.note(note);
        for warning in &allow.warnings {
            self.note(Note::Warned(warning.tier, warning.window));
        }
        self.line.verdict = Some(verdict);
        self.line.held_nanousd = Some(allow.held_nanousd);
        if is_degraded {
            self.line.model = Some(pending.call.model.clone());
        }
        let edits = success::headers(self.worker.config.headers, allow, pending.asked_model.as_deref());
        let live = self.go_live(&pending, now_unix_ms);
        self.forward(pending, feasible, Admission::Held, edits, Some(live))
    }

    /// Lets the request go, changed as far as is feasible. `edits` go on its answer.
    fn forward(
        &mut self,
        mut pending: Pending,
        feasible: Feasible,
        admission: Admission,
        edits: Vec<HeaderEdit>,
        live: Option<LiveHold>,
    ) -> Step {
        let body = BodyRewrite::of(&pending.request, &feasible.rewrite);
        pending.size.max_output_tokens =
            feasible.rewrite.max_output_tokens.or(pending.size.max_output_tokens);
        let mut headers = identity::strip(&self.worker.config);
        headers.extend(feasible.path.map(|path| HeaderEdit::set(":path", path)));
        if pending.may_set_encoding {
            // A compressed answer would hide its usage.
            headers.push(HeaderEdit::set("accept-encoding", "identity"));
        }
        let forward = Forward { headers, body, announces_length: pending.announces_length };
        let mut answer_headers = vec![HeaderEdit::set(HOLD_ID_HEADER, pending.hold_id.to_string())];
        answer_headers.extend(edits);
        self.state = State::Sent(Box::new(Sent {
            pending,
            admission,
            _live: live,
            answer_headers,
            http_status: None,
            body: None,
            first_byte_ms: None,
            saw_end: false,
        }));
        Step::Forward(forward)
    }

    /// What was granted is a changed call, and this one can't be changed. What it would cost as it stands is
    /// not held.
    fn not_changeable(&mut self, pending: &Pending, allow: &Allow) -> Step {
        let is_short = allow.clamped || allow.rewrite.as_ref().is_some_and(|rewrite| rewrite.model.is_some());
        let (reason, message) = if is_short {
            let message = "The budgets pay for this request only if it is changed, and it can't be: it is signed, \
                           or names its model or output cap where they can't be changed.";
            (DenyReason::OverBudget, message)
        } else {
            let message = "A strict budget needs this request changed, and it can't be: it is signed, or its API \
                           has no member for it.";
            (DenyReason::NotBoundable, message)
        };
        let deny = Deny { reason, message: message.to_owned(), strict: allow.strict, ..Deny::default() };
        self.note(Note::Denied);
        self.line.verdict = Some(verdicts::DENIED);
        let reply = denial::denied(self.family, &deny, pending.hold_id, true);
        self.reply(reply, Some(pending.void()))
    }

    /// The host could not read the request or carry out [`Step::Forward`]; nothing went out. `cause`
    /// is absent when the proxy refused.
    pub fn host_failed(&mut self, cause: Option<RewriteError>) -> Step {
        self.line.verdict = Some(match cause {
            Some(RewriteError::TooLarge) => verdicts::REFUSED,
            Some(RewriteError::Changed) | None => verdicts::FAILED_CLOSED,
        });
        let (void, hold_id) = match &self.state {
            State::Sent(sent) => (Some(sent.pending.void()), Some(sent.pending.hold_id)),
            _ => (None, None),
        };
        let reply = match cause {
            Some(RewriteError::TooLarge) => {
                self.note(Note::TooLarge);
                denial::too_large(self.family, self.worker.config.max_request_body_bytes)
            }
            Some(RewriteError::Changed) | None => denial::failed_closed(self.family, hold_id),
        };
        self.reply(reply, void)
    }
}
