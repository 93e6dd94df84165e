//! The ledger beside the provider's bill.

use std::collections::BTreeMap;

use purser_protocol::format_usd;
use sqlx::FromRow;

use crate::Failure;
use crate::show::{aligned, table};
use crate::stack::{ORG, Stack};

fn usd(nanousd: i64) -> String {
    aligned(&format_usd(nanousd))
}

/// A row of the ledger.
#[derive(FromRow)]
struct Entry {
    response_id: Option<String>,
    user_name: String,
    asked_model: Option<String>,
    cost_nanousd: i64,
    #[sqlx(flatten)]
    used: Used,
}

/// What both books say of an answer, beside its amount.
#[derive(FromRow, PartialEq, Eq)]
struct Used {
    model: String,
    input_tokens: i64,
    output_tokens: i64,
}

/// Prints the ledger against the bill, row by row, and returns where they differ.
///
/// # Errors
/// When one of the two can't be read.
pub async fn compare(stack: &Stack) -> Result<Vec<String>, Failure> {
    let entries: Vec<Entry> = sqlx::query_as(
        "SELECT response_id, user_name, asked_model, model, input_tokens, output_tokens, cost_nanousd
         FROM llm_requests WHERE org = $1 ORDER BY recorded_at, hold_id, entry",
    )
    .bind(ORG)
    .fetch_all(&stack.database)
    .await?;
    let bill = stack.provider("billed").await?;
    let mut billed = BTreeMap::new();
    for row in bill["rows"].as_array().into_iter().flatten() {
        let number = |field: &str| row[field].as_i64().unwrap_or(-1);
        let id = row["response_id"].as_str().unwrap_or_default();
        let used = Used {
            model: row["model"].as_str().unwrap_or_default().to_owned(),
            input_tokens: number("input_tokens"),
            output_tokens: number("output_tokens"),
        };
        billed.insert(id.to_owned(), (used, number("amount_nanousd")));
    }
    let mut problems = Vec::new();
    let mut table = table(&["answer", "user", "asked for", "ran and billed", "output", "ledger", "bill", ""]);
    for entry in &entries {
        let id = entry.response_id.as_deref().unwrap_or("(none)");
        let row = billed.remove(id);
        let agrees =
            row.as_ref().is_some_and(|(used, amount)| *used == entry.used && *amount == entry.cost_nanousd);
        if !agrees {
            problems.push(format!("{id} is not the same in the ledger and on the bill"));
        }
        table.add_row([
            id,
            &entry.user_name,
            entry.asked_model.as_deref().unwrap_or(&entry.used.model),
            &row.as_ref().map_or_else(|| "-".to_owned(), |(used, _)| used.model.clone()),
            &entry.used.output_tokens.to_string(),
            &usd(entry.cost_nanousd),
            &row.map_or_else(|| "-".to_owned(), |(_, amount)| usd(amount)),
            if agrees { "=" } else { "DIFFERS" },
        ]);
    }
    for (id, (used, amount)) in billed {
        problems.push(format!("{id} is on the bill with {amount} nano-USD and not in the ledger"));
        table.add_row([&id, "", "", &used.model, "", "-", &usd(amount), "MISSING"]);
    }
    println!("\nThe ledger and the provider's bill, answer by answer, in USD:\n\n{table}");
    problems.extend(totals(stack, &entries, bill["total_nanousd"].as_i64()).await?);
    Ok(problems)
}

async fn totals(stack: &Stack, entries: &[Entry], billed: Option<i64>) -> Result<Vec<String>, Failure> {
    let number = async |query: &'static str| -> Result<i64, Failure> {
        Ok(sqlx::query_scalar(query).bind(ORG).fetch_one(&stack.database).await?)
    };
    let ledger: i64 = entries.iter().map(|entry| entry.cost_nanousd).sum();
    let rollup =
        number("SELECT coalesce(sum(cost_nanousd), 0)::bigint FROM cost_daily_summary WHERE org = $1")
            .await?;
    let spent = number(
        "SELECT coalesce(sum(spent_nanousd), 0)::bigint FROM budget_counters c
         JOIN budgets b USING (org, budget_id) WHERE org = $1 AND b.team = ''",
    )
    .await?;
    let open = number("SELECT count(*) FROM holds WHERE org = $1 AND state = 'open'").await?;
    let held =
        number("SELECT coalesce(sum(held_nanousd), 0)::bigint FROM budget_counters WHERE org = $1").await?;
    let billed = billed.ok_or("the provider's bill has no total")?;

    println!("\n  sum of the ledger          {}", usd(ledger));
    println!("  the provider's bill        {}", usd(billed));
    println!("  sum of the daily rollup    {}", usd(rollup));
    println!("  spent of the org's budget  {}", usd(spent));
    println!("  open holds                 {open}");
    println!("  held in all budgets        {}", usd(held));

    let mut problems = Vec::new();
    for (what, amount) in
        [("the bill", billed), ("the daily rollup", rollup), ("the org's spent budget", spent)]
    {
        if amount != ledger {
            problems.push(format!("the ledger sums to {ledger} nano-USD, {what} to {amount}"));
        }
    }
    if ledger == 0 {
        problems.push("the ledger is empty".to_owned());
    }
    if open != 0 || held != 0 {
        problems.push(format!("{open} holds are open and {held} nano-USD held, with nothing under way"));
    }
    Ok(problems)
}
