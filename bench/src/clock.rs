//! One clock for every process of a run.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock, the same in every process on it.
#[must_use]
pub fn now_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
