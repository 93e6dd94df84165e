//! What a call may cost, before it goes out.

use std::collections::BTreeMap;

use purser_protocol::{Api, Size, Usage};

use crate::pricing::{CostLine, CostOverflow, Price, Used, sum_of_products};

/// English text runs at about four bytes a token, and the size counts the JSON around the text too,
/// so that this errs on the high side for it.
const TEXT_BYTES_PER_TOKEN: u64 = 4;

/// A full-size image costs about this much with the vision models of today.
const TOKENS_PER_MEDIA_PART: u64 = 1_500;

/// What an image of the largest common size and best quality is billed as, where images are billed by
/// their tokens.
const TOKENS_PER_IMAGE: u64 = 6_240;

/// A recording that is sent to be written down, seconds: how long it is stands in no request. The largest
/// upload holds half an hour at a usual rate; most are shorter.
const SECONDS_PER_RECORDING: u64 = 600;

/// Tokens a second of sound in the input is billed as, where it is billed by tokens.
const TOKENS_PER_SECOND_HEARD: u64 = 10;

/// Tokens that a character to be spoken becomes, in hundredths: fifteen characters a second, twenty tokens.
const SPOKEN_TOKENS_PER_100_CHARACTERS: u64 = 134;

/// The longest answer any model gives today. A larger cap means the same, and must not let one request
/// reserve a fortune.
const MAX_OUTPUT_TOKENS_PER_CHOICE: u64 = 1_048_576;

/// The most answers one request may ask for, by OpenAI's limit.
const MAX_CHOICES: u32 = 128;

/// What a provider adds around the text it is sent, tokens. The bytes count the JSON around each
/// message already, which is longer than what marks a message for the model.
const OVERHEAD_TOKENS: u64 = 256;

/// The most a call can cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Nano-USD.
    pub amount_nanousd: i64,
    /// The same at another output cap, which then has to be written into the request.
    pub line: CostLine,
    /// The output cap it counts on and the request lacks, tokens per choice: it has to be written
    /// into the request.
    pub output_cap_tokens: Option<u64>,
}

/// The most input tokens that a request without media and without context elsewhere can have: every byte
/// of text a token, since no tokenizer makes more of it, and what a provider adds.
#[must_use]
pub const fn most_input_tokens(size: &Size) -> u64 {
    size.text_bytes.saturating_add(OVERHEAD_TOKENS)
}

/// The true upper bound of what a call may cost at `price`, which must be the dearest of what the call
/// may meet: all input at the dearest class of text; the cap, or `default_cap_tokens` if there is none,
/// for every choice at the dearest class of output; and what each call costs by itself. Images that are
/// sold by the piece are so many pieces.
///
/// # Errors
/// What can't be bounded.
pub fn upper_bound(
    api: Api,
    size: &Size,
    price: &Price,
    default_cap_tokens: u64,
) -> Result<Bound, &'static str> {
    if size.media_parts > 0 {
        return Err("media in the request");
    }
    if size.server_context {
        return Err("the model reads more than the request carries");
    }
    if !price.is_known() {
        return Err("a model without a price of its own");
    }
    match api {
        Api::OpenaiImages => return images_bound(size, price),
        Api::OpenaiAudio => return Err("sound, which no cap on tokens bounds"),
        _ => {}
    }
    if ["input", "output"].iter().any(|class| price.unpriced.contains(*class)) {
        return Err("a model whose tokens have no known price");
    }
    if price.is_free_of_tokens() && (price.is_unpriceable() || price.sold_by().next().is_some()) {
        return Err("a model that is not sold by the token");
    }
    if size.unchangeable && size.max_output_tokens.is_none() {
        return Err("a request without an output cap, which can't be given one");
    }
    let output_cap_tokens = size.max_output_tokens.is_none().then_some(default_cap_tokens);
    let cap = size.max_output_tokens.unwrap_or(default_cap_tokens);
    let rates = &price.rates;
    let input = (most_input_tokens(size), rates.dearest_text_input());
    let line = CostLine::new(
        [input, (1, price.terms.per_call())],
        size.choices.max(1).into(),
        rates.dearest_output(),
    );
    let amount = line.and_then(|line| Ok((line, line.amount_nanousd(cap)?)));
    let (line, amount_nanousd) = amount.map_err(|_| "an output cap beyond all measure")?;
    Ok(Bound { amount_nanousd, line, output_cap_tokens })
}

