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
        ..Deny::default()
    }
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    let found = reply.headers.iter().find(|(key, _)| *key == name);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn over_budget_names_what_ran_out() {
    let reply = denied(Family::Openai, &deny(DenyReason::OverBudget), Uuid::nil(), true);
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
        ("x-purser-denied-budget", "1"),
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
        (
            denied(Family::Openai, &deny(DenyReason::NotPriceable), Uuid::nil(), true),
            403,
            "not_priceable",
            None,
        ),
        (denied(Family::Openai, &deny(DenyReason::Blocked), Uuid::nil(), true), 403, "blocked", None),
        (
            denied(Family::Openai, &deny(DenyReason::ModelNotAllowed), Uuid::nil(), true),
            403,
            "model_not_allowed",
            None,
        ),
        (denied(Family::Openai, &deny(DenyReason::NoBudget), Uuid::nil(), true), 403, "no_budget", None),
        (
            denied(Family::Openai, &deny(DenyReason::NotBoundable), Uuid::nil(), true),
            403,
            "not_boundable",
            None,
        ),
        (denied(Family::Openai, &deny(DenyReason::Closed), Uuid::nil(), true), 403, "denied", None),
        (denied(Family::Openai, &deny(DenyReason::Other), Uuid::nil(), true), 403, "denied", None),
        (unidentified(Family::Openai, &IdentityError::Missing("x-o".to_owned())), 403, "unidentified", None),
        (no_upgrade(Family::Openai), 403, "upgrade_refused", None),
        (unknown_api(Family::Openai), 403, "unknown_api", None),
        (unreadable(Family::Openai, &unreadable_model), 400, "unreadable_request", Some("model")),
        (unreadable(Family::Openai, &Unreadable::Empty), 400, "unreadable_request", None),
        (too_large(Family::Openai, 10), 413, "request_too_large", None),
        (failed_closed(Family::Openai, None), 503, "budget_service_unavailable", None),
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
fn each_family_has_its_shape() {
    let over = deny(DenyReason::OverBudget);
    let message = over.message.as_str();
    let cases: [(Family, u16, Option<&str>, Value); 5] = [
        (
            Family::Anthropic,
            429,
            None,
            json!({"type": "error", "request_id": null, "error": {
                "type": "rate_limit_error", "message": message,
                "details": {"error_code": "enforced_spend_limit_reached"},
            }}),
        ),
        (
            Family::Gemini,
            429,
            None,
            json!({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}),
        ),
        (Family::Bedrock, 400, Some("ServiceQuotaExceededException"), json!({"message": message})),
        (Family::Cohere, 402, None, json!({"message": message})),
        (Family::Ollama, 429, None, json!({"error": message})),
    ];
    for (family, status, class, body) in cases {
        let reply = denied(family, &over, Uuid::nil(), true);
        assert_eq!(reply.status, status, "{family:?}");
        assert_eq!(header(&reply, "x-amzn-errortype"), class, "{family:?}");
        assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap(), body, "{family:?}");
        assert_eq!(header(&reply, "content-type"), Some("application/json"));
        for (other, expected) in [
            (denied(family, &deny(DenyReason::Blocked), Uuid::nil(), true), 403),
            (too_large(family, 1), 413),
            (unreadable(family, &Unreadable::Empty), 400),
            (failed_closed(family, None), 503),
        ] {
            assert_eq!(other.status, expected, "{family:?}");
        }
    }
    let kinds = |family, of: fn(&Value) -> &Value| {
        [
            denied(family, &deny(DenyReason::Blocked), Uuid::nil(), true),
            too_large(family, 1),
            failed_closed(family, None),
        ]
        .map(|reply| of(&serde_json::from_slice(&reply.body).unwrap()).as_str().unwrap().to_owned())
    };
    assert_eq!(
        kinds(Family::Anthropic, |body| &body["error"]["type"]),
        ["permission_error", "request_too_large", "api_error"]
    );
    assert_eq!(
        kinds(Family::Gemini, |body| &body["error"]["status"]),
        ["PERMISSION_DENIED", "INVALID_ARGUMENT", "UNAVAILABLE"]
    );
}

#[test]
fn nothing_unsafe_gets_into_a_header() {
    let mut deny = deny(DenyReason::OverBudget);
    deny.budget.as_mut().unwrap().resets_at = Some("x\r\nset-cookie: y".to_owned());
    assert_eq!(header(&denied(Family::Openai, &deny, Uuid::nil(), true), "x-purser-resets-at"), None);
}

#[test]
fn no_amount_shows_where_none_may() {
    for family in
        [Family::Openai, Family::Anthropic, Family::Gemini, Family::Bedrock, Family::Cohere, Family::Ollama]
    {
        let mut over = deny(DenyReason::OverBudget);
        over.message = "limit 5.00 USD, spent 4.999999999 USD".to_owned();
        let reply = denied(family, &over, Uuid::nil(), false);
        let text = String::from_utf8(reply.body.clone()).unwrap();
        let expected = "The day budget 1 of this team is exhausted; it resets at 2026-01-02T00:00:00Z.";
        assert!(text.contains(expected) && !text.contains("USD") && !text.contains("5.00"), "{text}");
        assert_eq!(header(&reply, "x-purser-limit"), None);
        for (name, value) in [
            ("x-purser-denied-tier", "team"),
            ("x-purser-denied-window", "day"),
            ("x-purser-denied-budget", "1"),
            ("x-purser-resets-at", "2026-01-02T00:00:00Z"),
        ] {
            assert_eq!(header(&reply, name), Some(value), "{name}");
        }
        assert!(!reply.headers.iter().any(|(_, value)| value.contains("5.00")), "{:?}", reply.headers);
        over.budget = None;
        let text = String::from_utf8(denied(family, &over, Uuid::nil(), false).body).unwrap();
        assert!(text.contains("A budget is exhausted."), "{text}");
        let blocked = Deny { budget: None, ..deny(DenyReason::Blocked) };
        let text = String::from_utf8(denied(family, &blocked, Uuid::nil(), false).body).unwrap();
        assert!(text.contains("is used up"), "{text}");
    }
}
