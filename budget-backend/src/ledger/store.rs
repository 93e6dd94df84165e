//! The SQL of the hot path. Async, over the sqlx pool; the tracker has its own, over `postgres`.
//!
//! Lock order, for every writer of these tables: counters by primary key, then holds by primary key,
//! then summary rows by primary key. Counters that don't exist yet are inserted first, sorted, in a
//! transaction of their own. Hot tables carry no foreign keys. So no two writers can wait for each
//! other in a circle.

use std::collections::BTreeSet;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use super::decide::{Counter, CounterKey, CounterRef, Counters, KnownHold, KnownHolds};
use crate::budget::{Budget, Scope};

/// The budgets of some scopes, as of one statement.
pub struct BudgetsRead {
    /// The database's clock, microseconds since the Unix epoch.
    pub now_unix_us: i64,
    /// Each org's count of edits, to be checked again when the decision is written.
    pub versions: Vec<(String, i64)>,
    /// The active budgets.
    pub budgets: Vec<Budget>,
}

/// A hold to open.
pub struct NewHold {
    /// The organisation.
    pub org: String,
    /// The hold's id.
    pub hold_id: Uuid,
    /// The team, or `""`.
    pub team: String,
    /// The user, or `""`.
    pub user: String,
    /// Who bills.
    pub provider: String,
    /// The model asked for.
    pub model: String,
    /// The API spoken.
    pub api: &'static str,
    /// What is held, nano-USD.
    pub held_nanousd: i64,
    /// Where it counts.
    pub counters: Vec<CounterRef>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything is written; commit.
    All,
    /// A budget was edited since it was read; read again and decide again.
    Stale,
    /// A hold with one of these ids exists; read those and decide again.
    Clash,
}

/// Reads the active budgets of `scopes`, with the database's clock.
pub async fn read_budgets(conn: &mut PgConnection, scopes: &BTreeSet<Scope>) -> sqlx::Result<BudgetsRead> {
    let orgs: Vec<&str> = scopes.iter().map(|scope| scope.org.as_str()).collect();
    let teams: Vec<&str> = scopes.iter().map(|scope| scope.team.as_str()).collect();
    let users: Vec<&str> = scopes.iter().map(|scope| scope.user.as_str()).collect();
    let rows = sqlx::query(
        "select s.org, s.team, s.user_name, coalesce(v.version, 0) as version,
                (extract(epoch from now()) * 1000000)::bigint as now_us,
                b.budget_id, b.window_kind, b.time_zone, b.limit_nanousd
           from unnest($1::text[], $2::text[], $3::text[]) as s (org, team, user_name)
           left join budget_versions v on v.org = s.org
           left join budgets b on b.org = s.org and b.team = s.team and b.user_name = s.user_name
                              and b.archived_at is null",
    )
    .bind(&orgs)
    .bind(&teams)
    .bind(&users)
    .fetch_all(conn)
    .await?;
    let mut read = BudgetsRead { now_unix_us: 0, versions: Vec::new(), budgets: Vec::new() };
    let mut versions = BTreeSet::new();
    for row in &rows {
        read.now_unix_us = row.try_get("now_us")?;
        versions.insert((row.try_get::<String, _>("org")?, row.try_get::<i64, _>("version")?));
        if let Some(budget_id) = row.try_get::<Option<i64>, _>("budget_id")? {
            read.budgets.push(budget(row, budget_id)?);
        }
    }
    read.versions = versions.into_iter().collect();
    Ok(read)
}

fn budget(row: &PgRow, budget_id: i64) -> sqlx::Result<Budget> {
    let scope =
        Scope { org: row.try_get("org")?, team: row.try_get("team")?, user: row.try_get("user_name")? };
    let limit_nanousd = row.try_get("limit_nanousd")?;
    Budget::from_columns(
        budget_id,
        scope,
        row.try_get("window_kind")?,
        row.try_get("time_zone")?,
        limit_nanousd,
    )
    .map_err(|problem| sqlx::Error::Decode(problem.into()))
}

/// The key columns of counters, one array each, as SQL wants them.
pub struct KeyColumns<'a> {
    /// `org`.
    pub orgs: Vec<&'a str>,
    /// `budget_id`.
    pub budget_ids: Vec<i64>,
    /// `subject`.
    pub subjects: Vec<&'a str>,
    /// `period_start`, Unix seconds.
    pub periods: Vec<i64>,
}

