//! Reads an Envoy's `/config_dump` for ways to LLM hosts that lack the filter. Pure.
//!
//! A way is a route of a filter chain, or a chain that passes connections on as they are. It leads to an
//! LLM when its cluster's endpoint or SNI is a known LLM host, when the route writes such a host, when its
//! virtual host's domains stand for one and its cluster goes wherever they say, or when the chain passes on
//! every SNI that no other chain picks and that it doesn't refuse. Listeners are read
//! as they are in force, not as the bootstrap wrote them, so that each counts once. What a control plane
//! has not sent yet isn't in a dump; what of it can't be followed is said by [`super::unread`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::domains::{Reach, reaches};
use super::names::{picked, refuses};
use super::switches::{Metering, is_purser, metering};
use crate::pattern::Patterns;

/// Hosts of LLM APIs, as patterns.
pub const LLM_HOSTS: [&str; 40] = [
    "api.openai.com",
    "*.api.openai.com",
    "*.openai.azure.com",
    "*.openai.azure.us",
    "*.cognitiveservices.azure.com",
    "*.cognitiveservices.azure.us",
    "*.services.ai.azure.com",
    "*.models.ai.azure.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "aiplatform.googleapis.com",
    "*-aiplatform.googleapis.com",
    "aiplatform.*.rep.googleapis.com",
    "bedrock-runtime.*.amazonaws.com",
    "bedrock-runtime-fips.*.amazonaws.com",
    "bedrock-runtime.*.api.aws",
    "bedrock-runtime-fips.*.api.aws",
    "bedrock-mantle.*.api.aws",
    "*.bedrock-runtime.*.vpce.amazonaws.com",
    "*.bedrock-runtime-fips.*.vpce.amazonaws.com",
    "api.cohere.com",
    "api.cohere.ai",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.deepseek.com",
    "openrouter.ai",
    "api.groq.com",
    "api.together.xyz",
    "api.fireworks.ai",
    "api.x.ai",
    "api.perplexity.ai",
    "api.cerebras.ai",
    "router.huggingface.co",
    "api-inference.huggingface.co",
    "api.voyageai.com",
    "api.jina.ai",
    "models.github.ai",
    "api.deepinfra.com",
    "integrate.api.nvidia.com",
    "api.replicate.com",
];

/// A way to LLM hosts without the filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// The listener.
    pub listener: String,
    /// The filter chain, by name or number.
    pub chain: String,
    /// The route, as virtual host and number; empty where connections are passed on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// Where it leads.
    pub cluster: String,
    /// The LLM hosts it reaches.
    pub hosts: Vec<String>,
    /// A sentence for people.
    pub message: String,
}

/// Ways to LLM hosts that lack the filter.
///
/// # Errors
/// What the document is not.
pub fn bypasses(dump: &Value) -> Result<Vec<Bypass>, String> {
    let dump = Dump::read(dump)?;
    Ok(dump.listeners.iter().flat_map(|listener| dump.listener(listener)).collect())
}

pub(super) struct Dump<'a> {
    /// [`LLM_HOSTS`].
    pub(super) hosts: Patterns,
    pub(super) listeners: Vec<&'a Value>,
    /// The LLM hosts that a cluster leads to, by its name.
    llm_clusters: BTreeMap<&'a str, Vec<String>>,
    /// Clusters that lead to whatever host the connection or request names.
    open_clusters: Vec<&'a str>,
    /// Clusters all of whose endpoints have a name, which tells where they lead.
    named_clusters: Vec<&'a str>,
    pub(super) routes: BTreeMap<&'a str, &'a Value>,
}

/// Elements of an array, none of anything else.
pub(super) fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A listener's filter chains, by name or number, the default one last.
pub(super) fn chains(listener: &Value) -> Vec<(String, &Value)> {
    let chains = each(&listener["filter_chains"]).enumerate().map(|(number, chain)| {
        let name = text(&chain["name"]);
        (if name.is_empty() { number.to_string() } else { name.to_owned() }, chain)
    });
    let default = &listener["default_filter_chain"];
    let default = default.is_object().then(|| ("default".to_owned(), default));
    chains.chain(default).collect()
}

