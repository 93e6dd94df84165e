//! Which LLM hosts the domains of a virtual host may stand for. Pure.

use std::collections::HashSet;

use serde_json::Value;

use super::envoy::{LLM_HOSTS, each, text};
use crate::pattern::Patterns;

/// Longest name that anybody can be called by, bytes.
const MAX_DOMAIN_BYTES: usize = 253;

/// What a domain stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// This one host, of an LLM.
    One(String),
    /// Names with a wildcard that may be those of these LLM hosts.
    Some(Vec<String>),
    /// Whatever is asked for.
    Any,
    /// No LLM host.
    None,
}

/// What the domains of a virtual host stand for, of a route table's. `llm` are [`LLM_HOSTS`]. A host that
/// another of the table's domains picks first isn't reached by a wildcard: an exact name wins, then the
/// longest wildcard at the start, then the longest at the end.
pub(super) fn reaches(table: &Value, host: &Value, llm: &Patterns) -> Vec<Reach> {
    each(&host["domains"]).map(|domain| reach(&name_of(text(domain)), table, llm)).collect()
}

fn reach(domain: &str, table: &Value, llm: &Patterns) -> Reach {
    if domain == "*" {
        return Reach::Any;
    }
    if !domain.starts_with('*') && !domain.ends_with('*') {
        return if llm.any_match(domain) { Reach::One(domain.to_owned()) } else { Reach::None };
    }
    let mut hosts: Vec<&str> = LLM_HOSTS.into_iter().filter(|host| meet(domain, host)).collect();
    if !hosts.is_empty() {
        let here = rank(domain);
        let others = each(&table["virtual_hosts"]).flat_map(|host| each(&host["domains"])).map(text);
        for other in others.map(name_of).filter(|other| rank(other) > here) {
            hosts.retain(|host| !takes_all(&other, host));
        }
    }
    if hosts.is_empty() { Reach::None } else { Reach::Some(hosts.into_iter().map(str::to_owned).collect()) }
}

/// A domain without its port.
fn name_of(domain: &str) -> String {
    domain.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

/// How soon Envoy picks a domain: the kind, then the length.
fn rank(domain: &str) -> (u8, usize) {
    let kind = match domain {
        "*" => 0,
        _ if domain.starts_with('*') => 2,
        _ if domain.ends_with('*') => 1,
        _ => 3,
    };
    (kind, domain.len())
}

/// Whether a domain stands for every name of a host's pattern.
fn takes_all(domain: &str, host: &str) -> bool {
    if let Some(suffix) = domain.strip_prefix('*') {
        return host.len() > suffix.len() && host.ends_with(suffix);
    }
    match domain.strip_suffix('*') {
        Some(prefix) => host.len() > prefix.len() && host.starts_with(prefix),
        None => domain == host,
    }
}

/// Whether there is a name that both patterns match; `*` stands for any characters. Of `web.*` and
/// `*.openai.azure.com` it takes more than that: any name might then be meant, and nobody's is.
fn meet(domain: &str, host: &str) -> bool {
    if let (Some(start), Some(end)) = (domain.strip_suffix('*'), host.strip_prefix('*')) {
        let mut shared = (2..=end.len()).filter_map(|bytes| end.get(..bytes));
        return shared.any(|shared| start.ends_with(shared));
    }
    domain.len() <= MAX_DOMAIN_BYTES && rests_meet(domain.as_bytes(), host.as_bytes(), &mut HashSet::new())
}

/// `tried`: the lengths of rests that were looked at, each once.
fn rests_meet(one: &[u8], other: &[u8], tried: &mut HashSet<(usize, usize)>) -> bool {
    if !tried.insert((one.len(), other.len())) {
        return false;
    }
    match (one.split_first(), other.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => rests_meet(rest, other, tried),
        (None, Some((b'*', rest))) => rests_meet(one, rest, tried),
        (Some((b'*', rest)), Some((_, shorter))) => {
            rests_meet(rest, other, tried) || rests_meet(one, shorter, tried)
        }
        (Some((_, shorter)), Some((b'*', rest))) => {
            rests_meet(one, rest, tried) || rests_meet(shorter, other, tried)
        }
        (Some((byte, rest)), Some((same, other_rest))) if byte == same => rests_meet(rest, other_rest, tried),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the first of a table's domains stands for.
    fn first(domains: &[&str]) -> Reach {
        let hosts: Vec<Value> = domains.iter().map(|domain| json!({"domains": [domain]})).collect();
        let table = json!({"virtual_hosts": hosts});
        reaches(&table, &hosts[0], &Patterns::new(LLM_HOSTS.map(str::to_owned).to_vec())).remove(0)
    }

    fn some(hosts: &[&str]) -> Reach {
        Reach::Some(hosts.iter().map(|host| (*host).to_owned()).collect())
    }

    #[test]
    fn a_wildcard_may_stand_for_the_hosts_that_it_meets() {
        let one = |host: &str| Reach::One(host.to_owned());
        for (domain, expected) in [
            ("*", Reach::Any),
            ("*:443", Reach::Any),
            ("API.openai.com:443", one("api.openai.com")),
            ("acme.openai.azure.com", one("acme.openai.azure.com")),
            ("bedrock-mantle.us-east-1.api.aws", one("bedrock-mantle.us-east-1.api.aws")),
            ("example.com", Reach::None),
            ("*.example.com", Reach::None),
            ("*.openai.com", some(&["api.openai.com", "*.api.openai.com"])),
            ("*-openai.com", Reach::None),
            ("API.groq.*", some(&["api.groq.com"])),
            ("eu.api.*", some(&["*.api.openai.com"])),
            ("acme.openai.*", some(&["*.openai.azure.com", "*.openai.azure.us"])),
            ("web.*", Reach::None),
            ("*.x.ai", some(&["api.x.ai"])),
            (
                "*.eu-west-1.amazonaws.com",
                some(&["bedrock-runtime.*.amazonaws.com", "bedrock-runtime-fips.*.amazonaws.com"]),
            ),
        ] {
            assert_eq!(first(&[domain]), expected, "{domain}");
        }
        for (domain, hosts) in [
            ("api.*", ["api.openai.com", "api.x.ai", "api.deepinfra.com"]),
            ("*.com", ["api.openai.com", "api.anthropic.com", "*.openai.azure.com"]),
        ] {
            let Reach::Some(found) = first(&[domain]) else { panic!("{domain} reaches LLM hosts") };
            assert!(hosts.iter().all(|host| found.iter().any(|found| found == host)), "{domain}: {found:?}");
            assert!(!found.iter().any(|host| host == "openrouter.ai"), "{domain}: {found:?}");
        }
        assert_eq!(first(&[&format!("{}*", "a".repeat(300))]), Reach::None, "longer than any name");
    }

    #[test]
    fn what_another_domain_picks_first_is_not_reached() {
        assert_eq!(first(&["*.openai.com", "api.openai.com", "*.api.openai.com:443", "*.com"]), Reach::None);
        assert_eq!(first(&["*.openai.com", "api.openai.com"]), some(&["*.api.openai.com"]));
        let Reach::Some(hosts) = first(&["*.com", "*.openai.com", "*"]) else {
            panic!("*.com reaches others")
        };
        assert!(!hosts.iter().any(|host| host.ends_with("openai.com")), "{hosts:?}");
        // The wildcard at the start goes first, however short.
        assert_eq!(first(&["api.openai.*", "*.com", "*.us"]), Reach::None);
        assert_eq!(first(&["*.x.ai", "api.*"]), some(&["api.x.ai"]));
    }
}
