//! How long each of an operator's questions takes over a long history. `make bench-reports` runs it.
//!
//! Fills an empty database with a month of calls, their rollups and refusals, asks every question several times,
//! and prints the median beside the target. A target that is missed is printed as missed; the exit code is 1 then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed run is meant to stop")]

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use budget_backend::admin::requests::{self, Wanted};
use budget_backend::admin::{me, usage};
use budget_backend::config::DatabaseConfig;
use budget_backend::report::{Filter, Order, Question, Range, columns};
use budget_backend::{aggregate, db, maintain};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use postgres::{Client, NoTls};
use purser_protocol::Payer;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};

/// How far the history goes back, up to yesterday.
const DAYS: i64 = 30;
/// Connections that fill it side by side.
const WRITERS: usize = 2;
/// How often each question is asked; the median counts.
const RUNS: usize = 7;
/// What each question is to take at most.
const TARGET: Duration = Duration::from_millis(100);
/// The org asked for.
const ORG: &str = "acme";

/// One day of detail: `$1` the org, `$2` the day's first instant in Unix milliseconds, `$3` its rows. Two hundred
/// users in ten teams, three models, five projects.
const FILL: &str = "
    insert into llm_requests (org, hold_id, entry, team, user_name, provider, api, model, answered_model,
           priced_as, price_match, price_effective_from, response_id, cost_nanousd, held_nanousd, cause,
           admission, usage_quality, input_tokens, cached_input_tokens, cache_write_5m_tokens,
           cache_write_1h_tokens, output_tokens, reasoning_tokens, stream, http_status, ending, duration_ms,
           first_byte_ms, occurred_at, recorded_at, counters, tags)
    select $1, (lpad(to_hex(t.unix_ms), 12, '0') || '7' || substr(t.hash, 1, 3) || '8' || substr(t.hash, 4, 15))::uuid,
           0, 'team-' || n % 10, 'user-' || n % 200, 'openai', 'openai_chat', m.model, m.model, m.model, 'exact',
           timestamptz '2025-01-01 00:00:00+00', 'chatcmpl-' || substr(t.hash, 1, 24), 100000 + n % 900000,
           1000000, 'settled', 'held', 'exact', 500 + n % 1000, 0, 0, 0, 100 + n % 400, 0, false, 200, 'complete',
           200 + n % 5000, 100 + n % 500, t.at, t.at, '[]', jsonb_build_object('project', 'p-' || n % 5)
      from generate_series(0, $3::bigint - 1) n
      cross join lateral (values (($2::bigint + n * 86400000 / $3::bigint), md5($2::text || n::text))) as i (unix_ms, hash)
      cross join lateral (values (i.unix_ms, i.hash, to_timestamp(i.unix_ms / 1000))) as t (unix_ms, hash, at)
      cross join lateral (values ((array['gpt-4o-mini', 'gpt-4o', 'gpt-4.1'])[1 + n % 3])) as m (model)";

/// A hundred thousand refusals of the month, and a user who called once, three weeks ago.
const REFUSALS: &str = "
    insert into denials (org, hold_id, denied_at, team, user_name, provider, model, api, reason, calls, budget_id, tier,
                         window_kind, message)
    select 'acme', gen_random_uuid(), now() - n * interval '25 seconds', 'team-' || n % 10, 'user-' || n % 200, 'openai',
           'gpt-4o', 'openai_chat', 'over_budget', 1, 1, 'team', 'month', 'exhausted'
      from generate_series(1, 100000) n";

