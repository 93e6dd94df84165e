//! The words of the access log for what was decided.

/// The backend allowed it as it was.
pub const ALLOW: &str = "allow";
/// A cheaper model was called.
pub const DEGRADED: &str = "degraded";
/// The output was cut down to what the budgets pay.
pub const CLAMPED: &str = "clamped";
/// A cheaper model was called, with less output.
pub const DEGRADED_CLAMPED: &str = "degraded_clamped";
/// The backend denied it.
pub const DENIED: &str = "denied";
/// A denial that the backend gave a moment before was given again.
pub const DENIED_CACHED: &str = "denied_cached";
/// There was no verdict, and it went out.
pub const FAILED_OPEN: &str = "failed_open";
/// There was no verdict, or it could not be carried out, and it was refused.
pub const FAILED_CLOSED: &str = "failed_closed";
/// There was no verdict, and as much as may go out without one has gone out; it was refused.
pub const FAILED_BOUND: &str = "failed_bound";
/// Nobody was known who could pay.
pub const UNIDENTIFIED: &str = "unidentified";
/// It costs nothing, or is let through unmetered.
pub const PASSED: &str = "passed";
/// It can't be metered, and was refused.
pub const REFUSED: &str = "refused";
