//! OpenAI's Embeddings.

use serde_json::Value;

use super::answer::{Asked, hash};
use super::call::{Call, JSON, Refusal, Script, Shape, message_tokens};
use super::price::model_in;
use super::wire::{Wire, wire};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Numbers of an embedding without `dimensions`; the real models have more.
const DEFAULT_DIMENSIONS: u64 = 8;

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
    let inputs = match tree.get("input") {
        Some(Value::String(text)) => vec![text.len()],
        Some(Value::Array(texts)) if !texts.is_empty() && texts.iter().all(Value::is_string) => {
            texts.iter().filter_map(Value::as_str).map(str::len).collect()
        }
        _ => return Err(Refusal::bad_request("Invalid 'input': expected a string or strings.")),
    };
    let asked = Asked {
        model: model.to_owned(),
        prompt_tokens: inputs.iter().map(|bytes| message_tokens(*bytes)).sum(),
        output_cap: Some(0),
        choices: 1,
        stream: false,
    };
    let (answer, price) = call.decide(&asked)?;
    let dimensions = tree.get("dimensions").and_then(Value::as_u64).unwrap_or(DEFAULT_DIMENSIONS).min(4096);
    let as_base64 = tree.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let embedding = |(index, bytes): (usize, &usize)| {
        let numbers = (0..dimensions).map(|at| number(*bytes as u64, at));
        let embedding = if as_base64 {
            Wire::from(STANDARD.encode(numbers.flat_map(f32::to_le_bytes).collect::<Vec<_>>()))
        } else {
            Wire::Array(numbers.map(|number| Wire::Value(Value::from(number))).collect())
        };
        wire!({"object": "embedding", "index": (index as u64), "embedding": embedding})
    };
    let usage = wire!({"prompt_tokens": (asked.prompt_tokens), "total_tokens": (asked.prompt_tokens)});
    let without_usage = call.controls.has(super::controls::Fault::NoUsage);
    let body = wire!({
        "object": "list",
        "data": (inputs.iter().enumerate().map(embedding).collect::<Vec<_>>()),
        "model": (&answer.model),
        "usage": (if without_usage { Wire::Absent } else { usage })
    });
    let id = format!("req_{}", answer.long_name());
    let headers = vec![("x-request-id", id.clone())];
    let shape = Shape::Plain(body.pretty());
    Ok(Script { answer, price, api: "openai_embeddings", id, headers, content_type: JSON, shape })
}

/// Number `at` of the embedding of a text of so many bytes: a multiple of 1/1024 in 0 to 1, which a
/// float holds exactly.
pub fn number(bytes: u64, at: u64) -> f32 {
    let thousandths = u16::try_from(hash("embedding", bytes * 4096 + at) % 1024).unwrap_or_default();
    #[allow(clippy::float_arithmetic, reason = "an embedding is made of floats; no money is")]
    let number = f32::from(thousandths) / 1024.0;
    number
}