fn main() {
    let url = std::env::var("BENCH_DATABASE_URL").unwrap_or_else(|_| {
        eprintln!("error: BENCH_DATABASE_URL must name an empty database; `make bench-reports` makes one");
        std::process::exit(2);
    });
    let rows = std::env::var("ROWS").map_or(Ok(10_000_000), |text| text.parse::<i64>());
    let Ok(rows) = rows else {
        eprintln!("error: ROWS: expected a whole number");
        std::process::exit(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let missed = runtime.block_on(run(&url, rows.max(DAYS)));
    println!(
        "{}",
        if missed == 0 {
            "every question in time".to_owned()
        } else {
            format!("{missed} questions missed the target")
        }
    );
    std::process::exit(i32::from(missed > 0));
}

async fn run(url: &str, rows: i64) -> usize {
    let config = DatabaseConfig {
        checks: PgConnectOptions::from_str(url).expect("BENCH_DATABASE_URL is a URL"),
        tracker: url.parse().expect("BENCH_DATABASE_URL is a URL"),
        pool_min: 1,
        pool_max: 4,
        connect_timeout: Duration::from_secs(10),
    };
    // As the backend's pool is, limits and all.
    let pool = db::connect(&config).await.expect("the database answers");
    db::migrate(&pool).await.expect("the schema is brought up to date");
    let unlimited = PgPoolOptions::new().connect(url).await.expect("the database answers");
    fill(url, &unlimited, rows).await;
    ask_all(&pool).await
}

fn days() -> Vec<Date> {
    let today = Timestamp::now().to_zoned_datetime(TimeZone::UTC).date();
    (1..=DAYS).rev().map(|ago| today.checked_sub(ago.days()).unwrap()).collect()
}

async fn fill(url: &str, unlimited: &PgPool, rows: i64) {
    let (days, started) = (Arc::new(days()), Instant::now());
    let first = days[0].to_zoned_datetime(TimeZone::UTC).unwrap().timestamp();
    maintain::make_partitions(unlimited, first).await.expect("partitions for the history");
    let next = Arc::new(AtomicI64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (url, days, next) = (url.to_owned(), days.clone(), next.clone());
            tokio::task::spawn_blocking(move || {
                let mut client = Client::connect(&url, NoTls).unwrap();
                while let Some(day) = days.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap())
                {
                    let start = day.to_zoned_datetime(TimeZone::UTC).unwrap().timestamp().as_millisecond();
                    client.execute(FILL, &[&ORG, &start, &(rows / DAYS)]).unwrap();
                    aggregate::recompute_day(&mut client, ORG, *day).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a day of history");
    }
    for sql in [
        REFUSALS,
        "insert into budgets (org, team, user_name, window_kind, limit_nanousd)
         select 'acme', 'team-' || n % 10, 'user-' || n, 'month', 1000000000 from generate_series(1, 5000) n",
        "vacuum (analyze)",
    ] {
        sqlx::query(sql).execute(unlimited).await.unwrap();
    }
    let row = sqlx::query(
        "select (select count(*) from llm_requests), (select count(*) from usage_hourly), (select count(*) from cost_daily_summary)",
    )
    .fetch_one(unlimited)
    .await
    .unwrap();
    let (calls, hours, daily): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    println!(
        "{calls} calls, {hours} rows by hour, {daily} by day, filled in {} s",
        started.elapsed().as_secs()
    );
}

/// Asks everything; gives how many questions took too long.
async fn ask_all(pool: &PgPool) -> usize {
    let mut missed = 0;
    let days = days();
    let (first, last) = (days[0].to_string(), days[days.len() - 1]);
    let today = last.tomorrow().unwrap();
    let report = |from: String, by: &str, filter: Filter, order: Order| Question {
        filter: Filter { org: Some(ORG.to_owned()), ..filter },
        range: Range::between(&from, &today.to_string()).unwrap(),
        columns: columns(by).unwrap(),
        order,
        limit: 1_000,
        after: None,
    };
    let week = last.checked_sub(6.days()).unwrap().to_string();
    let team = || Filter { team: Some("team-3".to_owned()), ..Filter::default() };
    let tag = Some(("project".to_owned(), "p-2".to_owned()));
    let all = Filter::default;
    for (what, question) in [
        ("a month's sum", report(first.clone(), "", all(), Order::Name)),
        ("a month by team", report(first.clone(), "team", all(), Order::Name)),
        ("a month by user", report(first.clone(), "user", all(), Order::Name)),
        ("a month's dearest users", report(first.clone(), "user", all(), Order::Cost)),
        ("a month by model", report(first.clone(), "model", all(), Order::Name)),
        ("a month by day and team", report(first.clone(), "day,team", all(), Order::Name)),
        ("a team's month by day and user", report(first.clone(), "day,user", team(), Order::Name)),
        ("a day by hour", report(last.to_string(), "hour", all(), Order::Name)),
        ("a day by tag", report(last.to_string(), "tag:project", all(), Order::Name)),
        ("a week by hour", report(week.clone(), "hour", all(), Order::Name)),
        ("a week by tag", report(week.clone(), "tag:project", all(), Order::Name)),
        ("a team's week by hour and tag", report(week.clone(), "hour,tag:project", team(), Order::Name)),
        ("a week of one tag by user", report(week, "user", Filter { tag, ..all() }, Order::Name)),
    ] {
        let every = Question { filter: Filter { org: None, ..question.filter.clone() }, ..question.clone() };
        missed += time(what, async || usage::report(pool, &question).await.unwrap().total.requests).await;
        if question.columns.is_empty() {
            missed += time("a month's sum over every org", async || {
                usage::report(pool, &every).await.unwrap().total.requests
            })
            .await;
        }
    }
    missed + ask_calls(pool).await
}

async fn ask_calls(pool: &PgPool) -> usize {
    let wanted = |team: Option<&str>, user: Option<&str>| Wanted {
        org: ORG.to_owned(),
        team: team.map(str::to_owned),
        user: user.map(str::to_owned),
        before: None,
        limit: 200,
    };
    let mut missed = 0;
    for (what, wanted) in [
        ("an org's latest calls", wanted(None, None)),
        ("a team's latest calls", wanted(Some("team-3"), None)),
        ("a user's latest calls", wanted(Some("team-3"), Some("user-3"))),
        ("the calls of a user who made none", wanted(Some("team-3"), Some("nobody"))),
    ] {
        missed += time(what, async || requests::latest(pool, &wanted).await.unwrap().len()).await;
        let what = format!("{what}, refused");
        missed += time(&what, async || requests::denied(pool, &wanted).await.unwrap().len()).await;
    }
    let latest = requests::latest(pool, &wanted(None, None)).await.unwrap();
    let id = latest[latest.len() / 2].hold_id;
    missed += time("one call's story by its id alone", async || {
        let org = requests::org_of(pool, None, id).await.unwrap().unwrap();
        requests::story(pool, &org, id).await.unwrap().unwrap().entries.len()
    })
    .await;
    let payer =
        Payer { org: ORG.to_owned(), team: Some("team-3".to_owned()), user: Some("user-3".to_owned()) };
    missed + time("a user's own budgets", async || me::budgets_of(pool, &payer).await.unwrap().len()).await
}

/// Asks several times; 1 when the median is beyond the target.
async fn time<T: std::fmt::Display>(what: &str, ask: impl AsyncFn() -> T) -> usize {
    let mut taken = Vec::new();
    let mut found = String::new();
    for _ in 0..RUNS {
        let asked = Instant::now();
        found = ask().await.to_string();
        taken.push(asked.elapsed());
    }
    taken.sort_unstable();
    let (median, slowest) = (taken[RUNS / 2], taken[RUNS - 1]);
    let verdict = if median <= TARGET { "in time" } else { "MISSED" };
    println!(
        "{what}: {found}; median {} ms, slowest {} ms; {verdict}",
        median.as_millis(),
        slowest.as_millis()
    );
    usize::from(median > TARGET)
}
