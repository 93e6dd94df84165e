//! Whether a filter of ours meters a route: filters may be off until a route switches them on. Pure.

use serde_json::Value;

use super::envoy::{text, type_name};

/// The name that the filter's configuration, its module or the filter itself has somewhere.
const FILTER: &str = "purser";

/// Whether calls of a route are metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metering {
    /// They are.
    On,
    /// No filter of ours is before the route.
    None,
    /// A filter that is on elsewhere is switched off here, and no other on.
    SwitchedOff,
    /// All filters are off until somebody switches one on, which nobody does here.
    NotSwitchedOn,
}

/// Whether one of our filters is on. `levels` are what may have a `typed_per_filter_config`, the most
/// specific first; the first that speaks of a filter decides, and where none does, the filter's own
/// `disabled`.
pub(super) fn metering(filters: &[&Value], levels: &[&Value]) -> Metering {
    let mut result = Metering::None;
    for filter in filters {
        let name = text(&filter["name"]);
        let here = levels.iter().map(|level| &level["typed_per_filter_config"][name]);
        let switch = here.filter(|config| config.is_object()).map(|config| config["disabled"] == true).next();
        let is_off_anyway = filter["disabled"] == true;
        match switch {
            Some(false) => return Metering::On,
            None if !is_off_anyway => return Metering::On,
            Some(true) if !is_off_anyway => result = Metering::SwitchedOff,
            _ if result == Metering::None => result = Metering::NotSwitchedOn,
            _ => {}
        }
    }
    result
}

/// Whether an HTTP filter is ours: a wasm filter that names it somewhere beside its own settings.
pub(super) fn is_purser(filter: &Value) -> bool {
    let config = &filter["typed_config"]["config"];
    let names = [
        &filter["name"],
        &config["name"],
        &config["root_id"],
        &config["vm_config"]["vm_id"],
        &config["vm_config"]["code"]["local"]["filename"],
        &config["vm_config"]["code"]["remote"]["http_uri"]["uri"],
    ];
    let wasm = type_name(&filter["typed_config"]) == "Wasm" || filter["config_discovery"].is_object();
    wasm && names.into_iter().any(|name| text(name).contains(FILTER))
}