/// Images of one price each, by whatever words. Those billed by tokens, or by what they look like, have
/// no bound that a request tells.
fn images_bound(size: &Size, price: &Price) -> Result<Bound, &'static str> {
    let by_tokens = ["input", "output", "image_output"].iter().any(|class| !price.unpriced.contains(*class));
    let by_looks = price.unpriced.iter().any(|name| name.contains("_cost_per_"));
    let rate = price.terms.units_nanousd_per_million.get("images").filter(|_| !by_tokens && !by_looks);
    let rate = rate.ok_or("images that are not sold at one price each")?;
    let pieces = [(size.choices.max(1).into(), *rate), (1, price.terms.per_call())];
    let amount_nanousd = sum_of_products(pieces).map_err(|_| "images beyond all measure")?;
    Ok(Bound { amount_nanousd, line: CostLine::level(amount_nanousd), output_cap_tokens: None })
}

/// What a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Input, tokens.
    pub input_tokens: u64,
    /// Output over all choices, tokens.
    pub output_tokens: u64,
    /// How many answers.
    pub choices: u64,
    /// What is sold by the piece where its model sells it so.
    pub media: Media,
}

/// What a call is about, beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Nothing.
    None,
    /// So many images to make.
    Images(u64),
    /// So many recordings to write down.
    Recordings(u64),
    /// So many characters to speak.
    Speech(u64),
    /// A search through documents.
    Search,
}

/// Input from the bytes of text and the media parts; output from the request's own cap, or without
/// one from `default_output_tokens` (never the model's maximum: holding that would deny calls whose
/// answers are short), times the number of choices.
#[must_use]
pub fn estimate(api: Api, size: &Size, default_output_tokens: u64) -> Estimate {
    let text_tokens = size.text_bytes.div_ceil(TEXT_BYTES_PER_TOKEN);
    let media_tokens = u64::from(size.media_parts).saturating_mul(TOKENS_PER_MEDIA_PART);
    let cap = size.max_output_tokens.unwrap_or(default_output_tokens).min(MAX_OUTPUT_TOKENS_PER_CHOICE);
    let choices = choices(size);
    let media = match api {
        Api::OpenaiImages => Media::Images(choices),
        Api::OpenaiAudio if size.media_parts > 0 => Media::Recordings(size.media_parts.into()),
        Api::OpenaiAudio => Media::Speech(size.text_bytes),
        Api::Rerank => Media::Search,
        _ => Media::None,
    };
    Estimate {
        input_tokens: text_tokens.saturating_add(media_tokens),
        output_tokens: cap.saturating_mul(choices),
        choices,
        media,
    }
}

fn choices(size: &Size) -> u64 {
    u64::from(size.choices.clamp(1, MAX_CHOICES))
}

