//! A provider's usage, turned into classes that don't overlap.

mod iterations;
mod tables;
#[cfg(test)]
mod tests;

pub use iterations::with_iterations;
pub use tables::{
    ANTHROPIC, CHAT, COHERE, CONVERSE, EMBEDDINGS, GEMINI, IMAGES, INVOCATION, LLAMA, OLLAMA, RESPONSES,
    TRANSCRIPTION,
};

use purser_protocol::Usage;

use crate::json_scan::{self, Found};

/// More tokens of a class than any one call can use, ten times the largest context there is; a larger
/// number is nonsense and counts as unknown.
const MAX_TOKENS: u64 = 100_000_000;

/// Where a count stands in a usage object.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A member.
    Key(&'static str),
    /// A member of a member.
    In(&'static str, &'static str),
    /// In a list of objects: the list, a label's name and value, and the count's name. Those with the
    /// label add up.
    Labelled(&'static str, (&'static str, &'static str), &'static str),
}

/// What a provider counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Input, with or without the parts below.
    Input,
    /// Input that tools brought in, beside all other.
    ToolInput,
    /// Read from a cache.
    Cached,
    /// Written to a cache, of any lifetime.
    Write,
    /// Written to a cache for five minutes.
    Write5m,
    /// Written to a cache for an hour.
    Write1h,
    /// Audio in the input.
    AudioIn,
    /// Images in the input.
    ImageIn,
    /// Output, with or without the parts below.
    Output,
    /// Reasoning.
    Reasoning,
    /// Audio in the output.
    AudioOut,
    /// Images in the output.
    ImageOut,
    /// Input, reasoning and output together, where they stand beside each other: tells the output when
    /// nothing else does.
    Total,
}

const SLOTS: usize = 13;

/// How a provider tells its usage.
#[derive(Debug)]
pub struct Table {
    /// What stands where. A later place of the same slot wins.
    pub fields: &'static [(Place, Slot)],
    /// Without these the usage is unknown.
    pub needed: &'static [Slot],
    /// Units other than tokens, by name.
    pub units: &'static [(Place, &'static str)],
    /// `Input` includes what was read from and written to caches.
    pub input_includes_cache: bool,
    /// `Output` includes reasoning.
    pub output_includes_reasoning: bool,
    /// Counts come in several objects, each field with its last value.
    pub merges: bool,
    /// Counts may be written as decimals.
    pub decimals: bool,
    /// Output that isn't said to be anything else is images.
    pub output_is_images: bool,
}

/// Counts as told so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    told: [Option<u64>; SLOTS],
    tells_output: bool,
}

impl Counts {
    /// Whether the last usage object itself told a count of the output.
    #[must_use]
    pub const fn tells_output(&self) -> bool {
        self.tells_output
    }

    fn get(&self, slot: Slot) -> Option<u64> {
        self.told.get(slot as usize).copied().flatten()
    }

    fn set(&mut self, slot: Slot, count: u64) {
        if let Some(place) = self.told.get_mut(slot as usize) {
            *place = Some(count);
        }
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(place) = self.told.get_mut(slot as usize) {
            *place = None;
        }
    }

    fn or_zero(&self, slot: Slot) -> u64 {
        self.get(slot).unwrap_or(0)
    }
}

/// Takes in a usage object. `counts` keeps what tables that merge have told before. Nothing is returned
/// when a needed count is missing or not a count.
pub fn read(raw: &str, table: &Table, counts: &mut Counts) -> Option<Usage> {
    let mut told = if table.merges { *counts } else { Counts::default() };
    let scan = Scan::of(raw, table.fields.iter().map(|(place, _)| *place));
    told.tells_output = false;
    told.forget(Slot::Total);
    for (place, slot) in table.fields {
        if let Some(count) = scan.count(*place, table.decimals) {
            told.set(*slot, count);
            told.tells_output |= *slot == Slot::Output;
        }
    }
    if !told.tells_output
        && let Some(output) = rest_of_total(&told)
    {
        told.set(Slot::Output, output);
        told.tells_output = true;
    }
    *counts = told;
    if table.needed.iter().any(|slot| told.get(*slot).is_none()) {
        return None;
    }
    Some(resolve(&told, table))
}

/// The output, when only a total tells of it. A total without any output tells nothing: the answer may
/// not have been counted yet.
fn rest_of_total(told: &Counts) -> Option<u64> {
    let (input, thought) = (told.get(Slot::Input)?, told.or_zero(Slot::Reasoning));
    let rest = minus(told.get(Slot::Total)?, &[&[input, told.or_zero(Slot::ToolInput)]])?;
    let output = rest.checked_sub(thought)?;
    (rest > 0).then_some(output)
}

