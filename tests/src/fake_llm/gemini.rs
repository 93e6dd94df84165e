//! Gemini's generateContent, on AI Studio and on Vertex.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::answer::{Answer, Asked};
use super::call::{
    Call, ErrorShape, JSON, Refusal, Script, Shape, Step, message_tokens, prompt_tokens, text_bytes,
};
use super::controls::Fault;
use super::wire::{Wire, wire};

/// How a stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// `alt=sse`, with the line ends Google uses.
    Events,
    /// One JSON array over many lines, which grows.
    Array,
}

struct GeminiWire {
    id: String,
    answer: Answer,
    tool: Option<String>,
    framing: Framing,
    vertex: bool,
    fault: Option<Fault>,
}

pub fn decide(call: &Call) -> Result<Script, Refusal> {
    let (model, verb) = target(call);
    let tree = call.tree()?;
    let config = tree.get("generationConfig").or_else(|| tree.get("generation_config"));
    let number = |camel: &str, snake: &str| {
        let value = config.and_then(|config| config.get(camel).or_else(|| config.get(snake)));
        value.and_then(Value::as_u64)
    };
    let asked = Asked {
        model,
        prompt_tokens: input_tokens(&tree)?,
        output_cap: number("maxOutputTokens", "max_output_tokens"),
        choices: number("candidateCount", "candidate_count").unwrap_or(1),
        stream: verb == "streamGenerateContent",
    };
    let (answer, price) = call.decide(&asked)?;
    let tools = tree.get("tools").and_then(Value::as_array).into_iter().flatten();
    let functions = tools.filter_map(|tool| tool["functionDeclarations"].as_array()).flatten();
    let tool = functions.filter_map(|function| function["name"].as_str()).map(str::to_owned).next();
    let as_events = call.query.split('&').any(|pair| pair == "alt=sse");
    let wire = GeminiWire {
        id: answer.long_name(),
        answer: answer.clone(),
        tool: tool.filter(|_| call.controls.tool_call),
        framing: if as_events { Framing::Events } else { Framing::Array },
        vertex: call.path.contains("/publishers/"),
        fault: call.controls.fault,
    };
    let id = wire.id.clone();
    let content_type = if asked.stream && as_events { "text/event-stream" } else { JSON };
    let shape = if asked.stream { wire.into_stream() } else { Shape::Plain(wire.whole().pretty()) };
    Ok(Script { answer, price, api: "gemini_generate", id, headers: Vec::new(), content_type, shape })
}

/// What a request would read.
pub fn count(call: &Call) -> Result<Wire, Refusal> {
    Ok(wire!({"totalTokens": (input_tokens(&call.tree()?)?)}))
}

/// Model and verb, from the end of the path.
fn target(call: &Call) -> (String, String) {
    let last = call.segment(call.path.matches('/').count() - 1);
    let (model, verb) = last.rsplit_once(':').unwrap_or((&last, ""));
    (model.to_owned(), verb.to_owned())
}

fn input_tokens(tree: &Value) -> Result<u64, Refusal> {
    let system =
        tree.get("systemInstruction").map_or(0, |system| message_tokens(text_bytes(system.get("parts"))));
    match tree.get("contents").and_then(Value::as_array) {
        Some(contents) if !contents.is_empty() => Ok(system + prompt_tokens(contents, "parts")),
        _ => Err(Refusal::bad_request("* GenerateContentRequest.contents: contents is not specified")),
    }
}

impl GeminiWire {
    /// The counts once `words` words of all candidates are made.
    fn usage(&self, words: u64) -> Wire {
        if self.fault == Some(Fault::NoUsage) {
            return Wire::Absent;
        }
        let tokens = &self.answer.tokens;
        let some = |count: u64| Some(count).filter(|count| *count > 0);
        let modality = |name: &str, count: u64| wire!({"modality": name, "tokenCount": count});
        let mut details = vec![modality("TEXT", tokens.prompt - tokens.audio_input)];
        details.extend(some(tokens.audio_input).map(|count| modality("AUDIO", count)));
        wire!({
            "promptTokenCount": (tokens.prompt),
            "candidatesTokenCount": (some(words)),
            "totalTokenCount": (tokens.prompt + words + tokens.reasoning()),
            "cachedContentTokenCount": (some(tokens.cached)),
            "trafficType": (self.vertex.then_some("ON_DEMAND")),
            "promptTokensDetails": details,
            "thoughtsTokenCount": (some(tokens.reasoning()))
        })
    }

    fn response(&self, candidates: Vec<Wire>, words: u64) -> Wire {
        wire!({
            "candidates": candidates,
            "usageMetadata": (self.usage(words)),
            "modelVersion": (&self.answer.model),
            "responseId": (&self.id)
        })
    }

    fn candidate(index: u64, part: Wire, finish: Option<&'static str>) -> Wire {
        wire!({
            "content": {"parts": [part], "role": "model"},
            "finishReason": finish,
            "index": index
        })
    }

    /// The last part of a candidate, and why it ends.
    fn end(&self, index: u64, text: &str) -> Wire {
        let finish = if self.answer.capped { "MAX_TOKENS" } else { "STOP" };
        let part = match &self.tool {
            None => wire!({"text": text}),
            Some(name) => wire!({"functionCall": {"name": name, "args": {"text": (self.answer.text())}}}),
        };
        Self::candidate(index, part, Some(finish))
    }

    fn whole(&self) -> Wire {
        let text = self.answer.text();
        let tokens = &self.answer.tokens;
        let candidates = (0..tokens.choices).map(|index| self.end(index, &text)).collect();
        self.response(candidates, tokens.words())
    }

    /// A response as an event, or as an element of the array.
    fn write(&self, response: &Wire, first: bool) -> Vec<u8> {
        match self.framing {
            Framing::Events => format!("data: {}\r\n\r\n", response.line()).into_bytes(),
            Framing::Array => {
                let before: &[u8] = if first { b"[" } else { b",\r\n" };
                [before, &response.pretty(), b"\n"].concat()
            }
        }
    }

    fn word(&self, word: u64, choice: u64) -> Step {
        let part = wire!({"text": (Answer::word(word))});
        let made = word * self.answer.tokens.choices + choice + 1;
        let response = self.response(vec![Self::candidate(choice, part, None)], made);
        // A call comes whole, in the end.
        let bytes = if self.tool.is_some() { Vec::new() } else { self.write(&response, false) };
        Step::frame(bytes).bringing(word, choice)
    }

    fn into_stream(self) -> Shape {
        let this = Arc::new(self);
        let tokens = this.answer.tokens;
        let begun = this.response(vec![Self::candidate(0, wire!({"text": ""}), None)], 0);
        let head = Step::frame(this.write(&begun, true)).reasoning(tokens.reasoning());
        let mut tail: Vec<_> = (0..tokens.choices)
            .map(|index| this.response(vec![this.end(index, "")], tokens.words()))
            .map(|response| Step::frame(this.write(&response, false)))
            .collect();
        let failed =
            ErrorShape::Gemini.body(StatusCode::SERVICE_UNAVAILABLE, "The model is overloaded.", None);
        let mut error = this.write(&failed, false);
        if this.framing == Framing::Array {
            error.push(b']');
            tail.extend((this.fault != Some(Fault::NoDone)).then(|| Step::frame("]\n")));
        }
        let each = (0..tokens.words_per_choice)
            .flat_map(move |word| (0..tokens.choices).map(move |choice| (word, choice)));
        let words = each.map(move |(word, choice)| this.word(word, choice));
        Shape::Stream { steps: Box::new(std::iter::once(head).chain(words).chain(tail)), error }
    }
}
