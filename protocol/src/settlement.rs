//! Telling what a call cost, or that it never went out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Call, Lookup, Payer, Size};

/// `POST /v1/settlements`: at most [`crate::MAX_BATCH_ITEMS`] items, each with an outcome of its
/// own, so that one bad item can't hold up the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettlementBatch {
    /// [`crate::VERSION`] of the sender.
    pub version: u16,
    /// In the order they came about.
    pub items: Vec<SettlementItem>,
}

/// One entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SettlementItem {
    /// The call went upstream; this is what is known about it.
    Settle(Box<Settlement>),
    /// Nothing was sent upstream; the hold, if there is one, is given back.
    Void(Void),
    /// The call is still running; its hold shall live on. Sent in batches of its own, so that a
    /// backend which doesn't know renewals refuses nothing else.
    Renew(Renew),
    /// Calls that the filter refused by a denial it remembered. Sent in batches of their own, as renewals are.
    RepeatedDenials(Box<RepeatedDenials>),
}

impl SettlementItem {
    /// The hold this item is about.
    #[must_use]
    pub fn hold_id(&self) -> Uuid {
        match self {
            Self::Settle(settlement) => settlement.hold_id,
            Self::Void(void) => void.hold_id,
            Self::Renew(renew) => renew.hold_id,
            Self::RepeatedDenials(denials) => denials.hold_id,
        }
    }

    /// Who pays.
    #[must_use]
    pub fn payer(&self) -> &Payer {
        match self {
            Self::Settle(settlement) => &settlement.payer,
            Self::Void(void) => &void.payer,
            Self::Renew(renew) => &renew.payer,
            Self::RepeatedDenials(denials) => &denials.payer,
        }
    }

    /// What may name the payer, when the filter never learnt it.
    #[must_use]
    pub fn lookup(&self) -> Option<&Lookup> {
        match self {
            Self::Settle(settlement) => settlement.lookup.as_ref(),
            Self::Void(void) => void.lookup.as_ref(),
            Self::Renew(_) | Self::RepeatedDenials(_) => None,
        }
    }
}

/// A call that went upstream: everything the ledger needs, also when its hold was never made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The id of the hold.
    pub hold_id: Uuid,
    /// Who pays; its org is empty when only `lookup` can tell.
    pub payer: Payer,
    /// As in the hold, when no verdict told who pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Lookup>,
    /// What was called, as sent upstream.
    pub call: Call,
    /// The model the app asked for, when a cheaper one was called instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_model: Option<String>,
    /// What bounded its cost; used when neither usage nor a hold says what it was.
    pub size: Size,
    /// Why the call went out.
    pub admission: Admission,
    /// The model the answer names; it wins over the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_model: Option<String>,
    /// The provider's own id of the answer, to find the call on its invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
    /// Tokens by class.
    pub usage: Usage,
    /// How far `usage` can be trusted.
    pub usage_quality: UsageQuality,
    /// The upstream's HTTP status; 0 when no answer came.
    pub http_status: u16,
    /// How the call ended.
    pub ending: Ending,
    /// When the request arrived, milliseconds since the Unix epoch, by the proxy's clock.
    pub started_at_unix_ms: i64,
    /// From the request's arrival to its end, milliseconds.
    pub duration_ms: u64,
    /// From the request's arrival to the first byte of the answer's body, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Cost tags, as in the hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The tier, speed or traffic class that the answer names (`flex`, `priority`, `fast`); its price
    /// may differ from the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// What costs by the piece and not by the token, as the answer tells it: `web_search_requests`,
    /// `images`, `audio_seconds`, `search_units` and so on; at most [`crate::MAX_UNITS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, u64>,
    /// The cost that the provider itself reports with the answer, nano-USD, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_cost_nanousd: Option<i64>,
    /// Whether the call was taken on, and its usage will never be told on it (background answers,
    /// batches): it is charged at its full estimate at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usage_never_comes: bool,
    /// Whether the model may have made output that is billed and not seen, by what the request said of
    /// thinking; absent when that says nothing, and the price list has to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_think: Option<bool>,
}

/// Gives back a hold whose call was never sent. Also sent when the hold's answer was never seen: if
/// it overtakes the hold, it leaves a tombstone and the hold is not opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    /// The id of the hold.
    pub hold_id: Uuid,
    /// Who would have paid; its org is empty when only `lookup` can tell.
    pub payer: Payer,
    /// As in the hold, when no verdict told who pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Lookup>,
}

/// Calls that were refused without asking, by a denial which said that the budget is exhausted. They
/// are counted, and cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepeatedDenials {
    /// An id made for this report: sent twice, it counts once as far as the backend remembers.
    pub hold_id: Uuid,
    /// Who was refused.
    pub payer: Payer,
    /// What was asked for; `stream` means nothing here.
    pub call: Call,
    /// The budget that the denial named.
    pub budget_id: i64,
    /// How many calls.
    pub count: u64,
}

/// Keeps a running call's hold from expiring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// The id of the hold.
    pub hold_id: Uuid,
    /// Who pays.
    pub payer: Payer,
}

/// Why a call went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// The backend allowed it.
    Held,
    /// The backend gave no verdict and the route fails open.
    FailOpen,
}

/// Tokens by class. The classes don't overlap: a token is counted in exactly one, so that the cost
/// is the sum of class × rate. The filter resolves each provider's overlaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input that was neither read from nor written to a cache.
    pub input_tokens: u64,
    /// Input read from the provider's cache.
    pub cached_input_tokens: u64,
    /// Input written to a cache that lives five minutes, or whose lifetime isn't said.
    pub cache_write_5m_tokens: u64,
    /// Input written to a cache that lives an hour.
    pub cache_write_1h_tokens: u64,
    /// Output the caller sees.
    pub output_tokens: u64,
    /// Output spent on reasoning.
    pub reasoning_tokens: u64,
    /// Audio in the input.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_input_tokens: u64,
    /// Audio in the output.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_output_tokens: u64,
    /// Images in the input.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_input_tokens: u64,
    /// Images in the output.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_output_tokens: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Usage {
    /// The counts, in the order of the fields.
    #[must_use]
    pub const fn classes(&self) -> [u64; 10] {
        [
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.audio_input_tokens,
            self.audio_output_tokens,
            self.image_input_tokens,
            self.image_output_tokens,
        ]
    }
}

/// How far a [`Usage`] can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageQuality {
    /// The provider's own numbers, complete.
    Exact,
    /// Counted from what was seen of the answer: at least this much was used.
    AtLeast,
    /// Nothing was seen; the zeros in `usage` mean nothing.
    None,
}

impl UsageQuality {
    /// The name on the wire and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::AtLeast => "at_least",
            Self::None => "none",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The answer arrived whole, or its stream said that it was done.
    Complete,
    /// The client left first.
    ClientGone,
    /// The upstream or the connection to it broke off, or took too long.
    UpstreamCut,
}

impl Ending {
    /// The name on the wire and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamCut => "upstream_cut",
        }
    }
}

/// The answer to a [`SettlementBatch`], after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettlementResponse {
    /// [`crate::VERSION`] of the backend.
    pub version: u16,
    /// One for each item, in the batch's order.
    pub results: Vec<ItemResult>,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemResult {
    /// The item's hold.
    pub hold_id: Uuid,
    /// What became of it. All three are final: the sender forgets the item.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is in the ledger; a renewed hold lives on.
    Recorded,
    /// It was there already, or its hold was closed by something that beats it. A renewal found no
    /// open hold.
    Duplicate,
    /// It can't be recorded, now or later.
    Rejected {
        /// Why, for the log.
        reason: String,
    },
}
