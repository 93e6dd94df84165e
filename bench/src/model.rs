//! How long the model of `make bench-burst` thinks, and when it is called. Both follow from the seed
//! and the number of the call alone: every case meets the very same calls.
#![allow(clippy::float_arithmetic, reason = "a latency drawn from a distribution is no money")]

use std::time::Duration;

/// Half of the answers take no longer.
const MEDIAN_MS: f64 = 100.0;
/// 95 of a hundred take no longer.
const P95_MS: f64 = 250.0;
/// The standard normal distribution's value that 95 of a hundred don't exceed.
const NORMAL_P95: f64 = 1.644_853_626_951_472_2;

/// Calls a second.
const BASE_PER_S: u64 = 100;
/// And in a burst.
const BURST_PER_S: u64 = 1_000;
/// How often a burst comes.
const BURST_EVERY_S: u64 = 60;
/// How long it lasts.
const BURST_S: u64 = 5;

/// What a call's answer takes in the model, lognormal.
#[must_use]
pub fn thinks(seed: u64, number: u64) -> Duration {
    let sigma = (P95_MS / MEDIAN_MS).ln() / NORMAL_P95;
    let (first, second) = (uniform(seed, number.wrapping_mul(2)), uniform(seed, number.wrapping_mul(2) | 1));
    let normal = (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos();
    Duration::from_secs_f64((MEDIAN_MS * (sigma * normal).exp()).clamp(1.0, 10_000.0) / 1_000.0)
}

/// When the calls of a run of so many seconds are due, from its start. A burst begins in the tenth
/// second of each minute, in a run of less than half a minute after its first third.
#[must_use]
pub fn due(duration_s: u64) -> Vec<Duration> {
    let begins_s = if duration_s < 30 { duration_s / 3 } else { 10 };
    let mut due = Vec::new();
    for second in 0..duration_s {
        let in_minute = second % BURST_EVERY_S;
        let is_burst = in_minute >= begins_s && in_minute < begins_s.saturating_add(BURST_S);
        let per_s = if is_burst { BURST_PER_S } else { BASE_PER_S };
        for number in 0..per_s {
            let nanos = number.saturating_mul(1_000_000_000) / per_s;
            due.push(Duration::from_secs(second).saturating_add(Duration::from_nanos(nanos)));
        }
    }
    due
}

/// A number over 0 and up to 1, by the finaliser of SplitMix64.
fn uniform(seed: u64, number: u64) -> f64 {
    let mut mixed =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
    (f64::from(top) + 1.0) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::percentile;

    #[test]
    fn the_model_thinks_as_long_as_it_should() {
        for seed in [1, 2, 99] {
            let mut drawn: Vec<u64> =
                (0..20_000).map(|number| u64::try_from(thinks(seed, number).as_millis()).unwrap()).collect();
            drawn.sort_unstable();
            let (p50, p95) = (percentile(&drawn, 50), percentile(&drawn, 95));
            assert!((97..=103).contains(&p50), "seed {seed}: p50 {p50} ms");
            assert!((240..=260).contains(&p95), "seed {seed}: p95 {p95} ms");
        }
        assert_eq!(thinks(1, 7), thinks(1, 7));
        assert_ne!(thinks(1, 7), thinks(2, 7));
    }

    #[test]
    fn bursts_come_each_minute() {
        let calls = due(120);
        assert_eq!(calls.len(), 2 * (55 * 100 + 5 * 1_000));
        let in_second = |second: u64| calls.iter().filter(|at| at.as_secs() == second).count();
        assert_eq!([9, 10, 14, 15, 69, 70, 75].map(in_second), [100, 1_000, 1_000, 100, 100, 1_000, 100]);
        assert!(calls.is_sorted());
        assert_eq!(due(15).len(), 10 * 100 + 5 * 1_000);
    }
}
