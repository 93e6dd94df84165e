//! Fields that are lists or objects, and money that can't be applied.

use serde_json::value::RawValue;

use super::{FileError, NANO_PER_MILLION, Pairs, Reading, shown};
use crate::prices::fields::{self, Field};

impl Reading<'_> {
    /// What a search costs depends on how much it brings, which the answer doesn't say: the medium is
    /// what is meant where nothing is asked for.
    pub(super) fn search_context(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        let Pairs(sizes) = self.object(field, value)?;
        let mut dearest = None;
        for (name, value) in &sizes {
            let Some(size) = name.strip_prefix("search_context_size_") else {
                return Err(self.error(&format!("{field}.{name}"), "unknown unit"));
            };
            if !["low", "medium", "high"].contains(&size) {
                return Err(self.error(&format!("{field}.{name}"), "unknown unit"));
            }
            let rate = self.number(&format!("{field}.{name}"), value, NANO_PER_MILLION)?;
            dearest = dearest.max(Some(rate));
            self.terms.units_nanousd_per_million.insert(format!("web_search_requests_{size}"), rate);
        }
        let units = &mut self.terms.units_nanousd_per_million;
        if let Some(rate) = units.get("web_search_requests_medium").copied().or(dearest) {
            units.insert("web_search_requests".to_owned(), rate);
        }
        Ok(())
    }

    pub(super) fn tiered(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        let tiers: Vec<&RawValue> = serde_json::from_str(value.get())
            .map_err(|_| self.error(field, format!("expected a list, got {}", shown(value))))?;
        let mut next = 0_i64;
        for (number, tier) in tiers.into_iter().enumerate() {
            let place = format!("{field}[{number}]");
            let Pairs(pairs) = self.object(&place, tier)?;
            if pairs.iter().any(|(name, _)| name == "max_results_range") {
                // By how many results a search brings, which no answer counts.
                self.unpriced.insert(field.to_owned());
                continue;
            }
            let range = pairs.iter().find(|(name, _)| name == "range");
            let bounds: Option<Vec<&RawValue>> =
                range.and_then(|(_, range)| serde_json::from_str(range.get()).ok());
            let Some([low, high]) = bounds.as_deref() else {
                return Err(self.error(&format!("{place}.range"), "expected [low, high]"));
            };
            let low = self.number(&format!("{place}.range"), low, 0)?;
            if low != next {
                return Err(self.error(&format!("{place}.range"), format!("expected it to begin at {next}")));
            }
            next = self.number(&format!("{place}.range"), high, 0)?;
            let above = u64::try_from(low).ok().filter(|low| *low > 0);
            for (name, value) in pairs.iter().filter(|(name, _)| name != "range") {
                let place = format!("{place}.{name}");
                let Field::Rate(class, None, None) = fields::field(name, &self.mode) else {
                    return Err(self.error(&place, "unknown field"));
                };
                let rate = self.number(&place, value, NANO_PER_MILLION)?;
                self.rates.insert((class, above, None), rate);
            }
        }
        Ok(())
    }

    /// Numbers by a name we know are factors; other numbers can't be applied, and what is no number
    /// is a switch of the caller's library.
    pub(super) fn provider_specific(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        let Pairs(pairs) = self.object(field, value)?;
        for (name, value) in &pairs {
            let place = format!("{field}.{name}");
            if !value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                continue;
            }
            match name.as_str() {
                "us" | "eu" | "fast" => self.multiplier(&place, name, value)?,
                _ => {
                    self.number(&place, value, 0)?;
                    self.unpriced.insert(place);
                }
            }
        }
        Ok(())
    }

    /// A price of nothing costs nothing, whatever it depends on.
    pub(super) fn unpriceable(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        if value.get().starts_with('{') {
            let Pairs(pairs) = self.object(field, value)?;
            for (name, value) in &pairs {
                self.number(&format!("{field}.{name}"), value, NANO_PER_MILLION)?;
            }
            self.unpriced.insert(field.to_owned());
        } else if self.number(field, value, NANO_PER_MILLION)? > 0 {
            self.unpriced.insert(field.to_owned());
        }
        Ok(())
    }
}
