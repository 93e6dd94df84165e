//! When there is something to tell. Pure, in integers.

use crate::admin::standings::Running;

/// Of a limit, percent, that must be spent before a forecast is worth anything.
const FORECAST_FROM_PERCENT: i128 = 10;

/// How much of a period must have gone by before a forecast is worth anything, seconds.
const FORECAST_AFTER_S: i64 = 3_600;

/// Hours of history without which an hour can't stand out.
pub const MIN_HISTORY_HOURS: usize = 72;

/// How far above the busy hours a spike is, in spreads, and at least in busy hours.
const SPREADS: i128 = 3;

/// The percentages of a budget's limit that its spend has reached, ascending: of those given and of its own
/// ladder's warning.
#[must_use]
pub fn reached(budget: &Running, percents: &[i32]) -> Vec<i32> {
    if budget.spent_nanousd <= 0 {
        return Vec::new();
    }
    let spent = i128::from(budget.spent_nanousd).saturating_mul(100);
    let has = |percent: &i32| spent >= i128::from(budget.limit_nanousd).saturating_mul(i128::from(*percent));
    let mut reached: Vec<i32> = percents.iter().copied().chain(budget.warn_at_percent).filter(has).collect();
    reached.sort_unstable();
    reached.dedup();
    reached
}

/// When a budget is gone at the recent rate (nano-USD in so many seconds), Unix seconds: `Some` only when
/// that is before its period's end and worth telling.
#[must_use]
pub fn gone_at_unix_s(budget: &Running, recent_nanousd: i64, recent_s: i64) -> Option<i64> {
    let end_unix_s = budget.period_end_unix_s?;
    let elapsed_s = budget.now_unix_s.saturating_sub(budget.period_start_unix_s);
    let left = budget.limit_nanousd.saturating_sub(budget.spent_nanousd);
    let enough = i128::from(budget.spent_nanousd).saturating_mul(100)
        >= i128::from(budget.limit_nanousd).saturating_mul(FORECAST_FROM_PERCENT);
    if left <= 0 || !enough || elapsed_s < FORECAST_AFTER_S || recent_nanousd <= 0 || recent_s <= 0 {
        return None;
    }
    let wait_s = (i128::from(left) * i128::from(recent_s)).checked_div(i128::from(recent_nanousd))?;
    let at_unix_s = i64::try_from(i128::from(budget.now_unix_s).checked_add(wait_s)?).ok()?;
    (at_unix_s < end_unix_s).then_some(at_unix_s)
}

/// What an hour must spend to stand out from the hours before it, nano-USD: three times what all but the
/// busiest twentieth of them spent, and three times their spread (from the middle hour to there) above
/// it. `None` when there is too little history.
#[must_use]
pub fn spike_from_nanousd(mut hours_nanousd: Vec<i64>, least_nanousd: i64) -> Option<i64> {
    if hours_nanousd.len() < MIN_HISTORY_HOURS {
        return None;
    }
    hours_nanousd.sort_unstable();
    let at = |percent: usize| {
        let place = hours_nanousd.len().saturating_sub(1).saturating_mul(percent).div_ceil(100);
        hours_nanousd.get(place).map(|amount| i128::from(*amount))
    };
    let (middle, busy) = (at(50)?, at(95)?);
    let spread = busy.saturating_sub(middle);
    let spike = busy.saturating_add(spread.saturating_mul(SPREADS)).max(busy.saturating_mul(SPREADS));
    Some(i64::try_from(spike).unwrap_or(i64::MAX).max(least_nanousd))
}

