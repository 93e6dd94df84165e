//! The wire between the filter in Envoy and the budget backend, and the units on it.
//!
//! Both sides share these types and nothing else. Every amount is an integer in nano-USD
//! (10⁻⁹ USD, `i64`) and carries the unit in its name; every time and size carries its unit too.
//!
//! Versioning: each message has a `version`. The backend accepts [`VERSION`] and the one before;
//! fields are only added, with a default, so that replicas and filters roll in any order. Readers
//! ignore fields they don't know. Golden files in `protocol/golden/` pin the JSON.

mod api;
mod failure;
mod hold;
mod money;
mod settlement;

pub use api::Api;
pub use failure::FailureCause;
pub use hold::{
    Allow, Call, Claim, ClaimKind, DeniedBudget, Deny, DenyReason, HoldRequest, HoldResponse, Lookup, Payer,
    Rewrite, Size, Tier, TierRemaining, Verdict, Warning, Window,
};
pub use money::{ParseUsdError, format_usd, parse_usd};
pub use settlement::{
    Admission, Ending, ItemResult, Outcome, Renew, RepeatedDenials, Settlement, SettlementBatch,
    SettlementItem, SettlementResponse, Usage, UsageQuality, Void,
};

/// The version this code speaks.
pub const VERSION: u16 = 1;

/// The oldest version the backend still accepts.
pub const OLDEST_VERSION: u16 = 1;

/// Path of the hold endpoint: `POST`, [`HoldRequest`] in, [`HoldResponse`] out. Always 200 when the
/// backend decided; any other status means that it failed.
pub const HOLDS_PATH: &str = "/v1/holds";

/// Path of the settlement endpoint: `POST`, [`SettlementBatch`] in, [`SettlementResponse`] out,
/// answered only after the commit.
pub const SETTLEMENTS_PATH: &str = "/v1/settlements";

/// Response header that marks an answer as the backend's own. A 200 from anything else on the way
/// (a proxy's error page, a wrong port) lacks it and counts as a failed backend, never as a verdict.
pub const MARKER_HEADER: &str = "x-purser-backend";

/// Value of [`MARKER_HEADER`].
pub const MARKER_VALUE: &str = "1";

/// Most items one [`SettlementBatch`] may carry; a larger batch is refused whole with 413.
pub const MAX_BATCH_ITEMS: usize = 256;

/// Most cost tags of one call.
pub const MAX_TAGS: usize = 8;

/// Longest name or value of a cost tag, in bytes.
pub const MAX_TAG_BYTES: usize = 64;

/// Most claims of one lookup.
pub const MAX_CLAIMS: usize = 4;

/// Longest value of a claim, in bytes.
pub const MAX_CLAIM_BYTES: usize = 512;

/// Most kinds of units of one call.
pub const MAX_UNITS: usize = 16;

/// Longest name of a unit and of a service tier, in bytes.
pub const MAX_UNIT_BYTES: usize = 64;

/// Longest org, team, user, provider or model name, in bytes. Longer ones are refused.
pub const MAX_NAME_BYTES: usize = 256;
