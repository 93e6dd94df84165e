//! Bedrock: Converse, and InvokeModel with a Claude model; plain, and as a binary event stream.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::answer::{Answer, Asked};
use super::anthropic::{self, MessagesWire};
use super::apis::Decide;
use super::call::{Call, ErrorShape, JSON, Refusal, Script, Shape, Step, message_tokens, prompt_tokens};
use super::controls::Fault;
use super::event_stream::{self, event, exception};
use super::price::model_in;
use super::wire::{Wire, wire};

/// What the end of a path asks for.
pub fn action(action: &str) -> Option<Decide> {
    match action {
        "converse" => Some(|call| converse(call, false)),
        "converse-stream" => Some(|call| converse(call, true)),
        "invoke" => Some(|call| invoke(call, false)),
        "invoke-with-response-stream" => Some(|call| invoke(call, true)),
        _ => None,
    }
}

struct ConverseWire {
    answer: Answer,
    tool: Option<String>,
    fault: Option<Fault>,
}

/// The model of the path: its name, or the end of an inference profile's.
fn model(call: &Call) -> String {
    let named = call.segment(1);
    model_in(&named).map_or(named.clone(), str::to_owned)
}

fn request_id(answer: &Answer) -> String {
    let name = answer.long_name();
    let part = |from: usize, to: usize| name.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn converse(call: &Call, stream: bool) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let asked = Asked {
        model: model(call),
        prompt_tokens: input_tokens(&tree)?,
        output_cap: tree.pointer("/inferenceConfig/maxTokens").and_then(Value::as_u64),
        choices: 1,
        stream,
    };
    let (answer, price) = call.decide(&asked)?;
    let tools = tree.pointer("/toolConfig/tools").and_then(Value::as_array).into_iter().flatten();
    let names = tools.filter_map(|tool| tool.pointer("/toolSpec/name").and_then(Value::as_str));
    let tool = names.map(str::to_owned).next().filter(|_| call.controls.tool_call);
    let wire = ConverseWire { answer: answer.clone(), tool, fault: call.controls.fault };
    let id = request_id(&answer);
    let headers = vec![("x-amzn-requestid", id.clone())];
    let shape = if stream { wire.into_stream() } else { Shape::Plain(wire.whole().line().into()) };
    let content_type = if stream { event_stream::CONTENT_TYPE } else { JSON };
    Ok(Script { answer, price, api: "bedrock_converse", id, headers, content_type, shape })
}

fn input_tokens(tree: &Value) -> Result<u64, Refusal> {
    let system = tree.get("system").and_then(Value::as_array).into_iter().flatten();
    let texts = system.filter_map(|part| part.get("text")?.as_str());
    let system: u64 = texts.map(|text| message_tokens(text.len())).sum();
    match tree.get("messages").and_then(Value::as_array) {
        Some(messages) if !messages.is_empty() => Ok(system + prompt_tokens(messages, "content")),
        _ => Err(Refusal::bad_request("The value at messages failed to satisfy constraint: not empty")),
    }
}

fn invoke(call: &Call, stream: bool) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let asked = anthropic::asked(&tree, model(call), stream)?;
    let (answer, price) = call.decide(&asked)?;
    let wire = MessagesWire::new(call, &tree, &answer);
    let (id, tokens) = (wire.id.clone(), answer.tokens);
    let mut headers = vec![("x-amzn-requestid", request_id(&answer))];
    let tells_usage = !call.controls.has(Fault::NoUsage);
    if stream {
        let metrics = wire!({
            "inputTokenCount": (tokens.fresh()),
            "outputTokenCount": (tokens.output()),
            "invocationLatency": 512,
            "firstByteLatency": 128,
            "cacheReadInputTokenCount": (tokens.cached),
            "cacheWriteInputTokenCount": (tokens.cache_write())
        });
        let write = move |name: &str, json: &Wire| {
            let mut json = json.clone();
            if name == "message_stop" && tells_usage {
                json = json.with("amazon-bedrock-invocationMetrics", metrics.clone());
            }
            let bytes = STANDARD.encode(json.line());
            event("chunk", &wire!({"bytes": bytes, "p": "abcdefghijkl"}).line())
        };
        let shape = Shape::Stream { steps: Box::new(wire.steps(write)), error: failed() };
        let content_type = event_stream::CONTENT_TYPE;
        return Ok(Script { answer, price, api: "bedrock_invoke", id, headers, content_type, shape });
    }
    if tells_usage {
        headers.extend([
            ("x-amzn-bedrock-input-token-count", tokens.fresh().to_string()),
            ("x-amzn-bedrock-output-token-count", tokens.output().to_string()),
            ("x-amzn-bedrock-cache-read-input-token-count", tokens.cached.to_string()),
            ("x-amzn-bedrock-cache-write-input-token-count", tokens.cache_write().to_string()),
        ]);
    }
    let shape = Shape::Plain(wire.message(true).line().into());
    Ok(Script { answer, price, api: "bedrock_invoke", id, headers, content_type: JSON, shape })
}

