//! The rules of the repository that no lint knows.

use std::path::{Path, PathBuf};

use system_tests::harness::repository;

/// A longer file is two files.
const MAX_LINES: usize = 410;

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["protocol", "filter", "budget-backend", "tests", "fuzz", "bench"] {
        collect(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 60, "found only {} Rust files", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap().display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Files below `folder`, tests apart, in which one of `marks` stands.
fn holding(folder: &str, marks: &[&str]) -> Vec<String> {
    let mut files: Vec<String> = rust_files()
        .iter()
        .filter(|path| relative(path).starts_with(folder))
        .filter(|path| marks.iter().any(|mark| read(path).contains(mark)))
        .map(|path| relative(path))
        .collect();
    files.sort();
    files
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<(String, usize)> = rust_files()
        .iter()
        .map(|path| (relative(path), read(path).lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "files of more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn hostcalls_live_in_one_file() {
    assert_eq!(holding("filter/src", &["unsafe {", "unsafe extern"]), ["filter/src/hostcalls.rs"]);
}

#[test]
fn sql_lives_in_the_ledger_the_tracker_and_what_operators_ask_for() {
    let marks = ["sqlx::query", ".query(", ".query_one(", ".execute("];
    let expected = [
        "budget-backend/src/aggregate.rs",
        // What alerts go by, off the hot path; and their outbox.
        "budget-backend/src/alerts/deliver.rs",
        "budget-backend/src/alerts/evaluate.rs",
        "budget-backend/src/alerts/store.rs",
        "budget-backend/src/ledger/look.rs",
        "budget-backend/src/ledger/policy_rows.rs",
        "budget-backend/src/ledger/store.rs",
        // Partitions and retention.
        "budget-backend/src/maintain.rs",
        "budget-backend/src/reprice.rs",
        "budget-backend/src/tracker/denial_store.rs",
        "budget-backend/src/tracker/read.rs",
        "budget-backend/src/tracker/session.rs",
        "budget-backend/src/tracker/store.rs",
        "budget-backend/src/tracker/verdict_store.rs",
        "budget-backend/src/verify/check.rs",
        "budget-backend/src/verify/mod.rs",
        "budget-backend/src/verify/repair.rs",
    ];
    let mut found = holding("budget-backend/src", &marks);
    // It asks an address for its query.
    found.retain(|path| path != "budget-backend/src/telemetry.rs");
    let before = found.len();
    found.retain(|path| !path.starts_with("budget-backend/src/admin"));
    assert!(found.len() < before, "what operators ask for has its SQL elsewhere by now");
    assert_eq!(found, expected);
}

#[test]
fn decisions_know_no_database_and_no_clock() {
    let pure = [
        "budget",
        "rules",
        "pattern",
        "window",
        "histogram",
        "learned",
        "estimate",
        "pricing",
        "pricing/book",
        "pricing/cost",
        "pricing/dimensions",
        "pricing/find",
        "pricing/off_peak",
        "pricing/rates",
        "pricing/terms",
        "ledger/policies",
        "ledger/terms",
        "ledger/decide",
        "ledger/steps",
        "ladder",
        "quote",
        "identity",
        "lint",
        "lint/envoy",
        "lint/maps",
        "lint/names",
        "lint/switches",
        "lint/unread",
        "pricing/line",
        "tracker/fold",
    ];
    for name in pure {
        let text = read(&repository().join(format!("budget-backend/src/{name}.rs")));
        for foreign in ["sqlx", "postgres::", "tokio", "SystemTime", "Instant::now", "Timestamp::now"] {
            assert!(!text.contains(foreign), "{name} is pure, but names {foreign}");
        }
    }
}

#[test]
fn the_filter_and_the_backend_share_the_protocol_only() {
    for (member, others) in [
        ("filter", ["budget-backend", "system-tests"]),
        ("budget-backend", ["purser-filter", "system-tests"]),
        ("protocol", ["purser-filter", "budget-backend"]),
    ] {
        let manifest = read(&repository().join(member).join("Cargo.toml"));
        for other in others {
            let depends = manifest.lines().any(|line| line.starts_with(other));
            assert!(!depends, "{member} depends on {other}");
        }
    }
}
