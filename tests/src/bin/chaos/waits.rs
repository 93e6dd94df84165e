//! How long calls made their apps wait.
//!
//! The rule: an app waits for the hold's deadline at most, beside the provider's own time and the delays that
//! the storm puts on the path that the call itself takes. A frozen or killed backend or database adds nothing
//! to that, whatever it is in the middle of. A killed Envoy breaks the call, which ends its wait. An answer that
//! the provider breaks off ends when Envoy closes the connection, for which it takes its time. What the
//! machine adds is not guessed: for the provider's pauses it is what other pauses took in the same process at
//! the same time, for all else it is what a call takes at the same time that goes the same way and asks
//! nobody for money.

use std::time::Duration;

use tokio::time::Instant;

use crate::settings::DEADLINE_MS;
use crate::traffic::{Called, Control, End};

/// Calls that ask nobody count as "at the same time" this long before and after.
const AROUND: Duration = Duration::from_millis(750);

/// How long Envoy leaves a connection open whose answer has broken off (its `delayed_close_timeout`), with a
/// filter or without.
const CLOSES_LATE: Duration = Duration::from_secs(1);

/// A held call does this many times what one does that asks nobody: three exchanges instead of one, and
/// several parts to schedule.
const TIMES_CONTROL: u32 = 4;

/// What a call waited beyond the storm's delays on its path and the provider's own time,
/// whose pauses were `late` by so much on average.
pub fn waited(called: &Called, late: Duration, delays: Duration) -> Option<Duration> {
    let took = called.span.1 - called.span.0;
    let own = match called.end {
        End::Left => return None,
        End::Broken(_) => called.plan.providers_time(late) + CLOSES_LATE,
        // It never went there.
        _ if called.refused => Duration::ZERO,
        _ => called.plan.providers_time(late),
    };
    Some(took.saturating_sub(own).saturating_sub(delays))
}

/// What the machine adds to a call that asks nobody.
#[derive(Debug)]
pub struct Noise<'a> {
    controls: &'a [Control],
    /// What one in a hundred takes: a call may have its bad moment between two of them.
    tail: Duration,
}

impl<'a> Noise<'a> {
    /// From a run's calls that asked nobody.
    pub fn of(controls: &'a [Control]) -> Self {
        let mut times: Vec<Duration> = controls.iter().map(|control| control.took).collect();
        times.sort_unstable();
        let tail = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        Self { controls, tail }
    }

    /// How long a call of this time may have waited.
    pub fn allowed(&self, span: (Instant, Instant)) -> Duration {
        let near =
            |control: &&Control| control.span.1 + AROUND >= span.0 && control.span.0 <= span.1 + AROUND;
        let longest = self.controls.iter().filter(near).map(|control| control.took).max();
        let noise = longest.unwrap_or_default().max(self.tail);
        Duration::from_millis(DEADLINE_MS) + noise * TIMES_CONTROL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Plan;

    #[test]
    fn what_is_the_providers_or_the_storms_is_not_the_filters() {
        let (start, plan) = (Instant::now(), Plan::new(1, 1));
        let took = plan.providers_time(Duration::ZERO) + Duration::from_millis(300);
        let called = |end, refused| Called {
            plan: plan.clone(),
            span: (start, start + took),
            envoy_generation: 0,
            end,
            failed_open: false,
            refused,
        };
        let storm = Duration::from_millis(40);
        assert_eq!(
            waited(&called(End::Answered(200), false), Duration::ZERO, storm),
            Some(Duration::from_millis(260))
        );
        assert_eq!(waited(&called(End::Answered(429), true), Duration::ZERO, storm), Some(took - storm));
        assert_eq!(waited(&called(End::Broken(200), false), Duration::ZERO, storm), Some(Duration::ZERO));
        assert_eq!(waited(&called(End::Left, false), Duration::ZERO, storm), None);
    }

    #[test]
    fn the_machine_is_measured_at_the_same_time() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let control =
            |at: u64, took: u64| Control { span: (start + ms(at), start + ms(at + took)), took: ms(took) };
        let span = (start + ms(5_000), start + ms(5_500));
        let allowed = |controls: &[Control]| Noise::of(controls).allowed(span);
        let deadline = ms(DEADLINE_MS);
        let mut controls: Vec<Control> = (0..200).map(|_| control(0, 5)).collect();
        assert_eq!(allowed(&controls), deadline + ms(20), "the usual tail");
        controls[0] = control(0, 90);
        assert_eq!(allowed(&controls), deadline + ms(20), "long before");
        controls[0] = control(5_100, 90);
        assert_eq!(allowed(&controls), deadline + ms(360), "at the same time");
        assert_eq!(allowed(&[]), deadline);
    }
}
