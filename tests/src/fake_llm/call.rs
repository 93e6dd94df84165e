//! A call as an API sees it, and the script it answers with.

use axum::http::StatusCode;
use serde_json::Value;

use super::answer::{Answer, Asked, IdSource};
use super::controls::Controls;
use super::price::{Price, price_of};
use super::wire::{Wire, wire};

pub const JSON: &str = "application/json";
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// A request, read whole.
pub struct Call<'a> {
    /// As sent, percent-encoding included.
    pub path: &'a str,
    pub query: &'a str,
    pub controls: &'a Controls,
    pub body: &'a [u8],
    pub(super) ids: &'a IdSource,
}

impl Call<'_> {
    /// Segment number `at` of the path, decoded; empty when there is none.
    pub fn segment(&self, at: usize) -> String {
        let raw = self.path.split('/').nth(at + 1).unwrap_or_default();
        let mut bytes = Vec::with_capacity(raw.len());
        let mut rest = raw.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            let decoded = match (first, tail) {
                (b'%', [high, low, ..]) => {
                    let digits = [char::from(*high), char::from(*low)].map(|digit| digit.to_digit(16));
                    digits[0].zip(digits[1]).and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
                }
                _ => None,
            };
            bytes.push(decoded.unwrap_or(*first));
            rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The body as a tree.
    pub fn tree(&self) -> Result<Value, Refusal> {
        serde_json::from_slice(self.body)
            .map_err(|_| Refusal::bad_request("We could not parse the JSON body of your request."))
    }

    /// The answer, with the price of the model it names, or of the one asked for if that has none.
    pub fn decide(&self, asked: &Asked) -> Result<(Answer, Price), Refusal> {
        let asked_price = price_of(&asked.model).ok_or_else(|| Refusal {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{}` does not exist or you do not have access to it.", asked.model),
            code: Some("model_not_found"),
        })?;
        let answer = Answer::decide(asked, self.controls, self.ids);
        let price = price_of(&answer.model).unwrap_or(asked_price);
        Ok((answer, price))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    pub code: Option<&'static str>,
}

impl Refusal {
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), code: None }
    }
}

/// The shapes of an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    OpenAi,
    Anthropic,
    Gemini,
    Aws,
    Cohere,
    Ollama,
}

impl ErrorShape {
    pub fn body(self, status: StatusCode, message: &str, code: Option<&str>) -> Wire {
        let number = u64::from(status.as_u16());
        match self {
            Self::OpenAi => {
                let kind = match number {
                    429 => "requests",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                let code = code.map_or(wire!(null), Wire::from);
                wire!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            }
            Self::Anthropic => {
                let kind = match number {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    429 => "rate_limit_error",
                    529 => "overloaded_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                wire!({
                    "type": "error",
                    "error": {"type": kind, "message": message},
                    "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"
                })
            }
            Self::Gemini => {
                let name = match number {
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    503 => "UNAVAILABLE",
                    500.. => "INTERNAL",
                    _ => "INVALID_ARGUMENT",
                };
                wire!({"error": {"code": number, "message": message, "status": name}})
            }
            Self::Aws | Self::Cohere => wire!({"message": message}),
            Self::Ollama => wire!({"error": message}),
        }
    }

    /// The class that AWS names in a header.
    pub fn header(self, status: StatusCode) -> Option<(&'static str, &'static str)> {
        let class = match status.as_u16() {
            403 => "AccessDeniedException",
            404 => "ResourceNotFoundException",
            429 => "ThrottlingException",
            503 => "ServiceUnavailableException",
            500.. => "InternalServerException",
            _ => "ValidationException",
        };
        (self == Self::Aws).then_some(("x-amzn-errortype", class))
    }
}

/// What a call gets: everything is decided but when it is sent.
pub struct Script {
    pub answer: Answer,
    pub price: Price,
    /// The API, as the bill names it.
    pub api: &'static str,
    /// The answer's id, as the bill names it; one that is not sent where the API has none.
    pub id: String,
    pub headers: Vec<(&'static str, String)>,
    pub content_type: &'static str,
    pub shape: Shape,
}

pub enum Shape {
    Plain(Vec<u8>),
    Stream {
        steps: Steps,
        /// What an error halfway through looks like.
        error: Vec<u8>,
    },
}

/// The writes of a stream, made as they are sent.
pub type Steps = Box<dyn Iterator<Item = Step> + Send>;

/// One write of a stream.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub bytes: Vec<u8>,
    /// Number of the word and the choice that it brings.
    pub word: Option<(u64, u64)>,
    /// Output that it produces, reasoning included.
    pub output_tokens: u64,
    /// How much of that is reasoning.
    pub reasoning_tokens: u64,
}

impl Step {
    /// A write that produces nothing.
    pub fn frame(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    /// Brings a word of a choice.
    pub const fn bringing(mut self, word: u64, choice: u64) -> Self {
        self.word = Some((word, choice));
        self.output_tokens = 1;
        self
    }

    /// Produces reasoning.
    pub const fn reasoning(mut self, tokens: u64) -> Self {
        self.output_tokens = tokens;
        self.reasoning_tokens = tokens;
        self
    }
}

/// An event without a name.
pub fn data(json: &Wire) -> Vec<u8> {
    format!("data: {}\n\n", json.line()).into_bytes()
}

/// An event with a name.
pub fn event(name: &str, json: &Wire) -> Vec<u8> {
    format!("event: {name}\ndata: {}\n\n", json.line()).into_bytes()
}

/// Bytes of text, as tokens of a message: 4, and a quarter of its bytes.
pub fn message_tokens(text_bytes: usize) -> u64 {
    4 + (text_bytes as u64).div_ceil(4)
}

/// Bytes of the text in a content: a string, or the `text` of its parts.
pub fn text_bytes(content: Option<&Value>) -> usize {
    match content {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(parts)) => parts.iter().map(|part| text_bytes(part.get("text"))).sum(),
        _ => 0,
    }
}

/// 3, and the tokens of each message: its text is in `key`.
pub fn prompt_tokens<'a>(messages: impl IntoIterator<Item = &'a Value>, key: &str) -> u64 {
    3 + messages.into_iter().map(|message| message_tokens(text_bytes(message.get(key)))).sum::<u64>()
}
