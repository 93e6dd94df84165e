//! What a budget does before it refuses: warn, degrade to a cheaper model, clamp the output. Pure.
//!
//! Percentages are of what is spent and held, the hold that is asked for included. The steps of a call are
//! decided in [`crate::ledger::steps`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::pattern::Names;

/// Most models in one map.
pub const MAX_MODELS: usize = 64;

/// Largest floor, tokens: no model answers at greater length.
pub const MAX_FLOOR_TOKENS: u64 = 1_048_576;

/// A budget's steps; each may be missing.
// Fields that a newer version may add don't keep this one from reading the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ladder {
    /// From which percentage on calls are told that it is nearly used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_at_percent: Option<u32>,
    /// Cheaper models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degrade: Option<Degrade>,
    /// Shorter answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<Clamp>,
}

/// Calls run by a cheaper model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Degrade {
    /// From which percentage on.
    pub at_percent: u32,
    /// The model asked for → the model that runs.
    pub models: BTreeMap<String, String>,
}

/// Calls with a lower output cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Clamp {
    /// The lowest cap worth a call, tokens per choice; below it the call is refused.
    pub floor_tokens: u64,
}

impl Degrade {
    /// The model that runs instead of this one: what the first of its names that the map has maps to.
    /// Otherwise another name would be a way around the step.
    #[must_use]
    pub fn target_of(&self, model: &Names) -> Option<&str> {
        let in_capitals = |name: &str| self.models.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        let named = |name| self.models.get(name).or_else(|| in_capitals(name).map(|(_, target)| target));
        let target = model.all().find_map(named).map(String::as_str);
        target.filter(|target| !target.eq_ignore_ascii_case(model.asked()))
    }
}

impl Ladder {
    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The ladder in a budget's row. One that can't be read (written by hand) has no steps: the budget
    /// still refuses at its limit.
    #[must_use]
    pub fn from_row(budget_id: i64, ladder: serde_json::Value) -> Self {
        let read = serde_json::from_value::<Self>(ladder).map_err(|error| error.to_string());
        let checked = read.and_then(|ladder| ladder.check("ladder").map(|()| ladder));
        checked.unwrap_or_else(|error| {
            tracing::error!(budget_id, error, "a budget's ladder can't be read; it has no steps");
            Self::default()
        })
    }

    /// Where the map says that the model of these names is degraded to.
    #[must_use]
    pub fn target_of(&self, model: &Names) -> Option<&str> {
        self.degrade.as_ref()?.target_of(model)
    }

    /// As [`Self::target_of`], of a model of which nothing but its name is known.
    #[must_use]
    pub fn target(&self, model: &str) -> Option<&str> {
        self.target_of(&Names::of(model, []))
    }

    /// Checks what the types can't; names apart, which whoever takes them in checks. `path` is where it
    /// stands.
    ///
    /// # Errors
    /// The path and what is wrong there.
    pub fn check(&self, path: &str) -> Result<(), String> {
        if let Some(at_percent) = self.warn_at_percent {
            percent(&format!("{path}.warn_at_percent"), at_percent)?;
        }
        if let Some(degrade) = &self.degrade {
            percent(&format!("{path}.degrade.at_percent"), degrade.at_percent)?;
            models(&format!("{path}.degrade.models"), &degrade.models)?;
        }
        match &self.clamp {
            Some(clamp) if !(1..=MAX_FLOOR_TOKENS).contains(&clamp.floor_tokens) => Err(format!(
                "{path}.clamp.floor_tokens: expected 1 to {MAX_FLOOR_TOKENS}, got {}",
                clamp.floor_tokens
            )),
            _ => Ok(()),
        }
    }
}

fn percent(path: &str, value: u32) -> Result<(), String> {
    if (1..=100).contains(&value) { Ok(()) } else { Err(format!("{path}: expected 1 to 100, got {value}")) }
}

fn models(path: &str, models: &BTreeMap<String, String>) -> Result<(), String> {
    if models.is_empty() {
        return Err(format!("{path}: expected at least one model; leave degrade out for none"));
    }
    if models.len() > MAX_MODELS {
        return Err(format!("{path}: expected at most {MAX_MODELS} models, got {}", models.len()));
    }
    for (model, target) in models {
        if let Some(pattern) = [model, target].into_iter().find(|name| name.contains(['*', '?'])) {
            return Err(format!("{path}.{model}: expected names of models, got the pattern {pattern}"));
        }
        if model == target {
            return Err(format!("{path}.{model}: expected another model, got itself"));
        }
        if let Some(way) = cycle(models, model) {
            return Err(format!("{path}.{model}: expected no circle, got {}", way.join(" → ")));
        }
    }
    Ok(())
}

