//! What a report of usage may ask, and what it says. Pure; [`crate::admin::usage`] is its SQL.
//!
//! Reports read the rollups alone: their time depends on the number of payers and models, not of calls.
//! Whole UTC days without tags come from the rollup by day, anything else from the one by hour.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// Most groups one answer gives.
pub const MAX_GROUPS: usize = 10_000;

/// Longest time of a report from the rollup by day, days.
pub const MAX_DAYS: i64 = 1_100;

/// Longest time of a report from the rollup by hour, hours.
pub const MAX_HOURS: i64 = 7 * 24;

/// Seconds in an hour.
const HOUR_S: i64 = 3_600;

/// Seconds in a day.
const DAY_S: i64 = 24 * HOUR_S;

/// What names a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The org.
    Org,
    /// The team.
    Team,
    /// The user, of a team.
    User,
    /// Who bills.
    Provider,
    /// The model, of a provider.
    Model,
    /// The API spoken.
    Api,
    /// The UTC day.
    Day,
    /// The UTC hour.
    Hour,
    /// A cost tag of this name.
    Tag(String),
}

impl Column {
    /// What can be asked for.
    pub const NAMES: &str = "org, team, user, provider, model, api, day, hour, tag:NAME";

    /// The name in questions and answers.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Org => "org",
            Self::Team => "team",
            Self::User => "user",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Api => "api",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Tag(tag) => return format!("tag:{tag}"),
        }
        .to_owned()
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "org" => Self::Org,
            "team" => Self::Team,
            "user" => Self::User,
            "provider" => Self::Provider,
            "model" => Self::Model,
            "api" => Self::Api,
            "day" => Self::Day,
            "hour" => Self::Hour,
            other => Self::Tag(other.strip_prefix("tag:").filter(|tag| !tag.is_empty())?.to_owned()),
        })
    }
}

/// The columns of a list such as `team,day`, each once: a user is one of a team, and a model one of a
/// provider, so that these come with them.
///
/// # Errors
/// What was expected.
pub fn columns(by: &str) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    let mut add = |column: Column| {
        if !columns.contains(&column) {
            columns.push(column);
        }
    };
    for name in by.split(',').filter(|name| !name.is_empty()) {
        let column = Column::from_name(name);
        let column = column.ok_or_else(|| {
            format!("by: expected a list of {}, separated by commas, got {name:?}", Column::NAMES)
        })?;
        match column {
            Column::User => add(Column::Team),
            Column::Model => add(Column::Provider),
            _ => {}
        }
        add(column);
    }
    if columns.len() > 6 {
        return Err(format!("by: expected at most 6 columns, got {}", columns.len()));
    }
    Ok(columns)
}

/// Which calls: what is `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The org; `None` for every org.
    pub org: Option<String>,
    /// The team; `""` for calls without one.
    pub team: Option<String>,
    /// The user; `""` for calls without one.
    pub user: Option<String>,
    /// Who bills.
    pub provider: Option<String>,
    /// The model that ran.
    pub model: Option<String>,
    /// The API spoken.
    pub api: Option<String>,
    /// A cost tag and its value.
    pub tag: Option<(String, String)>,
}

/// A time, `[from, to)`, of whole UTC hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first second, Unix seconds.
    pub from_unix_s: i64,
    /// The first second after it, Unix seconds.
    pub to_unix_s: i64,
}

impl Range {
    /// A UTC month such as `2026-11`.
    ///
    /// # Errors
    /// What was expected.
    pub fn month(text: &str) -> Result<Self, String> {
        let wrong = || format!("month: expected a year and a month, as in month=2026-11, got {text:?}");
        let digits = |part: &str, len| part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit());
        let (year, month) = text
            .split_once('-')
            .filter(|(year, month)| digits(year, 4) && digits(month, 2))
            .ok_or_else(wrong)?;
        let first: Date = format!("{year}-{month}-01").parse().map_err(|_| wrong())?;
        Self::month_from(first).ok_or_else(wrong)
    }

    /// The UTC month of an instant; `None` at the end of the calendar.
    #[must_use]
    pub fn month_of(unix_s: i64) -> Option<Self> {
        let day = Timestamp::from_second(unix_s).ok()?.to_zoned_datetime(TimeZone::UTC).date();
        Self::month_from(day.first_of_month())
    }

    fn month_from(first: Date) -> Option<Self> {
        let start =
            |day: Date| day.to_zoned_datetime(TimeZone::UTC).ok().map(|at| at.timestamp().as_second());
        Some(Self { from_unix_s: start(first)?, to_unix_s: start(first.checked_add(1.month()).ok()?)? })
    }

    /// From a day or whole hour to another.
    ///
    /// # Errors
    /// What was expected.
    pub fn between(from: &str, to: &str) -> Result<Self, String> {
        let (from_unix_s, to_unix_s) = (hour("from", from)?, hour("to", to)?);
        if from_unix_s >= to_unix_s {
            return Err(format!("to: expected a time after from ({from}), got {to}; to itself is not in it"));
        }
        Ok(Self { from_unix_s, to_unix_s })
    }

    /// Whether it is made of whole UTC days.
    #[must_use]
    pub const fn is_of_days(self) -> bool {
        self.from_unix_s % DAY_S == 0 && self.to_unix_s % DAY_S == 0
    }
}

