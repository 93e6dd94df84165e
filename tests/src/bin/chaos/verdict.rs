//! What a run must show, and what it says of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit::{Call, Difference, Findings};
use crate::calls::Payer;
use crate::clock::Clock;
use crate::envoy::Route;
use crate::settings::Settings;
use crate::traffic::{Called, Control, End};
use crate::waits::{Noise, waited};
use crate::watch::Seen;
use crate::world::World;

/// Lines shown of a list; the rest is counted.
const LINES: usize = 12;

/// Everything a run has brought.
#[derive(Debug)]
pub struct Run {
    /// The calls.
    pub called: Vec<Called>,
    /// The calls that asked nobody.
    pub controls: Vec<Control>,
    /// How late the provider's pauses were.
    pub clock: Clock,
    /// What was seen meanwhile.
    pub seen: Seen,
    /// The bill beside the ledger.
    pub findings: Findings,
    /// How often Envoy was killed.
    pub envoy_kills: u32,
    /// How many calls its configuration lets out without a verdict, if it says so.
    pub fail_open_bound: Option<u64>,
    /// What else is not as it should be.
    pub problems: Vec<String>,
}

/// What is known of each call apart from the books; `billed` is by the answers' ids.
pub fn calls(called: &[Called], billed: &BTreeMap<String, i64>, envoy_kills: u32) -> BTreeMap<i64, Call> {
    let call = |called: &Called| Call {
        is_strict: called.plan.payer.is_strict(),
        may_fail_open: called.plan.payer.route == Route::Open,
        envoy_was_killed: called.envoy_generation < envoy_kills,
        billed_nanousd: billed.get(&called.plan.response_id()).copied(),
    };
    called.iter().map(|one| (i64::try_from(one.plan.number).unwrap_or(-1), call(one))).collect()
}

