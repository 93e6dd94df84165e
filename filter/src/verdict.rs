//! Reading the backend's answer to a hold.

use std::fmt;

use purser_protocol::{FailureCause, MARKER_VALUE, Payer, Verdict};
use uuid::Uuid;

use crate::config::is_name;
use crate::json_scan;
use crate::replies;
use crate::rewrite;

/// An HTTP answer to a callout.
#[derive(Debug, Clone, Copy)]
pub struct CalloutAnswer<'a> {
    /// HTTP status; absent when the answer broke off.
    pub status: Option<u16>,
    /// Value of the header that marks the backend's own answers.
    pub marker: Option<&'a [u8]>,
    /// The body.
    pub body: &'a [u8],
}

impl CalloutAnswer<'_> {
    /// Whether the backend itself gave it, and not something on the way.
    #[must_use]
    pub fn is_backends(&self) -> bool {
        self.marker == Some(MARKER_VALUE.as_bytes())
    }
}

/// What a callout came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend decided.
    Decided(Verdict),
    /// The backend refused to decide, with this 4xx: wrong token, wrong version. Nothing is held.
    Rejected(u16),
    /// There is no verdict. Whether something is held isn't known.
    Failed(Failure),
}

/// Why there is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The callout could not be sent: no such cluster, no endpoint, too many calls.
    NotSent,
    /// The answer broke off.
    BrokenOff,
    /// Not the backend's answer: the proxy's own for a backend that is down or too slow, or something
    /// else's on the way.
    Status(u16),
    /// The backend's own failure, of which it says no more.
    Own(u16),
    /// The backend's own failure, and why.
    Named(FailureCause),
    /// The backend refuses to decide, with this 4xx.
    Rejected(u16),
    /// A 200 that isn't a verdict on this hold.
    NotAVerdict,
}

impl Failure {
    /// The kinds of causes, as labels.
    pub const CAUSES: [&str; 10] = [
        "not_sent",
        "broken_off",
        "timeout",
        "unreachable",
        "status",
        "not_a_verdict",
        "busy",
        "database",
        "deadline",
        "rejected",
    ];

    /// The place of its kind in [`Failure::CAUSES`].
    #[must_use]
    pub const fn cause(self) -> usize {
        match self {
            Self::NotSent => 0,
            Self::BrokenOff => 1,
            // What the proxy itself answers for a backend that is too slow, or that it can't reach.
            Self::Status(504) => 2,
            Self::Status(502 | 503) => 3,
            Self::Status(_) | Self::Own(_) => 4,
            Self::NotAVerdict => 5,
            Self::Named(FailureCause::Busy) => 6,
            Self::Named(FailureCause::Database) => 7,
            Self::Named(FailureCause::Deadline) => 8,
            Self::Rejected(_) => 9,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent => f.write_str("the callout could not be sent"),
            Self::BrokenOff => f.write_str("its answer broke off"),
            Self::Status(status) => write!(f, "the callout came back with status {status}"),
            Self::Own(status) => write!(f, "the backend failed with status {status}"),
            Self::Named(FailureCause::Busy) => f.write_str("the backend has too much to do"),
            Self::Named(FailureCause::Database) => f.write_str("the backend has no database"),
            Self::Named(FailureCause::Deadline) => f.write_str("the backend did not decide in time"),
            Self::Rejected(status) => write!(f, "the backend rejects holds, with status {status}"),
            Self::NotAVerdict => f.write_str("its answer is no verdict on this hold"),
        }
    }
}

/// Reads the answer to the hold `hold_id`.
#[must_use]
pub fn read(answer: CalloutAnswer<'_>, hold_id: Uuid) -> Outcome {
    match answer.status {
        None => Outcome::Failed(Failure::BrokenOff),
        Some(200) => decided(answer, hold_id),
        Some(status @ 400..=499) if answer.is_backends() => Outcome::Rejected(status),
        Some(status) if answer.is_backends() => {
            let cause = if status == 503 { named_cause(answer.body) } else { None };
            Outcome::Failed(cause.map_or(Failure::Own(status), Failure::Named))
        }
        Some(status) => Outcome::Failed(Failure::Status(status)),
    }
}

/// The cause in the backend's problem details.
fn named_cause(body: &[u8]) -> Option<FailureCause> {
    let [cause] = json_scan::object_bytes(body, &["cause"]).ok()?;
    FailureCause::of(&json_scan::string(cause?.raw)?)
}

