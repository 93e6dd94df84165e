//! Anthropic's Messages, of its own API and on Vertex.

use serde_json::Value;

use axum::http::StatusCode;

use super::answer::{Answer, Asked};
use super::apis::service_tier;
use super::call::{
    Call, ErrorShape, Refusal, Script, Shape, Step, event, message_tokens, prompt_tokens, text_bytes,
};
use super::controls::Fault;
use super::wire::{Wire, wire};

/// An answer and how it is written; Bedrock carries the same events in frames of its own.
pub struct MessagesWire {
    pub id: String,
    pub answer: Answer,
    pub tool: Option<String>,
    pub tier: Wire,
    pub web_searches: u64,
    pub fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let model = tree.get("model").and_then(Value::as_str).map(str::to_owned);
    let model = model.ok_or_else(|| Refusal::bad_request("model: Field required"))?;
    let stream = tree.get("stream") == Some(&Value::Bool(true));
    script(call, &tree, model, stream)
}

/// The model is in the path, and so is whether to stream.
pub fn vertex(call: &Call) -> Result<Script, Refusal> {
    let last = call.segment(call.path.matches('/').count() - 1);
    let (model, verb) = last.rsplit_once(':').unwrap_or((&last, ""));
    script(call, &call.tree()?, model.replace('@', "-"), verb == "streamRawPredict")
}

/// What a request would read.
pub fn count(call: &Call) -> Result<Wire, Refusal> {
    Ok(wire!({"input_tokens": (input_tokens(&call.tree()?)?)}))
}

fn script(call: &Call, tree: &Value, model: String, stream: bool) -> Result<Script, Refusal> {
    let asked = asked(tree, model, stream)?;
    let (answer, price) = call.decide(&asked)?;
    let wire = MessagesWire::new(call, tree, &answer);
    let headers = vec![("request-id", wire.id.replace("msg_", "req_"))];
    let id = wire.id.clone();
    let shape = if stream { wire.into_stream() } else { Shape::Plain(wire.message(true).line().into()) };
    let content_type = shape.sse_or_json();
    Ok(Script { answer, price, api: "anthropic_messages", id, headers, content_type, shape })
}

/// What a body asks for.
pub fn asked(tree: &Value, model: String, stream: bool) -> Result<Asked, Refusal> {
    let cap = tree.get("max_tokens").and_then(Value::as_u64);
    Ok(Asked {
        model,
        prompt_tokens: input_tokens(tree)?,
        output_cap: Some(cap.ok_or_else(|| Refusal::bad_request("max_tokens: Field required"))?),
        choices: 1,
        stream,
    })
}

fn input_tokens(tree: &Value) -> Result<u64, Refusal> {
    let system = tree.get("system").filter(|system| !system.is_null());
    let system = system.map_or(0, |system| message_tokens(text_bytes(Some(system))));
    match tree.get("messages").and_then(Value::as_array) {
        Some(messages) if !messages.is_empty() => Ok(system + prompt_tokens(messages, "content")),
        _ => Err(Refusal::bad_request("messages: at least one message is required")),
    }
}

