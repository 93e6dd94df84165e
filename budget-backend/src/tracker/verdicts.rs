//! Counts of verdicts worth counting, in memory until the tracker's thread writes them. Pure.
//!
//! Bounded: past a number of different rows, what is new is counted without user and model; past a
//! second number, for its org alone; past a third, only in a number of lost ones. Counts of a killed
//! backend are lost, a second's worth; a connection that breaks in mid-commit may count a second
//! twice, since nobody can tell whether it was committed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::denials::{Denial, MAX_DENIALS};

/// Most different rows counted with user and model.
const MAX_FULL_KEYS: usize = 2_048;

/// Most different rows, those without user and model included.
const MAX_TEAM_KEYS: usize = MAX_FULL_KEYS + 1_024;

/// Most different rows at all.
const MAX_KEYS: usize = MAX_TEAM_KEYS + 1_024;

/// Microseconds in an hour.
const HOUR_US: i64 = 3_600_000_000;

/// What became of a hold that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotedOutcome {
    /// It was refused.
    Denied,
    /// A shadow budget would have refused it.
    ShadowDenied,
    /// An override let it through where a budget would have refused it.
    Overridden,
    /// A tier of its payer has no budget.
    Unbudgeted,
    /// It brought a budget to its warning or beyond.
    Warned,
    /// A budget had a cheaper model run it.
    Degraded,
    /// A budget lowered its output cap.
    Clamped,
    /// A shadow budget would have warned.
    ShadowWarned,
    /// A shadow budget would have had a cheaper model run it.
    ShadowDegraded,
    /// A shadow budget would have lowered its output cap.
    ShadowClamped,
}

impl NotedOutcome {
    /// The name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::ShadowDenied => "shadow_denied",
            Self::Overridden => "overridden",
            Self::Unbudgeted => "unbudgeted",
            Self::Warned => "warned",
            Self::Degraded => "degraded",
            Self::Clamped => "clamped",
            Self::ShadowWarned => "shadow_warned",
            Self::ShadowDegraded => "shadow_degraded",
            Self::ShadowClamped => "shadow_clamped",
        }
    }
}

/// A verdict worth counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The organisation.
    pub org: String,
    /// The team, or `""`.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// Who would have billed.
    pub provider: String,
    /// The model asked for.
    pub model: String,
    /// What became of it.
    pub outcome: NotedOutcome,
    /// Of a denial its reason; of an unbudgeted call the tier.
    pub reason: &'static str,
    /// The budget that refused or would have; 0 when none did.
    pub budget_id: i64,
    /// What it would have held, nano-USD.
    pub needed_nanousd: i64,
    /// The hold asked for.
    pub hold_id: Uuid,
    /// When it was decided, Unix microseconds.
    pub at_unix_us: i64,
}

/// A row's key, in the order of the database's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerdictKey {
    /// The organisation.
    pub org: String,
    /// First instant of the UTC hour, Unix microseconds.
    pub hour_unix_us: i64,
    /// The team, or `""`.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// Who would have billed.
    pub provider: String,
    /// The model asked for, or `""`.
    pub model: String,
    /// What became of them.
    pub outcome: NotedOutcome,
    /// Why.
    pub reason: &'static str,
    /// The budget, or 0.
    pub budget_id: i64,
}

impl VerdictKey {
    fn of(noted: &Noted) -> Self {
        Self {
            org: noted.org.clone(),
            hour_unix_us: noted.at_unix_us.div_euclid(HOUR_US).saturating_mul(HOUR_US),
            team: noted.team.clone(),
            user: noted.user.clone(),
            provider: noted.provider.clone(),
            model: noted.model.clone(),
            outcome: noted.outcome,
            reason: noted.reason,
            budget_id: noted.budget_id,
        }
    }

    /// The same without user and model.
    #[must_use]
    pub fn by_team(self) -> Self {
        Self { user: String::new(), model: String::new(), ..self }
    }

    /// The same for the org alone.
    #[must_use]
    pub fn by_org(self) -> Self {
        Self { team: String::new(), provider: String::new(), budget_id: 0, ..self.by_team() }
    }
}

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdicts {
    /// How many.
    pub verdicts: i64,
    /// The most that one of them would have held, nano-USD.
    pub most_needed_nanousd: i64,
    /// The latest.
    pub last_hold_id: Uuid,
    /// When that was, Unix microseconds.
    pub last_at_unix_us: i64,
}

impl Verdicts {
    fn add(&mut self, other: Self) {
        self.verdicts = self.verdicts.saturating_add(other.verdicts);
        self.most_needed_nanousd = self.most_needed_nanousd.max(other.most_needed_nanousd);
        if other.last_at_unix_us >= self.last_at_unix_us {
            (self.last_hold_id, self.last_at_unix_us) = (other.last_hold_id, other.last_at_unix_us);
        }
    }
}

/// Rows to write.
pub type VerdictRows = BTreeMap<VerdictKey, Verdicts>;

/// Adds to a row of `rows`.
pub fn add(rows: &mut VerdictRows, key: VerdictKey, verdicts: Verdicts) {
    rows.entry(key).and_modify(|sum| sum.add(verdicts)).or_insert(verdicts);
}

#[derive(Debug, Default)]
struct Counts {
    rows: VerdictRows,
    denials: Vec<Denial>,
    lost: i64,
}

impl Counts {
    fn add(&mut self, key: VerdictKey, verdicts: Verdicts) {
        let room = |key: &VerdictKey, max: usize| self.rows.contains_key(key) || self.rows.len() < max;
        let key = if room(&key, MAX_FULL_KEYS) { key } else { key.by_team() };
        let key = if room(&key, MAX_TEAM_KEYS) { key } else { key.by_org() };
        if room(&key, MAX_KEYS) {
            add(&mut self.rows, key, verdicts);
        } else {
            self.lost = self.lost.saturating_add(verdicts.verdicts);
        }
    }
}