impl<'a> Dump<'a> {
    pub(super) fn read(dump: &'a Value) -> Result<Self, String> {
        let configs = dump["configs"].as_array();
        let configs = configs.ok_or("expected the JSON of Envoy's /config_dump: an object with configs")?;
        let dump = Self::of(configs);
        if dump.listeners.is_empty() { Err("the dump has no listener".to_owned()) } else { Ok(dump) }
    }

    fn of(configs: &'a [Value]) -> Self {
        let hosts = Patterns::new(LLM_HOSTS.map(str::to_owned).to_vec());
        let all = |lists: &[(&str, &[&str])]| -> Vec<&'a Value> {
            let mut found = Vec::new();
            for config in configs {
                for (list, path) in lists {
                    let inner = each(&config[*list]);
                    found.extend(inner.map(|entry| path.iter().fold(entry, |value, key| &value[*key])));
                }
            }
            found.retain(|value| value.is_object());
            found
        };
        let clusters = all(&[
            ("static_clusters", &["cluster"]),
            ("dynamic_active_clusters", &["cluster"]),
            ("dynamic_warming_clusters", &["cluster"]),
        ]);
        let routes =
            all(&[("static_route_configs", &["route_config"]), ("dynamic_route_configs", &["route_config"])]);
        let llm = clusters.iter().map(|cluster| (text(&cluster["name"]), llm_hosts(cluster, &hosts)));
        let open = clusters.iter().filter(|cluster| is_open(cluster));
        let named = clusters.iter().filter(|cluster| is_named(cluster));
        Self {
            llm_clusters: llm.filter(|(_, hosts)| !hosts.is_empty()).collect(),
            open_clusters: open.map(|cluster| text(&cluster["name"])).collect(),
            named_clusters: named.map(|cluster| text(&cluster["name"])).collect(),
            listeners: all(&[
                ("static_listeners", &["listener"]),
                ("dynamic_listeners", &["active_state", "listener"]),
            ]),
            routes: routes.into_iter().map(|routes| (text(&routes["name"]), routes)).collect(),
            hosts,
        }
    }

    fn listener(&self, listener: &'a Value) -> Vec<Bypass> {
        let chains = chains(listener);
        let mut found = Vec::new();
        for (number, (name, chain)) in chains.iter().enumerate() {
            let at = Place { listener: text(&listener["name"]), chain: name };
            for filter in each(&chain["filters"]) {
                let config = &filter["typed_config"];
                match type_name(config) {
                    "HttpConnectionManager" => found.extend(self.http(&at, config)),
                    "TcpProxy" => found.extend(self.passed_on(&at, config, &chains, number)),
                    _ => {}
                }
            }
        }
        found
    }

    /// Routes of a connection manager.
    fn http(&self, at: &Place<'_>, manager: &'a Value) -> Vec<Bypass> {
        let filters: Vec<&Value> =
            each(&manager["http_filters"]).filter(|filter| is_purser(filter)).collect();
        let routes = match &manager["rds"]["route_config_name"] {
            Value::String(name) => self.routes.get(name.as_str()).copied(),
            _ => Some(&manager["route_config"]),
        };
        let mut found = Vec::new();
        let hosts =
            routes.into_iter().flat_map(|table| each(&table["virtual_hosts"]).map(move |h| (table, h)));
        for (table, host) in hosts {
            let reaches = reaches(table, host, &self.hosts);
            for (number, route) in each(&host["routes"]).enumerate() {
                let route_name = format!("{}[{number}]", text(&host["name"]));
                for target in self.targets(&reaches, &route["route"]) {
                    // The most specific says whether a filter is on.
                    let because = match metering(&filters, &[target.entry, route, host, table]) {
                        Metering::On => continue,
                        Metering::None => "has no filter before it",
                        Metering::SwitchedOff => "switches the filter off and none on instead",
                        Metering::NotSwitchedOn => "switches no filter on",
                    };
                    let hosts = target.hosts.join(", ");
                    found.push(Bypass {
                        message: format!("{}: route {route_name} to {hosts} {because}", at.name()),
                        ..at.bypass(route_name.clone(), target.cluster.to_owned(), target.hosts)
                    });
                }
            }
        }
        found
    }

    /// Where a route leads, as far as that is an LLM host.
    fn targets(&self, reaches: &[Reach], action: &'a Value) -> Vec<Target<'a>> {
        let written = [&action["host_rewrite_literal"], &action["host_rewrite"]];
        let written: Vec<String> =
            written.into_iter().map(text).filter(|name| self.is_llm(name)).map(str::to_owned).collect();
        clusters(action)
            .filter_map(|(cluster, entry)| {
                let mut hosts = written.clone();
                hosts.extend(self.llm_clusters.get(cluster).into_iter().flatten().cloned());
                let is_open = self.open_clusters.contains(&cluster);
                let is_blind = self.leads_by_name(action, cluster) == Some(false);
                for reach in reaches {
                    match reach {
                        Reach::One(host) if is_open || is_blind => hosts.push(host.clone()),
                        Reach::Some(some) if is_open => hosts.extend_from_slice(some),
                        Reach::Any if is_open => hosts.push("every LLM host".to_owned()),
                        _ => {}
                    }
                }
                hosts.sort();
                hosts.dedup();
                (!hosts.is_empty()).then_some(Target { cluster, hosts, entry })
            })
            .collect()
    }

    /// Whether a cluster that isn't known for an LLM's leads to hosts with names, or to addresses that tell
    /// nothing; neither where something else says where calls go.
    fn leads_by_name(&self, action: &Value, cluster: &str) -> Option<bool> {
        let is_written = [&action["host_rewrite_literal"], &action["host_rewrite"]];
        let is_told = is_written.into_iter().any(|name| !text(name).is_empty())
            || self.llm_clusters.contains_key(cluster)
            || self.open_clusters.contains(&cluster);
        (!is_told).then(|| self.named_clusters.contains(&cluster))
    }

    /// Clusters of a route whose domains stand for LLM hosts, or may, and that may lead there or elsewhere:
    /// each with its entry among weighted ones, and with such a host.
    pub(super) fn doubtful<'r>(
        &'r self,
        reaches: &'r [Reach],
        action: &'a Value,
    ) -> impl Iterator<Item = (&'a str, &'a Value, &'r str)> {
        clusters(action).filter_map(|(cluster, entry)| {
            let by_name = self.leads_by_name(action, cluster)?;
            let host = reaches.iter().find_map(|reach| match reach {
                Reach::One(host) if by_name => Some(host),
                Reach::Some(hosts) if !by_name => hosts.first(),
                _ => None,
            })?;
            Some((cluster, entry, host.as_str()))
        })
    }

    /// Connections that a chain passes on as they are.
    fn passed_on(
        &self,
        at: &Place<'_>,
        proxy: &Value,
        chains: &[(String, &Value)],
        number: usize,
    ) -> Vec<Bypass> {
        let weighted = each(&proxy["weighted_clusters"]["clusters"]).map(|cluster| text(&cluster["name"]));
        let clusters =
            std::iter::once(text(&proxy["cluster"])).chain(weighted).filter(|name| !name.is_empty());
        let mut found = Vec::new();
        for cluster in clusters {
            let mut hosts = self.llm_clusters.get(cluster).cloned().unwrap_or_default();
            if self.open_clusters.contains(&cluster) {
                // Of a pattern, a name that it matches.
                let names = LLM_HOSTS.iter().map(|host| (host, host.replace('*', "x")));
                let here = chains.get(number);
                let passes = |name: &str| {
                    picked(chains, name) == Some(number)
                        && here.is_some_and(|(_, chain)| !refuses(chain, name))
                };
                let reach = names.filter(|(_, name)| passes(name));
                hosts.extend(reach.map(|(host, _)| (*host).to_owned()));
            }
            if !hosts.is_empty() {
                let message = format!("{}: connections to {} pass unread", at.name(), hosts.join(", "));
                found.push(Bypass { message, ..at.bypass(String::new(), cluster.to_owned(), hosts) });
            }
        }
        found
    }

    fn is_llm(&self, host: &str) -> bool {
        self.hosts.any_match(&host.to_ascii_lowercase())
    }
}

