//! What entries add to the rollup and to what is learned from them. Pure, but for the statement that
//! writes it.
//!
//! Every number of a rollup row is the sum of a function of one entry, so that adding entries as they
//! come and recomputing a row from the detail give the same: entry 0 counts a request; an entry 0
//! that is no settlement counts an estimated one, and a settlement after it takes that back; tokens,
//! cost and the latency bucket are the entry's own. An expired hold's entry has no duration, and a
//! repricing's has neither that nor tokens.

use std::collections::BTreeMap;

use serde::Serialize;

use super::model::{NewEntry, Subject};
use super::records::instant;
use crate::histogram::{LATENCY_MS, OUTPUT_TOKENS, bucket};

/// Microseconds in an hour.
const HOUR_US: i64 = 3_600_000_000;

/// What a batch adds to one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Measures {
    requests: i64,
    estimated_requests: i64,
    input_tokens: i64,
    cached_input_tokens: i64,
    cache_write_5m_tokens: i64,
    cache_write_1h_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    audio_input_tokens: i64,
    audio_output_tokens: i64,
    image_input_tokens: i64,
    image_output_tokens: i64,
    cost_nanousd: i64,
    latency_counts: Vec<i64>,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            requests: 0,
            estimated_requests: 0,
            input_tokens: 0,
            cached_input_tokens: 0,
            cache_write_5m_tokens: 0,
            cache_write_1h_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            audio_input_tokens: 0,
            audio_output_tokens: 0,
            image_input_tokens: 0,
            image_output_tokens: 0,
            cost_nanousd: 0,
            latency_counts: vec![0; LATENCY_MS.len().saturating_add(1)],
        }
    }
}

impl Measures {
    fn add(&mut self, entry: &NewEntry) {
        let usage = &entry.facts.usage;
        let (first, settled) = (entry.entry == 0, entry.cause == "settled");
        // Before a settlement with a number above 0 lies an expiry, and nothing else. A repricing is no
        // first entry and no settlement.
        let estimated = match (first, settled) {
            (true, false) => 1,
            (false, true) => -1,
            _ => 0,
        };
        for (total, added) in [
            (&mut self.requests, i64::from(first)),
            (&mut self.estimated_requests, estimated),
            (&mut self.input_tokens, tokens(usage.input_tokens)),
            (&mut self.cached_input_tokens, tokens(usage.cached_input_tokens)),
            (&mut self.cache_write_5m_tokens, tokens(usage.cache_write_5m_tokens)),
            (&mut self.cache_write_1h_tokens, tokens(usage.cache_write_1h_tokens)),
            (&mut self.output_tokens, tokens(usage.output_tokens)),
            (&mut self.reasoning_tokens, tokens(usage.reasoning_tokens)),
            (&mut self.audio_input_tokens, tokens(usage.audio_input_tokens)),
            (&mut self.audio_output_tokens, tokens(usage.audio_output_tokens)),
            (&mut self.image_input_tokens, tokens(usage.image_input_tokens)),
            (&mut self.image_output_tokens, tokens(usage.image_output_tokens)),
            (&mut self.cost_nanousd, entry.cost_nanousd),
        ] {
            *total = total.saturating_add(added);
        }
        if let Some(duration_ms) = entry.facts.duration_ms {
            count(&mut self.latency_counts, &LATENCY_MS, duration_ms);
        }
    }
}

fn tokens(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(counts: &mut [i64], bounds: &[i64], value: i64) {
    if let Some(count) = counts.get_mut(bucket(bounds, value)) {
        *count = count.saturating_add(1);
    }
}

/// An addition to a row of `usage_hourly`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct HourRecord {
    org: String,
    hour: String,
    team: String,
    user_name: String,
    provider: String,
    model: String,
    api: String,
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    measures: Measures,
}

/// An addition to a row of `cost_daily_summary`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct DayRecord {
    org: String,
    day: String,
    team: String,
    user_name: String,
    provider: String,
    model: String,
    api: String,
    #[serde(flatten)]
    measures: Measures,
}

/// An addition to a row of `output_lengths`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LengthRecord {
    org: String,
    team: String,
    provider: String,
    model: String,
    seen: Vec<i64>,
}

