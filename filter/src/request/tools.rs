//! Tools that the provider runs by itself: what they find becomes input that no byte of the request shows,
//! and many cost by the call.

use purser_protocol::Api;

use super::Members;
use crate::json_scan::{self, Found};

/// Whether a request lets its provider run any. In doubt it does.
pub fn run_at_provider(api: Api, members: &Members<'_>) -> bool {
    let given = |name: &str| members.value(name).is_some();
    if given("web_search_options") || given("mcp_servers") || given("plugins") {
        return true;
    }
    let Some(tools) = members.value("tools") else { return false };
    json_scan::elements(tools.raw).is_none_or(|list| list.iter().any(|tool| !is_apps_own(api, tool.get())))
}

/// Whether a request has its provider rewrite the context with tokens that no byte of it shows. What only
/// clears old results of tools or old thinking makes it smaller.
pub fn changes_context(members: &Members<'_>) -> bool {
    let Some(found) = members.value("context_management") else { return false };
    let Ok([Some(edits)]) = json_scan::object(found.raw, &["edits"]) else { return true };
    let clears = |edit: &str| {
        let kind = json_scan::object(edit, &["type"]).ok().and_then(|[kind]| kind);
        let kind = kind.and_then(|kind| json_scan::string(kind.raw)).unwrap_or_default();
        kind.starts_with("clear_tool_uses_") || kind.starts_with("clear_thinking_")
    };
    json_scan::elements(edits.raw).is_none_or(|edits| !edits.iter().all(|edit| clears(edit.get())))
}

/// Whether a model's name alone has the provider search, or brings in settings that are kept there.
pub fn asked_by_name(model: &str) -> bool {
    model.ends_with(":online")
        || model.contains("@preset/")
        || model.contains("-search-preview")
        || model.contains("-search-api")
}

/// Types of tools that the app runs, whoever made them up.
const OWN: [&[u8]; 9] = [
    b"function",
    b"custom",
    b"bash",
    b"text_editor",
    b"computer",
    b"computer_use_preview",
    b"memory",
    b"local_shell",
    b"apply_patch",
];

/// Whether the app runs this tool.
fn is_apps_own(api: Api, tool: &str) -> bool {
    if api == Api::GeminiGenerate {
        return json_scan::object(tool, &["functionDeclarations", "function_declarations"])
            .is_ok_and(|named| named.into_iter().flatten().any(|found| is_all(tool, &found)));
    }
    let Ok([kind]) = json_scan::object(tool, &["type"]) else { return false };
    let Some(kind) = kind.filter(|kind| !kind.is_null()) else { return api != Api::OpenaiResponses };
    let kind = json_scan::string(kind.raw).unwrap_or_default();
    // Anthropic's have the date of their version behind them.
    let mut name = kind.as_bytes();
    while let [head @ .., b'0'..=b'9' | b'_'] = name {
        name = head;
    }
    OWN.contains(&name)
}

