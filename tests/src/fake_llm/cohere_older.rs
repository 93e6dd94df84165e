//! Cohere's Chat, version 1: a line of JSON for each event of a stream.

use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{Call, JSON, Refusal, Script, Shape, Step, message_tokens, prompt_tokens};
use super::cohere::{UNBILLED_TOKENS, float};
use super::controls::Fault;
use super::wire::{Wire, wire};

struct OlderWire {
    id: String,
    answer: Answer,
    fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let text = |name: &str| tree.get(name).and_then(Value::as_str);
    let (Some(model), Some(message)) = (text("model"), text("message")) else {
        return Err(Refusal::bad_request("invalid request: model and message are required"));
    };
    let history = tree.get("chat_history").and_then(Value::as_array).into_iter().flatten();
    let asked = Asked {
        model: model.to_owned(),
        prompt_tokens: prompt_tokens(history, "message") + message_tokens(message.len()),
        output_cap: tree.get("max_tokens").and_then(Value::as_u64),
        choices: 1,
        stream: tree.get("stream") == Some(&Value::Bool(true)),
    };
    let (answer, price) = call.decide(&asked)?;
    let wire = OlderWire { id: answer.long_name(), answer: answer.clone(), fault: call.controls.fault };
    let id = wire.id.clone();
    let content_type = if asked.stream { "application/stream+json" } else { JSON };
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.whole().line().into()) };
    Ok(Script { answer, price, api: "cohere_chat", id, headers: Vec::new(), content_type, shape })
}

impl OlderWire {
    fn whole(&self) -> Wire {
        let tokens = &self.answer.tokens;
        let meta = wire!({
            "api_version": {"version": "1"},
            "billed_units": {"input_tokens": (float(tokens.prompt)), "output_tokens": (float(tokens.output()))},
            "tokens": {
                "input_tokens": (float(tokens.prompt + UNBILLED_TOKENS)), "output_tokens": (float(tokens.output()))
            },
            "cached_tokens": (float(tokens.cached))
        });
        wire!({
            "response_id": (self.answer.short_name(1)),
            "text": (self.answer.text()),
            "generation_id": (&self.id),
            "chat_history": [],
            "finish_reason": (if self.answer.capped { "MAX_TOKENS" } else { "COMPLETE" }),
            "meta": (if self.fault == Some(Fault::NoUsage) { Wire::Absent } else { meta })
        })
    }

    fn into_stream(self) -> Shape {
        let line = |object: Wire| format!("{}\n", object.line());
        let start = wire!({"is_finished": false, "event_type": "stream-start", "generation_id": (&self.id)});
        let head = Step::frame(line(start)).reasoning(self.answer.tokens.reasoning());
        let end = wire!({
            "is_finished": true, "event_type": "stream-end",
            "finish_reason": "COMPLETE", "response": (self.whole())
        });
        let tail = (self.fault != Some(Fault::NoDone)).then(|| Step::frame(line(end)));
        let error = wire!({"message": "internal server error"});
        let words = (0..self.answer.tokens.words_per_choice).map(move |word| {
            let text = Answer::word(word);
            let event = wire!({"is_finished": false, "event_type": "text-generation", "text": text});
            Step::frame(line(event)).bringing(word, 0)
        });
        let steps = std::iter::once(head).chain(words).chain(tail);
        Shape::Stream { steps: Box::new(steps), error: line(error).into() }
    }
}
