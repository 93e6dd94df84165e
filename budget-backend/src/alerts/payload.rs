//! What receivers get. Pure.

use serde_json::{Value, json};

/// Longest text of a message, characters.
const MAX_TEXT_CHARS: usize = 1_000;

/// An alert as it was written down.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Its number.
    pub alert_id: i64,
    /// The organisation.
    pub org: String,
    /// As in the table.
    pub kind: String,
    /// The budget, or 0.
    pub budget_id: i64,
    /// When it was raised, RFC 3339.
    pub raised_at: Option<String>,
    /// What there is to tell.
    pub facts: Value,
}

/// The body of a delivery.
#[must_use]
pub fn body(alert: &Alert, format: &str) -> String {
    let text = text(alert);
    let payload = if format == "slack" {
        // Slack reads these three as markup.
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({"text": text})
    } else {
        json!({
            "alert_id": alert.alert_id, "kind": alert.kind, "org": alert.org,
            "budget_id": (alert.budget_id != 0).then_some(alert.budget_id),
            "raised_at": alert.raised_at, "text": text, "facts": alert.facts,
        })
    };
    payload.to_string()
}

/// The alert in a sentence.
#[must_use]
pub fn text(alert: &Alert) -> String {
    let fact = |name: &str| match alert.facts.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let org = &alert.org;
    let whose = match (fact("user").as_str(), fact("team").as_str()) {
        ("", "") => format!("org {org}"),
        ("", team) => format!("team {team} of org {org}"),
        (user, team) => format!("user {user} in team {team} of org {org}"),
    };
    let spent = format!("{} of {} USD spent", fact("spent_usd"), fact("limit_usd"));
    let until = match fact("resets_at").as_str() {
        "" => String::new(),
        at => format!("; it resets at {at}"),
    };
    let window = fact("window");
    let said = match alert.kind.as_str() {
        "budget_threshold" => {
            let percent = fact("threshold_percent");
            format!("The {window} budget of {whose} has reached {percent}%: {spent}{until}.")
        }
        "budget_forecast" => {
            let gone = fact("gone_at");
            format!(
                "The {window} budget of {whose} will be gone by {gone} at the recent rate: {spent}{until}."
            )
        }
        "unknown_price" => {
            let (provider, model) = (fact("provider"), fact("model"));
            format!("No full price of {provider} {model} is known; org {org} is charged the dearest that is.")
        }
        "fail_open" => {
            let (calls, hour) = (fact("calls"), fact("hour"));
            format!("Calls of org {org} went out without a verdict: {calls} so far in the hour from {hour}.")
        }
        "spend_anomaly" => {
            let (spent, most) = (fact("spent_usd"), fact("usual_at_most_usd"));
            format!(
                "Org {org} has spent {spent} USD in the hour from {}; up to {most} would be usual.",
                fact("hour")
            )
        }
        other => format!("{other} of org {org}"),
    };
    said.chars().filter(|c| !c.is_control()).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(kind: &str, facts: Value) -> Alert {
        Alert {
            alert_id: 7,
            org: "a<b".into(),
            kind: kind.into(),
            budget_id: 3,
            raised_at: Some("2026-11-23T00:00:00Z".into()),
            facts,
        }
    }

    #[test]
    fn an_alert_is_a_sentence_and_safe_in_slack() {
        let facts = json!({"team": "t", "user": null, "window": "month", "spent_usd": "8.00", "limit_usd": "10.00",
            "threshold_percent": 80, "resets_at": "2026-12-01T00:00:00Z"});
        let threshold = alert("budget_threshold", facts.clone());
        let said = "The month budget of team t of org a<b has reached 80%: 8.00 of 10.00 USD spent; it resets at 2026-12-01T00:00:00Z.";
        assert_eq!(text(&threshold), said);
        let slack: Value = serde_json::from_str(&body(&threshold, "slack")).unwrap();
        assert_eq!(slack, json!({"text": said.replace('<', "&lt;")}));
        let generic: Value = serde_json::from_str(&body(&threshold, "generic")).unwrap();
        assert_eq!((&generic["alert_id"], &generic["budget_id"]), (&json!(7), &json!(3)));
        assert_eq!((&generic["facts"], &generic["text"]), (&facts, &json!(said)));
    }

    #[test]
    fn every_kind_has_its_words() {
        for kind in ["budget_threshold", "budget_forecast", "unknown_price", "fail_open", "spend_anomaly"] {
            let said = text(&alert(kind, json!({})));
            assert!(!said.starts_with(kind) && said.ends_with('.'), "{said}");
        }
        assert_eq!(text(&alert("x", json!({}))), "x of org a<b");
        let long = alert("fail_open", json!({"hour": "x\n".repeat(2_000)}));
        assert!(text(&long).chars().count() == MAX_TEXT_CHARS && !text(&long).contains('\n'));
    }
}