/// Whether an object has this member and no other.
fn is_all(object: &str, member: &Found<'_>) -> bool {
    let (before, after) = (object.get(..member.span.start), object.get(member.span.end..));
    let rest = before.unwrap_or_default().bytes().chain(after.unwrap_or_default().bytes());
    !rest.into_iter().any(|byte| byte == b',')
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, read};
    use super::*;
    use crate::api::Route;
    use crate::config::Dialect;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_providers_own_tools_are_told_from_the_apps() {
        for (api, more, at_provider) in [
            (Api::OpenaiChat, r#""tools":[{"type":"function","function":{"name":"f"}}]"#, false),
            (Api::OpenaiChat, r#""tools":[]"#, false),
            (Api::OpenaiChat, r#""tools":null"#, false),
            (Api::OpenaiChat, r#""web_search_options":{}"#, true),
            (Api::OpenaiChat, r#""plugins":[{"id":"web"}]"#, true),
            (Api::OpenaiResponses, r#""tools":[{"type":"function","name":"f"},{"type":"custom"}]"#, false),
            (Api::OpenaiResponses, r#""tools":[{"type":"computer_use_preview"}]"#, false),
            (Api::OpenaiResponses, r#""tools":[{"type":"function"},{"type":"web_search"}]"#, true),
            (Api::OpenaiResponses, r#""tools":[{"type":"functional"}]"#, true),
            (Api::OpenaiResponses, r#""tools":[{"type":"mcp"}]"#, true),
            (Api::OpenaiResponses, r#""tools":[{}]"#, true),
            (Api::OpenaiResponses, r#""tools":[7]"#, true),
            (Api::OpenaiResponses, r#""tools":{"type":"function"}"#, true),
            (Api::AnthropicMessages, r#""tools":[{"name":"f","input_schema":{}},{"type":"custom"}]"#, false),
            (Api::AnthropicMessages, r#""tools":[{"type":"bash_20250124","name":"bash"}]"#, false),
            (Api::AnthropicMessages, r#""tools":[{"type":"web_search_20250305","max_uses":5}]"#, true),
            (Api::AnthropicMessages, r#""mcp_servers":[{"type":"url"}]"#, true),
            (Api::AnthropicMessages, r#""container":"container_1""#, true),
            (Api::AnthropicMessages, r#""container":null,"mcp_servers":null"#, false),
            (
                Api::AnthropicMessages,
                r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"},
                    {"type":"clear_thinking_20251015","keep":"all"}]}"#,
                false,
            ),
            (
                Api::AnthropicMessages,
                r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"},
                    {"type":"compact_20260112"}]}"#,
                true,
            ),
            (Api::AnthropicMessages, r#""context_management":{"edits":7}"#, true),
            (Api::AnthropicMessages, r#""context_management":{}"#, true),
            (Api::AnthropicMessages, r#""context_management":null"#, false),
            (Api::OpenaiResponses, r#""context_management":[{"type":"compaction"}]"#, true),
            (Api::OpenaiResponses, r#""input":[{"type":"item_reference","id":"msg_123"}]"#, true),
            (Api::OpenaiResponses, r#""input":[{"id":"msg_123"}]"#, true),
            (Api::OpenaiResponses, r#""input":[{"role":"user","content":"hi"}]"#, false),
            (Api::OpenaiResponses, r#""input":"hi","plugins":[{"id":"web"}]"#, true),
            (Api::OpenaiChat, r#""models":["dear"]"#, true),
            (Api::OpenaiChat, r#""fallbacks":["dear"]"#, true),
            (Api::OpenaiCompletions, r#""models":["dear"]"#, true),
            (Api::OpenaiResponses, r#""preset":"p""#, true),
            (Api::AnthropicMessages, r#""models":["dear"]"#, true),
            (Api::BedrockInvoke, r#""tools":[{"type":"code_execution_20250825"}]"#, true),
            (Api::GeminiGenerate, r#""tools":[{"functionDeclarations":[{"name":"f"},{"name":"g"}]}]"#, false),
            (Api::GeminiGenerate, r#""tools":[{ "function_declarations" : [] }]"#, false),
            (Api::GeminiGenerate, r#""tools":[{"functionDeclarations":[],"googleSearch":{}}]"#, true),
            (Api::GeminiGenerate, r#""tools":[{"googleSearch":{},"functionDeclarations":[]}]"#, true),
            (Api::GeminiGenerate, r#""tools":[{"url_context":{}}]"#, true),
        ] {
            let route = Route { model: Some("m".to_owned()), ..Route::new(api, Dialect::Openai) };
            let body = format!("{{{more}}}");
            let request = read(&route, &BodyKind::default(), body.as_bytes()).unwrap();
            assert_eq!(request.size.server_context, at_provider, "{api:?} {more}");
        }
        for (model, at_provider) in [
            ("openai/gpt-4o:online", true),
            ("@preset/ours", true),
            ("gpt-4o@preset/ours", true),
            ("gpt-4o-mini-search-preview-2025-03-11", true),
            ("gpt-5-search-api", true),
            ("gpt-4o", false),
        ] {
            assert_eq!(asked_by_name(model), at_provider, "{model}");
        }
    }
}
