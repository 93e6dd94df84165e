//! Chat Completions, as OpenAI and as those answer who speak its API.

use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, Asked};
use super::apis::service_tier;
use super::call::{Call, Refusal, Script, Shape, prompt_tokens};
use super::openai_chat_wire::ChatWire;
use super::price::model_in;
use super::wire::{Wire, wire};

/// Who speaks the API, and what is peculiar to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    /// A first event without choices, and filter results in every choice.
    Azure,
    Gemini,
    /// Refuses `stream_options`; usage comes with the last event.
    Mistral,
    /// Empty lines before a plain answer, comments in a stream; usage comes with the last event.
    DeepSeek,
    /// Comments in a stream; usage, with its cost, always comes.
    OpenRouter,
    /// May put running usage on every event.
    Vllm,
}

/// The part of a request that the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChatRequest {
    #[serde(default)]
    model: String,
    messages: Vec<Value>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
    #[serde(default)]
    continuous_usage_stats: Option<bool>,
}

impl ChatRequest {
    /// Reads a body; `deployment` stands for the model where the path names it.
    fn parse(body: &[u8], deployment: Option<&str>) -> Result<Self, String> {
        // Through a tree first: of a key that comes twice the last one counts, as with most readers.
        let tree: Value = serde_json::from_slice(body)
            .map_err(|_| "We could not parse the JSON body of your request.".to_owned())?;
        if deployment.is_none() && tree.get("model").and_then(Value::as_str).is_none() {
            return Err("you must provide a model parameter".to_owned());
        }
        let mut request: Self =
            serde_json::from_value(tree).map_err(|error| format!("Invalid request: {error}."))?;
        if let Some(deployment) = deployment {
            model_in(deployment).unwrap_or(deployment).clone_into(&mut request.model);
        }
        if request.messages.is_empty() || !request.messages.iter().all(Value::is_object) {
            return Err("Invalid 'messages': expected an array with at least 1 message.".to_owned());
        }
        if !(1..=128).contains(&request.n.unwrap_or(1)) {
            return Err("Invalid 'n': expected an integer from 1 to 128.".to_owned());
        }
        Ok(request)
    }

    fn asked(&self) -> Asked {
        Asked {
            model: self.model.clone(),
            prompt_tokens: prompt_tokens(&self.messages, "content"),
            output_cap: self.max_completion_tokens.or(self.max_tokens),
            choices: self.n.unwrap_or(1),
            stream: self.stream == Some(true),
        }
    }

    /// The first function that the answer may call.
    fn tool(&self) -> Option<String> {
        let tools = self.tools.iter().flatten();
        let names = tools.filter_map(|tool| tool.pointer("/function/name").and_then(Value::as_str));
        names.map(str::to_owned).next()
    }
}

pub fn openai(call: &Call) -> Result<Script, Refusal> {
    decide(call, Vendor::OpenAi, None)
}

pub fn azure(call: &Call) -> Result<Script, Refusal> {
    decide(call, Vendor::Azure, Some(&call.segment(2)))
}

pub fn gemini(call: &Call) -> Result<Script, Refusal> {
    decide(call, Vendor::Gemini, None)
}

pub fn openrouter(call: &Call) -> Result<Script, Refusal> {
    decide(call, Vendor::OpenRouter, None)
}

/// OpenAI, unless the model is another vendor's.
pub fn by_model(call: &Call) -> Result<Script, Refusal> {
    let tree: Value = serde_json::from_slice(call.body).unwrap_or_default();
    let vendor = match tree.get("model").and_then(Value::as_str).unwrap_or_default() {
        model if model.starts_with("mistral-") => Vendor::Mistral,
        model if model.starts_with("deepseek-") => Vendor::DeepSeek,
        model if model.contains('/') => Vendor::Vllm,
        _ => Vendor::OpenAi,
    };
    if vendor == Vendor::Mistral && tree.get("stream_options").is_some() {
        return Err(Refusal {
            status: axum::http::StatusCode::UNPROCESSABLE_ENTITY,
            message: "extra_forbidden: body.stream_options: Extra inputs are not permitted".to_owned(),
            code: None,
        });
    }
    decide(call, vendor, None)
}

