//! The circuit breaker: a backend that fails is asked less, so that no call waits for it in vain.
//!
//! Closed, it lets every call ask, and opens after so many failures in a row, or when most of the latest
//! calls failed. Open, it lets none ask for a while, then one: if that one is answered it closes, if not
//! it waits again, twice as long, up to a bound. The waits are spread, so that many proxies don't come back
//! at once.

use crate::config::BreakerLimits;
use crate::verdict::Failure;

/// Of how many of the latest calls the share of failures is taken.
const LATEST: u32 = 20;

/// What a call does about its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// It asks for one. The turn is handed back with what came of it.
    Yes(Turn),
    /// It doesn't ask: the backend failed just now, and so.
    No(Failure),
}

/// When a call asked; what came of it counts only if nothing has changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    number: u64,
    /// Whether it is the one that tries whether the backend is back.
    pub is_probe: bool,
}

/// A change that is worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// From now on no call asks for a while.
    Opened,
    /// The backend is asked again.
    Closed,
}

/// One worker's breaker.
#[derive(Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    /// How long a probe may take before the next one is let through, milliseconds.
    probe_ms: u64,
    state: State,
    /// Grows with each change of state.
    number: u64,
    failures_in_a_row: u32,
    /// The latest calls, the last in the lowest bit; set are those that failed.
    latest: u32,
    latest_len: u32,
    /// How often it opened since it was last closed.
    openings: u32,
    last: Failure,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open { since_unix_ms: u64, pause_ms: u64 },
    Probing { since_unix_ms: u64 },
}

impl Breaker {
    /// A closed one. `hold_timeout_ms` is how long a call waits for its verdict.
    #[must_use]
    pub fn new(limits: BreakerLimits, hold_timeout_ms: u32) -> Self {
        Self {
            limits,
            probe_ms: u64::from(hold_timeout_ms).saturating_add(1_000),
            state: State::Closed,
            number: 0,
            failures_in_a_row: 0,
            latest: 0,
            latest_len: 0,
            openings: 0,
            last: Failure::NotSent,
        }
    }

    /// Whether a call asks. A clock that was set back counts as one that went on.
    pub fn ask(&mut self, now_unix_ms: u64) -> Asks {
        let (since_unix_ms, pause_ms) = match self.state {
            State::Closed => return Asks::Yes(Turn { number: self.number, is_probe: false }),
            State::Open { since_unix_ms, pause_ms } => (since_unix_ms, pause_ms),
            // Whoever probes may have been cut off before it heard.
            State::Probing { since_unix_ms } => (since_unix_ms, self.probe_ms),
        };
        if now_unix_ms.abs_diff(since_unix_ms) < pause_ms {
            return Asks::No(self.last);
        }
        self.enter(State::Probing { since_unix_ms: now_unix_ms });
        Asks::Yes(Turn { number: self.number, is_probe: true })
    }

    /// The backend answered, whatever it said.
    pub fn answered(&mut self, turn: Turn) -> Option<Change> {
        if turn.number != self.number {
            return None;
        }
        self.failures_in_a_row = 0;
        self.remember(false);
        if !turn.is_probe {
            return None;
        }
        self.openings = 0;
        self.latest = 0;
        self.latest_len = 0;
        self.enter(State::Closed);
        Some(Change::Closed)
    }

    /// There was no answer. `random` spreads the waits.
    pub fn failed(&mut self, turn: Turn, failure: Failure, now_unix_ms: u64, random: u64) -> Option<Change> {
        self.last = failure;
        if turn.number != self.number {
            return None;
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.remember(true);
        let most_failed = self.latest_len >= LATEST
            && self.latest.count_ones().saturating_mul(100)
                >= self.limits.failure_percent.saturating_mul(LATEST);
        let trips = self.failures_in_a_row >= self.limits.failures_in_a_row || most_failed;
        if self.limits.failures_in_a_row == 0 || !(turn.is_probe || trips) {
            return None;
        }
        let pause_ms = self.pause_ms(random);
        self.openings = self.openings.saturating_add(1);
        self.enter(State::Open { since_unix_ms: now_unix_ms, pause_ms });
        (!turn.is_probe).then_some(Change::Opened)
    }

    /// Whoever asked went away before it heard anything: somebody else may probe.
    pub fn abandoned(&mut self, turn: Turn) {
        if let State::Probing { since_unix_ms } = self.state
            && turn.number == self.number
        {
            self.enter(State::Open { since_unix_ms, pause_ms: 0 });
        }
    }

    /// The first pause, doubled each time up to the longest; between half of that and all of it.
    fn pause_ms(&self, random: u64) -> u64 {
        let factor = 1_u64.checked_shl(self.openings).unwrap_or(u64::MAX);
        let first_ms = u64::from(self.limits.first_pause_ms);
        let longest_ms = u64::from(self.limits.longest_pause_ms);
        let half_ms = first_ms.saturating_mul(factor).min(longest_ms).div_euclid(2);
        half_ms.saturating_add(random.checked_rem(half_ms.saturating_add(1)).unwrap_or(0))
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.number = self.number.wrapping_add(1);
    }

    fn remember(&mut self, is_failure: bool) {
        let of_latest = 1_u32.checked_shl(LATEST).unwrap_or(0).saturating_sub(1);
        self.latest = (self.latest.wrapping_shl(1) | u32::from(is_failure)) & of_latest;
        self.latest_len = self.latest_len.saturating_add(1).min(LATEST);
    }
}

#[cfg(test)]
mod tests;
