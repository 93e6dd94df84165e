//! `budget-backend budgets`: what budgets stand at, a whole set of them, and top-ups.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Backend, Failure, parameter, query};
use super::table::table;
use super::{complain, say, say_json};

/// Largest file read, bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Asks a running backend (--url, or PURSER_URL, or http://127.0.0.1:8088) with the token in PURSER_API_TOKEN, or
/// else in PURSER_ADMIN_TOKEN.
#[derive(Args)]
pub struct BudgetsArguments {
    #[command(flatten)]
    backend: Backend,
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: BudgetsCommand,
}

#[derive(Subcommand)]
enum BudgetsCommand {
    /// List budgets with what they have spent, hold and have left.
    Get(GetArguments),
    /// Make an org's budgets those of a file in YAML or JSON. A second time changes nothing.
    Apply(ApplyArguments),
    /// Add to a budget's limit in its running period.
    TopUp(TopUpArguments),
}

#[derive(Args)]
struct GetArguments {
    /// The org.
    #[arg(long)]
    org: String,
    /// Only this team's.
    #[arg(long)]
    team: Option<String>,
    /// Only this user's.
    #[arg(long)]
    user: Option<String>,
}

#[derive(Args)]
struct ApplyArguments {
    /// The file; - for standard input.
    file: PathBuf,
    /// Say what would be done and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Archive budgets that the file doesn't have.
    #[arg(long)]
    prune: bool,
}

#[derive(Args)]
struct TopUpArguments {
    /// The budget's number.
    budget_id: i64,
    /// How much, such as 12.50.
    #[arg(long, value_name = "USD")]
    amount: String,
    /// Of a `*` budget the team or user it is for.
    #[arg(long)]
    subject: Option<String>,
    /// Why, for the audit log.
    #[arg(long)]
    reason: String,
}

const COLUMNS: [(&str, &str); 9] = [
    ("id", "budget_id"),
    ("team", "team"),
    ("user", "user"),
    ("window", "window"),
    ("mode", "mode"),
    ("limit USD", "limit_usd"),
    ("spent USD", "spent_usd"),
    ("left USD", "remaining_usd"),
    ("resets at", "resets_at"),
];

/// `budget-backend budgets …`.
pub fn budgets(arguments: &BudgetsArguments) -> ExitCode {
    let (backend, json) = (&arguments.backend, arguments.json);
    let done = match &arguments.command {
        BudgetsCommand::Get(get) => list(backend, get).and_then(|found| show(json, &found)),
        BudgetsCommand::Apply(set) => apply(backend, set).and_then(|done| tell_applied(json, &done)),
        BudgetsCommand::TopUp(top_up) => {
            raise(backend, top_up).and_then(|budget| show(json, &json!([budget])))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, code)) => complain(problem, code),
    }
}

fn show(json: bool, budgets: &Value) -> Result<(), Failure> {
    let printed = if json {
        say_json(budgets)
    } else {
        say(table(budgets.as_array().map_or(&[], Vec::as_slice), &COLUMNS))
    };
    printed.map_err(|problem| (problem, 1))
}

/// Every page of the listing.
fn list(backend: &Backend, get: &GetArguments) -> Result<Value, Failure> {
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let query = query([
            parameter("org", Some(&get.org)),
            parameter("team", get.team.as_deref()),
            parameter("user", get.user.as_deref()),
            parameter("cursor", cursor.as_deref()),
        ]);
        let page = backend.ask(Method::GET, &format!("/v1/budgets{query}"), None)?.json()?;
        found.extend(page["budgets"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(next) if cursor.as_deref() != Some(next) => cursor = Some(next.to_owned()),
            _ => return Ok(Value::Array(found)),
        }
    }
}

fn apply(backend: &Backend, set: &ApplyArguments) -> Result<Value, Failure> {
    let text = read(&set.file).map_err(|problem| (problem, crate::EXIT_USAGE))?;
    // JSON is YAML as well, but is told apart for its better messages.
    let kind = if text.trim_start().starts_with('{') { "application/json" } else { "application/yaml" };
    let path = format!("/v1/budgets:apply?dry_run={}&prune={}", set.dry_run, set.prune);
    backend.ask(Method::PUT, &path, Some((kind, text)))?.json()
}

fn read(file: &PathBuf) -> Result<String, String> {
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut text = String::new();
    let limit = MAX_FILE_BYTES.saturating_add(1);
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(named)?.take(limit).read_to_string(&mut text)
    };
    let bytes = read.map_err(named)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= MAX_FILE_BYTES) {
        Ok(text)
    } else {
        Err(format!("{}: expected at most {MAX_FILE_BYTES} bytes", file.display()))
    }
}

fn tell_applied(json: bool, done: &Value) -> Result<(), Failure> {
    if json {
        return say_json(done).map_err(|problem| (problem, 1));
    }
    let columns = [
        ("what", "what"),
        ("id", "budget_id"),
        ("team", "team"),
        ("user", "user"),
        ("window", "window"),
        ("limit USD", "limit_usd"),
    ];
    let mut rows = Vec::new();
    for what in ["created", "changed", "archived"] {
        for budget in done[what].as_array().into_iter().flatten() {
            let mut row = budget.clone();
            row["what"] = json!(what);
            rows.push(row);
        }
    }
    let unchanged = done["unchanged"].as_array().map_or(0, Vec::len);
    let note = if done["dry_run"] == true { "nothing was done: a dry run" } else { "done" };
    let text = if rows.is_empty() { String::new() } else { format!("{}\n", table(&rows, &columns)) };
    say(format!("{text}{} changes, {unchanged} unchanged; {note}", rows.len()))
        .map_err(|problem| (problem, 1))
}

fn raise(backend: &Backend, top_up: &TopUpArguments) -> Result<Value, Failure> {
    let mut body = json!({"amount_usd": top_up.amount, "reason": top_up.reason});
    if let Some(subject) = &top_up.subject {
        body["subject"] = json!(subject);
    }
    let path = format!("/v1/budgets/{}/top-ups", top_up.budget_id);
    backend.ask(Method::POST, &path, Some(("application/json", body.to_string())))?.json()
}
