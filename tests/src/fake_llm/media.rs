//! OpenAI's images and audio.

use serde_json::Value;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::answer::{Answer, Asked};
use super::call::{Call, JSON, Refusal, Script, Shape, Step, event, message_tokens};
use super::controls::Fault;
use super::price::Price;
use super::wire::{Wire, wire};

/// Bytes of a recording that last a second.
const BYTES_A_SECOND: u64 = 100;
/// Bytes of a recording that are a token.
const BYTES_A_TOKEN: u64 = 10;
/// Tokens of an image that is sent.
const TOKENS_AN_IMAGE: u64 = 10;

/// What an image is asked for by.
struct Picture {
    model: String,
    prompt: String,
    count: u64,
    stream: bool,
    images_sent: u64,
}

pub fn images(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let text = |name: &str| tree.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(model), Some(prompt)) = (text("model"), text("prompt")) else {
        return Err(Refusal::bad_request("you must provide a model and a prompt"));
    };
    let count = tree.get("n").and_then(Value::as_u64).unwrap_or(1);
    let stream = tree.get("stream") == Some(&Value::Bool(true));
    draw(call, Picture { model, prompt, count, stream, images_sent: 0 })
}

pub fn edits(call: &Call) -> Result<Script, Refusal> {
    let form = Form::read(call.body)?;
    let count = form.text("n").and_then(|count| count.parse().ok()).unwrap_or(1);
    let (model, prompt) = (form.needed("model")?, form.needed("prompt")?);
    let images_sent = form.0.iter().filter(|field| field.is_file).count() as u64;
    draw(call, Picture { model, prompt, count, stream: false, images_sent })
}

/// An image's tokens are as many as the words that were asked for.
fn draw(call: &Call, picture: Picture) -> Result<Script, Refusal> {
    let by_tokens = picture.model.starts_with("gpt-image");
    let sent_tokens = picture.images_sent * TOKENS_AN_IMAGE;
    let text_tokens = message_tokens(picture.prompt.len());
    let asked = Asked {
        model: picture.model,
        prompt_tokens: if by_tokens { text_tokens + sent_tokens } else { 0 },
        output_cap: (!by_tokens).then_some(0),
        choices: picture.count,
        stream: picture.stream,
    };
    let (mut answer, price) = call.decide(&asked)?;
    answer.tokens.pieces = if by_tokens { 0 } else { picture.count };
    let output = answer.tokens.output();
    let usage = wire!({
        "input_tokens": (answer.tokens.prompt),
        "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": sent_tokens},
        "output_tokens": output,
        "total_tokens": (answer.tokens.prompt + output)
    });
    let usage = if by_tokens && !call.controls.has(Fault::NoUsage) { usage } else { Wire::Absent };
    let data = STANDARD.encode(answer.long_name());
    let shape = if picture.stream {
        let partial = wire!({
            "type": "image_generation.partial_image", "partial_image_index": 0, "b64_json": (&data)
        });
        let completed = wire!({"type": "image_generation.completed", "b64_json": data, "usage": usage});
        let last = Step::frame(event("image_generation.completed", &completed));
        let steps = vec![
            Step::frame(event("image_generation.partial_image", &partial)),
            Step { output_tokens: output, ..last },
        ];
        let failed = wire!({"type": "error", "error": {"message": "no image", "type": "server_error"}});
        Shape::Stream { steps: Box::new(steps.into_iter()), error: event("error", &failed) }
    } else {
        let image = wire!({"b64_json": data});
        let images: Vec<Wire> = (0..picture.count).map(|_| image.clone()).collect();
        Shape::Plain(wire!({"created": (answer.created), "data": images, "usage": usage}).pretty())
    };
    Ok(script("openai_images", answer, price, shape))
}

fn script(api: &'static str, answer: Answer, price: Price, shape: Shape) -> Script {
    let id = format!("req_{}", answer.long_name());
    let headers = vec![("x-request-id", id.clone())];
    let content_type = shape.sse_or_json();
    Script { answer, price, api, id, headers, content_type, shape }
}

