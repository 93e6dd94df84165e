//! The command line of the budget backend.

mod command;

use std::io::Write;
use std::process::ExitCode;

use budget_backend::app::Application;
use budget_backend::config::{Config, ConfigErrors, DatabaseConfig};
use budget_backend::db;
use budget_backend::telemetry::{OtlpEndpoint, Telemetry};
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Holds money for LLM calls before they go out and records what they cost.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API. Configured by environment: DATABASE_URL, PURSER_TOKEN, PURSER_ADMIN_TOKEN, and
    /// optionally PURSER_LISTEN_ADDR (127.0.0.1:8088) and others; see the README.
    Serve,
    /// Bring the schema of the database at DATABASE_URL up to date and stop.
    Migrate,
    /// Recompute days of the rollup (usage_hourly, cost_daily_summary) from the ledger's detail. Safe at
    /// any time and any number of times, while traffic runs: where all was right, nothing changes. Exits
    /// with 0 when every day was recomputed, 1 when one was not, 2 when the call itself is wrong.
    Aggregate(command::AggregateArguments),
    /// Check the books: every counter against the ledger entries, open holds and top-ups that name it,
    /// and every day of the rollup against the detail, all in one snapshot. Exits with 0 when all agrees,
    /// 3 when something differs, 1 when the check failed, 2 when the call itself is wrong.
    Verify(command::VerifyArguments),
    /// Price calls of a time anew, after a price was put right: the differences become new entries of
    /// the ledger, counters and rollup follow. Doing it again changes nothing. Exits with 0 when done, 1 when
    /// it failed, 2 when the call itself is wrong.
    Reprice(command::reprice::RepriceArguments),
    /// Tell how a call would be decided just now, and why: the price found, what it would hold, the
    /// budgets it meets and the steps of their ladders. Holds nothing. Exits with 0 when done, 1 when it
    /// failed, 2 when the call itself is wrong.
    Explain(command::explain::ExplainArguments),
    /// Find budgets of an org that match nothing and, in an Envoy's configuration dump, ways to LLM hosts
    /// around the filter. Exits with 0 when nothing was found, 3 when something was, 1 when it failed, 2 when the
    /// call itself is wrong.
    Lint(command::lint::LintArguments),
    /// The price list: look at it, set prices, import them, and see how a call's price is found.
    #[command(subcommand)]
    Prices(command::prices::PricesCommand),
    /// What budgets stand at; a whole set of them from a file; top-ups. Asks a running backend. Exits with 0 when
    /// done, 1 when it failed, 2 when the call is wrong or the backend refuses it.
    Budgets(command::budgets::BudgetsArguments),
    /// Who spent what: sums and series. Asks a running backend. Exits as `budgets` does.
    Usage(command::usage::UsageArguments),
    /// Print what makes a shell complete this command line, for example: `budget-backend completions bash >
    /// /etc/bash_completion.d/budget-backend`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Who may use the API: make tokens, list them, take them back. Exits with 0 when done, 1 when it failed, 2 when
    /// the call itself is wrong.
    #[command(subcommand)]
    Token(command::token::TokenCommand),
}

/// Bad configuration.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve => match Config::from_env() {
            Ok(config) => run(config.otlp.clone().as_ref(), serve(config)),
            Err(errors) => usage(&errors),
        },
        Command::Migrate => with_database(|config| run(None, migrate(config))),
        Command::Aggregate(arguments) => with_database(|config| command::aggregate(&config, &arguments)),
        Command::Reprice(arguments) => with_database(|config| command::reprice::reprice(&config, &arguments)),
        Command::Explain(arguments) => with_database(|config| command::explain::explain(&config, arguments)),
        Command::Lint(arguments) if arguments.asks_the_database() => {
            with_database(|config| command::lint::lint(Some(&config), &arguments))
        }
        Command::Lint(arguments) => command::lint::lint(None, &arguments),
        Command::Prices(command) => with_database(|config| command::prices::prices(&config, &command)),
        Command::Budgets(arguments) => command::budgets::budgets(&arguments),
        Command::Usage(arguments) => command::usage::usage(&arguments),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "budget-backend", &mut text);
            // Whoever wanted only the beginning may have closed the pipe.
            let _closed = std::io::stdout().write_all(&text);
            ExitCode::SUCCESS
        }
        Command::Token(command) => with_database(|config| command::token::token(&config, command)),
        Command::Verify(arguments) => with_database(|config| command::verify(&config, &arguments)),
    }
}

fn with_database(command: impl FnOnce(DatabaseConfig) -> ExitCode) -> ExitCode {
    match DatabaseConfig::from_env() {
        Ok(config) => command(config),
        Err(errors) => usage(&errors),
    }
}

/// Tells a person at a terminal, not the log, what is wrong with the environment.
fn usage(errors: &ConfigErrors) -> ExitCode {
    let _closed = write!(std::io::stderr(), "budget-backend: {errors}");
    ExitCode::from(EXIT_USAGE)
}

/// Runs a part of the service, with a log on standard error, and traces where a collector is configured.
fn run(
    collector: Option<&OtlpEndpoint>,
    work: impl Future<Output = Result<(), Box<dyn std::error::Error>>>,
) -> ExitCode {
    let started = tokio::runtime::Runtime::new().map_err(|error| error.to_string()).and_then(|runtime| {
        Telemetry::start(collector, runtime.handle()).map(|telemetry| (runtime, telemetry))
    });
    let (runtime, telemetry) = match started {
        Ok(started) => started,
        Err(problem) => {
            let _closed = writeln!(std::io::stderr(), "budget-backend: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(work);
    if let Err(error) = &done {
        tracing::error!(%error, "giving up");
    }
    telemetry.finish();
    // A thread that waits for a frozen database must not keep the process: it has had its time.
    runtime.shutdown_background();
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut stop = Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let application = tokio::select! {
        built = Application::build(config) => built?,
        // Told to stop while still waiting for the database.
        () = &mut stop => return Ok(()),
    };
    // The one line on standard output: whoever started this on port 0 reads the port from it.
    writeln!(std::io::stdout(), "listening on {}", application.addr()?)?;
    if let Some(addr) = application.metrics_addr()? {
        // Whoever wanted only the first line may have closed the pipe.
        let _closed = writeln!(std::io::stdout(), "metrics on {addr}");
    }
    application.run(stop).await?;
    Ok(())
}

async fn migrate(config: DatabaseConfig) -> Result<(), Box<dyn std::error::Error>> {
    let pool = db::connect(&config).await?;
    db::migrate(&pool).await?;
    tracing::info!("the schema is up to date");
    Ok(())
}