/// The way from a model back to itself, if the map leads there.
fn cycle<'a>(models: &'a BTreeMap<String, String>, start: &'a str) -> Option<Vec<&'a str>> {
    let (mut way, mut seen) = (vec![start], BTreeSet::from([start]));
    let mut at = start;
    while let Some(next) = models.get(at) {
        way.push(next);
        if next == start {
            return Some(way);
        }
        // A circle further on is found from a model that is part of it.
        if !seen.insert(next) {
            return None;
        }
        at = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(ladder: serde_json::Value) -> Result<(), String> {
        serde_json::from_value::<Ladder>(ladder).unwrap().check("ladder")
    }

    #[test]
    fn what_can_t_be_right_is_told_with_its_path() {
        let degrade = |models: serde_json::Value| json!({"degrade": {"at_percent": 90, "models": models}});
        let many: BTreeMap<String, String> =
            (0..65).map(|number| (format!("a{number}"), "b".to_owned())).collect();
        for (ladder, problem) in [
            (json!({"warn_at_percent": 0}), "ladder.warn_at_percent: expected 1 to 100, got 0"),
            (json!({"warn_at_percent": 101}), "ladder.warn_at_percent: expected 1 to 100, got 101"),
            (
                json!({"degrade": {"at_percent": 0, "models": {"a": "b"}}}),
                "ladder.degrade.at_percent: expected 1 to 100, got 0",
            ),
            (
                degrade(json!({})),
                "ladder.degrade.models: expected at least one model; leave degrade out for none",
            ),
            (degrade(json!(many)), "ladder.degrade.models: expected at most 64 models, got 65"),
            (
                degrade(json!({"gpt-*": "a"})),
                "ladder.degrade.models.gpt-*: expected names of models, got the pattern gpt-*",
            ),
            (degrade(json!({"a": "a"})), "ladder.degrade.models.a: expected another model, got itself"),
            (
                degrade(json!({"a": "b", "b": "a"})),
                "ladder.degrade.models.a: expected no circle, got a → b → a",
            ),
            (
                degrade(json!({"a": "c", "b": "c", "c": "d", "d": "b"})),
                "ladder.degrade.models.b: expected no circle, got b → c → d → b",
            ),
            (
                json!({"clamp": {"floor_tokens": 0}}),
                "ladder.clamp.floor_tokens: expected 1 to 1048576, got 0",
            ),
        ] {
            assert_eq!(checked(ladder.clone()).unwrap_err(), problem, "{ladder}");
        }
    }

    #[test]
    fn a_model_is_degraded_by_whatever_name_it_is_asked_for() {
        let models = [("gpt-5", "small"), ("big-2026-01-02", "mid"), ("big", "small-2026-03-05")];
        let models = models.map(|(model, target)| (model.to_owned(), target.to_owned())).into();
        let degrade = Degrade { at_percent: 1, models };
        for (model, target) in [
            ("gpt-5", Some("small")),
            ("gpt-5-2026-03-05", Some("small")),
            ("models/GPT-5", Some("small")),
            ("gpt-5-mini", None),
            ("big-2026-01-02", Some("mid")),
            ("big-2026-03-05", Some("small-2026-03-05")),
            ("small-2026-03-05", None),
        ] {
            assert_eq!(degrade.target_of(&Names::of(model, [])), target, "{model}");
        }
        assert_eq!(degrade.target_of(&Names::of("my-deployment", ["gpt-5"])), Some("small"));
    }

    #[test]
    fn every_step_is_optional_and_a_chain_is_no_circle() {
        for ladder in [
            json!({}),
            json!({"warn_at_percent": 1}),
            json!({"clamp": {"floor_tokens": 1}}),
            json!({"degrade": {"at_percent": 100, "models": {"a": "b", "b": "c", "d": "c"}}}),
        ] {
            assert_eq!(checked(ladder.clone()), Ok(()), "{ladder}");
        }
    }

    #[test]
    fn a_row_that_can_t_be_read_has_no_steps_and_a_newer_one_keeps_those_known() {
        for unreadable in [json!([]), json!({"warn_at_percent": "x"}), json!({"warn_at_percent": 500})] {
            assert!(Ladder::from_row(1, unreadable).is_empty());
        }
        let newer = Ladder::from_row(1, json!({"warn_at_percent": 80, "page": {"at_percent": 99}}));
        assert_eq!(newer.warn_at_percent, Some(80));
    }
}
