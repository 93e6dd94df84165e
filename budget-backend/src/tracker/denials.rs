//! Refused calls one by one, for whoever asks why: kept in memory until the tracker's thread writes them,
//! so many at a time and so many of an org an hour. The counts of [`super::verdicts`] have them all.

use purser_protocol::{Call, Deny, Payer};
use uuid::Uuid;

/// Most kept between two writes.
pub const MAX_DENIALS: usize = 1_024;

/// Longest message kept, bytes; what an operator gave as a reason may make it longer.
const MAX_MESSAGE_BYTES: usize = 1_024;

/// A refused call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Who would have paid; an empty org where nobody was known.
    pub payer: Payer,
    /// What was asked for.
    pub call: Call,
    /// The hold asked for.
    pub hold_id: Uuid,
    /// What was answered.
    pub deny: Deny,
    /// The budget that refused; 0 when none did.
    pub budget_id: i64,
    /// How many calls: more than one where a filter refused by itself.
    pub calls: i64,
    /// When, Unix microseconds.
    pub at_unix_us: i64,
}

impl Denial {
    /// A refused call; the message is cut to what is kept of it.
    #[must_use]
    pub fn new(payer: Payer, call: Call, hold_id: Uuid, mut deny: Deny, at_unix_us: i64) -> Self {
        deny.message.truncate(deny.message.floor_char_boundary(MAX_MESSAGE_BYTES));
        let budget_id = deny.budget.as_ref().map_or(0, |budget| budget.budget_id);
        Self { payer, call, hold_id, deny, budget_id, calls: 1, at_unix_us }
    }
}
