//! One request and its answer: what to do at each step, and what to tell the backend at the end.
//!
//! Pure: every event comes in as a call, every decision goes out as a value. The host carries the
//! decisions out and reports back when it could not.
//!
//! A metered request moves New → Reading → Asked → Sent; it can end as Refused from each of them.
//! At its end it leaves at most one [`purser_protocol::SettlementItem`]: none when it never asked for
//! a hold or was denied, a void when nothing was sent upstream, and a settlement otherwise.

mod end;
mod failed;
mod granted;
mod line;
mod note;
mod request;
mod response;
pub mod verdicts;

use std::collections::BTreeMap;
use std::rc::Rc;

use purser_protocol::{Admission, Call, Size, Void};
use uuid::Uuid;

pub use end::{End, flags};
pub use line::Line;
pub use note::Note;
pub use request::Arrival;

use crate::answer::AnswerBody;
use crate::api::{Family, Route};
use crate::config::Config;
use crate::denial::Reply;
use crate::dialect::Reader;
use crate::exhausted::Exhausted;
use crate::headers::HeaderEdit;
use crate::identity::{Caller, NoProxy, Proxy};
use crate::live::{LiveHold, LiveHolds};
use crate::outage::cell::SharedCell;
use crate::outage::{Outage, Ticket};
use crate::pool::Pool;
use crate::request::{BodyKind, CallRequest};
use crate::rewrite::{BodyRewrite, ModelPath};
use crate::strict::StrictPayers;

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
    /// Refusals that are repeated without asking.
    pub exhausted: Exhausted,
    /// What happens without verdicts.
    pub outage: Outage,
    /// What the proxy knows of the stream that is being served.
    pub proxy: Box<dyn Proxy>,
}

impl Worker {
    /// A worker without calls, of a proxy that knows nothing but headers.
    #[must_use]
    pub fn new(config: Config, pool: Pool, strict: StrictPayers) -> Self {
        let live = LiveHolds::new(config.backend.renew_interval_s);
        let exhausted = Exhausted::new(config.denials.cache_ms);
        let outage = Outage::new(config.breaker, config.fail_open, config.backend.hold_timeout_ms);
        Self { config, pool, live, strict, exhausted, outage, proxy: Box::new(NoProxy) }
    }

    /// The same in a proxy that knows more.
    #[must_use]
    pub fn in_proxy(self, proxy: Box<dyn Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// The same, with what goes out without a verdict counted together with other workers.
    #[must_use]
    pub fn counting_in(self, cell: Box<dyn SharedCell>) -> Self {
        Self { outage: self.outage.shared_by(cell), ..self }
    }
}

/// One request and its answer.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    state: State,
    /// The answer to a refused request whose body is still on its way.
    waiting: Option<Box<Reply>>,
    /// The shape of refusals that the request's sender understands.
    family: Family,
    notes: Vec<Note>,
    line: Line,
    /// The trace that the request belongs to, for the question to the backend.
    trace: Option<String>,
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
    caller: Caller,
    tags: BTreeMap<String, String>,
    model_path: Option<ModelPath>,
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
    caller: Caller,
    tags: BTreeMap<String, String>,
    call: Call,
    /// The model asked for, when another is called.
    asked_model: Option<String>,
    /// The path, where it names the model and may be changed.
    model_path: Option<ModelPath>,
    size: Size,
    /// Its turn at the backend; absent when it isn't asked.
    ticket: Option<Ticket>,
    reader: Reader,
    request: CallRequest,
    /// Which answers are compressed may be said anew.
    may_set_encoding: bool,
    started_at_unix_ms: u64,
    announces_length: bool,
}

impl Pending {
    fn void(&self) -> Void {
        let Caller { payer, lookup } = self.caller.clone();
        Void { hold_id: self.hold_id, payer, lookup }
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
    pub fn new(worker: Rc<Worker>) -> Self {
        Self {
            worker,
            state: State::New,
            waiting: None,
            family: Family::Openai,
            notes: Vec::new(),
            line: Line::default(),
            trace: None,
        }
    }

    /// The trace that the request belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }

    /// What the access log tells of it, as far as it is known by now.
    #[must_use]
    pub const fn line(&self) -> &Line {
        &self.line
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

    /// Answers in the upstream's place, of a request that is not `is_whole` once its body is there. Clients
    /// that are cut off while they send tell of a broken connection instead of the answer.
    fn reply_after_body(&mut self, reply: Reply, is_whole: bool) -> Step {
        if is_whole {
            return self.reply(reply, None);
        }
        self.state = State::Refused(None);
        self.waiting = Some(Box::new(reply));
        Step::Pause
    }
}

#[cfg(test)]
mod tests;
