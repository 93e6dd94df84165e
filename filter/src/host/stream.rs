//! The context of one stream: hands its events to the exchange and carries out the steps.

use std::fmt;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use purser_protocol::HOLDS_PATH;

use super::{ReceivedAnswer, Shared};
use crate::api::Family;
use crate::config::Policy;
use crate::denial::{self, Reply};
use crate::exchange::{Arrival, End, Exchange, Forward, Note, Step};
use crate::headers::HeaderEdit;
use crate::hostcalls::{self, Buffer, Level, Map};
use crate::outage::breaker::Change;
use crate::rewrite::RewriteError;

/// One stream.
pub struct Stream {
    /// Absent when the root has no configuration; such a stream is refused.
    inner: Option<Inner>,
}

struct Inner {
    shared: Rc<Shared>,
    exchange: Exchange,
    /// The callout for the hold.
    token: Option<u32>,
}

impl Stream {
    pub fn new(shared: Option<Rc<Shared>>) -> Self {
        Self {
            inner: shared.map(|shared| Inner {
                exchange: Exchange::new(Rc::clone(&shared.worker)),
                shared,
                token: None,
            }),
        }
    }

    fn with(&mut self, event: impl FnOnce(&mut Inner) -> Action) -> Action {
        if let Some(inner) = &mut self.inner {
            return event(inner);
        }
        send(&denial::failed_closed(Family::Openai, None));
        Action::Pause
    }
}

impl Inner {
    /// Carries out a step and those that follow from it.
    fn act(&mut self, first: Step) -> Action {
        let mut step = first;
        let action = loop {
            step = match step {
                Step::Continue => break Action::Continue,
                Step::Pause => break Action::Pause,
                Step::ReadBody => self.read_body(),
                Step::Ask(body) => match self.ask(&body) {
                    Ok(()) => break Action::Pause,
                    Err(step) => step,
                },
                Step::Forward(forward) => match apply(&forward, self.max_body_bytes()) {
                    Ok(()) => break Action::Continue,
                    Err(cause) => self.exchange.host_failed(cause),
                },
                Step::Reply(reply) => {
                    send(&reply);
                    break Action::Pause;
                }
            };
        };
        self.report();
        action
    }

    fn max_body_bytes(&self) -> usize {
        self.shared.worker.config.max_request_body_bytes
    }

    fn read_body(&mut self) -> Step {
        // One byte more, so that a body that is too large shows.
        let max_bytes = self.max_body_bytes().saturating_add(1);
        match hostcalls::buffer(Buffer::RequestBody, max_bytes) {
            Ok(body) => self.exchange.request_complete(&body),
            Err(_) => self.exchange.host_failed(None),
        }
    }

    fn ask(&mut self, body: &[u8]) -> Result<(), Step> {
        let timeout_ms = self.shared.worker.config.backend.hold_timeout_ms;
        self.token = self.shared.call_backend_in(self.exchange.trace(), HOLDS_PATH, body, timeout_ms);
        match self.token {
            Some(_) => Ok(()),
            None => Err(self.exchange.hold_not_sent(hostcalls::now_unix_ms())),
        }
    }

    fn report(&mut self) {
        for note in self.exchange.take_notes() {
            self.shared.counters.note(&note);
            if let Some((level, line)) = line_of(&note) {
                self.shared.log_seldom(level, &line);
            }
        }
    }
}

/// What the log says of a note; nothing when counting it is enough.
fn line_of(note: &Note) -> Option<(Level, String)> {
    let (text, detail): (_, &dyn fmt::Display) = match note {
        Note::UnknownApi(_, Policy::Deny)
        | Note::Allowed
        | Note::Degraded
        | Note::Clamped
        | Note::Warned(..)
        | Note::Denied
        | Note::DeniedAgain
        | Note::WithoutOrg(_)
        | Note::Used { .. }
        | Note::UnreadableRefused
        | Note::TooLarge
        | Note::UpgradeRefused
        | Note::NotAsked => return None,
        Note::TagsDropped(tags) => ("cost tags without a usable value were left out: ", tags),
        Note::FailedOpen(why) => ("no verdict, failing open: ", why),
        Note::FailedClosed(why) => ("no verdict, failing closed: ", why),
        Note::BoundReached(why) => ("no verdict, and no more may go out without one: ", why),
        Note::Breaker(Change::Opened) => ("the backend keeps failing and is left alone for a while", &""),
        Note::Breaker(Change::Closed) => ("the backend answers again", &""),
        Note::OutageOver => ("the backend has been back for a while; the outage is over", &""),
        Note::BackendRejected(status) => {
            ("the backend rejects holds, check backend.token and versions; its status: ", status)
        }
        Note::UnknownApi(class, Policy::Pass) => {
            return Some((
                Level::Warn,
                format!("a request to an API that can't be metered went out: {}", class.as_str()),
            ));
        }
        Note::NotRewritten => (
            "a verdict's rewrite could not be carried out: the request is signed, or its API has no place for it",
            &"",
        ),
        Note::UnreadAnswer => ("an answer could not be read; it is settled from its size", &""),
        Note::UnreadablePassed(why) => ("an unreadable request went out: ", why),
        Note::RenewalDropped => ("too many calls are running to renew the holds of all", &""),
        Note::NoBody => {
            ("a request ended before its body came; if all do, allow_on_headers_stop_iteration is off", &"")
        }
    };
    let level = if matches!(note, Note::BackendRejected(_)) { Level::Error } else { Level::Warn };
    Some((level, format!("{text}{detail}")))
}

