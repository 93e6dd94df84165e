//! The call that every run makes.

use crate::database::{ORG, TEAM, USER};

/// Its path.
pub const PATH: &str = "/v1/chat/completions";

/// Its body: a chat of some 110 tokens with an output cap.
pub const BODY: &str = concat!(
    r#"{"model":"gpt-4o-mini","temperature":0.2,"max_completion_tokens":64,"messages":[{"role":"system","content":""#,
    "You are the assistant of a team that runs a platform. Answer in two sentences, name what you are not sure ",
    "of, and never invent a number. When a question needs a figure that you were not given, ask for it instead.",
    r#""},{"role":"user","content":""#,
    "Our calls to language models go through one gateway, and each team has a monthly budget. Why would one ",
    "check the budget before a call goes out, and not after it has been answered? What does that cost us?",
    r#""}]}"#,
);

/// The same as a stream.
#[must_use]
pub fn stream_body() -> String {
    BODY.replacen("\"temperature\":0.2", "\"stream\":true", 1)
}

/// Its headers: what it is, and who pays, as the trusted hop in front of the filter says.
pub const HEADERS: [(&str, &str); 4] = [
    ("content-type", "application/json"),
    ("x-budget-org", ORG),
    ("x-budget-team", TEAM),
    ("x-budget-user", USER),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bodies_are_json() {
        let plain: serde_json::Value = serde_json::from_str(BODY).unwrap();
        let stream: serde_json::Value = serde_json::from_str(&stream_body()).unwrap();
        assert_eq!(plain["stream"], serde_json::Value::Null);
        assert_eq!(stream["stream"], true);
        assert_eq!(plain["messages"], stream["messages"]);
    }
}
