//! OpenAI's legacy Completions.

use serde_json::Value;

use axum::http::StatusCode;

use super::answer::{Answer, Asked};
use super::call::{Call, ErrorShape, Refusal, Script, Shape, Step, data, message_tokens};
use super::controls::Fault;
use super::openai_chat::usage;
use super::price::model_in;
use super::wire::{Wire, wire};

/// What an answer has without `max_tokens`, at most.
const DEFAULT_CAP: u64 = 16;

struct CompletionsWire {
    id: String,
    answer: Answer,
    /// Choices shown; `best_of` may have produced more.
    shown: u64,
    include_usage: bool,
    fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let model = tree.get("model").and_then(Value::as_str).map(str::to_owned);
    answer(call, &tree, &model.ok_or_else(|| Refusal::bad_request("you must provide a model parameter"))?)
}

pub fn azure(call: &Call) -> Result<Script, Refusal> {
    let deployment = call.segment(2);
    answer(call, &call.tree()?, model_in(&deployment).unwrap_or(&deployment))
}

fn answer(call: &Call, tree: &Value, model: &str) -> Result<Script, Refusal> {
    let prompts = prompts(tree.get("prompt"))?;
    let number = |name: &str| tree.get(name).and_then(Value::as_u64);
    let n = number("n").unwrap_or(1);
    let count = prompts.len() as u64;
    let asked = Asked {
        model: model.to_owned(),
        prompt_tokens: prompts.iter().sum(),
        output_cap: Some(number("max_tokens").unwrap_or(DEFAULT_CAP)),
        choices: count * n.max(number("best_of").unwrap_or(1)),
        stream: tree.get("stream") == Some(&Value::Bool(true)),
    };
    let (answer, price) = call.decide(&asked)?;
    let wire = CompletionsWire {
        id: format!("cmpl-{}", answer.long_name()),
        answer: answer.clone(),
        shown: count * n,
        include_usage: tree.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)),
        fault: call.controls.fault,
    };
    let headers = vec![("x-request-id", wire.id.replace("cmpl-", "req_"))];
    let id = wire.id.clone();
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.plain()) };
    let content_type = shape.sse_or_json();
    Ok(Script { answer, price, api: "openai_completions", id, headers, content_type, shape })
}

/// The tokens of each prompt: texts count as a message does, tokens as they are.
fn prompts(prompt: Option<&Value>) -> Result<Vec<u64>, Refusal> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(message_tokens(text.len())),
        Value::Array(tokens) if tokens.iter().all(Value::is_u64) => Some(tokens.len() as u64),
        _ => None,
    };
    let found = match prompt {
        Some(Value::Array(items)) if items.iter().all(|item| item.is_string() || item.is_array()) => {
            items.iter().map(one).collect()
        }
        Some(value) => one(value).map(|tokens| vec![tokens]),
        None => None,
    };
    let found: Option<Vec<u64>> = found;
    found.filter(|prompts| (1..=2048).contains(&prompts.len())).ok_or_else(|| {
        Refusal::bad_request("Invalid 'prompt': expected a string, strings, tokens or lists of tokens.")
    })
}

impl CompletionsWire {
    fn object(&self, choices: Vec<Wire>, usage: Wire) -> Wire {
        wire!({
            "id": (&self.id),
            "object": "text_completion",
            "created": (self.answer.created),
            "model": (&self.answer.model),
            "choices": choices,
            "usage": usage
        })
    }

    fn usage(&self) -> Wire {
        usage(&self.answer, self.answer.tokens.output(), self.answer.tokens.reasoning())
    }

    const fn finish_reason(&self) -> &'static str {
        if self.answer.capped { "length" } else { "stop" }
    }

    fn choice(text: &str, index: u64, finish: Option<&'static str>) -> Wire {
        let finish = finish.map_or(wire!(null), Wire::from);
        wire!({"text": text, "index": index, "logprobs": null, "finish_reason": finish})
    }

    fn plain(&self) -> Vec<u8> {
        let text = self.answer.text();
        let choices = (0..self.shown).map(|index| Self::choice(&text, index, Some(self.finish_reason())));
        let usage = if self.fault == Some(Fault::NoUsage) { Wire::Absent } else { self.usage() };
        self.object(choices.collect(), usage).pretty()
    }

    fn into_stream(self) -> Shape {
        let message = "The server had an error while processing your request. Sorry about that!";
        let error = data(&ErrorShape::OpenAi.body(StatusCode::INTERNAL_SERVER_ERROR, message, None));
        let (tokens, shown) = (self.answer.tokens, self.shown);
        let wants_usage = self.include_usage && self.fault != Some(Fault::NoUsage);
        let running = move || if wants_usage { wire!(null) } else { Wire::Absent };
        let finish = |index| Self::choice("", index, Some(self.finish_reason()));
        let mut tail: Vec<_> =
            (0..shown).map(|index| Step::frame(data(&self.object(vec![finish(index)], running())))).collect();
        if wants_usage {
            tail.push(Step::frame(data(&self.object(Vec::new(), self.usage()))));
        }
        if self.fault != Some(Fault::NoDone) {
            tail.push(Step::frame("data: [DONE]\n\n"));
        }
        let each = (0..tokens.words_per_choice)
            .flat_map(move |word| (0..tokens.choices).map(move |choice| (word, choice)));
        let words = each.map(move |(word, choice)| {
            // What best_of doesn't show is produced all the same.
            let shown = choice < shown;
            let chunk = Self::choice(&Answer::word(word), choice, None);
            let bytes = if shown { data(&self.object(vec![chunk], running())) } else { Vec::new() };
            Step::frame(bytes).bringing(word, choice)
        });
        Shape::Stream { steps: Box::new(words.chain(tail)), error }
    }
}
