//! Calls that cost nothing, by their whole paths: what only ends like one of them may be another call.

use crate::config::Dialect;

/// What stands before the paths of OpenAI's API: on Azure, at OpenRouter, at Google and at Cohere, too.
const OPENAI_BASES: [&[&str]; 7] = [
    &[],
    &["v1"],
    &["openai"],
    &["openai", "v1"],
    &["api", "v1"],
    &["v1beta", "openai"],
    &["compatibility", "v1"],
];

/// What stands before the paths of Anthropic's API.
const ANTHROPIC_BASES: [&[&str]; 4] =
    [&["v1"], &["anthropic", "v1"], &["api", "v1"], &["api", "anthropic", "v1"]];

/// First segments that belong to an API's own paths, so that none is a gateway's prefix.
const OWN_WORDS: [&str; 14] = [
    "api",
    "audio",
    "chat",
    "completions",
    "embed",
    "embeddings",
    "images",
    "messages",
    "model",
    "models",
    "projects",
    "publishers",
    "rerank",
    "responses",
];

/// Whether a POST costs nothing. Gateways put one segment of their own before a path to tell providers apart.
pub fn is_free(parts: &[&str], dialect: Dialect) -> bool {
    let behind_prefix = parts.split_first().filter(|(first, rest)| {
        let is_version =
            first.strip_prefix('v').is_some_and(|rest| rest.starts_with(|sign: char| sign.is_ascii_digit()));
        rest.len() > 1 && is_id(first) && !is_version && !OWN_WORDS.contains(first)
    });
    is_known(parts, dialect) || behind_prefix.is_some_and(|(_, rest)| is_known(rest, dialect))
}

fn is_known(parts: &[&str], dialect: Dialect) -> bool {
    let own = match dialect {
        Dialect::Gemini => is_count_of_google(parts),
        Dialect::Bedrock => is_count_of_bedrock(parts),
        Dialect::Cohere => matches!(parts, ["v1", "tokenize" | "detokenize"]),
        Dialect::Ollama => is_ollamas_upkeep(parts),
        // A server or gateway of any kind.
        Dialect::Compatible => {
            is_ollamas_upkeep(parts)
                || is_count_of_google(parts)
                || is_count_of_bedrock(parts)
                || matches!(parts, ["tokenize" | "detokenize"])
        }
        Dialect::Openai | Dialect::Mistral | Dialect::Openrouter | Dialect::Anthropic => false,
    };
    let after = |bases: &[&[&str]], is: fn(&[&str]) -> bool| {
        bases.iter().any(|base| parts.strip_prefix(*base).is_some_and(is))
    };
    own || after(&OPENAI_BASES, is_openais) || after(&ANTHROPIC_BASES, is_anthropics)
}

fn is_openais(parts: &[&str]) -> bool {
    match parts {
        ["files" | "uploads" | "moderations"] | ["responses", "input_tokens"] => true,
        ["responses" | "batches", id, "cancel"] | ["uploads", id, "parts" | "complete" | "cancel"] => {
            is_id(id)
        }
        _ => false,
    }
}

fn is_anthropics(parts: &[&str]) -> bool {
    match parts {
        ["messages", "count_tokens"] | ["files"] => true,
        ["messages", "batches", id, "cancel"] => is_id(id),
        _ => false,
    }
}

/// AI Studio's and Vertex's counts of tokens, and their OpenAI-like paths elsewhere.
fn is_count_of_google(parts: &[&str]) -> bool {
    let ([version, middle @ .., last], true) = (parts, parts.iter().all(|part| is_id(part))) else {
        return false;
    };
    let is_place = match middle {
        ["models" | "tunedModels"] | ["publishers", _, "models"] => true,
        ["projects", _, "locations", _, rest @ ..] => {
            matches!(rest, ["publishers", _, "models"] | ["endpoints"])
        }
        _ => false,
    };
    let is_count = match last.split_once(':') {
        Some((model, "rawPredict")) => model == "count-tokens" && middle.contains(&"anthropic"),
        Some((model, "countTokens" | "computeTokens")) => !model.is_empty(),
        _ => false,
    };
    version.starts_with('v') && is_place && is_count
}

fn is_count_of_bedrock(parts: &[&str]) -> bool {
    match parts {
        ["model", id, "count-tokens"] => is_id(id),
        // An ARN that ends in a name of its own.
        ["model", arn, name, "count-tokens"] => arn.starts_with("arn:") && is_id(arn) && is_id(name),
        _ => false,
    }
}

fn is_ollamas_upkeep(parts: &[&str]) -> bool {
    matches!(parts, ["api", "show" | "pull" | "copy" | "create" | "push"])
}

/// Whether a segment is a name and nothing that a server may read as more than one.
fn is_id(segment: &str) -> bool {
    segment.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.:@".contains(letter))
}
