//! The calls of two users of a team, and the steps that their budgets took.

use comfy_table::Table;
use purser_protocol::format_usd;
use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::Failure;
use crate::show::{aligned, table, told};
use crate::stack::{ORG, Stack, TEAM};

/// The model that both users ask for, and the one that runs when money gets short.
const MODEL: &str = "gpt-4.1";
const CHEAPER_MODEL: &str = "gpt-4.1-mini";

/// The output cap of each call, tokens.
const CAP_TOKENS: u64 = 400;

/// Calls of ann before the demonstration gives up waiting for a denial.
const MAX_ROUNDS: usize = 20;

/// What became of a call, from the least to the most that a budget can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It went through as it was.
    Plain,
    /// The budget is nearly used up, and the answer says so.
    Warned,
    /// A cheaper model ran.
    Degraded,
    /// The output cap was lowered to what was left.
    Clamped,
    /// It never left.
    Denied,
}

impl Step {
    const ALL: [Self; 5] = [Self::Plain, Self::Warned, Self::Degraded, Self::Clamped, Self::Denied];

    /// As the table names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Warned => "warned",
            Self::Degraded => "degraded",
            Self::Clamped => "clamped",
            Self::Denied => "DENIED",
        }
    }

    fn of(status: u16, headers: &HeaderMap) -> Option<Self> {
        let has = |name| headers.contains_key(name);
        match status {
            429 => Some(Self::Denied),
            200 if has("x-purser-clamped-to") => Some(Self::Clamped),
            200 if has("x-purser-degraded-from") => Some(Self::Degraded),
            200 if has("x-purser-warning") => Some(Self::Warned),
            200 => Some(Self::Plain),
            _ => None,
        }
    }
}

/// A call that was answered.
pub struct Outcome {
    /// The answer's status.
    pub status: u16,
    /// What became of it.
    pub step: Step,
    /// What the answer says of budgets, and of trying again.
    pub headers: Vec<(String, String)>,
    /// The message of a denial, else empty.
    pub message: String,
}

