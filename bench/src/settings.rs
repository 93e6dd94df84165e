//! What a run is told from outside.

use std::path::PathBuf;

use crate::case::Case;

/// Where things are, as the scripts found or built them.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Envoy.
    pub envoy: PathBuf,
    /// Envoy's configuration as shipped, with its placeholders.
    pub egress: PathBuf,
    /// Purser's filter.
    pub purser_wasm: PathBuf,
    /// The filters to measure against.
    pub floor_wasm: PathBuf,
    /// The folder of the programs, this one among them.
    pub programs: PathBuf,
    /// A folder for configurations, logs and results.
    pub output: PathBuf,
    /// A database that nobody else uses.
    pub database_url: String,
}

impl Paths {
    /// Reads the environment.
    ///
    /// # Errors
    /// Names the first variable that isn't set.
    pub fn from_env() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("no path of this program: {error}"))?;
        Ok(Self {
            envoy: text("ENVOY")?.into(),
            egress: text("BENCH_EGRESS")?.into(),
            purser_wasm: text("PURSER_WASM")?.into(),
            floor_wasm: text("BENCH_FLOOR_WASM")?.into(),
            programs: program.parent().map(PathBuf::from).unwrap_or_default(),
            output: text("BENCH_OUTPUT")?.into(),
            database_url: text("BENCH_DATABASE_URL")?,
        })
    }
}

/// A variable that the scripts set.
///
/// # Errors
/// When it isn't set.
pub fn text(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => Err(format!("{name} is not set; the make targets `bench`, `bench-burst` and `bench-stream` do")),
    }
}

/// A whole number, with a default and the least that makes sense.
///
/// # Errors
/// When the variable is set to something else.
pub fn number(name: &str, default: u64, least: u64) -> Result<u64, String> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) if text.is_empty() => Ok(default),
        Ok(text) => match text.parse::<u64>() {
            Ok(value) if value >= least => Ok(value),
            _ => Err(format!("{name}: expected a whole number from {least}, got {text:?}")),
        },
    }
}

/// The cases to measure, `CASES=a,c,d`; each once, in the order of their letters.
///
/// # Errors
/// When a letter is unknown, or one of `needed` is missing.
pub fn cases(default: &str, needed: &[Case]) -> Result<Vec<Case>, String> {
    let text = std::env::var("CASES").ok().filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| default.to_owned());
    let mut cases = Vec::new();
    for letter in text.chars().filter(|letter| *letter != ',') {
        let case = Case::of(letter);
        cases.push(case.ok_or_else(|| format!("CASES: expected letters from a to e, got {text:?}"))?);
    }
    cases.sort_unstable();
    cases.dedup();
    match needed.iter().find(|case| !cases.contains(case)) {
        Some(missing) => Err(format!("CASES: {} is needed, got {text:?}", missing.letter())),
        None => Ok(cases),
    }
}
