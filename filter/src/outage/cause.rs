//! What a missing verdict is due to, as far as the failure mode tells it apart.

use crate::config::{FailureMode, FailureModes};
use crate::identity::Proxy;
use crate::verdict::Failure;
use purser_protocol::FailureCause;

/// The causes that may each have a failure mode of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody is there, or the connection broke.
    Unreachable,
    /// There was no answer in time.
    Timeout,
    /// An answer that is none: an error, or not of this backend.
    Error,
    /// The backend has too much to do.
    Busy,
    /// The backend has no database.
    Database,
    /// The backend refuses to decide: wrong token, wrong version.
    Rejected,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unreachable, Self::Timeout, Self::Error, Self::Busy, Self::Database, Self::Rejected];

    /// The cause of a failure.
    #[must_use]
    pub const fn of(failure: Failure) -> Self {
        match failure {
            // What the proxy itself answers for a backend that it can't reach, or that is too slow.
            Failure::NotSent | Failure::BrokenOff | Failure::Status(502 | 503) => Self::Unreachable,
            Failure::Status(504) | Failure::Named(FailureCause::Deadline) => Self::Timeout,
            Failure::Named(FailureCause::Busy) => Self::Busy,
            Failure::Named(FailureCause::Database) => Self::Database,
            Failure::Status(_) | Failure::Own(_) | Failure::NotAVerdict => Self::Error,
            Failure::Rejected(_) => Self::Rejected,
        }
    }

    /// As in configurations, labels and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Busy => "busy",
            Self::Database => "database",
            Self::Rejected => "rejected",
        }
    }

    /// Its place in [`Cause::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Unreachable => 0,
            Self::Timeout => 1,
            Self::Error => 2,
            Self::Busy => 3,
            Self::Database => 4,
            Self::Rejected => 5,
        }
    }
}

/// Where a route's metadata says how it fails.
const ROUTE_MODE: &str = "xds\0route_metadata\0filter_metadata\0purser\0failure_mode";

/// The mode of the route that is being served: what its metadata say, else the configuration. A mode is asked
/// for only when there is no verdict.
#[must_use]
pub fn mode(cause: Cause, modes: &FailureModes, proxy: &dyn Proxy) -> FailureMode {
    let named = |name: &str| proxy.property(&format!("{ROUTE_MODE}\0{name}")).map(|text| read(&text));
    if let Some(mode) = named(cause.as_str()) {
        return mode;
    }
    let is_rejected = cause == Cause::Rejected;
    let of_route = named("default").or_else(|| proxy.property(ROUTE_MODE).as_deref().and_then(read_text));
    match of_route {
        Some(FailureMode::Closed) => FailureMode::Closed,
        Some(FailureMode::Open) if !is_rejected => FailureMode::Open,
        _ => modes.of(cause),
    }
}

/// A word that is neither closes the route.
fn read(text: &[u8]) -> FailureMode {
    if text == b"open" { FailureMode::Open } else { FailureMode::Closed }
}

/// The same of what may be an object instead of a word: the proxy hands those out as lengths and bytes, with
/// zeros among them.
fn read_text(text: &[u8]) -> Option<FailureMode> {
    (!text.is_empty() && !text.contains(&0)).then(|| read(text))
}
