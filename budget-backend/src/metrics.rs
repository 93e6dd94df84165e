//! What the process counts, for Prometheus. Counts are of this process alone; what is read from the
//! database at a scrape (what budgets have left) is the same at every replica.
//!
//! One set for the process, as its log is one: the places that count say so in a line of their own and
//! pass nothing around. Labels are bounded: names of orgs, providers and models come from callers, and
//! past a number of different ones the rest share the label `other`, which is itself counted.

mod bounded;
mod gen_ai;
mod ledger;
mod scrape;

use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use purser_protocol::Verdict;

use crate::ledger::HoldFailure;
use crate::tracker::TrackerFailure;

pub use bounded::Bounded;
pub use ledger::charged;
pub use scrape::{BudgetLeft, text};

/// Different orgs that have counts of their own.
const MAX_ORGS: usize = 200;

/// Different models without a known price that have counts of their own.
const MAX_MODELS: usize = 500;

/// Bounds of durations, seconds: a hold takes a few milliseconds, and its caller waits a quarter second.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Bounds of batches, holds in a transaction.
const BATCH: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Label values, in the order of their names.
type Labels<const N: usize> = [(&'static str, String); N];

/// Everything that is counted.
pub struct Metrics {
    holds: Family<Labels<2>, Counter>,
    hold_seconds: Histogram,
    holds_waiting: Gauge,
    lane_batch_holds: Histogram,
    settlement_batches_waiting: Gauge,
    settlement_seconds: Histogram,
    settlement_failures: Family<Labels<1>, Counter>,
    entries: Family<Labels<3>, Counter>,
    flagged: Family<Labels<4>, Counter>,
    charged_nanousd: Family<Labels<1>, Counter<u64, AtomicU64>>,
    credited_nanousd: Family<Labels<1>, Counter<u64, AtomicU64>>,
    labels_left_out: Family<Labels<1>, Counter>,
    spool_batches: Gauge,
    spool_bytes: Gauge,
    spool_drained: Counter,
    gen_ai: gen_ai::GenAi,
    orgs: Bounded,
    models: Bounded,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let metrics = Metrics::new();
    // From zero on, so that the first failure is an increase.
    for reason in ["overloaded", "deadline", "database", "stopping"] {
        metrics.hold_counter("failed", reason);
        metrics.settlement_failures.get_or_create(&[("reason", reason.to_owned())]).inc_by(0);
    }
    metrics.labels_left_out.get_or_create(&[("label", "org".to_owned())]).inc_by(0);
    metrics
});

impl Metrics {
    fn new() -> Self {
        Self {
            holds: Family::default(),
            hold_seconds: Histogram::new(SECONDS),
            holds_waiting: Gauge::default(),
            lane_batch_holds: Histogram::new(BATCH),
            settlement_batches_waiting: Gauge::default(),
            settlement_seconds: Histogram::new(SECONDS),
            settlement_failures: Family::default(),
            entries: Family::default(),
            flagged: Family::default(),
            charged_nanousd: Family::default(),
            credited_nanousd: Family::default(),
            labels_left_out: Family::default(),
            spool_batches: Gauge::default(),
            spool_bytes: Gauge::default(),
            spool_drained: Counter::default(),
            gen_ai: gen_ai::GenAi::default(),
            orgs: Bounded::new(MAX_ORGS),
            models: Bounded::new(MAX_MODELS),
        }
    }

    /// A registry of everything, under the names that dashboards and alerts use.
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("purser");
        let r = &mut registry;
        r.register(
            "holds",
            "Holds asked for, by verdict (allow, deny, failed) and reason",
            self.holds.clone(),
        );
        let help = "From the arrival of a hold to its answer";
        r.register_with_unit("hold_duration", help, Unit::Seconds, self.hold_seconds.clone());
        r.register(
            "holds_waiting",
            "Holds in the lanes' queues or being decided",
            self.holds_waiting.clone(),
        );
        let help = "Holds decided in one transaction";
        r.register("lane_batch_holds", help, self.lane_batch_holds.clone());
        let help = "Batches of settlements handed to the tracker and not committed yet";
        r.register("settlement_batches_waiting", help, self.settlement_batches_waiting.clone());
        let help = "From handing a batch of settlements to the tracker to its commit";
        r.register_with_unit("tracker_lag", help, Unit::Seconds, self.settlement_seconds.clone());
        let help = "Batches of settlements that were not recorded and come again, by reason";
        r.register("settlement_failures", help, self.settlement_failures.clone());
        let help = "Entries added to the ledger, by cause, quality of the usage and admission";
        r.register("ledger_entries", help, self.entries.clone());
        let help = "Ledger entries not priced by a known price, by model, flag and cause";
        r.register("flagged", help, self.flagged.clone());
        let help = "Charged in the ledger, nano-USD, by org";
        r.register("charged_nanousd", help, self.charged_nanousd.clone());
        let help = "Taken back by corrections in the ledger, nano-USD, by org";
        r.register("credited_nanousd", help, self.credited_nanousd.clone());
        let help = "Counts put under the label other, because there are too many different values";
        r.register("labels_left_out", help, self.labels_left_out.clone());
        let help = "Batches of settlements on disk that wait for the database";
        r.register("spool_batches", help, self.spool_batches.clone());
        let help = "What settlements take that are on disk and wait for the database";
        r.register_with_unit("spool", help, Unit::Bytes, self.spool_bytes.clone());
        let help = "Settlements that went from the disk to the ledger";
        r.register("spool_drained_settlements", help, self.spool_drained.clone());
        registry
    }

    fn hold_counter(&self, verdict: &str, reason: &str) -> impl std::ops::Deref<Target = Counter> {
        self.holds.get_or_create(&[("verdict", verdict.to_owned()), ("reason", reason.to_owned())])
    }

    /// The label of an org: its name, or `other` when too many have one already.
    fn org(&self, org: &str) -> String {
        self.bounded(&self.orgs, "org", org)
    }

    fn bounded(&self, known: &Bounded, kind: &str, name: &str) -> String {
        if known.admits(name) {
            return name.to_owned();
        }
        self.labels_left_out.get_or_create(&[("label", kind.to_owned())]).inc();
        "other".to_owned()
    }
}