impl<'a> KeyColumns<'a> {
    /// Splits keys into columns.
    pub fn new(keys: impl IntoIterator<Item = &'a CounterKey>) -> Self {
        let mut columns =
            Self { orgs: Vec::new(), budget_ids: Vec::new(), subjects: Vec::new(), periods: Vec::new() };
        for key in keys {
            columns.orgs.push(&key.org);
            columns.budget_ids.push(key.counter.budget_id);
            columns.subjects.push(&key.counter.subject);
            columns.periods.push(key.counter.period_start_unix_s);
        }
        columns
    }
}

/// Locks counters in key order and reads them. The same text serves the tracker.
pub const LOCK_COUNTERS: &str = "
    select c.org, c.budget_id, c.subject, extract(epoch from c.period_start)::bigint as period_unix_s,
           c.spent_nanousd, c.held_nanousd
      from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
      join budget_counters c on c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                            and c.period_start = to_timestamp(k.period_unix_s)
     order by c.org, c.budget_id, c.subject, c.period_start
       for update of c";

/// Makes counters that don't exist yet, in key order, starting from what the ledger says their payer
/// has spent in the running period. The same text serves the tracker.
pub const INSERT_COUNTERS: &str = "
    insert into budget_counters (org, budget_id, subject, period_start, spent_nanousd)
    select k.org, k.budget_id, k.subject, to_timestamp(k.period_unix_s), coalesce((
               select sum(r.cost_nanousd)
                 from llm_requests r
                where r.org = k.org and r.occurred_at >= to_timestamp(k.period_unix_s)
                  and case b.team when '' then true when '*' then r.team = k.subject else r.team = b.team end
                  and case b.user_name when '' then true when '*' then r.user_name = k.subject
                                       else r.user_name = b.user_name end), 0)
      from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
      join budgets b on b.org = k.org and b.budget_id = k.budget_id
     order by k.org, k.budget_id, k.subject, k.period_unix_s
    on conflict do nothing";

/// Locks `keys` in order and reads them; fewer come back when some don't exist yet.
pub async fn lock_counters(conn: &mut PgConnection, keys: &BTreeSet<CounterKey>) -> sqlx::Result<Counters> {
    let columns = KeyColumns::new(keys);
    let rows = sqlx::query(LOCK_COUNTERS)
        .bind(&columns.orgs)
        .bind(&columns.budget_ids)
        .bind(&columns.subjects)
        .bind(&columns.periods)
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            let counter = CounterRef {
                budget_id: row.try_get("budget_id")?,
                subject: row.try_get("subject")?,
                period_start_unix_s: row.try_get("period_unix_s")?,
            };
            let standing = Counter {
                spent_nanousd: row.try_get("spent_nanousd")?,
                held_nanousd: row.try_get("held_nanousd")?,
            };
            Ok((CounterKey { org: row.try_get("org")?, counter }, standing))
        })
        .collect()
}

/// Makes missing counters, in a transaction of its own: inserting while other counters are locked
/// would take locks out of order.
pub async fn insert_counters(pool: &PgPool, keys: &BTreeSet<CounterKey>) -> sqlx::Result<()> {
    let columns = KeyColumns::new(keys);
    sqlx::query(INSERT_COUNTERS)
        .bind(&columns.orgs)
        .bind(&columns.budget_ids)
        .bind(&columns.subjects)
        .bind(&columns.periods)
        .execute(pool)
        .await?;
    Ok(())
}

/// Which of these ids have a row already.
pub async fn known_holds(
    conn: &mut PgConnection,
    ids: &BTreeSet<(String, Uuid)>,
) -> sqlx::Result<KnownHolds> {
    let (orgs, hold_ids): (Vec<&str>, Vec<Uuid>) = ids.iter().map(|(org, id)| (org.as_str(), *id)).unzip();
    let rows = sqlx::query(
        "select h.org, h.hold_id, h.state = 'open' as open, h.held_nanousd
           from unnest($1::text[], $2::uuid[]) as k (org, hold_id)
           join holds h using (org, hold_id)",
    )
    .bind(&orgs)
    .bind(&hold_ids)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let known = KnownHold { open: row.try_get("open")?, held_nanousd: row.try_get("held_nanousd")? };
            Ok(((row.try_get("org")?, row.try_get("hold_id")?), known))
        })
        .collect()
}

