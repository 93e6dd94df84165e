//! Counts by bucket on fixed log scales, from which percentiles are read. Pure.
//!
//! A value falls into bucket `i` when `i` bounds are at most as large as it; that is also what
//! PostgreSQL's `width_bucket(value, bounds)` gives, so that a sum recomputed there is the same.

/// Bounds for durations, milliseconds: two to the octave, from 1 ms to 17 minutes.
pub const LATENCY_MS: [i64; 40] = steps::<40>(2);

/// Bounds for lengths of answers, tokens: four to the octave, up to 1,310,720.
pub const OUTPUT_TOKENS: [i64; 77] = steps::<77>(4);

/// The first `N` whole numbers of the form `2^k × (1 + j / per_octave)`.
const fn steps<const N: usize>(per_octave: i64) -> [i64; N] {
    let mut bounds = [0; N];
    let (mut power, mut step, mut filled) = (1_i64, 0_i64, 0);
    while filled < N {
        let scaled = power * (per_octave + step);
        if scaled % per_octave == 0 {
            bounds[filled] = scaled / per_octave;
            filled += 1;
        }
        step += 1;
        if step == per_octave {
            step = 0;
            power *= 2;
        }
    }
    bounds
}

/// The bucket of a value: from 0 to `bounds.len()`.
#[must_use]
pub fn bucket(bounds: &[i64], value: i64) -> usize {
    bounds.partition_point(|bound| *bound <= value)
}

/// An upper limit of the `percent`-th percentile: the largest value of the bucket it falls into, or
/// of the highest bucket its lower bound. `None` when nothing was counted. `counts` beyond the last
/// bucket are ignored; negative ones count as none.
#[must_use]
pub fn percentile(bounds: &[i64], counts: &[i64], percent: u8) -> Option<i64> {
    let counts = || counts.iter().take(bounds.len().saturating_add(1)).map(|count| (*count).max(0));
    let total: i128 = counts().map(i128::from).sum();
    if total == 0 {
        return None;
    }
    // The smallest value that at least this share of all is not above.
    let wanted = (total * i128::from(percent.min(100)) + 99).div_euclid(100).max(1);
    let mut seen: i128 = 0;
    let bucket = counts().position(|count| {
        seen += i128::from(count);
        seen >= wanted
    })?;
    bounds.get(bucket).map(|next| next.saturating_sub(1)).or_else(|| bounds.last().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scales_are_what_they_say() {
        assert_eq!(LATENCY_MS[..8], [1, 2, 3, 4, 6, 8, 12, 16]);
        assert_eq!(LATENCY_MS[39], 1_048_576);
        assert_eq!(OUTPUT_TOKENS[..12], [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]);
        assert_eq!(OUTPUT_TOKENS[76], 1_310_720);
        for bounds in [&LATENCY_MS[..], &OUTPUT_TOKENS[..]] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn values_fall_between_their_bounds() {
        for (value, expected) in [(-5, 0), (0, 0), (1, 1), (2, 2), (5, 4), (6, 5), (i64::MAX, 40)] {
            assert_eq!(bucket(&LATENCY_MS, value), expected, "{value}");
        }
    }

    #[test]
    fn a_percentile_is_an_upper_limit_close_by() {
        let mut counts = vec![0; LATENCY_MS.len() + 1];
        for value in 1..=100_i64 {
            counts[bucket(&LATENCY_MS, value)] += 1;
        }
        assert_eq!(percentile(&LATENCY_MS, &counts, 95), Some(95));
        assert_eq!(percentile(&LATENCY_MS, &counts, 50), Some(63));
        assert_eq!(percentile(&LATENCY_MS, &counts, 1), Some(1));
        assert_eq!(percentile(&LATENCY_MS, &[], 95), None);
        let mut longest = vec![0; LATENCY_MS.len() + 1];
        longest[40] = 1;
        assert_eq!(percentile(&LATENCY_MS, &longest, 95), Some(1_048_576));
    }
}
