//! The operators' commands: what they take, and how they say what they did. Figures go to standard
//! output, errors in plain words to standard error.

pub mod budgets;
mod client;
pub mod explain;
pub mod lint;
pub mod prices;
pub mod progress;
pub mod reprice;
mod table;
pub mod token;
pub mod usage;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use budget_backend::aggregate::{self, AggregateError, DayChange, RowChanges};
use budget_backend::config::DatabaseConfig;
use budget_backend::db::{self, ConnectError};
use budget_backend::verify::{self, Findings, VerifyError};
use clap::Args;
use jiff::civil::Date;
use postgres::Client;
use purser_protocol::format_usd;
use serde::Serialize;

/// Days one call may ask for: ten years.
const MAX_DAYS: usize = 3_660;

/// Differences were found and not repaired.
const EXIT_DIFFERS: u8 = 3;

#[derive(Args)]
pub struct AggregateArguments {
    /// A UTC day, such as 2026-11-23. May be given more than once.
    #[arg(long, value_name = "DAY", required_unless_present = "from", conflicts_with = "from")]
    day: Vec<Date>,
    /// The first of a range of UTC days.
    #[arg(long, value_name = "DAY", requires = "to")]
    from: Option<Date>,
    /// The last of the range.
    #[arg(long, value_name = "DAY", requires = "from")]
    to: Option<Date>,
    /// Only this org; without it, every org with rows on these days.
    #[arg(long)]
    org: Option<String>,
    /// Print one JSON document instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct VerifyArguments {
    /// Put right what differs, while traffic runs, and check again.
    #[arg(long)]
    repair: bool,
    /// Only this org; without it, every org.
    #[arg(long)]
    org: Option<String>,
    /// Print one JSON document instead of lines for people.
    #[arg(long)]
    json: bool,
}

/// `budget-backend aggregate`.
pub fn aggregate(config: &DatabaseConfig, arguments: &AggregateArguments) -> ExitCode {
    let days = match days(arguments) {
        Ok(days) => days,
        Err(problem) => return complain(problem, super::EXIT_USAGE),
    };
    match recompute(config, arguments, &days) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => complain(problem, 1),
    }
}

fn days(arguments: &AggregateArguments) -> Result<Vec<Date>, String> {
    let (Some(from), Some(to)) = (arguments.from, arguments.to) else {
        let mut days = arguments.day.clone();
        days.sort_unstable();
        days.dedup();
        return Ok(days);
    };
    if from > to {
        return Err(format!("--from {from} is after --to {to}"));
    }
    let days: Vec<Date> =
        from.series(jiff::Span::new().days(1)).take_while(|day| *day <= to).take(MAX_DAYS + 1).collect();
    if days.len() > MAX_DAYS {
        return Err(format!("--from {from} --to {to}: expected at most {MAX_DAYS} days"));
    }
    Ok(days)
}

#[derive(Serialize)]
struct Refused {
    org: String,
    day: Date,
    reason: String,
}

/// Recomputes day by day and prints each; gives how many could not be.
fn recompute(
    config: &DatabaseConfig,
    arguments: &AggregateArguments,
    days: &[Date],
) -> Result<usize, String> {
    let mut client = connect(config)?;
    let pairs = aggregate::orgs_of_days(&mut client, days, arguments.org.as_deref()).map_err(text)?;
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    let progress = progress::Progress::of(pairs.len(), "days recomputed");
    for (org, day) in pairs {
        progress.step();
        match aggregate::recompute_day(&mut client, &org, day) {
            Ok(change) => {
                if !arguments.json {
                    progress.aside(|| say(day_line(&change)))?;
                }
                done.push(change);
            }
            Err(error @ AggregateError::NotWhole { .. }) => {
                let _closed = writeln!(std::io::stderr(), "budget-backend: {org}: {error}");
                refused.push(Refused { org, day, reason: error.to_string() });
            }
            Err(error) => return Err(format!("{org}, {day}: {error}")),
        }
    }
    let failed = refused.len();
    if arguments.json {
        say_json(&serde_json::json!({ "days": done, "refused": refused }))?;
    } else {
        say(sum_line(&done, failed))?;
    }
    Ok(failed)
}

fn day_line(change: &DayChange) -> String {
    format!(
        "{}  {}  {} calls  {} USD  usage_hourly: {}  cost_daily_summary: {}",
        change.day,
        change.org,
        change.requests,
        format_usd(change.cost_nanousd),
        row_changes(change.hourly),
        row_changes(change.daily)
    )
}

fn row_changes(rows: RowChanges) -> String {
    if rows.is_none() {
        return "right".to_owned();
    }
    format!("{} added, {} changed, {} removed", rows.added, rows.changed, rows.removed)
}

