//! Providers, what they charge, and calls of each of their APIs.

use serde_json::{Value, json};

/// A provider and calls of it: path and body.
pub struct Vendor {
    pub provider: &'static str,
    /// Its `dialect`, where the provider's name doesn't say it.
    pub dialect: Option<&'static str>,
    /// What the fake provider charges, where the catalogue doesn't list it.
    pub prices: &'static str,
    pub calls: Vec<(&'static str, Value)>,
    pub tells_reasoning: bool,
    /// Further switches of the fake provider that this vendor understands.
    pub switches: &'static [(&'static str, &'static str)],
}

const CACHE: &[(&str, &str)] = &[
    ("x-fake-cached-tokens", "4"),
    ("x-fake-cache-write-5m-tokens", "2"),
    ("x-fake-cache-write-1h-tokens", "1"),
    ("x-fake-reasoning-tokens", "3"),
];
const REASONING: &[(&str, &str)] = &[("x-fake-cached-tokens", "4"), ("x-fake-reasoning-tokens", "3")];

fn chat(model: &str, more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "How much is it?"}]});
    let fields = body.as_object_mut().unwrap();
    if !model.is_empty() {
        fields.insert("model".to_owned(), json!(model));
    }
    fields.extend(more.as_object().unwrap().clone());
    body
}

/// Plain, streamed, and streamed with usage asked for.
fn chats(path: &'static str, model: &str) -> Vec<(&'static str, Value)> {
    let usage_on = json!({"stream": true, "stream_options": {"include_usage": true}});
    [json!({}), json!({"stream": true}), usage_on].map(|more| (path, chat(model, &more))).to_vec()
}

/// Plain and streamed.
fn both(path: &'static str, body: &Value) -> Vec<(&'static str, Value)> {
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    vec![(path, body.clone()), (path, streamed)]
}

pub fn openai() -> Vendor {
    let usage_on = json!({"include_usage": true});
    let completion = json!({"model": "gpt-3.5-turbo-instruct", "prompt": ["one", "two"], "best_of": 2});
    let mut calls = chats("/v1/chat/completions", "gpt-4o-mini");
    calls.extend(both("/v1/responses", &json!({"model": "gpt-5.4", "input": "How much is it?"})));
    calls.extend(both("/v1/completions", &completion));
    let mut with_usage = completion.clone();
    with_usage["stream"] = json!(true);
    with_usage["stream_options"] = usage_on;
    calls.push(("/v1/completions", with_usage));
    calls.push(("/v1/embeddings", json!({"model": "text-embedding-3-large", "input": ["a", "b"]})));
    Vendor {
        provider: "openai",
        dialect: None,
        prices: "set --provider openai --model gpt-3.5-turbo-instruct --rate input=1.5 --rate output=2",
        calls,
        tells_reasoning: true,
        switches: &[("x-fake-words", "9")],
    }
}

pub fn anthropic() -> Vendor {
    let body = chat("claude-haiku-4-5", &json!({"max_tokens": 64}));
    let calls = both("/v1/messages?beta=true", &body);
    Vendor { provider: "anthropic", dialect: None, prices: "", calls, tells_reasoning: true, switches: CACHE }
}

pub fn vertex() -> Vendor {
    let body = chat("", &json!({"max_tokens": 64, "anthropic_version": "vertex-2023-10-16"}));
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "How much is it?"}]}]});
    let claude = "/v1/projects/p/locations/global/publishers/anthropic/models";
    let gemini = "/v1beta1/projects/p/locations/global/publishers/google/models";
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let path = |folder: &str, call: &str| -> &'static str { format!("{folder}/{call}").leak() };
    let calls = vec![
        (path(claude, "claude-sonnet-4-5@20250929:rawPredict"), body),
        (path(claude, "claude-sonnet-4-5@20250929:streamRawPredict"), streamed),
        (path(gemini, "gemini-2.5-pro:generateContent"), contents.clone()),
        (path(gemini, "gemini-2.5-pro:streamGenerateContent?alt=sse"), contents.clone()),
        (path(gemini, "gemini-2.5-pro:streamGenerateContent"), contents),
    ];
    Vendor { provider: "vertex", dialect: None, prices: "alias --provider vertex claude-sonnet-4-5-20250929 --model claude-sonnet-4-5 --to-provider anthropic
            alias --provider vertex gemini-2.5-pro --model gemini-2.5-pro --to-provider gemini", calls, tells_reasoning: true, switches: REASONING }
}

