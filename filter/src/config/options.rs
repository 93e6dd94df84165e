//! What answers tell, and what is counted.

use super::fields::Fields;

/// What refusals tell, and how long they are repeated without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denials {
    /// Whether messages and headers name amounts of money.
    pub show_amounts: bool,
    /// How long a refusal by an exhausted budget is repeated without asking, milliseconds; 0 asks every
    /// time.
    pub cache_ms: u32,
}

/// What answers that came through tell of budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerHeaders {
    /// What each tier has left: `x-purser-remaining-TIER`.
    pub remaining: bool,
    /// Which budgets are nearly used up: `x-purser-warning`.
    pub warnings: bool,
    /// The same as `remaining` as the IETF's `RateLimit` and `RateLimit-Policy`, in micro-USD.
    pub ratelimit: bool,
}

pub fn denials(root: &mut Fields<'_>) -> Denials {
    let mut fields = root.section("denials", false);
    let denials = Denials {
        show_amounts: fields.choice("amounts", true, &[("show", true), ("hide", false)]),
        cache_ms: fields.duration("cache_ms", 0..=60_000, 1_000),
    };
    fields.finish();
    denials
}

pub fn headers(root: &mut Fields<'_>) -> AnswerHeaders {
    let mut fields = root.section("headers", false);
    let headers = AnswerHeaders {
        remaining: fields.flag("remaining", true),
        warnings: fields.flag("warnings", true),
        ratelimit: fields.flag("ratelimit", false),
    };
    fields.finish();
    headers
}

pub fn max_series(root: &mut Fields<'_>) -> usize {
    let mut fields = root.section("metrics", false);
    let max_series = fields.size("max_series", 0..=10_000, 200);
    fields.finish();
    max_series
}
