//! The part of the configuration that is about alerts.

use std::time::Duration;

use purser_protocol::parse_usd;

use super::Reader;
use crate::alerts::AlertSettings;
use crate::alerts::webhook::Reach;

/// Most percentages that are told of one budget.
const MAX_PERCENTS: usize = 10;

impl Reader<'_> {
    /// `PURSER_ALERT_INTERVAL_S` (0: no alerts), `PURSER_ALERT_PERCENTS`, `PURSER_ALERT_SPIKE_USD`,
    /// `PURSER_WEBHOOK_PRIVATE`, `PURSER_WEBHOOK_TIMEOUT_MS`, `PURSER_WEBHOOK_RETRY_S`.
    pub(super) fn alerts(&mut self) -> Option<AlertSettings> {
        let interval_s = self.number("PURSER_ALERT_INTERVAL_S", 30, (0, 3_600));
        let percents = self.percents();
        let least_spike_nanousd = self.spike();
        let reach = self.reach();
        let timeout_ms = self.number("PURSER_WEBHOOK_TIMEOUT_MS", 5_000, (10, 60_000));
        let retry_s = self.number("PURSER_WEBHOOK_RETRY_S", 30, (1, 3_600));
        Some(AlertSettings {
            interval: Duration::from_secs(interval_s?),
            percents: percents?,
            least_spike_nanousd: least_spike_nanousd?,
            reach: reach?,
            timeout: Duration::from_millis(timeout_ms?),
            retry: Duration::from_secs(retry_s?),
        })
    }

    fn percents(&mut self) -> Option<Vec<i32>> {
        let name = "PURSER_ALERT_PERCENTS";
        let Some(text) = self.text(name) else { return Some(vec![50, 80, 100]) };
        let percents: Option<Vec<i32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        let good = percents.filter(|percents| {
            percents.len() <= MAX_PERCENTS
                && percents.iter().all(|percent| (1..=1_000).contains(percent))
                && percents.is_sorted_by(|low, high| low < high)
        });
        let expected = format!(
            "expected up to {MAX_PERCENTS} ascending whole percentages from 1 to 1000 such as 50,80,100"
        );
        good.or_else(|| self.mistake(name, format_args!("{expected}, got {text:?}")))
    }

    fn spike(&mut self) -> Option<i64> {
        let name = "PURSER_ALERT_SPIKE_USD";
        let text = self.text(name).unwrap_or_else(|| "1".to_owned());
        match parse_usd(&text) {
            Ok(nanousd) if nanousd > 0 => Some(nanousd),
            Ok(_) => self.mistake(name, "expected an amount above zero"),
            Err(error) => self.mistake(name, format_args!("{error}, got {text:?}")),
        }
    }

    fn reach(&mut self) -> Option<Reach> {
        let name = "PURSER_WEBHOOK_PRIVATE";
        match self.text(name).as_deref() {
            None | Some("false") => Some(Reach::Public),
            Some("true") => Some(Reach::Private),
            Some(other) => self.mistake(name, format_args!("expected true or false, got {other:?}")),
        }
    }
}