/// Answers in the upstream's place.
fn send(reply: &Reply) {
    let sent = hostcalls::reply(reply.status, reply.details, &reply.headers, &reply.body);
    if let Err(status) = sent {
        let line = format!("the proxy refused a reply: {status:?}");
        hostcalls::log(Level::Error, &line);
    }
}

/// Makes the changes with which a request goes out. When one fails it must not go out.
fn apply(forward: &Forward, max_body_bytes: usize) -> Result<(), Option<RewriteError>> {
    if let Some(rewrite) = &forward.body {
        let body = hostcalls::buffer(Buffer::RequestBody, max_body_bytes).map_err(|_| None)?;
        let body = rewrite.apply(&body, max_body_bytes).map_err(Some)?;
        if forward.announces_length {
            edit_request(&HeaderEdit::set("content-length", body.len().to_string()))?;
        }
        hostcalls::set_buffer(Buffer::RequestBody, &body).map_err(|_| None)?;
    }
    forward.headers.iter().try_for_each(edit_request)
}

fn edit_request(edit: &HeaderEdit) -> Result<(), Option<RewriteError>> {
    hostcalls::edit_header(Map::Request, edit).map_err(|_| None)
}

impl Context for Stream {
    fn on_http_call_response(&mut self, token: u32, _: usize, body_bytes: usize, _: usize) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        if inner.token.take() != Some(token) {
            return;
        }
        let answer = ReceivedAnswer::read(body_bytes);
        let now_unix_ms = hostcalls::now_unix_ms();
        let step = inner.exchange.hold_answered(answer.view(), now_unix_ms);
        if inner.act(step) == Action::Continue
            && let Err(status) = hostcalls::continue_request()
        {
            let line = format!("the proxy refused to let a request go on: {status:?}");
            hostcalls::log(Level::Error, &line);
        }
        // The hold may be one to renew.
        inner.shared.wake(now_unix_ms);
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.with(|inner| {
            let Ok(headers) = hostcalls::headers(Map::Request) else {
                let step = inner.exchange.host_failed(None);
                return inner.act(step);
            };
            let arrival = Arrival { now_unix_ms: hostcalls::now_unix_ms(), random: hostcalls::random().ok() };
            let step = inner.exchange.request_headers(&headers, end_of_stream, arrival);
            inner.act(step)
        })
    }

    fn on_http_request_body(&mut self, buffered_bytes: usize, end_of_stream: bool) -> Action {
        self.with(|inner| {
            let step = inner.exchange.request_body(buffered_bytes, end_of_stream);
            inner.act(step)
        })
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.with(|inner| {
            let step = inner.exchange.request_trailers();
            inner.act(step)
        })
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        if let Some(inner) = &mut self.inner
            && inner.exchange.awaits_response()
        {
            let headers = hostcalls::headers(Map::Response).unwrap_or_default();
            let details = hostcalls::property("response\0code_details").unwrap_or_default();
            let is_upstreams = details == b"via_upstream";
            let edits = inner.exchange.response_headers(&headers, end_of_stream, is_upstreams);
            for edit in &edits {
                if let Err(status) = hostcalls::edit_header(Map::Response, edit) {
                    let line = format!("the proxy refused {edit:?}: {status:?}");
                    inner.shared.log_seldom(Level::Error, &line);
                }
            }
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, chunk_bytes: usize, end_of_stream: bool) -> Action {
        if let Some(inner) = &mut self.inner
            && inner.exchange.meters_response()
        {
            // The end may come alone.
            let chunk = match chunk_bytes {
                0 => Vec::new(),
                _ => hostcalls::buffer(Buffer::ResponseBody, chunk_bytes).unwrap_or_default(),
            };
            let changed = inner.exchange.response_body(&chunk, end_of_stream, hostcalls::now_unix_ms);
            if let Some(changed) = changed
                && let Err(status) = hostcalls::set_buffer(Buffer::ResponseBody, &changed)
            {
                let line = format!("the proxy refused an edited chunk: {status:?}");
                inner.shared.log_seldom(Level::Error, &line);
            }
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        if let Some(inner) = &mut self.inner {
            inner.exchange.response_trailers();
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        let now_unix_ms = hostcalls::now_unix_ms();
        // A property costs the proxy more than any other answer, so none is read that decides nothing.
        let mut end = End { now_unix_ms, ..End::default() };
        if inner.exchange.end_is_open() {
            end.response_flags = hostcalls::property_u64("response\0flags").unwrap_or(0);
            end.upstream_attempts = hostcalls::property_u64("upstream\0request_attempt_count");
        }
        if let Some(item) = inner.exchange.finish(end) {
            inner.shared.settle(&item, now_unix_ms);
        }
        if inner.shared.worker.config.access_log {
            for (name, value) in inner.exchange.line().fields() {
                // A line without it only tells less.
                let _ = hostcalls::set_property(name, value.as_bytes());
            }
        }
        // There is something to send, or denials were repeated that are to be reported.
        inner.shared.wake(now_unix_ms);
        inner.report();
    }
}
