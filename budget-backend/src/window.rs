//! Calendar windows: which period an instant falls into, computed on read.
//!
//! There is no reset job: a period that has begun is simply another counter. Days are civil days of
//! the budget's own time zone, so a day is 23 or 25 hours long when its clocks change.

use jiff::civil::Weekday;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan, ZonedDateTime};
use purser_protocol::Window;

/// A window of time in which a limit applies: `[start, end)` in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// First second of the period; 0 for [`Window::Total`].
    pub start_unix_s: i64,
    /// First second of the next one; `None` for a window without a next one.
    pub end_unix_s: Option<i64>,
}

/// A window could not be placed on the calendar.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Not a name of the IANA time zone database.
    #[error("time_zone: expected an IANA time zone name such as \"Europe/Berlin\", got \"{0}\"")]
    UnknownTimeZone(String),
    /// Beyond the calendar's range (the year 9999).
    #[error("the instant {unix_s} s is outside the calendar: {source}")]
    OutOfRange {
        /// The instant asked about.
        unix_s: i64,
        /// What the calendar says.
        source: jiff::Error,
    },
}

/// Looks an IANA time zone name up, in the copy of the database that is compiled in: a machine's own may
/// be older, newer or lack names, and two replicas must never place one period differently.
///
/// # Errors
/// [`WindowError::UnknownTimeZone`].
pub fn time_zone(name: &str) -> Result<TimeZone, WindowError> {
    TimeZoneDatabase::bundled().get(name).map_err(|_| WindowError::UnknownTimeZone(name.to_owned()))
}

/// The period of `window`, in `zone`, that contains the instant.
///
/// # Errors
/// [`WindowError::OutOfRange`] near the ends of the calendar.
pub fn period(window: Window, zone: &TimeZone, now_unix_s: i64) -> Result<Period, WindowError> {
    place(window, zone, now_unix_s).map_err(|source| WindowError::OutOfRange { unix_s: now_unix_s, source })
}

fn place(window: Window, zone: &TimeZone, now_unix_s: i64) -> Result<Period, jiff::Error> {
    let now = Timestamp::from_second(now_unix_s)?.to_zoned_datetime(zone.clone());
    let today = now.date();
    let (first, next) = match window {
        Window::Total => {
            return Ok(Period { start_unix_s: 0, end_unix_s: None });
        }
        Window::Day => (today, today.checked_add(1.day())?),
        Window::Week => {
            let monday = today.checked_sub(i64::from(days_since_monday(&now)).days())?;
            (monday, monday.checked_add(1.week())?)
        }
        Window::Month => {
            let first = today.first_of_month();
            (first, first.checked_add(1.month())?)
        }
    };
    Ok(Period {
        start_unix_s: first.to_zoned_datetime(zone.clone())?.timestamp().as_second(),
        end_unix_s: Some(next.to_zoned_datetime(zone.clone())?.timestamp().as_second()),
    })
}

fn days_since_monday(now: &ZonedDateTime) -> i8 {
    now.weekday().since(Weekday::Monday)
}

