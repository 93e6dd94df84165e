//! Refusals in the shape that each family's SDKs turn into their proper exception. All of them tell the
//! SDK not to retry, where it can be told.

use purser_protocol::{DeniedBudget, Deny, DenyReason, format_usd};
use uuid::Uuid;

use crate::api::Family;
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

/// A refusal, before it is put into the shape of a family.
struct Refusal<'a> {
    status: u16,
    details: &'static str,
    /// OpenAI's type of error.
    kind: &'a str,
    /// OpenAI's code for it.
    code: Option<&'a str>,
    param: Option<&'a str>,
    message: &'a str,
}

fn error(family: Family, refusal: &Refusal<'_>) -> Reply {
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        // OpenAI's and Anthropic's SDKs obey it.
        ("x-should-retry", "false".to_owned()),
    ];
    let message = quoted(refusal.message);
    let mut status = refusal.status;
    let body = match family {
        Family::Openai => {
            let or_null = |text: Option<&str>| text.map_or("null".to_owned(), quoted);
            let (kind, param, code) = (quoted(refusal.kind), or_null(refusal.param), or_null(refusal.code));
            format!(r#"{{"error":{{"message":{message},"type":{kind},"param":{param},"code":{code}}}}}"#)
        }
        Family::Anthropic => {
            let kind = anthropic_type(status);
            // Its SDK has an exception of its own for this.
            let details = match status {
                429 => r#","details":{"error_code":"enforced_spend_limit_reached"}"#,
                _ => "",
            };
            format!(
                r#"{{"type":"error","error":{{"type":"{kind}","message":{message}{details}}},"request_id":null}}"#
            )
        }
        Family::Gemini => {
            let name = gemini_status(status);
            format!(r#"{{"error":{{"code":{status},"message":{message},"status":"{name}"}}}}"#)
        }
        Family::Bedrock => {
            headers.push(("x-amzn-errortype", bedrock_class(status).to_owned()));
            // Its SDK retries whatever comes with 429, and takes the class from that header.
            status = if status == 429 { 400 } else { status };
            format!(r#"{{"message":{message}}}"#)
        }
        Family::Cohere => {
            // Its SDK retries 429; 402, payment required, it doesn't.
            status = if status == 429 { 402 } else { status };
            format!(r#"{{"message":{message}}}"#)
        }
        Family::Ollama => format!(r#"{{"error":{message}}}"#),
    };
    Reply { status, details: refusal.details, headers, body: body.into_bytes() }
}

/// A text as JSON. Texts can't fail to serialize; without one the status would still say no.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "null".to_owned())
}

const fn anthropic_type(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        403 => "permission_error",
        413 => "request_too_large",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

const fn gemini_status(status: u16) -> &'static str {
    match status {
        429 => "RESOURCE_EXHAUSTED",
        403 => "PERMISSION_DENIED",
        400..=499 => "INVALID_ARGUMENT",
        _ => "UNAVAILABLE",
    }
}

const fn bedrock_class(status: u16) -> &'static str {
    match status {
        429 => "ServiceQuotaExceededException",
        403 => "AccessDeniedException",
        400..=499 => "ValidationException",
        _ => "ServiceUnavailableException",
    }
}

const INVALID: &str = "invalid_request_error";

/// No, and not for want of money: it must not look like a quota that fills up again.
fn forbidden(family: Family, details: &'static str, code: &str, message: &str) -> Reply {
    error(family, &Refusal { status: 403, details, kind: INVALID, code: Some(code), param: None, message })
}

/// The verdict was no. Without `show_amounts` nobody learns from it how much money there is.
#[must_use]
pub fn denied(family: Family, deny: &Deny, hold_id: Uuid, show_amounts: bool) -> Reply {
    let plain = (!show_amounts).then(|| without_amounts(deny)).flatten();
    let message = plain.as_deref().unwrap_or(&deny.message);
    let mut reply = match deny.reason {
        DenyReason::OverBudget => {
            let quota = "insufficient_quota";
            let refusal = Refusal {
                status: 429,
                details: "purser_over_budget",
                kind: quota,
                code: Some(quota),
                param: None,
                message,
            };
            error(family, &refusal)
        }
        DenyReason::Unidentified => forbidden(family, "purser_unidentified", "unidentified", message),
        DenyReason::NotPriceable => forbidden(family, "purser_not_priceable", "not_priceable", message),
        DenyReason::Blocked => forbidden(family, "purser_blocked", "blocked", message),
        DenyReason::ModelNotAllowed => {
            forbidden(family, "purser_model_not_allowed", "model_not_allowed", message)
        }
        DenyReason::NoBudget => forbidden(family, "purser_no_budget", "no_budget", message),
        DenyReason::NotBoundable => forbidden(family, "purser_not_boundable", "not_boundable", message),
        DenyReason::Closed | DenyReason::Other => forbidden(family, "purser_denied", "denied", message),
    };
    if let Some(budget) = &deny.budget {
        let headers = &mut reply.headers;
        headers.push(("x-purser-denied-tier", budget.tier.as_str().to_owned()));
        headers.push(("x-purser-denied-window", budget.window.as_str().to_owned()));
        headers.push(("x-purser-denied-budget", budget.budget_id.to_string()));
        if show_amounts {
            headers.push(("x-purser-limit", format_usd(budget.limit_nanousd)));
        }
        headers.extend(reset_time(budget).map(|time| ("x-purser-resets-at", time.to_owned())));
    }
    reply.headers.push((HOLD_ID_HEADER, hold_id.to_string()));
    reply
}

/// What a refusal for want of money says when it may not name any; nothing for other refusals, whose own
/// message names none.
fn without_amounts(deny: &Deny) -> Option<String> {
    let Some(budget) = &deny.budget else {
        return (deny.reason == DenyReason::OverBudget).then(|| "A budget is exhausted.".to_owned());
    };
    let reset = reset_time(budget).map_or("it does not reset".to_owned(), |at| format!("it resets at {at}"));
    let (window, tier) = (budget.window.as_str(), budget.tier.as_str());
    Some(format!("The {window} budget {} of this {tier} is exhausted; {reset}.", budget.budget_id))
}

/// When a budget starts anew. Only what is safe in a header; the backend's word is not taken for it.
fn reset_time(budget: &DeniedBudget) -> Option<&str> {
    budget.resets_at.as_deref().filter(|time| time.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Nobody is named who could pay.
#[must_use]
pub fn unidentified(family: Family, cause: &IdentityError) -> Reply {
    let message = format!("No budget owner for this request: {cause}.");
    forbidden(family, "purser_unidentified", "unidentified", &message)
}

/// The request may cost money but speaks an API that can't be metered.
#[must_use]
pub fn unknown_api(family: Family) -> Reply {
    let message = "This method and path are not metered, so they are not let through.";
    forbidden(family, "purser_unknown_api", "unknown_api", message)
}

/// The request wants to leave HTTP.
#[must_use]
pub fn no_upgrade(family: Family) -> Reply {
    let message = "Calls over WebSocket and the like can't be metered, so they are not let through.";
    forbidden(family, "purser_upgrade", "upgrade_refused", message)
}

/// The request's body can't be read.
#[must_use]
pub fn unreadable(family: Family, cause: &Unreadable) -> Reply {
    let message = format!("The request can't be checked against its budgets: {cause}.");
    let code = Some("unreadable_request");
    let param = cause.member();
    let details = "purser_unreadable";
    error(family, &Refusal { status: 400, details, kind: INVALID, code, param, message: &message })
}

/// The request's body is larger than allowed.
#[must_use]
pub fn too_large(family: Family, max_bytes: usize) -> Reply {
    let message = format!("The request body is too large: expected at most {max_bytes} bytes.");
    let (details, code) = ("purser_too_large", Some("request_too_large"));
    error(family, &Refusal { status: 413, details, kind: INVALID, code, param: None, message: &message })
}

/// There is no verdict, and the route fails closed.
#[must_use]
pub fn failed_closed(family: Family, hold_id: Option<Uuid>) -> Reply {
    let message = "The budget service gave no answer, and this route does not go on without one.";
    failed(family, "purser_failed_closed", message, hold_id)
}

/// There is no verdict, and as much as may go out without one has gone out.
#[must_use]
pub fn bound_reached(family: Family, hold_id: Uuid) -> Reply {
    let message = "The budget service gave no answer, and no more calls go on without one for now.";
    failed(family, "purser_failed_bound", message, Some(hold_id))
}

fn failed(family: Family, details: &'static str, message: &str, hold_id: Option<Uuid>) -> Reply {
    let code = Some("budget_service_unavailable");
    let refusal = Refusal { status: 503, details, kind: "server_error", code, param: None, message };
    let mut reply = error(family, &refusal);
    reply.headers.extend(hold_id.map(|id| (HOLD_ID_HEADER, id.to_string())));
    reply
}

#[cfg(test)]
mod tests;
