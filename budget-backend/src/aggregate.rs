//! Recomputes the rollup of a day from the detail. Sync, over `postgres`, as the tracker.
//!
//! The tracker adds every entry to `usage_hourly` and `cost_daily_summary` in the transaction that
//! inserts it; this gets to the same numbers from the rows, however often it runs. It is alone on its
//! org and day while it does: the tracker takes the day's lock shared, this takes it exclusively,
//! first of all locks as every writer does. So the detail it reads and the rows it writes agree.
//!
//! Only rows that differ are written. The comparison is a full join, which is hashed or merged and
//! never a loop over both sides, whatever the planner believes of their sizes.

use jiff::civil::{Date, date};
use postgres::{Client, Row, Transaction};
use purser_protocol::format_usd;
use serde::{Serialize, Serializer};

use crate::histogram::LATENCY_MS;

/// What is added up, the counts of latencies apart.
pub const SUMS: [&str; 13] = [
    "requests",
    "estimated_requests",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "cost_nanousd",
];

/// The columns that tell rows of one org and day apart, in key order.
const HOURLY_KEY: [&str; 7] = ["hour", "team", "user_name", "provider", "model", "api", "tags"];
const DAILY_KEY: [&str; 6] = ["day", "team", "user_name", "provider", "model", "api"];

/// A large day is not sorted on disk; compiling dozens of small aggregates takes longer than they do.
const PLANNER: &str = "set local work_mem = '64MB'; set local jit = off";

/// How many rows of a table were put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RowChanges {
    /// Rows that were missing.
    pub added: i64,
    /// Rows that had other numbers.
    pub changed: i64,
    /// Rows that no detail stands behind.
    pub removed: i64,
}

impl RowChanges {
    /// Whether every row was right.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What a recomputation found and put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayChange {
    /// The organisation.
    pub org: String,
    /// The UTC day.
    pub day: Date,
    /// Calls of the day.
    pub requests: i64,
    /// What they cost, nano-USD.
    #[serde(rename = "cost_usd", serialize_with = "as_usd")]
    pub cost_nanousd: i64,
    /// In `usage_hourly`.
    pub hourly: RowChanges,
    /// In `cost_daily_summary`.
    pub daily: RowChanges,
}

fn as_usd<S: Serializer>(nanousd: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_usd(*nanousd))
}

/// Why a day was not recomputed. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// Retention dropped detail of that day: recomputed from the rest, its numbers would be too small.
    #[error(
        "{day} can't be recomputed: its detail is no longer whole; the ledger's detail is whole from {whole_from} on"
    )]
    NotWhole {
        /// The day asked for.
        day: Date,
        /// The first day whose detail is whole.
        whole_from: String,
    },
    /// The database refused or was away.
    #[error("{0}")]
    Database(String),
}

impl From<postgres::Error> for AggregateError {
    fn from(error: postgres::Error) -> Self {
        Self::Database(error_text(&error))
    }
}

