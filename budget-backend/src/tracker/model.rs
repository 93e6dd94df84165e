//! The rows, items and effects that [`super::fold`] works on. No behaviour, no database.

use std::collections::BTreeMap;

use purser_protocol::{Payer, Usage};
use serde::Serialize;
use uuid::Uuid;

use crate::ledger::decide::{CounterKey, CounterRef};
use crate::pattern::Names;

/// A hold's identity: ids are unique within an org.
pub type HoldKey = (String, Uuid);

/// The state of a hold's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldState {
    /// Money is reserved.
    Open,
    /// What it cost is in the ledger.
    Settled,
    /// Nothing was sent.
    Voided,
    /// Nobody settled it in time; it was charged in full.
    Expired,
}

impl HoldState {
    /// The name in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Settled => "settled",
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Open, Self::Settled, Self::Voided, Self::Expired]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// A hold as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// Its state.
    pub state: HoldState,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
    /// Where it counts.
    pub counters: Vec<CounterRef>,
    /// The database's clock at its decision, Unix microseconds.
    pub held_at_unix_us: i64,
    /// When it expires, Unix microseconds.
    pub expires_at_unix_us: i64,
    /// Who pays, and what was called.
    pub subject: Subject,
    /// The override that let it through where a budget would have refused it.
    pub override_id: Option<i64>,
    /// What budgets' ladders made of it.
    pub cheaper: Cheaper,
    /// Whether retention has dropped the row: this is then what its first ledger entry says of it.
    pub dropped: bool,
}

impl HoldRow {
    /// Whether it fixes payer, counters and time of what is charged to it. The tombstone of a void
    /// that overtook its hold, or of one without budgets, does not.
    #[must_use]
    pub fn says_where_it_counts(&self) -> bool {
        !(self.state == HoldState::Voided && self.counters.is_empty())
    }
}

/// What budgets' ladders made of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cheaper {
    /// The model asked for, when a cheaper one was called instead.
    pub asked_model: Option<String>,
    /// The output cap to which the request's was lowered, tokens per choice.
    pub clamped_to_tokens: Option<i64>,
}

/// Who pays for what: the columns holds and ledger entries share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The team, or `""`.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// Who bills.
    pub provider: String,
    /// The model sent upstream.
    pub model: String,
    /// The API spoken.
    pub api: String,
    /// Cost tags.
    pub tags: BTreeMap<String, String>,
}

/// The ledger entries an id has already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    /// How many.
    pub count: i32,
    /// Their sum, nano-USD.
    pub charged_nanousd: i64,
    /// Whether one of them is a settlement, which is final.
    pub settled: bool,
}

/// What is known of a call's cost, nano-USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// This much.
    Exactly(i64),
    /// This much was seen, and there may be more out of sight: what was held, or without a hold the
    /// estimate, is charged if that is more.
    AtLeast(i64),
}

/// What a settlement charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// What the usage costs.
    pub cost: Cost,
    /// What a hold for it would have reserved, nano-USD.
    pub estimate_nanousd: i64,
    /// The version of the price used; `None` for a ceiling.
    pub price_id: Option<i64>,
    /// `ceiling` or `partial` when not every price was known; else empty.
    pub price_flag: &'static str,
    /// What occurred and had no known price.
    pub unpriced: Vec<String>,
    /// The price row used; `"*"` for a ceiling.
    pub priced_as: String,
    /// How it was found.
    pub price_match: &'static str,
    /// Since when it applies, Unix seconds.
    pub price_effective_from_unix_s: Option<i64>,
}

/// A settlement, priced and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Who pays.
    pub payer: Payer,
    /// The ledger's columns for it.
    pub subject: Subject,
    /// What the price list has the model stand for: an alias's target, the row that prices it.
    pub stands_for: Vec<String>,
    /// The model asked for, when the sender says that another one was called.
    pub asked_model: Option<String>,
    /// What it charges.
    pub charge: Charge,
    /// Facts for the detail row.
    pub facts: Facts,
    /// When the request arrived by the proxy's clock, Unix microseconds.
    pub started_at_unix_us: i64,
}

