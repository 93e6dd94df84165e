//! A long history: detail and rollup of the last month, put in by SQL, and what it costs to have it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use budget_backend::ledger::{Decision, Ledger};
use budget_backend::report::{Filter, Order, Question, Range, columns};
use budget_backend::{admin, aggregate, maintain};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use postgres::{Client, NoTls};
use sqlx::{PgPool, Row as _};

use crate::ms;
use crate::setup::Field;

/// How far the history goes back, up to yesterday.
const DAYS: i64 = 30;
/// Connections that fill it side by side.
const WRITERS: usize = 2;
/// How often each report is asked for; the median counts.
const REPORT_RUNS: usize = 5;

/// One day of detail, in the order of its ids: `$1` the org, `$2` the day's first instant in Unix
/// milliseconds, `$3` its rows. Two hundred users in ten teams, three models.
const FILL: &str = "
    insert into llm_requests (org, hold_id, entry, team, user_name, provider, api, model, answered_model,
           priced_as, price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause,
           admission, usage_quality, input_tokens, cached_input_tokens, cache_write_5m_tokens,
           cache_write_1h_tokens, output_tokens, reasoning_tokens, stream, http_status, ending, duration_ms,
           first_byte_ms, occurred_at, recorded_at, counters)
    select $1, (lpad(to_hex(t.unix_ms), 12, '0') || '7' || substr(t.hash, 1, 3) || '8' || substr(t.hash, 4, 15))::uuid,
           0, 'team-' || n % 10, 'user-' || n % 200, 'openai', 'openai_chat', m.model, m.model, m.model, 'exact',
           timestamptz '2025-01-01 00:00:00+00', 'chatcmpl-' || substr(t.hash, 1, 24), 100000 + n % 900000,
           1000000, 'settled', 'held', 'exact', 500 + n % 1000, 0, 0, 0, 100 + n % 400, 0, false, 200, 'complete',
           200 + n % 5000, 100 + n % 500, t.at, t.at, '[]'
      from generate_series(0, $3::bigint - 1) n
      cross join lateral (values (($2::bigint + n * 86400000 / $3::bigint), md5(n::text))) as i (unix_ms, hash)
      cross join lateral (values (i.unix_ms, i.hash, to_timestamp(i.unix_ms / 1000))) as t (unix_ms, hash, at)
      cross join lateral (values ((array['gpt-4o-mini', 'gpt-4o', 'gpt-4.1'])[1 + n % 3])) as m (model)";

fn days() -> Vec<Date> {
    let today = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date();
    (1..=DAYS).rev().map(|ago| today.checked_sub(ago.days()).unwrap()).collect()
}

/// Fills in about so many rows of detail for an org, and the rollup of them; gives how many. The
/// sessions of `unlimited` may take their time.
pub async fn fill(url: &str, unlimited: &PgPool, org: &str, rows: u64) -> u64 {
    let days = days();
    let a_day = rows / u64::try_from(DAYS).unwrap();
    if a_day == 0 {
        println!("history: left out");
        return 0;
    }
    let started = Instant::now();
    let first = days[0].to_zoned_datetime(TimeZone::UTC).unwrap().timestamp();
    maintain::make_partitions(unlimited, first).await.expect("partitions for the history");
    let next = std::sync::Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (url, org, days, next) = (url.to_owned(), org.to_owned(), days.clone(), next.clone());
            tokio::task::spawn_blocking(move || {
                let mut client = Client::connect(&url, NoTls).unwrap();
                while let Some(day) = days.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                {
                    fill_day(&mut client, &org, *day, a_day);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a day of history");
    }
    let filled = started.elapsed();
    // What the filling leaves to do would otherwise be done, by the server itself, while it is measured.
    sqlx::query("vacuum (analyze) llm_requests, usage_hourly, cost_daily_summary")
        .execute(unlimited)
        .await
        .unwrap();
    if let Err(error) = sqlx::query("checkpoint").execute(unlimited).await {
        println!("history: no checkpoint after it ({error}); one may fall into what is measured next");
    }
    let row = sqlx::query(
        "select (select count(*) from llm_requests),
                (select pg_size_pretty(sum(pg_total_relation_size(inhrelid))) from pg_inherits
                  where inhparent = 'llm_requests'::regclass)",
    )
    .fetch_one(unlimited)
    .await
    .unwrap();
    let (rows, size): (i64, String) = (row.get(0), row.get(1));
    println!(
        "history: {rows} rows in llm_requests over {DAYS} days, {size}, with their rollup in {} s, cleaned up in {} s",
        filled.as_secs(),
        started.elapsed().saturating_sub(filled).as_secs()
    );
    u64::try_from(rows).unwrap()
}

fn fill_day(client: &mut Client, org: &str, day: Date, rows: u64) {
    let start_unix_ms = day.to_zoned_datetime(TimeZone::UTC).unwrap().timestamp().as_millisecond();
    client.execute(FILL, &[&org, &start_unix_ms, &i64::try_from(rows).unwrap()]).unwrap();
    aggregate::recompute_day(client, org, day).unwrap();
}

/// A month's reports over the history; `make bench-reports` asks everything else.
pub async fn time_reports(pool: &PgPool, org: &str) {
    let days = days();
    let today = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date();
    for by in ["", "team", "user", "model", "day"] {
        let question = Question {
            filter: Filter { org: Some(org.to_owned()), ..Filter::default() },
            range: Range::between(&days[0].to_string(), &today.to_string()).unwrap(),
            columns: columns(by).unwrap(),
            order: Order::Name,
            limit: 10_000,
            after: None,
        };
        let mut taken = Vec::new();
        let (mut groups, mut requests) = (0, 0);
        for _ in 0..REPORT_RUNS {
            let asked = Instant::now();
            let report = admin::usage::report(pool, &question).await.unwrap();
            taken.push(asked.elapsed());
            (groups, requests) = (report.groups.len(), report.total.requests);
        }
        let slowest = taken.iter().max().copied().unwrap_or_default();
        taken.sort_unstable();
        println!(
            "a month's report by {}: {groups} groups of {requests} calls, median {} ms, slowest {} ms",
            if by.is_empty() { "nothing" } else { by },
            ms(taken[REPORT_RUNS / 2]),
            ms(slowest)
        );
    }
}

/// The first hold on a budget that begins with what the whole history has spent.
pub async fn time_new_budget(pool: &PgPool, ledger: &Ledger, field: &Field) {
    sqlx::query("insert into budgets (org, window_kind, limit_nanousd) values ($1, 'total', $2)")
        .bind(&field.org)
        .bind(i64::MAX)
        .execute(pool)
        .await
        .unwrap();
    for what in ["first", "second"] {
        let asked = Instant::now();
        let decision = ledger.hold(field.ask(), asked + Duration::from_secs(60)).await;
        let taken = asked.elapsed();
        assert!(matches!(decision, Ok(Decision::Granted(_))), "{decision:?}");
        println!("the {what} hold on a new budget over the whole history: {} ms", ms(taken));
    }
}
