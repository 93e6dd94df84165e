//! The check: one snapshot, sums against what is stored.

use jiff::Timestamp;
use postgres::{Client, IsolationLevel, Row, Transaction};

use super::{Amounts, CounterDifference, Findings, MAX_LISTED, RollupDifference, VerifyError};

/// What the rows say of every counter they name, as `named` and `topped`; of org `$1`, or of all.
/// Summed by set of counters first: there are far fewer sets than rows.
pub(super) const NAMED: &str = "
    sums as (
        select org, counters, sum(cost_nanousd) as spent, 0::numeric as held
          from llm_requests where $1::text is null or org = $1 group by org, counters
        union all
        select org, counters, 0, sum(held_nanousd)
          from holds where state = 'open' and ($1::text is null or org = $1) group by org, counters
    ), named as (
        select s.org, (c ->> 0)::bigint as budget_id, c ->> 1 as subject,
               to_timestamp((c ->> 2)::bigint) as period_start, sum(s.spent) as spent, sum(s.held) as held
          from sums s cross join jsonb_array_elements(s.counters) c
         group by 1, 2, 3, 4
    ), topped as (
        select org, budget_id, subject, period_start, sum(amount_nanousd) as topped_up
          from budget_top_ups where $1::text is null or org = $1 group by 1, 2, 3, 4
    )";

/// Reads what differs, of one org or of all.
///
/// # Errors
/// [`VerifyError::Database`].
pub fn check(client: &mut Client, org: Option<&str>) -> Result<Findings, VerifyError> {
    let mut snapshot =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start()?;
    // First of all, before the snapshot: no partition may be dropped between the two.
    snapshot.batch_execute(
        "lock table llm_requests in access share mode; set local work_mem = '64MB'; set local jit = off",
    )?;
    let mut findings = Findings::default();
    let row = snapshot.query_one(
        "select whole_from::text, (select count(*) from budget_counters where $1::text is null or org = $1),
                (select count(*) from budget_counters
                  where ($1::text is null or org = $1)
                    and period_start < whole_from::timestamp at time zone 'UTC')
           from ledger_coverage",
        &[&org],
    )?;
    (findings.whole_from, findings.counters, findings.spent_unchecked) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    counters(&mut snapshot, org, &mut findings)?;
    rollup(&mut snapshot, org, &mut findings)?;
    snapshot.commit()?;
    Ok(findings)
}

fn counters(
    snapshot: &mut Transaction<'_>,
    org: Option<&str>,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let sql = format!(
        "with {NAMED}, compared as (
             select org, budget_id, subject, period_start, k.spent_nanousd is null as missing,
                    coalesce(k.spent_nanousd, 0) as spent,
                    case when period_start >= (select whole_from::timestamp at time zone 'UTC' from ledger_coverage)
                              or k.spent_nanousd is null
                         then (coalesce(k.opening_nanousd, 0) + coalesce(n.spent, 0))::bigint
                         else k.spent_nanousd end as spent_sum,
                    coalesce(k.held_nanousd, 0) as held, coalesce(n.held, 0)::bigint as held_sum,
                    coalesce(k.topped_up_nanousd, 0) as topped_up,
                    coalesce(t.topped_up, 0)::bigint as topped_up_sum
               from (select * from budget_counters where $1::text is null or org = $1) k
               full join named n using (org, budget_id, subject, period_start)
               full join topped t using (org, budget_id, subject, period_start)
         )
         select org, budget_id, subject, extract(epoch from period_start)::bigint as period_unix_s, missing,
                spent, spent_sum, held, held_sum, topped_up, topped_up_sum
           from compared
          where missing or (spent, held, topped_up) <> (spent_sum, held_sum, topped_up_sum)
          order by org, budget_id, subject, period_start
          limit {}",
        MAX_LISTED.saturating_add(1)
    );
    let rows = snapshot.query(&sql, &[&org])?;
    findings.truncated |= rows.len() > MAX_LISTED;
    findings.counter_differences = rows.iter().take(MAX_LISTED).map(counter).collect::<Result<_, _>>()?;
    Ok(())
}

fn counter(row: &Row) -> Result<CounterDifference, VerifyError> {
    let amounts = |stored: &str, sum: &str| -> Result<Option<Amounts>, VerifyError> {
        let (stands_at_nanousd, should_be_nanousd) = (row.try_get(stored)?, row.try_get(sum)?);
        Ok((stands_at_nanousd != should_be_nanousd)
            .then_some(Amounts { stands_at_nanousd, should_be_nanousd }))
    };
    let period_unix_s: i64 = row.try_get("period_unix_s")?;
    Ok(CounterDifference {
        org: row.try_get("org")?,
        budget_id: row.try_get("budget_id")?,
        subject: row.try_get("subject")?,
        period_start: Timestamp::from_second(period_unix_s)
            .map_err(|error| VerifyError::Database(format!("period start {period_unix_s} s: {error}")))?,
        missing: row.try_get("missing")?,
        spent: amounts("spent", "spent_sum")?,
        held: amounts("held", "held_sum")?,
        topped_up: amounts("topped_up", "topped_up_sum")?,
    })
}

