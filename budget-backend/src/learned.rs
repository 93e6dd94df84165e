//! What recent answers needed: the output held for a request that sets no cap. Pure.

use std::collections::HashMap;
use std::fmt;

use crate::histogram::{OUTPUT_TOKENS, percentile};

/// Fewest answers that say what the next one needs.
const MIN_ANSWERS: u64 = 20;

/// Most groups (teams and models) kept in memory.
pub const MAX_GROUPS: usize = 200_000;

/// A row of `output_lengths`: answers of one payer's team and model by number of output tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LengthsRow {
    /// The organisation.
    pub org: String,
    /// The team, or `""`.
    pub team: String,
    /// Who bills.
    pub provider: String,
    /// The model sent upstream.
    pub model: String,
    /// How many answers fell into each bucket of [`OUTPUT_TOKENS`].
    pub seen: Vec<i64>,
}

/// How long answers are, by payer's team and model.
#[derive(Clone)]
pub struct LearnedLengths {
    percent: u8,
    /// Org, provider, model.
    models: HashMap<String, HashMap<String, HashMap<String, Model>>>,
    groups: usize,
}

// By hand: the counts of every team would be a long text.
impl fmt::Debug for LearnedLengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LearnedLengths").field("groups", &self.groups).finish_non_exhaustive()
    }
}

#[derive(Clone, Default)]
struct Model {
    teams: HashMap<String, Lengths>,
    all: Lengths,
}

/// Counts, without the empty buckets at the end, and what is read from them.
#[derive(Clone, Default)]
struct Lengths {
    seen: Vec<i64>,
    output_tokens: Option<u64>,
}

impl Lengths {
    fn read(&mut self, percent: u8) {
        let answers = self.seen.iter().fold(0_u64, |sum, count| sum.saturating_add(count.unsigned_abs()));
        self.output_tokens = (answers >= MIN_ANSWERS)
            .then(|| percentile(&OUTPUT_TOKENS, &self.seen, percent))
            .flatten()
            .and_then(|tokens| u64::try_from(tokens).ok());
    }
}

impl LearnedLengths {
    /// Nothing learned yet. `percent` is how many in a hundred answers what it gives shall suffice for.
    #[must_use]
    pub fn new(percent: u8) -> Self {
        Self { percent, models: HashMap::new(), groups: 0 }
    }

    /// Takes rows over; a row replaces what was known of its group. Gives how many found no room.
    pub fn apply(&mut self, rows: impl IntoIterator<Item = LengthsRow>) -> usize {
        let mut ignored: usize = 0;
        for row in rows {
            ignored = ignored.saturating_add(usize::from(!self.replace(row)));
        }
        ignored
    }

    fn replace(&mut self, row: LengthsRow) -> bool {
        let known = self.model(&row.org, &row.provider, &row.model);
        if known.is_none_or(|model| !model.teams.contains_key(&row.team)) {
            if self.groups >= MAX_GROUPS {
                return false;
            }
            self.groups = self.groups.saturating_add(1);
        }
        let model = self.models.entry(row.org).or_default().entry(row.provider).or_default();
        let model = model.entry(row.model).or_default();
        let mut seen = row.seen;
        seen.truncate(OUTPUT_TOKENS.len().saturating_add(1));
        let used = seen.iter().rposition(|count| *count > 0).map_or(0, |last| last.saturating_add(1));
        seen.truncate(used);
        seen.shrink_to_fit();
        let team = model.teams.entry(row.team).or_default();
        if model.all.seen.len() < seen.len() {
            model.all.seen.resize(seen.len(), 0);
        }
        for (index, sum) in model.all.seen.iter_mut().enumerate() {
            let of = |seen: &[i64]| seen.get(index).copied().unwrap_or_default().max(0);
            *sum = sum.saturating_sub(of(&team.seen)).saturating_add(of(&seen));
        }
        team.seen = seen;
        team.read(self.percent);
        model.all.read(self.percent);
        true
    }

