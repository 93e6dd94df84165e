//! Counts of verdicts: written, bounded, and kept while the database is away.

use budget_backend::tracker::verdicts::{Noted, NotedOutcome};
use budget_backend::tracker::{Tracker, TrackerSettings};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::*;

/// 2027-01-15T08:30:00Z.
const HALF_PAST_EIGHT_US: i64 = 1_800_001_800_000_000;

fn denied(user: &str, needed_nanousd: i64) -> Noted {
    Noted {
        org: "acme".to_owned(),
        team: "search".to_owned(),
        user: user.to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        outcome: NotedOutcome::Denied,
        reason: "over_budget",
        budget_id: 7,
        needed_nanousd,
        hold_id: Uuid::from_u128(needed_nanousd.unsigned_abs().into()),
        at_unix_us: HALF_PAST_EIGHT_US + needed_nanousd,
    }
}

type Row = (String, String, String, String, i64, i64, Uuid);

async fn rows(pool: &PgPool) -> Vec<Row> {
    sqlx::query_as(
        "select to_char(hour at time zone 'UTC', 'HH24:MI'), team, user_name, model, verdicts, most_needed_nanousd,
                last_hold_id
           from verdicts_hourly where user_name not like 'filler%' order by hour, team, user_name, outcome",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn verdicts_are_added_up_by_hour_and_the_latest_is_kept_as_an_example(pool: PgPool) {
    let mut steps = steps(&pool);
    let counts = steps.verdicts();
    for noted in [denied("ann", 5), denied("ann", 3), denied("bob", 9)] {
        counts.note(&noted);
    }
    let later = Noted { at_unix_us: HALF_PAST_EIGHT_US + 1_800_000_000, ..denied("ann", 4) };
    counts.note(&later);
    counts.note(&Noted { outcome: NotedOutcome::Unbudgeted, reason: "team", ..denied("ann", 1) });
    steps.flush().await;
    // Another replica's, and an earlier one that comes late.
    counts.note(&denied("ann", 2));
    steps.flush().await;
    steps.flush().await;
    let row = |hour: &str, user: &str, verdicts, most, last| {
        let text = str::to_owned;
        (text(hour), text("search"), text(user), text("gpt-4o"), verdicts, most, Uuid::from_u128(last))
    };
    assert_eq!(
        rows(&pool).await,
        [
            row("08:00", "ann", 3, 5, 5),
            row("08:00", "ann", 1, 1, 1),
            row("08:00", "bob", 1, 9, 9),
            row("09:00", "ann", 1, 4, 4)
        ]
    );
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_hour_with_too_many_rows_is_counted_with_less_detail(pool: PgPool) {
    let fill = |from: i64, to: i64| {
        sqlx::query(
            "insert into verdicts_hourly
             select 'acme', '2027-01-15 08:00+00', 'search', 'filler' || n, 'openai', 'gpt-4o', 'denied', 'over_budget',
                    7, 1, 1, gen_random_uuid(), now() from generate_series($1, $2) n",
        )
        .bind(from)
        .bind(to)
        .execute(&pool)
    };
    fill(1, 9_999).await.unwrap();
    let mut steps = steps(&pool);
    let counts = steps.verdicts();
    counts.note(&denied("ann", 1));
    steps.flush().await;
    let users = |rows: Vec<Row>| rows.into_iter().map(|row| (row.1, row.2, row.3, row.4)).collect::<Vec<_>>();
    let own = ("search".to_owned(), "ann".to_owned(), "gpt-4o".to_owned(), 1);
    assert_eq!(users(rows(&pool).await), std::slice::from_ref(&own));
    // That made 10,000. Another hour, and another org, still have room.
    counts.note(&denied("ann", 1));
    counts.note(&denied("bob", 1));
    counts.note(&Noted { org: "other".to_owned(), ..denied("bob", 1) });
    steps.flush().await;
    let by_team = ("search".to_owned(), String::new(), String::new(), 2);
    let other = ("search".to_owned(), "bob".to_owned(), "gpt-4o".to_owned(), 1);
    assert_eq!(users(rows(&pool).await), [by_team.clone(), own.clone(), other.clone()]);
    fill(10_000, 20_000).await.unwrap();
    counts.note(&denied("ann", 1));
    steps.flush().await;
    let by_org = (String::new(), String::new(), String::new(), 1);
    assert_eq!(users(rows(&pool).await), [by_org, by_team, own, other]);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_can_t_be_written_is_kept_and_what_never_can_is_dropped(pool: PgPool) {
    let mut steps = steps(&pool);
    let counts = steps.verdicts();
    sqlx::query("alter table verdicts_hourly rename to away").execute(&pool).await.unwrap();
    counts.note(&denied("ann", 1));
    steps.flush().await;
    counts.note(&denied("ann", 2));
    steps.flush().await;
    sqlx::query("alter table away rename to verdicts_hourly").execute(&pool).await.unwrap();
    steps.flush().await;
    assert_eq!(number(&pool, "select verdicts from verdicts_hourly").await, 2);
    // The worker may notice a closed connection before it uses it, or after.
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(&pool)
    .await
    .unwrap();
    counts.note(&denied("ann", 3));
    steps.flush().await;
    steps.flush().await;
    assert_eq!(number(&pool, "select verdicts from verdicts_hourly").await, 3);
    // A text that PostgreSQL refuses must not keep the later ones from being written.
    counts.note(&denied("a\0b", 1));
    steps.flush().await;
    counts.note(&denied("bob", 1));
    steps.flush().await;
    assert_eq!(number(&pool, "select count(*) from verdicts_hourly").await, 2);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_tracker_that_stops_writes_what_it_has_counted(pool: PgPool) {
    let url = std::env::var("DATABASE_URL").unwrap();
    let mut config: postgres::Config = url.parse().unwrap();
    config.dbname(pool.connect_options().get_database().unwrap());
    let settings = TrackerSettings {
        queue_len: 1,
        sweep_interval: std::time::Duration::from_secs(3_600),
        sweep_grace: std::time::Duration::ZERO,
        tombstone_age_s: 3_600,
        hold_ttl_s: 900,
    };
    let (tracker, thread) = Tracker::start(config, settings).unwrap();
    tracker.verdicts().note(&denied("ann", 1));
    drop(tracker);
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    assert_eq!(number(&pool, "select verdicts from verdicts_hourly").await, 1);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_callers_are_told_is_counted(pool: PgPool) {
    use crate::api::{Service, TOKEN, hold_request};
    use reqwest::{Method, StatusCode};
    let service = Service::start(&pool).await;
    let org = budget(&pool, "", "", "day", 0).await;
    for number in 1..=3 {
        let (status, verdict) =
            service.send(Method::POST, "/v1/holds", TOKEN, &hold_request(id(number))).await;
        assert_eq!((status, &verdict["verdict"]), (StatusCode::OK, &serde_json::json!("deny")), "{verdict}");
    }
    wait_for(&pool, "select count(*) from verdicts_hourly").await;
    service.stop().await;
    let counted: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select outcome, reason, budget_id, sum(verdicts)::bigint from verdicts_hourly group by 1, 2, 3",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(counted, [("denied".to_owned(), "over_budget".to_owned(), org, 3)]);
}
