//! Writes counts of verdicts. A transaction of its own, rows in key order, and no other lock: it can't
//! be part of a deadlock.

use std::collections::BTreeMap;

use postgres::types::Json;
use serde::Serialize;
use uuid::Uuid;

use super::records::instant;
use super::session::{Open, Session};
use super::store::StepError;
use super::verdicts::{VerdictRows, add};

/// Rows of an org and hour beyond which new counts are written without user and model; beyond twice
/// as many, for the org alone. Several replicas may pass them by what they counted in a second.
pub const MAX_HOUR_ROWS: i64 = 10_000;

/// Adds counts to their rows.
///
/// # Errors
/// [`StepError`]; nothing was written, unless the connection broke while it was committed.
pub fn add_verdicts(session: &mut Session, rows: &VerdictRows) -> Result<(), StepError> {
    let mut open = session.begin()?;
    let present = hour_rows(&mut open, rows)?;
    let bounded = bounded(rows, &present);
    let records = bounded.iter().map(|(key, verdicts)| {
        Ok(Record {
            org: &key.org,
            hour: instant(key.hour_unix_us)?.to_string(),
            team: &key.team,
            user_name: &key.user,
            provider: &key.provider,
            model: &key.model,
            outcome: key.outcome.as_str(),
            reason: key.reason,
            budget_id: key.budget_id,
            verdicts: verdicts.verdicts,
            most_needed_nanousd: verdicts.most_needed_nanousd,
            last_hold_id: verdicts.last_hold_id,
            last_at: instant(verdicts.last_at_unix_us)?.to_string(),
        })
    });
    let records = records.collect::<Result<Vec<_>, String>>().map_err(StepError::Data)?;
    open.execute(UPSERT, &[&Json(&records)])?;
    Ok(open.commit()?)
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    org: &'a str,
    hour: String,
    team: &'a str,
    user_name: &'a str,
    provider: &'a str,
    model: &'a str,
    outcome: &'static str,
    reason: &'static str,
    budget_id: i64,
    verdicts: i64,
    most_needed_nanousd: i64,
    last_hold_id: Uuid,
    last_at: String,
}

type Present<'a> = BTreeMap<(&'a str, i64), i64>;

/// How many rows each org and hour has, counted up to the second bound.
fn hour_rows<'a>(open: &mut Open<'_>, rows: &'a VerdictRows) -> Result<Present<'a>, StepError> {
    let mut present: Present<'a> = rows.keys().map(|key| ((key.org.as_str(), key.hour_unix_us), 0)).collect();
    let (orgs, hours): (Vec<&str>, Vec<i64>) = present.keys().copied().unzip();
    let counted = open.query(
        "select n.rows
           from unnest($1::text[], $2::bigint[]) with ordinality as k (org, hour_us, i)
          cross join lateral (
              select count(*) as rows
                from (select from verdicts_hourly
                       where org = k.org and hour = timestamptz 'epoch' + k.hour_us * interval '1 microsecond'
                       limit $3) as v) as n
          order by k.i",
        &[&orgs, &hours, &MAX_HOUR_ROWS.saturating_mul(2)],
    )?;
    for (count, row) in present.values_mut().zip(&counted) {
        *count = row.try_get(0)?;
    }
    Ok(present)
}

/// The rows as they may be written.
fn bounded(rows: &VerdictRows, present: &Present<'_>) -> VerdictRows {
    let mut bounded = VerdictRows::new();
    for (key, verdicts) in rows {
        let present = present.get(&(key.org.as_str(), key.hour_unix_us)).copied().unwrap_or_default();
        let key = match key.clone() {
            key if present < MAX_HOUR_ROWS => key,
            key if present < MAX_HOUR_ROWS.saturating_mul(2) => key.by_team(),
            key => key.by_org(),
        };
        add(&mut bounded, key, *verdicts);
    }
    bounded
}

const UPSERT: &str = "
    insert into verdicts_hourly as s (org, hour, team, user_name, provider, model, outcome, reason, budget_id,
        verdicts, most_needed_nanousd, last_hold_id, last_at)
    select org, hour, team, user_name, provider, model, outcome, reason, budget_id,
           verdicts, most_needed_nanousd, last_hold_id, last_at
      from jsonb_to_recordset($1) as r (org text, hour timestamptz, team text, user_name text, provider text,
           model text, outcome text, reason text, budget_id bigint, verdicts bigint, most_needed_nanousd bigint,
           last_hold_id uuid, last_at timestamptz)
     order by org collate \"C\", hour, team collate \"C\", user_name collate \"C\", provider collate \"C\",
              model collate \"C\", outcome collate \"C\", reason collate \"C\", budget_id
    on conflict (org, hour, team, user_name, provider, model, outcome, reason, budget_id) do update set
        verdicts = s.verdicts + excluded.verdicts,
        most_needed_nanousd = greatest(s.most_needed_nanousd, excluded.most_needed_nanousd),
        last_hold_id = case when excluded.last_at >= s.last_at then excluded.last_hold_id else s.last_hold_id end,
        last_at = greatest(s.last_at, excluded.last_at)";
