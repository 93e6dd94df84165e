//! The answer a request gets, before it takes the shape of an API.

use std::sync::atomic::{AtomicU64, Ordering};

use super::controls::{Controls, Fault, MAX_WORDS};
use super::price::BilledTokens;

/// The vocabulary, with words whose UTF-8 is longer than a byte a letter.
const WORDS: [&str; 12] = [
    "Money",
    "is",
    "counted",
    "in",
    "whole",
    "nano-dollars;",
    "naïve",
    "floats",
    "数え間違い",
    "cost",
    "real",
    "cents. 🙂",
];

/// Makes the parts of an answer that differ from answer to answer.
#[derive(Debug, Default)]
pub struct IdSource(AtomicU64);

/// What a request asks for, whatever API it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The model.
    pub model: String,
    /// Its tokens by the rule in [`super`].
    pub prompt_tokens: u64,
    /// Most output tokens of a choice.
    pub output_cap: Option<u64>,
    /// Answers produced.
    pub choices: u64,
    /// Whether a stream is asked for.
    pub stream: bool,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt: all of it.
    pub prompt: u64,
    /// Of these, read from the cache.
    pub cached: u64,
    /// Of these, written to the cache for 5 minutes.
    pub cache_write_5m: u64,
    /// Of these, written to the cache for an hour.
    pub cache_write_1h: u64,
    /// Of these, audio that was not cached.
    pub audio_input: u64,
    /// Reasoning of each choice.
    pub reasoning_per_choice: u64,
    /// Words of each choice, a token each.
    pub words_per_choice: u64,
    /// Choices.
    pub choices: u64,
    /// What is billed by the piece.
    pub pieces: u64,
}

/// An answer, decided before its first byte is sent.
#[derive(Debug, Clone)]
pub struct Answer {
    seed: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model it names.
    pub model: String,
    /// Its tokens.
    pub tokens: Tokens,
    /// Whether a cap cut it.
    pub capped: bool,
}

impl IdSource {
    fn next_seed(&self) -> String {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_nanos());
        format!("{now}/{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// FNV-1a followed by the finaliser of splitmix64: spread well enough for names.
pub fn hash(seed: &str, salt: u64) -> u64 {
    let fnv = seed.bytes().fold(0xcbf2_9ce4_8422_2325 ^ salt, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Answer {
    /// Decides the answer by the rules in [`super`].
    #[must_use]
    pub fn decide(asked: &Asked, controls: &Controls, ids: &IdSource) -> Self {
        let seed = controls.seed.clone().unwrap_or_else(|| ids.next_seed());
        let cap = asked.output_cap.unwrap_or(u64::MAX);
        let wanted_words = if controls.has(Fault::Endless) { MAX_WORDS } else { controls.words };
        let reasoning_per_choice = controls.reasoning_tokens.min(cap);
        let words_per_choice = wanted_words.min(cap - reasoning_per_choice);
        let prompt = asked.prompt_tokens;
        let mut fresh = prompt;
        let mut take = |wanted: u64| {
            let taken = wanted.min(fresh);
            fresh -= taken;
            taken
        };
        Self {
            created: 1_700_000_000 + hash(&seed, 3) % 100_000_000,
            model: controls.model.clone().unwrap_or_else(|| asked.model.clone()),
            tokens: Tokens {
                prompt,
                cached: take(controls.cached_tokens),
                cache_write_5m: take(controls.cache_write_5m_tokens),
                cache_write_1h: take(controls.cache_write_1h_tokens),
                audio_input: take(controls.audio_input_tokens),
                reasoning_per_choice,
                words_per_choice,
                choices: asked.choices,
                pieces: 0,
            },
            capped: reasoning_per_choice + words_per_choice < controls.reasoning_tokens + wanted_words,
            seed,
        }
    }

    /// A name of 32 hexadecimal digits.
    #[must_use]
    pub fn long_name(&self) -> String {
        format!("{:016x}{:016x}", hash(&self.seed, 1), hash(&self.seed, 2))
    }

    /// A name of 10 hexadecimal digits; another `salt` gives another one.
    #[must_use]
    pub fn short_name(&self, salt: u64) -> String {
        format!("{:010x}", hash(&self.seed, salt) >> 24)
    }

    /// The text that word number `word` adds: itself, after a space unless it is the first.
    #[must_use]
    pub fn word(word: u64) -> String {
        let text = usize::try_from(word).ok().and_then(|word| WORDS.get(word % WORDS.len())).unwrap_or(&"…");
        let space = if word == 0 { "" } else { " " };
        format!("{space}{text}")
    }

    /// The text of each choice.
    #[must_use]
    pub fn text(&self) -> String {
        (0..self.tokens.words_per_choice).map(Self::word).collect()
    }
}

impl Tokens {
    /// Prompt tokens that are neither cached, nor written to the cache, nor audio.
    #[must_use]
    pub const fn fresh(&self) -> u64 {
        self.prompt - self.cached - self.cache_write() - self.audio_input
    }

    /// Prompt tokens written to the cache.
    #[must_use]
    pub const fn cache_write(&self) -> u64 {
        self.cache_write_5m + self.cache_write_1h
    }

    /// Reasoning of all choices.
    #[must_use]
    pub const fn reasoning(&self) -> u64 {
        self.choices * self.reasoning_per_choice
    }

    /// Words of all choices.
    #[must_use]
    pub const fn words(&self) -> u64 {
        self.choices * self.words_per_choice
    }

    /// Output of all choices, reasoning included.
    #[must_use]
    pub const fn output(&self) -> u64 {
        self.reasoning() + self.words()
    }

    /// What is billed once the prompt is read and nothing is produced.
    #[must_use]
    pub fn billed_input(&self) -> BilledTokens {
        BilledTokens {
            input_tokens: self.fresh(),
            cached_tokens: self.cached,
            cache_write_5m_tokens: self.cache_write_5m,
            cache_write_1h_tokens: self.cache_write_1h,
            audio_input_tokens: self.audio_input,
            pieces: self.pieces,
            ..BilledTokens::default()
        }
    }
}