/// Sums entries by UTC hour, payer, provider, model, API and tags.
///
/// # Errors
/// The text of what can't be stored: an instant outside the calendar.
pub fn hours(entries: &[NewEntry]) -> Result<Vec<HourRecord>, String> {
    type Key<'a> = (&'a str, i64, [&'a str; 5], &'a BTreeMap<String, String>);
    let mut sums: BTreeMap<Key<'_>, Measures> = BTreeMap::new();
    for entry in entries {
        let hour_unix_us = entry.occurred_at_unix_us.div_euclid(HOUR_US).saturating_mul(HOUR_US);
        let key = (entry.key.0.as_str(), hour_unix_us, names(&entry.subject), &entry.subject.tags);
        sums.entry(key).or_default().add(entry);
    }
    sums.into_iter()
        .map(|((org, hour_unix_us, [team, user_name, provider, model, api], tags), measures)| {
            Ok(HourRecord {
                org: org.to_owned(),
                hour: instant(hour_unix_us)?.to_string(),
                team: team.to_owned(),
                user_name: user_name.to_owned(),
                provider: provider.to_owned(),
                model: model.to_owned(),
                api: api.to_owned(),
                tags: tags.clone(),
                measures,
            })
        })
        .collect()
}

/// Sums entries by UTC day, payer, provider, model and API.
///
/// # Errors
/// The text of what can't be stored: an instant outside the calendar.
pub fn days(entries: &[NewEntry]) -> Result<Vec<DayRecord>, String> {
    let mut sums: BTreeMap<(&str, i32, [&str; 5]), Measures> = BTreeMap::new();
    for entry in entries {
        let key = (entry.key.0.as_str(), day(entry.occurred_at_unix_us), names(&entry.subject));
        sums.entry(key).or_default().add(entry);
    }
    sums.into_iter()
        .map(|((org, day, [team, user_name, provider, model, api]), measures)| {
            Ok(DayRecord {
                org: org.to_owned(),
                day: instant(i64::from(day).saturating_mul(DAY_US))?.strftime("%Y-%m-%d").to_string(),
                team: team.to_owned(),
                user_name: user_name.to_owned(),
                provider: provider.to_owned(),
                model: model.to_owned(),
                api: api.to_owned(),
                measures,
            })
        })
        .collect()
}

fn names(subject: &Subject) -> [&str; 5] {
    [&subject.team, &subject.user, &subject.provider, &subject.model, &subject.api]
}

/// Microseconds in a day.
const DAY_US: i64 = 24 * HOUR_US;

/// The UTC day of an instant, in days since 1970-01-01.
#[must_use]
pub fn day(unix_us: i64) -> i32 {
    i32::try_from(unix_us.div_euclid(DAY_US)).unwrap_or(i32::MAX)
}