/// Writes a batch's grants in one statement: raises the counters (already locked) and opens the
/// holds, unless a budget was edited since `read`.
pub async fn write(
    conn: &mut PgConnection,
    read: &BudgetsRead,
    holds: &[NewHold],
    hold_ttl_s: i64,
) -> sqlx::Result<Written> {
    let raises: Vec<(CounterKey, i64)> = raises(holds);
    let columns = KeyColumns::new(raises.iter().map(|(key, _)| key));
    let added: Vec<i64> = raises.iter().map(|(_, added)| *added).collect();
    let (orgs, versions): (Vec<&str>, Vec<i64>) =
        read.versions.iter().map(|(org, v)| (org.as_str(), *v)).unzip();
    let text = |of: fn(&NewHold) -> &str| holds.iter().map(of).collect::<Vec<&str>>();
    let row = sqlx::query(WRITE)
        .bind(&orgs)
        .bind(&versions)
        .bind(&columns.orgs)
        .bind(&columns.budget_ids)
        .bind(&columns.subjects)
        .bind(&columns.periods)
        .bind(&added)
        .bind(text(|hold| &hold.org))
        .bind(holds.iter().map(|hold| hold.hold_id).collect::<Vec<_>>())
        .bind(text(|hold| &hold.team))
        .bind(text(|hold| &hold.user))
        .bind(text(|hold| &hold.provider))
        .bind(text(|hold| &hold.model))
        .bind(text(|hold| hold.api))
        .bind(holds.iter().map(|hold| hold.held_nanousd).collect::<Vec<_>>())
        .bind(holds.iter().map(|hold| sqlx::types::Json(hold.counters.as_slice())).collect::<Vec<_>>())
        .bind(read.now_unix_us)
        .bind(hold_ttl_s)
        .fetch_one(conn)
        .await?;
    let opened: i64 = row.try_get("opened")?;
    Ok(if !row.try_get::<bool, _>("fresh")? {
        Written::Stale
    } else if usize::try_from(opened) != Ok(holds.len()) {
        Written::Clash
    } else {
        Written::All
    })
}

fn raises(holds: &[NewHold]) -> Vec<(CounterKey, i64)> {
    let mut raises: std::collections::BTreeMap<CounterKey, i64> = std::collections::BTreeMap::new();
    for hold in holds {
        for counter in &hold.counters {
            let key = CounterKey { org: hold.org.clone(), counter: counter.clone() };
            let sum = raises.entry(key).or_default();
            // Bounded by the limits the decision checked.
            *sum = sum.saturating_add(hold.held_nanousd);
        }
    }
    raises.into_iter().collect()
}

const WRITE: &str = "
    with fresh as (
        select not exists (
            select from unnest($1::text[], $2::bigint[]) as s (org, version)
              left join budget_versions v on v.org = s.org
             where coalesce(v.version, 0) <> s.version) as yes
    ), raised as (
        update budget_counters c set held_nanousd = c.held_nanousd + k.added
          from unnest($3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
               as k (org, budget_id, subject, period_unix_s, added)
         where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
           and c.period_start = to_timestamp(k.period_unix_s) and (select yes from fresh)
    ), opened as (
        insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd,
                           counters, held_at, expires_at)
        select h.org, h.hold_id, h.team, h.user_name, h.provider, h.model, h.api, 'open', h.held_nanousd,
               h.counters, timestamptz 'epoch' + $17 * interval '1 microsecond',
               timestamptz 'epoch' + $17 * interval '1 microsecond' + $18 * interval '1 second'
          from unnest($8::text[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::text[],
                      $14::text[], $15::bigint[], $16::jsonb[])
               as h (org, hold_id, team, user_name, provider, model, api, held_nanousd, counters)
         where (select yes from fresh)
         order by h.org, h.hold_id
        on conflict do nothing
        returning 1
    )
    select (select yes from fresh) as fresh, (select count(*) from opened) as opened";
