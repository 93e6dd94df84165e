//! What a run is told from outside, and the figures that everything else goes by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the filter waits for a verdict, milliseconds; the shipped value.
pub const DEADLINE_MS: u64 = 250;

/// How long a call may take before it counts as hung.
pub const HUNG: Duration = Duration::from_secs(60);

/// Longest time for which an Envoy is taken to hold a settlement that nobody has acknowledged: the
/// storm's longest outages, one after the other, and the filter's own pauses.
const UNACKNOWLEDGED_S: u64 = 15;

/// A run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Everything random follows from it.
    pub seed: u64,
    /// How long calls are made.
    pub storm: Duration,
    /// Calls a second.
    pub rate_per_s: u64,
    /// How long a hold lives, seconds.
    pub hold_ttl_s: u64,
    /// How long after a connection to the database no hold expires, seconds.
    pub sweep_grace_s: u64,
}

impl Settings {
    /// Reads `CHAOS_S`, `CHAOS_RATE` and `PURSER_SEED`.
    ///
    /// # Errors
    /// The first variable that makes no sense, and what was expected.
    pub fn from_environment() -> Result<Self, String> {
        let storm_s = number("CHAOS_S", 10..=86_400)?.unwrap_or(180);
        let rate_per_s = number("CHAOS_RATE", 1..=1_000)?.unwrap_or(100);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = number("PURSER_SEED", 0..=u64::MAX)?.unwrap_or(now.as_secs());
        let hold_ttl_s = if storm_s < 60 { 4 } else { 12 };
        Ok(Self { seed, storm: Duration::from_secs(storm_s), rate_per_s, hold_ttl_s, sweep_grace_s: 1 })
    }

    /// How many calls that went out without a verdict one killed Envoy may take with it. The one place
    /// where that bound stands: what the filter's configuration lets out, and no more than are made in the
    /// time for which they can wait to be acknowledged.
    pub fn fail_open_bound_per_kill(&self, configured: Option<u64>) -> u64 {
        (self.rate_per_s * UNACKNOWLEDGED_S).min(configured.unwrap_or(u64::MAX))
    }

    /// Calls of the whole run.
    pub const fn calls(&self) -> u64 {
        self.rate_per_s * self.storm.as_secs()
    }
}

fn number(name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, String> {
    let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => Err(format!(
            "{name}: expected a whole number from {} to {}, got {text:?}",
            range.start(),
            range.end()
        )),
    }
}