/// The lengths of answers that say what an answer needs, by payer's team and model.
#[must_use]
pub fn lengths(entries: &[NewEntry]) -> Vec<LengthRecord> {
    let mut sums: BTreeMap<[&str; 4], Vec<i64>> = BTreeMap::new();
    for entry in entries {
        let Some(answer_tokens) = entry.facts.answer_tokens else { continue };
        let subject = &entry.subject;
        let key = [&entry.key.0, &subject.team, &subject.provider, &subject.model].map(String::as_str);
        let seen = sums.entry(key).or_insert_with(|| vec![0; OUTPUT_TOKENS.len().saturating_add(1)]);
        count(seen, &OUTPUT_TOKENS, answer_tokens);
    }
    sums.into_iter()
        .map(|([org, team, provider, model], seen)| LengthRecord {
            org: org.to_owned(),
            team: team.to_owned(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            seen,
        })
        .collect()
}

/// The columns of [`Measures`], for a list of columns.
macro_rules! measures {
    () => {
        "requests, estimated_requests, input_tokens, cached_input_tokens, cache_write_5m_tokens,
         cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
         image_input_tokens, image_output_tokens, cost_nanousd, latency_counts"
    };
}

/// The same with their types, for a record.
macro_rules! measures_typed {
    () => {
        "requests bigint, estimated_requests bigint, input_tokens bigint, cached_input_tokens bigint,
         cache_write_5m_tokens bigint, cache_write_1h_tokens bigint, output_tokens bigint,
         reasoning_tokens bigint, audio_input_tokens bigint, audio_output_tokens bigint,
         image_input_tokens bigint, image_output_tokens bigint, cost_nanousd bigint, latency_counts bigint[]"
    };
}

/// Adds what is inserted to the row `s`. A list of counts may be shorter, which means zeros.
macro_rules! add_measures {
    () => {
        "requests = s.requests + excluded.requests,
         estimated_requests = s.estimated_requests + excluded.estimated_requests,
         input_tokens = s.input_tokens + excluded.input_tokens,
         cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
         cache_write_5m_tokens = s.cache_write_5m_tokens + excluded.cache_write_5m_tokens,
         cache_write_1h_tokens = s.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
         output_tokens = s.output_tokens + excluded.output_tokens,
         reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
         audio_input_tokens = s.audio_input_tokens + excluded.audio_input_tokens,
         audio_output_tokens = s.audio_output_tokens + excluded.audio_output_tokens,
         image_input_tokens = s.image_input_tokens + excluded.image_input_tokens,
         image_output_tokens = s.image_output_tokens + excluded.image_output_tokens,
         cost_nanousd = s.cost_nanousd + excluded.cost_nanousd,
         latency_counts = (select array_agg(coalesce(a, 0) + coalesce(b, 0) order by i)
                             from unnest(s.latency_counts, excluded.latency_counts) with ordinality as c (a, b, i))"
    };
}

/// Adds to `usage_hourly`, then to `cost_daily_summary`, then to `output_lengths`, each in key order.
/// Each insert reads a number that the one before it gives when it is done: that, and not the order in
/// the text, is what keeps the locks in order. Parameters: the three lists of records, and the number
/// of answers beyond which old ones are halved.
pub const ADD: &str = concat!(
    "with hours as (
         insert into usage_hourly as s
             (org, hour, team, user_name, provider, model, api, tags, ",
    measures!(),
    ")
         select org, hour, team, user_name, provider, model, api, tags::text, ",
    measures!(),
    "      from jsonb_to_recordset($1) as r (org text, hour timestamptz, team text, user_name text,
               provider text, model text, api text, tags jsonb, ",
    measures_typed!(),
    ")
         order by org collate \"C\", hour, team collate \"C\", user_name collate \"C\", provider collate \"C\",
                  model collate \"C\", api collate \"C\", tags::text collate \"C\"
         on conflict (org, hour, team, user_name, provider, model, api, tags) do update set ",
    add_measures!(),
    "    returning 1
     ), days as (
         insert into cost_daily_summary as s
             (org, day, team, user_name, provider, model, api, ",
    measures!(),
    ")
         select org, day, team, user_name, provider, model, api, ",
    measures!(),
    "      from (select count(*) from hours) as done,
                jsonb_to_recordset($2) as r (org text, day date, team text, user_name text,
                    provider text, model text, api text, ",
    measures_typed!(),
    ")
         order by org collate \"C\", day, team collate \"C\", user_name collate \"C\", provider collate \"C\",
                  model collate \"C\", api collate \"C\"
         on conflict (org, day, team, user_name, provider, model, api) do update set ",
    add_measures!(),
    "    returning 1
     )
     insert into output_lengths as s (org, team, provider, model, seen)
     select org, team, provider, model, seen
       from (select count(*) from days) as done,
            jsonb_to_recordset($3) as r (org text, team text, provider text, model text, seen bigint[])
      order by org collate \"C\", team collate \"C\", provider collate \"C\", model collate \"C\"
     on conflict (org, team, provider, model) do update set
         seen = (select array_agg(coalesce(a, 0) / case when total > $4::bigint then 2 else 1 end + coalesce(b, 0)
                                  order by i)
                   from unnest(s.seen, excluded.seen) with ordinality as c (a, b, i),
                        (select sum(o) as total from unnest(s.seen) as o) as stored),
         updated_at = now()"
);

/// The number of answers of a group beyond which [`ADD`] halves the counts before it adds.
pub const HALVE_ABOVE: i64 = 1_000;

#[cfg(test)]
#[path = "rollup_tests.rs"]
mod tests;
