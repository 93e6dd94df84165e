//! The rows the tracker inserts, as the JSON records its statements take.

use std::collections::BTreeMap;

use jiff::Timestamp;
use postgres::types::ToSql;
use purser_protocol::Usage;
use serde::Serialize;
use uuid::Uuid;

use super::model::{Effects, HoldKey, HoldRow, NewEntry};
use crate::ledger::counters::KeyColumns;
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
    price_id: Option<i64>,
    price_flag: &'static str,
    unpriced: &'a [String],
    response_id: Option<&'a str>,
    cost_nanousd: i64,
    held_nanousd: i64,
    cause: &'static str,
    admission: &'static str,
    usage_quality: &'static str,
    #[serde(flatten)]
    usage: Usage,
    units: &'a BTreeMap<String, u64>,
    service_tier: Option<&'a str>,
    reported_cost_nanousd: Option<i64>,
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
    asked_model: Option<&'a str>,
    clamped_to_tokens: Option<i64>,
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
                price_id: charge.and_then(|charge| charge.price_id),
                price_flag: charge.map_or("", |charge| charge.price_flag),
                unpriced: charge.map_or(&[], |charge| &charge.unpriced),
                response_id: entry.facts.response_id.as_deref(),
                cost_nanousd: entry.cost_nanousd,
                held_nanousd: entry.held_nanousd,
                cause: entry.cause,
                admission: entry.facts.admission,
                usage_quality: entry.facts.usage_quality,
                usage: entry.facts.usage,
                units: &entry.facts.units,
                service_tier: entry.facts.service_tier.as_deref(),
                reported_cost_nanousd: entry.facts.reported_cost_nanousd,
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
                asked_model: entry.cheaper.asked_model.as_deref(),
                clamped_to_tokens: entry.cheaper.clamped_to_tokens,
            })
        })
        .collect()
}

/// Adds ledger entries in key order; those whose number is taken already are not added, which the number of
/// rows tells.
pub const ENTER: &str = "
    insert into llm_requests (org, hold_id, entry, team, user_name, provider, api, model, answered_model,
        priced_as, price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause, admission,
        usage_quality, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
        output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, image_input_tokens,
        image_output_tokens, units, service_tier, price_id, price_flag, unpriced, reported_cost_nanousd,
        stream, http_status, ending, duration_ms, first_byte_ms, occurred_at, recorded_at, counters, tags,
        override_id, asked_model, clamped_to_tokens)
    select org, hold_id, entry, team, user_name, provider, api, model, answered_model,
        priced_as, price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause, admission,
        usage_quality, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
        output_tokens, reasoning_tokens, coalesce(audio_input_tokens, 0), coalesce(audio_output_tokens, 0),
        coalesce(image_input_tokens, 0), coalesce(image_output_tokens, 0), units, service_tier, price_id,
        price_flag, unpriced, reported_cost_nanousd,
        stream, http_status, ending, duration_ms, first_byte_ms, occurred_at, recorded_at, counters, tags,
        override_id, asked_model, clamped_to_tokens
      from jsonb_populate_recordset(null::llm_requests, $1)
     order by org, hold_id, entry
    on conflict do nothing";

/// Changes holds and counters. All of them are locked already, so that the order within it doesn't matter.
pub const CHANGE: &str = "
    with changed as (
        update holds h
           set state = k.state, expires_at = timestamptz 'epoch' + k.expires_us * interval '1 microsecond',
               closed_at = case when k.state <> 'open' then now() end
          from unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[]) as k (org, hold_id, state, expires_us)
         where h.org = k.org and h.hold_id = k.hold_id
    )
    update budget_counters c
       set spent_nanousd = c.spent_nanousd + k.spent, held_nanousd = c.held_nanousd + k.held
      from unnest($5::text[], $6::bigint[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[])
           as k (org, budget_id, subject, period_unix_s, spent, held)
     where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
       and c.period_start = to_timestamp(k.period_unix_s)";

/// The parameters of [`CHANGE`].
pub struct ChangeRows<'a> {
    orgs: Vec<&'a str>,
    ids: Vec<Uuid>,
    states: Vec<&'static str>,
    expiries: Vec<i64>,
    counters: KeyColumns<'a>,
    spent: Vec<i64>,
    held: Vec<i64>,
}

impl<'a> ChangeRows<'a> {
    /// Of some effects.
    #[must_use]
    pub fn of(effects: &'a Effects) -> Self {
        let (orgs, ids) = effects.updates.keys().map(|(org, id)| (org.as_str(), *id)).unzip();
        Self {
            orgs,
            ids,
            states: effects.updates.values().map(|update| update.state.as_str()).collect(),
            expiries: effects.updates.values().map(|update| update.expires_at_unix_us).collect(),
            counters: KeyColumns::new(effects.changes.keys()),
            spent: effects.changes.values().map(|change| change.spent_nanousd).collect(),
            held: effects.changes.values().map(|change| change.held_nanousd).collect(),
        }
    }

    /// In the statement's order.
    #[must_use]
    pub fn parameters(&self) -> [&(dyn ToSql + Sync); 10] {
        [
            &self.orgs,
            &self.ids,
            &self.states,
            &self.expiries,
            &self.counters.orgs,
            &self.counters.budget_ids,
            &self.counters.subjects,
            &self.counters.periods,
            &self.spent,
            &self.held,
        ]
    }
}

/// The instant, as text for the database.
pub fn instant(unix_us: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(unix_us).map_err(|error| format!("instant {unix_us} us: {error}"))
}
