//! Writes refused calls. A transaction of its own, rows in key order, and no other lock.

use std::collections::BTreeMap;

use postgres::types::Json;
use serde::Serialize;
use uuid::Uuid;

use super::denials::Denial;
use super::records::instant;
use super::session::{Open, Session};
use super::store::StepError;

/// Refusals of an org in an hour beyond which no more are kept. Several replicas may pass it by what they
/// kept in a second.
const MAX_HOUR_ROWS: i64 = 10_000;

/// Microseconds in an hour.
const HOUR_US: i64 = 3_600_000_000;

/// Adds refusals, as far as their org and hour have room.
///
/// # Errors
/// [`StepError`]; nothing was written, unless the connection broke while it was committed.
pub fn add_denials(session: &mut Session, denials: &[Denial]) -> Result<(), StepError> {
    let mut open = session.begin()?;
    let mut room = rooms(&mut open, denials)?;
    let admitted = denials.iter().filter(|denial| {
        let left = room.entry(place(denial)).or_default();
        *left = left.saturating_sub(1);
        *left >= 0
    });
    let records = admitted.map(record).collect::<Result<Vec<_>, String>>().map_err(StepError::Data)?;
    open.execute(INSERT, &[&Json(&records)])?;
    Ok(open.commit()?)
}

type Rooms<'a> = BTreeMap<(&'a str, i64), i64>;

/// An org and the first instant of an hour.
fn place(denial: &Denial) -> (&str, i64) {
    (&denial.payer.org, denial.at_unix_us.div_euclid(HOUR_US).saturating_mul(HOUR_US))
}

/// How many more each org and hour may have.
fn rooms<'a>(open: &mut Open<'_>, denials: &'a [Denial]) -> Result<Rooms<'a>, StepError> {
    let mut rooms: Rooms<'a> = denials.iter().map(|denial| (place(denial), 0)).collect();
    let (orgs, hours): (Vec<&str>, Vec<i64>) = rooms.keys().copied().unzip();
    let counted = open.query(
        "select $3 - n.rows
           from unnest($1::text[], $2::bigint[]) with ordinality as k (org, hour_us, i)
          cross join lateral (select timestamptz 'epoch' + k.hour_us * interval '1 microsecond' as at) as h
          cross join lateral (
              select count(*) as rows
                from (select from denials
                       where org = k.org and denied_at >= h.at and denied_at < h.at + interval '1 hour'
                       limit $3) as d) as n
          order by k.i",
        &[&orgs, &hours, &MAX_HOUR_ROWS],
    )?;
    for (room, row) in rooms.values_mut().zip(&counted) {
        *room = row.try_get(0)?;
    }
    Ok(rooms)
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    org: &'a str,
    hold_id: Uuid,
    denied_at: String,
    team: &'a str,
    user_name: &'a str,
    provider: &'a str,
    model: &'a str,
    api: &'static str,
    reason: &'static str,
    calls: i64,
    budget_id: i64,
    tier: &'static str,
    window_kind: &'static str,
    limit_nanousd: Option<i64>,
    spent_nanousd: Option<i64>,
    held_nanousd: Option<i64>,
    needed_nanousd: Option<i64>,
    resets_at: Option<&'a str>,
    message: &'a str,
}

fn record(denial: &Denial) -> Result<Record<'_>, String> {
    let budget = denial.deny.budget.as_ref();
    Ok(Record {
        org: &denial.payer.org,
        hold_id: denial.hold_id,
        denied_at: instant(denial.at_unix_us)?.to_string(),
        team: denial.payer.team.as_deref().unwrap_or_default(),
        user_name: denial.payer.user.as_deref().unwrap_or_default(),
        provider: &denial.call.provider,
        model: &denial.call.model,
        api: denial.call.api.as_str(),
        reason: denial.deny.reason.as_str(),
        calls: denial.calls,
        budget_id: denial.budget_id,
        tier: budget.map_or("", |budget| budget.tier.as_str()),
        window_kind: budget.map_or("", |budget| budget.window.as_str()),
        limit_nanousd: budget.map(|budget| budget.limit_nanousd),
        spent_nanousd: budget.map(|budget| budget.spent_nanousd),
        held_nanousd: budget.map(|budget| budget.held_nanousd),
        needed_nanousd: budget.map(|budget| budget.needed_nanousd),
        resets_at: budget.and_then(|budget| budget.resets_at.as_deref()),
        message: &denial.deny.message,
    })
}

/// A hold that is asked for again and refused again was kept the first time.
const INSERT: &str = "
    insert into denials (org, hold_id, denied_at, team, user_name, provider, model, api, reason, calls, budget_id, tier,
           window_kind, limit_nanousd, spent_nanousd, held_nanousd, needed_nanousd, resets_at, message)
    select org, hold_id, denied_at, team, user_name, provider, model, api, reason, calls, budget_id, tier,
           window_kind, limit_nanousd, spent_nanousd, held_nanousd, needed_nanousd, resets_at, message
      from jsonb_to_recordset($1) as r (org text, hold_id uuid, denied_at timestamptz, team text, user_name text,
           provider text, model text, api text, reason text, calls bigint, budget_id bigint, tier text, window_kind text,
           limit_nanousd bigint, spent_nanousd bigint, held_nanousd bigint, needed_nanousd bigint,
           resets_at timestamptz, message text)
     order by org collate \"C\", hold_id
    on conflict (org, hold_id) do nothing";
