//! The filter's configuration: JSON, read once, every mistake reported with its path.

mod duplicates;
mod failures;
mod fields;
mod identity;
mod options;
mod sources;

use std::fmt;

use purser_protocol::{MAX_BATCH_ITEMS, MAX_NAME_BYTES, Payer};
use serde_json::Value;

pub use failures::{BreakerLimits, FailOpenLimits, FailureMode, FailureModes};
use fields::{Fields, Text};
pub use identity::{Identity, LookupBy};
pub use options::{AnswerHeaders, Denials};
pub use sources::{Source, SpiffePart};

/// A configuration without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the budget backend is.
    pub backend: Backend,
    /// Who bills for the calls, as in the backend's price table.
    pub provider: String,
    /// What the provider speaks, where the paths of several look alike.
    pub dialect: Dialect,
    /// Where it stands who pays, and what the cost is tagged with.
    pub identity: Identity,
    /// What happens to a metered call of which nothing names the org.
    pub unidentified: Unidentified,
    /// What happens to a metered call when the backend gives no verdict; a route's metadata may say
    /// otherwise.
    pub failure_mode: FailureModes,
    /// How much goes out without a verdict.
    pub fail_open: FailOpenLimits,
    /// When the backend is not asked.
    pub breaker: BreakerLimits,
    /// What happens to a request that may cost money but can't be metered.
    pub unknown_api: Policy,
    /// What happens to a metered call whose body can't be read.
    pub unreadable_request: Policy,
    /// Largest request body, bytes. The proxy's own buffer limit must be larger.
    pub max_request_body_bytes: usize,
    /// Largest JSON answer that is kept for reading its usage, bytes.
    pub max_metered_body_bytes: usize,
    /// Bounds of the settlements that wait to be sent.
    pub outbox: OutboxLimits,
    /// What refusals tell, and how long they are repeated without asking.
    pub denials: Denials,
    /// What answers that came through tell of budgets.
    pub headers: AnswerHeaders,
    /// Most counters of tokens by model and team; what comes beyond counts as `other`.
    pub max_series: usize,
    /// Whether the access log is told of each call.
    pub access_log: bool,
}

/// How to reach the backend.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    /// The proxy's cluster for it.
    pub cluster: String,
    /// The bearer token.
    pub token: String,
    /// How long a request waits for its verdict, milliseconds.
    pub hold_timeout_ms: u32,
    /// How long a batch of settlements waits for its answer, milliseconds.
    pub settle_timeout_ms: u32,
    /// How often a running call's hold is renewed, seconds. It must be well below the time that the
    /// backend lets a hold live.
    pub renew_interval_s: u32,
}

/// The token stays out of logs.
impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("cluster", &self.cluster)
            .field("hold_timeout_ms", &self.hold_timeout_ms)
            .field("settle_timeout_ms", &self.settle_timeout_ms)
            .field("renew_interval_s", &self.renew_interval_s)
            .finish_non_exhaustive()
    }
}

/// What happens to a metered call that names no org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unidentified {
    /// It is refused.
    Deny,
    /// This payer pays.
    Payer(Payer),
}

/// What a provider speaks: how it departs from OpenAI's API, and the shape of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI itself, also on Azure.
    Openai,
    /// A server that copies OpenAI's API: the output cap has its older name.
    Compatible,
    /// Refuses fields it doesn't know, and tells usage unasked.
    Mistral,
    /// Tells what each call cost.
    Openrouter,
    /// Anthropic.
    Anthropic,
    /// Google.
    Gemini,
    /// Amazon Bedrock.
    Bedrock,
    /// Cohere.
    Cohere,
    /// Ollama.
    Ollama,
}

impl Dialect {
    const WORDS: [(&str, Self); 9] = [
        ("openai", Self::Openai),
        ("compatible", Self::Compatible),
        ("mistral", Self::Mistral),
        ("openrouter", Self::Openrouter),
        ("anthropic", Self::Anthropic),
        ("gemini", Self::Gemini),
        ("bedrock", Self::Bedrock),
        ("cohere", Self::Cohere),
        ("ollama", Self::Ollama),
    ];

    /// What a provider of this name speaks: `mistral`, `mistral-eu`, `vertex_ai/mistral`.
    #[must_use]
    pub fn of_provider(provider: &str) -> Self {
        let name = provider.to_ascii_lowercase();
        if name.contains("azure") {
            return Self::Openai;
        }
        if name.contains("deepseek") {
            // As Mistral it sends usage unasked, on the last chunk.
            return Self::Mistral;
        }
        let word = Self::WORDS.iter().find(|(word, _)| name.contains(word));
        match word {
            Some((_, dialect)) => *dialect,
            None if name.contains("vertex") || name.contains("google") => Self::Gemini,
            None => Self::Compatible,
        }
    }
}