/// What the database said, with its detail; the driver's own text is only "db error".
pub(crate) fn error_text(error: &postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => said.to_string(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Recomputes one org's UTC day from its detail in one transaction.
///
/// # Errors
/// [`AggregateError`]; then nothing was changed.
pub fn recompute_day(client: &mut Client, org: &str, day: Date) -> Result<DayChange, AggregateError> {
    let mut transaction = client.transaction()?;
    lock_day(&mut transaction, org, day)?;
    require_whole(&mut transaction, day)?;
    transaction.batch_execute(PLANNER)?;
    let day_text = day.to_string();
    let bounds = LATENCY_MS.as_slice();
    let row = transaction.query_one(&recompute_hourly(), &[&org, &day_text, &bounds])?;
    let hourly = changes(&row)?;
    let row = transaction.query_one(&recompute_daily(), &[&org, &day_text])?;
    let daily = changes(&row)?;
    let total = transaction.query_one(
        "select coalesce(sum(requests), 0)::bigint, coalesce(sum(cost_nanousd), 0)::bigint
           from cost_daily_summary where org = $1 and day = $2::text::date",
        &[&org, &day_text],
    )?;
    let (requests, cost_nanousd) = (total.try_get(0)?, total.try_get(1)?);
    transaction.commit()?;
    Ok(DayChange { org: org.to_owned(), day, requests, cost_nanousd, hourly, daily })
}

/// Waits until nobody writes this org's day, and keeps writers out until the transaction ends.
fn lock_day(transaction: &mut Transaction<'_>, org: &str, day: Date) -> Result<(), AggregateError> {
    let number = day.since(date(1970, 1, 1)).map_or(0, |span| span.get_days());
    transaction.execute("select pg_advisory_xact_lock(hashtext($1), $2)", &[&org, &number])?;
    Ok(())
}

/// Refuses a day that lost detail. The share lock keeps retention, which moves the date before it
/// drops anything, from going on until the recomputation is done.
fn require_whole(transaction: &mut Transaction<'_>, day: Date) -> Result<(), AggregateError> {
    let row = transaction.query_one(
        "select $1::text::date >= whole_from, whole_from::text from ledger_coverage for share",
        &[&day.to_string()],
    )?;
    if row.try_get(0)? { Ok(()) } else { Err(AggregateError::NotWhole { day, whole_from: row.try_get(1)? }) }
}

fn changes(row: &Row) -> Result<RowChanges, AggregateError> {
    Ok(RowChanges { added: row.try_get(0)?, changed: row.try_get(1)?, removed: row.try_get(2)? })
}

/// Every pair of org and day, from the days given, that has detail or rollup rows; only `org`'s when
/// one is given.
///
/// # Errors
/// [`AggregateError::Database`].
pub fn orgs_of_days(
    client: &mut Client,
    days: &[Date],
    org: Option<&str>,
) -> Result<Vec<(String, Date)>, AggregateError> {
    let tables = [("llm_requests", "occurred_at"), ("usage_hourly", "hour"), ("cost_daily_summary", "day")];
    let some = tables.map(|(table, column)| {
        let (from, to) = match column {
            "day" => ("d.day", "d.day + 1"),
            _ => ("d.day::timestamp at time zone 'UTC'", "(d.day + 1)::timestamp at time zone 'UTC'"),
        };
        format!("exists (select from {table} t where t.org = o.org and t.{column} >= {from} and t.{column} < {to})")
    });
    // Org by org along the index, since the tables are long and orgs few.
    let orgs = tables.map(|(table, _)| {
        format!(
            "(with recursive orgs as (
                  (select org from {table} order by org limit 1)
                  union all
                  select (select t.org from {table} t where t.org > o.org order by t.org limit 1)
                    from orgs o where o.org is not null)
              select org from orgs where org is not null)"
        )
    });
    let sql = format!(
        "select o.org, d.day::text
           from (select $2::text as org where $2 is not null
                 union select org from ({}) as every where $2 is null) o
          cross join unnest($1::text[]::date[]) as d (day)
          where {}
          order by d.day, o.org",
        orgs.join(" union "),
        some.join(" or ")
    );
    let days: Vec<String> = days.iter().map(ToString::to_string).collect();
    let rows = client.query(&sql, &[&days, &org])?;
    rows.iter()
        .map(|row| {
            let day: &str = row.try_get(1)?;
            let day = day.parse().map_err(|error| AggregateError::Database(format!("day {day}: {error}")))?;
            Ok((row.try_get(0)?, day))
        })
        .collect()
}

