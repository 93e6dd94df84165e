//! Counts of what was added to the ledger: exactly that, since they are taken after the commit.

use super::METRICS;
use crate::pricing::CLASSES;
use crate::pricing::cost::UNTOLD_USAGE;
use crate::tracker::model::NewEntry;

/// What was priced without a known price is counted under this when nothing in particular was unknown but
/// the model itself.
const MODEL: &str = "model";

/// Counts entries that were committed.
pub fn charged(entries: &[NewEntry]) {
    for entry in entries {
        let facts = &entry.facts;
        let labels = [
            ("cause", entry.cause.to_owned()),
            ("quality", facts.usage_quality.to_owned()),
            ("admission", facts.admission.to_owned()),
        ];
        METRICS.entries.get_or_create(&labels).inc();
        let org = [("org", METRICS.org(&entry.key.0))];
        let amount = entry.cost_nanousd.unsigned_abs();
        let (charged, credited) = if entry.cost_nanousd < 0 { (0, amount) } else { (amount, 0) };
        METRICS.charged_nanousd.get_or_create(&org).inc_by(charged);
        METRICS.credited_nanousd.get_or_create(&org).inc_by(credited);
        flagged(entry);
    }
}

fn flagged(entry: &NewEntry) {
    let Some(charge) = entry.charge.as_ref().filter(|charge| !charge.price_flag.is_empty()) else { return };
    let (provider, model) = (&entry.subject.provider, &entry.subject.model);
    let model = METRICS.bounded(&METRICS.models, "model", &format!("{provider} {model}"));
    // Together with the model, so that their number is bounded with it.
    let (provider, model) = model.split_once(' ').unwrap_or(("other", "other"));
    let unknown = charge.unpriced.first().map_or(MODEL, |name| known_name(name));
    let labels = [
        ("provider", provider.to_owned()),
        ("model", model.to_owned()),
        ("flag", charge.price_flag.to_owned()),
        ("cause", unknown.to_owned()),
    ];
    METRICS.flagged.get_or_create(&labels).inc();
}

/// Classes, the tier, hours of a discount and untold usage by their names; units are named by answers,
/// and have one name together.
fn known_name(name: &str) -> &str {
    let is_ours = ["service_tier", "off_peak", UNTOLD_USAGE].contains(&name);
    if is_ours || CLASSES.contains(&name) { name } else { "unit" }
}
