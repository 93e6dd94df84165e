//! What the apps ask for: each call follows from the seed and its number.

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::fake_llm::answer::hash;
use system_tests::harness::client::{App, with};

use crate::envoy::{CALL_HEADER, Route};
use crate::random::Random;
use crate::settings::Settings;

/// The org with strict budgets.
pub const STRICT_ORG: &str = "vault";
/// The org without.
pub const LOOSE_ORG: &str = "acme";

/// Somebody who pays.
#[derive(Debug, PartialEq, Eq)]
pub struct Payer {
    /// Their org.
    pub org: &'static str,
    /// Their team.
    pub team: &'static str,
    /// The route they call by.
    pub route: Route,
    /// Their team's budget, in thousandths of what their calls are expected to cost.
    pub limit_permille: u64,
    /// Whether calls without an output cap are among theirs.
    pub uncapped: bool,
}

impl Payer {
    /// Whether their team's budget is strict.
    pub fn is_strict(&self) -> bool {
        self.org == STRICT_ORG
    }

    /// Whether their budget may refuse a call.
    pub const fn may_be_denied(&self) -> bool {
        self.limit_permille < 50_000
    }

    /// The limit of their team's budget in a run, nano-USD.
    pub fn limit_nanousd(&self, settings: &Settings) -> i64 {
        let calls = settings.calls() / u64::try_from(PAYERS.len()).unwrap_or(1);
        i64::try_from(calls * TYPICAL_CALL_NANOUSD * self.limit_permille / 1_000).unwrap_or(i64::MAX)
    }
}

/// What a call costs, about, nano-USD.
const TYPICAL_CALL_NANOUSD: u64 = 15_000;

/// All of them: each makes as many calls as the others.
pub const PAYERS: [Payer; 6] = [
    // Runs out half way: held at its true upper bound to the last.
    Payer { org: STRICT_ORG, team: "alpha", route: Route::Closed, limit_permille: 500, uncapped: false },
    Payer { org: STRICT_ORG, team: "beta", route: Route::Closed, limit_permille: 100_000, uncapped: true },
    Payer { org: LOOSE_ORG, team: "search", route: Route::Open, limit_permille: 100_000, uncapped: true },
    // Runs out, and may be overspent by what fails open.
    Payer { org: LOOSE_ORG, team: "ads", route: Route::Open, limit_permille: 600, uncapped: false },
    Payer { org: LOOSE_ORG, team: "lab", route: Route::Closed, limit_permille: 100_000, uncapped: true },
    Payer { org: LOOSE_ORG, team: "shop", route: Route::Open, limit_permille: 100_000, uncapped: false },
];

/// How an app leaves before its answer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// So long after it asked.
    After(Duration),
    /// When so many pieces of the answer have come.
    AfterPieces(u32),
}

/// A call as its app means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its number, from 0.
    pub number: u64,
    /// Who pays.
    pub payer: &'static Payer,
    /// Whether it is a stream.
    pub stream: bool,
    /// How long the provider thinks.
    pub delay: Duration,
    /// How long it takes for each word of a stream.
    pub word_delay: Duration,
    /// Words of the answer.
    pub words: u64,
    /// Most tokens of the answer.
    pub cap: Option<u64>,
    /// Bytes of the prompt.
    pub prompt_bytes: usize,
    /// Whether and how the app leaves early.
    pub leave: Option<Leave>,
    seed: String,
}

impl Plan {
    /// Call number `number` of a seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number + 1_000);
        let payer = &PAYERS[usize::try_from(random.next() % PAYERS.len() as u64).unwrap_or(0)];
        let stream = random.chance(50);
        let words = random.between(3..60);
        let leave = random.chance(8).then(|| match stream && random.chance(60) {
            true => Leave::AfterPieces(u32::try_from(random.between(1..12)).unwrap_or(1)),
            false => Leave::After(Duration::from_millis(random.between(1..400))),
        });
        let cap = (!payer.uncapped || random.chance(60)).then(|| random.between(20..80));
        Self {
            number,
            payer,
            stream,
            delay: Duration::from_millis(random.between(0..150)),
            word_delay: Duration::from_millis(if stream { random.between(0..20) } else { 0 }),
            words,
            cap,
            prompt_bytes: usize::try_from(random.between(1..800)).unwrap_or(1),
            leave,
            seed: format!("chaos-{seed}-{number}"),
        }
    }

    /// The app's headers: who pays, what the provider does, and the call's number for the ledger.
    pub fn app(&self) -> App {
        App::of(self.payer.org)
            .team(self.payer.team)
            .with(CALL_HEADER, &self.number.to_string())
            .with("x-fake-seed", &self.seed)
            .with("x-fake-words", &self.words.to_string())
            .with("x-fake-delay-ms", &self.delay.as_millis().to_string())
            .with("x-fake-word-delay-ms", &self.word_delay.as_millis().to_string())
    }

    /// The request's body.
    pub fn body(&self) -> Value {
        let body = json!({
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "x".repeat(self.prompt_bytes)}],
            "stream": self.stream,
        });
        match self.cap {
            Some(cap) => with(body, &json!({"max_completion_tokens": cap})),
            None => body,
        }
    }

    /// The id that the provider gives its answer: known beforehand, so that its bill can be matched
    /// though nobody heard the answer.
    pub fn response_id(&self) -> String {
        format!("chatcmpl-{:016x}{:016x}", hash(&self.seed, 1), hash(&self.seed, 2))
    }

    /// The provider's own time, each of whose pauses is `late` by so much.
    pub fn providers_time(&self, late: Duration) -> Duration {
        let words = u32::try_from(self.words.min(self.cap.unwrap_or(u64::MAX))).unwrap_or(u32::MAX);
        match self.word_delay {
            Duration::ZERO => self.delay + late,
            each => self.delay + late + (each + late) * words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_follows_from_seed_and_number() {
        assert_eq!(Plan::new(7, 3), Plan::new(7, 3));
        assert_ne!(Plan::new(7, 3).response_id(), Plan::new(7, 4).response_id());
        assert_ne!(Plan::new(7, 3).response_id(), Plan::new(8, 3).response_id());
        let plans: Vec<Plan> = (0..600).map(|number| Plan::new(7, number)).collect();
        for payer in &PAYERS {
            let own = plans.iter().filter(|plan| plan.payer == payer);
            assert!(own.clone().count() > 60, "{payer:?}");
            assert!(own.clone().any(|plan| plan.stream) && own.clone().any(|plan| !plan.stream));
        }
        assert!(plans.iter().any(|plan| plan.cap.is_none()));
        assert!(plans.iter().any(|plan| matches!(plan.leave, Some(Leave::AfterPieces(_)))));
        assert!(plans.iter().any(|plan| matches!(plan.leave, Some(Leave::After(_)))));
    }
}
