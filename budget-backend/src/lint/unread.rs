//! What of an Envoy's configuration decides where calls go and can't be followed in a dump: said, so that a
//! lint that finds nothing isn't taken for more than it is. Pure.

use serde::Serialize;
use serde_json::Value;

use super::domains::reaches;
use super::envoy::{Dump, chains, each, text, type_name};
use super::switches::{Metering, is_purser, metering};

/// What couldn't be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The listener.
    pub listener: String,
    /// The filter chain, by name or number; empty where it is the listener itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chain: String,
    /// A sentence for people.
    pub message: String,
}

/// Fields of a route's action that leave the cluster open until a request comes.
const OPEN_ACTIONS: [(&str, &str); 3] = [
    ("cluster_header", "leads to whatever cluster a request's header names"),
    ("cluster_specifier_plugin", "leads to whatever cluster a plugin names"),
    ("inline_cluster_specifier_plugin", "leads to whatever cluster a plugin names"),
];

/// What can't be checked of a dump.
///
/// # Errors
/// What the document is not.
pub fn unread(dump: &Value) -> Result<Vec<Unread>, String> {
    let dump = Dump::read(dump)?;
    let mut found = Vec::new();
    for listener in &dump.listeners {
        let name = text(&listener["name"]);
        if listener["filter_chain_matcher"].is_object() {
            found.push(Unread {
                listener: name.to_owned(),
                chain: String::new(),
                message: format!("listener {name}: a matcher chooses the filter chain; not checked by whom"),
            });
        }
        for (chain, filters) in chains(listener) {
            let managers = each(&filters["filters"]).map(|filter| &filter["typed_config"]);
            let managers = managers.filter(|config| type_name(config) == "HttpConnectionManager");
            for said in managers.flat_map(|manager| of_manager(&dump, manager)) {
                let message = format!("listener {name}, chain {chain}: {said}; not checked");
                found.push(Unread { listener: name.to_owned(), chain: chain.clone(), message });
            }
        }
    }
    Ok(found)
}

fn of_manager<'a>(dump: &Dump<'a>, manager: &'a Value) -> Vec<String> {
    if manager["scoped_routes"].is_object() {
        return vec!["scoped routes choose the route table".to_owned()];
    }
    let table = match &manager["rds"]["route_config_name"] {
        Value::String(name) => match dump.routes.get(name.as_str()) {
            Some(table) => table,
            None => return vec![format!("the dump lacks the route table {name}")],
        },
        _ => &manager["route_config"],
    };
    let filters: Vec<&Value> = each(&manager["http_filters"]).filter(|filter| is_purser(filter)).collect();
    let mut said = Vec::new();
    if table["vhds"].is_object() {
        said.push("virtual hosts are fetched when they are asked for (VHDS)".to_owned());
    }
    for host in each(&table["virtual_hosts"]) {
        let host_name = text(&host["name"]);
        if host["matcher"].is_object() {
            said.push(format!("virtual host {host_name} has a matcher in place of routes"));
        }
        let reaches = reaches(table, host, &dump.hosts);
        for (number, route) in each(&host["routes"]).enumerate() {
            for (cluster, entry, llm) in dump.doubtful(&reaches, &route["route"]) {
                if metering(&filters, &[entry, route, host, table]) != Metering::On {
                    said.push(format!(
                        "route {host_name}[{number}] takes calls for {llm} to cluster {cluster}, which doesn't tell whose it is, and is not metered"
                    ));
                }
            }
            let open = OPEN_ACTIONS.iter().find(|(field, _)| !route["route"][*field].is_null());
            // Wherever it leads, it is metered.
            let Some((_, what)) = open.filter(|_| metering(&filters, &[route, host, table]) != Metering::On)
            else {
                continue;
            };
            said.push(format!("route {host_name}[{number}] {what} and is not metered"));
        }
    }
    said
}