impl Estimate {
    /// What this costs in the tier asked for, nano-USD: at the uncached input rate and the dearer of text and
    /// reasoning, with what each call costs by itself. A tier that nothing is known of counts as the
    /// dearest. Media cost the dearer of what they are as tokens and by the piece, as far as the model
    /// has a price for either.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn cost_nanousd(&self, price: &Price, service_tier: Option<&str>) -> Result<i64, CostOverflow> {
        let cost = |usage: &Usage, units: &BTreeMap<String, u64>| {
            price.cost(Used { usage, units, service_tier }).map(|costed| costed.nanousd)
        };
        let pieces = self.pieces(price);
        let usage = self.usage(price, service_tier);
        let by_tokens = |price: &Price| {
            let unpriced = |(count, name): (u64, &str)| count > 0 && price.unpriced.contains(name);
            !usage.classes().into_iter().zip(crate::pricing::CLASSES).any(unpriced)
        };
        match pieces {
            // Sold by the piece alone.
            Some(pieces) if !by_tokens(price) => cost(&Usage::default(), &pieces),
            Some(pieces) => {
                let by_the_piece = cost(&Usage::default(), &pieces)?;
                cost(&usage, &pieces).map(|by_tokens| by_tokens.max(by_the_piece))
            }
            None => {
                let by_tokens = cost(&usage, &BTreeMap::new())?;
                match self.pieces_of_text(price) {
                    Some(pieces) => cost(&Usage::default(), &pieces).map(|pieces| pieces.max(by_tokens)),
                    None => Ok(by_tokens),
                }
            }
        }
    }

    /// The same at any output cap; where media are made or read, no cap makes a difference. `size` is
    /// what was estimated.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn line(
        &self,
        size: &Size,
        price: &Price,
        service_tier: Option<&str>,
    ) -> Result<CostLine, CostOverflow> {
        if self.media != Media::None || self.pieces_of_text(price).is_some() {
            return self.cost_nanousd(price, service_tier).map(CostLine::level);
        }
        let usage = |output_tokens| Self { output_tokens, ..*self }.usage(price, service_tier);
        price.line(&usage(0), &usage(choices(size)), service_tier)
    }

    /// The tokens, by the class they are expected to be of.
    fn usage(&self, price: &Price, service_tier: Option<&str>) -> Usage {
        let text = Usage { input_tokens: self.input_tokens, ..Usage::default() };
        match self.media {
            Media::Images(count) => {
                Usage { image_output_tokens: count.saturating_mul(TOKENS_PER_IMAGE), ..text }
            }
            Media::Recordings(count) => {
                let seconds = count.saturating_mul(SECONDS_PER_RECORDING);
                let heard = seconds.saturating_mul(TOKENS_PER_SECOND_HEARD);
                Usage { audio_input_tokens: heard, output_tokens: self.output_tokens, ..text }
            }
            Media::Speech(characters) => {
                let spoken = characters.saturating_mul(SPOKEN_TOKENS_PER_100_CHARACTERS).div_ceil(100);
                Usage { audio_output_tokens: spoken, ..text }
            }
            Media::Search | Media::None => {
                let rates = price.terms.apply(&price.rates, self.input_tokens, service_tier).rates;
                if rates.reasoning > rates.output {
                    Usage { reasoning_tokens: self.output_tokens, ..text }
                } else {
                    Usage { output_tokens: self.output_tokens, ..text }
                }
            }
        }
    }

    /// What it is by the piece, where the price knows such pieces.
    fn pieces(&self, price: &Price) -> Option<BTreeMap<String, u64>> {
        let (name, count) = match self.media {
            Media::Images(count) => ("images", count),
            Media::Recordings(count) => ("audio_seconds", count.saturating_mul(SECONDS_PER_RECORDING)),
            Media::Speech(characters) => ("input_characters", characters),
            Media::Search => ("search_units", 1),
            Media::None => return None,
        };
        let known = price.terms.units_nanousd_per_million.contains_key(name);
        known.then(|| [(name.to_owned(), count)].into())
    }

    /// What a call of text is by the piece, where tokens of the model cost nothing and pieces do: one of
    /// each for each answer, or what the tokens come to.
    fn pieces_of_text(&self, price: &Price) -> Option<BTreeMap<String, u64>> {
        if self.media != Media::None || !price.is_free_of_tokens() {
            return None;
        }
        let count = |name: &str| match name {
            "audio_seconds" => self.choices.saturating_mul(SECONDS_PER_RECORDING),
            "input_characters" => self.input_tokens.saturating_mul(TEXT_BYTES_PER_TOKEN),
            "output_characters" => self.output_tokens.saturating_mul(TEXT_BYTES_PER_TOKEN),
            _ => self.choices,
        };
        let pieces: BTreeMap<_, _> =
            price.sold_by().map(|(name, _)| (name.to_owned(), count(name).max(1))).collect();
        (!pieces.is_empty()).then_some(pieces)
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
