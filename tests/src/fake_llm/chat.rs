//! Reading a Chat Completions request.

use serde::Deserialize;
use serde_json::Value;

/// The part of a request that the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChatRequest {
    /// The model asked for.
    pub model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// A sentence as the provider would answer it, with status 400.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        // Through a tree first: of a key that comes twice the last one counts, as with most readers.
        let tree: Value = serde_json::from_slice(body)
            .map_err(|_| "We could not parse the JSON body of your request.".to_owned())?;
        if tree.get("model").and_then(Value::as_str).is_none() {
            return Err("you must provide a model parameter".to_owned());
        }
        let request: Self =
            serde_json::from_value(tree).map_err(|error| format!("Invalid request: {error}."))?;
        if request.messages.is_empty() {
            return Err("Invalid 'messages': expected an array with at least 1 message.".to_owned());
        }
        if !(1..=128).contains(&request.choices()) {
            return Err("Invalid 'n': expected an integer from 1 to 128.".to_owned());
        }
        Ok(request)
    }

    /// Whether a stream is asked for.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the stream shall end with a usage event.
    #[must_use]
    pub fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.is_some_and(|options| options.include_usage == Some(true))
    }

    /// Answers asked for.
    #[must_use]
    pub fn choices(&self) -> u64 {
        self.n.unwrap_or(1)
    }

    /// Most output tokens of a choice.
    #[must_use]
    pub fn output_cap(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Prompt tokens by the rule in [`super`].
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        let tokens = |message: &Message| {
            let bytes = match &message.content {
                None => 0,
                Some(Content::Text(text)) => text.len(),
                Some(Content::Parts(parts)) => {
                    let texts = parts.iter().filter_map(|part| part.text.as_ref());
                    texts.map(String::len).sum()
                }
            };
            4 + (bytes as u64).div_ceil(4)
        };
        3 + self.messages.iter().map(tokens).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt_tokens(messages: &str) -> u64 {
        let body = format!(r#"{{"messages":{messages},"model":"gpt-4o"}}"#);
        ChatRequest::parse(body.as_bytes()).expect("a request").prompt_tokens()
    }

    #[test]
    fn counts_prompt_tokens_by_the_rule() {
        assert_eq!(prompt_tokens(r#"[{"role":"user","content":""}]"#), 7);
        assert_eq!(prompt_tokens(r#"[{"role":"user","content":"abcd"}]"#), 8);
        assert_eq!(prompt_tokens(r#"[{"role":"user","content":"abcde"}]"#), 9);
        assert_eq!(prompt_tokens(r#"[{"role":"user","content":"数"}]"#), 8);
        assert_eq!(prompt_tokens(r#"[{"role":"assistant","content":null},{"role":"user"}]"#), 11);
        let parts = r#"[{"role":"user","content":[{"type":"text","text":"abc"},
            {"type":"image_url","image_url":{"url":"data:,"}},{"type":"text","text":"de"}]}]"#;
        assert_eq!(prompt_tokens(parts), 9);
    }

    #[test]
    fn the_newer_cap_wins_and_of_a_repeated_key_the_last() {
        let body = br#"{"model":"a","model":"b","messages":[{}],"max_tokens":5,
            "max_completion_tokens":7,"stream":true,"stream_options":{"include_usage":true}}"#;
        let request = ChatRequest::parse(body).expect("a request");
        assert_eq!(request.model, "b");
        assert_eq!(request.output_cap(), Some(7));
        assert!(request.streams() && request.includes_usage());
    }

    #[test]
    fn refuses_what_the_provider_refuses() {
        for body in [
            "",
            "{",
            "[]",
            r#"{"messages":[{}]}"#,
            r#"{"model":7,"messages":[{}]}"#,
            r#"{"model":"a"}"#,
            r#"{"model":"a","messages":[]}"#,
            r#"{"model":"a","messages":[{}],"n":0}"#,
            r#"{"model":"a","messages":[{}],"max_tokens":-1}"#,
        ] {
            assert!(ChatRequest::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
