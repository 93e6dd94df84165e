//! How much goes out without a verdict: counted per minute and per outage, in calls and in money.
//!
//! One count for the whole proxy process, kept by the proxy as bytes that all workers share.

use crate::config::FailOpenLimits;

/// Length of the minute, milliseconds. A minute begins with the first call after the last one ended, so that
/// any 60 seconds touch at most two of them.
const MINUTE_MS: u64 = 60_000;

/// A backend of whose calls at most one in so many fails is there.
const ANSWERS_PER_FAILURE: u64 = 10;

/// Version of the bytes.
const FORMAT: u8 = 1;

/// Length of the bytes.
const BYTES: usize = 1 + 8 * 8;

/// Calls, and what they may cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// How many.
    pub requests: u64,
    /// What was reckoned for them, nano-USD.
    pub nanousd: i64,
}

/// What has gone out without a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    minute_unix_ms: u64,
    minute: Passed,
    /// Since the outage began.
    pub outage: Passed,
    /// Since when nearly all calls have been answered; how many were, and how many were not.
    span_unix_ms: u64,
    span_answers: u64,
    span_failures: u64,
}

impl Passed {
    const fn of(requests: [u8; 8], nanousd: [u8; 8]) -> Self {
        Self { requests: u64::from_le_bytes(requests), nanousd: i64::from_le_bytes(nanousd) }
    }

    fn plus(self, nanousd: i64) -> Self {
        Self { requests: self.requests.saturating_add(1), nanousd: self.nanousd.saturating_add(nanousd) }
    }

    const fn is_within(self, most: Self) -> bool {
        self.requests <= most.requests && self.nanousd <= most.nanousd
    }
}

impl Count {
    /// Reads what [`Count::to_bytes`] wrote; nothing counted yet when it is empty or of another version.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let Some((&FORMAT, numbers)) = bytes.split_first() else { return Self::default() };
        if bytes.len() != BYTES {
            return Self::default();
        }
        let (numbers, _) = numbers.as_chunks::<8>();
        let mut numbers = numbers.iter();
        let mut next = || numbers.next().copied().unwrap_or_default();
        Self {
            minute_unix_ms: u64::from_le_bytes(next()),
            minute: Passed::of(next(), next()),
            outage: Passed::of(next(), next()),
            span_unix_ms: u64::from_le_bytes(next()),
            span_answers: u64::from_le_bytes(next()),
            span_failures: u64::from_le_bytes(next()),
        }
    }

    /// The count as bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        for number in [
            self.minute_unix_ms.to_le_bytes(),
            self.minute.requests.to_le_bytes(),
            self.minute.nanousd.to_le_bytes(),
            self.outage.requests.to_le_bytes(),
            self.outage.nanousd.to_le_bytes(),
            self.span_unix_ms.to_le_bytes(),
            self.span_answers.to_le_bytes(),
            self.span_failures.to_le_bytes(),
        ] {
            bytes.extend_from_slice(&number);
        }
        bytes
    }

    /// Whether anything went out in this outage.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        self.outage.requests > 0
    }

    /// A call had no verdict.
    pub fn failed(&mut self, now_unix_ms: u64) {
        self.span_failures = self.span_failures.saturating_add(1);
        if self.span_failures.saturating_mul(ANSWERS_PER_FAILURE) > self.span_answers {
            self.begin_span(now_unix_ms);
        }
    }

    /// So many calls had one. Returns whether that ends the outage: the backend has been there for a while.
    pub fn answered(&mut self, answers: u64, now_unix_ms: u64, limits: &FailOpenLimits) -> bool {
        if self.span_answers == 0 {
            self.span_unix_ms = now_unix_ms;
        }
        self.span_answers = self.span_answers.saturating_add(answers);
        let spanned_ms = now_unix_ms.abs_diff(self.span_unix_ms);
        if !self.is_outage() || spanned_ms < u64::from(limits.recovered_after_ms) {
            return false;
        }
        self.outage = Passed::default();
        self.begin_span(now_unix_ms);
        true
    }

    /// Lets a call go out, counted at `nanousd` (at least 0), if it is within the bounds; else nothing is counted.
    pub fn pass(&mut self, nanousd: i64, now_unix_ms: u64, limits: &FailOpenLimits) -> bool {
        let is_over = now_unix_ms.abs_diff(self.minute_unix_ms) >= MINUTE_MS;
        let (begun_unix_ms, minute) =
            if is_over { (now_unix_ms, Passed::default()) } else { (self.minute_unix_ms, self.minute) };
        let (minute, outage) = (minute.plus(nanousd), self.outage.plus(nanousd));
        if !minute.is_within(limits.per_minute) || !outage.is_within(limits.per_outage) {
            return false;
        }
        self.minute_unix_ms = begun_unix_ms;
        self.minute = minute;
        self.outage = outage;
        true
    }

    const fn begin_span(&mut self, now_unix_ms: u64) {
        self.span_unix_ms = now_unix_ms;
        self.span_answers = 0;
        self.span_failures = 0;
    }
}

#[cfg(test)]
mod tests;