impl Settle {
    /// The names of the model that was called.
    #[must_use]
    pub fn names(&self) -> Names {
        Names::of(&self.subject.model, self.stands_for.iter().map(String::as_str))
    }
}

/// Facts about a call that go into its detail row as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The model the answer named.
    pub answered_model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Tokens by class.
    pub usage: Usage,
    /// What costs by the piece.
    pub units: BTreeMap<String, u64>,
    /// The tier, speed or traffic class that the answer named.
    pub service_tier: Option<String>,
    /// What the provider itself reported, nano-USD.
    pub reported_cost_nanousd: Option<i64>,
    /// `exact`, `at_least` or `none`.
    pub usage_quality: &'static str,
    /// `held` or `fail_open`.
    pub admission: &'static str,
    /// Whether it was a stream.
    pub stream: bool,
    /// The upstream's status; 0 when none came.
    pub http_status: u16,
    /// How it ended.
    pub ending: &'static str,
    /// Milliseconds from arrival to end.
    pub duration_ms: Option<i64>,
    /// Milliseconds from arrival to the first byte of the answer.
    pub first_byte_ms: Option<i64>,
    /// Output tokens per choice of an answer that came whole and that no cap could cut: what an
    /// answer needs. Not a column; it is learned from.
    pub answer_tokens: Option<i64>,
}

/// Something to do to one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// It went upstream.
    Settle(Box<Settle>),
    /// It did not.
    Void(Payer),
    /// It is still running.
    Renew,
    /// Its time is up, if it still is open.
    Expire,
    /// It can't be recorded; kept aside for somebody to look at.
    Quarantine(Quarantined),
}

/// An item that can't be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Why.
    pub reason: String,
    /// The item, as text.
    pub item: String,
}

/// A ledger entry to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The hold.
    pub key: HoldKey,
    /// 0 for the first charge, more for corrections.
    pub entry: i32,
    /// Signed, nano-USD.
    pub cost_nanousd: i64,
    /// What had been held, nano-USD.
    pub held_nanousd: i64,
    /// `settled`, `estimated`, `expired` or `repriced`.
    pub cause: &'static str,
    /// The instant it counts at, Unix microseconds.
    pub occurred_at_unix_us: i64,
    /// Where it counts.
    pub counters: Vec<CounterRef>,
    /// The ledger's columns for it.
    pub subject: Subject,
    /// The hold's override.
    pub override_id: Option<i64>,
    /// What budgets' ladders made of it.
    pub cheaper: Cheaper,
    /// How it was priced; `None` for an expired hold.
    pub charge: Option<Charge>,
    /// The rest of the row.
    pub facts: Facts,
}

/// What changes on one counter, nano-USD.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Added to spent.
    pub spent_nanousd: i64,
    /// Added to held; never positive.
    pub held_nanousd: i64,
}

/// The rows of a batch, as read under their locks; updated as items are folded in.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Holds that exist, or existed.
    pub holds: BTreeMap<HoldKey, HoldRow>,
    /// Entries that exist.
    pub entries: BTreeMap<HoldKey, Entries>,
    /// For ids without a hold: where a settlement of that payer counts.
    pub fallback_counters: BTreeMap<HoldKey, Vec<CounterRef>>,
    /// The database's clock, Unix microseconds.
    pub now_unix_us: i64,
    /// How long a renewed hold lives, seconds.
    pub hold_ttl_s: i64,
}

/// What becomes of a hold's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldUpdate {
    /// Its state.
    pub state: HoldState,
    /// When it expires, Unix microseconds.
    pub expires_at_unix_us: i64,
}

/// What a batch writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Ledger entries.
    pub entries: Vec<NewEntry>,
    /// Counter changes.
    pub changes: BTreeMap<CounterKey, Change>,
    /// Ids whose row exists and changes.
    pub updates: BTreeMap<HoldKey, HoldUpdate>,
    /// Rows to make, for ids without one.
    pub tombstones: BTreeMap<HoldKey, HoldRow>,
    /// Items to keep aside.
    pub quarantined: Vec<(HoldKey, Quarantined)>,
}
