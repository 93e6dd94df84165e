//! What happens without a verdict: the mode for each cause, how much may go out, and when the backend is
//! left alone.

use purser_protocol::parse_usd;

use super::fields::{Fields, shown};
use crate::outage::bound::Passed;
use crate::outage::cause::Cause;

/// What happens to a call when the backend gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureMode {
    /// The call goes out, within the bounds, and is settled later.
    Open,
    /// The call is refused.
    Closed,
}

/// The mode for each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureModes([FailureMode; Cause::ALL.len()]);

/// How much may go out without a verdict, of all workers of one proxy process together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailOpenLimits {
    /// In a minute.
    pub per_minute: Passed,
    /// Until the backend has been back for a while.
    pub per_outage: Passed,
    /// What a call counts for whose model no hold is remembered of, nano-USD.
    pub unknown_call_nanousd: i64,
    /// How long the backend must have answered for an outage to be over, milliseconds.
    pub recovered_after_ms: u32,
}

/// When a backend that fails is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// So many failures in a row; 0 asks always.
    pub failures_in_a_row: u32,
    /// Or so many of the latest twenty calls, in a hundred.
    pub failure_percent: u32,
    /// The first pause, milliseconds. Each is twice the last.
    pub first_pause_ms: u32,
    /// The longest pause, milliseconds.
    pub longest_pause_ms: u32,
}

const MODES: [(&str, FailureMode); 2] = [("open", FailureMode::Open), ("closed", FailureMode::Closed)];

impl FailureModes {
    /// The mode for a cause.
    #[must_use]
    pub fn of(&self, cause: Cause) -> FailureMode {
        self.0.get(cause.index()).copied().unwrap_or(FailureMode::Closed)
    }

    /// One mode for all failures. A backend that rejects the filter itself is a matter of its own: a typing
    /// error in a token must not switch the budgets off.
    #[must_use]
    pub fn all(mode: FailureMode) -> Self {
        Self(Cause::ALL.map(|cause| if cause == Cause::Rejected { FailureMode::Closed } else { mode }))
    }
}

pub fn failure_modes(root: &mut Fields<'_>) -> FailureModes {
    if !root.is_object("failure_mode") {
        return FailureModes::all(root.choice("failure_mode", FailureMode::Open, &MODES));
    }
    let mut fields = root.section("failure_mode", false);
    let otherwise = FailureModes::all(fields.choice("default", FailureMode::Open, &MODES));
    let modes = Cause::ALL.map(|cause| fields.choice(cause.as_str(), otherwise.of(cause), &MODES));
    fields.finish();
    FailureModes(modes)
}

pub fn fail_open(root: &mut Fields<'_>) -> FailOpenLimits {
    let mut fields = root.section("fail_open", false);
    let limits = FailOpenLimits {
        per_minute: Passed {
            requests: u64::from(fields.duration("requests_per_minute", 0..=1_000_000_000, 1_200)),
            nanousd: usd(&mut fields, "usd_per_minute", 20_000_000_000),
        },
        per_outage: Passed {
            requests: u64::from(fields.duration("requests_per_outage", 0..=1_000_000_000, 20_000)),
            nanousd: usd(&mut fields, "usd_per_outage", 200_000_000_000),
        },
        unknown_call_nanousd: usd(&mut fields, "usd_per_unknown_call", 100_000_000),
        recovered_after_ms: fields.duration("recovered_after_s", 1..=86_400, 30).saturating_mul(1_000),
    };
    fields.finish();
    limits
}

/// An amount in USD, as text; the default is in nano-USD.
fn usd(fields: &mut Fields<'_>, name: &'static str, default: i64) -> i64 {
    let Some(value) = fields.any(name) else { return default };
    if let Some(nanousd) = value.as_str().and_then(|text| parse_usd(text).ok()) {
        return nanousd;
    }
    let place = fields.path_of(name);
    let problem = format!("expected an amount in USD such as \"12.50\", got {}", shown(value));
    fields.mistake_at(&place, &problem);
    default
}

pub fn breaker(root: &mut Fields<'_>) -> BreakerLimits {
    let mut fields = root.section("breaker", false);
    let limits = BreakerLimits {
        failures_in_a_row: fields.duration("failures_in_a_row", 0..=1_000, 5),
        failure_percent: fields.duration("failure_percent", 1..=100, 75),
        first_pause_ms: fields.duration("first_pause_ms", 10..=60_000, 500),
        longest_pause_ms: fields.duration("longest_pause_ms", 10..=600_000, 5_000),
    };
    if limits.longest_pause_ms < limits.first_pause_ms {
        let place = fields.path_of("longest_pause_ms");
        let problem = format!("expected at least first_pause_ms, which is {}", limits.first_pause_ms);
        fields.mistake_at(&place, &problem);
    }
    fields.finish();
    limits
}

#[cfg(test)]
mod tests;
