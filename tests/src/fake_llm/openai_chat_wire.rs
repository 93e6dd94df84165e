//! Chat Completions on the wire.

use axum::http::StatusCode;

use super::answer::{Answer, hash};
use super::call::{EVENT_STREAM, ErrorShape, JSON, Shape, Step, data};
use super::controls::Fault;
use super::openai_chat::{Vendor, usage};
use super::price::{Price, amount_nanousd};
use super::wire::{Wire, wire};

/// An answer and how it is written.
pub struct ChatWire {
    pub vendor: Vendor,
    pub id: String,
    pub answer: Answer,
    pub price: Price,
    /// The function that it calls, instead of saying something.
    pub tool: Option<String>,
    pub tier: Wire,
    pub include_usage: bool,
    pub continuous_usage: bool,
    pub fault: Option<Fault>,
}

impl Shape {
    /// The content type of an API that streams events.
    pub const fn sse_or_json(&self) -> &'static str {
        match self {
            Self::Plain(_) => JSON,
            Self::Stream { .. } => EVENT_STREAM,
        }
    }
}

/// What Azure's filters say of a text.
fn filtered() -> Wire {
    let safe = || wire!({"filtered": false, "severity": "safe"});
    wire!({"hate": (safe()), "self_harm": (safe()), "sexual": (safe()), "violence": (safe())})
}

fn prompt_filter_results() -> Wire {
    wire!([{"prompt_index": 0, "content_filter_results": (filtered())}])
}

/// `{"text": "…"}` as the arguments of a call, in as many pieces as there are words.
fn argument(word: u64) -> String {
    let text = Answer::word(word).replace('"', "'");
    if word == 0 { format!("{{\"text\":\"{text}") } else { text }
}

