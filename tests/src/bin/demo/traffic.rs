//! The calls, and the table of what became of them.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use purser_protocol::format_usd;
use reqwest::Response;
use serde_json::{Value, json};

use crate::Failure;
use crate::stack::{ORG, Stack, TEAM};

/// Calls of each user before the demonstration gives up waiting for a denial.
const MAX_ROUNDS: usize = 12;

/// A call that was answered.
struct Outcome {
    status: u16,
    /// Empty when the call was denied before it had a hold.
    hold_id: String,
    denied_tier: String,
    denied_window: String,
}

/// Sets the budgets and lets two users call until one of them is denied. Prints the table and
/// returns what was not as it should be.
///
/// # Errors
/// When a part of the stack doesn't answer.
pub async fn run(stack: &Stack) -> Result<Vec<String>, Failure> {
    for budget in [
        json!({"org": ORG, "window": "month", "limit_usd": "5.00"}),
        json!({"org": ORG, "team": TEAM, "window": "day", "limit_usd": "0.50"}),
        json!({"org": ORG, "team": TEAM, "user": "ann", "window": "day", "limit_usd": "0.004"}),
        json!({"org": ORG, "team": TEAM, "user": "bob", "window": "day", "limit_usd": "0.10"}),
    ] {
        stack.create_budget(&budget).await?;
    }
    println!("Org {ORG}, team {TEAM}; amounts in USD as spent/limit, after each call.\n");
    let mut table = table(&[
        "#",
        "user",
        "model",
        "call",
        "status",
        "cost",
        "org month",
        "team day",
        "user day",
        "verdict",
    ]);
    let mut problems = Vec::new();
    let mut ann_was_denied = false;
    for round in 0..MAX_ROUNDS {
        let ann = call(stack, "ann", round).await?;
        add_row(stack, &mut table, "ann", round, &ann).await?;
        if ann.status == 429 {
            ann_was_denied = true;
            if (ann.denied_tier.as_str(), ann.denied_window.as_str()) != ("user", "day") {
                problems.push(format!(
                    "ann was denied by {} {}, not by user day",
                    ann.denied_tier, ann.denied_window
                ));
            }
        } else if ann.status != 200 {
            problems.push(format!("a call of ann was answered {}", ann.status));
        }
        let bob = call(stack, "bob", round).await?;
        add_row(stack, &mut table, "bob", round, &bob).await?;
        if bob.status != 200 {
            problems.push(format!("a call of bob was answered {}", bob.status));
        }
        if ann_was_denied {
            break;
        }
    }
    println!("{table}");
    if !ann_was_denied {
        problems.push(format!("ann was not denied in {MAX_ROUNDS} calls"));
    }
    Ok(problems)
}

/// The model and the shape of a user's call: ann asks the dear model, bob the cheap one, every other
/// call as a stream.
fn shape(user: &str, round: usize) -> (&'static str, bool) {
    let model = if user == "ann" { "gpt-4o" } else { "gpt-4o-mini" };
    (model, (round % 2 == 1) != (user == "bob"))
}

async fn call(stack: &Stack, user: &str, round: usize) -> Result<Outcome, Failure> {
    let (model, stream) = shape(user, round);
    let question = format!(
        "Question {round} of {user}: which of last week's search queries had no good result, and why?"
    );
    let body = json!({
        "model": model,
        "stream": stream,
        "max_completion_tokens": 80,
        "messages": [{"role": "system", "content": "Answer in two sentences."}, {"role": "user", "content": question}],
    });
    let attempts_before = attempts(stack).await?;
    let response = stack
        .http
        .post(format!("{}/v1/chat/completions", stack.egress_url))
        .header("x-budget-org", ORG)
        .header("x-budget-team", TEAM)
        .header("x-budget-user", user)
        .header("x-fake-words", (40 + round * 3).to_string())
        .json(&body)
        .send()
        .await?;
    let outcome = Outcome {
        status: response.status().as_u16(),
        hold_id: header(&response, "x-purser-hold-id"),
        denied_tier: header(&response, "x-purser-denied-tier"),
        denied_window: header(&response, "x-purser-denied-window"),
    };
    let text = response.text().await?;
    let reached_provider = attempts(stack).await? != attempts_before;
    match outcome.status {
        200 if stream && !text.ends_with("data: [DONE]\n\n") => {
            Err(format!("a stream of {user} did not come to its end").into())
        }
        200 if outcome.hold_id.is_empty() => Err(format!("the answer to {user} carries no hold id").into()),
        429 if reached_provider => Err(format!("a denied call of {user} reached the provider").into()),
        _ => Ok(outcome),
    }
}

async fn attempts(stack: &Stack) -> Result<u64, Failure> {
    let requests = stack.provider("requests").await?;
    requests["attempts"].as_u64().ok_or_else(|| "the provider doesn't count its requests".into())
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn add_row(
    stack: &Stack,
    table: &mut Table,
    user: &str,
    round: usize,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let (model, stream) = shape(user, round);
    let cost = match outcome.status {
        200 => aligned(&format_usd(stack.settled_cost(&outcome.hold_id).await?)),
        _ => "-".to_owned(),
    };
    let budgets = stack.budgets().await?;
    let spent = |tier: &str, name: Option<&str>| {
        let listed = budgets
            .iter()
            .find(|budget| budget["tier"] == tier && (name.is_none() || budget["user"].as_str() == name));
        listed.map_or_else(
            || "?".to_owned(),
            |budget| format!("{}/{}", aligned(&text(budget, "spent_usd")), text(budget, "limit_usd")),
        )
    };
    let verdict = match outcome.status {
        200 => "allow".to_owned(),
        429 => format!("DENY {} {}", outcome.denied_tier, outcome.denied_window),
        _ => "failed".to_owned(),
    };
    table.add_row([
        (table.row_count() + 1).to_string(),
        user.to_owned(),
        model.to_owned(),
        if stream { "stream" } else { "plain" }.to_owned(),
        outcome.status.to_string(),
        cost,
        spent("org", None),
        spent("team", None),
        spent("user", Some(user)),
        verdict,
    ]);
    Ok(())
}

fn text(budget: &Value, field: &str) -> String {
    budget[field].as_str().unwrap_or("?").to_owned()
}

/// A table with these columns; numbers and amounts stand to the right.
pub fn table(columns: &[&str]) -> Table {
    let line = LineStyle::none().fill('─').junction('─');
    let style = TableStyle::new().top_border(line).header_separator(line).bottom_border(line);
    let to_the_right = ["#", "cost", "org month", "team day", "user day", "ledger", "bill"];
    let mut table = Table::new();
    table.load_style(style).set_header(columns.to_vec());
    for (name, column) in columns.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, 1));
        if to_the_right.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// An amount in USD with at least eight decimals, so that points stand below each other.
pub fn aligned(usd: &str) -> String {
    let decimals = usd.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    format!("{usd}{}", "0".repeat(8_usize.saturating_sub(decimals)))
}
