//! `budget-backend lint`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use budget_backend::admin::{self, prices};
use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::lint::envoy::{Bypass, bypasses};
use budget_backend::lint::unread::{Unread, unread};
use budget_backend::lint::{BudgetFinding, budgets};
use budget_backend::prices::names;
use clap::Args;

use super::{EXIT_DIFFERS, complain, say, say_json, text};

/// Largest dump that is read, bytes.
const MAX_DUMP_BYTES: u64 = 256 * 1024 * 1024;

#[derive(Args)]
pub struct LintArguments {
    /// The org whose budgets are looked at.
    #[arg(long, required_unless_present = "envoy_config_dump")]
    org: Option<String>,
    /// How far back is looked, days.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i32).range(1..=400))]
    days: i32,
    /// What an Envoy's admin port answers to GET /config_dump.
    #[arg(long, value_name = "FILE")]
    envoy_config_dump: Option<PathBuf>,
    /// Print one JSON document instead of lines for people.
    #[arg(long)]
    json: bool,
}

impl LintArguments {
    /// Whether the database has to be asked.
    pub const fn asks_the_database(&self) -> bool {
        self.org.is_some()
    }
}

/// `budget-backend lint`; without an org no database is needed.
pub fn lint(config: Option<&DatabaseConfig>, arguments: &LintArguments) -> ExitCode {
    if let Some(Err(problem)) = arguments.org.as_deref().map(|org| names::check("--org", org)) {
        return complain(problem, crate::EXIT_USAGE);
    }
    let (bypasses, unread) = match arguments.envoy_config_dump.as_deref().map(dump).transpose() {
        Ok(found) => found.unwrap_or_default(),
        Err(problem) => return complain(problem, crate::EXIT_USAGE),
    };
    let budgets = match (config, &arguments.org) {
        (Some(config), Some(org)) => find(config, org, arguments.days),
        _ => Ok(Vec::new()),
    };
    let told = budgets
        .and_then(|budgets| tell(&budgets, &bypasses, &unread, arguments.json).map(|()| budgets.is_empty()));
    match told {
        Ok(true) if bypasses.is_empty() && unread.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_DIFFERS),
        Err(problem) => complain(problem, 1),
    }
}

fn dump(path: &Path) -> Result<(Vec<Bypass>, Vec<Unread>), String> {
    let wrong = |problem: String| format!("--envoy-config-dump {}: {problem}", path.display());
    // What a pipe has can only be told by reading it.
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut read = Vec::new();
    let limited = file.take(MAX_DUMP_BYTES.saturating_add(1)).read_to_end(&mut read);
    limited.map_err(|error| wrong(error.to_string()))?;
    if u64::try_from(read.len()).is_ok_and(|bytes| bytes > MAX_DUMP_BYTES) {
        return Err(wrong(format!("expected at most {MAX_DUMP_BYTES} bytes")));
    }
    let document = serde_json::from_slice(&read).map_err(|error| wrong(format!("expected JSON: {error}")))?;
    Ok((bypasses(&document).map_err(wrong)?, unread(&document).map_err(wrong)?))
}

fn find(config: &DatabaseConfig, org: &str, days: i32) -> Result<Vec<BudgetFinding>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    runtime.block_on(async {
        let pool = db::connect(config).await.map_err(text)?;
        let (used, payers, now_unix_s) = admin::lint::used(&pool, org, days).await.map_err(text)?;
        let prices = prices::price_book(&pool).await.map_err(text)?;
        pool.close().await;
        Ok(budgets(&used, &payers, &prices, now_unix_s, days))
    })
}

fn tell(budgets: &[BudgetFinding], bypasses: &[Bypass], unread: &[Unread], json: bool) -> Result<(), String> {
    if json {
        let found = serde_json::json!({ "budgets": budgets, "bypasses": bypasses, "unchecked": unread });
        return say_json(&found);
    }
    for finding in budgets {
        say(format!("budget {}: {}", finding.budget_id, finding.message))?;
    }
    for bypass in bypasses {
        say(&bypass.message)?;
    }
    for unread in unread {
        say(&unread.message)?;
    }
    if budgets.is_empty() && bypasses.is_empty() && unread.is_empty() { say("nothing found") } else { Ok(()) }
}