/// How far back "recent" goes for a window of this name, seconds; `None` for one that never ends.
#[must_use]
pub fn recent_s(window: &str) -> Option<i64> {
    match window {
        "day" => Some(3 * 3_600),
        "week" => Some(24 * 3_600),
        "month" => Some(72 * 3_600),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit_nanousd: i64, spent_nanousd: i64) -> Running {
        Running {
            org: "acme".into(),
            budget_id: 1,
            team: String::new(),
            user: String::new(),
            subject: String::new(),
            window: "day".into(),
            limit_nanousd,
            spent_nanousd,
            held_nanousd: 0,
            period_start_unix_s: 0,
            period_end_unix_s: Some(86_400),
            now_unix_s: 36_000,
            warn_at_percent: None,
        }
    }

    #[test]
    fn a_budget_s_own_warning_is_a_threshold_too() {
        let of = |warn_at_percent, spent| {
            reached(&Running { warn_at_percent: Some(warn_at_percent), ..budget(100, spent) }, &[50, 80])
        };
        assert_eq!((of(70, 69), of(70, 70), of(80, 85)), (vec![50], vec![50, 70], vec![50, 80]));
    }

    #[test]
    fn thresholds_are_reached_at_their_very_percentage_of_what_was_spent() {
        let percents = [50, 80, 100];
        for (limit, spent, expected) in [
            (100, 49, &[][..]),
            (100, 50, &[50]),
            (101, 50, &[]),
            (100, 80, &[50, 80]),
            (100, 99, &[50, 80]),
            (100, 300, &[50, 80, 100]),
            (0, 0, &[]),
            (0, 1, &[50, 80, 100]),
            (i64::MAX, i64::MAX, &[50, 80, 100]),
            (100, -5, &[]),
        ] {
            assert_eq!(reached(&budget(limit, spent), &percents), expected, "{spent} of {limit}");
        }
    }

    #[test]
    fn a_budget_is_forecast_to_be_gone_when_the_recent_rate_takes_it_before_the_end() {
        // 40 left, 10 in 3,600 s: gone after 14,400 s.
        assert_eq!(gone_at_unix_s(&budget(100, 60), 10, 3_600), Some(36_000 + 14_400));
        // 50,400 s are left of the day: 40 at this rate last as long.
        assert_eq!(gone_at_unix_s(&budget(100, 60), 40, 50_400), None);
        assert_eq!(gone_at_unix_s(&budget(100, 60), 40, 50_399), Some(86_399));
        for (what, budget, recent) in [
            ("nothing recent", budget(100, 60), 0),
            ("gone already", budget(100, 100), 10),
            ("hardly begun", budget(1_000_000, 99_999), 1_000_000),
            ("no end", Running { period_end_unix_s: None, ..budget(100, 60) }, 10),
            ("just begun", Running { period_start_unix_s: 36_000 - 3_599, ..budget(100, 60) }, 10),
        ] {
            assert_eq!(gone_at_unix_s(&budget, recent, 3_600), None, "{what}");
        }
        assert_eq!(gone_at_unix_s(&budget(i64::MAX, i64::MAX / 2), i64::MAX / 2, 1), Some(36_001));
    }

    #[test]
    fn an_hour_stands_out_far_above_the_busy_hours_only() {
        let flat = vec![10; 168];
        assert_eq!(spike_from_nanousd(flat.clone(), 0), Some(30));
        assert_eq!(spike_from_nanousd(flat, 1_000), Some(1_000), "small change is no anomaly");
        assert_eq!(spike_from_nanousd(vec![10; MIN_HISTORY_HOURS - 1], 0), None);
        // Office hours: busy a third of the time. The usual morning is no spike.
        let office: Vec<i64> = (0..168).map(|hour| if hour % 24 < 8 { 100 } else { 0 }).collect();
        assert_eq!(spike_from_nanousd(office, 0), Some(100 + 3 * 100));
        // One wild hour in a week doesn't make the next one usual.
        let mut wild = vec![10; 168];
        wild[7] = 1_000_000;
        assert_eq!(spike_from_nanousd(wild, 0), Some(30));
        assert_eq!(spike_from_nanousd(vec![i64::MAX; 168], 0), Some(i64::MAX));
    }
}
