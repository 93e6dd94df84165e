//! The way up: from the request's headers to its going out, or to a refusal.

use std::collections::BTreeMap;
use std::mem;

use purser_protocol::{
    Admission, Allow, Call, Deny, DenyReason, HoldRequest, Payer, VERSION, Verdict, format_usd,
};

use super::{Exchange, Forward, Note, Pending, Reading, Sent, State, Step};
use crate::answer::is_encoded;
use crate::api::{self, Family, Recognised, Route, recognise};
use crate::config::{FailureMode, Policy};
use crate::denial::{self, HOLD_ID_HEADER};
use crate::dialect::Reader;
use crate::headers::{HeaderEdit, Headers};
use crate::identity;
use crate::ids;
use crate::live::LiveHold;
use crate::request::{self, BodyKind, Unreadable, multipart};
use crate::rewrite::{self, BodyRewrite, Feasible, RewriteError};
use crate::signature;
use crate::verdict::{self, CalloutAnswer, Failure, Outcome};

/// When a request came, and the randomness that makes its id one of its own.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Milliseconds since the Unix epoch.
    pub now_unix_ms: u64,
    /// Ten random bytes; absent when the host has none to give, and then no hold can be named.
    pub random: Option<[u8; 10]>,
}

impl Exchange {
    /// The request's headers are there. `is_whole` says that no body follows.
    pub fn request_headers(&mut self, headers: &Headers, is_whole: bool, arrival: Arrival) -> Step {
        let dialect = self.worker.config.dialect;
        let recognised = recognise(headers, dialect);
        self.family = match &recognised {
            Recognised::Metered(route) => Family::of(route.api),
            _ => api::family(headers, dialect),
        };
        match recognised {
            Recognised::Free => self.pass(),
            Recognised::Upgrade => {
                self.note(Note::UpgradeRefused);
                self.reply(denial::no_upgrade(self.family), None)
            }
            Recognised::Unknown(class) => {
                let policy = self.worker.config.unknown_api;
                self.note(Note::UnknownApi(class, policy));
                match policy {
                    Policy::Deny => self.reply(denial::unknown_api(self.family), None),
                    Policy::Pass => self.pass(),
                }
            }
            Recognised::Metered(route) => self.metered(route, headers, is_whole, arrival),
        }
    }

