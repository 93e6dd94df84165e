//! Importing price files, and saying what became of each price.

use std::collections::BTreeMap;
use std::io::Read;

use budget_backend::admin::prices as list;
use budget_backend::prices::plan::{self, Outcome, Planned, SINCE_EVER_UNIX_S, Source};
use budget_backend::prices::{ceilings, litellm};
use jiff::Timestamp;
use sqlx::PgConnection;

use super::{Failure, ImportArguments, failed, say, say_json, seconds};

/// Largest price file, bytes: twenty times today's.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

pub fn read(arguments: &ImportArguments) -> Result<litellm::File, String> {
    let path = arguments.file.display();
    // Anything else, a pipe for one, may never end or never begin.
    let kind = std::fs::metadata(&arguments.file).map_err(|error| format!("{path}: {error}"))?;
    if !kind.is_file() {
        return Err(format!("{path}: expected a regular file"));
    }
    let file = std::fs::File::open(&arguments.file).map_err(|error| format!("{path}: {error}"))?;
    let mut bytes = Vec::new();
    let limited = file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut bytes);
    limited.map_err(|error| format!("{path}: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(format!("{path}: expected at most {MAX_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|error| format!("{path}: not text: {error}"))?;
    litellm::parse(&text, arguments.allow_unknown).map_err(|error| format!("{path}: {error}"))
}

pub async fn import(
    connection: &mut PgConnection,
    arguments: &ImportArguments,
    file: litellm::File,
) -> Result<(), Failure> {
    let litellm::File { wanted, skipped, ignored, rounded_up } = file;
    let from = |otherwise: i64| arguments.effective_from.map_or(otherwise, Timestamp::as_second);
    let (added, changed) = (from(SINCE_EVER_UNIX_S), from(seconds(None)));
    let planned = list::add(connection, arguments.dry_run, |versions| {
        let (planned, entries) = plan::plan(versions, wanted, Source::Import, added, changed);
        let ceilings = ceilings::raised(versions, &entries, changed.max(seconds(None)));
        ((planned, ceilings), entries)
    });
    let (planned, ceilings) = planned.await.map_err(failed)?;
    if arguments.json {
        let prices: Vec<_> = planned.iter().map(planned_json).collect();
        let skipped: BTreeMap<&str, &str> =
            skipped.iter().map(|skipped| (skipped.key.as_str(), skipped.reason.as_str())).collect();
        let document = serde_json::json!({
            "dry_run": arguments.dry_run, "counts": counts(&planned), "prices": prices, "skipped": skipped, "ceilings": ceilings,
            "ignored_fields": ignored, "rounded_up": rounded_up,
        });
        return say_json(&document).map_err(failed);
    }
    for skipped in &skipped {
        say(format!("skipped {:?}: {}", skipped.key, skipped.reason)).map_err(failed)?;
    }
    for (key, field) in &rounded_up {
        say(format!("rounded up {key:?}: {field} is finer than a nano-USD per million")).map_err(failed)?;
    }
    for (field, entries) in &ignored {
        say(format!("ignored field {field} of {entries} entries: no part of a price")).map_err(failed)?;
    }
    say(format!("{} skipped", skipped.len())).map_err(failed)?;
    for ceiling in &ceilings {
        say(ceiling).map_err(failed)?;
    }
    say_planned(&planned, arguments.dry_run)
}

fn planned_json(planned: &Planned) -> serde_json::Value {
    let (outcome, differences) = outcome(&planned.outcome);
    let figures = match &planned.outcome {
        Outcome::Added(figures) | Outcome::Changed(figures) => figures.as_slice(),
        Outcome::Unchanged | Outcome::Kept(_) => &[],
    };
    serde_json::json!({
        "key": planned.key, "provider": planned.provider, "model": planned.model, "outcome": outcome,
        "differences": differences, "figures": figures, "unpriced": planned.unpriced,
    })
}

fn outcome(outcome: &Outcome) -> (&'static str, Vec<String>) {
    match outcome {
        Outcome::Unchanged => ("unchanged", Vec::new()),
        Outcome::Added(figures) => ("added", figures.iter().map(ToString::to_string).collect()),
        Outcome::Changed(figures) => ("changed", figures.iter().map(ToString::to_string).collect()),
        Outcome::Kept(source) => ("kept", vec![format!("set by {}", source.as_str())]),
    }
}

fn counts(planned: &[Planned]) -> BTreeMap<&'static str, usize> {
    let mut counts: BTreeMap<&str, usize> =
        ["unchanged", "added", "changed", "kept", "partial"].map(|name| (name, 0)).into();
    for planned in planned {
        *counts.entry(outcome(&planned.outcome).0).or_default() += 1;
        *counts.entry("partial").or_default() += usize::from(!planned.unpriced.is_empty());
    }
    counts
}

pub fn say_planned(planned: &[Planned], dry_run: bool) -> Result<(), Failure> {
    for price in planned {
        let (outcome, differences) = outcome(&price.outcome);
        let partial: Vec<&str> = price.unpriced.iter().map(String::as_str).collect();
        if outcome == "unchanged" && partial.is_empty() {
            continue;
        }
        let partial =
            if partial.is_empty() { String::new() } else { format!("  partial: {}", partial.join(", ")) };
        let differences =
            if differences.is_empty() { String::new() } else { format!("  {}", differences.join("; ")) };
        say(format!("{outcome} {} {}{differences}{partial}", price.provider, price.model)).map_err(failed)?;
    }
    let counts: Vec<String> =
        counts(planned).into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let done = if dry_run { "nothing was written: " } else { "" };
    say(format!("{done}{}", counts.join(", "))).map_err(failed)
}
