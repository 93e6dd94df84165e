//! OpenAI's Responses.

use serde_json::Value;

use super::answer::{Answer, Asked};
use super::apis::service_tier;
use super::call::{Call, Refusal, Script, Shape, Step, event, message_tokens, prompt_tokens, text_bytes};
use super::controls::Fault;
use super::price::model_in;
use super::wire::{Wire, wire};

struct ResponsesWire {
    id: String,
    answer: Answer,
    tool: Option<String>,
    tier: Wire,
    web_searches: u64,
    cap: Option<u64>,
    /// Whether the work goes on behind the call, which is answered at once.
    background: bool,
    fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let Some(named) = tree.get("model").and_then(Value::as_str) else {
        return Err(Refusal::bad_request("Missing required parameter: 'model'."));
    };
    // Azure's path has no deployment here: the model is its name.
    let model = if call.path.starts_with("/openai/") { model_in(named).unwrap_or(named) } else { named };
    let cap = tree.get("max_output_tokens").and_then(Value::as_u64);
    let asked = Asked {
        model: model.to_owned(),
        prompt_tokens: input_tokens(&tree)?,
        output_cap: cap,
        choices: 1,
        stream: tree.get("stream") == Some(&Value::Bool(true)),
    };
    let (answer, price) = call.decide(&asked)?;
    let tools = tree.get("tools").and_then(Value::as_array).into_iter().flatten();
    let functions = tools.filter(|tool| tool["type"] == "function");
    let tool = functions.filter_map(|tool| tool["name"].as_str()).map(str::to_owned).next();
    let wire = ResponsesWire {
        id: format!("resp_{}", answer.long_name()),
        answer: answer.clone(),
        tool: tool.filter(|_| call.controls.tool_call),
        tier: service_tier(call, "default"),
        web_searches: call.controls.web_searches.min(16),
        cap,
        background: tree.get("background") == Some(&Value::Bool(true)),
        fault: call.controls.fault,
    };
    let headers =
        vec![("openai-version", "2020-10-01".to_owned()), ("x-request-id", wire.id.replace("resp_", "req_"))];
    let id = wire.id.clone();
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.whole().pretty()) };
    let content_type = shape.sse_or_json();
    Ok(Script { answer, price, api: "openai_responses", id, headers, content_type, shape })
}

/// The tokens of `instructions` and of each item of `input`.
fn input_tokens(tree: &Value) -> Result<u64, Refusal> {
    let instructions = tree.get("instructions").filter(|text| text.is_string());
    let instructions = instructions.map_or(0, |text| message_tokens(text_bytes(Some(text))));
    match tree.get("input") {
        Some(Value::String(text)) => Ok(instructions + 3 + message_tokens(text.len())),
        Some(Value::Array(items)) if !items.is_empty() => Ok(instructions + prompt_tokens(items, "content")),
        _ => Err(Refusal::bad_request("Missing required parameter: 'input'.")),
    }
}

impl ResponsesWire {
    fn item_id(&self) -> String {
        let kind = if self.tool.is_some() { "fc" } else { "msg" };
        format!("{kind}_{}", self.answer.short_name(5))
    }

    fn usage(&self) -> Wire {
        let tokens = &self.answer.tokens;
        wire!({
            "input_tokens": (tokens.prompt),
            "input_tokens_details": {
                "cache_write_tokens": (tokens.cache_write()),
                "cached_tokens": (tokens.cached)
            },
            "output_tokens": (tokens.output()),
            "output_tokens_details": {"reasoning_tokens": (tokens.reasoning())},
            "total_tokens": (tokens.prompt + tokens.output())
        })
    }

    fn arguments(&self) -> String {
        wire!({"text": (self.answer.text())}).line()
    }

    fn part(text: &str) -> Wire {
        wire!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
    }

    /// The message, or the call of a function.
    fn item(&self, whole: bool) -> Wire {
        let status = if whole { "completed" } else { "in_progress" };
        if let Some(name) = &self.tool {
            let arguments = if whole { self.arguments() } else { String::new() };
            return wire!({
                "id": (self.item_id()),
                "type": "function_call",
                "status": status,
                "arguments": arguments,
                "call_id": (format!("call_{}", self.answer.short_name(6))),
                "name": name
            });
        }
        let content = if whole { vec![Self::part(&self.answer.text())] } else { Vec::new() };
        wire!({
            "id": (self.item_id()),
            "type": "message",
            "status": status,
            "content": content,
            "role": "assistant"
        })
    }

