//! Embeddings of Cohere, Ollama and Gemini, and Cohere's rerank.

use serde_json::Value;

use super::answer::Asked;
use super::call::{Call, JSON, Refusal, Script, Shape, message_tokens, text_bytes};
use super::cohere::float;
use super::controls::Fault;
use super::openai_embeddings::number;
use super::wire::{Wire, wire};

/// Documents that one search ranks.
const DOCUMENTS_A_SEARCH: u64 = 100;

/// Numbers of a vector; the real models have more.
const DIMENSIONS: u64 = 4;

/// A vector that follows from the length of a text.
fn vector(bytes: usize) -> Wire {
    Wire::Array((0..DIMENSIONS).map(|at| Wire::Value(Value::from(number(bytes as u64, at)))).collect())
}

fn vectors(texts: &[usize]) -> Wire {
    Wire::Array(texts.iter().map(|bytes| vector(*bytes)).collect())
}

/// The lengths of a text or of several.
fn lengths(texts: Option<&Value>) -> Option<Vec<usize>> {
    match texts? {
        Value::String(text) => Some(vec![text.len()]),
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(str::len)).collect(),
        _ => None,
    }
}

/// A model, what goes into it, and what it costs by the piece.
struct Given {
    api: &'static str,
    model: String,
    prompt_tokens: u64,
    pieces: u64,
}

/// An answer without text: `body` has it by its id and without its usage where that is to be left out.
fn script(call: &Call, given: Given, body: impl Fn(&str, u64, bool) -> Wire) -> Result<Script, Refusal> {
    let Given { api, model, prompt_tokens, pieces } = given;
    let asked = Asked { model, prompt_tokens, output_cap: Some(0), choices: 1, stream: false };
    let (mut answer, price) = call.decide(&asked)?;
    answer.tokens.pieces = pieces;
    let id = answer.long_name();
    let body = body(&id, prompt_tokens, !call.controls.has(Fault::NoUsage));
    let shape = Shape::Plain(body.line().into());
    Ok(Script { answer, price, api, id, headers: Vec::new(), content_type: JSON, shape })
}

fn tokens(texts: &[usize]) -> u64 {
    texts.iter().map(|bytes| message_tokens(*bytes)).sum()
}

fn model_of(tree: &Value) -> Result<String, Refusal> {
    let model = tree.get("model").and_then(Value::as_str);
    model.map(str::to_owned).ok_or_else(|| Refusal::bad_request("model is required"))
}

pub fn cohere(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let texts = lengths(tree.get("texts")).ok_or_else(|| Refusal::bad_request("texts are required"))?;
    let by_type = call.path.starts_with("/v2") || tree.get("embedding_types").is_some();
    let given =
        Given { api: "cohere_embed", model: model_of(&tree)?, prompt_tokens: tokens(&texts), pieces: 0 };
    script(call, given, |id, count, tells| {
        let (kind, vectors) = match (by_type, vectors(&texts)) {
            (true, vectors) => ("embeddings_by_type", wire!({"float": vectors})),
            (false, vectors) => ("embeddings_floats", vectors),
        };
        let billed = wire!({"billed_units": {"input_tokens": (float(count))}});
        wire!({
            "id": id,
            "texts": (tree.get("texts").cloned()),
            "embeddings": vectors,
            "meta": (if tells { billed } else { wire!({}) }),
            "response_type": kind
        })
    })
}

pub fn rerank(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let documents = tree.get("documents").and_then(Value::as_array).filter(|list| !list.is_empty());
    let documents = documents.ok_or_else(|| Refusal::bad_request("documents are required"))?.len() as u64;
    let searches = documents.div_ceil(DOCUMENTS_A_SEARCH);
    let given = Given { api: "rerank", model: model_of(&tree)?, prompt_tokens: 0, pieces: searches };
    script(call, given, |id, _, tells| {
        let results = (0..documents.min(3)).map(|index| {
            let relevance = Wire::Value(Value::from(number(documents, index)));
            wire!({"index": index, "relevance_score": relevance})
        });
        let billed = wire!({"billed_units": {"search_units": (float(searches))}});
        wire!({
            "id": id,
            "results": (results.collect::<Vec<_>>()),
            "meta": (if tells { billed } else { wire!({}) })
        })
    })
}

pub fn ollama(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    // The older path takes one text and tells nothing.
    let is_older = call.path.ends_with("/embeddings");
    let texts = lengths(tree.get(if is_older { "prompt" } else { "input" }));
    let texts = texts.ok_or_else(|| Refusal::bad_request("input is required"))?;
    let model = model_of(&tree)?;
    let given = Given { api: "ollama_embed", model: model.clone(), prompt_tokens: tokens(&texts), pieces: 0 };
    script(call, given, |_, count, tells| {
        if is_older {
            return wire!({"embedding": (vector(texts.first().copied().unwrap_or_default()))});
        }
        let head = wire!({"model": (&model), "embeddings": (vectors(&texts)), "total_duration": 14_143_917});
        if tells { head.with("prompt_eval_count", count) } else { head }
    })
}

pub fn gemini(call: &Call) -> Result<Script, Refusal> {
    let tree = call.tree()?;
    let last = call.segment(call.path.matches('/').count() - 1);
    let (model, verb) = last.rsplit_once(':').unwrap_or((&last, ""));
    let length = |request: &Value| text_bytes(request.pointer("/content/parts"));
    let texts: Vec<usize> = match tree.get("requests").and_then(Value::as_array) {
        Some(requests) => requests.iter().map(length).collect(),
        None => vec![length(&tree)],
    };
    let given =
        Given { api: "gemini_embed", model: model.to_owned(), prompt_tokens: tokens(&texts), pieces: 0 };
    let embedding = |bytes: &usize| wire!({"values": (vector(*bytes))});
    script(call, given, |_, count, tells| {
        let body = if verb == "batchEmbedContents" {
            wire!({"embeddings": (texts.iter().map(embedding).collect::<Vec<_>>())})
        } else {
            wire!({"embedding": (texts.iter().map(embedding).next())})
        };
        let usage = wire!({"promptTokenCount": count, "totalTokenCount": count});
        if tells { body.with("usageMetadata", usage) } else { body }
    })
}
