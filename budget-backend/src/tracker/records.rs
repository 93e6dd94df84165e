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
    tags: &'a BTreeMap<String, String>,
    override_id: Option<i64>,
    held_at: String,
}

impl<'a> HoldRecord<'a> {
    /// The row for `key`.
    ///
    /// # Errors
    /// The text of what can't be stored: an instant outside the calendar.
    pub fn new((org, hold_id): &'a HoldKey, row: &'a HoldRow) -> Result<Self, String> {
        Ok(Self {
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
            tags: &row.subject.tags,
            override_id: row.override_id,
            held_at: instant(row.held_at_unix_us)?.to_string(),
        })
    }
}

/// Makes closed hold rows; those that exist stay as they are.
pub const INSERT_HOLDS: &str = "
    insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd, counters,
                       tags, override_id, held_at, expires_at, closed_at)
    select r.org, r.hold_id, r.team, r.user_name, r.provider, r.model, r.api, r.state, r.held_nanousd, r.counters,
           r.tags, r.override_id, r.held_at, now(), now()
      from jsonb_to_recordset($1) as r (org text, hold_id uuid, team text, user_name text, provider text,
           model text, api text, state text, held_nanousd bigint, counters jsonb, tags jsonb, override_id bigint,
           held_at timestamptz)
     order by r.org collate \"C\", r.hold_id
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
    tags: &'a BTreeMap<String, String>,
    override_id: Option<i64>,
}

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
                tags: &entry.subject.tags,
                override_id: entry.override_id,
            })
        })
        .collect()
}

/// The instant, as text for the database.
pub fn instant(unix_us: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(unix_us).map_err(|error| format!("instant {unix_us} us: {error}"))
}
