//! Refusals in the shape that OpenAI's SDKs understand. All of them tell the SDK not to retry.

use purser_protocol::{Deny, DenyReason, format_usd};
use serde::Serialize;
use uuid::Uuid;

use crate::identity::IdentityError;
use crate::request::Unreadable;

/// An answer that the filter gives in the upstream's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// One word for the proxy's access log.
    pub details: &'static str,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Vec<u8>,
}

/// Header with the id of the hold, also on answers that came through.
pub const HOLD_ID_HEADER: &str = "x-purser-hold-id";

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

fn error(
    status: u16,
    details: &'static str,
    kind: &str,
    code: Option<&str>,
    param: Option<&str>,
    message: &str,
) -> Reply {
    let error = ErrorObject { message, kind, param, code };
    // Texts alone can't fail to serialize; without a body the status would still say no.
    let body = serde_json::to_vec(&ErrorBody { error }).unwrap_or_default();
    Reply {
        status,
        details,
        headers: vec![
            ("content-type", "application/json".to_owned()),
            ("x-should-retry", "false".to_owned()),
        ],
        body,
    }
}

const INVALID: &str = "invalid_request_error";

/// No, and not for want of money: it must not look like a quota that fills up again.
fn forbidden(details: &'static str, code: &str, message: &str) -> Reply {
    error(403, details, INVALID, Some(code), None, message)
}

/// The verdict was no.
#[must_use]
pub fn denied(deny: &Deny, hold_id: Uuid) -> Reply {
    let message = deny.message.as_str();
    let mut reply = match deny.reason {
        DenyReason::OverBudget => {
            let quota = "insufficient_quota";
            error(429, "purser_over_budget", quota, Some(quota), None, message)
        }
        DenyReason::NotPriceable => forbidden("purser_not_priceable", "not_priceable", message),
        DenyReason::Blocked => forbidden("purser_blocked", "blocked", message),
        DenyReason::ModelNotAllowed => forbidden("purser_model_not_allowed", "model_not_allowed", message),
        DenyReason::NoBudget => forbidden("purser_no_budget", "no_budget", message),
        DenyReason::NotBoundable => forbidden("purser_not_boundable", "not_boundable", message),
        DenyReason::Closed | DenyReason::Other => forbidden("purser_denied", "denied", message),
    };
    if let Some(budget) = &deny.budget {
        let headers = &mut reply.headers;
        headers.push(("x-purser-denied-tier", budget.tier.as_str().to_owned()));
        headers.push(("x-purser-denied-window", budget.window.as_str().to_owned()));
        headers.push(("x-purser-limit", format_usd(budget.limit_nanousd)));
        // Only what is safe in a header; the backend's word is not taken for it.
        let is_plain = |time: &&String| time.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(time) = budget.resets_at.as_ref().filter(is_plain) {
            headers.push(("x-purser-resets-at", time.clone()));
        }
    }
    reply.headers.push((HOLD_ID_HEADER, hold_id.to_string()));
    reply
}

/// Nobody is named who could pay.
#[must_use]
pub fn unidentified(cause: &IdentityError) -> Reply {
    let message = format!("No budget owner for this request: {cause}.");
    forbidden("purser_unidentified", "unidentified", &message)
}

/// The request may cost money but speaks an API that can't be metered.
#[must_use]
pub fn unknown_api() -> Reply {
    let message = "This method and path are not metered, so they are not let through. \
                   Metered is POST /v1/chat/completions.";
    forbidden("purser_unknown_api", "unknown_api", message)
}

/// The request's body can't be read.
#[must_use]
pub fn unreadable(cause: &Unreadable) -> Reply {
    let message = format!("The request can't be checked against its budgets: {cause}.");
    let code = Some("unreadable_request");
    error(400, "purser_unreadable", INVALID, code, cause.member(), &message)
}

/// The request's body is larger than allowed.
#[must_use]
pub fn too_large(max_bytes: usize) -> Reply {
    let message = format!("The request body is too large: expected at most {max_bytes} bytes.");
    error(413, "purser_too_large", INVALID, Some("request_too_large"), None, &message)
}

