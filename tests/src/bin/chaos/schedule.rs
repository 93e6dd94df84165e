//! What goes wrong when: decided before the storm, from the seed alone.

use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Replicas of the backend.
pub const REPLICAS: usize = 2;

/// A pair of parts with a proxy between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// Apps and Envoy.
    ClientEnvoy,
    /// Envoy and a replica.
    EnvoyReplica(usize),
    /// A replica and PostgreSQL.
    ReplicaDatabase(usize),
    /// Envoy and the provider.
    EnvoyProvider,
}

impl Pair {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ClientEnvoy,
        Self::EnvoyReplica(0),
        Self::EnvoyReplica(1),
        Self::ReplicaDatabase(0),
        Self::ReplicaDatabase(1),
        Self::EnvoyProvider,
    ];

    /// Whether a call itself travels here; a call only asks over the others.
    pub const fn is_path_of_calls(self) -> bool {
        matches!(self, Self::ClientEnvoy | Self::EnvoyProvider)
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// `kill -9`; started again afterwards.
    KillReplica(usize),
    /// SIGSTOP, then SIGCONT.
    FreezeReplica(usize),
    /// `kill -9` of every process of PostgreSQL; started again afterwards.
    KillDatabase,
    /// SIGSTOP for every process of PostgreSQL, then SIGCONT.
    FreezeDatabase,
    /// Connections are broken, and new ones as well.
    Cut(Pair),
    /// Everything takes so many milliseconds longer, each way.
    Delay(Pair, u64),
    /// Nothing arrives, and nothing breaks.
    Silence(Pair),
    /// Envoy takes on another configuration.
    ReloadEnvoy,
    /// `kill -9`; started again at once.
    KillEnvoy,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillReplica(replica) => write!(f, "kill -9 replica {replica}"),
            Self::FreezeReplica(replica) => write!(f, "freeze replica {replica}"),
            Self::KillDatabase => f.write_str("kill -9 PostgreSQL"),
            Self::FreezeDatabase => f.write_str("freeze PostgreSQL"),
            Self::Cut(pair) => write!(f, "cut {pair:?}"),
            Self::Delay(pair, ms) => write!(f, "delay {pair:?} by {ms} ms each way"),
            Self::Silence(pair) => write!(f, "silence {pair:?}"),
            Self::ReloadEnvoy => f.write_str("reload Envoy"),
            Self::KillEnvoy => f.write_str("kill -9 Envoy"),
        }
    }
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, from the start of the calls.
    pub at: Duration,
    /// What.
    pub act: Act,
    /// How long it stays wrong.
    pub lasts: Duration,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lasts {
            Duration::ZERO => write!(f, "{}", self.act),
            lasts => write!(f, "{} for {lasts:?}", self.act),
        }
    }
}

/// First and last moment at which something may begin to go wrong, before the end of the storm.
const CALM_START_MS: u64 = 1_000;
const CALM_END_MS: u64 = 2_500;

/// One of each kind, in some order, then again.
fn bag(random: &mut Random) -> Vec<Act> {
    let mut acts = vec![
        Act::KillReplica(0),
        Act::KillReplica(1),
        Act::FreezeReplica(random.pick(&[0, 1])),
        Act::KillDatabase,
        Act::FreezeDatabase,
        Act::Silence(random.pick(&Pair::ALL[1..3])),
        Act::Silence(random.pick(&Pair::ALL[3..5])),
        Act::ReloadEnvoy,
        Act::KillEnvoy,
    ];
    for pairs in [&Pair::ALL[0..1], &Pair::ALL[1..3], &Pair::ALL[3..5], &Pair::ALL[5..6]] {
        acts.push(Act::Cut(random.pick(pairs)));
        acts.push(Act::Delay(random.pick(pairs), random.between(20..400)));
    }
    random.shuffle(&mut acts);
    acts
}

fn lasts_ms(act: Act, random: &mut Random) -> u64 {
    match act {
        Act::KillReplica(_) | Act::KillDatabase => random.between(100..1_200),
        Act::FreezeReplica(_) | Act::FreezeDatabase | Act::Silence(_) => random.between(300..2_500),
        Act::Cut(_) => random.between(50..800),
        Act::Delay(..) => random.between(500..2_000),
        Act::ReloadEnvoy | Act::KillEnvoy => 0,
    }
}

/// The schedule of a storm.
pub fn schedule(seed: u64, storm: Duration) -> Vec<Event> {
    let mut random = Random::new(seed, 1);
    let last_ms = u64::try_from(storm.as_millis()).unwrap_or(u64::MAX).saturating_sub(CALM_END_MS);
    let kinds = u64::try_from(bag(&mut random.clone()).len()).unwrap_or(1);
    // A short storm has one of each kind; a longer one has them about two seconds apart.
    let mean_ms = (last_ms.saturating_sub(CALM_START_MS) / (kinds + 2)).clamp(100, 2_000);
    let (mut events, mut rest, mut at_ms) = (Vec::new(), Vec::new(), CALM_START_MS);
    while at_ms < last_ms {
        if rest.is_empty() {
            rest = bag(&mut random);
        }
        let Some(act) = rest.pop() else { break };
        let lasts = Duration::from_millis(lasts_ms(act, &mut random));
        events.push(Event { at: Duration::from_millis(at_ms), act, lasts });
        at_ms += random.between(mean_ms / 2..mean_ms * 3 / 2);
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let long = Duration::from_secs(180);
        assert_eq!(schedule(42, long), schedule(42, long));
        assert_ne!(schedule(42, long), schedule(43, long));
    }

    #[test]
    fn every_kind_comes_again_and_again() {
        let events = schedule(42, Duration::from_secs(180));
        let count = |is_it: &dyn Fn(Act) -> bool| events.iter().filter(|event| is_it(event.act)).count();
        let kinds: [&dyn Fn(Act) -> bool; 12] = [
            &|act| act == Act::KillReplica(0),
            &|act| act == Act::KillReplica(1),
            &|act| matches!(act, Act::FreezeReplica(_)),
            &|act| act == Act::KillDatabase,
            &|act| act == Act::FreezeDatabase,
            &|act| matches!(act, Act::Silence(_)),
            &|act| act == Act::ReloadEnvoy,
            &|act| act == Act::KillEnvoy,
            &|act| matches!(act, Act::Cut(pair) if pair.is_path_of_calls()),
            &|act| matches!(act, Act::Cut(pair) if !pair.is_path_of_calls()),
            &|act| matches!(act, Act::Delay(pair, _) if pair.is_path_of_calls()),
            &|act| matches!(act, Act::Delay(pair, _) if !pair.is_path_of_calls()),
        ];
        for (number, kind) in kinds.iter().enumerate() {
            assert!(count(kind) >= 3, "kind {number}: {events:?}");
        }
        // Silence on the path of a call would be the call's own time.
        assert_eq!(count(&|act| matches!(act, Act::Silence(pair) if pair.is_path_of_calls())), 0);
    }

    #[test]
    fn a_short_storm_has_nearly_one_of_each_and_ends_calm() {
        let storm = Duration::from_secs(16);
        for seed in 0..50 {
            let events = schedule(seed, storm);
            assert!(events.len() >= 15, "{}", events.len());
            assert!(events.iter().all(|event| event.at < storm));
        }
    }
}