impl ChatWire {
    const fn finish_reason(&self) -> &'static str {
        match (self.answer.capped, &self.tool) {
            (true, _) => "length",
            (false, Some(_)) => "tool_calls",
            (false, None) => "stop",
        }
    }

    const fn is_openai(&self) -> bool {
        matches!(self.vendor, Vendor::OpenAi | Vendor::Azure)
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn call_id(&self, choice: u64) -> String {
        format!("call_{}", self.answer.short_name(100 + choice))
    }

    fn fingerprint(&self) -> Option<String> {
        self.is_openai().then(|| format!("fp_{}", self.answer.short_name(4)))
    }

    /// The usage once `output` tokens are made.
    fn usage(&self, output: u64, reasoning: u64) -> Wire {
        let tokens = &self.answer.tokens;
        let usage = usage(&self.answer, output, reasoning);
        match self.vendor {
            Vendor::DeepSeek => usage
                .with("prompt_cache_hit_tokens", tokens.cached)
                .with("prompt_cache_miss_tokens", tokens.prompt - tokens.cached),
            Vendor::OpenRouter => {
                let billed = super::price::BilledTokens {
                    output_tokens: output,
                    reasoning_tokens: reasoning,
                    ..tokens.billed_input()
                };
                let cost = usd(amount_nanousd(self.price, billed));
                usage
                    .with("cost", cost.clone())
                    .with("is_byok", false)
                    .with("cost_details", wire!({"upstream_inference_cost": cost}))
            }
            Vendor::Vllm => wire!({
                "prompt_tokens": (tokens.prompt),
                "total_tokens": (tokens.prompt + output),
                "completion_tokens": output,
                "prompt_tokens_details": null
            }),
            Vendor::Mistral | Vendor::Gemini => wire!({
                "prompt_tokens": (tokens.prompt),
                "total_tokens": (tokens.prompt + output),
                "completion_tokens": output
            }),
            Vendor::OpenAi | Vendor::Azure => usage,
        }
    }

    fn full_usage(&self) -> Wire {
        let tokens = &self.answer.tokens;
        self.usage(tokens.output(), tokens.reasoning())
    }

    /// The body of a plain answer.
    pub fn plain(&self) -> Vec<u8> {
        let choices =
            (0..self.answer.tokens.choices).map(|index| self.plain_choice(index)).collect::<Vec<_>>();
        let mut body = wire!({
            "id": (&self.id),
            "object": "chat.completion",
            "created": (self.answer.created),
            "model": (&self.answer.model),
            "choices": choices
        });
        if !self.has(Fault::NoUsage) {
            body = body.with("usage", self.full_usage());
        }
        if self.is_openai() {
            body = body.with("service_tier", self.tier.clone());
        }
        body = body.with("system_fingerprint", self.fingerprint());
        match self.vendor {
            Vendor::Azure => body.with("prompt_filter_results", prompt_filter_results()).pretty(),
            Vendor::OpenRouter => body.with("provider", "OpenAI").pretty(),
            Vendor::DeepSeek => [b"\n\n\n".to_vec(), body.pretty()].concat(),
            _ => body.pretty(),
        }
    }

    fn plain_choice(&self, index: u64) -> Wire {
        let message = match &self.tool {
            None => {
                wire!({
                    "role": "assistant",
                    "content": (self.answer.text()),
                    "refusal": null,
                    "annotations": []
                })
            }
            Some(name) => {
                let words = 0..self.answer.tokens.words_per_choice;
                let arguments: String = words.map(argument).chain(["\"}".to_owned()]).collect();
                wire!({
                    "role": "assistant",
                    "content": null,
                    "tool_calls": [{
                        "id": (self.call_id(index)),
                        "type": "function",
                        "function": {"name": name, "arguments": arguments}
                    }],
                    "refusal": null,
                    "annotations": []
                })
            }
        };
        let choice = wire!({
            "index": index,
            "message": message,
            "logprobs": null,
            "finish_reason": (self.finish_reason())
        });
        if self.vendor == Vendor::Azure { choice.with("content_filter_results", filtered()) } else { choice }
    }

    /// One event. `usage` is absent, or null, or there.
    fn chunk(&self, choices: Vec<Wire>, usage: Wire) -> Vec<u8> {
        let filler = format!("{:x}", hash(&self.id, choices.len() as u64));
        data(&wire!({
            "id": (&self.id),
            "object": "chat.completion.chunk",
            "created": (self.answer.created),
            "model": (&self.answer.model),
            "service_tier": (if self.is_openai() { self.tier.clone() } else { Wire::Absent }),
            "system_fingerprint": (self.fingerprint()),
            "choices": choices,
            "usage": usage,
            "obfuscation": (self.is_openai().then_some(filler))
        }))
    }

    fn choice_chunk(&self, index: u64, delta: Wire, finish: Option<&'static str>, usage: Wire) -> Vec<u8> {
        let finish = finish.map_or(wire!(null), Wire::from);
        let choice = wire!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
        let azure = self.vendor == Vendor::Azure;
        let choice = if azure { choice.with("content_filter_results", filtered()) } else { choice };
        self.chunk(vec![choice], usage)
    }

    /// The usage on an event that isn't the last one, when `output` tokens are made.
    fn running_usage(&self, output: u64, reasoning: u64) -> Wire {
        match self.include_usage && !self.has(Fault::NoUsage) {
            false => Wire::Absent,
            true if self.continuous_usage && self.vendor == Vendor::Vllm => self.usage(output, reasoning),
            true => wire!(null),
        }
    }

    fn role(&self, choice: u64) -> Step {
        let delta = match &self.tool {
            None => wire!({"role": "assistant", "content": "", "refusal": null}),
            Some(name) => wire!({
                "role": "assistant",
                "content": null,
                "tool_calls": [{
                    "index": 0,
                    "id": (self.call_id(choice)),
                    "type": "function",
                    "function": {"name": name, "arguments": ""}
                }],
                "refusal": null
            }),
        };
        let per_choice = self.answer.tokens.reasoning_per_choice;
        let reasoning = (choice + 1) * per_choice;
        let usage = self.running_usage(reasoning, reasoning);
        Step::frame(self.choice_chunk(choice, delta, None, usage)).reasoning(per_choice)
    }

    fn word(&self, word: u64, choice: u64) -> Step {
        let delta = if self.tool.is_some() {
            wire!({"tool_calls": [{"index": 0, "function": {"arguments": (argument(word))}}]})
        } else {
            wire!({"content": (Answer::word(word))})
        };
        let tokens = &self.answer.tokens;
        let made = tokens.reasoning() + word * tokens.choices + choice + 1;
        let usage = self.running_usage(made, tokens.reasoning());
        Step::frame(self.choice_chunk(choice, delta, None, usage)).bringing(word, choice)
    }

    fn finish(&self, choice: u64) -> Step {
        let mut bytes = Vec::new();
        if self.tool.is_some() {
            let end = wire!({"tool_calls": [{"index": 0, "function": {"arguments": "\"}"}}]});
            bytes = self.choice_chunk(choice, end, None, self.running_usage(0, 0));
        }
        let unasked = match self.vendor {
            Vendor::Mistral => true,
            Vendor::DeepSeek => !self.include_usage,
            _ => false,
        };
        let last = choice + 1 == self.answer.tokens.choices;
        let usage = if unasked && last && !self.has(Fault::NoUsage) {
            self.full_usage()
        } else {
            self.running_usage(self.answer.tokens.output(), self.answer.tokens.reasoning())
        };
        bytes.extend(self.choice_chunk(choice, wire!({}), Some(self.finish_reason()), usage));
        Step::frame(bytes)
    }

    /// What comes before the first choice.
    fn head(&self) -> Option<Step> {
        match self.vendor {
            Vendor::Azure => Some(Step::frame(data(&wire!({
                "id": "",
                "object": "",
                "created": 0,
                "model": "",
                "choices": [],
                "prompt_filter_results": (prompt_filter_results())
            })))),
            Vendor::OpenRouter => Some(Step::frame(": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n")),
            Vendor::DeepSeek => Some(Step::frame(": keep-alive\n\n: keep-alive\n\n")),
            _ => None,
        }
    }

    /// What comes after the last choice.
    fn tail(&self) -> Vec<Step> {
        let mut tail = Vec::new();
        if !self.has(Fault::NoUsage) {
            if self.vendor == Vendor::OpenRouter {
                let delta = wire!({"role": "assistant", "content": ""});
                tail.push(Step::frame(self.choice_chunk(0, delta, None, self.full_usage())));
            } else if self.include_usage {
                tail.push(Step::frame(self.chunk(Vec::new(), self.full_usage())));
            }
        }
        if !self.has(Fault::NoDone) {
            tail.push(Step::frame("data: [DONE]\n\n"));
        }
        tail
    }

    /// A stream of it.
    pub fn into_stream(self) -> Shape {
        let message = "The server had an error while processing your request. Sorry about that!";
        let error = data(&ErrorShape::OpenAi.body(StatusCode::INTERNAL_SERVER_ERROR, message, None));
        let (choices, words) = (self.answer.tokens.choices, self.answer.tokens.words_per_choice);
        let this = std::sync::Arc::new(self);
        let (head, tail) = (this.head(), this.tail());
        let (of_role, of_word, of_finish) =
            (std::sync::Arc::clone(&this), std::sync::Arc::clone(&this), this);
        let each_word = (0..words).flat_map(move |word| (0..choices).map(move |choice| (word, choice)));
        let steps = head
            .into_iter()
            .chain((0..choices).map(move |choice| of_role.role(choice)))
            .chain(each_word.map(move |(word, choice)| of_word.word(word, choice)))
            .chain((0..choices).map(move |choice| of_finish.finish(choice)))
            .chain(tail);
        Shape::Stream { steps: Box::new(steps), error }
    }
}

/// An amount as a JSON number of USD, digit for digit.
fn usd(nanousd: u64) -> Wire {
    let text = format!("{}.{:09}", nanousd / 1_000_000_000, nanousd % 1_000_000_000);
    Wire::Value(serde_json::from_str(&text).unwrap_or_default())
}