/// A UTC day or whole hour, Unix seconds.
fn hour(field: &str, text: &str) -> Result<i64, String> {
    let wrong = || {
        format!(
            "{field}: expected a UTC day such as 2026-11-23 or a whole hour such as 2026-11-23T14:00:00Z, got {text:?}"
        )
    };
    let text_of_instant =
        if text.len() == "2026-11-23".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let at: Timestamp = text_of_instant.parse().map_err(|_| wrong())?;
    let whole = at.as_nanosecond() % (i128::from(HOUR_S) * 1_000_000_000) == 0;
    if whole { Ok(at.as_second()) } else { Err(wrong()) }
}

/// In which order groups come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// By name; an answer that is not the last tells where the next begins.
    #[default]
    Name,
    /// The dearest first; only the first ones are told.
    Cost,
}

/// Where figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `cost_daily_summary`.
    Days,
    /// `usage_hourly`.
    Hours,
}

/// A report to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which calls.
    pub filter: Filter,
    /// Of which time.
    pub range: Range,
    /// What names a group; none for the sum alone.
    pub columns: Vec<Column>,
    /// Their order.
    pub order: Order,
    /// Most groups told, at most [`MAX_GROUPS`].
    pub limit: usize,
    /// The names after which groups are told.
    pub after: Option<Vec<String>>,
}

impl Question {
    /// Where its figures come from.
    #[must_use]
    pub fn source(&self) -> Source {
        let fine = |column: &Column| matches!(column, Column::Hour | Column::Tag(_));
        let by_hour = self.columns.iter().any(fine) || self.filter.tag.is_some() || !self.range.is_of_days();
        if by_hour { Source::Hours } else { Source::Days }
    }

    /// Checks that its time is not too long.
    ///
    /// # Errors
    /// What was expected.
    pub fn check(&self) -> Result<(), String> {
        let seconds = self.range.to_unix_s.saturating_sub(self.range.from_unix_s);
        match self.source() {
            Source::Days if seconds > MAX_DAYS.saturating_mul(DAY_S) => {
                Err(format!("from, to: expected at most {MAX_DAYS} days, got {}", seconds.div_euclid(DAY_S)))
            }
            Source::Hours if seconds > MAX_HOURS.saturating_mul(HOUR_S) => Err(format!(
                "from, to: expected at most {MAX_HOURS} hours where hours or tags are asked for, got {}; ask week by week",
                seconds.div_euclid(HOUR_S)
            )),
            _ => Ok(()),
        }
    }
}

/// Sums over some calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub requests: i64,
    /// Of these, charged from an estimate.
    pub estimated_requests: i64,
    /// Input neither read from nor written to a cache, tokens. No token is in two classes.
    pub input_tokens: i64,
    /// Input read from the provider's cache.
    pub cached_input_tokens: i64,
    /// Input written to it for five minutes.
    pub cache_write_5m_tokens: i64,
    /// Input written to it for an hour.
    pub cache_write_1h_tokens: i64,
    /// Output the caller sees.
    pub output_tokens: i64,
    /// Output spent on reasoning.
    pub reasoning_tokens: i64,
    /// Audio in the input.
    pub audio_input_tokens: i64,
    /// Audio in the output.
    pub audio_output_tokens: i64,
    /// Images in the input.
    pub image_input_tokens: i64,
    /// Images in the output.
    pub image_output_tokens: i64,
    /// Cost, nano-USD.
    pub cost_nanousd: i64,
    /// Calls by duration; see [`crate::histogram::LATENCY_MS`]. Empty where hours are read.
    pub latency_counts: Vec<i64>,
}

/// One group of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its names, in the order of the question's columns.
    pub names: Vec<String>,
    /// Its sums.
    pub sums: Sums,
}

/// A report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Over every group, those not told as well.
    pub total: Sums,
    /// The groups, at most as many as asked for.
    pub groups: Vec<Group>,
    /// Whether there are more.
    pub more: bool,
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
