//! Hours in which a provider charges less than its list says. What it charges then is not kept: a call that
//! may lie in such hours is charged the list price, which is the dear one, and flagged.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// What a row's `unpriced` calls it.
pub const OFF_PEAK: &str = "off_peak";

/// How long a call may run before its provider writes the bill, seconds: the life of a hold.
const MAX_CALL_S: i64 = 15 * 60;

const DAY_S: i64 = 86_400;
const DAY_MINUTES: i64 = 1_440;

/// Hours of some weekdays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffPeak {
    /// From and until before which minute of the UTC day; over midnight where the second is not the larger,
    /// and the whole day where they are the same. Every hour where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minutes_utc: Vec<[u16; 2]>,
    /// On which days, Monday is 1; on all where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weekdays: Vec<u8>,
    /// Whose days these are, an IANA name; UTC's where it is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub weekday_zone: String,
}

impl OffPeak {
    /// Checks what the type can't.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self) -> Result<(), String> {
        if self.minutes_utc.iter().flatten().any(|minute| i64::from(*minute) > DAY_MINUTES) {
            return Err(format!("off_peak.minutes_utc: expected minutes of a day, 0 to {DAY_MINUTES}"));
        }
        if self.weekdays.iter().all(|day| (1..=7).contains(day)) {
            Ok(())
        } else {
            Err("off_peak.weekdays: expected 1, Monday, to 7".to_owned())
        }
    }

    fn holds(&self, at_unix_s: i64) -> bool {
        let minute = at_unix_s.rem_euclid(DAY_S) / 60;
        let mut over_midnight = false;
        let in_hours = self.minutes_utc.iter().any(|[from, to]| {
            // Midnight ends a day and begins one.
            let (from, to) = (i64::from(*from) % DAY_MINUTES, i64::from(*to));
            let to = if to == 0 { DAY_MINUTES } else { to };
            let wraps = to <= from;
            over_midnight |= wraps;
            if wraps { minute >= from || minute < to } else { minute >= from && minute < to }
        });
        // Hours over midnight may count to the day on which they began.
        (in_hours || self.minutes_utc.is_empty())
            && (self.on_a_day(at_unix_s) || over_midnight && self.on_a_day(at_unix_s.saturating_sub(DAY_S)))
    }

    /// Whether the day is one of these; a zone that nobody knows may have any day.
    fn on_a_day(&self, at_unix_s: i64) -> bool {
        let zone =
            if self.weekday_zone.is_empty() { Ok(TimeZone::UTC) } else { TimeZone::get(&self.weekday_zone) };
        let (Ok(zone), Ok(at)) = (zone, Timestamp::from_second(at_unix_s)) else { return true };
        let day = zone.to_datetime(at).weekday().to_monday_one_offset();
        self.weekdays.is_empty() || self.weekdays.iter().any(|of| i64::from(*of) == i64::from(day))
    }
}

/// Checks that somebody knows a zone; an empty one is UTC. No part of [`OffPeak::check`]: which zones are known
/// depends on the machine, and a row that was good where it was set must be read elsewhere.
///
/// # Errors
/// What was expected.
pub fn check_zone(zone: &str) -> Result<(), String> {
    if zone.is_empty() || TimeZone::get(zone).is_ok() {
        return Ok(());
    }
    Err(format!("expected the IANA name of a time zone such as \"Asia/Shanghai\", got {zone:?}"))
}

/// Whether a call that starts at an instant may be billed in such hours; where no hours are told, always.
#[must_use]
pub fn may_lie_in(hours: &[OffPeak], starts_unix_s: i64) -> bool {
    let billed = |after_s: i64| starts_unix_s.saturating_add(after_s);
    hours.is_empty()
        || (0..=MAX_CALL_S / 60).any(|minutes| hours.iter().any(|hours| hours.holds(billed(minutes * 60))))
}

/// The hours, for people.
#[must_use]
pub fn shown(hours: &[OffPeak]) -> String {
    let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let one = |hours: &OffPeak| {
        let spans = hours.minutes_utc.iter().map(|[from, to]| format!("{}-{}", time(*from), time(*to)));
        let days = hours.weekdays.iter().map(u8::to_string);
        let mut parts: Vec<String> = spans.collect();
        if parts.is_empty() {
            parts.push("every hour".to_owned());
        }
        if !hours.weekdays.is_empty() {
            let zone = if hours.weekday_zone.is_empty() { "UTC" } else { &hours.weekday_zone };
            parts.push(format!("on days {} of {zone}", days.collect::<Vec<_>>().join(",")));
        }
        parts.join(" ")
    };
    hours.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn hours(minutes_utc: &[[u16; 2]], weekdays: &[u8], zone: &str) -> OffPeak {
        let (minutes_utc, weekdays) = (minutes_utc.to_vec(), weekdays.to_vec());
        OffPeak { minutes_utc, weekdays, weekday_zone: zone.to_owned() }
    }

    #[test]
    fn a_call_lies_in_hours_where_it_starts_or_may_end_in_them() {
        // 2026-11-23 is a Monday.
        let night = [hours(&[[22 * 60, 6 * 60]], &[], "")];
        let weekend = [hours(&[[0, 0]], &[6, 7], "")];
        let from_ten = [hours(&[[600, 0]], &[1, 2, 3, 4, 5], "")];
        let monday_night = [hours(&[[22 * 60, 6 * 60]], &[1], "")];
        let sunday_in_shanghai = [hours(&[], &[7], "Asia/Shanghai")];
        for (set, instant, expected) in [
            (&night, "2026-11-23T21:44:59Z", false),
            (&night, "2026-11-23T21:45:00Z", true),
            (&night, "2026-11-24T05:59:59Z", true),
            (&night, "2026-11-24T06:00:00Z", false),
            (&weekend, "2026-11-22T23:59:59Z", true),
            (&weekend, "2026-11-23T00:00:00Z", false),
            (&weekend, "2026-11-27T23:46:00Z", true),
            (&from_ten, "2026-11-23T23:59:59Z", true),
            (&from_ten, "2026-11-23T09:00:00Z", false),
            (&from_ten, "2026-11-22T12:00:00Z", false),
            (&monday_night, "2026-11-24T03:00:00Z", true),
            (&monday_night, "2026-11-25T03:00:00Z", false),
            (&sunday_in_shanghai, "2026-11-21T17:00:00Z", true),
            (&sunday_in_shanghai, "2026-11-22T17:00:00Z", false),
            (&[hours(&[], &[1], "Nowhere/Land")], "2026-11-26T12:00:00Z", true),
        ] {
            assert_eq!(may_lie_in(set, at(instant)), expected, "{set:?} {instant}");
        }
        assert!(may_lie_in(&[], 0), "hours that nobody tells may be any");
        assert_eq!(shown(&from_ten), "10:00-00:00 on days 1,2,3,4,5 of UTC");
        assert_eq!(shown(&[hours(&[], &[], "")]), "every hour");
        assert_eq!((check_zone(""), check_zone("Asia/Shanghai")), (Ok(()), Ok(())));
        assert!(check_zone("Nowhere/No").unwrap_err().ends_with("got \"Nowhere/No\""));
        assert!(hours(&[[0, 1_441]], &[], "").check().is_err() && hours(&[], &[0], "").check().is_err());
    }
}