fn decided(answer: CalloutAnswer<'_>, hold_id: Uuid) -> Outcome {
    let response =
        replies::hold(answer.body).filter(|response| answer.is_backends() && response.hold_id == hold_id);
    let verdict = response.map(|response| response.verdict);
    let payer = match &verdict {
        Some(Verdict::Allow(allow)) => allow.payer.as_ref(),
        Some(Verdict::Deny(deny)) => deny.payer.as_ref(),
        None => None,
    };
    match &verdict {
        _ if !payer.is_none_or(is_sound_payer) => return Outcome::Failed(Failure::NotAVerdict),
        Some(Verdict::Allow(allow)) if !allow.rewrite.as_ref().is_none_or(rewrite::is_sound) => {
            return Outcome::Failed(Failure::NotAVerdict);
        }
        _ => {}
    }
    match verdict {
        Some(verdict) => Outcome::Decided(verdict),
        None => Outcome::Failed(Failure::NotAVerdict),
    }
}

/// Whether a payer that was looked up can be charged.
fn is_sound_payer(payer: &Payer) -> bool {
    let names = [payer.team.as_deref(), payer.user.as_deref()];
    is_name(&payer.org) && names.into_iter().flatten().all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use purser_protocol::{DenyReason, VERSION};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const ID: &str = "01923456-789a-7fff-bfff-ffffffffffff";

    fn outcome(status: Option<u16>, marker: Option<&str>, body: &str) -> Outcome {
        let answer = CalloutAnswer { status, marker: marker.map(str::as_bytes), body: body.as_bytes() };
        read(answer, ID.parse().unwrap())
    }

    fn allow(id: &str, more: &str) -> String {
        format!(r#"{{"version":{VERSION},"hold_id":"{id}","verdict":"allow","held_nanousd":5{more}}}"#)
    }

    #[test]
    fn only_a_marked_answer_about_this_hold_decides() {
        let body = allow(ID, "");
        let decided = |outcome: Outcome| matches!(outcome, Outcome::Decided(Verdict::Allow(_)));
        assert!(decided(outcome(Some(200), Some("1"), &body)));
        assert!(decided(outcome(Some(200), Some("1"), &allow(ID, r#","new_field":{"x":1}"#))));
        let no_verdict = Outcome::Failed(Failure::NotAVerdict);
        for (marker, body) in [
            (None, body.as_str()),
            (Some("2"), body.as_str()),
            (Some("1"), &allow("01923456-789a-7fff-bfff-fffffffffffe", "")),
            (Some("1"), &allow(ID, r#","rewrite":{"model":""}"#)),
            (Some("1"), &allow(ID, r#","payer":{"org":""}"#)),
            (Some("1"), &allow(ID, r#","payer":{"org":"a","team":"\n"}"#)),
            (Some("1"), "{}"),
            (Some("1"), ""),
            (Some("1"), r#"{"verdict":"maybe"}"#),
        ] {
            assert_eq!(outcome(Some(200), marker, body), no_verdict, "{marker:?} {body}");
        }
    }

    #[test]
    fn a_denial_is_no_failure() {
        let body = format!(
            r#"{{"version":1,"hold_id":"{ID}","verdict":"deny","reason":"brand_new","message":"no"}}"#
        );
        match outcome(Some(200), Some("1"), &body) {
            Outcome::Decided(Verdict::Deny(deny)) => assert_eq!(deny.reason, DenyReason::Other),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failures_and_rejections_are_told_apart() {
        for (status, marker, expected) in [
            (None, None, Outcome::Failed(Failure::BrokenOff)),
            (Some(401), Some("1"), Outcome::Rejected(401)),
            (Some(400), Some("1"), Outcome::Rejected(400)),
            (Some(401), None, Outcome::Failed(Failure::Status(401))),
            (Some(503), Some("1"), Outcome::Failed(Failure::Own(503))),
            (Some(503), None, Outcome::Failed(Failure::Status(503))),
            (Some(504), None, Outcome::Failed(Failure::Status(504))),
            (Some(204), Some("1"), Outcome::Failed(Failure::Own(204))),
        ] {
            assert_eq!(outcome(status, marker, "x"), expected);
        }
    }

    #[test]
    fn the_backend_names_its_cause_and_nobody_else_does() {
        for (word, cause) in [
            ("busy", FailureCause::Busy),
            ("database", FailureCause::Database),
            ("deadline", FailureCause::Deadline),
        ] {
            let body = format!(r#"{{"title":"Service Unavailable","status":503,"cause":"{word}"}}"#);
            assert_eq!(outcome(Some(503), Some("1"), &body), Outcome::Failed(Failure::Named(cause)));
            assert_eq!(outcome(Some(500), Some("1"), &body), Outcome::Failed(Failure::Own(500)));
            assert_eq!(outcome(Some(503), None, &body), Outcome::Failed(Failure::Status(503)));
        }
        for body in [r#"{"cause":"new"}"#, r#"{"cause":7}"#, "{", "[]", ""] {
            assert_eq!(outcome(Some(503), Some("1"), body), Outcome::Failed(Failure::Own(503)), "{body}");
        }
    }
}