/// Hands over the units that a usage object tells.
pub fn units(raw: &str, table: &Table, mut sink: impl FnMut(&'static str, u64)) {
    if table.units.is_empty() {
        return;
    }
    let scan = Scan::of(raw, table.units.iter().map(|(place, _)| *place));
    for (place, name) in table.units {
        if let Some(count) = scan.count(*place, true) {
            sink(name, count);
        }
    }
}

/// Each token lands in one class. Parts that exceed their whole are nonsense: then fewer of them are
/// believed, and in the end only the whole counts, in the undiscounted class.
fn resolve(told: &Counts, table: &Table) -> Usage {
    let (five, hour) = (told.or_zero(Slot::Write5m), told.or_zero(Slot::Write1h));
    let unsplit = told.or_zero(Slot::Write).saturating_sub(five.saturating_add(hour));
    let cached = told.or_zero(Slot::Cached);
    let caches = [cached, five.saturating_add(unsplit), hour];
    let media = [told.or_zero(Slot::AudioIn), told.or_zero(Slot::ImageIn)];
    let whole = told.or_zero(Slot::Input);
    let inside = if table.input_includes_cache { caches } else { [0; 3] };
    let (input, caches, media) = match (minus(whole, &[&inside, &media]), minus(whole, &[&inside])) {
        (Some(rest), _) => (rest, caches, media),
        (None, Some(rest)) => (rest, caches, [0; 2]),
        (None, None) => (whole, [0; 3], [0; 2]),
    };
    let [cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens] = caches;
    let [audio_input_tokens, image_input_tokens] = media;

    let whole = told.or_zero(Slot::Output);
    let thought = told.or_zero(Slot::Reasoning);
    let images = match told.get(Slot::ImageOut) {
        None if table.output_is_images => whole,
        told => told.unwrap_or(0),
    };
    let media = [told.or_zero(Slot::AudioOut), images];
    let inside = if table.output_includes_reasoning { [thought] } else { [0] };
    let (output, reasoning_tokens, media) = match (minus(whole, &[&inside, &media]), minus(whole, &[&inside]))
    {
        (Some(rest), _) => (rest, thought, media),
        (None, Some(rest)) => (rest, thought, [0; 2]),
        (None, None) => (whole, 0, [0; 2]),
    };
    let [audio_output_tokens, image_output_tokens] = media;
    Usage {
        input_tokens: input.saturating_add(told.or_zero(Slot::ToolInput)),
        cached_input_tokens,
        cache_write_5m_tokens,
        cache_write_1h_tokens,
        output_tokens: output,
        reasoning_tokens,
        audio_input_tokens,
        audio_output_tokens,
        image_input_tokens,
        image_output_tokens,
    }
}

fn minus(whole: u64, parts: &[&[u64]]) -> Option<u64> {
    parts.iter().copied().flatten().try_fold(whole, |left, part| left.checked_sub(*part))
}

/// A usage object, each object in it read once for all places.
struct Scan<'a> {
    /// Of the object itself: every key that a place begins with.
    outer: Vec<(&'static str, Option<Found<'a>>)>,
    /// Of its members: every key that a place looks for in one of them.
    inner: Vec<(&'static str, &'static str, Option<Found<'a>>)>,
}

impl<'a> Scan<'a> {
    fn of(raw: &'a str, places: impl Iterator<Item = Place> + Clone) -> Self {
        let mut keys = Vec::new();
        for place in places.clone() {
            let (Place::Key(key) | Place::In(key, _) | Place::Labelled(key, ..)) = place;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let mut scan = Self { outer: pairs(raw, &keys), inner: Vec::new() };
        for outer in keys {
            let mut inner_keys = Vec::new();
            for place in places.clone() {
                if let Place::In(of, key) = place
                    && of == outer
                    && !inner_keys.contains(&key)
                {
                    inner_keys.push(key);
                }
            }
            if let Some(found) = scan.member(outer).filter(|_| !inner_keys.is_empty()) {
                let inner = pairs(found.raw, &inner_keys);
                scan.inner.extend(inner.into_iter().map(|(key, found)| (outer, key, found)));
            }
        }
        scan
    }

    fn member(&self, key: &str) -> Option<Found<'a>> {
        self.outer.iter().find(|(known, _)| *known == key)?.1.clone()
    }

    fn count(&self, place: Place, decimals: bool) -> Option<u64> {
        match place {
            Place::Key(key) => count(self.member(key)?.raw, decimals),
            Place::In(outer, key) => {
                let found = self.inner.iter().find(|(of, known, _)| *of == outer && *known == key)?;
                count(found.2.as_ref()?.raw, decimals)
            }
            Place::Labelled(list, (label, value), key) => {
                let mut sum = None;
                for item in json_scan::elements(self.member(list)?.raw)? {
                    let [name, found] = json_scan::object(item.get(), &[label, key]).ok()?;
                    if name.and_then(|name| json_scan::string(name.raw)).as_deref() == Some(value) {
                        sum = Some(count(found?.raw, decimals)?.saturating_add(sum.unwrap_or(0)));
                    }
                }
                sum
            }
        }
    }
}

/// The members of an object under these keys; none of them where it is no object, or has one twice.
fn pairs<'a>(raw: &'a str, keys: &[&'static str]) -> Vec<(&'static str, Option<Found<'a>>)> {
    let mut found = vec![None; keys.len()];
    let is_read = json_scan::members(raw, keys, &mut found).is_ok();
    let found = found.into_iter().map(|found| found.filter(|_| is_read));
    keys.iter().copied().zip(found).collect()
}

/// A count; with decimals, rounded up.
fn count(raw: &str, decimals: bool) -> Option<u64> {
    let (whole, fraction) = match raw.split_once('.') {
        Some((whole, fraction)) if decimals => (whole, fraction),
        _ => (raw, ""),
    };
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let rounded = whole.checked_add(u64::from(fraction.bytes().any(|digit| digit != b'0')))?;
    (rounded <= MAX_TOKENS).then_some(rounded)
}
