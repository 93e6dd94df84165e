//! Ollama's chat and generate: a JSON object a line.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{Call, ErrorShape, JSON, Refusal, Script, Shape, Step, message_tokens, prompt_tokens};
use super::controls::Fault;
use super::wire::{Wire, wire};

struct OllamaWire {
    answer: Answer,
    is_chat: bool,
    fault: Option<Fault>,
}

pub fn chat(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    match tree.get("messages").and_then(Value::as_array) {
        Some(messages) => script(call, &tree, prompt_tokens(messages, "content"), true),
        None => Err(Refusal::bad_request("messages is required")),
    }
}

pub fn generate(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let prompt = tree.get("prompt").and_then(Value::as_str).map_or(0, str::len);
    script(call, &tree, 3 + message_tokens(prompt), false)
}

fn script(call: &Call, tree: &Value, prompt_tokens: u64, is_chat: bool) -> Result<Script, Refusal> {
    let model = tree.get("model").and_then(Value::as_str);
    let asked = Asked {
        model: model.ok_or_else(|| Refusal::bad_request("model is required"))?.to_owned(),
        prompt_tokens,
        output_cap: tree.pointer("/options/num_predict").and_then(Value::as_u64),
        choices: 1,
        // A stream unless told otherwise.
        stream: tree.get("stream") != Some(&Value::Bool(false)),
    };
    let (answer, price) = call.decide(&asked)?;
    let id = answer.long_name();
    let wire = OllamaWire { answer: answer.clone(), is_chat, fault: call.controls.fault };
    let content_type = if asked.stream { "application/x-ndjson" } else { JSON };
    let shape = if asked.stream {
        wire.into_stream()
    } else {
        let text = wire.answer.text();
        Shape::Plain(wire.last(&text).line().into())
    };
    Ok(Script { answer, price, api: "ollama", id, headers: Vec::new(), content_type, shape })
}

impl OllamaWire {
    fn object(&self, text: &str, done: bool) -> Wire {
        let (key, said) = if self.is_chat {
            ("message", wire!({"role": "assistant", "content": text}))
        } else {
            ("response", Wire::from(text))
        };
        let head = wire!({"model": (&self.answer.model), "created_at": "2026-01-02T03:04:05.678901234Z"});
        head.with(key, said).with("done", done)
    }

    /// The last object, with the counts.
    fn last(&self, text: &str) -> Wire {
        let tokens = &self.answer.tokens;
        let reason = if self.answer.capped { "length" } else { "stop" };
        let last = self.object(text, true).with("done_reason", reason).with("total_duration", 5_191_566_416);
        let last = last.with("load_duration", 2_154_458);
        if self.fault == Some(Fault::NoUsage) {
            return last;
        }
        last.with("prompt_eval_count", tokens.prompt)
            .with("prompt_eval_duration", 383_809_000)
            .with("eval_count", tokens.output())
            .with("eval_duration", 4_799_921_000)
    }

    fn into_stream(self) -> Shape {
        let line = |object: &Wire| format!("{}\n", object.line());
        let message = "an error was encountered while running the model";
        let error = line(&ErrorShape::Ollama.body(StatusCode::INTERNAL_SERVER_ERROR, message, None));
        let this = Arc::new(self);
        let tokens = this.answer.tokens;
        let head = Step::frame(line(&this.object("", false))).reasoning(tokens.reasoning());
        let ends = this.fault != Some(Fault::NoDone);
        let tail = ends.then(|| Step::frame(line(&this.last(""))));
        let words = (0..tokens.words_per_choice)
            .map(move |word| Step::frame(line(&this.object(&Answer::word(word), false))).bringing(word, 0));
        Shape::Stream { steps: Box::new(std::iter::once(head).chain(words).chain(tail)), error: error.into() }
    }
}