/// There is no verdict, and the route fails closed.
#[must_use]
pub fn failed_closed(hold_id: Option<Uuid>) -> Reply {
    let message = "The budget service gave no answer, and this route does not go on without one.";
    let code = Some("budget_service_unavailable");
    let mut reply = error(503, "purser_failed_closed", "server_error", code, None, message);
    reply.headers.extend(hold_id.map(|id| (HOLD_ID_HEADER, id.to_string())));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use purser_protocol::{DeniedBudget, Tier, Window};
    use serde_json::{Value, json};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn deny(reason: DenyReason) -> Deny {
        Deny {
            reason,
            strict: false,
            message: "The \"team\" budget\nis used up.".to_owned(),
            budget: Some(DeniedBudget {
                budget_id: 1,
                tier: Tier::Team,
                window: Window::Day,
                limit_nanousd: 5_000_000_000,
                spent_nanousd: 4_999_999_999,
                held_nanousd: 0,
                needed_nanousd: 2,
                resets_at: Some("2026-01-02T00:00:00Z".to_owned()),
            }),
        }
    }

    fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
        let found = reply.headers.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn over_budget_names_what_ran_out() {
        let reply = denied(&deny(DenyReason::OverBudget), Uuid::nil());
        assert_eq!(reply.status, 429);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(
            body,
            json!({"error": {
                "message": "The \"team\" budget\nis used up.",
                "type": "insufficient_quota", "param": null, "code": "insufficient_quota"
            }})
        );
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-should-retry", "false"),
            ("x-purser-denied-tier", "team"),
            ("x-purser-denied-window", "day"),
            ("x-purser-limit", "5.00"),
            ("x-purser-resets-at", "2026-01-02T00:00:00Z"),
            ("x-purser-hold-id", "00000000-0000-0000-0000-000000000000"),
        ] {
            assert_eq!(header(&reply, name), Some(value), "{name}");
        }
        assert_eq!(header(&reply, "retry-after"), None);
    }

    #[test]
    fn each_refusal_has_its_status_and_is_final() {
        let unreadable_model = Unreadable::Member { name: "model", expected: "a name" };
        for (reply, status, code, param) in [
            (denied(&deny(DenyReason::NotPriceable), Uuid::nil()), 403, "not_priceable", None),
            (denied(&deny(DenyReason::Blocked), Uuid::nil()), 403, "blocked", None),
            (denied(&deny(DenyReason::ModelNotAllowed), Uuid::nil()), 403, "model_not_allowed", None),
            (denied(&deny(DenyReason::NoBudget), Uuid::nil()), 403, "no_budget", None),
            (denied(&deny(DenyReason::NotBoundable), Uuid::nil()), 403, "not_boundable", None),
            (denied(&deny(DenyReason::Closed), Uuid::nil()), 403, "denied", None),
            (denied(&deny(DenyReason::Other), Uuid::nil()), 403, "denied", None),
            (unidentified(&IdentityError::Missing("x-o".to_owned())), 403, "unidentified", None),
            (unknown_api(), 403, "unknown_api", None),
            (unreadable(&unreadable_model), 400, "unreadable_request", Some("model")),
            (unreadable(&Unreadable::Empty), 400, "unreadable_request", None),
            (too_large(10), 413, "request_too_large", None),
            (failed_closed(None), 503, "budget_service_unavailable", None),
        ] {
            assert_eq!(reply.status, status, "{reply:?}");
            assert_eq!(header(&reply, "x-should-retry"), Some("false"));
            assert_eq!(header(&reply, "content-type"), Some("application/json"));
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            let error = &body["error"];
            assert_eq!(error["code"], code);
            assert_eq!(error["param"], json!(param));
            assert!(!error["message"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn nothing_unsafe_gets_into_a_header() {
        let mut deny = deny(DenyReason::OverBudget);
        deny.budget.as_mut().unwrap().resets_at = Some("x\r\nset-cookie: y".to_owned());
        assert_eq!(header(&denied(&deny, Uuid::nil()), "x-purser-resets-at"), None);
    }
}
