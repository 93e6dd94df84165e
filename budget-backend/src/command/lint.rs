//! `budget-backend lint`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use budget_backend::admin::{self, prices};
use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::lint::envoy::{Bypass, bypasses};
use budget_backend::lint::{BudgetFinding, budgets};
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
    let bypasses = match arguments.envoy_config_dump.as_deref().map(dump).transpose() {
        Ok(bypasses) => bypasses.unwrap_or_default(),
        Err(problem) => return complain(problem, crate::EXIT_USAGE),
    };
    let budgets = match (config, &arguments.org) {
        (Some(config), Some(org)) => find(config, org, arguments.days),
        _ => Ok(Vec::new()),
    };
    match budgets.and_then(|budgets| tell(&budgets, &bypasses, arguments.json).map(|()| budgets)) {
        Ok(budgets) if budgets.is_empty() && bypasses.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_DIFFERS),
        Err(problem) => complain(problem, 1),
    }
}

fn dump(path: &Path) -> Result<Vec<Bypass>, String> {
    let wrong = |problem: String| format!("--envoy-config-dump {}: {problem}", path.display());
    let bytes = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if bytes > MAX_DUMP_BYTES {
        return Err(wrong(format!("expected at most {MAX_DUMP_BYTES} bytes, got {bytes}")));
    }
    let read = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let document = serde_json::from_slice(&read).map_err(|error| wrong(format!("expected JSON: {error}")))?;
    bypasses(&document).map_err(wrong)
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

fn tell(budgets: &[BudgetFinding], bypasses: &[Bypass], json: bool) -> Result<(), String> {
    if json {
        return say_json(&serde_json::json!({ "budgets": budgets, "bypasses": bypasses }));
    }
    for finding in budgets {
        say(format!("budget {}: {}", finding.budget_id, finding.message))?;
    }
    for bypass in bypasses {
        say(&bypass.message)?;
    }
    if budgets.is_empty() && bypasses.is_empty() { say("nothing found") } else { Ok(()) }
}
