//! The rows the tracker inserts, as the JSON records its statements take.

use std::collections::BTreeMap;

use jiff::Timestamp;
use purser_protocol::Usage;
use serde::Serialize;
use uuid::Uuid;

use super::model::{HoldKey, HoldRow, NewEntry};
use crate::ledger::decide::CounterRef;

/// A hold row for an id that had none.
#[derive(Debug, Serialize)]
pub struct HoldRecord<'a> {
    org: &'a str,
    hold_id: Uuid,
    team: &'a str,
    user_name: &'a str,
    provider: &'a str,
    model: &'a str,
    api: &'a str,
    state: &'static str,
    held_nanousd: i64,
    counters: &'a [CounterRef],
}

impl<'a> HoldRecord<'a> {
    /// The row for `key`.
    pub fn new((org, hold_id): &'a HoldKey, row: &'a HoldRow) -> Self {
        Self {
            org,
            hold_id: *hold_id,
            team: &row.subject.team,
            user_name: &row.subject.user,
            provider: &row.subject.provider,
            model: &row.subject.model,
            api: &row.subject.api,
            state: row.state.as_str(),
            held_nanousd: row.held_nanousd,
            counters: &row.counters,
        }
    }
}

/// Makes closed hold rows; those that exist stay as they are.
pub const INSERT_HOLDS: &str = "
    insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd, counters,
                       held_at, expires_at, closed_at)
    select r.org, r.hold_id, r.team, r.user_name, r.provider, r.model, r.api, r.state, r.held_nanousd, r.counters,
           now(), now(), now()
      from jsonb_to_recordset($1) as r (org text, hold_id uuid, team text, user_name text, provider text,
           model text, api text, state text, held_nanousd bigint, counters jsonb)
     order by r.org, r.hold_id
    on conflict do nothing";

/// A row of `llm_requests`.
#[derive(Debug, Serialize)]
pub struct EntryRecord<'a> {
    org: &'a str,
    hold_id: Uuid,
    entry: i32,
    team: &'a str,
    user_name: &'a str,
    provider: &'a str,
    api: &'a str,
    model: &'a str,
    answered_model: Option<&'a str>,
    priced_as: &'a str,
    price_match: &'a str,
    price_effective_from: Option<String>,
    response_id: Option<&'a str>,
    cost_nanousd: i64,
    held_nanousd: i64,
    cause: &'static str,
    admission: &'static str,
    usage_quality: &'static str,
    #[serde(flatten)]
    usage: Usage,
    stream: bool,
    http_status: u16,
    ending: &'static str,
    duration_ms: Option<i64>,
    first_byte_ms: Option<i64>,
    occurred_at: String,
    recorded_at: String,
    counters: &'a [CounterRef],
}

/// Inserts ledger entries.
pub const INSERT_ENTRIES: &str = "
    insert into llm_requests (org, hold_id, entry, team, user_name, provider, api, model, answered_model, priced_as,
        price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause, admission, usage_quality,
        input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
        reasoning_tokens, stream, http_status, ending, duration_ms, first_byte_ms, occurred_at, recorded_at, counters)
    select org, hold_id, entry, team, user_name, provider, api, model, answered_model, priced_as,
        price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause, admission, usage_quality,
        input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
        reasoning_tokens, stream, http_status, ending, duration_ms, first_byte_ms, occurred_at, recorded_at, counters
      from jsonb_populate_recordset(null::llm_requests, $1)";

/// The records of some entries.
///
/// # Errors
/// The text of what can't be stored: an instant outside the calendar.
pub fn entries(entries: &[NewEntry], now_unix_us: i64) -> Result<Vec<EntryRecord<'_>>, String> {
    let recorded_at = instant(now_unix_us)?.to_string();
    entries
        .iter()
        .map(|entry| {
            let charge = entry.charge.as_ref();
            let price_effective_from = charge
                .and_then(|charge| charge.price_effective_from_unix_s)
                .map(|unix_s| instant(unix_s.saturating_mul(1_000_000)).map(|at| at.to_string()))
                .transpose()?;
            Ok(EntryRecord {
                org: &entry.key.0,
                hold_id: entry.key.1,
                entry: entry.entry,
                team: &entry.subject.team,
                user_name: &entry.subject.user,
                provider: &entry.subject.provider,
                api: &entry.subject.api,
                model: &entry.subject.model,
                answered_model: entry.facts.answered_model.as_deref(),
                priced_as: charge.map_or("", |charge| charge.priced_as.as_str()),
                price_match: charge.map_or("", |charge| charge.price_match),
                price_effective_from,
                response_id: entry.facts.response_id.as_deref(),
                cost_nanousd: entry.cost_nanousd,
                held_nanousd: entry.held_nanousd,
                cause: entry.cause,
                admission: entry.facts.admission,
                usage_quality: entry.facts.usage_quality,
                usage: entry.facts.usage,
                stream: entry.facts.stream,
                http_status: entry.facts.http_status,
                ending: entry.facts.ending,
                duration_ms: entry.facts.duration_ms,
                first_byte_ms: entry.facts.first_byte_ms,
                occurred_at: instant(entry.occurred_at_unix_us)?.to_string(),
                recorded_at: recorded_at.clone(),
                counters: &entry.counters,
            })
        })
        .collect()
}

