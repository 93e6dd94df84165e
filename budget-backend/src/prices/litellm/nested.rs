//! Fields that are lists or objects, and money that can't be applied.

use serde_json::value::RawValue;

use super::{FileError, NANO_PER_MILLION, Pairs, Reading, shown, without_place};
use crate::prices::decimal::{DecimalError, scaled};
use crate::prices::fields::{self, Field};
use crate::prices::names;
use crate::pricing::Rates;
use crate::pricing::off_peak::{OFF_PEAK, OffPeak, check_zone};

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
                self.by_results(&place, &pairs)?;
                self.unpriced.insert(field.to_owned());
                continue;
            }
            let (low, high) = self.range(&place, "range", &pairs)?;
            if low != next {
                return Err(self.error(&format!("{place}.range"), format!("expected it to begin at {next}")));
            }
            if high <= low {
                return Err(self.error(&format!("{place}.range"), format!("expected it to end above {low}")));
            }
            next = high;
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

    /// By how many results a search brings, which no answer counts.
    fn by_results(&mut self, place: &str, pairs: &[(String, &RawValue)]) -> Result<(), FileError> {
        const RANGE: &str = "max_results_range";
        let (low, high) = self.range(place, RANGE, pairs)?;
        if high < low {
            return Err(
                self.error(&format!("{place}.{RANGE}"), format!("expected it to end at {low} or above"))
            );
        }
        for (name, value) in pairs.iter().filter(|(name, _)| name != RANGE) {
            let place = format!("{place}.{name}");
            match fields::field(name, &self.mode) {
                Field::Rate(..) | Field::Unit(_) | Field::Unpriceable => {
                    self.number(&place, value, NANO_PER_MILLION)?;
                }
                _ => return Err(self.error(&place, "unknown field")),
            }
        }
        Ok(())
    }

    /// `[low, high]`, whole numbers.
    fn range(&self, place: &str, name: &str, pairs: &[(String, &RawValue)]) -> Result<(i64, i64), FileError> {
        let place = format!("{place}.{name}");
        let range = pairs.iter().find(|(other, _)| other == name);
        let bounds: Option<Vec<&RawValue>> =
            range.and_then(|(_, range)| serde_json::from_str(range.get()).ok());
        let Some([low, high]) = bounds.as_deref() else {
            return Err(self.error(&place, "expected [low, high]"));
        };
        let whole = |bound: &RawValue| match scaled(bound.get(), 0) {
            Ok(number) if !number.rounded_up => Ok(number.value),
            Ok(_) => Err(self.error(&place, format!("expected whole numbers, got {}", shown(bound)))),
            Err(error) => Err(self.error(&place, format!("{error}, got {}", shown(bound)))),
        };
        Ok((whole(low)?, whole(high)?))
    }

    /// Lower rates in certain hours. The list price is the dear one and is charged at all hours; which hours
    /// they are is kept, since calls then are flagged.
    pub(super) fn off_peak(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        let Pairs(pairs) = self.object(field, value)?;
        let (mut hours, mut zone) = (Vec::new(), String::new());
        for (name, value) in &pairs {
            let place = format!("{field}.{name}");
            match (name.as_str(), fields::field(name, &self.mode)) {
                ("windows", _) => hours = self.windows(&place, value)?,
                ("weekday_timezone", _) => {
                    zone = self.text(&place, value)?;
                    self.checked(&place, names::check("", &zone))?;
                    self.checked(&place, check_zone(&zone))?;
                }
                (_, Field::Rate(class, above, tier)) => {
                    let rate = self.number(&place, value, NANO_PER_MILLION)?;
                    if (above, tier) == (None, None) {
                        self.discounted.push((place, class, rate));
                    }
                }
                _ => return Err(self.error(&place, "unknown field")),
            }
        }
        for hours in &mut hours {
            hours.weekday_zone.clone_from(&zone);
        }
        self.terms.off_peak = hours;
        self.unpriced.insert(OFF_PEAK.to_owned());
        Ok(())
    }

    /// The list price is charged at all hours, so that no hour may be dearer.
    pub(super) fn check_discount(&self, list: &Rates) -> Result<(), FileError> {
        let list = list.classes();
        for (field, class, rate) in &self.discounted {
            if list.get(*class).is_none_or(|list| rate > list) {
                return Err(self.error(field, "expected no more than at other hours"));
            }
        }
        Ok(())
    }

    fn windows(&self, field: &str, value: &RawValue) -> Result<Vec<OffPeak>, FileError> {
        let windows: Vec<&RawValue> = serde_json::from_str(value.get())
            .map_err(|_| self.error(field, format!("expected a list, got {}", shown(value))))?;
        let mut read = Vec::new();
        for (number, window) in windows.into_iter().enumerate() {
            let place = format!("{field}[{number}]");
            let mut hours =
                OffPeak { minutes_utc: Vec::new(), weekdays: Vec::new(), weekday_zone: String::new() };
            for (name, value) in self.object(&place, window)?.0 {
                let place = format!("{place}.{name}");
                let good = match name.as_str() {
                    "hours_utc" => minutes(value.get()).map(|minutes| hours.minutes_utc = minutes),
                    "weekdays" => serde_json::from_str::<Vec<u8>>(value.get())
                        .ok()
                        .filter(|days| days.iter().all(|day| (1..=7).contains(day)))
                        .map(|days| hours.weekdays = days),
                    _ => return Err(self.error(&place, "unknown field")),
                };
                if good.is_none() {
                    let expected = "expected hours such as \"22:00-06:00\", or weekdays 1 to 7";
                    return Err(self.error(&place, format!("{expected}, got {}", shown(value))));
                }
            }
            read.push(hours);
        }
        Ok(read)
    }

    /// Of a field that nobody knows, at least that no number in it is below zero.
    pub(super) fn no_negative(&self, field: &str, value: &RawValue) -> Result<(), FileError> {
        match value.get().as_bytes().first() {
            Some(b'{') => {
                let Pairs(pairs) = self.object(field, value)?;
                pairs.iter().try_for_each(|(name, value)| self.no_negative(&format!("{field}.{name}"), value))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(value.get())
                    .map_err(|error| self.error(field, without_place(&error)))?;
                let mut items = items.into_iter().enumerate();
                items.try_for_each(|(number, item)| self.no_negative(&format!("{field}[{number}]"), item))
            }
            _ => {
                // A number that somebody quoted is one too.
                let error = scaled(value.get().trim_matches('"'), 0).err();
                match error.filter(|error| *error == DecimalError::Negative) {
                    Some(error) => Err(self.error(field, format!("{error}, got {}", shown(value)))),
                    None => Ok(()),
                }
            }
        }
    }

    /// Numbers by a name we know are factors; other numbers can't be applied, and what is no number
    /// is a switch of the caller's library.
    pub(super) fn provider_specific(&mut self, field: &str, value: &RawValue) -> Result<(), FileError> {
        let Pairs(pairs) = self.object(field, value)?;
        for (name, value) in &pairs {
            let place = format!("{field}.{name}");
            let quoted = value.get().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            if quoted.is_some_and(|text| !matches!(scaled(text, 0), Err(DecimalError::NotDecimal))) {
                return Err(
                    self.error(&place, format!("expected a number without quotes, got {}", shown(value)))
                );
            }
            let number = value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
            match name.as_str() {
                "us" | "eu" | "fast" => self.multiplier(&place, name, value)?,
                _ if !number => {}
                _ => {
                    self.checked(&place, names::check("", name))?;
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

/// `"22:00-06:00"`, or a list of such, as minutes of the day.
fn minutes(text: &str) -> Option<Vec<[u16; 2]>> {
    let one = serde_json::from_str::<String>(text).map(|hours| vec![hours]);
    let hours = one.or_else(|_| serde_json::from_str::<Vec<String>>(text)).ok()?;
    hours.iter().map(|hours| span(hours)).collect()
}

/// `22:00-06:00`.
fn span(text: &str) -> Option<[u16; 2]> {
    let minute = |time: &str| {
        let shaped =
            time.len() == 5 && time.as_bytes().iter().all(|byte| byte.is_ascii_digit() || *byte == b':');
        let (hour, minute) = time.split_once(':').filter(|_| shaped)?;
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        Some(hour * 60 + minute).filter(|of_day| minute < 60 && *of_day <= 24 * 60)
    };
    let (from, to) = text.split_once('-')?;
    Some([minute(from)?, minute(to)?])
}