/// The sums both the detail and the rollup give by payer and day, and the detail's way to them.
const MEASURES: [(&str, &str); 14] = [
    ("requests", "count(*) filter (where entry = 0)"),
    (
        "estimated_requests",
        "count(*) filter (where entry = 0 and cause <> 'settled') - count(*) filter (where entry > 0 and cause = 'settled')",
    ),
    ("cost_nanousd", "sum(cost_nanousd)"),
    ("input_tokens", "sum(input_tokens)"),
    ("cached_input_tokens", "sum(cached_input_tokens)"),
    ("cache_write_5m_tokens", "sum(cache_write_5m_tokens)"),
    ("cache_write_1h_tokens", "sum(cache_write_1h_tokens)"),
    ("output_tokens", "sum(output_tokens)"),
    ("reasoning_tokens", "sum(reasoning_tokens)"),
    ("audio_input_tokens", "sum(audio_input_tokens)"),
    ("audio_output_tokens", "sum(audio_output_tokens)"),
    ("image_input_tokens", "sum(image_input_tokens)"),
    ("image_output_tokens", "sum(image_output_tokens)"),
    ("timed", "count(duration_ms)"),
];

const KEY: &str = "org, day, team, user_name, provider, model, api";

fn rollup(
    snapshot: &mut Transaction<'_>,
    org: Option<&str>,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let list = |of: &dyn Fn(&str, &str) -> String| {
        MEASURES.iter().map(|(name, detail)| of(name, detail)).collect::<Vec<_>>().join(", ")
    };
    let stored = list(&|name, _| match name {
        "timed" => "sum((select sum(n) from unnest(latency_counts) n)) as timed".to_owned(),
        _ => format!("sum({name}) as {name}"),
    });
    let own = "($1::text is null or org = $1)";
    let from = "(select whole_from from ledger_coverage)";
    let differing = |table: &str| {
        format!(
            "select org, day, '{table}' as table_name, count(*) as rows,
                    coalesce(sum(t.requests), 0)::bigint as requests, coalesce(sum(d.requests), 0)::bigint as requests_sum,
                    coalesce(sum(t.cost_nanousd), 0)::bigint as cost, coalesce(sum(d.cost_nanousd), 0)::bigint as cost_sum
               from detail d full join {table}_sums t using ({KEY})
              where ({}) is distinct from ({})
              group by org, day",
            list(&|name, _| format!("coalesce(d.{name}, 0)")),
            list(&|name, _| format!("coalesce(t.{name}, 0)")),
        )
    };
    let sql = format!(
        "with detail as materialized (
             select org, (occurred_at at time zone 'UTC')::date as day, team, user_name, provider, model, api, {}
               from llm_requests where {own} and occurred_at >= {from}::timestamp at time zone 'UTC'
              group by 1, 2, 3, 4, 5, 6, 7
         ), usage_hourly_sums as (
             select org, (hour at time zone 'UTC')::date as day, team, user_name, provider, model, api, {stored}
               from usage_hourly where {own} and hour >= {from}::timestamp at time zone 'UTC'
              group by 1, 2, 3, 4, 5, 6, 7
         ), cost_daily_summary_sums as (
             select {KEY}, {stored} from cost_daily_summary where {own} and day >= {from} group by {KEY}
         ), differing as ({} union all {})
         select *, 0::bigint as days from differing
          union all
         select '', null, '', 0, 0, 0, 0, 0, (select count(*) from (select distinct org, day from detail) d)
          order by org, day nulls first, table_name
          limit {}",
        list(&|name, detail| format!("{detail} as {name}")),
        differing("usage_hourly"),
        differing("cost_daily_summary"),
        MAX_LISTED.saturating_add(2),
    );
    let sql = format!("select *, day::text as day_text from ({sql}) listed");
    let rows = snapshot.query(&sql, &[&org])?;
    for row in &rows {
        match row.try_get::<_, Option<&str>>("day_text")? {
            None => findings.days = row.try_get("days")?,
            Some(_) if findings.rollup_differences.len() == MAX_LISTED => findings.truncated = true,
            Some(day) => findings.rollup_differences.push(day_difference(row, day)?),
        }
    }
    Ok(())
}

fn day_difference(row: &Row, day: &str) -> Result<RollupDifference, VerifyError> {
    Ok(RollupDifference {
        org: row.try_get("org")?,
        day: day.parse().map_err(|error| VerifyError::Database(format!("day {day}: {error}")))?,
        table: row.try_get("table_name")?,
        rows: row.try_get("rows")?,
        requests: (row.try_get("requests")?, row.try_get("requests_sum")?),
        cost: Amounts {
            stands_at_nanousd: row.try_get("cost")?,
            should_be_nanousd: row.try_get("cost_sum")?,
        },
    })
}
