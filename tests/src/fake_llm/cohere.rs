//! Cohere's Chat, version 2.

use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{Call, Refusal, Script, Shape, Step, event, prompt_tokens};
use super::controls::Fault;
use super::wire::{Wire, wire};

/// Tokens the provider puts around a prompt; they are told, but not billed.
pub const UNBILLED_TOKENS: u64 = 66;

struct CohereWire {
    id: String,
    answer: Answer,
    fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let model = tree.get("model").and_then(Value::as_str);
    let messages = tree.get("messages").and_then(Value::as_array).filter(|messages| !messages.is_empty());
    let (Some(model), Some(messages)) = (model, messages) else {
        return Err(Refusal::bad_request("invalid request: model and messages are required"));
    };
    let asked = Asked {
        model: model.to_owned(),
        prompt_tokens: prompt_tokens(messages, "content"),
        output_cap: tree.get("max_tokens").and_then(Value::as_u64),
        choices: 1,
        stream: tree.get("stream") == Some(&Value::Bool(true)),
    };
    let (answer, price) = call.decide(&asked)?;
    let wire = CohereWire { id: answer.long_name(), answer: answer.clone(), fault: call.controls.fault };
    let id = wire.id.clone();
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.whole().line().into()) };
    let content_type = shape.sse_or_json();
    Ok(Script { answer, price, api: "cohere_chat", id, headers: Vec::new(), content_type, shape })
}

/// A count as this API writes it.
pub fn float(count: u64) -> Wire {
    Wire::Value(serde_json::from_str(&format!("{count}.0")).unwrap_or_default())
}

impl CohereWire {
    fn usage(&self) -> Wire {
        if self.fault == Some(Fault::NoUsage) {
            return Wire::Absent;
        }
        let tokens = &self.answer.tokens;
        let told = float(tokens.prompt + UNBILLED_TOKENS);
        wire!({
            "billed_units": {"input_tokens": (float(tokens.prompt)), "output_tokens": (float(tokens.output()))},
            "tokens": {"input_tokens": told, "output_tokens": (float(tokens.output() + 2))},
            "cached_tokens": (float(tokens.cached))
        })
    }

    const fn finish_reason(&self) -> &'static str {
        if self.answer.capped { "MAX_TOKENS" } else { "COMPLETE" }
    }

    fn whole(&self) -> Wire {
        wire!({
            "id": (&self.id),
            "finish_reason": (self.finish_reason()),
            "message": {"role": "assistant", "content": [{"type": "text", "text": (self.answer.text())}]},
            "usage": (self.usage())
        })
    }

    fn into_stream(self) -> Shape {
        let begun =
            wire!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
        let content = |kind: &'static str, content: Wire| {
            event(kind, &wire!({"type": kind, "index": 0, "delta": {"message": {"content": content}}}))
        };
        let start = wire!({"id": (&self.id), "type": "message-start", "delta": {"message": begun}});
        let head = [
            Step::frame(event("message-start", &start)).reasoning(self.answer.tokens.reasoning()),
            Step::frame(content("content-start", wire!({"type": "text", "text": ""}))),
        ];
        let mut tail = vec![event("content-end", &wire!({"type": "content-end", "index": 0}))];
        if self.fault != Some(Fault::NoDone) {
            let delta = wire!({"finish_reason": (self.finish_reason()), "usage": (self.usage())});
            tail.push(event("message-end", &wire!({"type": "message-end", "delta": delta})));
        }
        let delta = wire!({"finish_reason": "ERROR", "error": "internal server error"});
        let error = event("message-end", &wire!({"type": "message-end", "delta": delta}));
        let words = (0..self.answer.tokens.words_per_choice).map(move |word| {
            Step::frame(content("content-delta", wire!({"text": (Answer::word(word))}))).bringing(word, 0)
        });
        let steps = head.into_iter().chain(words).chain(tail.into_iter().map(Step::frame));
        Shape::Stream { steps: Box::new(steps), error }
    }
}
