//! `budget-backend explain`.

use std::process::ExitCode;
use std::sync::Arc;

use budget_backend::admin::{self, identities, prices};
use budget_backend::api::explain::{CallBody, ExplainError, Known, Question, answer};
use budget_backend::config::{DatabaseConfig, EstimateConfig};
use budget_backend::db;
use budget_backend::learned::LearnedLengths;
use clap::Args;
use purser_protocol::{Api, Claim, ClaimKind, Lookup, Payer, Size};
use serde_json::Value;

use super::{complain, say, say_json, text};

#[derive(Args)]
pub struct ExplainArguments {
    /// Who pays: the org. Without it, whom the claims name.
    #[arg(long, required_unless_present = "claim", default_value = "")]
    org: String,
    /// Its team.
    #[arg(long)]
    team: Option<String>,
    /// A user of the team.
    #[arg(long)]
    user: Option<String>,
    /// What the caller shows, such as namespace=chat, spiffe_id=spiffe://mesh/ns/chat/sa/web or
    /// api_key_sha256=DIGITS. May be given more than once; tried in order.
    #[arg(long, value_name = "KIND=VALUE", value_parser = claim)]
    claim: Vec<Claim>,
    /// The API spoken, as the ledger names it.
    #[arg(long, default_value = "openai_chat", value_parser = api)]
    api: Api,
    /// Who bills, as the route says.
    #[arg(long)]
    provider: String,
    /// The model asked for.
    #[arg(long)]
    model: String,
    /// The service tier asked for.
    #[arg(long)]
    service_tier: Option<String>,
    /// Bytes of the request that are text.
    #[arg(long, default_value_t = 0)]
    text_bytes: u64,
    /// Images, audio and files in it.
    #[arg(long, default_value_t = 0)]
    media_parts: u32,
    /// Its own cap on output, tokens for each choice.
    #[arg(long)]
    max_output_tokens: Option<u64>,
    /// How many answers it asks for.
    #[arg(long, default_value_t = 1)]
    choices: u32,
    /// The request is signed and can't be changed.
    #[arg(long)]
    signed: bool,
    /// The model reads more than the request carries.
    #[arg(long)]
    server_context: bool,
    /// Print one JSON document instead of lines for people.
    #[arg(long)]
    json: bool,
}

fn claim(text: &str) -> Result<Claim, String> {
    let expected = "expected KIND=VALUE, KIND one of api_key_sha256, spiffe_id, namespace";
    let (kind, value) = text.split_once('=').ok_or(expected)?;
    let kind = [ClaimKind::ApiKeySha256, ClaimKind::SpiffeId, ClaimKind::Namespace]
        .into_iter()
        .find(|known| known.as_str() == kind)
        .ok_or(expected)?;
    Ok(Claim { kind, value: value.to_owned() })
}

fn api(text: &str) -> Result<Api, String> {
    let names = || Api::ALL.map(Api::as_str).join(", ");
    Api::ALL
        .into_iter()
        .find(|api| api.as_str() == text)
        .ok_or_else(|| format!("expected one of {}", names()))
}

/// `budget-backend explain`.
pub fn explain(config: &DatabaseConfig, arguments: ExplainArguments) -> ExitCode {
    let estimates = match EstimateConfig::from_env() {
        Ok(estimates) => estimates,
        Err(errors) => return super::super::usage(&errors),
    };
    let json = arguments.json;
    match run(config, estimates, question(arguments)) {
        Ok(document) => match if json { say_json(&document) } else { tell(&document) } {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => complain(problem, 1),
        },
        Err((problem, code)) => complain(problem, code),
    }
}

fn question(arguments: ExplainArguments) -> Question {
    let lookup = Lookup { claims: arguments.claim, fallback: None };
    Question {
        payer: Payer { org: arguments.org, team: arguments.team, user: arguments.user },
        lookup: Some(lookup),
        call: CallBody { api: arguments.api, provider: arguments.provider, model: arguments.model },
        service_tier: arguments.service_tier,
        size: Size {
            text_bytes: arguments.text_bytes,
            media_parts: arguments.media_parts,
            max_output_tokens: arguments.max_output_tokens,
            choices: arguments.choices,
            server_context: arguments.server_context,
            unchangeable: arguments.signed,
        },
    }
}

fn run(
    config: &DatabaseConfig,
    estimates: EstimateConfig,
    question: Question,
) -> Result<Value, (String, u8)> {
    let failed = |error: String| (error, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(text(error)))?;
    runtime.block_on(async {
        let pool = db::connect(config).await.map_err(|error| failed(text(error)))?;
        let read = async {
            let mut learned = LearnedLengths::new(estimates.output_percentile);
            learned.apply(admin::output_lengths_since(&pool, 0).await?.0);
            Ok::<_, sqlx::Error>(Known {
                prices: Arc::new(prices::price_book(&pool).await?),
                learned: Arc::new(learned),
                identities: Arc::new(identities::identities(&pool).await?),
                estimates,
            })
        };
        let known = read.await.map_err(|error| failed(text(error)))?;
        let explanation = answer(&pool, question, &known).await.map_err(|error| match error {
            ExplainError::Invalid(problem) => (problem, crate::EXIT_USAGE),
            ExplainError::Look(error) => failed(text(error)),
        })?;
        pool.close().await;
        serde_json::to_value(&explanation).map_err(|error| failed(text(error)))
    })
}

/// Lines for people: why, the budgets, the verdict.
fn tell(document: &Value) -> Result<(), String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for reason in list(&document["why"]) {
        say(word(&reason))?;
    }
    for budget in list(&document["budgets"]) {
        say(format!(
            "budget {}: {} {}, limit {} USD, spent {}, held {}, left {}; {} % used, {} % with this call{}",
            budget["budget_id"],
            word(&budget["tier"]),
            word(&budget["window"]),
            word(&budget["limit_usd"]),
            word(&budget["spent_usd"]),
            word(&budget["held_usd"]),
            word(&budget["remaining_usd"]),
            budget["used_percent"],
            budget["used_percent_with_call"],
            if budget["replaced"] == true { "; replaced by another, it only counts" } else { "" },
        ))?;
    }
    say(format!("verdict: {}", word(&document["verdict"])))?;
    let message = word(&document["message"]);
    if message.is_empty() { Ok(()) } else { say(message) }
}
