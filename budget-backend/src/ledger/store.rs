//! The SQL of the hot path. Async, over the sqlx pool; the tracker has its own, over `postgres`. The
//! lock order is told in [`super::counters`].
//!
//! A batch costs two round trips: begin, lock and read; write and commit. Each is one message of the
//! simple protocol, because only that one carries several statements. It takes no parameters, so the
//! data travels as JSON in hexadecimal digits: whatever a name contains, the statement is made of
//! nothing but our own text and the characters 0 to f.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgExecutor, PgPool, Postgres, Row};
use uuid::Uuid;

use super::counters::{INSERT_COUNTERS, KeyColumns};
use super::decide::{Counter, CounterKey, CounterRef, Counters, Rewritten};
use super::policies::Policies;
use super::policy_rows::read_policies;
use crate::budget::Scope;

/// A hold to open.
#[derive(Debug, Serialize)]
pub struct NewHold<'a> {
    /// The organisation.
    pub org: &'a str,
    /// The hold's id.
    pub hold_id: Uuid,
    /// The team, or `""`.
    pub team: &'a str,
    /// The user, or `""`.
    pub user_name: &'a str,
    /// Who bills.
    pub provider: &'a str,
    /// The model that runs.
    pub model: &'a str,
    /// The model asked for, when it is another.
    pub asked_model: Option<&'a str>,
    /// The output cap that its verdict wrote, tokens per choice.
    pub output_cap_tokens: Option<i64>,
    /// Whether that cap is what a budget could pay.
    pub clamped: bool,
    /// The API spoken.
    pub api: &'static str,
    /// What is held, nano-USD.
    pub held_nanousd: i64,
    /// Where it counts.
    pub counters: Vec<&'a CounterRef>,
    /// Cost tags.
    pub tags: &'a std::collections::BTreeMap<String, String>,
    /// The override without which it would have been refused.
    pub override_id: Option<i64>,
}

/// What a batch found under its locks.
pub struct Locked {
    /// The database's clock, microseconds since the Unix epoch.
    pub now_unix_us: i64,
    /// Each org's count of edits.
    pub versions: Vec<(String, i64)>,
    /// The counters; fewer than were asked for when some don't exist yet.
    pub counters: Counters,
}

/// A hold that exists already.
pub struct FoundHold {
    /// Whether it is still open.
    pub open: bool,
    /// What it reserved, nano-USD.
    pub held_nanousd: i64,
    /// Team, user, provider and model that it was made for; the model as it was asked for.
    pub call: [String; 4],
    /// What its verdict changed.
    pub rewrite: Rewritten,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is committed.
    All,
    /// A hold with one of these ids exists; nothing is written.
    Clash,
}

/// A connection that a lane keeps, with a batch's transaction on it.
pub struct Session(PoolConnection<Postgres>);

impl Session {
    /// Takes a connection from the pool for good.
    pub async fn open(pool: &PgPool) -> sqlx::Result<Self> {
        pool.acquire().await.map(Self)
    }

    /// Gives the connection up, with whatever is under way on it.
    pub async fn discard(self) {
        // What is said on a broken connection is of no interest.
        let _broken = self.0.detach().close_hard().await;
    }

    /// Reads what is set at `scopes` into `policies`; gives back the database's clock, microseconds
    /// since the Unix epoch.
    pub async fn read_policies(
        &mut self,
        scopes: &BTreeSet<Scope>,
        policies: &mut Policies,
    ) -> sqlx::Result<i64> {
        read_policies(&mut self.0, scopes, policies).await
    }

