//! Request headers that steer the fake provider.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};

/// Most words an answer may be asked for; `endless` ends there, too.
pub const MAX_WORDS: u64 = 1_000_000;
const MAX_TOKENS: u64 = 100_000_000;
const MAX_DELAY_MS: u64 = 600_000;

/// What can go wrong on purpose, by `x-fake-fault`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `reset-before-headers`: the connection is closed without an answer. Bills nothing.
    ResetBeforeHeaders,
    /// `cut`: the connection is closed halfway through the answer. A stream bills what it produced;
    /// a plain answer bills in full, as it was made before it was sent.
    Cut,
    /// `error-in-stream`: halfway through, the stream brings an error event and ends. Without a
    /// stream it is a 500.
    ErrorInStream,
    /// `no-usage`: the answer never says its usage. Bills in full.
    NoUsage,
    /// `no-done`: the stream ends without `[DONE]`, after its usage if that was asked for.
    NoDone,
    /// `garbage`: status 200 and a body that isn't JSON or an event stream. Bills in full.
    Garbage,
    /// `gzip`: the answer is compressed, whatever the request accepts. Bills in full.
    Gzip,
    /// `endless`: words until the caller leaves. Without a stream, as `hang`.
    Endless,
    /// `hang`: no answer until the caller leaves. Bills the prompt.
    Hang,
}

impl Fault {
    const ALL: [(&str, Self); 9] = [
        ("reset-before-headers", Self::ResetBeforeHeaders),
        ("cut", Self::Cut),
        ("error-in-stream", Self::ErrorInStream),
        ("no-usage", Self::NoUsage),
        ("no-done", Self::NoDone),
        ("garbage", Self::Garbage),
        ("gzip", Self::Gzip),
        ("endless", Self::Endless),
        ("hang", Self::Hang),
    ];
}

/// The switches of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controls {
    /// `x-fake-words`: words of each choice, 16 by default, at most 1,000,000.
    pub words: u64,
    /// `x-fake-cached-tokens`: prompt tokens that count as read from the cache.
    pub cached_tokens: u64,
    /// `x-fake-cache-write-5m-tokens`: prompt tokens that count as written to the cache for 5
    /// minutes, as far as the prompt without the cached ones goes.
    pub cache_write_5m_tokens: u64,
    /// `x-fake-cache-write-1h-tokens`: the same for an hour, of what is left then.
    pub cache_write_1h_tokens: u64,
    /// `x-fake-reasoning-tokens`: reasoning tokens of each choice.
    pub reasoning_tokens: u64,
    /// `x-fake-audio-input-tokens`: uncached prompt tokens that count as audio, where the API has
    /// such.
    pub audio_input_tokens: u64,
    /// `x-fake-web-searches`: searches the provider makes by itself, where the API has such.
    pub web_searches: u64,
    /// `x-fake-tool-call: 1`: the answer calls the first tool of the request; its words become the
    /// argument `text`.
    pub tool_call: bool,
    /// `x-fake-service-tier`: the tier the answer says it was served at.
    pub service_tier: Option<String>,
    /// `x-fake-model`: the model the answer names instead of the one asked for.
    pub model: Option<String>,
    /// `x-fake-seed`: id, time and fingerprint of the answer follow from it alone.
    pub seed: Option<String>,
    /// `x-fake-delay-ms`: time before the answer.
    pub delay: Duration,
    /// `x-fake-word-delay-ms`: time before each word of a stream.
    pub word_delay: Duration,
    /// `x-fake-chunk-bytes`: a stream is written in pieces of at most this size.
    pub chunk_bytes: Option<usize>,
    /// `x-fake-buffered: 1`: a stream is made first, then sent at once with its length announced.
    pub buffered: bool,
    /// `x-fake-chunked: 1`: a plain answer is sent without announcing its length.
    pub chunked: bool,
    /// `x-fake-crlf: 1`: the lines of a stream of events end as Windows ends them.
    pub crlf: bool,
    /// `x-fake-trailers: 1`: the answer is followed by a trailer, `x-fake-trailer: end`.
    pub trailers: bool,
    /// `x-fake-status`: an error answer of that status (400 to 599). Bills nothing.
    pub status: Option<StatusCode>,
    /// `x-fake-fault`: see [`Fault`].
    pub fault: Option<Fault>,
    /// `x-fake-gate`: a plain answer waits at that gate; a stream waits there after its first word.
    pub gate: Option<String>,
}

