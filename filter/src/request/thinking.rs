//! Whether a request lets its model think: what a model thinks is billed, and need not be seen.

use purser_protocol::Api;

use super::Members;
use crate::api::Route;
use crate::config::Dialect;
use crate::json_scan;

/// What a request says of thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// Anything that may make the model think, or what can't be told.
    Open,
    /// Nothing: what that means depends on the model.
    Unsaid,
    /// It switches it off.
    Off,
}

/// Reads what a request says. Those who only copy an API, or pass it on, may mean something else by it.
pub fn read(route: &Route, members: &Members<'_>) -> Thinking {
    if matches!(route.dialect, Dialect::Compatible | Dialect::Openrouter) {
        return Thinking::Open;
    }
    let (name, keys, off) = match route.api {
        Api::AnthropicMessages | Api::BedrockInvoke => ("thinking", ["type", ""], "\"disabled\""),
        Api::BedrockConverse => ("additionalModelRequestFields", ["", ""], ""),
        Api::OpenaiChat => ("reasoning_effort", ["", ""], "\"none\""),
        Api::OpenaiResponses => ("reasoning", ["effort", "mode"], "\"none\""),
        Api::GeminiGenerate => return of_gemini(members),
        _ => return Thinking::Open,
    };
    let Some(said) = members.value(name) else { return Thinking::Unsaid };
    let is_off = match json_scan::object(said.raw, &keys) {
        Ok([Some(value), None]) => value.raw == off,
        Ok(_) => false,
        Err(_) => said.raw == off,
    };
    if is_off { Thinking::Off } else { Thinking::Open }
}

/// A budget of zero, in the one spelling that is documented.
fn of_gemini(members: &Members<'_>) -> Thinking {
    let budget = || {
        let config = members.value("generationConfig")?;
        if members.given("generation_config").is_some() {
            return None;
        }
        let Ok([Some(thinking), None]) =
            json_scan::object(config.raw, &["thinkingConfig", "thinking_config"])
        else {
            return None;
        };
        match json_scan::object(thinking.raw, &["thinkingBudget", "thinking_budget"]) {
            Ok([Some(budget), None]) => Some(budget.raw == "0"),
            _ => None,
        }
    };
    if budget() == Some(true) { Thinking::Off } else { Thinking::Open }
}

impl Thinking {
    /// Whether a model may think unseen in a call; nothing where that isn't certain. A model that can't be
    /// kept from it refuses a request that switches it off.
    #[must_use]
    pub fn may_think(self, api: Api, model: &str) -> Option<bool> {
        let never = match (self, api) {
            (Self::Off, Api::AnthropicMessages | Api::BedrockInvoke) => model.contains("claude-"),
            (Self::Unsaid, Api::AnthropicMessages | Api::BedrockInvoke | Api::BedrockConverse) => {
                thinks_only_when_told(model)
            }
            // From the third generation on, budgets are only taken for hints.
            (Self::Off, Api::GeminiGenerate) => model.starts_with("gemini-2.5-"),
            (Self::Off, Api::OpenaiChat | Api::OpenaiResponses) => {
                model.starts_with("gpt-5") || model.starts_with("gpt-6")
            }
            _ => false,
        };
        never.then_some(false)
    }
}

