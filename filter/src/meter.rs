//! What an answer told while it flowed by.

use purser_protocol::{MAX_NAME_BYTES, MAX_UNIT_BYTES, MAX_UNITS, Usage};

use crate::json_scan::{self, Found};
use crate::text;
use crate::usage::{self, Counts, Slot, Table};

/// What an answer told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// The provider's usage; in a stream the last one.
    pub usage: Option<Usage>,
    /// That usage came at the end or with the whole answer, so none follows.
    pub usage_is_final: bool,
    /// What it says of the output can't be all: text followed, or it was only a beginning, or it wasn't
    /// readable.
    pub output_is_open: bool,
    /// A usage told a count of the output.
    pub output_was_told: bool,
    /// The model that answered.
    pub answered_model: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// The tier, speed or traffic class that answered.
    pub service_tier: Option<String>,
    /// What costs by the piece.
    pub units: Vec<(&'static str, u64)>,
    /// The cost that the provider reports, nano-USD.
    pub reported_cost_nanousd: Option<i64>,
    /// Bytes of generated text seen, and of events that could not be read.
    pub output_bytes: u64,
    /// The answer showed where its text would be.
    pub saw_text: bool,
    /// Tokens of output, at least, by what was seen of the body; absent when nothing was.
    pub output_tokens_seen: Option<u64>,
    /// An event of a stream could be read.
    pub saw_readable: bool,
    /// An event of a stream could not be read.
    pub saw_unread: bool,
    /// A body or an event was compressed or too long to be read: its bytes say nothing about its tokens.
    pub is_opaque: bool,
    /// The stream or the answer told of an error.
    pub saw_error: bool,
    /// The answer is whole: the stream said so, or the body is one JSON object.
    pub is_done: bool,
    counts: Counts,
}

impl Reading {
    /// Takes in a usage object.
    pub fn add_usage(&mut self, raw: &str, table: &Table) {
        if !raw.starts_with('{') {
            return;
        }
        let usage = usage::read(raw, table, &mut self.counts);
        if usage.is_some() && self.counts.tells_output() {
            (self.output_was_told, self.output_is_open) = (true, false);
        } else if table.needed.contains(&Slot::Output) {
            self.output_is_open = true;
        }
        self.usage = usage.or(self.usage);
        usage::units(raw, table, |name, count| self.set_units(name, count));
    }

    /// What was used is billed by the piece: no tokens are told, and none are owed.
    pub fn owe_no_tokens(&mut self) {
        self.usage = Some(self.usage.unwrap_or_default());
        self.output_is_open = false;
    }

    /// Whether all that came is an error: no text, no usage and nothing that is billed by the piece.
    #[must_use]
    pub fn is_only_an_error(&self) -> bool {
        self.saw_error
            && self.output_bytes == 0
            && self.usage.is_none()
            && self.units.is_empty()
            && !self.is_opaque
    }

    /// Takes in who answered.
    pub fn add_names(&mut self, model: Option<&Found<'_>>, id: Option<&Found<'_>>) {
        let name = |found: Option<&Found<'_>>| {
            let name = json_scan::string(found?.raw)?;
            (1..=MAX_NAME_BYTES).contains(&name.len()).then_some(name)
        };
        if self.answered_model.is_none() {
            self.answered_model = name(model);
        }
        if self.response_id.is_none() {
            self.response_id = name(id);
        }
    }

    /// Takes in a tier; the last one counts.
    pub fn add_tier(&mut self, found: Option<&Found<'_>>) {
        if let Some(name) = found.and_then(|found| json_scan::string(found.raw)) {
            self.set_tier(name);
        }
    }

    /// As [`Self::add_tier`]; several parts of a name are joined by `+`. One that is too long is cut: no
    /// price knows it then either, and an unknown tier is charged as one.
    pub fn set_tier(&mut self, mut name: String) {
        let end = (0..=MAX_UNIT_BYTES).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.truncate(end);
        if !name.is_empty() {
            self.service_tier = Some(name);
        }
    }

    /// Sets how many of a unit there were; zero is not worth telling.
    pub fn set_units(&mut self, name: &'static str, count: u64) {
        self.forget_units(name);
        if count > 0 && self.units.len() < MAX_UNITS {
            self.units.push((name, count));
        }
    }

    /// One more of a unit.
    pub fn add_unit(&mut self, name: &'static str) {
        let before = self.units.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count);
        self.set_units(name, before.saturating_add(1));
    }

    /// Takes a unit back.
    pub fn forget_units(&mut self, name: &'static str) {
        self.units.retain(|(known, _)| *known != name);
    }

    /// Whether there was any of a unit.
    #[must_use]
    pub fn has_units(&self, name: &'static str) -> bool {
        self.units.iter().any(|(known, _)| *known == name)
    }

    /// Takes in a value that holds generated text.
    pub fn add_text(&mut self, found: Option<&Found<'_>>) {
        if let Some(found) = found.filter(|found| !found.is_null()) {
            self.add_text_bytes(text::bytes(found.raw));
        }
    }

    /// Takes in so many bytes of generated text.
    pub fn add_text_bytes(&mut self, bytes: u64) {
        self.saw_text = true;
        self.output_is_open |= bytes > 0;
        self.output_bytes = self.output_bytes.saturating_add(bytes);
    }

    /// Takes in what can't be read: so many bytes of a stream.
    pub fn add_unread(&mut self, bytes: usize) {
        self.saw_unread = true;
        self.output_bytes = self.output_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A part of a stream is too long to be read. It may be an image, so its bytes count for nothing.
    pub fn add_opaque(&mut self) {
        (self.saw_unread, self.is_opaque, self.output_is_open) = (true, true, true);
    }

    /// The usage told so far is the last word.
    pub fn finish_usage(&mut self) {
        self.usage_is_final = self.usage.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_of_any_length_is_told() {
        let mut reading = Reading::default();
        for (name, told) in [("", None), ("flex", Some("flex".to_owned())), ("", Some("flex".to_owned()))] {
            reading.set_tier(name.to_owned());
            assert_eq!(reading.service_tier, told);
        }
        reading.set_tier("ü".repeat(300));
        assert_eq!(reading.service_tier, Some("ü".repeat(MAX_UNIT_BYTES / 2)));
    }
}
