//! What a hold costs: a transaction per check against group commit, in one run on one database, then
//! an open loop, then the same with many budgets and with a long history. `make bench-ledger` runs it.
//!
//! Everything is measured; nothing here decides whether a machine is fast enough. A target that is
//! missed is printed as missed, and the exit code is 0 unless something failed to run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed run is meant to stop")]

mod history;
mod load;
mod naive;
mod report;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use budget_backend::ledger::{Ledger, LedgerSettings};
use sqlx::PgPool;

use load::{Summary, Way};
use report::{Report, Row};
use setup::{Field, Settings};

/// Connections of the variant it is compared with, as its pool had.
const NAIVE_CONNECTIONS: u32 = 30;
/// Callers of that variant: somewhat more than it has connections.
const NAIVE_CALLERS: usize = 36;
/// Callers of group commit at saturation.
const GROUP_CALLERS: usize = 1_024;
/// Holds a second of the open loop.
const OPEN_LOOP_PER_S: u64 = 1_000;
/// As the backend itself is set up by default.
const LEDGER: LedgerSettings = LedgerSettings { lanes: 4, queue_len: 4_096, hold_ttl_s: 900 };

fn main() {
    let settings = Settings::from_env().unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        std::process::exit(2);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(&settings));
}

async fn run(settings: &Settings) {
    let pool = setup::pool(&settings.database_url).await;
    setup::print_environment(&pool, settings).await;
    let naive_pool = setup::naive_pool(&settings.database_url, NAIVE_CONNECTIONS).await;
    let ledger = Ledger::start(&pool, LEDGER).0;
    let few = Field::make(&pool, &ledger, "hot", 1).await;
    let mut report = Report::default();
    compare(settings, &mut report, &ledger, &naive_pool, &few).await;
    let way = Way::Group(ledger.clone());
    // In rounds as well: one neighbour's burst must not be taken for the ledger's tail.
    let mut rounds = Vec::new();
    for round in 0..settings.rounds {
        let summary = load::open_loop(&way, &few, OPEN_LOOP_PER_S, settings.cell).await.summary();
        println!(
            "  round {}: open loop at 1,000/s: p50 {} ms, p99 {} ms",
            round + 1,
            ms(summary.p50),
            ms(summary.p99)
        );
        rounds.push(summary);
    }
    let open = Summary {
        p50: load::median_of(&rounds, |summary| summary.p50),
        p99: load::median_of(&rounds, |summary| summary.p99),
        ..load::median(&rounds)
    };
    report.add(Row::new("group commit, open loop at 1,000/s", &few, 0, &open));
    report.open_loop = Some(open);
    for budgets in [10, 1_000] {
        let field = Field::make(&pool, &ledger, &format!("wide-{budgets}"), budgets - 2).await;
        both_loads(settings, &mut report, &way, &field, 0).await;
    }
    let rows = history::fill(&settings.database_url, &naive_pool, &few.org, settings.rows).await;
    if rows > 0 {
        both_loads(settings, &mut report, &way, &few, rows).await;
        history::time_new_budget(&pool, &ledger, &few).await;
        history::time_reports(&pool, &few.org).await;
    }
    setup::assert_held(&naive_pool).await;
    report.print();
}

/// Both variants at saturation, taking turns, so that neither has the fuller cache or the shorter log.
async fn compare(
    settings: &Settings,
    report: &mut Report,
    ledger: &Ledger,
    naive: &PgPool,
    field: &Arc<Field>,
) {
    let ways = [
        (Way::Naive(naive.clone()), NAIVE_CALLERS, "a transaction per check"),
        (Way::Group(ledger.clone()), GROUP_CALLERS, "group commit"),
    ];
    let mut summaries = [Vec::new(), Vec::new()];
    for round in 0..settings.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for variant in order {
            let (way, callers, name) = &ways[variant];
            let cell = load::saturate(way, field, *callers, settings.cell).await;
            println!("  round {}: {name}: {} holds/s", round + 1, cell.summary().per_s);
            summaries[variant].push(cell.summary());
        }
    }
    for ((_, callers, name), summaries) in ways.iter().zip(&summaries) {
        let median = load::median(summaries);
        report.add(Row::new(&format!("{name}, {callers} callers"), field, 0, &median));
    }
    report.naive = Some(load::median(&summaries[0]));
    report.group = Some(load::median(&summaries[1]));
}

async fn both_loads(settings: &Settings, report: &mut Report, way: &Way, field: &Arc<Field>, rows: u64) {
    let saturated = load::saturate(way, field, GROUP_CALLERS, settings.cell).await.summary();
    report.add(Row::new(&format!("group commit, {GROUP_CALLERS} callers"), field, rows, &saturated));
    let open = load::open_loop(way, field, OPEN_LOOP_PER_S, settings.cell).await.summary();
    report.add(Row::new("group commit, open loop at 1,000/s", field, rows, &open));
}

/// A span in milliseconds with three decimals.
fn ms(span: Duration) -> String {
    let us = span.as_micros();
    format!("{}.{:03}", us / 1_000, us % 1_000)
}