/// Whether what can't be metered may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Deny,
    /// It goes out unmetered, and is counted.
    Pass,
}

/// Bounds of the settlements that wait to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes they may take; what comes beyond is lost, counted and logged.
    pub max_bytes: usize,
    /// Most items in one batch.
    pub batch_items: usize,
    /// How long a settlement waits for others to go with it, milliseconds.
    pub flush_interval_ms: u32,
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, as `outer.inner`; empty for the whole text.
    pub path: String,
    /// What was expected there, and what stands there.
    pub problem: String,
}

/// Every mistake of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match mistake.path.as_str() {
                "" => write!(f, "configuration: {}", mistake.problem)?,
                path => write!(f, "{path}: {}", mistake.problem)?,
            }
        }
        Ok(())
    }
}

const MAX_BYTES: u64 = 256 << 20;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Mistakes`], all of them at once.
    pub fn parse(json: &[u8]) -> Result<Self, Mistakes> {
        let no_json = |why: String| {
            Mistakes(vec![Mistake { path: String::new(), problem: format!("expected a JSON object: {why}") }])
        };
        let text = std::str::from_utf8(json).map_err(|error| no_json(error.to_string()))?;
        let value: Value = serde_json::from_str(text).map_err(|error| no_json(error.to_string()))?;
        let mut mistakes = duplicates::find(text);
        let mut root = Fields::root(&value, &mut mistakes);
        let backend = backend(&mut root);
        let provider = root.required_text("provider", Text::Name);
        let config = Self {
            backend,
            dialect: root.choice("dialect", Dialect::of_provider(&provider), &Dialect::WORDS),
            provider,
            identity: identity::read(&mut root),
            unidentified: unidentified(&mut root),
            failure_mode: failures::failure_modes(&mut root),
            fail_open: failures::fail_open(&mut root),
            breaker: failures::breaker(&mut root),
            unknown_api: root.choice(
                "unknown_api",
                Policy::Deny,
                &[("deny", Policy::Deny), ("allow", Policy::Pass)],
            ),
            unreadable_request: root.choice(
                "unreadable_request",
                Policy::Deny,
                &[("deny", Policy::Deny), ("pass", Policy::Pass)],
            ),
            max_request_body_bytes: root.size("max_request_body_bytes", 1024..=MAX_BYTES, 16 << 20),
            max_metered_body_bytes: root.size("max_metered_body_bytes", 1024..=MAX_BYTES, 8 << 20),
            outbox: outbox(&mut root),
            denials: options::denials(&mut root),
            headers: options::headers(&mut root),
            max_series: options::max_series(&mut root),
            access_log: root.flag("access_log", true),
        };
        if !config.identity.can_name_anybody() && config.unidentified == Unidentified::Deny {
            root.mistake_at("identity.org", "expected a source, a lookup, or a payer in unidentified");
        }
        root.finish();
        if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
    }
}

fn backend(root: &mut Fields<'_>) -> Backend {
    let mut fields = root.section("backend", true);
    let backend = Backend {
        cluster: fields.required_text("cluster", Text::Name),
        token: fields.required_text("token", Text::Token),
        hold_timeout_ms: fields.duration("hold_timeout_ms", 1..=60_000, 250),
        settle_timeout_ms: fields.duration("settle_timeout_ms", 1..=600_000, 5_000),
        renew_interval_s: fields.duration("renew_interval_s", 1..=3_600, 240),
    };
    fields.finish();
    backend
}

fn unidentified(root: &mut Fields<'_>) -> Unidentified {
    if !root.is_object("unidentified") {
        let expected = "\"deny\" or an object with org, team and user";
        root.only_choice("unidentified", "deny", expected);
        return Unidentified::Deny;
    }
    let mut fields = root.section("unidentified", false);
    let payer = Payer {
        org: fields.required_text("org", Text::PayerName),
        team: fields.optional_text("team", Text::PayerName),
        user: fields.optional_text("user", Text::PayerName),
    };
    fields.finish();
    Unidentified::Payer(payer)
}

fn outbox(root: &mut Fields<'_>) -> OutboxLimits {
    let mut fields = root.section("outbox", false);
    let most_items = u64::try_from(MAX_BATCH_ITEMS).unwrap_or(u64::MAX);
    let limits = OutboxLimits {
        max_bytes: fields.size("max_bytes", 65_536..=MAX_BYTES, 8 << 20),
        batch_items: fields.size("batch_items", 1..=most_items, 128),
        flush_interval_ms: fields.duration("flush_interval_ms", 1..=60_000, 50),
    };
    fields.finish();
    limits
}

/// Whether a text can name one org, team or user.
#[must_use]
pub fn is_payer_name(text: &str) -> bool {
    // In budgets it means each one.
    is_name(text) && text != "*"
}

/// Whether a text can be a name at all.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
