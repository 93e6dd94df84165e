//! Asking for a hold, and the verdict.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Api;

/// Who pays: the place in org → team → user. Names are opaque, case-sensitive, at most
/// [`crate::MAX_NAME_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Payer {
    /// The organisation. Always known: a request without one never asks for a hold.
    pub org: String,
    /// The team, when the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The user within the team, when the request names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What is known of a caller that doesn't say by itself who pays: the backend looks it up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lookup {
    /// What may name the caller, in the order it is tried; at most [`crate::MAX_CLAIMS`].
    pub claims: Vec<Claim>,
    /// Who pays when no claim is known; without one the call is refused as `unidentified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Payer>,
}

/// One thing that may name a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Claim {
    /// What it is.
    pub kind: ClaimKind,
    /// Its value, at most [`crate::MAX_CLAIM_BYTES`] bytes.
    pub value: String,
}

/// What may name a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// SHA-256 of the API key that the app sent, 64 hexadecimal digits in lower case. Never the key.
    ApiKeySha256,
    /// The SPIFFE id of the peer's certificate, `spiffe://domain/path`.
    SpiffeId,
    /// The namespace of the workload.
    Namespace,
    /// A kind newer than this reader; it names nobody.
    #[serde(other)]
    Other,
}

impl ClaimKind {
    /// The name on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKeySha256 => "api_key_sha256",
            Self::SpiffeId => "spiffe_id",
            Self::Namespace => "namespace",
            Self::Other => "other",
        }
    }
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The API spoken.
    pub api: Api,
    /// Who bills for it, as in the price table (`openai`). From the route, not from the request.
    pub provider: String,
    /// The model the app asked for.
    pub model: String,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
}

/// What bounds the cost of a call, as far as its request shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes of the request that the model may read as text: the body without the payload of media
    /// parts. Never less than what the provider tokenises.
    pub text_bytes: u64,
    /// Images, audio and files in the request.
    #[serde(default)]
    pub media_parts: u32,
    /// The request's own cap on output tokens, per choice; absent when it sets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// How many answers are asked for; each may use the whole cap.
    #[serde(default = "one")]
    pub choices: u32,
    /// Whether the model reads more than the request carries: an earlier answer or a conversation the
    /// provider keeps, cached content, media by reference. `text_bytes` then bounds nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub server_context: bool,
    /// Whether the request can't be changed on its way because it is signed: a verdict's rewrite would not
    /// be carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchangeable: bool,
}

const fn one() -> u32 {
    1
}

/// `POST /v1/holds`: may this call go out, and if so, reserve what it may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    /// [`crate::VERSION`] of the sender.
    pub version: u16,
    /// UUIDv7 made by the filter: names the hold, its settlement and its ledger entries. A repeat
    /// of a granted id is answered with its grant and holds nothing more.
    pub hold_id: Uuid,
    /// Who pays. Its org is empty when only `lookup` can tell; a team or user that is known all the same
    /// stands there and wins over the one looked up.
    pub payer: Payer,
    /// What may name the payer, when the filter can't; absent when the org is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Lookup>,
    /// What is called.
    pub call: Call,
    /// The service tier asked for (`flex`, `priority`), when the request names one; the answer may name another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// What bounds its cost.
    pub size: Size,
    /// Cost tags from trusted sources, such as `project`; at most [`crate::MAX_TAGS`]. They travel
    /// with the hold into the ledger and its rollup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// How long the filter waits, in milliseconds. The backend holds nothing after it.
    pub deadline_ms: u32,
}

/// The answer to [`HoldRequest`], always with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldResponse {
    /// [`crate::VERSION`] of the backend.
    pub version: u16,
    /// The hold asked about.
    pub hold_id: Uuid,
    /// What was decided.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Allow or deny. A failed backend is neither: it has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The money is held in every budget concerned; the call may go out.
    Allow(Allow),
    /// Nothing is held; the call must not go out.
    Deny(Deny),
}

