//! What the access log tells of a stream.

use std::borrow::Cow;

use purser_protocol::{Payer, Usage};
use uuid::Uuid;

/// The facts of one stream, as they become known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// One word for what was decided; absent while nothing is.
    pub verdict: Option<&'static str>,
    /// The hold.
    pub hold_id: Option<Uuid>,
    /// Who pays.
    pub payer: Option<Payer>,
    /// The model, as it was called.
    pub model: Option<String>,
    /// What was held, nano-USD.
    pub held_nanousd: Option<i64>,
    /// What the answer used, as far as it was told.
    pub usage: Option<Usage>,
}

impl Line {
    /// Names and values of the filter state; what isn't known is left out.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let payer = self.payer.as_ref();
        let texts = [
            ("purser.org", payer.map(|payer| payer.org.as_str())),
            ("purser.team", payer.and_then(|payer| payer.team.as_deref())),
            ("purser.user", payer.and_then(|payer| payer.user.as_deref())),
            ("purser.model", self.model.as_deref()),
        ];
        let mut fields = Vec::with_capacity(12);
        fields.extend(self.verdict.map(|verdict| ("purser.verdict", Cow::Borrowed(verdict))));
        fields.extend(self.hold_id.map(|id| ("purser.hold_id", Cow::Owned(id.to_string()))));
        for (name, text) in texts {
            fields.extend(text.filter(|text| !text.is_empty()).map(|text| (name, Cow::Borrowed(text))));
        }
        fields.extend(self.held_nanousd.map(|held| ("purser.held_nanousd", Cow::Owned(held.to_string()))));
        let Some(usage) = &self.usage else { return fields };
        let cache_write = usage.cache_write_5m_tokens.saturating_add(usage.cache_write_1h_tokens);
        let counts = [
            ("purser.input_tokens", usage.input_tokens),
            ("purser.cached_input_tokens", usage.cached_input_tokens),
            ("purser.cache_write_tokens", cache_write),
            ("purser.output_tokens", usage.output_tokens),
            ("purser.reasoning_tokens", usage.reasoning_tokens),
        ];
        fields.extend(counts.map(|(name, tokens)| (name, Cow::Owned(tokens.to_string()))));
        fields
    }
}
