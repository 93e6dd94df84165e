//! What happens on the way that is worth counting.

use purser_protocol::{Tier, Usage, Window};

use crate::api::PathClass;
use crate::config::Policy;
use crate::identity::WithoutOrg;
use crate::request::Unreadable;
use crate::verdict::Failure;

/// Something to count and to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The backend allowed a call.
    Allowed,
    /// The backend allowed a call, of a cheaper model than it asked for.
    Degraded,
    /// The backend allowed a call, with less output than it asked for.
    Clamped,
    /// A budget of an allowed call is nearly used up.
    Warned(Tier, Window),
    /// The backend denied a call.
    Denied,
    /// A call was refused by a denial that the backend gave a moment ago.
    DeniedAgain,
    /// No source named the org.
    WithoutOrg(WithoutOrg),
    /// So many cost tags had no usable value and were left out.
    TagsDropped(u64),
    /// A call ended that told its usage, or of which some was seen.
    Used {
        /// The model called.
        model: String,
        /// The team that pays, if one does.
        team: Option<String>,
        /// What was used.
        usage: Usage,
    },
    /// No verdict; the call went out.
    FailedOpen(Failure),
    /// No verdict; the call was refused.
    FailedClosed(Failure),
    /// The backend refused to decide, with this status; the call was refused.
    BackendRejected(u16),
    /// A request that may cost money and can't be metered: what its path is like, and whether it went
    /// out.
    UnknownApi(PathClass, Policy),
    /// A request that wanted to leave HTTP was refused.
    UpgradeRefused,
    /// A metered call was refused, for its body can't be read.
    UnreadableRefused,
    /// A metered call was refused, for its body is too large.
    TooLarge,
    /// The verdict asks for a change that this request can't take; it went out without.
    NotRewritten,
    /// An answer could not be read and was settled from what was seen of it.
    UnreadAnswer,
    /// A metered call went out unmetered, for its body.
    UnreadablePassed(Unreadable),
    /// Too many calls are running: the hold of another one is not renewed any more and may expire.
    RenewalDropped,
    /// A metered call ended before any of its body came. When all do, the proxy lacks
    /// `allow_on_headers_stop_iteration` and delivers no bodies while headers are held back.
    NoBody,
}
