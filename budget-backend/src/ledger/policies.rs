//! What a lane remembers of budgets, rules and overrides between batches. Pure.
//!
//! Every edit raises its org's version, and a batch reads the versions under the locks of its
//! counters: what is remembered here is used only while it is in force.

use std::collections::{BTreeSet, HashMap};

use crate::budget::{Budget, Scope};
use crate::rules::{Override, Rule};

/// Most scopes remembered; beyond them everything is forgotten and read again as needed.
const MAX_SCOPES: usize = 100_000;

/// What is set at one scope.
#[derive(Debug, Clone, Default)]
pub struct ScopePolicy {
    /// Its active budgets.
    pub budgets: Vec<Budget>,
    /// Its rule.
    pub rule: Option<Rule>,
    /// Its overrides that have not ended.
    pub overrides: Vec<Override>,
}

/// What is set at the scopes read so far, by org.
#[derive(Debug, Default)]
pub struct Policies {
    orgs: HashMap<String, OrgPolicies>,
    scopes: usize,
}

#[derive(Debug, Default)]
struct OrgPolicies {
    version: i64,
    scopes: HashMap<Scope, ScopePolicy>,
}

impl Policies {
    /// What is set at a scope; `None` when that was not read.
    #[must_use]
    pub fn get(&self, scope: &Scope) -> Option<&ScopePolicy> {
        self.orgs.get(&scope.org)?.scopes.get(scope)
    }

    /// Which of these scopes were not read.
    #[must_use]
    pub fn missing(&self, scopes: &BTreeSet<Scope>) -> BTreeSet<Scope> {
        scopes.iter().filter(|scope| self.get(scope).is_none()).cloned().collect()
    }

    /// Remembers what is set at a scope. What is known of its org as of another version is forgotten.
    pub fn insert(&mut self, version: i64, scope: Scope, policy: ScopePolicy) {
        if self.scopes >= MAX_SCOPES {
            self.orgs.clear();
            self.scopes = 0;
        }
        if self.orgs.get(&scope.org).is_some_and(|org| org.version != version) {
            self.forget(&scope.org);
        }
        let org = self
            .orgs
            .entry(scope.org.clone())
            .or_insert_with(|| OrgPolicies { version, ..OrgPolicies::default() });
        if org.scopes.insert(scope, policy).is_none() {
            self.scopes = self.scopes.saturating_add(1);
        }
    }

    /// Forgets an org.
    pub fn forget(&mut self, org: &str) {
        let gone = self.orgs.remove(org).map_or(0, |org| org.scopes.len());
        self.scopes = self.scopes.saturating_sub(gone);
    }

    /// Forgets every org whose version is another by now; gives back whether there was one.
    pub fn forget_stale(&mut self, versions: &[(String, i64)]) -> bool {
        let stale: Vec<&String> = versions
            .iter()
            .filter(|(org, version)| self.orgs.get(org).is_none_or(|known| known.version != *version))
            .map(|(org, _)| org)
            .collect();
        for org in &stale {
            self.forget(org);
        }
        !stale.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(org: &str, team: &str) -> Scope {
        Scope::new(org, team, "")
    }

    #[test]
    fn another_version_forgets_the_org_and_no_other() {
        let mut policies = Policies::default();
        for (version, org, team) in [(1, "a", ""), (1, "a", "x"), (5, "b", "")] {
            policies.insert(version, scope(org, team), ScopePolicy::default());
        }
        let wanted: BTreeSet<Scope> = [scope("a", ""), scope("a", "x"), scope("b", "")].into();
        assert!(policies.missing(&wanted).is_empty());
        policies.insert(2, scope("a", "y"), ScopePolicy::default());
        assert_eq!(policies.missing(&wanted), [scope("a", ""), scope("a", "x")].into());
        assert!(!policies.forget_stale(&[("a".into(), 2), ("b".into(), 5)]));
        assert!(policies.forget_stale(&[("a".into(), 2), ("b".into(), 6)]));
        assert!(policies.get(&scope("b", "")).is_none() && policies.get(&scope("a", "y")).is_some());
    }

    #[test]
    fn an_org_never_read_is_stale() {
        assert!(Policies::default().forget_stale(&[("a".into(), 0)]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut policies = Policies::default();
        for number in 0..=MAX_SCOPES {
            policies.insert(1, scope("a", &number.to_string()), ScopePolicy::default());
        }
        assert_eq!(policies.scopes, 1);
        policies.forget("a");
        assert_eq!(policies.scopes, 0);
    }
}