/// The handle. Cheap to clone; taking note never waits for the database.
#[derive(Debug, Clone, Default)]
pub struct VerdictCounts(Arc<Mutex<Counts>>);

impl VerdictCounts {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after every statement, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one verdict.
    pub fn note(&self, noted: &Noted) {
        self.note_many(noted, 1);
    }

    /// Counts so many that are alike.
    pub fn note_many(&self, noted: &Noted, count: i64) {
        let verdicts = Verdicts {
            verdicts: count,
            most_needed_nanousd: noted.needed_nanousd,
            last_hold_id: noted.hold_id,
            last_at_unix_us: noted.at_unix_us,
        };
        self.counts().add(VerdictKey::of(noted), verdicts);
    }

    /// Keeps a refusal by itself, beside its count, while there is room.
    pub fn keep(&self, denial: Denial) {
        let mut counts = self.counts();
        if counts.denials.len() < MAX_DENIALS {
            counts.denials.push(denial);
        }
    }

    /// Takes the refusals kept.
    #[must_use]
    pub fn take_denials(&self) -> Vec<Denial> {
        std::mem::take(&mut self.counts().denials)
    }

    /// Gives back refusals that could not be written, as far as there is room.
    pub fn give_back_denials(&self, denials: Vec<Denial>) {
        let mut counts = self.counts();
        let room = MAX_DENIALS.saturating_sub(counts.denials.len());
        counts.denials.extend(denials.into_iter().take(room));
    }

    /// Takes what was counted, and how many found no room.
    #[must_use]
    pub fn take(&self) -> (VerdictRows, i64) {
        let mut counts = self.counts();
        (std::mem::take(&mut counts.rows), std::mem::take(&mut counts.lost))
    }

    /// Gives back what could not be written, within the same bounds.
    pub fn give_back(&self, rows: VerdictRows) {
        let mut counts = self.counts();
        for (key, verdicts) in rows {
            counts.add(key, verdicts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(user: &str, model: &str, needed_nanousd: i64) -> Noted {
        Noted {
            org: "acme".into(),
            team: "search".into(),
            user: user.into(),
            provider: "openai".into(),
            model: model.into(),
            outcome: NotedOutcome::Denied,
            reason: "over_budget",
            budget_id: 7,
            needed_nanousd,
            hold_id: Uuid::from_u128(needed_nanousd.unsigned_abs().into()),
            at_unix_us: HOUR_US * 10 + needed_nanousd,
        }
    }

    #[test]
    fn what_is_alike_is_one_row() {
        let counts = VerdictCounts::default();
        for needed in [5, 9, 3] {
            counts.note(&noted("ann", "gpt-4o", needed));
        }
        let (rows, lost) = counts.take();
        assert_eq!((rows.len(), lost), (1, 0));
        let (key, verdicts) = rows.into_iter().next().unwrap();
        assert_eq!(key.hour_unix_us, HOUR_US * 10);
        assert_eq!((verdicts.verdicts, verdicts.most_needed_nanousd), (3, 9));
        assert_eq!(verdicts.last_hold_id, Uuid::from_u128(9), "the latest, not the last one noted");
        assert_eq!(counts.take(), (VerdictRows::new(), 0));
    }

    #[test]
    fn past_its_bounds_it_counts_with_less_detail_and_never_grows_on() {
        let counts = VerdictCounts::default();
        let total = i64::try_from(MAX_FULL_KEYS).unwrap() + 500;
        for number in 0..total {
            counts.note(&noted(&format!("user-{number}"), "gpt-4o", 1));
        }
        let (rows, _) = counts.take();
        assert_eq!(rows.len(), MAX_FULL_KEYS + 1);
        assert_eq!(rows.values().map(|row| row.verdicts).sum::<i64>(), total);
        let folded: Vec<&VerdictKey> = rows.keys().filter(|key| key.user.is_empty()).collect();
        assert_eq!((folded.len(), folded[0].model.as_str(), folded[0].team.as_str()), (1, "", "search"));
        assert_eq!(rows[folded[0]].verdicts, 500);

        let all = i64::try_from(MAX_KEYS).unwrap() + 2_000;
        for number in 0..all {
            counts.note(&Noted { team: format!("team-{number}"), ..noted("ann", "gpt-4o", 1) });
        }
        for number in 0..all {
            counts.note(&Noted { org: format!("org-{number}"), ..noted("ann", "gpt-4o", 1) });
        }
        let (rows, lost) = counts.take();
        assert_eq!(rows.len(), MAX_KEYS);
        assert_eq!(rows.values().map(|row| row.verdicts).sum::<i64>() + lost, 2 * all);
        let whole_org = rows.iter().find(|(key, _)| key.org == "acme" && key.team.is_empty()).unwrap();
        assert_eq!(whole_org.1.verdicts, all - i64::try_from(MAX_TEAM_KEYS).unwrap());
        assert!(lost > 0);
    }

    #[test]
    fn what_is_given_back_is_added_to_what_came_meanwhile() {
        let counts = VerdictCounts::default();
        counts.note(&noted("ann", "gpt-4o", 5));
        let (rows, _) = counts.take();
        counts.note(&noted("ann", "gpt-4o", 2));
        counts.give_back(rows);
        let (rows, _) = counts.take();
        let verdicts = rows.into_values().next().unwrap();
        assert_eq!((verdicts.verdicts, verdicts.most_needed_nanousd), (2, 5));
        assert_eq!(verdicts.last_hold_id, Uuid::from_u128(5));
    }
}
