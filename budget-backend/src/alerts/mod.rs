//! Alerts: what operators are told, each once, and telling it.
//!
//! Every so often one replica at a time looks at the counters, the rollup and the ledger's flags (never
//! at the hot path) and writes down what there is to tell; a unique key makes each of it once. With each
//! alert come its deliveries, in the same transaction: an outbox that any replica empties. A delivery is
//! tried again with growing pauses until its receiver accepts it or the attempts are used up. A receiver
//! that accepted and whose answer was lost gets the alert again, under the same number.

pub mod deliver;
pub mod evaluate;
pub mod payload;
pub mod rules;
pub mod store;
pub mod webhook;

use std::time::Duration;

use sqlx::PgPool;
use webhook::Reach;

/// How alerts are set up.
#[derive(Debug, Clone)]
pub struct AlertSettings {
    /// Between two looks.
    pub interval: Duration,
    /// Percentages of a budget's limit that are told, ascending.
    pub percents: Vec<i32>,
    /// The least an hour must spend to be told as a spike, nano-USD.
    pub least_spike_nanousd: i64,
    /// Where receivers may be.
    pub reach: Reach,
    /// Longest wait for a receiver.
    pub timeout: Duration,
    /// The pause after the first failed attempt; it doubles with each.
    pub retry: Duration,
}

/// Looks and delivers until aborted.
pub async fn run(pool: PgPool, settings: AlertSettings) {
    let mut tick = tokio::time::interval(settings.interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match evaluate::round(&pool, &settings).await {
            Ok(0) => {}
            Ok(raised) => tracing::info!(raised, "alerts were raised"),
            Err(error) => tracing::warn!(%error, "alerts could not be looked for; the next round does"),
        }
        if let Err(error) = deliver::due(&pool, &settings).await {
            tracing::warn!(%error, "alerts could not be delivered; the next round does");
        }
    }
}
