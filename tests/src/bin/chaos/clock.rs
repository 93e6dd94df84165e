//! How late this process's clock rings: the provider lives here, and each of its pauses is longer than asked
//! for by what the machine makes of it just then.

use std::time::Duration;

use tokio::time::Instant;

/// A pause as short as those of a stream.
const PAUSE: Duration = Duration::from_millis(10);

/// When pauses began, and by how much they were too long.
#[derive(Debug, Default)]
pub struct Clock(Vec<(Instant, Duration)>);

impl Clock {
    /// Pauses again and again until `stop`.
    pub async fn keep(stop: impl Future<Output = ()>) -> Self {
        let mut pauses = Vec::new();
        tokio::pin!(stop);
        loop {
            let began = Instant::now();
            tokio::select! {
                () = &mut stop => return Self(pauses),
                () = tokio::time::sleep(PAUSE) => pauses.push((began, began.elapsed().saturating_sub(PAUSE))),
            }
        }
    }

    /// By how much a pause in this time was too long, on average.
    pub fn late(&self, span: (Instant, Instant)) -> Duration {
        let from = self.0.partition_point(|(began, late)| *began + PAUSE + *late < span.0);
        let until = self.0.partition_point(|(began, _)| *began <= span.1);
        let met = self.0.get(from..until).unwrap_or_default();
        let sum: Duration = met.iter().map(|(_, late)| *late).sum();
        sum / u32::try_from(met.len()).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pauses_of_a_time_count() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let clock = Clock(vec![(start, ms(2)), (start + ms(12), ms(4)), (start + ms(26), ms(90))]);
        assert_eq!(clock.late((start + ms(1), start + ms(20))), ms(3));
        assert_eq!(clock.late((start + ms(50), start + ms(60))), ms(90));
        assert_eq!(clock.late((start + ms(500), start + ms(600))), ms(0));
        assert_eq!(Clock::default().late((start, start)), ms(0));
    }
}
