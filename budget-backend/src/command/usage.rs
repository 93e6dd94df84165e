//! `budget-backend usage`: who spent what.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::client::{Backend, Failure, parameter, query};
use super::table::table;
use super::{complain, say, say_json};

/// Asks a running backend (--url, or PURSER_URL, or http://127.0.0.1:8088) with the token in PURSER_API_TOKEN, or
/// else in PURSER_ADMIN_TOKEN.
#[derive(Args)]
pub struct UsageArguments {
    #[command(flatten)]
    backend: Backend,
    /// The org; every org within the token's reach if not given.
    #[arg(long)]
    org: Option<String>,
    /// Only this team.
    #[arg(long)]
    team: Option<String>,
    /// Only this user of the team.
    #[arg(long, requires = "team")]
    user: Option<String>,
    /// Only this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Only this model.
    #[arg(long)]
    model: Option<String>,
    /// Only calls with this cost tag.
    #[arg(long, value_name = "NAME=VALUE")]
    tag: Option<String>,
    /// A UTC month such as 2026-11; the running one if no time is given.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    month: Option<String>,
    /// The first UTC day or whole hour.
    #[arg(long, requires = "to")]
    from: Option<String>,
    /// The first UTC day or whole hour after it.
    #[arg(long, requires = "from")]
    to: Option<String>,
    /// What names a line: org, team, user, provider, model, api, day, hour, tag:NAME, separated by commas.
    #[arg(long, default_value = "team")]
    by: String,
    /// The dearest first, and only so many.
    #[arg(long, value_name = "NUMBER")]
    top: Option<u32>,
    /// Print one JSON document instead of a table.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values instead of a table.
    #[arg(long)]
    csv: bool,
}

/// `budget-backend usage`.
pub fn usage(arguments: &UsageArguments) -> ExitCode {
    let done = if arguments.csv { sheet(arguments) } else { report(arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, code)) => complain(problem, code),
    }
}

fn path(asked: &UsageArguments, format: &str, cursor: Option<&str>) -> String {
    let top = asked.top.map(|top| top.to_string());
    let order = asked.top.map(|_| "cost");
    let limit = top.as_deref().unwrap_or("10000");
    let query = query([
        parameter("org", asked.org.as_deref()),
        parameter("team", asked.team.as_deref()),
        parameter("user", asked.user.as_deref()),
        parameter("provider", asked.provider.as_deref()),
        parameter("model", asked.model.as_deref()),
        parameter("tag", asked.tag.as_deref()),
        parameter("month", asked.month.as_deref()),
        parameter("from", asked.from.as_deref()),
        parameter("to", asked.to.as_deref()),
        parameter("by", Some(&asked.by)),
        parameter("order", order),
        parameter("limit", Some(limit)),
        parameter("format", Some(format)),
        parameter("cursor", cursor),
    ]);
    format!("/v1/usage{query}")
}

/// Every page, under one line of headings.
fn sheet(asked: &UsageArguments) -> Result<(), Failure> {
    let mut cursor = None::<String>;
    loop {
        let answer = asked.backend.ask(Method::GET, &path(asked, "csv", cursor.as_deref()), None)?;
        let text = match cursor {
            None => answer.text.as_str(),
            // A heading holds no line's end: names of tags have no control characters.
            Some(_) => answer.text.split_once('\n').map_or("", |(_, lines)| lines),
        };
        let written = std::io::stdout().write_all(text.as_bytes());
        written.map_err(|error| (format!("standard output: {error}"), 1))?;
        match answer.next_cursor {
            Some(next) if cursor.as_deref() != Some(&next) => cursor = Some(next),
            _ => return Ok(()),
        }
    }
}

fn report(asked: &UsageArguments) -> Result<(), Failure> {
    let (mut whole, mut cursor) = (Value::Null, None::<String>);
    loop {
        let mut page =
            asked.backend.ask(Method::GET, &path(asked, "json", cursor.as_deref()), None)?.json()?;
        let next = page["next_cursor"].take();
        match (whole["groups"].as_array_mut(), page["groups"].as_array_mut()) {
            (Some(groups), Some(more)) => groups.append(more),
            _ => whole = page,
        }
        match next.as_str() {
            Some(next) if cursor.as_deref() != Some(next) => cursor = Some(next.to_owned()),
            _ => break,
        }
    }
    let printed = if asked.json { say_json(&whole) } else { say(lines(&whole)) };
    printed.map_err(|problem| (problem, 1))
}

/// The groups and, below, the sum of all.
fn lines(report: &Value) -> String {
    let by: Vec<String> = report["by"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let mut rows = report["groups"].as_array().cloned().unwrap_or_default();
    for row in &mut rows {
        for tag in by.iter().filter_map(|name| name.strip_prefix("tag:")) {
            row[format!("tag:{tag}")] = row["tags"][tag].clone();
        }
    }
    let mut sum = report["total"].clone();
    if let Some(first) = by.first() {
        sum[first] = Value::from("(all)");
    }
    for name in by.iter().skip(1) {
        sum[name] = Value::from("");
    }
    rows.push(sum);
    let mut columns: Vec<(&str, &str)> = by.iter().map(|name| (name.as_str(), name.as_str())).collect();
    columns.extend([
        ("calls", "requests"),
        ("input", "input_tokens"),
        ("output", "output_tokens"),
        ("USD", "cost_usd"),
    ]);
    table(&rows, &columns)
}
