//! Percentiles, medians, and numbers as they are printed. All in whole nanoseconds: nothing here needs
//! a float.

/// The value that `percent` of a hundred don't exceed; 0 of nothing. `sorted` is in ascending order.
#[must_use]
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The value in the middle, the upper one of two; 0 of nothing.
#[must_use]
pub fn median<T: Ord + Copy + Default>(values: impl IntoIterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.into_iter().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The least and the greatest.
#[must_use]
pub fn spread<T: Ord + Copy + Default>(values: impl IntoIterator<Item = T> + Clone) -> (T, T) {
    let least = values.clone().into_iter().min().unwrap_or_default();
    (least, values.into_iter().max().unwrap_or_default())
}

/// Half, 95 and 99 of a hundred were as fast or faster, nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantiles {
    /// 50 of a hundred.
    pub p50_ns: u64,
    /// 95 of a hundred.
    pub p95_ns: u64,
    /// 99 of a hundred.
    pub p99_ns: u64,
}

impl Quantiles {
    /// Of values in any order.
    #[must_use]
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |percent| percentile(&values, percent);
        Self { p50_ns: at(50), p95_ns: at(95), p99_ns: at(99) }
    }
}

/// `a / b` in hundredths; 0 when there is no `b`.
#[must_use]
pub fn ratio_percent(a: u64, b: u64) -> u64 {
    a.saturating_mul(100).checked_div(b).unwrap_or_default()
}

/// Hundredths as a decimal number: 250 is `2.50`.
#[must_use]
pub fn decimal(hundredths: u64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Nanoseconds as milliseconds with three decimals.
#[must_use]
pub fn ms(ns: u64) -> String {
    let us = ns / 1_000;
    format!("{}.{:03}", us / 1_000, us % 1_000)
}

/// A difference in nanoseconds as milliseconds with three decimals.
#[must_use]
pub fn signed_ms(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", ms(ns.unsigned_abs()))
}

/// `a - b`, for values far from the ends of their range.
#[must_use]
pub fn difference(a: u64, b: u64) -> i64 {
    let whole = |value| i64::try_from(value).unwrap_or(i64::MAX);
    whole(a).saturating_sub(whole(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), 100);
        assert_eq!(percentile(&values, 99), 198);
        assert_eq!(percentile(&values, 100), 200);
        assert_eq!(percentile(&[7], 1), 7);
        assert_eq!(percentile(&[], 99), 0);
        assert_eq!(Quantiles::of(vec![3, 1, 2]).p50_ns, 2);
    }

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median([5, 1, 9]), 5);
        assert_eq!(median([4, 1]), 4);
        assert_eq!(median(Vec::<u64>::new()), 0);
        assert_eq!(spread([5, 1, 9]), (1, 9));
    }

    #[test]
    fn numbers_are_printed_exactly() {
        assert_eq!(ms(1_234_567), "1.234");
        assert_eq!(signed_ms(difference(1_000_000, 1_250_000)), "-0.250");
        assert_eq!(decimal(ratio_percent(3, 2)), "1.50");
        assert_eq!(ratio_percent(1, 0), 0);
    }
}
