//! The command line of the budget backend.

use std::io::Write;
use std::process::ExitCode;

use budget_backend::app::Application;
use budget_backend::config::{Config, ConfigErrors, DatabaseConfig};
use budget_backend::db;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
}

/// Bad configuration.
const EXIT_USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match arguments.command {
        Command::Serve => match Config::from_env() {
            Ok(config) => serve(config).await,
            Err(errors) => return usage(&errors),
        },
        Command::Migrate => match DatabaseConfig::from_env() {
            Ok(config) => migrate(config).await,
            Err(errors) => return usage(&errors),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "giving up");
            ExitCode::FAILURE
        }
    }
}

/// Tells a person at a terminal, not the log, what is wrong with the environment.
fn usage(errors: &ConfigErrors) -> ExitCode {
    let _closed = write!(std::io::stderr(), "budget-backend: {errors}");
    ExitCode::from(EXIT_USAGE)
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
    application.run(stop).await?;
    Ok(())
}

async fn migrate(config: DatabaseConfig) -> Result<(), Box<dyn std::error::Error>> {
    let pool = db::connect(&config).await?;
    db::migrate(&pool).await?;
    tracing::info!("the schema is up to date");
    Ok(())
}
