//! After the storm: waits until everything that was under way has come to its end, and asks every part how
//! it is.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::books;
use crate::postgres::Postgres;
use crate::replica::program;
use crate::settings::Settings;
use crate::world::World;

/// Longest wait for all that. Only what never ends takes as long.
const LIMIT: Duration = Duration::from_secs(240);

/// Waits, and returns what is not as it should be.
pub async fn drain(world: &World, settings: &Settings) -> Vec<String> {
    let started = Instant::now();
    let mut problems = Vec::new();
    loop {
        match unfinished(world).await {
            None => break,
            Some(what) if started.elapsed() > LIMIT => {
                problems.push(format!("{what} after {LIMIT:?}"));
                break;
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    println!("drained in {:.1?}; holds live {} s", started.elapsed(), settings.hold_ttl_s);
    problems.extend(verify(world).await);
    problems.extend(of_database(world).await);
    problems.extend(of_processes(world).await);
    problems
}

/// What is still under way, if anything is: settlements in Envoy, settlements in a spool, open holds.
async fn unfinished(world: &World) -> Option<String> {
    let stats = match world.envoy.lock().await.stats("purser_outbox_items").await {
        Ok(stats) => stats,
        Err(problem) => return Some(format!("Envoy's counters: {problem}")),
    };
    let items: u64 = stats.values().sum();
    if items > 0 || stats.is_empty() {
        return Some(format!("{items} settlements are in Envoy's outbox"));
    }
    for replica in &world.replicas {
        let mut replica = replica.lock().await;
        replica.revive();
        match replica.readiness(&world.http).await {
            Ok(ready) => {
                let batches = ready.pointer("/spool/batches").and_then(Value::as_u64).unwrap_or(0);
                if batches > 0 {
                    return Some(format!("{batches} batches are in a spool"));
                }
            }
            Err(problem) => return Some(format!("a replica is not ready: {problem}")),
        }
    }
    match books::open_holds(&world.pool).await {
        Ok(0) => None,
        Ok(open) => Some(format!("{open} holds are open")),
        Err(error) => Some(format!("the database: {error}")),
    }
}

/// `budget-backend verify`.
async fn verify(world: &World) -> Option<String> {
    let url = Postgres::url(world.postgres.lock().await.addr());
    let mut command = program();
    command.arg("verify").env("DATABASE_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("verify starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("verify: {}", said.trim().replace('\n', "; "));
    let complained = String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| format!("verify: {}: {said}{complained}", output.status))
}

async fn of_database(world: &World) -> Vec<String> {
    let mut problems = Vec::new();
    match books::quarantined(&world.pool).await {
        Ok(refused) => problems.extend(refused.iter().map(|refused| format!("quarantined: {refused}"))),
        Err(error) => problems.push(format!("the database: {error}")),
    }
    match books::strict_over_limit(&world.pool).await {
        Ok(over) => problems.extend(over.iter().map(|over| format!("over a strict limit: {over}"))),
        Err(error) => problems.push(format!("the database: {error}")),
    }
    problems
}

/// Nothing panicked, trapped, dropped anything or ended by itself.
async fn of_processes(world: &World) -> Vec<String> {
    let mut problems = Vec::new();
    let mut envoy = world.envoy.lock().await;
    problems.extend(envoy.faults().await);
    for sign in ["panicked at", "[critical]", "Proxy-Wasm VM failed", "Function: proxy_", "update_rejected"] {
        problems.extend(envoy.log().contains(sign).then(|| format!("{sign:?} in Envoy's log")));
    }
    if envoy.pid().is_none() {
        problems.push("Envoy ended by itself".to_owned());
    }
    drop(envoy);
    for (number, replica) in world.replicas.iter().enumerate() {
        let replica = replica.lock().await;
        let log = replica.log();
        // One that can't start for want of its database may end, and says so; whoever runs it tries again.
        let gave_up = log.lines().filter(|line| line.contains("\"giving up\"")).count();
        if replica.ended > 0 {
            println!("replica {number} gave up {} times, and was started again", replica.ended);
        }
        if replica.ended > gave_up {
            problems.push(format!("replica {number} ended {} times by itself", replica.ended - gave_up));
        }
        let panics = log.lines().find(|line| line.contains("panicked at"));
        problems.extend(panics.map(|line| format!("replica {number}: {line}")));
    }
    problems
}