    /// Begins, locks the counters in key order, and reads them and, under the locks, the clock and the
    /// orgs' versions.
    pub async fn lock(&mut self, keys: &BTreeSet<CounterKey>, orgs: &BTreeSet<&str>) -> sqlx::Result<Locked> {
        let keys: Vec<KeyRecord<'_>> = keys.iter().map(KeyRecord::new).collect();
        let sql = lock_message(&literal(&keys)?, &literal(orgs)?);
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *self.0).await?;
        let mut locked = Locked { now_unix_us: 0, versions: Vec::new(), counters: Counters::new() };
        for row in &rows {
            if let Some(now_unix_us) = row.try_get("now_us")? {
                locked.now_unix_us = now_unix_us;
                locked.versions.push((row.try_get("org")?, row.try_get("version")?));
            } else {
                let (key, counter) = counter(row)?;
                locked.counters.insert(key, counter);
            }
        }
        Ok(locked)
    }

    /// Raises the counters, opens the holds, and commits; comes back when that is durable.
    pub async fn write(
        &mut self,
        holds: &[NewHold<'_>],
        held_at_unix_us: i64,
        hold_ttl_s: i64,
    ) -> sqlx::Result<Written> {
        let sql = write_message(&literal(&raises(holds))?, &literal(&holds)?, held_at_unix_us, hold_ttl_s);
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *self.0).await {
            Ok(_) => Ok(Written::All),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                self.roll_back().await?;
                Ok(Written::Clash)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the transaction without having changed anything; comes back when what it saw is durable.
    pub async fn roll_back_and_flush(&mut self) -> sqlx::Result<()> {
        let sql = format!("rollback; {FLUSH}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *self.0).await.map(drop)
    }

    /// Ends the transaction without having changed anything.
    pub async fn roll_back(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("rollback").execute(&mut *self.0).await.map(drop)
    }

    /// Makes missing counters, in a transaction of its own.
    pub async fn insert_counters(&mut self, keys: &BTreeSet<CounterKey>) -> sqlx::Result<()> {
        insert_counters(&mut *self.0, keys).await
    }

    /// Which of these ids have a row already.
    pub async fn known_holds(
        &mut self,
        ids: &BTreeSet<(&str, Uuid)>,
    ) -> sqlx::Result<HashMap<(String, Uuid), FoundHold>> {
        known_holds(&mut self.0, ids).await
    }
}

pub(super) fn counter(row: &PgRow) -> sqlx::Result<(CounterKey, Counter)> {
    let counter = CounterRef {
        budget_id: row.try_get("budget_id")?,
        subject: row.try_get("subject")?,
        period_start_unix_s: row.try_get("period_unix_s")?,
    };
    let standing = Counter {
        spent_nanousd: row.try_get("spent_nanousd")?,
        held_nanousd: row.try_get("held_nanousd")?,
        topped_up_nanousd: row.try_get("topped_up_nanousd")?,
    };
    Ok((CounterKey { org: row.try_get("org")?, counter }, standing))
}

/// Data as an SQL expression of type `json`.
fn literal(data: &impl Serialize) -> sqlx::Result<String> {
    let json = serde_json::to_vec(data).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let mut text = String::with_capacity(json.len().saturating_mul(2).saturating_add(48));
    text.push_str("convert_from(decode('");
    for byte in json {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }));
        }
    }
    text.push_str("', 'hex'), 'UTF8')::json");
    Ok(text)
}

#[derive(Serialize)]
struct KeyRecord<'a> {
    org: &'a str,
    budget_id: i64,
    subject: &'a str,
    period_unix_s: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<i64>,
}

impl<'a> KeyRecord<'a> {
    fn new(key: &'a CounterKey) -> Self {
        Self::raising(&key.org, &key.counter, None)
    }

    fn raising(org: &'a str, counter: &'a CounterRef, added: Option<i64>) -> Self {
        Self {
            org,
            budget_id: counter.budget_id,
            subject: &counter.subject,
            period_unix_s: counter.period_start_unix_s,
            added,
        }
    }
}