/// Counts a verdict.
pub fn verdict(verdict: &Verdict) {
    match verdict {
        Verdict::Allow(_) => count_hold("allow", ""),
        Verdict::Deny(deny) => count_hold("deny", deny.reason.as_str()),
    }
}

/// Counts a hold that no verdict could be given for.
pub fn hold_failed(failure: &HoldFailure) {
    let reason = match failure {
        HoldFailure::Overloaded => "overloaded",
        HoldFailure::Deadline => "deadline",
        HoldFailure::Database => "database",
        HoldFailure::Stopping => "stopping",
    };
    count_hold("failed", reason);
}

fn count_hold(verdict: &str, reason: &str) {
    METRICS.hold_counter(verdict, reason).inc();
}

/// Notes how long a hold took from its arrival.
pub fn hold_took(duration: Duration) {
    METRICS.hold_seconds.observe(duration.as_secs_f64());
}

/// Notes how many holds one transaction decides.
pub fn lane_batch(holds: usize) {
    METRICS.lane_batch_holds.observe(u32::try_from(holds).unwrap_or(u32::MAX).into());
}

/// One more is waiting, until this is dropped.
pub struct Waiting(&'static Gauge);

impl Waiting {
    /// A hold.
    #[must_use]
    pub fn hold() -> Self {
        Self::on(&METRICS.holds_waiting)
    }

    /// A batch of settlements.
    #[must_use]
    pub fn settlements() -> Self {
        Self::on(&METRICS.settlement_batches_waiting)
    }

    fn on(gauge: &'static Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Notes how long a batch of settlements took from being handed over to its commit.
pub fn settlements_took(duration: Duration) {
    METRICS.settlement_seconds.observe(duration.as_secs_f64());
}

/// Notes what is in the spool.
pub fn spooled(batches: u64, bytes: u64) {
    METRICS.spool_batches.set(i64::try_from(batches).unwrap_or(i64::MAX));
    METRICS.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// Counts settlements that went from the spool to the ledger.
pub fn drained(settlements: u64) {
    METRICS.spool_drained.inc_by(settlements);
}

/// Counts a batch of settlements that was not recorded.
pub fn settlements_failed(failure: &TrackerFailure) {
    let reason = match failure {
        TrackerFailure::Overloaded => "overloaded",
        TrackerFailure::Database => "database",
        TrackerFailure::Stopping => "stopping",
    };
    METRICS.settlement_failures.get_or_create(&[("reason", reason.to_owned())]).inc();
}