    fn model(&self, org: &str, provider: &str, model: &str) -> Option<&Model> {
        self.models.get(org)?.get(provider)?.get(model)
    }

    /// How many output tokens an answer of this model needs: what sufficed for most of the team's
    /// recent answers, or if they are few of the org's, or `None` if those are few as well.
    #[must_use]
    pub fn output_tokens(&self, org: &str, team: &str, provider: &str, model: &str) -> Option<u64> {
        let model = self.model(org, provider, model)?;
        model.teams.get(team).and_then(|lengths| lengths.output_tokens).or(model.all.output_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::bucket;

    fn row(team: &str, answers: &[(i64, i64)]) -> LengthsRow {
        let mut seen = vec![0; OUTPUT_TOKENS.len() + 1];
        for (tokens, count) in answers {
            seen[bucket(&OUTPUT_TOKENS, *tokens)] += count;
        }
        LengthsRow {
            org: "acme".into(),
            team: team.into(),
            provider: "openai".into(),
            model: "gpt-4o".into(),
            seen,
        }
    }

    fn tokens(learned: &LearnedLengths, team: &str) -> Option<u64> {
        learned.output_tokens("acme", team, "openai", "gpt-4o")
    }

    #[test]
    fn a_team_with_enough_answers_speaks_for_itself_and_others_by_their_org() {
        let mut learned = LearnedLengths::new(95);
        assert_eq!(tokens(&learned, "search"), None);
        learned.apply([row("search", &[(8, 19)])]);
        assert_eq!(tokens(&learned, "search"), None, "19 answers are few");
        learned.apply([row("search", &[(8, 19), (100, 1)])]);
        assert_eq!(tokens(&learned, "search"), Some(9), "19 of 20 are 95 in a hundred");
        learned.apply([row("ads", &[(1_000, 19)])]);
        assert_eq!(tokens(&learned, "ads"), Some(1_023), "the org has 39, most of the longest from ads");
        assert_eq!(tokens(&learned, "search"), Some(9));
        assert_eq!(tokens(&learned, "new"), Some(1_023));
        assert_eq!(learned.output_tokens("acme", "search", "openai", "o4-mini"), None);
        assert_eq!(learned.output_tokens("other", "search", "openai", "gpt-4o"), None);
    }

    #[test]
    fn a_row_replaces_the_one_before_and_the_org_s_sum_follows() {
        let mut learned = LearnedLengths::new(100);
        learned.apply([row("search", &[(5_000, 30)]), row("ads", &[(10, 30)])]);
        assert_eq!(tokens(&learned, "new"), Some(5_119));
        // Halved, and the long ones are gone.
        learned.apply([row("search", &[(20, 30)])]);
        assert_eq!((tokens(&learned, "search"), tokens(&learned, "new")), (Some(23), Some(23)));
    }

    #[test]
    fn the_percentile_is_the_one_asked_for() {
        let answers = [(1, 50), (100, 49), (2_000, 1)];
        for (percent, expected) in [(50, 1), (95, 111), (99, 111), (100, 2_047)] {
            let mut learned = LearnedLengths::new(percent);
            learned.apply([row("search", &answers)]);
            assert_eq!(tokens(&learned, "search"), Some(expected), "{percent}");
        }
    }

    #[test]
    fn groups_are_bounded_and_known_ones_still_change() {
        let mut learned = LearnedLengths::new(95);
        let many = (0..MAX_GROUPS + 3)
            .map(|number| LengthsRow { seen: vec![0, 25], ..row(&format!("team-{number}"), &[]) });
        assert_eq!(learned.apply(many), 3);
        assert_eq!(learned.apply([row("team-7", &[(100, 20)]), row("late", &[(100, 20)])]), 1);
        assert_eq!((tokens(&learned, "team-7"), tokens(&learned, "late")), (Some(111), Some(1)));
    }
}