impl Outcome {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// What was seen so far.
struct Seen {
    table: Table,
    /// Calls by number: the first of each step of ann's, and bob's last one.
    firsts: Vec<(usize, Outcome)>,
    problems: Vec<String>,
}

/// Sets the budgets and lets ann call down her ladder until she is denied, with bob beside her. Prints
/// it and returns what was not as it should be.
///
/// # Errors
/// When a part of the stack doesn't answer.
pub async fn run(stack: &Stack) -> Result<Vec<String>, Failure> {
    let ladder = json!({
        "warn_at_percent": 60,
        "degrade": {"at_percent": 80, "models": {MODEL: CHEAPER_MODEL}},
        "clamp": {"floor_tokens": 20},
    });
    for budget in [
        json!({"org": ORG, "window": "month", "limit_usd": "5.00"}),
        json!({"org": ORG, "team": TEAM, "window": "day", "limit_usd": "0.50"}),
        json!({"org": ORG, "team": TEAM, "user": "ann", "window": "day", "limit_usd": "0.013", "ladder": ladder}),
        json!({"org": ORG, "team": TEAM, "user": "bob", "window": "day", "limit_usd": "0.10", "ladder": ladder}),
    ] {
        stack.create_budget(&budget).await?;
    }
    println!(
        "Two users of team {TEAM} in org {ORG} ask for {MODEL}. From 60 % of their day's budget on they are warned,\n\
         from 80 % on {CHEAPER_MODEL} answers, then answers get shorter, then calls are refused.\n"
    );
    let columns = ["#", "user", "call", "asked for", "ran", "step", "cap", "cost", "spent", "limit"];
    let mut seen = Seen { table: table(&columns), firsts: Vec::new(), problems: Vec::new() };
    for round in 0..MAX_ROUNDS {
        let step = one_call(stack, &mut seen, "ann", round).await?;
        if round == 0 || step == Step::Denied {
            one_call(stack, &mut seen, "bob", round).await?;
        }
        if step == Step::Denied {
            break;
        }
    }
    println!("{}", seen.table);
    println!("\nWhat the answers said of it, when each step came first, and to bob in the end:");
    for (number, outcome) in &seen.firsts {
        told(*number, outcome);
    }
    let mut steps: Vec<Step> = seen.firsts.iter().map(|(_, outcome)| outcome.step).collect();
    let bob = steps.pop();
    if steps != Step::ALL || bob != Some(Step::Plain) {
        seen.problems
            .push(format!("ann's steps were {steps:?}, not {:?}; bob's last was {bob:?}", Step::ALL));
    }
    Ok(seen.problems)
}

/// Makes a call, adds it to what was seen, and tells its step.
async fn one_call(stack: &Stack, seen: &mut Seen, user: &str, round: usize) -> Result<Step, Failure> {
    let stream = round % 2 == 1;
    let outcome = call(stack, user, round, stream).await?;
    let number = seen.table.row_count() + 1;
    add_row(stack, &mut seen.table, user, stream, &outcome).await?;
    let step = outcome.step;
    if step == Step::Denied {
        let by = (outcome.header("x-purser-denied-tier"), outcome.header("x-purser-denied-window"));
        if user != "ann" || by != ("user", "day") {
            seen.problems.push(format!("call {number} of {user} was denied by {by:?}"));
        }
    }
    // Of bob only the call after ann's denial is told.
    let is_told = match user {
        "bob" => seen.firsts.iter().any(|(_, first)| first.step == Step::Denied),
        _ => seen.firsts.iter().all(|(_, first)| first.step != step),
    };
    if is_told {
        seen.firsts.push((number, outcome));
    }
    Ok(step)
}

async fn call(stack: &Stack, user: &str, round: usize, stream: bool) -> Result<Outcome, Failure> {
    let question = format!(
        "Question {round} of {user}: which of last week's search queries had no good result, and why?"
    );
    let body = json!({
        "model": MODEL,
        "stream": stream,
        "max_completion_tokens": CAP_TOKENS,
        "messages": [{"role": "system", "content": "Answer in some detail."}, {"role": "user", "content": question}],
    });
    let attempts_before = attempts(stack).await?;
    let response = stack
        .http
        .post(format!("{}/v1/chat/completions", stack.egress_url))
        .header("x-budget-org", ORG)
        .header("x-budget-team", TEAM)
        .header("x-budget-user", user)
        .header("x-fake-words", (350 + round * 7).to_string())
        .json(&body)
        .send()
        .await?;
    let status = response.status().as_u16();
    let step = Step::of(status, response.headers());
    let headers = headers(&response);
    let text = response.text().await?;
    let step = step.ok_or_else(|| format!("a call of {user} was answered {status}: {text}"))?;
    if step != Step::Denied && stream && !text.ends_with("data: [DONE]\n\n") {
        return Err(format!("a stream of {user} did not come to its end").into());
    }
    if step == Step::Denied && attempts(stack).await? != attempts_before {
        return Err(format!("a denied call of {user} reached the provider").into());
    }
    let error = serde_json::from_str::<Value>(&text).unwrap_or_default()["error"]["message"].take();
    Ok(Outcome { status, step, headers, message: error.as_str().unwrap_or_default().to_owned() })
}

async fn attempts(stack: &Stack) -> Result<u64, Failure> {
    let requests = stack.provider("requests").await?;
    requests["attempts"].as_u64().ok_or_else(|| "the provider doesn't count its requests".into())
}

fn headers(response: &Response) -> Vec<(String, String)> {
    let ours = |name: &str| name.starts_with("x-purser-") || name == "x-should-retry";
    let headers = response.headers().iter().filter(|(name, _)| ours(name.as_str()));
    let mut headers: Vec<_> = headers
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    headers.sort();
    headers
}

async fn add_row(
    stack: &Stack,
    table: &mut Table,
    user: &str,
    stream: bool,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let (ran, cost) = if outcome.step == Step::Denied {
        ("-".to_owned(), "-".to_owned())
    } else {
        let hold_id = outcome.header("x-purser-hold-id");
        let (model, cost_nanousd) = stack.settled(hold_id).await?;
        (model, aligned(&format_usd(cost_nanousd)))
    };
    let budgets = stack.budgets().await?;
    let budget = budgets.iter().find(|budget| budget["user"] == user);
    let amount = |field: &str| budget.and_then(|budget| budget[field].as_str()).unwrap_or("?").to_owned();
    table.add_row([
        (table.row_count() + 1).to_string(),
        user.to_owned(),
        if stream { "stream" } else { "plain" }.to_owned(),
        MODEL.to_owned(),
        ran,
        outcome.step.name().to_owned(),
        outcome.header("x-purser-clamped-to").to_owned(),
        cost,
        aligned(&amount("spent_usd")),
        amount("limit_usd"),
    ]);
    Ok(())
}
