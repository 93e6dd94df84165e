//! Which filter chain a TLS connection's name (SNI) leads to, and whether it is refused there. Pure.

use serde_json::Value;

use super::envoy::{each, text, type_name};

/// The number of the chain that picks a TLS connection by its SNI: the exact name, then the longest
/// suffix, then none; the default chain last.
pub(super) fn picked(chains: &[(String, &Value)], sni: &str) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for (number, (name, chain)) in chains.iter().enumerate() {
        let names: Vec<&str> = each(&chain["filter_chain_match"]["server_names"]).map(text).collect();
        let fit = names.iter().filter_map(|name| match name.strip_prefix('*') {
            Some(suffix) => sni.ends_with(suffix).then(|| suffix.len().saturating_add(2)),
            None => (*name == sni).then_some(usize::MAX),
        });
        let fit = match fit.max() {
            None if names.is_empty() => Some(usize::from(name != "default")),
            fit => fit,
        };
        if let Some(fit) = fit
            && best.is_none_or(|(_, best)| fit > best)
        {
            best = Some((number, fit));
        }
    }
    best.map(|(number, _)| number)
}

/// Whether a chain ends connections to a name: an RBAC filter's rules deny it. What such rules can say
/// beside names is taken for not denying.
pub(super) fn refuses(chain: &Value, sni: &str) -> bool {
    let rules = each(&chain["filters"])
        .map(|filter| &filter["typed_config"])
        .filter(|config| type_name(config) == "RBAC" && config["rules"]["action"] == "DENY");
    let policies =
        rules.filter_map(|config| config["rules"]["policies"].as_object()).flat_map(|all| all.values());
    policies
        .filter(|policy| each(&policy["principals"]).any(|principal| principal["any"] == true))
        .any(|policy| each(&policy["permissions"]).any(|permission| covers(permission, sni)))
}

fn covers(permission: &Value, sni: &str) -> bool {
    let rules = |kind: &str| each(&permission[kind]["rules"]);
    if permission["and_rules"].is_object() {
        return rules("and_rules").all(|rule| covers(rule, sni));
    }
    let name = &permission["requested_server_name"];
    let of = |kind: &str| name[kind].as_str().map(str::to_ascii_lowercase);
    rules("or_rules").any(|rule| covers(rule, sni))
        || of("exact").is_some_and(|exact| exact == sni)
        || of("prefix").is_some_and(|prefix| sni.starts_with(&prefix))
        || of("contains").is_some_and(|part| sni.contains(&part))
        || of("suffix").is_some_and(|suffix| sni.ends_with(&suffix))
}
