//! `budget-backend prices`: the price list.

mod calculate;
mod change;
mod import;
mod look;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use budget_backend::admin::prices as list;
use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::prices::catalogue;
use budget_backend::prices::plan::Version;
use budget_backend::pricing::PriceBook;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::Date;
use sqlx::PgConnection;

use super::complain;

#[derive(Subcommand)]
pub enum PricesCommand {
    /// List the prices in force.
    List(ListArguments),
    /// Show every version of a model's price, and which one is in force.
    Show(ShowArguments),
    /// Tell how the price of a call is found: every rule tried, and the one that matched.
    Explain(ExplainArguments),
    /// Tell what calls would cost: one JSON object a line on standard input, one a line on standard output.
    /// {"provider": "openai", "model": "gpt-4o", "usage": {"input_tokens": 1000, "output_tokens": 100}};
    /// answered_model, service_tier and units, as an answer names them, are optional.
    Cost(CostArguments),
    /// Set a model's price by adding a version. `--model '*'` is the provider's rate of unknown models.
    /// A version replaces the one before it whole: what isn't given again (sizes, service tiers, units) is
    /// gone, and the output says so.
    Set(Box<SetArguments>),
    /// Let a name stand for a model: a deployment, an inference profile.
    Alias(AliasArguments),
    /// Import a price file in the LiteLLM format. What an operator set stays. Exits with 2, having
    /// written nothing, when anything in the file is malformed or unknown.
    Import(ImportArguments),
    /// Load the catalogue that came with this program. What was set or imported stays.
    LoadCatalogue(LoadArguments),
}

#[derive(Args)]
pub struct ListArguments {
    /// Only this provider.
    #[arg(long)]
    provider: Option<String>,
}

#[derive(Args)]
pub struct ShowArguments {
    /// The model, by its exact name.
    model: String,
    /// Only of this provider.
    #[arg(long)]
    provider: Option<String>,
    /// In force at the start of this UTC day, such as 2026-11-23, or at this instant. Now if not given.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    at: Option<Timestamp>,
}

#[derive(Args)]
pub struct ExplainArguments {
    /// Who bills, as the route says.
    #[arg(long)]
    provider: String,
    /// The model asked for.
    #[arg(long)]
    model: String,
    /// The model that the answer names.
    #[arg(long)]
    answered: Option<String>,
    /// At the start of this UTC day, or at this instant. Now if not given.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    at: Option<Timestamp>,
}

#[derive(Args)]
pub struct CostArguments {
    /// At the start of this UTC day, or at this instant. Now if not given.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    at: Option<Timestamp>,
}

#[derive(Args)]
pub struct SetArguments {
    /// Who bills.
    #[arg(long)]
    provider: String,
    /// As the provider names it.
    #[arg(long)]
    model: String,
    /// From when it applies: the start of a UTC day, or an instant. Now if not given.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    effective_from: Option<Timestamp>,
    /// A class and its price in USD per million tokens, such as input=2.50. Classes: input,
    /// cached_input, cache_write_5m, cache_write_1h, output, reasoning, audio_input, audio_output,
    /// image_input, image_output. What isn't given costs what input or output costs.
    #[arg(long = "rate", value_name = "CLASS=USD", required = true)]
    rates: Vec<String>,
    /// A unit and its price in USD per piece, such as web_search_requests=0.01; only what calls tell of.
    #[arg(long = "unit", value_name = "UNIT=USD")]
    units: Vec<String>,
    /// Sizes, service tiers and multipliers as JSON, as the column model_prices.terms has them; see
    /// docs/prices.md for an example. Amounts there are nano-USD per million: 1000000000 is a USD.
    #[arg(long, value_name = "JSON")]
    terms: Option<String>,
    /// The model thinks out of sight.
    #[arg(long)]
    reasons: bool,
    /// Where the figures are from.
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Args)]
pub struct AliasArguments {
    /// The name that calls use.
    name: String,
    /// Who bills, as the route says.
    #[arg(long)]
    provider: String,
    /// The model it stands for.
    #[arg(long, required_unless_present = "remove")]
    model: Option<String>,
    /// The provider whose price to use, when it is another one.
    #[arg(long, requires = "model")]
    to_provider: Option<String>,
    /// Take the alias away.
    #[arg(long, conflicts_with = "model")]
    remove: bool,
}