fn instant(unix_us: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(unix_us).map_err(|error| format!("instant {unix_us} us: {error}"))
}

/// What a batch adds to one row of `cost_daily_summary`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct SummaryRecord {
    org: String,
    day: String,
    team: String,
    user_name: String,
    provider: String,
    model: String,
    api: String,
    requests: i64,
    estimated_requests: i64,
    input_tokens: i64,
    cached_input_tokens: i64,
    cache_write_5m_tokens: i64,
    cache_write_1h_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    cost_nanousd: i64,
}

/// Adds to the summary, row by row in key order.
pub const UPSERT_SUMMARY: &str = "
    insert into cost_daily_summary as s
    select r.* from jsonb_to_recordset($1) as r (org text, day date, team text, user_name text, provider text,
           model text, api text, requests bigint, estimated_requests bigint, input_tokens bigint,
           cached_input_tokens bigint, cache_write_5m_tokens bigint, cache_write_1h_tokens bigint,
           output_tokens bigint, reasoning_tokens bigint, cost_nanousd bigint)
     order by r.org, r.day, r.team, r.user_name, r.provider, r.model, r.api
    on conflict (org, day, team, user_name, provider, model, api) do update set
        requests = s.requests + excluded.requests,
        estimated_requests = s.estimated_requests + excluded.estimated_requests,
        input_tokens = s.input_tokens + excluded.input_tokens,
        cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_5m_tokens = s.cache_write_5m_tokens + excluded.cache_write_5m_tokens,
        cache_write_1h_tokens = s.cache_write_1h_tokens + excluded.cache_write_1h_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        cost_nanousd = s.cost_nanousd + excluded.cost_nanousd";

/// Sums entries by UTC day, payer, provider, model and API, in key order. A correction adds to cost
/// and tokens and not to the number of requests; one that replaces an expiry makes it exact again.
///
/// # Errors
/// The text of what can't be stored: an instant outside the calendar.
pub fn summary(entries: &[NewEntry]) -> Result<Vec<SummaryRecord>, String> {
    let mut sums: BTreeMap<[&str; 7], SummaryRecord> = BTreeMap::new();
    let days: Vec<String> = entries
        .iter()
        .map(|entry| Ok(instant(entry.occurred_at_unix_us)?.strftime("%Y-%m-%d").to_string()))
        .collect::<Result<_, String>>()?;
    for (entry, day) in entries.iter().zip(&days) {
        let subject = &entry.subject;
        let key = [
            entry.key.0.as_str(),
            day,
            &subject.team,
            &subject.user,
            &subject.provider,
            &subject.model,
            &subject.api,
        ];
        add(sums.entry(key).or_default(), entry);
    }
    Ok(sums
        .into_iter()
        .map(|([org, day, team, user_name, provider, model, api], sum)| SummaryRecord {
            org: org.to_owned(),
            day: day.to_owned(),
            team: team.to_owned(),
            user_name: user_name.to_owned(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            api: api.to_owned(),
            ..sum
        })
        .collect())
}

fn add(sum: &mut SummaryRecord, entry: &NewEntry) {
    let usage = &entry.facts.usage;
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let first = entry.entry == 0;
    let estimated = entry.cause != "settled";
    sum.requests = sum.requests.saturating_add(i64::from(first));
    sum.estimated_requests = sum.estimated_requests.saturating_add(match (first, estimated) {
        (true, true) => 1,
        (false, false) => -1,
        _ => 0,
    });
    for (total, count) in [
        (&mut sum.input_tokens, usage.input_tokens),
        (&mut sum.cached_input_tokens, usage.cached_input_tokens),
        (&mut sum.cache_write_5m_tokens, usage.cache_write_5m_tokens),
        (&mut sum.cache_write_1h_tokens, usage.cache_write_1h_tokens),
        (&mut sum.output_tokens, usage.output_tokens),
        (&mut sum.reasoning_tokens, usage.reasoning_tokens),
    ] {
        *total = total.saturating_add(tokens(count));
    }
    sum.cost_nanousd = sum.cost_nanousd.saturating_add(entry.cost_nanousd);
}