impl Run {
    /// Prints what happened, and returns what must not have.
    pub fn judge(&self, world: &World, settings: &Settings) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.answers());
        self.say_ends();
        problems.extend(self.books(settings));
        problems.extend(self.strict_bill(world, settings));
        problems.extend(self.seen.grown());
        problems.extend(self.seen.counters.iter().map(|fault| format!("while it stormed: {fault}")));
        println!("memory at most: {}", self.seen.peaks());
        println!("strict budgets looked at {} times", self.seen.looks);
        problems.extend(self.seen.over_limit.iter().map(|over| format!("over a strict limit: {over}")));
        if self.seen.looks == 0 {
            problems.push("the strict budgets were never looked at".to_owned());
        }
        problems.extend(self.waits(world));
        problems
    }

    fn say_ends(&self) {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for called in &self.called {
            let open = if called.failed_open { " failed open" } else { "" };
            let refused = if called.refused { " refused" } else { "" };
            *ends.entry(format!("{:?}{open}{refused}", called.end)).or_default() += 1;
        }
        println!("calls: {ends:?}");
        println!("charged from: {:?}", self.findings.stories);
    }

    /// Denied is not failed: each answer is one that its payer and its route can get.
    fn answers(&self) -> Vec<String> {
        let wrong = self.called.iter().filter_map(|called| {
            let payer: &Payer = called.plan.payer;
            let problem = match called.end {
                End::Hung => "it hung",
                End::Answered(429) if !payer.may_be_denied() => "denied, with money left",
                End::Answered(200 | 429 | 502 | 503 | 504) | End::Broken(200) | End::NoAnswer | End::Left => {
                    if called.failed_open && payer.route == Route::Closed {
                        "failed open on a closed route"
                    } else {
                        return None;
                    }
                }
                End::Answered(_) | End::Broken(_) => "an answer that nobody should get",
            };
            Some(format!("call {} of {}: {problem}: {:?}", called.plan.number, payer.team, called.end))
        });
        wrong.collect()
    }

    fn books(&self, settings: &Settings) -> Vec<String> {
        let findings = &self.findings;
        let bound = settings.fail_open_bound_per_kill(self.fail_open_bound) * u64::from(self.envoy_kills);
        list("the ledger is below the bill", &findings.under);
        list("the ledger is above the bill", &findings.over);
        println!(
            "above the bill by {} nano-USD, below it by {}; failed open and died with their Envoy: {} calls of {} \
             nano-USD, in {} kills, bound {bound}",
            findings.over_nanousd(),
            findings.under_nanousd(),
            findings.fail_open_lost.len(),
            findings.fail_open_lost_nanousd,
            self.envoy_kills
        );
        let mut problems = Vec::new();
        for (what, found) in [
            ("lost", &findings.lost),
            ("charged twice", &findings.duplicated),
            ("not exact", &findings.not_exact),
            ("expired short in a strict budget", &findings.strict_short),
            ("odd", &findings.odd),
        ] {
            problems.extend(found.iter().take(LINES).map(|found| format!("{what}: {found}")));
            let more = found.len().saturating_sub(LINES);
            problems.extend((more > 0).then(|| format!("{what}: {more} more")));
        }
        let lost = u64::try_from(findings.fail_open_lost.len()).unwrap_or(u64::MAX);
        if lost > bound {
            problems.push(format!("{lost} calls that failed open are lost, and the bound is {bound}"));
        }
        let sum = findings.ledger_nanousd + findings.under_nanousd() + findings.fail_open_lost_nanousd;
        if problems.is_empty() && sum - findings.over_nanousd() != findings.billed_nanousd {
            problems.push("the differences don't explain the sums".to_owned());
        }
        problems
    }

    /// What the provider bills the payers of a strict budget is within its limit, too.
    fn strict_bill(&self, world: &World, settings: &Settings) -> Vec<String> {
        let mut billed: BTreeMap<String, i64> = BTreeMap::new();
        for row in world.fake.billed().rows {
            billed.insert(row.response_id, i64::try_from(row.amount_nanousd).unwrap_or(i64::MAX));
        }
        let strict = crate::calls::PAYERS.iter().filter(|payer| payer.is_strict());
        let problems = strict.filter_map(|payer| {
            let own = self.called.iter().filter(|called| called.plan.payer == payer);
            let sum: i64 = own.filter_map(|called| billed.get(&called.plan.response_id())).sum();
            let limit = payer.limit_nanousd(settings);
            println!("strict team {}: billed {sum} of {limit} nano-USD", payer.team);
            (sum > limit)
                .then(|| format!("team {} is billed {sum} nano-USD, its limit is {limit}", payer.team))
        });
        problems.collect()
    }

    /// The longest wait.
    pub fn max_wait(&self, world: &World) -> Duration {
        let waits = self.called.iter().filter_map(|called| self.wait(world, called));
        waits.max().unwrap_or_default()
    }

    fn wait(&self, world: &World, called: &Called) -> Option<Duration> {
        waited(called, self.clock.late(called.span), world.delay_between(called.span.0, called.span.1))
    }

    fn waits(&self, world: &World) -> Vec<String> {
        let mut waits: Vec<Duration> =
            self.called.iter().filter_map(|called| self.wait(world, called)).collect();
        let mut controls: Vec<Duration> = self.controls.iter().map(|control| control.took).collect();
        println!("calls waited {}; calls that asked nobody {}", spread(&mut waits), spread(&mut controls));
        let noise = Noise::of(&self.controls);
        let judged = self
            .called
            .iter()
            .filter_map(|called| Some((called, self.wait(world, called)?, noise.allowed(called.span))));
        let closest = judged.clone().min_by_key(|(_, wait, most)| most.saturating_sub(*wait));
        if let Some((_, wait, most)) = closest {
            println!("the closest to its limit waited {wait:.0?} of {most:.0?}");
        }
        let late = judged.filter(|(_, wait, most)| wait > most).map(|(called, wait, most)| {
            let at = called.span.0.saturating_duration_since(world.started);
            let (number, end, took) = (called.plan.number, called.end, called.span.1 - called.span.0);
            format!(
                "call {number} at {at:.1?} took {took:.0?}, waited {wait:.0?}, allowed {most:.0?}: {end:?}"
            )
        });
        late.collect()
    }

    /// The one line that sums up.
    pub fn result(&self, world: &World) -> String {
        let findings = &self.findings;
        format!(
            "RESULT requests={} billed_nanousd={} ledger_nanousd={} lost={} duplicated={} fail_open_lost={} \
             under_nanousd={} max_wait_ms={}",
            self.called.len(),
            findings.billed_nanousd,
            findings.ledger_nanousd,
            findings.lost.len(),
            findings.duplicated.len(),
            findings.fail_open_lost.len(),
            findings.under_nanousd(),
            self.max_wait(world).as_millis()
        )
    }
}

/// Median, 99th percentile and longest of some times.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |permille: usize| times.get((times.len() * permille / 1_000).min(times.len().saturating_sub(1)));
    let [median, high, longest] = [500, 990, 1_000].map(|permille| at(permille).copied().unwrap_or_default());
    format!("p50 {median:.0?} p99 {high:.0?} max {longest:.0?}")
}

/// The largest differences, and the sum of each story.
fn list(what: &str, differences: &[Difference]) {
    let mut sums: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
    for difference in differences {
        let sum = sums.entry(&difference.story).or_default();
        *sum = (sum.0 + 1, sum.1 + difference.short_nanousd.abs());
    }
    for (story, (count, nanousd)) in sums {
        println!("{what}: {count} calls {story}, together {nanousd} nano-USD");
    }
    let mut largest: Vec<&Difference> = differences.iter().collect();
    largest.sort_by_key(|difference| -difference.short_nanousd.abs());
    for difference in largest.iter().take(LINES) {
        let Difference { call, story, short_nanousd } = difference;
        println!("  call {call} {story}: by {} nano-USD", short_nanousd.abs());
    }
}