/// Speech: as many bytes as the text has.
pub fn speech(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let text = |name: &str| tree.get(name).and_then(Value::as_str);
    let (Some(model), Some(input)) = (text("model"), text("input")) else {
        return Err(Refusal::bad_request("you must provide a model and an input"));
    };
    let asked =
        Asked { model: model.to_owned(), prompt_tokens: 0, output_cap: Some(0), choices: 1, stream: false };
    let (mut answer, price) = call.decide(&asked)?;
    answer.tokens.pieces = input.chars().count() as u64;
    let sound: Vec<u8> = answer.long_name().bytes().cycle().take(input.len()).collect();
    let script = script("openai_audio", answer, price, Shape::Plain(sound));
    Ok(Script { content_type: "audio/mpeg", ..script })
}

/// A transcript of so many words; how it is billed follows from the model.
pub fn transcription(call: &Call) -> Result<Script, Refusal> {
    let form = Form::read(call.body)?;
    let model = form.needed("model")?;
    let bytes: u64 = form.0.iter().filter(|field| field.is_file).map(|field| field.value.len() as u64).sum();
    let by_tokens = model.starts_with("gpt-");
    let asked = Asked {
        model,
        prompt_tokens: if by_tokens { bytes.div_ceil(BYTES_A_TOKEN) } else { 0 },
        output_cap: None,
        choices: 1,
        stream: false,
    };
    let (mut answer, price) = call.decide(&asked)?;
    let text = answer.text();
    let usage = if by_tokens {
        answer.tokens.audio_input = answer.tokens.prompt;
        wire!({
            "type": "tokens",
            "input_tokens": (answer.tokens.prompt),
            "input_token_details": {"text_tokens": 0, "audio_tokens": (answer.tokens.prompt)},
            "output_tokens": (answer.tokens.output()),
            "total_tokens": (answer.tokens.prompt + answer.tokens.output())
        })
    } else {
        (answer.tokens.pieces, answer.tokens.words_per_choice) = (bytes.div_ceil(BYTES_A_SECOND), 0);
        wire!({"type": "duration", "seconds": (answer.tokens.pieces)})
    };
    if form.text("response_format").is_some_and(|format| format == "text") {
        let script = script("openai_audio", answer, price, Shape::Plain(text.into()));
        return Ok(Script { content_type: "text/plain; charset=utf-8", ..script });
    }
    let usage = if call.controls.has(Fault::NoUsage) { Wire::Absent } else { usage };
    let shape = Shape::Plain(wire!({"text": text, "usage": usage}).line().into());
    let script = script("openai_audio", answer, price, shape);
    Ok(Script { content_type: JSON, ..script })
}

/// The fields of a form.
struct Form(Vec<Field>);

struct Field {
    name: String,
    is_file: bool,
    value: Vec<u8>,
}

impl Form {
    /// Reads a form. Its boundary is its first line.
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wrong = || Refusal::bad_request("expected multipart/form-data");
        let end = body.windows(2).position(|pair| pair == b"\r\n").ok_or_else(wrong)?;
        let boundary = [b"\r\n", body.get(..end).unwrap_or_default()].concat();
        let mut fields = Vec::new();
        let mut rest = body.get(end + 2..).unwrap_or_default();
        while let Some(at) = rest.windows(boundary.len()).position(|window| window == boundary) {
            let part = rest.get(..at).unwrap_or_default();
            let split = part.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(wrong)?;
            let head = String::from_utf8_lossy(part.get(..split).unwrap_or_default()).into_owned();
            let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next());
            fields.push(Field {
                name: name.ok_or_else(wrong)?.to_owned(),
                is_file: head.contains("filename"),
                value: part.get(split + 4..).unwrap_or_default().to_vec(),
            });
            rest = rest.get(at + boundary.len() + 2..).unwrap_or_default();
        }
        Ok(Self(fields))
    }

    fn text(&self, name: &str) -> Option<String> {
        let field = self.0.iter().find(|field| field.name == name)?;
        Some(String::from_utf8_lossy(&field.value).into_owned())
    }

    fn needed(&self, name: &str) -> Result<String, Refusal> {
        self.text(name).ok_or_else(|| Refusal::bad_request(format!("{name} is required")))
    }
}