/// What the holds add to each counter.
fn raises<'a>(holds: &'a [NewHold<'a>]) -> Vec<KeyRecord<'a>> {
    let mut raises: std::collections::BTreeMap<(&str, &CounterRef), i64> = std::collections::BTreeMap::new();
    for hold in holds {
        for counter in &hold.counters {
            let sum = raises.entry((hold.org, counter)).or_default();
            // The decision saw to it that the sums fit.
            *sum = sum.saturating_add(hold.held_nanousd);
        }
    }
    raises.into_iter().map(|((org, counter), added)| KeyRecord::raising(org, counter, Some(added))).collect()
}

/// Every join here is from a handful of keys to their rows by primary key. Said to the planner, since it
/// would scan whole tables by what it guesses of ones it has no statistics of yet.
const PLANS: &str =
    "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off;";

/// The second select is a statement of its own, so that it sees what was committed while the first
/// waited for its locks.
fn lock_message(keys: &str, orgs: &str) -> String {
    format!(
        "begin;
         {PLANS}
         select null::bigint as now_us, c.org, c.budget_id, c.subject,
                extract(epoch from c.period_start)::bigint as period_unix_s,
                c.spent_nanousd, c.held_nanousd, c.topped_up_nanousd
           from json_to_recordset({keys}) as k (org text, budget_id bigint, subject text, period_unix_s bigint)
           join budget_counters c on c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                                 and c.period_start = to_timestamp(k.period_unix_s)
          order by c.org, c.budget_id, c.subject, c.period_start
            for update of c;
         select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now_us, o.org,
                coalesce(v.version, 0) as version
           from json_array_elements_text({orgs}) as o (org)
           left join budget_versions v on v.org = o.org"
    )
}

fn write_message(raises: &str, holds: &str, held_at_unix_us: i64, hold_ttl_s: i64) -> String {
    format!(
        "with raised as (
             update budget_counters c set held_nanousd = c.held_nanousd + k.added
               from json_to_recordset({raises})
                    as k (org text, budget_id bigint, subject text, period_unix_s bigint, added bigint)
              where c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                and c.period_start = to_timestamp(k.period_unix_s)
         )
         insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd,
                            counters, tags, override_id, asked_model, output_cap_tokens, clamped, held_at,
                            expires_at)
         select h.org, h.hold_id, h.team, h.user_name, h.provider, h.model, h.api, 'open', h.held_nanousd,
                h.counters, h.tags, h.override_id, h.asked_model, h.output_cap_tokens, h.clamped, t.held_at,
                t.held_at + {hold_ttl_s} * interval '1 second'
           from json_to_recordset({holds})
                as h (org text, hold_id uuid, team text, user_name text, provider text, model text, api text,
                      held_nanousd bigint, counters jsonb, tags jsonb, override_id bigint, asked_model text,
                      output_cap_tokens bigint, clamped boolean),
                (values (timestamptz 'epoch' + {held_at_unix_us} * interval '1 microsecond')) as t (held_at)
          order by h.org, h.hold_id;
         set local synchronous_commit = off;
         commit;
         {FLUSH}"
    )
}

/// Comes back when all that was committed before is on the disk. A batch commits without waiting for that,
/// so that its locks are free meanwhile, and is answered after it. Whoever saw its rows in between commits
/// later in the same log, and so can't outlive it.
const FLUSH: &str = "select pg_logical_emit_message(true, 'purser', '')";

/// Makes missing counters, in a transaction of its own.
pub async fn insert_counters(conn: impl PgExecutor<'_>, keys: &BTreeSet<CounterKey>) -> sqlx::Result<()> {
    let columns = KeyColumns::new(keys);
    sqlx::query(INSERT_COUNTERS)
        .bind(&columns.orgs)
        .bind(&columns.budget_ids)
        .bind(&columns.subjects)
        .bind(&columns.periods)
        .execute(conn)
        .await?;
    Ok(())
}

async fn known_holds(
    conn: &mut PgConnection,
    ids: &BTreeSet<(&str, Uuid)>,
) -> sqlx::Result<HashMap<(String, Uuid), FoundHold>> {
    let (orgs, hold_ids): (Vec<&str>, Vec<Uuid>) = ids.iter().copied().unzip();
    let rows = sqlx::query(
        "select h.org, h.hold_id, h.state = 'open' as open, h.held_nanousd, h.team, h.user_name, h.provider, h.model,
                h.asked_model, h.output_cap_tokens, h.clamped
           from unnest($1::text[], $2::uuid[]) as k (org, hold_id)
           join holds h using (org, hold_id)",
    )
    .bind(&orgs)
    .bind(&hold_ids)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let (ran, asked): (String, Option<String>) = (row.try_get("model")?, row.try_get("asked_model")?);
            let cap: Option<i64> = row.try_get("output_cap_tokens")?;
            let rewrite = Rewritten {
                model: asked.as_ref().map(|_| ran.clone()),
                output_cap_tokens: cap.and_then(|cap| u64::try_from(cap).ok()),
                clamped: row.try_get("clamped")?,
            };
            let model = asked.unwrap_or(ran);
            let found = FoundHold {
                open: row.try_get("open")?,
                held_nanousd: row.try_get("held_nanousd")?,
                call: [row.try_get("team")?, row.try_get("user_name")?, row.try_get("provider")?, model],
                rewrite,
            };
            Ok(((row.try_get("org")?, row.try_get("hold_id")?), found))
        })
        .collect()
}
