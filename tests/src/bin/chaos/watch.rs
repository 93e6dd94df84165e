//! What is looked at while the storm goes on: memory, and whether a strict budget is ever over its limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::books;
use crate::schedule::REPLICAS;
use crate::world::World;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the database, which may be down.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Memory by part, KiB, in the order of the looks.
    pub memory_kib: BTreeMap<String, Vec<u64>>,
    /// Looks at the strict budgets.
    pub looks: u64,
    /// Counters of Envoy's that must stay at 0 and didn't. A killed one takes its own along.
    pub counters: BTreeSet<String>,
    /// Strict budgets that were over their limit, as they were seen.
    pub over_limit: Vec<String>,
}

/// Looks until `stop`.
pub async fn watch(world: Arc<World>, stop: impl Future<Output = ()>) -> Seen {
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return seen,
            _ = ticks.tick() => {}
        }
        for replica in &world.replicas {
            if let Ok(mut replica) = replica.try_lock() {
                replica.revive();
            }
        }
        look_at_memory(&world, &mut seen.memory_kib);
        if let Ok(envoy) = world.envoy.try_lock() {
            seen.counters.extend(envoy.faults().await);
        }
        let look = tokio::time::timeout(LOOK_LIMIT, books::strict_over_limit(&world.pool)).await;
        if let Ok(Ok(over)) = look {
            seen.looks += 1;
            seen.over_limit.extend(over);
        }
    }
}

/// A part that is being killed or started just now is left to the next look.
fn look_at_memory(world: &World, memory_kib: &mut BTreeMap<String, Vec<u64>>) {
    let mut note = |part: String, kib: Option<u64>| {
        if let Some(kib) = kib.filter(|kib| *kib > 0) {
            memory_kib.entry(part).or_default().push(kib);
        }
    };
    if let Ok(mut envoy) = world.envoy.try_lock() {
        note("envoy".to_owned(), envoy.pid().and_then(|pid| status_kib(pid, "VmRSS:")));
    }
    for number in 0..REPLICAS {
        if let Ok(mut replica) = world.replicas[number].try_lock() {
            note(format!("replica {number}"), replica.pid().and_then(|pid| status_kib(pid, "VmRSS:")));
        }
    }
    if let Ok(postgres) = world.postgres.try_lock() {
        // What its processes share would be counted once for each.
        let own = postgres.pids().into_iter().filter_map(|pid| status_kib(pid, "RssAnon:"));
        note("postgresql".to_owned(), Some(own.sum()));
    }
}

fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Seen {
    /// Parts that went on growing: the most in the last quarter is far above the most in the first half.
    pub fn grown(&self) -> Vec<String> {
        let grown = self.memory_kib.iter().filter_map(|(part, looks)| {
            let early = looks.get(..looks.len() / 2)?.iter().max()?;
            let late = looks.get(looks.len() * 3 / 4..)?.iter().max()?;
            let bound = early + early / 2 + 32 * 1_024;
            (*late > bound).then(|| format!("{part} grew from {early} to {late} KiB"))
        });
        grown.collect()
    }

    /// The most memory of each part, for people.
    pub fn peaks(&self) -> String {
        let peaks = self.memory_kib.iter().map(|(part, looks)| {
            let peak = looks.iter().max().copied().unwrap_or_default();
            format!("{part} {} MiB", peak / 1_024)
        });
        peaks.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_a_level() {
        let seen = |looks: &[u64]| {
            let memory_kib = BTreeMap::from([("part".to_owned(), looks.to_vec())]);
            Seen { memory_kib, ..Seen::default() }.grown().len()
        };
        let (mib, steady) = (1_024, [80, 100, 90, 95, 100, 110, 105, 100]);
        assert_eq!(seen(&steady.map(|looks| looks * mib)), 0);
        assert_eq!(seen(&[80, 100, 150, 200, 250, 300, 350, 400].map(|looks| looks * mib)), 1);
        assert_eq!(seen(&[]), 0);
    }
}