/// Whether a model of Anthropic's is of a generation that thinks only when it is told to: up to the fourth.
/// Later ones think unless they are told not to, and some even then.
fn thinks_only_when_told(model: &str) -> bool {
    let Some((_, name)) = model.split_once("claude-") else { return false };
    let fourth = ["opus-4", "sonnet-4", "haiku-4"].into_iter().filter_map(|line| name.strip_prefix(line));
    let is_fourth = fourth.into_iter().any(|rest| !rest.starts_with(|digit: char| digit.is_ascii_digit()));
    (is_fourth || name.starts_with("3-")) && !name.ends_with(":thinking")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{BodyKind, read};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn may_think(api: Api, dialect: Dialect, model: &str, said: &str) -> Option<bool> {
        let mut route = Route::new(api, dialect);
        route.model = Some(model.to_owned());
        let request = read(&route, &BodyKind::default(), format!("{{{said}}}").as_bytes()).unwrap();
        request.thinking.may_think(api, model)
    }

    #[test]
    fn a_claude_thinks_when_it_is_told_to_and_later_ones_unless_told_not_to() {
        let off = r#""thinking":{"type":"disabled"}"#;
        for (model, unsaid) in [
            ("claude-sonnet-4-5", Some(false)),
            ("claude-sonnet-4-5@20250929", Some(false)),
            ("us.anthropic.claude-opus-4-8-v1:0", Some(false)),
            ("claude-opus-4", Some(false)),
            ("claude-3-7-sonnet-latest", Some(false)),
            ("claude-3-7-sonnet:thinking", None),
            ("claude-opus-5", None),
            ("claude-opus-5-5", None),
            ("claude-opus-40", None),
            ("claude-mythos-preview", None),
        ] {
            let said = |said: &str| may_think(Api::AnthropicMessages, Dialect::Anthropic, model, said);
            assert_eq!(said(""), unsaid, "{model}");
            assert_eq!(said(r#""thinking":null"#), unsaid, "{model}");
            assert_eq!(said(off), Some(false), "{model}");
            for on in [
                r#"{"type":"enabled","budget_tokens":1024}"#,
                r#"{"type":"adaptive"}"#,
                r#"{"type":"between_tools"}"#,
                r#"{}"#,
                "7",
            ] {
                assert_eq!(said(&format!("\"thinking\":{on}")), None, "{model} {on}");
            }
            let elsewhere = may_think(Api::AnthropicMessages, Dialect::Compatible, model, off);
            assert_eq!(elsewhere, None, "{model}");
        }
        let other = may_think(Api::AnthropicMessages, Dialect::Anthropic, "kimi-k3", off);
        assert_eq!(other, None, "not of Anthropic's");
        let converse = |said: &str| {
            may_think(Api::BedrockConverse, Dialect::Bedrock, "us.anthropic.claude-haiku-4-5-v1:0", said)
        };
        assert_eq!(converse(""), Some(false));
        assert_eq!(converse(r#""additionalModelRequestFields":{"thinking":{"type":"enabled"}}"#), None);
    }

    #[test]
    fn others_are_believed_where_off_is_off() {
        let gemini = |model: &str, said: &str| may_think(Api::GeminiGenerate, Dialect::Gemini, model, said);
        let budget = |zero: &str| format!("\"generationConfig\":{{\"thinkingConfig\":{{{zero}}}}}");
        let zero = budget("\"thinkingBudget\":0");
        assert_eq!(gemini("gemini-2.5-flash", zero.as_str()), Some(false));
        assert_eq!(gemini("gemini-3.8-flash", zero.as_str()), None);
        for open in [
            "\"thinkingBudget\":-1",
            "\"thinkingBudget\":0,\"thinking_budget\":9",
            "\"thinkingLevel\":\"LOW\"",
        ] {
            assert_eq!(gemini("gemini-2.5-flash", budget(open).as_str()), None, "{open}");
        }
        let both = format!("{zero},\"generation_config\":{{}}");
        assert_eq!(gemini("gemini-2.5-flash", both.as_str()), None);
        assert_eq!(gemini("gemini-2.5-flash", ""), None);
        for (api, said, expected) in [
            (Api::OpenaiChat, r#""reasoning_effort":"none""#, Some(false)),
            (Api::OpenaiChat, r#""reasoning_effort":"minimal""#, None),
            (Api::OpenaiChat, "", None),
            (Api::OpenaiResponses, r#""reasoning":{"effort":"none"}"#, Some(false)),
            (Api::OpenaiResponses, r#""reasoning":{"effort":"none","mode":"pro"}"#, None),
            (Api::OpenaiResponses, r#""reasoning":{"effort":"low"}"#, None),
        ] {
            assert_eq!(may_think(api, Dialect::Openai, "gpt-5.4", said), expected, "{said}");
            assert_eq!(may_think(api, Dialect::Compatible, "gpt-5.4", said), None, "{said}");
            assert_eq!(may_think(api, Dialect::Openai, "my-deployment", said), None, "{said}");
        }
    }
}
