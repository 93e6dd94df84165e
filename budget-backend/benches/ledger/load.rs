//! The two kinds of load: as many as possible from a fixed number of callers, and so many a second
//! whatever the answers do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use budget_backend::ledger::{Decision, Ledger};
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::naive;
use crate::setup::Field;

/// How long a hold may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to ask for a hold.
#[derive(Clone)]
pub enum Way {
    /// A transaction per check.
    Naive(PgPool),
    /// Group commit.
    Group(Ledger),
}

impl Way {
    /// Asks for a hold. Every budget is ample: anything but a grant has failed.
    async fn hold(&self, field: &Field) {
        let ask = field.ask();
        match self {
            Self::Naive(pool) => match naive::hold(pool, &ask).await {
                Ok(true) => {}
                other => panic!("a check in its own transaction: {other:?}"),
            },
            Self::Group(ledger) => match ledger.hold(ask, Instant::now() + PATIENCE).await {
                Ok(Decision::Granted(_)) => {}
                other => panic!("a check by group commit: {other:?}"),
            },
        }
    }
}

/// One measurement.
pub struct Cell {
    elapsed: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

/// What a measurement comes to.
#[derive(Clone)]
pub struct Summary {
    /// Holds a second.
    pub per_s: u64,
    /// Half of the holds were as fast or faster.
    pub p50: Duration,
    /// 99 of 100 were.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
    /// How many holds.
    pub holds: u64,
}

impl Cell {
    fn new(elapsed: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self { elapsed, latencies }
    }

    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).copied().unwrap_or_default()
    }

    /// Its figures.
    pub fn summary(&self) -> Summary {
        let holds = u64::try_from(self.latencies.len()).unwrap();
        let elapsed_us = u64::try_from(self.elapsed.as_micros()).unwrap().max(1);
        Summary {
            per_s: holds.saturating_mul(1_000_000) / elapsed_us,
            p50: self.percentile(50),
            p99: self.percentile(99),
            max: self.percentile(100),
            holds,
        }
    }
}

/// The summary in the middle, by throughput.
pub fn median(summaries: &[Summary]) -> Summary {
    let mut sorted = summaries.to_vec();
    sorted.sort_unstable_by_key(|summary| summary.per_s);
    sorted[sorted.len() / 2].clone()
}

/// The median of one figure.
pub fn median_of(summaries: &[Summary], figure: fn(&Summary) -> Duration) -> Duration {
    let mut sorted: Vec<Duration> = summaries.iter().map(figure).collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// `callers` callers, each asking again as soon as it is answered.
pub async fn saturate(way: &Way, field: &Arc<Field>, callers: usize, span: Duration) -> Cell {
    let started = Instant::now();
    let end = started + span;
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let (way, field) = (way.clone(), Arc::clone(field));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let asked = Instant::now();
                    way.hold(&field).await;
                    latencies.push(asked.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await.expect("a caller"));
    }
    Cell::new(started.elapsed(), latencies)
}

/// `per_s` holds a second at even distances, each timed from when it was due, so that a stall shows in
/// every hold that fell due during it.
pub async fn open_loop(way: &Way, field: &Arc<Field>, per_s: u64, span: Duration) -> Cell {
    let holds = per_s.saturating_mul(span.as_secs());
    let (sender, mut due) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Handle::current();
    let (way, field) = (way.clone(), Arc::clone(field));
    let started = Instant::now();
    // A thread keeps the time, because the runtime's timer ticks in whole milliseconds.
    let clock = std::thread::spawn(move || {
        for number in 0..holds {
            let at = started + Duration::from_nanos(number.saturating_mul(1_000_000_000) / per_s);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let (way, field) = (way.clone(), Arc::clone(&field));
            let hold = runtime.spawn(async move {
                way.hold(&field).await;
                at.elapsed()
            });
            sender.send(hold).expect("the run goes on");
        }
    });
    let mut latencies = Vec::new();
    while let Some(hold) = due.recv().await {
        latencies.push(hold.await.expect("a hold"));
    }
    clock.join().expect("the clock");
    Cell::new(started.elapsed(), latencies)
}
