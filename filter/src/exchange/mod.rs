//! One request and its answer: what to do at each step, and what to tell the backend at the end.
//!
//! Pure: every event comes in as a call, every decision goes out as a value. The host carries the
//! decisions out and reports back when it could not.
//!
//! A metered request moves New → Reading → Asked → Sent; it can end as Refused from each of them.
//! At its end it leaves at most one [`purser_protocol::SettlementItem`]: none when it never asked for
//! a hold or was denied, a void when nothing was sent upstream, and a settlement otherwise.

mod end;
mod request;
mod response;

use std::rc::Rc;

use purser_protocol::{Admission, Call, Payer, Size, Void};
use uuid::Uuid;

pub use end::{End, flags};
pub use request::Arrival;

use crate::answer::AnswerBody;
use crate::api::{Family, PathClass, Route};
use crate::config::{Config, Policy};
use crate::denial::Reply;
use crate::dialect::Reader;
use crate::headers::HeaderEdit;
use crate::live::{LiveHold, LiveHolds};
use crate::pool::Pool;
use crate::request::{BodyKind, CallRequest, Unreadable};
use crate::rewrite::BodyRewrite;
use crate::strict::StrictPayers;
use crate::verdict::Failure;

/// What the host does next with the request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Let it go on as it is; nothing is left to decide.
    Continue,
    /// Hold it back.
    Pause,
    /// Read the whole body and hand it to [`Exchange::request_complete`].
    ReadBody,
    /// Hold it back and ask the backend for a hold, with this body.
    Ask(Vec<u8>),
    /// Change it and let it go on.
    Forward(Forward),
    /// Answer in the upstream's place.
    Reply(Reply),
}

/// How a request goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Changes to its headers.
    pub headers: Vec<HeaderEdit>,
    /// Changes to its body.
    pub body: Option<BodyRewrite>,
    /// Whether the new body's length must be announced: a `content-length` that doesn't fit the body
    /// would let its rest be read as another request.
    pub announces_length: bool,
}

/// Something to count and to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The backend allowed a call.
    Allowed,
    /// The backend denied a call.
    Denied,
    /// No verdict; the call went out.
    FailedOpen(Failure),
    /// No verdict; the call was refused.
    FailedClosed(Failure),
    /// The backend refused to decide, with this status; the call was refused.
    BackendRejected(u16),
    /// A request that may cost money and can't be metered: what its path is like, and whether it went
    /// out.
    UnknownApi(PathClass, Policy),
    /// A request that wanted to leave HTTP was refused.
    UpgradeRefused,
    /// The verdict asks for a change that this request can't take; it went out without.
    NotRewritten,
    /// An answer could not be read and was settled from what was seen of it.
    UnreadAnswer,
    /// A metered call went out unmetered, for its body.
    UnreadablePassed(Unreadable),
    /// Too many calls are running: the hold of another one is not renewed any more and may expire.
    RenewalDropped,
    /// A metered call ended before any of its body came. When all do, the proxy lacks
    /// `allow_on_headers_stop_iteration` and delivers no bodies while headers are held back.
    NoBody,
}

/// What all exchanges of one worker share.
#[derive(Debug)]
pub struct Worker {
    /// The configuration.
    pub config: Config,
    /// Memory for metering answers.
    pub pool: Pool,
    /// The holds of the calls that are out.
    pub live: LiveHolds,
    /// The payers that are not let through without a verdict.
    pub strict: StrictPayers,
}

impl Worker {
    /// A worker without calls.
    #[must_use]
    pub fn new(config: Config, pool: Pool, strict: StrictPayers) -> Self {
        let live = LiveHolds::new(config.backend.renew_interval_s);
        Self { config, pool, live, strict }
    }
}

/// One request and its answer.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    state: State,
    /// The shape of refusals that the request's sender understands.
    family: Family,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum State {
    /// Nothing has been seen yet.
    New,
    /// Not metered; everything passes.
    Passing,
    /// The body is being collected.
    Reading(Box<Reading>),
    /// The backend has been asked.
    Asked(Box<Pending>),
    /// The request went out.
    Sent(Box<Sent>),
    /// The filter answered itself. The void, if there is one, gives back what may be held.
    Refused(Option<Void>),
}

/// What is known before the body.
#[derive(Debug)]
struct Reading {
    payer: Payer,
    route: Route,
    kind: BodyKind,
    may_set_encoding: bool,
    arrival: Arrival,
    announces_length: bool,
    saw_body: bool,
}

/// A call that waits for its verdict.
#[derive(Debug)]
struct Pending {
    hold_id: Uuid,
    payer: Payer,
    call: Call,
    size: Size,
    reader: Reader,
    request: CallRequest,
    /// Which answers are compressed may be said anew.
    may_set_encoding: bool,
    started_at_unix_ms: u64,
    announces_length: bool,
}

impl Pending {
    fn void(&self) -> Void {
        Void { hold_id: self.hold_id, payer: self.payer.clone(), lookup: None }
    }
}

/// A call that went out.
#[derive(Debug)]
struct Sent {
    pending: Pending,
    admission: Admission,
    /// Keeps the hold from expiring, if there is one, for as long as this call lasts.
    _live: Option<LiveHold>,
    /// What the app finds in its answer's headers.
    answer_headers: Vec<HeaderEdit>,
    /// The upstream's status, once it answered; a proxy's own answer is none.
    http_status: Option<u16>,
    body: Option<AnswerBody>,
    first_byte_ms: Option<u64>,
    /// The end of the answer was seen.
    saw_end: bool,
}

impl Exchange {
    /// A stream that has just begun.
    #[must_use]
    pub const fn new(worker: Rc<Worker>) -> Self {
        Self { worker, state: State::New, family: Family::Openai, notes: Vec::new() }
    }

    /// What has happened since the last call that is worth counting or a line in the log.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The hold's id, for the access log, once the backend was asked.
    #[must_use]
    pub fn hold_id(&self) -> Option<Uuid> {
        match &self.state {
            State::Asked(pending) => Some(pending.hold_id),
            State::Sent(sent) => Some(sent.pending.hold_id),
            _ => None,
        }
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Answers in the upstream's place; `void` gives back what may be held.
    fn reply(&mut self, reply: Reply, void: Option<Void>) -> Step {
        self.state = State::Refused(void);
        Step::Reply(reply)
    }
}

#[cfg(test)]
mod tests;