fn decide(call: &Call, vendor: Vendor, deployment: Option<&str>) -> Result<Script, Refusal> {
    let request = ChatRequest::parse(call.body, deployment).map_err(Refusal::bad_request)?;
    let asked = request.asked();
    let (answer, price) = call.decide(&asked)?;
    let options = request.stream_options.clone().unwrap_or_default();
    let wire = ChatWire {
        vendor,
        id: format!("chatcmpl-{}", answer.long_name()),
        tool: request.tool().filter(|_| call.controls.tool_call),
        tier: service_tier(call, "default"),
        include_usage: options.include_usage == Some(true),
        continuous_usage: options.continuous_usage_stats == Some(true),
        fault: call.controls.fault,
        price,
        answer: answer.clone(),
    };
    let headers = vec![
        ("openai-version", "2020-10-01".to_owned()),
        ("x-request-id", wire.id.replace("chatcmpl-", "req_")),
    ];
    let id = wire.id.clone();
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.plain()) };
    let content_type = shape.sse_or_json();
    Ok(Script { answer, price, api: "openai_chat", id, headers, content_type, shape })
}

/// `prompt_tokens`, `completion_tokens` and what is inside them.
pub fn usage(answer: &Answer, output: u64, reasoning: u64) -> Wire {
    let tokens = &answer.tokens;
    let cache_write = Some(tokens.cache_write()).filter(|written| *written > 0);
    wire!({
        "prompt_tokens": (tokens.prompt),
        "completion_tokens": output,
        "total_tokens": (tokens.prompt + output),
        "prompt_tokens_details": {
            "cached_tokens": (tokens.cached),
            "cache_write_tokens": cache_write,
            "audio_tokens": (tokens.audio_input)
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<ChatRequest, String> {
        ChatRequest::parse(body.as_bytes(), None)
    }

    fn tokens(messages: &str) -> u64 {
        let body = format!(r#"{{"messages":{messages},"model":"gpt-4o"}}"#);
        parse(&body).expect("a request").asked().prompt_tokens
    }

    #[test]
    fn counts_prompt_tokens_by_the_rule() {
        assert_eq!(tokens(r#"[{"role":"user","content":""}]"#), 7);
        assert_eq!(tokens(r#"[{"role":"user","content":"abcd"}]"#), 8);
        assert_eq!(tokens(r#"[{"role":"user","content":"abcde"}]"#), 9);
        assert_eq!(tokens(r#"[{"role":"user","content":"数"}]"#), 8);
        assert_eq!(tokens(r#"[{"role":"assistant","content":null},{"role":"user"}]"#), 11);
        let parts = r#"[{"role":"user","content":[{"type":"text","text":"abc"},
            {"type":"image_url","image_url":{"url":"data:,"}},{"type":"text","text":"de"}]}]"#;
        assert_eq!(tokens(parts), 9);
    }

    #[test]
    fn the_newer_cap_wins_and_of_a_repeated_key_the_last() {
        let body = r#"{"model":"a","model":"b","messages":[{}],"max_tokens":5,
            "max_completion_tokens":7,"stream":true,"stream_options":{"include_usage":true}}"#;
        let request = parse(body).expect("a request");
        let asked = request.asked();
        assert_eq!(asked.model, "b");
        assert_eq!(asked.output_cap, Some(7));
        assert!(asked.stream);
        assert_eq!(request.stream_options.and_then(|options| options.include_usage), Some(true));
    }

    #[test]
    fn refuses_what_the_provider_refuses() {
        for body in [
            "",
            "{",
            "[]",
            r#"{"messages":[{}]}"#,
            r#"{"model":7,"messages":[{}]}"#,
            r#"{"model":"a"}"#,
            r#"{"model":"a","messages":[]}"#,
            r#"{"model":"a","messages":[{}],"n":0}"#,
            r#"{"model":"a","messages":[{}],"max_tokens":-1}"#,
        ] {
            assert!(parse(body).is_err(), "{body}");
        }
    }
}