/// `usage_hourly` of org `$1` and UTC day `$2` from `llm_requests`; `$3` are the latency bounds.
fn recompute_hourly() -> String {
    let latency: Vec<String> =
        (0..=LATENCY_MS.len()).map(|bucket| format!("count(*) filter (where bucket = {bucket})")).collect();
    let fresh = format!(
        "select hour, team, user_name, provider, model, api, tags,
                count(*) filter (where entry = 0) as requests,
                count(*) filter (where entry = 0 and cause <> 'settled')
                  - count(*) filter (where entry > 0 and cause = 'settled') as estimated_requests,
                {}, array[{}] as latency_counts
           from (select date_trunc('hour', occurred_at, 'UTC') as hour, tags::text collate \"C\" as tags,
                        width_bucket(duration_ms, $3::bigint[]) as bucket, team, user_name, provider, model, api,
                        entry, cause, {}
                   from llm_requests
                  where org = $1 and occurred_at >= $2::text::timestamp at time zone 'UTC'
                    and occurred_at < ($2::text::timestamp + interval '1 day') at time zone 'UTC') entries
          group by hour, team, user_name, provider, model, api, tags",
        sums(&SUMS[2..]),
        latency.join(", "),
        SUMS[2..].join(", "),
    );
    let stored = "select * from usage_hourly
                   where org = $1 and hour >= $2::text::timestamp at time zone 'UTC'
                     and hour < ($2::text::timestamp + interval '1 day') at time zone 'UTC'";
    write_difference("usage_hourly", &HOURLY_KEY, &fresh, stored)
}

/// `cost_daily_summary` of org `$1` and day `$2` from `usage_hourly`.
fn recompute_daily() -> String {
    let fresh = format!(
        "select $2::text::date as day, team, user_name, provider, model, api, {}, {} as latency_counts
           from usage_hourly
          where org = $1 and hour >= $2::text::timestamp at time zone 'UTC'
            and hour < ($2::text::timestamp + interval '1 day') at time zone 'UTC'
          group by team, user_name, provider, model, api",
        sums(&SUMS),
        sum_of_latency_counts(),
    );
    let stored = "select * from cost_daily_summary where org = $1 and day = $2::text::date";
    write_difference("cost_daily_summary", &DAILY_KEY, &fresh, stored)
}

fn sums(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("sum({column})::bigint as {column}")).collect::<Vec<_>>().join(", ")
}

/// An aggregate that adds `latency_counts` up bucket by bucket; rows without counts add nothing.
pub(crate) fn sum_of_latency_counts() -> String {
    let each: Vec<String> = (1..=LATENCY_MS.len().saturating_add(1))
        .map(|element| format!("coalesce(sum(latency_counts[{element}]), 0)::bigint"))
        .collect();
    format!("array[{}]", each.join(", "))
}

/// Makes `table` of org `$1`, as far as `stored` selects it, equal to `fresh`, and counts what was
/// added, changed and removed.
fn write_difference(table: &str, key: &[&str], fresh: &str, stored: &str) -> String {
    let measures: Vec<&str> = SUMS.into_iter().chain(["latency_counts"]).collect();
    let of = |row: &str, columns: &[&str]| {
        columns.iter().map(|column| format!("{row}.{column}")).collect::<Vec<_>>().join(", ")
    };
    let same = |left: &str, right: &str| {
        key.iter()
            .map(|column| format!("{left}.{column} = {right}.{column}"))
            .collect::<Vec<_>>()
            .join(" and ")
    };
    let either: Vec<String> =
        key.iter().map(|column| format!("coalesce(f.{column}, s.{column}) as {column}")).collect();
    let set: Vec<String> = measures.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let (keys, values, first) = (key.join(", "), measures.join(", "), key[0]);
    format!(
        "with differing as materialized (
             select {either}, {fresh_values}, f.{first} is null as surplus, s.{first} is null as missing
               from ({fresh}) f full join ({stored}) s on {joined}
              where f.{first} is null or s.{first} is null or ({fresh_values}) is distinct from ({stored_values})
         ), written as (
             insert into {table} (org, {keys}, {values})
             select $1, {keys}, {values} from differing where not surplus order by {keys}
             on conflict (org, {keys}) do update set {set}
         ), removed as (
             delete from {table} t using differing d where d.surplus and t.org = $1 and {found}
         )
         select count(*) filter (where missing), count(*) filter (where not missing and not surplus),
                count(*) filter (where surplus)
           from differing",
        either = either.join(", "),
        fresh_values = of("f", &measures),
        stored_values = of("s", &measures),
        joined = same("f", "s"),
        set = set.join(", "),
        found = same("t", "d"),
    )
}