/// A granted hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// What is reserved, nano-USD.
    pub held_nanousd: i64,
    /// The budget with the least left of each tier that has one, this hold taken off, in the order
    /// org, team, user.
    #[serde(default)]
    pub remaining: Vec<TierRemaining>,
    /// What the filter must change in the request before it goes out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Whether a strict budget was touched: its payer must not be let through without a verdict, so
    /// the filter fails closed for it while it remembers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Who pays, when it was looked up. It goes into everything that is said about this hold later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<Payer>,
    /// The budgets that this call brings to their warning or beyond, from org to user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Whether `rewrite` lowers the output cap because a budget couldn't pay for more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clamped: bool,
}

/// A budget that is nearly used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Its number in the backend.
    pub budget_id: i64,
    /// Its tier.
    pub tier: Tier,
    /// Its window.
    pub window: Window,
    /// What is spent and held of its limit, this hold included, in whole percent, rounded down.
    pub used_percent: u32,
}

/// What a tier has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierRemaining {
    /// The tier.
    pub tier: Tier,
    /// The window of the budget with the least left.
    pub window: Window,
    /// Its limit in the running period, nano-USD.
    pub limit_nanousd: i64,
    /// What is left of it, nano-USD. Negative when a lowered limit is below what was spent.
    pub remaining_nanousd: i64,
    /// Seconds until its next period; absent for a window without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_in_s: Option<u64>,
}

/// Changes to the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The model to ask for instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The output cap to send, tokens per choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

/// A refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deny {
    /// Why.
    pub reason: DenyReason,
    /// One sentence for the caller: what ran out, how much it was, when it is back.
    pub message: String,
    /// The budget that refused, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<DeniedBudget>,
    /// As in [`Allow`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Whether any call of this payer to this model by this API would be refused just now, however little
    /// it cost: what was spent alone reaches the limit. The filter may repeat such a denial for a moment
    /// without asking.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exhausted: bool,
    /// As in [`Allow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<Payer>,
}

/// Why a hold is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// A budget has too little left.
    OverBudget,
    /// The id was already voided, expired or settled; a late hold on it is not opened.
    Closed,
    /// The request can't be priced or can't be right (an empty name, an impossible number).
    NotPriceable,
    /// An operator has shut this org, team or user off.
    Blocked,
    /// The payer may not use this model.
    ModelNotAllowed,
    /// The org wants a budget in each of some tiers, and one of them has none.
    NoBudget,
    /// A strict budget is touched, and nothing bounds what the call may cost.
    NotBoundable,
    /// Nobody is known by what the request says of its caller.
    Unidentified,
    /// A reason newer than this reader.
    #[default]
    #[serde(other)]
    Other,
}

/// The budget that refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedBudget {
    /// Its number in the backend.
    pub budget_id: i64,
    /// Its tier.
    pub tier: Tier,
    /// Its window.
    pub window: Window,
    /// The limit in the running period, nano-USD.
    pub limit_nanousd: i64,
    /// What was settled in the period, nano-USD.
    pub spent_nanousd: i64,
    /// What other calls hold, nano-USD.
    pub held_nanousd: i64,
    /// What this call would have held, nano-USD.
    pub needed_nanousd: i64,
    /// Start of the next period, RFC 3339 in UTC; absent for a window without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<String>,
}

/// The three tiers, in the order they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The organisation.
    Org,
    /// A team of it.
    Team,
    /// A user of a team.
    User,
}

impl DenyReason {
    /// The name on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OverBudget => "over_budget",
            Self::Closed => "closed",
            Self::NotPriceable => "not_priceable",
            Self::Blocked => "blocked",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::NoBudget => "no_budget",
            Self::NotBoundable => "not_boundable",
            Self::Unidentified => "unidentified",
            Self::Other => "other",
        }
    }
}

impl Tier {
    /// The name on the wire, in headers and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Team => "team",
            Self::User => "user",
        }
    }
}

/// The calendar window of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Midnight to midnight in the budget's time zone.
    Day,
    /// Monday to Monday.
    Week,
    /// First to first.
    Month,
    /// All time; never resets.
    Total,
}

impl Window {
    /// The name on the wire, in headers and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The window of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Day, Self::Week, Self::Month, Self::Total].into_iter().find(|window| window.as_str() == name)
    }
}