fn sum_line(done: &[DayChange], refused: usize) -> String {
    if done.is_empty() && refused == 0 {
        return "nothing was recorded on these days".to_owned();
    }
    let (mut requests, mut cost_nanousd, mut right) = (0_i64, 0_i64, 0_usize);
    for change in done {
        requests = requests.saturating_add(change.requests);
        cost_nanousd = cost_nanousd.saturating_add(change.cost_nanousd);
        right += usize::from(change.hourly.is_none() && change.daily.is_none());
    }
    format!(
        "sum: {} recomputed, {right} of them were right already, {refused} refused  {requests} calls  {} USD",
        done.len(),
        format_usd(cost_nanousd)
    )
}

/// `budget-backend verify`.
pub fn verify(config: &DatabaseConfig, arguments: &VerifyArguments) -> ExitCode {
    match check(config, arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_DIFFERS),
        Err(problem) => complain(problem, 1),
    }
}

/// Checks and prints; `true` when all agrees in the end.
fn check(config: &DatabaseConfig, arguments: &VerifyArguments) -> Result<bool, String> {
    let mut client = connect(config)?;
    let org = arguments.org.as_deref();
    let (found, left) = if arguments.repair {
        let (found, left) = verify::check_and_repair(&mut client, org).map_err(text)?;
        (found, Some(left))
    } else {
        (verify::check(&mut client, org).map_err(text)?, None)
    };
    let clean = left.as_ref().unwrap_or(&found).is_clean();
    if arguments.json {
        say_json(&serde_json::json!({ "clean": clean, "found": found, "left_after_repair": left }))?;
        return Ok(clean);
    }
    say_findings(&found)?;
    match left {
        None if clean => say("all agrees")?,
        None => say("not repaired; --repair puts it right")?,
        Some(_) if found.is_clean() => say("all agrees; nothing to repair")?,
        Some(_) if clean => say("repaired; all agrees now")?,
        Some(left) => {
            say("after the repair this still differs:")?;
            say_findings(&left)?;
        }
    }
    Ok(clean)
}

fn say_findings(findings: &Findings) -> Result<(), String> {
    say(format!("checked {} counters, {} days of orgs with detail", findings.counters, findings.days))?;
    if findings.spent_unchecked > 0 {
        say(format!(
            "{} counters began before {}, when the ledger's detail becomes whole: what they spent can't be checked",
            findings.spent_unchecked, findings.whole_from
        ))?;
    }
    for counter in &findings.counter_differences {
        for (column, amounts) in counter.columns() {
            say(format!(
                "{}, budget {}{}, period from {}: {column} stands at {} USD, should be {} USD, difference {} USD{}",
                counter.org,
                counter.budget_id,
                if counter.subject.is_empty() { String::new() } else { format!(" ({})", counter.subject) },
                counter.period_start,
                format_usd(amounts.stands_at_nanousd),
                format_usd(amounts.should_be_nanousd),
                amounts.difference_usd(),
                if counter.missing { "; the counter doesn't exist" } else { "" },
            ))?;
        }
        if counter.columns().next().is_none() {
            say(format!(
                "{}, budget {}, period from {}: rows name this counter, but it doesn't exist",
                counter.org, counter.budget_id, counter.period_start
            ))?;
        }
    }
    for day in &findings.rollup_differences {
        say(format!(
            "{}, {}: {} differs from the detail in {} rows: {} calls, should be {}; {} USD, should be {} USD, difference {} USD",
            day.org,
            day.day,
            day.table,
            day.rows,
            day.requests.0,
            day.requests.1,
            format_usd(day.cost.stands_at_nanousd),
            format_usd(day.cost.should_be_nanousd),
            day.cost.difference_usd(),
        ))?;
    }
    if findings.truncated {
        say(format!(
            "there is more: only the first {} of a kind are listed; run it again",
            verify::MAX_LISTED
        ))?;
    }
    Ok(())
}

fn connect(config: &DatabaseConfig) -> Result<Client, String> {
    db::command_config(config).connect().map_err(|error| {
        let why = match error {
            ConnectError::Database(error) => VerifyError::from(error).to_string(),
            other @ ConnectError::Tls(_) => other.to_string(),
        };
        format!("the database at DATABASE_URL could not be reached: {why}")
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn say(line: impl Display) -> Result<(), String> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| format!("standard output: {error}"))
}

fn say_json(document: &serde_json::Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(document).map_err(text)?;
    say(text)
}

fn complain(problem: impl Display, code: u8) -> ExitCode {
    let _closed = writeln!(std::io::stderr(), "budget-backend: {problem}");
    ExitCode::from(code)
}
