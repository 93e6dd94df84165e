//! Shows Purser at work: a user calls an LLM down the whole ladder of a budget (plain, warned, a cheaper
//! model, a shorter answer, denied) while a neighbour goes on; then the ledger is laid beside the
//! provider's bill.
//!
//! Needs a running stack with an empty database, named by `EGRESS_URL`, `BACKEND_URL`,
//! `FAKE_LLM_URL`, `PURSER_ADMIN_TOKEN` and `DATABASE_URL`. Exits 0 only if the ledger and the bill
//! agree on models, tokens and amounts to the nano-dollar, nothing is held any more, and each step came
//! in its turn.

mod books;
mod show;
mod stack;
mod traffic;

use std::error::Error;
use std::process::ExitCode;

use crate::stack::Stack;

/// What ends the demonstration early.
type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let stack = match Stack::from_environment() {
        Ok(stack) => stack,
        Err(mistakes) => {
            eprintln!("The demo can't start:\n{mistakes}");
            return ExitCode::from(2);
        }
    };
    match run(&stack).await {
        Ok(problems) if problems.is_empty() => {
            println!("\nThe ledger and the provider's bill agree to the nano-dollar.");
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            println!("\nNot as it should be:");
            for problem in problems {
                println!("  - {problem}");
            }
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("The demo broke off: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it, and returns what was not as it should be.
async fn run(stack: &Stack) -> Result<Vec<String>, Failure> {
    let mut problems = traffic::run(stack).await?;
    problems.extend(books::compare(stack).await?);
    Ok(problems)
}