    fn search(&self, number: u64) -> Wire {
        wire!({
            "id": (format!("ws_{}", self.answer.short_name(10 + number))),
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "money"}
        })
    }

    fn response(&self, status: &str, output: Vec<Wire>, error: Wire, usage: Wire) -> Wire {
        let details =
            if status == "incomplete" { wire!({"reason": "max_output_tokens"}) } else { wire!(null) };
        let cap = self.cap.map_or(wire!(null), Wire::from);
        wire!({
            "id": (&self.id),
            "object": "response",
            "created_at": (self.answer.created),
            "status": status,
            "background": (self.background),
            "error": error,
            "incomplete_details": details,
            "instructions": null,
            "max_output_tokens": cap,
            "model": (&self.answer.model),
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "service_tier": (self.tier.clone()),
            "store": true,
            "temperature": 1,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1,
            "truncation": "disabled",
            "usage": usage,
            "user": null,
            "metadata": {}
        })
    }

    /// The answer at its end.
    fn whole(&self) -> Wire {
        if self.background {
            return self.response("queued", Vec::new(), wire!(null), wire!(null));
        }
        let status = if self.answer.capped { "incomplete" } else { "completed" };
        let mut output: Vec<_> = (0..self.web_searches).map(|number| self.search(number)).collect();
        output.push(self.item(true));
        let usage = if self.fault == Some(Fault::NoUsage) { wire!(null) } else { self.usage() };
        self.response(status, output, wire!(null), usage)
    }

    fn into_stream(self) -> Shape {
        let message = "The server had an error while processing your request. Sorry about that!";
        let error = wire!({"code": "server_error", "message": message});
        let failed = self.response("failed", Vec::new(), error, wire!(null));
        let words = self.answer.tokens.words_per_choice;
        let mut sequence = Sequence(0);
        let head = self.head(&mut sequence);
        let first_word = sequence.0;
        let error = sequence_at("response.failed", first_word + words / 2, vec![("response", failed)]);
        let mut after = Sequence(first_word + words);
        let tail = self.tail(&mut after);
        let words = (0..words).map(move |word| self.word(word, first_word + word));
        Shape::Stream { steps: Box::new(head.into_iter().chain(words).chain(tail)), error }
    }

    fn head(&self, sequence: &mut Sequence) -> Vec<Step> {
        let begun = self.response("in_progress", Vec::new(), wire!(null), wire!(null));
        let mut head = vec![
            Step::frame(sequence.event("response.created", vec![("response", begun.clone())])),
            Step::frame(sequence.event("response.in_progress", vec![("response", begun)]))
                .reasoning(self.answer.tokens.reasoning()),
        ];
        for number in 0..self.web_searches {
            let fields = vec![("output_index", wire!(number)), ("item", self.search(number))];
            head.push(Step::frame(sequence.event("response.output_item.done", fields)));
        }
        let at = self.web_searches;
        let fields = vec![("output_index", wire!(at)), ("item", self.item(false))];
        head.push(Step::frame(sequence.event("response.output_item.added", fields)));
        if self.tool.is_none() {
            let mut fields = self.place();
            fields.push(("part", Self::part("")));
            head.push(Step::frame(sequence.event("response.content_part.added", fields)));
        }
        head
    }

    /// Where a delta belongs.
    fn place(&self) -> Vec<(&'static str, Wire)> {
        let mut place =
            vec![("item_id", Wire::from(self.item_id())), ("output_index", wire!((self.web_searches)))];
        if self.tool.is_none() {
            place.push(("content_index", wire!(0)));
        }
        place
    }

    fn word(&self, word: u64, number: u64) -> Step {
        let mut fields = self.place();
        let name = if self.tool.is_some() {
            "response.function_call_arguments.delta"
        } else {
            "response.output_text.delta"
        };
        fields.push(("delta", Wire::from(Answer::word(word))));
        if self.tool.is_none() {
            fields.push(("logprobs", wire!([])));
        }
        fields.push(("obfuscation", Wire::from(self.answer.short_name(1000 + word))));
        Step::frame(sequence_at(name, number, fields)).bringing(word, 0)
    }

    fn tail(&self, sequence: &mut Sequence) -> Vec<Step> {
        let mut tail = Vec::new();
        let mut fields = self.place();
        if self.tool.is_some() {
            fields.push(("arguments", Wire::from(self.arguments())));
            tail.push(Step::frame(sequence.event("response.function_call_arguments.done", fields)));
        } else {
            let text = self.answer.text();
            fields.extend([("text", Wire::from(&text)), ("logprobs", wire!([]))]);
            tail.push(Step::frame(sequence.event("response.output_text.done", fields)));
            let mut fields = self.place();
            fields.push(("part", Self::part(&text)));
            tail.push(Step::frame(sequence.event("response.content_part.done", fields)));
        }
        let fields = vec![("output_index", wire!((self.web_searches))), ("item", self.item(true))];
        tail.push(Step::frame(sequence.event("response.output_item.done", fields)));
        if self.fault != Some(Fault::NoDone) {
            let name = if self.answer.capped { "response.incomplete" } else { "response.completed" };
            tail.push(Step::frame(sequence.event(name, vec![("response", self.whole())])));
        }
        tail
    }
}

/// The next `sequence_number`.
struct Sequence(u64);

impl Sequence {
    fn event(&mut self, name: &'static str, fields: Vec<(&'static str, Wire)>) -> Vec<u8> {
        let number = self.0;
        self.0 += 1;
        sequence_at(name, number, fields)
    }
}

fn sequence_at(name: &'static str, number: u64, fields: Vec<(&'static str, Wire)>) -> Vec<u8> {
    let head = wire!({"type": name, "sequence_number": number});
    event(name, &fields.into_iter().fold(head, |event, (key, value)| event.with(key, value)))
}