impl MessagesWire {
    pub fn new(call: &Call, tree: &Value, answer: &Answer) -> Self {
        let tools = tree.get("tools").and_then(Value::as_array).into_iter().flatten();
        let tool = tools.filter_map(|tool| tool["name"].as_str()).map(str::to_owned).next();
        Self {
            id: format!("msg_01{}", &answer.long_name()),
            answer: answer.clone(),
            tool: tool.filter(|_| call.controls.tool_call),
            tier: service_tier(call, "standard"),
            web_searches: call.controls.web_searches,
            fault: call.controls.fault,
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn searches(&self) -> Wire {
        let searched = self.web_searches > 0;
        let count = wire!({"web_search_requests": (self.web_searches), "web_fetch_requests": 0});
        if searched { count } else { Wire::Absent }
    }

    /// The usage of a whole message, or of one that only begins.
    fn usage(&self, whole: bool) -> Wire {
        let tokens = &self.answer.tokens;
        let thinking = wire!({"thinking_tokens": (tokens.reasoning())});
        let thinks = whole && tokens.reasoning() > 0;
        wire!({
            "input_tokens": (tokens.fresh()),
            "cache_creation_input_tokens": (tokens.cache_write()),
            "cache_read_input_tokens": (tokens.cached),
            "cache_creation": {
                "ephemeral_5m_input_tokens": (tokens.cache_write_5m),
                "ephemeral_1h_input_tokens": (tokens.cache_write_1h)
            },
            "output_tokens": (if whole { tokens.output() } else { tokens.output().min(1) }),
            "output_tokens_details": (if thinks { thinking } else { Wire::Absent }),
            "server_tool_use": (if whole { self.searches() } else { Wire::Absent }),
            "service_tier": (self.tier.clone())
        })
    }

    /// The usage of a `message_delta`, at `output` tokens: cumulative, without the split of cache
    /// writes.
    fn delta_usage(&self, output: u64) -> Wire {
        let tokens = &self.answer.tokens;
        let thinking = wire!({"thinking_tokens": (tokens.reasoning())});
        wire!({
            "input_tokens": (tokens.fresh()),
            "cache_creation_input_tokens": (tokens.cache_write()),
            "cache_read_input_tokens": (tokens.cached),
            "output_tokens": output,
            "output_tokens_details": (if tokens.reasoning() > 0 { thinking } else { Wire::Absent }),
            "server_tool_use": (self.searches())
        })
    }

    const fn stop_reason(&self) -> &'static str {
        match (self.answer.capped, &self.tool) {
            (true, _) => "max_tokens",
            (false, Some(_)) => "tool_use",
            (false, None) => "end_turn",
        }
    }

    fn block(&self, whole: bool) -> Wire {
        let text = if whole { self.answer.text() } else { String::new() };
        match &self.tool {
            None => wire!({"type": "text", "text": text}),
            Some(name) => {
                let input = if whole { wire!({"text": text}) } else { wire!({}) };
                let id = format!("toolu_01{}", self.answer.short_name(7));
                wire!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    /// The message: whole, or as it begins.
    pub fn message(&self, whole: bool) -> Wire {
        let content = if whole { vec![self.block(true)] } else { Vec::new() };
        let stop = if whole { Wire::from(self.stop_reason()) } else { wire!(null) };
        let usage = if self.has(Fault::NoUsage) { Wire::Absent } else { self.usage(whole) };
        wire!({
            "id": (&self.id),
            "type": "message",
            "role": "assistant",
            "model": (&self.answer.model),
            "content": content,
            "stop_reason": stop,
            "stop_sequence": null,
            "usage": usage
        })
    }

    /// What comes before the first word: the name of each event, and itself.
    fn head(&self) -> Vec<(&'static str, Wire)> {
        let start = wire!({"type": "content_block_start", "index": 0, "content_block": (self.block(false))});
        vec![
            ("message_start", wire!({"type": "message_start", "message": (self.message(false))})),
            ("content_block_start", start),
            ("ping", wire!({"type": "ping"})),
        ]
    }

    fn word(&self, word: u64) -> (&'static str, Wire) {
        let text = Answer::word(word);
        let delta = if self.tool.is_some() {
            let json = if word == 0 { format!("{{\"text\": \"{text}") } else { text };
            wire!({"type": "input_json_delta", "partial_json": json})
        } else {
            wire!({"type": "text_delta", "text": text})
        };
        ("content_block_delta", wire!({"type": "content_block_delta", "index": 0, "delta": delta}))
    }

    fn tail(&self) -> Vec<(&'static str, Wire)> {
        let mut tail = Vec::new();
        if self.tool.is_some() {
            let delta = wire!({"type": "input_json_delta", "partial_json": "\"}"});
            let end = wire!({"type": "content_block_delta", "index": 0, "delta": delta});
            tail.push(("content_block_delta", end));
        }
        tail.push(("content_block_stop", wire!({"type": "content_block_stop", "index": 0})));
        let tokens = &self.answer.tokens;
        // With tools of the provider's own, the counts come more than once; each time as they stand.
        let mut counts = vec![(tokens.output(), Wire::from(self.stop_reason()))];
        if self.web_searches > 0 {
            counts.insert(0, (tokens.output() / 2, wire!(null)));
        }
        for (output, reason) in counts {
            let usage = if self.has(Fault::NoUsage) { Wire::Absent } else { self.delta_usage(output) };
            let delta = wire!({"stop_reason": reason, "stop_sequence": null});
            tail.push(("message_delta", wire!({"type": "message_delta", "delta": delta, "usage": usage})));
        }
        if !self.has(Fault::NoDone) {
            tail.push(("message_stop", wire!({"type": "message_stop"})));
        }
        tail
    }

    /// The events, each with the step that it is.
    pub fn steps(self, write: impl Fn(&str, &Wire) -> Vec<u8> + Send) -> impl Iterator<Item = Step> + Send {
        let step = move |(name, event): (&'static str, Wire)| Step::frame(write(name, &event));
        let reasoning = self.answer.tokens.reasoning();
        let head = self.head().into_iter().map(&step).enumerate();
        // Thinking is done when the first block of text begins.
        let head: Vec<_> =
            head.map(|(at, step)| if at == 1 { step.reasoning(reasoning) } else { step }).collect();
        let tail: Vec<_> = self.tail().into_iter().map(&step).collect();
        let words =
            (0..self.answer.tokens.words_per_choice).map(move |word| step(self.word(word)).bringing(word, 0));
        head.into_iter().chain(words).chain(tail)
    }

    fn into_stream(self) -> Shape {
        let failed = ErrorShape::Anthropic.body(overloaded(), "Overloaded", None);
        Shape::Stream { steps: Box::new(self.steps(event)), error: event("error", &failed) }
    }
}

fn overloaded() -> StatusCode {
    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}
