//! Rates: nano-USD per million tokens, one per class.

use serde::{Deserialize, Serialize};

/// The names of the classes, in the order of [`purser_protocol::Usage::classes`].
pub const CLASSES: [&str; 10] = [
    "input",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
];

/// Whether a class of [`CLASSES`] is part of the input; what is not is output.
pub const IS_INPUT: [bool; 10] = [true, true, true, true, false, false, true, false, true, false];

/// Rates in nano-USD per million tokens, one per class of [`purser_protocol::Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Uncached input.
    pub input: i64,
    /// Input read from a cache.
    pub cached_input: i64,
    /// Input written to a five-minute cache.
    pub cache_write_5m: i64,
    /// Input written to a one-hour cache.
    pub cache_write_1h: i64,
    /// Visible output.
    pub output: i64,
    /// Reasoning.
    pub reasoning: i64,
    /// Audio in the input.
    pub audio_input: i64,
    /// Audio in the output.
    pub audio_output: i64,
    /// Images in the input.
    pub image_input: i64,
    /// Images in the output.
    pub image_output: i64,
}

impl Rates {
    /// The rates, in the order of [`CLASSES`].
    #[must_use]
    pub const fn classes(&self) -> [i64; 10] {
        [
            self.input,
            self.cached_input,
            self.cache_write_5m,
            self.cache_write_1h,
            self.output,
            self.reasoning,
            self.audio_input,
            self.audio_output,
            self.image_input,
            self.image_output,
        ]
    }

    /// Rates from a list in the order of [`CLASSES`].
    #[must_use]
    pub const fn from_classes(classes: [i64; 10]) -> Self {
        let [input, cached_input, cache_write_5m, cache_write_1h, output, reasoning, a, b, c, d] = classes;
        Self {
            input,
            cached_input,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            audio_input: a,
            audio_output: b,
            image_input: c,
            image_output: d,
        }
    }

    /// Rates from those that are known: a cache, audio or an image costs what input costs unless it is
    /// said, a one-hour write what a five-minute one does; everything in the output what output does.
    /// An explicit zero is a price.
    #[must_use]
    pub fn from_known(known: [Option<i64>; 10]) -> Self {
        let [input, cached, write_5m, write_1h, output, reasoning, audio_in, audio_out, image_in, image_out] =
            known;
        let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
        let write_5m = write_5m.unwrap_or(input);
        Self {
            input,
            cached_input: cached.unwrap_or(input),
            cache_write_5m: write_5m,
            cache_write_1h: write_1h.unwrap_or(write_5m),
            output,
            reasoning: reasoning.unwrap_or(output),
            audio_input: audio_in.unwrap_or(input),
            audio_output: audio_out.unwrap_or(output),
            image_input: image_in.unwrap_or(input),
            image_output: image_out.unwrap_or(output),
        }
    }

    /// The dearest class of input.
    #[must_use]
    pub fn dearest_input(&self) -> i64 {
        self.side(true)
    }

    /// The dearest class of output.
    #[must_use]
    pub fn dearest_output(&self) -> i64 {
        self.side(false)
    }

    /// The dearest class of text in the input: what a call without media can use.
    #[must_use]
    pub fn dearest_text_input(&self) -> i64 {
        self.input.max(self.cached_input).max(self.cache_write_5m).max(self.cache_write_1h)
    }

    fn side(&self, input: bool) -> i64 {
        let classes = self.classes().into_iter().zip(IS_INPUT);
        classes.filter(|(_, is_input)| *is_input == input).map(|(rate, _)| rate).max().unwrap_or(0)
    }

    /// Class by class the dearer of the two.
    #[must_use]
    pub fn dearest(self, other: Self) -> Self {
        self.with(other, i64::max)
    }

    /// Class by class what `of` makes of the two.
    #[must_use]
    pub fn with(self, other: Self, of: impl Fn(i64, i64) -> i64) -> Self {
        let (mut classes, others) = (self.classes(), other.classes());
        for (class, other) in classes.iter_mut().zip(others) {
            *class = of(*class, other);
        }
        Self::from_classes(classes)
    }
}