/// What an error within a stream looks like.
fn failed() -> Vec<u8> {
    let body =
        ErrorShape::Aws.body(StatusCode::INTERNAL_SERVER_ERROR, "The system encountered an error.", None);
    exception("internalServerException", &body.line())
}

impl ConverseWire {
    fn usage(&self) -> Wire {
        let tokens = &self.answer.tokens;
        let detail = |ttl: &str, count: u64| (count > 0).then(|| wire!({"ttl": ttl, "inputTokens": count}));
        let details: Vec<_> = [detail("5m", tokens.cache_write_5m), detail("1h", tokens.cache_write_1h)]
            .into_iter()
            .flatten()
            .collect();
        let total = tokens.prompt + tokens.output();
        let written = !details.is_empty();
        wire!({
            "inputTokens": (tokens.fresh()),
            "outputTokens": (tokens.output()),
            "totalTokens": total,
            "cacheReadInputTokens": (tokens.cached),
            "cacheWriteInputTokens": (tokens.cache_write()),
            "cacheDetails": (if written { Wire::Array(details) } else { Wire::Absent })
        })
    }

    const fn stop_reason(&self) -> &'static str {
        match (self.answer.capped, &self.tool) {
            (true, _) => "max_tokens",
            (false, Some(_)) => "tool_use",
            (false, None) => "end_turn",
        }
    }

    fn tool_use(&self, name: &str) -> Wire {
        wire!({"toolUseId": (format!("tooluse_{}", self.answer.short_name(8))), "name": name})
    }

    fn whole(&self) -> Wire {
        let text = self.answer.text();
        let content = match &self.tool {
            None => wire!({"text": text}),
            Some(name) => wire!({"toolUse": (self.tool_use(name).with("input", wire!({"text": text})))}),
        };
        let usage = if self.fault == Some(Fault::NoUsage) { Wire::Absent } else { self.usage() };
        wire!({
            "metrics": {"latencyMs": 512},
            "output": {"message": {"content": [content], "role": "assistant"}},
            "stopReason": (self.stop_reason()),
            "usage": usage
        })
    }

    fn word(&self, word: u64) -> Step {
        let text = Answer::word(word);
        let delta = if self.tool.is_some() {
            let json = if word == 0 { format!("{{\"text\": \"{text}") } else { text };
            wire!({"toolUse": {"input": json}})
        } else {
            wire!({"text": text})
        };
        Step::frame(delta_event(delta)).bringing(word, 0)
    }

    fn into_stream(self) -> Shape {
        let this = Arc::new(self);
        let mut head = vec![event("messageStart", &wire!({"p": "abcdefgh", "role": "assistant"}).line())];
        let mut tail = Vec::new();
        if let Some(name) = &this.tool {
            let start =
                wire!({"contentBlockIndex": 0, "p": "ab", "start": {"toolUse": (this.tool_use(name))}});
            head.push(event("contentBlockStart", &start.line()));
            tail.push(delta_event(wire!({"toolUse": {"input": "\"}"}})));
        }
        tail.push(event("contentBlockStop", &wire!({"contentBlockIndex": 0, "p": "abcdef"}).line()));
        tail.push(event("messageStop", &wire!({"p": "abc", "stopReason": (this.stop_reason())}).line()));
        if this.fault != Some(Fault::NoUsage) && this.fault != Some(Fault::NoDone) {
            let metadata = wire!({"metrics": {"latencyMs": 512}, "p": "abcdefghij", "usage": (this.usage())});
            tail.push(event("metadata", &metadata.line()));
        }
        let tokens = this.answer.tokens;
        let head = head.into_iter().map(Step::frame).enumerate();
        let head: Vec<_> =
            head.map(|(at, step)| if at == 0 { step.reasoning(tokens.reasoning()) } else { step }).collect();
        let words = (0..tokens.words_per_choice).map(move |word| this.word(word));
        let steps = head.into_iter().chain(words).chain(tail.into_iter().map(Step::frame));
        Shape::Stream { steps: Box::new(steps), error: failed() }
    }
}

fn delta_event(delta: Wire) -> Vec<u8> {
    event("contentBlockDelta", &wire!({"contentBlockIndex": 0, "delta": delta, "p": "abcdefghijk"}).line())
}
