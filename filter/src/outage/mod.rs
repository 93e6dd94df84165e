//! What one worker knows of a backend that gives no verdicts: whether to ask it at all ([`breaker`]), and how
//! much may go out without one ([`bound`]).
//!
//! The breaker is this worker's own, so that a call of a healthy backend costs no look at anything shared.
//! The bound holds for the whole proxy process. A healthy worker looks at it once a second at most.

pub mod bound;
pub mod breaker;
pub mod cause;
pub mod cell;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::config::{BreakerLimits, FailOpenLimits};
use crate::recent::Recent;
use crate::verdict::Failure;
use bound::Count;
use breaker::{Asks, Breaker, Change, Turn};
use cell::{OwnCell, SharedCell, update};

/// Most models whose last hold a worker remembers; the one that was seen new longest ago is forgotten first.
/// Names are at most 256 bytes.
pub const MAX_MODELS: usize = 1_024;

/// Least time between two looks at what all workers share, milliseconds, while calls are answered.
const LOOK_MS: u64 = 1_000;

/// One worker's view of the backend's failures.
#[derive(Debug)]
pub struct Outage {
    breaker: Rc<RefCell<Breaker>>,
    limits: FailOpenLimits,
    cell: Box<dyn SharedCell>,
    /// The last hold of each model, nano-USD.
    held: RefCell<Recent<String, i64>>,
    /// Verdicts since the last look.
    answers: Cell<u64>,
    looked_unix_ms: Cell<u64>,
}

/// A call's turn at the backend. Dropped without a word it is given back.
#[derive(Debug)]
pub struct Ticket {
    breaker: Rc<RefCell<Breaker>>,
    turn: Turn,
    is_used: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_used {
            self.breaker.borrow_mut().abandoned(self.turn);
        }
    }
}

impl Ticket {
    /// Whether it is the one that tries whether the backend is back.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.turn.is_probe
    }
}

impl Outage {
    /// None yet, counted by this worker alone.
    #[must_use]
    pub fn new(breaker: BreakerLimits, limits: FailOpenLimits, hold_timeout_ms: u32) -> Self {
        Self {
            breaker: Rc::new(RefCell::new(Breaker::new(breaker, hold_timeout_ms))),
            limits,
            cell: Box::new(OwnCell::default()),
            held: RefCell::new(Recent::new(MAX_MODELS)),
            answers: Cell::new(0),
            looked_unix_ms: Cell::new(0),
        }
    }

    /// The same, counted together with others.
    #[must_use]
    pub fn shared_by(self, cell: Box<dyn SharedCell>) -> Self {
        Self { cell, ..self }
    }

    /// A turn at the backend, or why it is not asked.
    ///
    /// # Errors
    /// The failure for which nobody asks just now.
    pub fn ask(&self, now_unix_ms: u64) -> Result<Ticket, Failure> {
        match self.breaker.borrow_mut().ask(now_unix_ms) {
            Asks::Yes(turn) => Ok(Ticket { breaker: Rc::clone(&self.breaker), turn, is_used: false }),
            Asks::No(failure) => Err(failure),
        }
    }

    /// The backend gave its verdict. Returns what that changed, and whether it ended an outage.
    pub fn answered(&self, ticket: Option<Ticket>, now_unix_ms: u64) -> (Option<Change>, bool) {
        let change = self.spoke(ticket);
        self.answers.set(self.answers.get().saturating_add(1));
        if now_unix_ms.abs_diff(self.looked_unix_ms.get()) < LOOK_MS {
            return (change, false);
        }
        self.looked_unix_ms.set(now_unix_ms);
        let answers = self.answers.take();
        let ended = update(&*self.cell, |bytes| {
            let mut count = Count::of(bytes);
            if !count.is_outage() {
                return (None, false);
            }
            let ended = count.answered(answers, now_unix_ms, &self.limits);
            (Some(count.to_bytes()), ended)
        });
        (change, ended.unwrap_or(false))
    }

    /// The backend said something that is no verdict, so it need not be spared.
    pub fn spoke(&self, ticket: Option<Ticket>) -> Option<Change> {
        let mut ticket = ticket?;
        ticket.is_used = true;
        self.breaker.borrow_mut().answered(ticket.turn)
    }

    /// A call that had its turn got no answer. `random` spreads the waits.
    pub fn failed(
        &self,
        ticket: Option<Ticket>,
        why: Failure,
        now_unix_ms: u64,
        random: u64,
    ) -> Option<Change> {
        let mut ticket = ticket?;
        ticket.is_used = true;
        self.breaker.borrow_mut().failed(ticket.turn, why, now_unix_ms, random)
    }

    /// Remembers what was held for a call of a model.
    pub fn held(&self, model: &str, held_nanousd: i64) {
        let held_nanousd = held_nanousd.max(0);
        let key = model.to_owned();
        let mut held = self.held.borrow_mut();
        if held.get(&key) != Some(&held_nanousd) {
            held.put(key, held_nanousd);
        }
    }

    /// Whether a call of a model goes out without a verdict; it is counted then. A count that can't be kept
    /// lets nothing out.
    pub fn pass(&self, model: &str, now_unix_ms: u64) -> bool {
        let seen = self.held.borrow().get(&model.to_owned()).copied();
        let nanousd = seen.unwrap_or(self.limits.unknown_call_nanousd);
        let passed = update(&*self.cell, |bytes| {
            let mut count = Count::of(bytes);
            count.failed(now_unix_ms);
            let passed = count.pass(nanousd, now_unix_ms, &self.limits);
            (Some(count.to_bytes()), passed)
        });
        passed.unwrap_or(false)
    }

    /// A call without a verdict was refused. While an outage goes on, that counts against its end.
    pub fn refused(&self, now_unix_ms: u64) {
        update(&*self.cell, |bytes| {
            let mut count = Count::of(bytes);
            if !count.is_outage() {
                return (None, ());
            }
            count.failed(now_unix_ms);
            (Some(count.to_bytes()), ())
        });
    }
}

#[cfg(test)]
mod tests;