/// The clusters of a route's action, with their entries among weighted ones.
fn clusters(action: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let weighted = each(&action["weighted_clusters"]["clusters"]);
    std::iter::once((text(&action["cluster"]), &Value::Null))
        .chain(weighted.map(|entry| (text(&entry["name"]), entry)))
        .filter(|(name, _)| !name.is_empty())
}

/// Where a route leads.
struct Target<'a> {
    cluster: &'a str,
    /// The LLM hosts it reaches.
    hosts: Vec<String>,
    /// Its entry among weighted clusters, which may have switches of its own.
    entry: &'a Value,
}

struct Place<'a> {
    listener: &'a str,
    chain: &'a str,
}

impl Place<'_> {
    fn name(&self) -> String {
        format!("listener {}, chain {}", self.listener, self.chain)
    }

    fn bypass(&self, route: String, cluster: String, hosts: Vec<String>) -> Bypass {
        Bypass {
            listener: self.listener.to_owned(),
            chain: self.chain.to_owned(),
            route,
            cluster,
            hosts,
            message: String::new(),
        }
    }
}

/// The last part of a typed configuration's type.
pub(super) fn type_name(config: &Value) -> &str {
    text(&config["@type"]).rsplit('.').next().unwrap_or_default()
}

/// The known LLM hosts that a cluster's endpoints and TLS settings name.
fn llm_hosts(cluster: &Value, hosts: &Patterns) -> Vec<String> {
    let endpoints =
        each(&cluster["load_assignment"]["endpoints"]).flat_map(|locality| each(&locality["lb_endpoints"]));
    let addresses = endpoints.flat_map(|endpoint| {
        let endpoint = &endpoint["endpoint"];
        [&endpoint["address"]["socket_address"]["address"], &endpoint["hostname"]]
    });
    let sockets = std::iter::once(&cluster["transport_socket"])
        .chain(each(&cluster["transport_socket_matches"]).map(|matched| &matched["transport_socket"]));
    let snis = sockets.map(|socket| &socket["typed_config"]["sni"]);
    let mut found: Vec<String> = addresses
        .chain(snis)
        .map(|name| text(name).to_ascii_lowercase())
        .filter(|name| hosts.any_match(name))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether all of a cluster's endpoints have a name rather than an address.
fn is_named(cluster: &Value) -> bool {
    let mut addresses = each(&cluster["load_assignment"]["endpoints"])
        .flat_map(|locality| each(&locality["lb_endpoints"]))
        .map(|endpoint| text(&endpoint["endpoint"]["address"]["socket_address"]["address"]))
        .peekable();
    let is_name = |address: &str| !address.is_empty() && address.parse::<IpAddr>().is_err();
    addresses.peek().is_some() && addresses.all(is_name)
}

/// Whether a cluster leads to whatever host a connection or request names.
fn is_open(cluster: &Value) -> bool {
    let kind = &cluster["cluster_type"];
    type_name(&kind["typed_config"]) == "ClusterConfig"
        && text(&kind["name"]).contains("dynamic_forward_proxy")
        || cluster["type"] == "ORIGINAL_DST"
}

#[cfg(test)]
#[path = "envoy_tests.rs"]
mod tests;
