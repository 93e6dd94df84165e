//! A storm: mixed traffic through the real Envoy while everything around it is killed, frozen, cut off and
//! reloaded by a schedule that follows from a seed; then the provider's bill beside the ledger, call by call.
//! `make chaos` runs it.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `CHAOS_S` | 180 | seconds of calls, at least 10 |
//! | `CHAOS_RATE` | 100 | calls a second |
//! | `PURSER_SEED` | the time | schedule and calls follow from it |
//! | `CHAOS_LOGS` | none | a folder for the parts' logs |
//!
//! Needs `ENVOY` and `PURSER_WASM`, the backend beside this program, and PostgreSQL's programs. Exits with 0
//! only if everything holds that the last lines say; the very last one sums up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed run is meant to stop, with a message"
)]

mod audit;
#[cfg(test)]
mod audit_tests;
mod books;
mod calls;
mod clock;
mod drain;
mod envoy;
mod postgres;
mod random;
mod replica;
mod schedule;
mod settings;
mod traffic;
mod verdict;
mod waits;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as channel;

use settings::Settings;
use verdict::Run;
use world::World;

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
    tokio::select! {
        code = run(&settings) => code,
        // Everything that runs is ended with what it belongs to.
        _ = terminate.recv() => ExitCode::FAILURE,
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

async fn run(settings: &Settings) -> ExitCode {
    let Settings { seed, storm, rate_per_s, .. } = settings;
    println!(
        "seed {seed}; replay with PURSER_SEED={seed} CHAOS_S={} CHAOS_RATE={rate_per_s}",
        storm.as_secs()
    );
    let world = World::start(settings).await;
    println!("everything runs; {} calls in {storm:?}", settings.calls());
    let run = storm_over(&world, settings).await;
    let problems = run.judge(&world, settings);
    if let Some(folder) = std::env::var_os("CHAOS_LOGS").filter(|folder| !folder.is_empty()) {
        world.keep_logs(folder.as_ref());
    }
    for problem in &problems {
        println!("WRONG {problem}");
    }
    println!("{}", run.result(&world));
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn storm_over(world: &Arc<World>, settings: &Settings) -> Run {
    let (calm, storming) = channel::channel(false);
    let until_calm = || {
        let mut storming = storming.clone();
        async move {
            let _calm = storming.wait_for(|calm| *calm).await;
        }
    };
    let controls = tokio::spawn(traffic::controls(Arc::clone(world), until_calm()));
    let seen = tokio::spawn(watch::watch(Arc::clone(world), until_calm()));
    let clock = tokio::spawn(clock::Clock::keep(until_calm()));
    let events = schedule::schedule(settings.seed, settings.storm);
    let (called, ()) = tokio::join!(traffic::run(world, settings), world.storm(&events));
    calm.send_replace(true);
    let controls = controls.await.expect("calls that ask nobody");
    let seen = seen.await.expect("looks");
    let clock = clock.await.expect("a clock");
    println!("the storm is over");
    let mut problems = drain::drain(world, settings).await;
    let envoy_kills = world.envoy_generation();
    let mut billed: BTreeMap<String, i64> = BTreeMap::new();
    for row in world.fake.billed().rows {
        let amount_nanousd = i64::try_from(row.amount_nanousd).unwrap_or(i64::MAX);
        if billed.insert(row.response_id.clone(), amount_nanousd).is_some() {
            problems.push(format!("{} was answered, and billed, twice", row.response_id));
        }
    }
    let calls = verdict::calls(&called, &billed, envoy_kills);
    let fail_open_bound = world.envoy.lock().await.fail_open_bound();
    let entries = books::entries(&world.pool).await.expect("the ledger");
    let holds = books::holds(&world.pool).await.expect("the holds");
    let findings = audit::audit(&calls, &entries, &holds);
    Run { called, controls, clock, seen, findings, envoy_kills, fail_open_bound, problems }
}