/// An instant as RFC 3339 in UTC; `None` outside the calendar.
#[must_use]
pub fn rfc3339(unix_s: i64) -> Option<String> {
    Timestamp::from_second(unix_s).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unix(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn periods_follow_the_civil_calendar_of_the_zone() {
        for (window, zone, now, start, end) in [
            (Window::Day, "UTC", "2026-11-23T15:00:00Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Window::Day, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Window::Day, "UTC", "2026-11-22T23:59:59Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Window::Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Window::Week, "UTC", "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Window::Month, "UTC", "2026-02-28T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Window::Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            // 23:30 UTC is already tomorrow in Berlin.
            (
                Window::Day,
                "Europe/Berlin",
                "2026-11-23T23:30:00Z",
                "2026-11-23T23:00:00Z",
                "2026-11-24T23:00:00Z",
            ),
            // The clocks go forward: a day of 23 hours. And back: one of 25.
            (
                Window::Day,
                "Europe/Berlin",
                "2026-03-29T12:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Window::Day,
                "Europe/Berlin",
                "2026-10-25T12:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // The hour that happens twice belongs to one and the same day.
            (
                Window::Day,
                "America/New_York",
                "2026-11-01T06:30:00Z",
                "2026-11-01T04:00:00Z",
                "2026-11-02T05:00:00Z",
            ),
            // Midnight doesn't exist on this day in Beirut: the day starts at 01:00.
            (
                Window::Day,
                "Asia/Beirut",
                "2026-03-29T12:00:00Z",
                "2026-03-28T22:00:00Z",
                "2026-03-29T21:00:00Z",
            ),
            (
                Window::Month,
                "Pacific/Auckland",
                "2026-09-30T11:00:00Z",
                "2026-09-30T11:00:00Z",
                "2026-10-31T11:00:00Z",
            ),
        ] {
            let got = period(window, &time_zone(zone).unwrap(), unix(now)).unwrap();
            let expected = Period { start_unix_s: unix(start), end_unix_s: Some(unix(end)) };
            assert_eq!(got, expected, "{window:?} {zone} {now}");
        }
    }

    #[test]
    fn weeks_and_months_with_a_change_of_clocks_in_them_are_an_hour_off() {
        for (window, zone, now, start, end, hours) in [
            // Berlin's clocks go forward on Sunday, March 29, and back on Sunday, October 25.
            (
                Window::Week,
                "Europe/Berlin",
                "2026-03-29T00:59:59Z",
                "2026-03-22T23:00:00Z",
                "2026-03-29T22:00:00Z",
                167,
            ),
            (
                Window::Week,
                "Europe/Berlin",
                "2026-03-29T01:00:00Z",
                "2026-03-22T23:00:00Z",
                "2026-03-29T22:00:00Z",
                167,
            ),
            (
                Window::Week,
                "Europe/Berlin",
                "2026-03-29T22:00:00Z",
                "2026-03-29T22:00:00Z",
                "2026-04-05T22:00:00Z",
                168,
            ),
            (
                Window::Week,
                "Europe/Berlin",
                "2026-10-25T22:30:00Z",
                "2026-10-18T22:00:00Z",
                "2026-10-25T23:00:00Z",
                169,
            ),
            (
                Window::Week,
                "Europe/Berlin",
                "2026-10-25T23:00:00Z",
                "2026-10-25T23:00:00Z",
                "2026-11-01T23:00:00Z",
                168,
            ),
            (
                Window::Month,
                "Europe/Berlin",
                "2026-03-31T21:59:59Z",
                "2026-02-28T23:00:00Z",
                "2026-03-31T22:00:00Z",
                743,
            ),
            (
                Window::Month,
                "Europe/Berlin",
                "2026-03-31T22:00:00Z",
                "2026-03-31T22:00:00Z",
                "2026-04-30T22:00:00Z",
                720,
            ),
            (
                Window::Month,
                "Europe/Berlin",
                "2026-10-31T22:30:00Z",
                "2026-09-30T22:00:00Z",
                "2026-10-31T23:00:00Z",
                745,
            ),
            // In New York they go back on November 1: the hour that happens twice opens the month and
            // closes the week.
            (
                Window::Month,
                "America/New_York",
                "2026-11-01T06:30:00Z",
                "2026-11-01T04:00:00Z",
                "2026-12-01T05:00:00Z",
                721,
            ),
            (
                Window::Week,
                "America/New_York",
                "2026-11-01T06:30:00Z",
                "2026-10-26T04:00:00Z",
                "2026-11-02T05:00:00Z",
                169,
            ),
            (
                Window::Month,
                "America/New_York",
                "2026-03-08T07:00:00Z",
                "2026-03-01T05:00:00Z",
                "2026-04-01T04:00:00Z",
                743,
            ),
            // South of the equator, and by half an hour.
            (
                Window::Month,
                "Australia/Lord_Howe",
                "2026-10-15T00:00:00Z",
                "2026-09-30T13:30:00Z",
                "2026-10-31T13:00:00Z",
                743,
            ),
        ] {
            let got = period(window, &time_zone(zone).unwrap(), unix(now)).unwrap();
            let expected = Period { start_unix_s: unix(start), end_unix_s: Some(unix(end)) };
            assert_eq!(got, expected, "{window:?} {zone} {now}");
            assert_eq!((unix(end) - unix(start)) / 3_600, hours, "{window:?} {zone} {now}");
        }
    }

    #[test]
    fn total_is_one_period_for_ever() {
        let zone = time_zone("Asia/Tokyo").unwrap();
        let got = period(Window::Total, &zone, unix("2026-11-23T15:00:00Z")).unwrap();
        assert_eq!(got, Period { start_unix_s: 0, end_unix_s: None });
    }

    #[test]
    fn a_zone_is_the_same_on_every_machine() {
        for of_this_machine in ["localtime", "posixrules", "posix/Europe/Berlin", "right/UTC"] {
            assert!(time_zone(of_this_machine).is_err(), "{of_this_machine}");
        }
        // Old names that many machines don't have any more.
        assert!(time_zone("US/Pacific").is_ok());
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let message = time_zone("Mars/Olympus").unwrap_err().to_string();
        assert!(message.contains("Mars/Olympus"), "{message}");
    }

    #[test]
    fn an_instant_outside_the_calendar_is_an_error() {
        let zone = time_zone("UTC").unwrap();
        assert!(period(Window::Day, &zone, i64::MAX).is_err());
    }

    proptest! {
        // Any instant lies in its own period, and the period before ends where this one starts.
        #[test]
        fn periods_tile_time(
            now in 0_i64..4_000_000_000,
            window in prop::sample::select(vec![Window::Day, Window::Week, Window::Month]),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
                "Pacific/Apia", "America/St_Johns", "Africa/Casablanca",
            ]),
        ) {
            let zone = time_zone(zone).unwrap();
            let this = period(window, &zone, now).unwrap();
            prop_assert!(this.start_unix_s <= now && now < this.end_unix_s.unwrap());
            let before = period(window, &zone, this.start_unix_s - 1).unwrap();
            prop_assert_eq!(before.end_unix_s, Some(this.start_unix_s));
        }
    }
}
