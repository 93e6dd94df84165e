//! The way up: from the request's headers to the question for the backend, or to a refusal.

use std::mem;

use purser_protocol::{Call, HoldRequest, VERSION};

use super::{Exchange, Forward, Note, Pending, Reading, State, Step, verdicts};
use crate::answer::is_encoded;
use crate::api::{self, Family, Recognised, Route, recognise};
use crate::config::Policy;
use crate::denial;
use crate::dialect::Reader;
use crate::headers::Headers;
use crate::identity::{self, Caller, Origin, WithoutOrg};
use crate::ids;
use crate::request::{self, BodyKind, Unreadable, multipart};
use crate::rewrite::ModelPath;
use crate::signature;
use crate::trace;
use crate::verdict::Failure;

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
                self.line.verdict = Some(verdicts::REFUSED);
                self.reply(denial::no_upgrade(self.family), None)
            }
            Recognised::Unknown(class) => {
                let policy = self.worker.config.unknown_api;
                self.note(Note::UnknownApi(class, policy));
                match policy {
                    Policy::Deny => {
                        self.line.verdict = Some(verdicts::REFUSED);
                        self.reply_after_body(denial::unknown_api(self.family), is_whole)
                    }
                    Policy::Pass => self.pass(),
                }
            }
            Recognised::Metered(route) => self.metered(route, headers, is_whole, arrival),
        }
    }

    fn metered(&mut self, route: Route, headers: &Headers, is_whole: bool, arrival: Arrival) -> Step {
        let origin = Origin { headers, proxy: &*self.worker.proxy };
        let identified = match identity::identify(origin, &self.worker.config) {
            Ok(identified) => identified,
            Err(error) => {
                self.note(Note::WithoutOrg(WithoutOrg::Refused));
                self.line.verdict = Some(verdicts::UNIDENTIFIED);
                return self.reply_after_body(denial::unidentified(self.family, &error), is_whole);
            }
        };
        self.trace = trace::parent(headers);
        self.line.payer = Some(identified.caller.payer.clone());
        if let Some(outcome) = identified.without_org {
            self.note(Note::WithoutOrg(outcome));
        }
        if identified.dropped_tags > 0 {
            self.note(Note::TagsDropped(identified.dropped_tags));
        }
        if is_encoded(headers) {
            return self.unreadable(Unreadable::Encoded, is_whole);
        }
        if is_whole {
            return self.unreadable(Unreadable::Empty, true);
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
        let is_signed = signature::is_signed(headers, &route);
        let path = headers.get(":path").and_then(|path| String::from_utf8(path.to_vec()).ok());
        self.state = State::Reading(Box::new(Reading {
            caller: identified.caller,
            tags: identified.tags,
            model_path: path
                .filter(|_| route.model.is_some() && !is_signed)
                .map(|path| ModelPath { path, route: route.clone() }),
            route,
            kind: BodyKind { is_signed, boundary },
            may_set_encoding: !(is_signed && signature::covers(headers, "accept-encoding")),
            arrival,
            announces_length: length.is_some(),
            saw_body: false,
        }));
        Step::Pause
    }

    /// More of the body is there, `buffered_bytes` in all.
    pub fn request_body(&mut self, buffered_bytes: usize, is_last: bool) -> Step {
        let is_too_large = buffered_bytes > self.worker.config.max_request_body_bytes;
        match &mut self.state {
            State::Reading(_) if is_too_large => self.too_large(),
            State::Reading(reading) => {
                reading.saw_body = true;
                if is_last { Step::ReadBody } else { Step::Pause }
            }
            State::Refused(_) if is_last || is_too_large => {
                self.waiting.take().map_or(Step::Pause, |reply| Step::Reply(*reply))
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
            Err(cause) => return self.unreadable(cause, true),
        };
        let Some(random) = reading.arrival.random else {
            self.note(Note::FailedClosed(Failure::NotSent));
            self.line.verdict = Some(verdicts::FAILED_CLOSED);
            return self.reply(denial::failed_closed(self.family, None), None);
        };
        let call = Call {
            api: reading.route.api,
            provider: self.worker.config.provider.clone(),
            model: request.model.clone(),
            stream: request.stream,
        };
        self.line.model = Some(call.model.clone());
        // The body may have taken its time.
        let now_unix_ms = self.worker.proxy.now_unix_ms().unwrap_or(reading.arrival.now_unix_ms);
        if let Some(refused) = self.worker.exhausted.repeat(&reading.caller, &call, now_unix_ms) {
            return self.refuse_again(&refused);
        }
        let hold_id = ids::hold_id(reading.arrival.now_unix_ms, &random);
        self.line.hold_id = Some(hold_id);
        let Caller { payer, lookup } = reading.caller;
        let question = HoldRequest {
            version: VERSION,
            hold_id,
            payer,
            lookup,
            call,
            service_tier: request.service_tier.clone(),
            size: request.size,
            tags: reading.tags,
            deadline_ms: self.worker.config.backend.hold_timeout_ms,
        };
        let asked = serde_json::to_vec(&question);
        let HoldRequest { payer, lookup, call, size, tags, .. } = question;
        let mut pending = Pending {
            hold_id,
            caller: Caller { payer, lookup },
            tags,
            asked_model: None,
            model_path: reading.model_path,
            call,
            size,
            ticket: None,
            reader: Reader::new(&reading.route),
            request,
            may_set_encoding: reading.may_set_encoding,
            started_at_unix_ms: reading.arrival.now_unix_ms,
            announces_length: reading.announces_length,
        };
        match self.worker.outage.ask(now_unix_ms) {
            Ok(ticket) => pending.ticket = Some(ticket),
            Err(failure) => return self.not_asked(pending, failure, now_unix_ms),
        }
        self.state = State::Asked(Box::new(pending));
        match asked {
            Ok(body) => Step::Ask(body),
            Err(_) => self.hold_not_sent(now_unix_ms),
        }
    }

    fn pass(&mut self) -> Step {
        self.state = State::Passing;
        self.line.verdict = Some(verdicts::PASSED);
        Step::Forward(Forward {
            headers: identity::strip(&self.worker.config),
            body: None,
            announces_length: false,
        })
    }

    fn unreadable(&mut self, cause: Unreadable, is_whole: bool) -> Step {
        match self.worker.config.unreadable_request {
            Policy::Deny => {
                self.note(Note::UnreadableRefused);
                self.line.verdict = Some(verdicts::REFUSED);
                self.reply_after_body(denial::unreadable(self.family, &cause), is_whole)
            }
            Policy::Pass => {
                self.note(Note::UnreadablePassed(cause));
                self.pass()
            }
        }
    }

    fn too_large(&mut self) -> Step {
        let max_bytes = self.worker.config.max_request_body_bytes;
        self.note(Note::TooLarge);
        self.line.verdict = Some(verdicts::REFUSED);
        self.reply(denial::too_large(self.family, max_bytes), None)
    }
}