    fn metered(&mut self, route: Route, headers: &Headers, is_whole: bool, arrival: Arrival) -> Step {
        let payer = match identity::payer(headers, &self.worker.config) {
            Ok(payer) => payer,
            Err(error) => return self.reply(denial::unidentified(self.family, &error), None),
        };
        if is_encoded(headers) {
            return self.unreadable(Unreadable::Encoded);
        }
        if is_whole {
            return self.unreadable(Unreadable::Empty);
        }
        let length = headers.get("content-length");
        let announced = length
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.trim().parse::<u64>().ok());
        let max_bytes = u64::try_from(self.worker.config.max_request_body_bytes).unwrap_or(u64::MAX);
        if announced.is_some_and(|bytes| bytes > max_bytes) {
            return self.too_large();
        }
        let boundary = headers.get("content-type").and_then(multipart::boundary);
        self.state = State::Reading(Box::new(Reading {
            payer,
            route,
            kind: BodyKind { is_signed: signature::is_signed(headers), boundary },
            may_set_encoding: !signature::covers(headers, "accept-encoding"),
            arrival,
            announces_length: length.is_some(),
            saw_body: false,
        }));
        Step::Pause
    }

    /// More of the body is there, `buffered_bytes` in all.
    pub fn request_body(&mut self, buffered_bytes: usize, is_last: bool) -> Step {
        match &mut self.state {
            State::Reading(_) if buffered_bytes > self.worker.config.max_request_body_bytes => {
                self.too_large()
            }
            State::Reading(reading) => {
                reading.saw_body = true;
                if is_last { Step::ReadBody } else { Step::Pause }
            }
            State::Asked(_) | State::Refused(_) => Step::Pause,
            State::New | State::Passing | State::Sent(_) => Step::Continue,
        }
    }

    /// Trailers end the body; a body with trailers has no last chunk.
    pub fn request_trailers(&mut self) -> Step {
        self.request_body(0, true)
    }

    /// The whole body is there.
    pub fn request_complete(&mut self, body: &[u8]) -> Step {
        let reading = match mem::replace(&mut self.state, State::Refused(None)) {
            State::Reading(reading) => reading,
            other => {
                self.state = other;
                return Step::Pause;
            }
        };
        if body.len() > self.worker.config.max_request_body_bytes {
            return self.too_large();
        }
        let request = match request::read(&reading.route, &reading.kind, body) {
            Ok(request) => request,
            Err(cause) => return self.unreadable(cause),
        };
        let Some(random) = reading.arrival.random else {
            self.note(Note::FailedClosed(Failure::NotSent));
            return self.reply(denial::failed_closed(self.family, None), None);
        };
        let pending = Pending {
            hold_id: ids::hold_id(reading.arrival.now_unix_ms, &random),
            payer: reading.payer,
            call: Call {
                api: reading.route.api,
                provider: self.worker.config.provider.clone(),
                model: request.model.clone(),
                stream: request.stream,
            },
            size: request.size,
            reader: Reader::new(&reading.route),
            request,
            may_set_encoding: reading.may_set_encoding,
            started_at_unix_ms: reading.arrival.now_unix_ms,
            announces_length: reading.announces_length,
        };
        let asked = serde_json::to_vec(&HoldRequest {
            version: VERSION,
            hold_id: pending.hold_id,
            payer: pending.payer.clone(),
            lookup: None,
            call: pending.call.clone(),
            service_tier: None,
            size: pending.size,
            tags: BTreeMap::new(),
            deadline_ms: self.worker.config.backend.hold_timeout_ms,
        });
        self.state = State::Asked(Box::new(pending));
        match asked {
            Ok(body) => Step::Ask(body),
            Err(_) => self.hold_not_sent(reading.arrival.now_unix_ms),
        }
    }

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
        let pending = match mem::replace(&mut self.state, State::Refused(None)) {
            State::Asked(pending) => *pending,
            other => {
                self.state = other;
                return Step::Pause;
            }
        };
        match outcome {
            Outcome::Decided(Verdict::Allow(allow)) => {
                self.note(Note::Allowed);
                if allow.strict {
                    self.worker.strict.remember(&pending.payer, now_unix_ms);
                }
                let live = self.go_live(&pending, now_unix_ms);
                self.forward(pending, Some((allow, live)))
            }
            Outcome::Decided(Verdict::Deny(deny)) => {
                if deny.strict {
                    self.worker.strict.remember(&pending.payer, now_unix_ms);
                }
                self.deny(&pending, &deny)
            }
            Outcome::Rejected(status) => {
                self.note(Note::BackendRejected(status));
                self.reply(denial::failed_closed(self.family, Some(pending.hold_id)), None)
            }
            Outcome::Failed(failure) if self.fails_open(&pending.payer, now_unix_ms) => {
                self.note(Note::FailedOpen(failure));
                self.forward(pending, None)
            }
            Outcome::Failed(failure) => {
                self.note(Note::FailedClosed(failure));
                // Unless the callout never left, the backend may have granted what nobody heard of.
                let void = (failure != Failure::NotSent).then(|| pending.void());
                self.reply(denial::failed_closed(self.family, Some(pending.hold_id)), void)
            }
        }
    }

    /// Whether a call of this payer goes out without a verdict. Nothing else asks for the failure mode.
    fn fails_open(&self, payer: &Payer, now_unix_ms: u64) -> bool {
        let is_strict = self.worker.strict.remembers(payer, now_unix_ms);
        self.worker.config.failure_mode == FailureMode::Open && !is_strict
    }

    /// The call goes out: its hold is renewed from now on.
    fn go_live(&mut self, pending: &Pending, now_unix_ms: u64) -> LiveHold {
        if self.worker.live.is_full() {
            self.note(Note::RenewalDropped);
        }
        self.worker.live.enter(pending.hold_id, pending.payer.clone(), now_unix_ms)
    }

    fn deny(&mut self, pending: &Pending, deny: &Deny) -> Step {
        self.note(Note::Denied);
        self.reply(denial::denied(self.family, deny, pending.hold_id), None)
    }

    /// Lets the request go, with the grant or, without one, because the route fails open.
    fn forward(&mut self, mut pending: Pending, grant: Option<(Allow, LiveHold)>) -> Step {
        let wanted = grant.as_ref().and_then(|(allow, _)| allow.rewrite.clone()).unwrap_or_default();
        let Feasible { rewrite, falls_short } = rewrite::feasible(&pending.request, &wanted);
        if falls_short {
            self.note(Note::NotRewritten);
            if grant.as_ref().is_some_and(|(allow, _)| allow.strict) {
                return self.not_boundable(&pending);
            }
        }
        let body = BodyRewrite::of(&pending.request, &rewrite);
        pending.size.max_output_tokens = rewrite.max_output_tokens.or(pending.size.max_output_tokens);
        pending.call.model = rewrite.model.unwrap_or(pending.call.model);
        let mut headers = identity::strip(&self.worker.config);
        if pending.may_set_encoding {
            // A compressed answer would hide its usage.
            headers.push(HeaderEdit::set("accept-encoding", "identity"));
        }
        let forward = Forward { headers, body, announces_length: pending.announces_length };
        let mut answer_headers = vec![HeaderEdit::set(HOLD_ID_HEADER, pending.hold_id.to_string())];
        let (admission, live) = match grant {
            Some((allow, live)) => {
                answer_headers.extend(allow.remaining.iter().map(|left| {
                    let name = format!("x-purser-remaining-{}", left.tier.as_str());
                    HeaderEdit::set(name, format_usd(left.remaining_nanousd))
                }));
                (Admission::Held, Some(live))
            }
            None => {
                answer_headers.push(HeaderEdit::set("x-purser-failed-open", "true"));
                (Admission::FailOpen, None)
            }
        };
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

    /// A strict budget was granted what the verdict's rewrite bounds; without it nothing does.
    fn not_boundable(&mut self, pending: &Pending) -> Step {
        let deny = Deny {
            reason: DenyReason::NotBoundable,
            message: "A strict budget needs this request changed, and it can't be: it is signed, or its API \
                      has no member for it."
                .to_owned(),
            strict: true,
            ..Deny::default()
        };
        self.note(Note::Denied);
        let reply = denial::denied(self.family, &deny, pending.hold_id);
        self.reply(reply, Some(pending.void()))
    }

    /// The host could not read the request or carry out [`Step::Forward`]; nothing went out. `cause`
    /// is absent when the proxy refused.
    pub fn host_failed(&mut self, cause: Option<RewriteError>) -> Step {
        let (void, hold_id) = match &self.state {
            State::Sent(sent) => (Some(sent.pending.void()), Some(sent.pending.hold_id)),
            _ => (None, None),
        };
        let reply = match cause {
            Some(RewriteError::TooLarge) => {
                denial::too_large(self.family, self.worker.config.max_request_body_bytes)
            }
            Some(RewriteError::Changed) | None => denial::failed_closed(self.family, hold_id),
        };
        self.reply(reply, void)
    }

    fn pass(&mut self) -> Step {
        self.state = State::Passing;
        Step::Forward(Forward {
            headers: identity::strip(&self.worker.config),
            body: None,
            announces_length: false,
        })
    }

    fn unreadable(&mut self, cause: Unreadable) -> Step {
        match self.worker.config.unreadable_request {
            Policy::Deny => self.reply(denial::unreadable(self.family, &cause), None),
            Policy::Pass => {
                self.note(Note::UnreadablePassed(cause));
                self.pass()
            }
        }
    }

    fn too_large(&mut self) -> Step {
        let max_bytes = self.worker.config.max_request_body_bytes;
        self.reply(denial::too_large(self.family, max_bytes), None)
    }
}
