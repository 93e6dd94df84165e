//! Reading choices off the front of any bytes.

use purser_filter::api::Route;
use purser_filter::config::Dialect;
use purser_protocol::Api;

/// Every dialect, in the order in which inputs number them.
pub const DIALECTS: [Dialect; 9] = [
    Dialect::Openai,
    Dialect::Compatible,
    Dialect::Mistral,
    Dialect::Openrouter,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::Bedrock,
    Dialect::Cohere,
    Dialect::Ollama,
];

/// Bytes that are used up from the front. What is missing reads as zero.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Of these bytes.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// The next byte as one of so many choices.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// The next byte's lowest bit.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// The next so many bytes, or what is left of them.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// Whether all is used up.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next two bytes as an API and a dialect.
    pub fn route(&mut self) -> Route {
        let api = *Api::ALL.get(self.below(Api::ALL.len())).expect("an index below the length");
        let dialect = *DIALECTS.get(self.below(DIALECTS.len())).expect("an index below the length");
        Route::new(api, dialect)
    }
}

/// A way to cut bytes into chunks, in two bytes of an input.
#[derive(Debug, Clone, Copy)]
pub struct Cuts(u64);

impl Cuts {
    /// The way that an input asks for.
    pub fn of(input: &mut Input<'_>) -> Self {
        Self(u64::from(input.byte()) << 8 | u64::from(input.byte()))
    }

    /// The chunks of `bytes`: byte by byte, in halves, or at random, also with empty ones between.
    #[must_use]
    pub fn apply(self, bytes: &[u8]) -> Vec<&[u8]> {
        match self.0 {
            0 => return bytes.chunks(1).collect(),
            1 => {
                let (head, tail) = bytes.split_at(bytes.len() / 2);
                return vec![head, tail];
            }
            _ => {}
        }
        let (mut state, mut rest, mut chunks) = (self.0, bytes, Vec::new());
        let longest = [2, 5, 17, 97][usize::try_from(self.0 % 4).expect("below four")];
        while !rest.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = usize::try_from(state >> 33).expect("31 bits") % longest;
            let (head, tail) = rest.split_at(length.min(rest.len()));
            chunks.push(head);
            rest = tail;
        }
        chunks
    }
}