#[derive(Args)]
pub struct ImportArguments {
    /// The file.
    file: PathBuf,
    /// Say what would change and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take unknown fields: those about money for prices that can't be applied, others not at all.
    #[arg(long)]
    allow_unknown: bool,
    /// From when what is new or different applies. If not given: different prices from now, and those of
    /// models without a price from 2025-01-01.
    #[arg(long, value_name = "DATE", value_parser = instant)]
    effective_from: Option<Timestamp>,
    /// Print one JSON document instead of lines for people.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct LoadArguments {
    /// Say what would change and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What went wrong, and the exit code it means.
type Failure = (String, u8);

/// `budget-backend prices …`.
pub fn prices(config: &DatabaseConfig, command: &PricesCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(config, command)),
        Err(error) => Err(failed(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, _)) if problem == SEEN_ENOUGH => ExitCode::SUCCESS,
        Err((problem, code)) => complain(problem, code),
    }
}

/// Whoever read what was told has seen enough (`prices list | head`): an end, and no failure. By then all
/// there was to write is written.
const SEEN_ENOUGH: &str = "nobody reads standard output any more";

fn say(line: impl Display) -> Result<(), String> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => SEEN_ENOUGH.to_owned(),
        _ => format!("standard output: {error}"),
    })
}

fn say_json(document: &serde_json::Value) -> Result<(), String> {
    say(serde_json::to_string_pretty(document).map_err(|error| error.to_string())?)
}

fn failed(error: impl Display) -> Failure {
    (error.to_string(), 1)
}

fn wrong(problem: impl Display) -> Failure {
    (problem.to_string(), crate::EXIT_USAGE)
}

async fn run(config: &DatabaseConfig, command: &PricesCommand) -> Result<(), Failure> {
    // What is wrong with a file or an argument is said before the database is asked.
    match command {
        PricesCommand::List(arguments) => look::list_prices(&mut connect(config).await?, arguments).await,
        PricesCommand::Show(arguments) => look::show(&mut connect(config).await?, arguments).await,
        PricesCommand::Explain(arguments) => look::explain(&mut connect(config).await?, arguments).await,
        PricesCommand::Cost(arguments) => calculate::cost(&mut connect(config).await?, arguments).await,
        PricesCommand::Set(arguments) => {
            let entry = change::entry(arguments).map_err(wrong)?;
            change::set(&mut connect(config).await?, entry).await
        }
        PricesCommand::Alias(arguments) => {
            change::check_alias(arguments).map_err(wrong)?;
            change::alias(&mut connect(config).await?, arguments).await
        }
        PricesCommand::Import(arguments) => {
            let file = import::read(arguments).map_err(wrong)?;
            import::import(&mut connect(config).await?, arguments, file).await
        }
        PricesCommand::LoadCatalogue(arguments) => {
            let wanted = catalogue::parse(catalogue::TEXT).map_err(failed)?;
            let mut connection = connect(config).await?;
            let planned = list::load_catalogue(&mut connection, arguments.dry_run, wanted).await;
            import::say_planned(&planned.map_err(failed)?, arguments.dry_run)
        }
    }
}

async fn connect(config: &DatabaseConfig) -> Result<PgConnection, Failure> {
    let mut connection = db::connect_command(config)
        .await
        .map_err(|error| failed(format!("the database at DATABASE_URL could not be reached: {error}")))?;
    if list::is_there(&mut connection).await.map_err(failed)? {
        Ok(connection)
    } else {
        let problem = "the database at DATABASE_URL has no price list of this version";
        Err(failed(format!("{problem}; run `budget-backend migrate` first")))
    }
}

/// A UTC day, or an instant in RFC 3339.
pub fn instant(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    // A `Date` also reads the day of a longer text, whose hour would be lost.
    let only_day = text.len() == "2026-11-23".len();
    let day: Option<Timestamp> = text
        .parse::<Date>()
        .ok()
        .filter(|_| only_day)
        .and_then(|day| format!("{day}T00:00:00Z").parse().ok());
    day.ok_or_else(|| {
        "expected a day such as 2026-11-23, or an instant such as 2026-11-23T12:00:00Z".to_owned()
    })
}

fn seconds(at: Option<Timestamp>) -> i64 {
    at.unwrap_or_else(Timestamp::now).as_second()
}

async fn book(connection: &mut PgConnection) -> Result<(PriceBook, Vec<Version>), Failure> {
    let versions = list::versions(connection).await.map_err(failed)?;
    let aliases = list::aliases(connection).await.map_err(failed)?;
    Ok((PriceBook::new(versions.iter().map(|version| version.row.clone()), aliases), versions))
}
