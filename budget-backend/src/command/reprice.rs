//! `budget-backend reprice`.

use std::process::ExitCode;

use budget_backend::admin::prices as list;
use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::prices::names;
use budget_backend::pricing::PriceBook;
use budget_backend::reprice::{self, Selection};
use clap::Args;
use jiff::Timestamp;
use purser_protocol::format_usd;

use super::prices::instant;
use super::{complain, connect, say, say_json, text};

#[derive(Args)]
pub struct RepriceArguments {
    /// Calls sent to this model, answered by it, priced as it, or of an alias or a dated name of it.
    #[arg(long)]
    model: String,
    /// Only calls that this provider bills.
    #[arg(long)]
    provider: Option<String>,
    /// From the start of this UTC day, or from this instant.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    from: Timestamp,
    /// Until before the start of this UTC day, or before this instant.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    to: Timestamp,
    /// Say what would change and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document instead of a line for people.
    #[arg(long)]
    json: bool,
}

/// `budget-backend reprice`.
pub fn reprice(config: &DatabaseConfig, arguments: &RepriceArguments) -> ExitCode {
    if arguments.from >= arguments.to {
        let problem = format!("--from {} is not before --to {}", arguments.from, arguments.to);
        return complain(problem, crate::EXIT_USAGE);
    }
    let given = [("--model", Some(&arguments.model)), ("--provider", arguments.provider.as_ref())];
    for (field, value) in given.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        if let Err(problem) = names::check(field, value) {
            return complain(problem, crate::EXIT_USAGE);
        }
    }
    match run(config, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => complain(problem, 1),
    }
}

fn run(config: &DatabaseConfig, arguments: &RepriceArguments) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let book = runtime.block_on(async {
        let mut connection = db::connect_command(config).await?;
        let versions = list::versions(&mut connection).await?;
        let aliases = list::aliases(&mut connection).await?;
        Ok::<_, sqlx::Error>(PriceBook::new(versions.into_iter().map(|version| version.row), aliases))
    });
    let book = book.map_err(|error| format!("the price list could not be read: {error}"))?;
    let selection = Selection {
        model: arguments.model.clone(),
        provider: arguments.provider.clone(),
        from_unix_s: arguments.from.as_second(),
        to_unix_s: arguments.to.as_second(),
        dry_run: arguments.dry_run,
    };
    let done = reprice::reprice(&mut connect(config)?, &book, &selection).map_err(text)?;
    if arguments.json {
        return say_json(&serde_json::json!({ "dry_run": arguments.dry_run, "repriced": done }));
    }
    let unwritten = if arguments.dry_run { "nothing was written: " } else { "" };
    say(format!(
        "{unwritten}{} calls looked at, {} cost something else, {} left alone, difference {} USD",
        done.calls,
        done.changed,
        done.left_alone,
        format_usd(done.difference_nanousd)
    ))
}