pub fn gemini() -> Vendor {
    let contents = json!({
        "contents": [{"parts": [{"text": "How much is it?"}]}],
        "generation_config": {"max_output_tokens": 64},
    });
    let mut calls = vec![
        ("/v1beta/models/gemini-2.5-flash:generateContent", contents.clone()),
        ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", contents.clone()),
        ("/v1/models/gemini-2.5-flash:streamGenerateContent", contents),
    ];
    calls.extend(chats("/v1beta/openai/chat/completions", "gemini-2.5-flash"));
    Vendor {
        provider: "gemini",
        dialect: None,
        prices: "",
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

pub fn bedrock() -> Vendor {
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "How much is it?"}]}]});
    let claude = chat("", &json!({"max_tokens": 64, "anthropic_version": "bedrock-2023-05-31"}));
    let path = |action: &str| -> &'static str {
        format!("/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/{action}").leak()
    };
    let calls = vec![
        (path("converse"), converse.clone()),
        (path("converse-stream"), converse),
        (path("invoke"), claude.clone()),
        (path("invoke-with-response-stream"), claude),
    ];
    Vendor { provider: "bedrock", dialect: None, prices: "", calls, tells_reasoning: false, switches: CACHE }
}

pub fn cohere() -> Vendor {
    let calls = both("/v2/chat", &chat("command-r-08-2024", &json!({})));
    Vendor {
        provider: "cohere",
        dialect: None,
        prices: "",
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

pub fn ollama() -> Vendor {
    let quiet = json!({"stream": false});
    let generate = json!({"model": "llama3.2", "prompt": "How much is it?"});
    let calls = vec![
        ("/api/chat", chat("llama3.2", &json!({}))),
        ("/api/chat", chat("llama3.2", &quiet)),
        ("/api/generate", generate),
    ];
    Vendor {
        provider: "ollama",
        dialect: None,
        prices: "set --provider ollama --model llama3.2 --rate input=0.01 --rate output=0.02",
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}

pub fn azure() -> Vendor {
    let calls = chats("/openai/deployments/our-gpt-4o/chat/completions?api-version=2024-10-21", "");
    let responses = json!({"model": "our-gpt-4o", "input": "How much is it?"});
    let more = both("/openai/responses?api-version=2025-04-01-preview", &responses);
    let calls = calls.into_iter().chain(more).collect();
    Vendor {
        provider: "azure",
        dialect: None,
        prices: "alias --provider azure gpt-4o --model gpt-4o --to-provider openai",
        calls,
        tells_reasoning: true,
        switches: REASONING,
    }
}

pub fn mistral() -> Vendor {
    let calls = both("/v1/chat/completions", &chat("mistral-large-latest", &json!({})));
    Vendor {
        provider: "mistral",
        dialect: None,
        prices: "",
        calls,
        tells_reasoning: true,
        switches: &[("x-fake-words", "11")],
    }
}

/// Tells usage unasked, as Mistral does; asked for it, it tells it elsewhere.
pub fn deepseek() -> Vendor {
    let mut calls = chats("/v1/chat/completions", "deepseek-chat");
    calls.extend(chats("/chat/completions", "deepseek-chat"));
    Vendor {
        provider: "deepseek",
        dialect: Some("mistral"),
        prices: "",
        calls,
        tells_reasoning: true,
        switches: REASONING,
    }
}

pub fn openrouter() -> Vendor {
    let calls = chats("/api/v1/chat/completions", "openai/gpt-4o-mini");
    Vendor {
        provider: "openrouter",
        dialect: None,
        prices: "",
        calls,
        tells_reasoning: true,
        switches: REASONING,
    }
}

pub fn vllm() -> Vendor {
    let mut calls = chats("/v1/chat/completions", "meta-llama/Llama-3.1-8B-Instruct");
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"stream": true, "stream_options": options});
    calls.push(("/v1/chat/completions", chat("meta-llama/Llama-3.1-8B-Instruct", &body)));
    Vendor {
        provider: "vllm",
        dialect: None,
        prices: "set --provider vllm --model meta-llama/Llama-3.1-8B-Instruct --rate input=0.02 --rate output=0.03",
        calls,
        tells_reasoning: false,
        switches: &[("x-fake-words", "11")],
    }
}