impl Controls {
    /// Reads the switches.
    ///
    /// # Errors
    /// Names the first header that has no meaning, and what was expected.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name: &str| match headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(format!("{name}: expected visible ASCII")),
        };
        let number = |name: &str, default: u64, max: u64| match text(name)? {
            None => Ok(default),
            Some(value) => match value.parse() {
                Ok(number) if number <= max => Ok(number),
                _ => Err(format!("{name}: expected an integer up to {max}, got {value:?}")),
            },
        };
        Ok(Self {
            words: number("x-fake-words", 16, MAX_WORDS)?,
            cached_tokens: number("x-fake-cached-tokens", 0, MAX_TOKENS)?,
            cache_write_5m_tokens: number("x-fake-cache-write-5m-tokens", 0, MAX_TOKENS)?,
            cache_write_1h_tokens: number("x-fake-cache-write-1h-tokens", 0, MAX_TOKENS)?,
            reasoning_tokens: number("x-fake-reasoning-tokens", 0, MAX_TOKENS)?,
            audio_input_tokens: number("x-fake-audio-input-tokens", 0, MAX_TOKENS)?,
            web_searches: number("x-fake-web-searches", 0, MAX_TOKENS)?,
            tool_call: number("x-fake-tool-call", 0, 1)? == 1,
            service_tier: text("x-fake-service-tier")?.map(str::to_owned),
            model: text("x-fake-model")?.map(str::to_owned),
            seed: text("x-fake-seed")?.map(str::to_owned),
            delay: Duration::from_millis(number("x-fake-delay-ms", 0, MAX_DELAY_MS)?),
            word_delay: Duration::from_millis(number("x-fake-word-delay-ms", 0, MAX_DELAY_MS)?),
            chunk_bytes: usize::try_from(number("x-fake-chunk-bytes", 0, MAX_TOKENS)?)
                .ok()
                .filter(|bytes| *bytes > 0),
            buffered: number("x-fake-buffered", 0, 1)? == 1,
            chunked: number("x-fake-chunked", 0, 1)? == 1,
            crlf: number("x-fake-crlf", 0, 1)? == 1,
            trailers: number("x-fake-trailers", 0, 1)? == 1,
            status: text("x-fake-status")?.map(status).transpose()?,
            fault: text("x-fake-fault")?.map(fault).transpose()?,
            gate: text("x-fake-gate")?.map(str::to_owned),
        })
    }

    /// Whether this fault was asked for.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

fn status(value: &str) -> Result<StatusCode, String> {
    value
        .parse::<StatusCode>()
        .ok()
        .filter(|status| status.is_client_error() || status.is_server_error())
        .ok_or_else(|| format!("x-fake-status: expected 400 to 599, got {value:?}"))
}

fn fault(value: &str) -> Result<Fault, String> {
    let named = Fault::ALL.iter().find(|(name, _)| *name == value);
    named.map(|(_, fault)| *fault).ok_or_else(|| {
        let names: Vec<_> = Fault::ALL.iter().map(|(name, _)| *name).collect();
        format!("x-fake-fault: expected one of {}, got {value:?}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn controls(headers: &[(&'static str, &'static str)]) -> Result<Controls, String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")))
            .collect();
        Controls::from_headers(&headers)
    }

    #[test]
    fn reads_every_switch() {
        let read = controls(&[
            ("x-fake-words", "3"),
            ("x-fake-status", "503"),
            ("x-fake-fault", "no-usage"),
            ("x-fake-gate", "g"),
            ("x-fake-chunk-bytes", "7"),
        ])
        .expect("well-formed headers");
        assert_eq!(read.words, 3);
        assert_eq!(read.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(read.fault, Some(Fault::NoUsage));
        assert_eq!(read.gate.as_deref(), Some("g"));
        assert_eq!(read.chunk_bytes, Some(7));
        assert_eq!(controls(&[]).map(|read| read.words), Ok(16));
    }

    #[test]
    fn names_the_header_that_has_no_meaning() {
        for (name, value) in [
            ("x-fake-words", "many"),
            ("x-fake-words", "1000001"),
            ("x-fake-status", "200"),
            ("x-fake-fault", "explode"),
        ] {
            let message = controls(&[(name, value)]).expect_err("nonsense");
            assert!(message.starts_with(name) && message.contains("expected"), "{message}");
        }
    }
}
