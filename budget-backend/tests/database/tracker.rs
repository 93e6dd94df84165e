//! Cost writes, one step at a time.

use budget_backend::ledger::Decision;
use budget_backend::tracker::{Item, TrackerFailure};
use purser_protocol::{Outcome, Payer};
use sqlx::PgPool;

use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_settlement_releases_the_hold_and_is_counted_once(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let user = budget(&pool, "search", "ann", "day", 1_000).await;
    let ledger = ledger(&pool);
    let call = id(1);
    granted(&ledger, call, 100).await;
    let items = vec![settle(call, 40), settle(call, 40)];
    assert_eq!(record(&pool, items.clone()).await, [Outcome::Recorded, Outcome::Duplicate]);
    // Sent again later, perhaps to another replica: still once.
    assert_eq!(record(&pool, items).await, [Outcome::Duplicate, Outcome::Duplicate]);
    for budget in [org, user] {
        assert_eq!(standing(&pool, budget).await, (40, 0));
    }
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, 1);
    assert_eq!(number(&pool, "select requests from cost_daily_summary").await, 1);
    assert_eq!(
        number(&pool, "select input_tokens * 100 + output_tokens from cost_daily_summary").await,
        1_005
    );
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn cost_above_the_hold_is_recorded_in_full_and_the_next_hold_is_refused(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 100).await;
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 100).await;
    let open = sqlx::query_scalar("select hold_id from holds").fetch_one(&pool).await.unwrap();
    record(&pool, vec![settle(open, 250)]).await;
    assert_eq!(standing(&pool, org).await, (250, 0));
    assert!(matches!(hold(&ledger, id(2), &ann(), 0).await.unwrap(), Decision::Refused(_)));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn no_usage_is_charged_from_the_hold_and_without_one_from_the_estimate(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let held = id(1);
    granted(&ledger(&pool), held, 100).await;
    record(&pool, vec![settle_for(&ann(), held, None), settle_for(&ann(), id(2), None)]).await;
    assert_eq!(standing(&pool, org).await, (177, 0));
    assert_eq!(number(&pool, "select estimated_requests from cost_daily_summary").await, 2);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_call_that_went_out_without_a_hold_is_counted_in_its_payer_s_budgets(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let each = budget(&pool, "search", "*", "day", 1_000).await;
    let other_team = budget(&pool, "ads", "", "day", 1_000).await;
    assert_eq!(record(&pool, vec![settle(id(1), 40)]).await, [Outcome::Recorded]);
    assert_eq!(standing(&pool, org).await, (40, 0));
    assert_eq!(standing(&pool, each).await, (40, 0));
    assert_eq!(standing(&pool, other_team).await, (0, 0));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn an_expired_hold_is_charged_in_full_and_a_late_settlement_corrects_it(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let late = id(1);
    granted(&ledger(&pool), late, 100).await;
    let mut steps = steps(&pool);
    assert_eq!(steps.sweep().await, 0, "not due yet");
    sqlx::query("update holds set expires_at = now()").execute(&pool).await.unwrap();
    let expired = steps.sweep().await;
    assert_eq!(expired, 1);
    assert_eq!(standing(&pool, org).await, (100, 0));
    assert_books_balance(&pool).await;
    let outcomes = steps.step(vec![settle(late, 30), settle(late, 30), void(late)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Recorded, Outcome::Duplicate, Outcome::Duplicate]);
    assert_eq!(standing(&pool, org).await, (30, 0));
    let entries: Vec<(i32, i64, String)> =
        sqlx::query_as("select entry, cost_nanousd, cause from llm_requests order by entry")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(entries, [(0, 100, "expired".to_owned()), (1, -70, "settled".to_owned())]);
    assert_eq!(number(&pool, "select requests from cost_daily_summary").await, 1);
    assert_eq!(number(&pool, "select estimated_requests from cost_daily_summary").await, 0);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn old_tombstones_go_and_a_repeat_is_still_a_duplicate(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    let call = id(1);
    granted(&ledger(&pool), call, 100).await;
    record(&pool, vec![settle(call, 40)]).await;
    sqlx::query("update holds set closed_at = now() - interval '2 hours'").execute(&pool).await.unwrap();
    steps(&pool).sweep().await;
    assert_eq!(number(&pool, "select count(*) from holds").await, 0);
    assert_eq!(
        record(&pool, vec![settle(call, 40), void(call)]).await,
        [Outcome::Duplicate, Outcome::Duplicate]
    );
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn one_item_that_can_t_be_stored_is_set_aside_and_the_rest_is_written(pool: PgPool) {
    let org = budget(&pool, "", "", "month", i64::MAX).await;
    let full = budget(&pool, "search", "ann", "day", i64::MAX).await;
    let (good, bad) = (id(1), id(2));
    let bob = payer("search", "bob");
    let ledger = ledger(&pool);
    hold(&ledger, good, &bob, 10).await.unwrap();
    granted(&ledger, bad, 10).await;
    // The next charge would overflow this counter.
    sqlx::query("update budget_counters set spent_nanousd = $1 where budget_id = $2")
        .bind(i64::MAX)
        .bind(full)
        .execute(&pool)
        .await
        .unwrap();
    let outcomes = record(&pool, vec![settle_for(&bob, good, Some(4)), settle(bad, 4)]).await;
    assert_eq!(outcomes[0], Outcome::Recorded);
    assert!(
        matches!(&outcomes[1], Outcome::Rejected { reason } if reason.contains("out of range")),
        "{outcomes:?}"
    );
    assert_eq!(standing(&pool, org).await, (4, 10));
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements").await, 1);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_lost_connection_fails_one_batch_and_the_next_reconnects(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let mut steps = steps(&pool);
    steps.step(vec![settle(id(1), 10)]).await.unwrap();
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    .execute(&pool)
    .await
    .unwrap();
    let call = id(2);
    // The worker may notice the closed connection before it uses it, or after; either way the batch
    // is written or reported, and a repeat settles it.
    let first = steps.step(vec![settle(call, 20)]).await;
    assert!(matches!(first, Ok(_) | Err(TrackerFailure::Database)), "{first:?}");
    let repeat = steps.step(vec![settle(call, 20)]).await.unwrap();
    assert_eq!(repeat, [if first.is_ok() { Outcome::Duplicate } else { Outcome::Recorded }]);
    assert_eq!(standing(&pool, org).await, (30, 0));
}

#[test]
fn a_database_that_is_away_is_reported_at_once() {
    let config: postgres::Config = "postgres://nobody:nothing@127.0.0.1:1/none".parse().unwrap();
    let settings = budget_backend::tracker::TrackerSettings {
        queue_len: 1,
        sweep_interval: std::time::Duration::from_secs(3_600),
        sweep_grace: std::time::Duration::ZERO,
        tombstone_age_s: 1,
        hold_ttl_s: 900,
    };
    let mut worker = budget_backend::tracker::Worker::new(config, settings);
    for _ in 0..3 {
        assert_eq!(worker.step(&[(key(id(1)), Item::Void(ann()))]), Err(TrackerFailure::Database));
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn ids_of_any_time_find_a_partition(pool: PgPool) {
    budget_backend::db::migrate(&pool).await.unwrap();
    let outcomes =
        record(&pool, vec![settle(id(1), 1), settle(uuid::Uuid::nil(), 2), settle(uuid::Uuid::max(), 4)])
            .await;
    assert_eq!(outcomes, [Outcome::Recorded, Outcome::Recorded, Outcome::Recorded]);
    assert_eq!(number(&pool, "select count(*) from llm_requests_default").await, 2);
    assert_eq!(number(&pool, "select sum(cost_nanousd)::bigint from llm_requests").await, 7);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_deleted_by_hand_does_not_hold_up_settlements(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let gone = budget(&pool, "search", "", "day", 1_000).await;
    let call = id(1);
    granted(&ledger(&pool), call, 100).await;
    for table in ["budget_counters", "budgets"] {
        let sql = format!("delete from {table} where budget_id = {gone}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    assert_eq!(record(&pool, vec![settle(call, 40)]).await, [Outcome::Recorded]);
    assert_eq!(standing(&pool, org).await, (40, 0));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_renewed_hold_lives_on_and_an_expired_one_is_not_revived(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let ledger = ledger(&pool);
    let (running, forgotten, settled) = (id(1), id(2), id(3));
    for call in [running, forgotten, settled] {
        granted(&ledger, call, 100).await;
    }
    let mut steps = steps(&pool);
    let renew = |call| (key(call), Item::Renew);
    let left_s = "select min(extract(epoch from expires_at - now()))::bigint from holds where state = 'open'";
    sqlx::query("update holds set expires_at = now() + interval '1 second'").execute(&pool).await.unwrap();
    // The same batch may renew a hold and settle it.
    let items = vec![renew(running), renew(settled), settle(settled, 40), renew(settled), renew(id(9))];
    let outcomes = steps.step(items).await.unwrap();
    let (recorded, duplicate) = (Outcome::Recorded, Outcome::Duplicate);
    assert_eq!(
        outcomes,
        [recorded.clone(), recorded.clone(), recorded, duplicate.clone(), duplicate.clone()]
    );
    sqlx::query("update holds set expires_at = now() where hold_id = $1")
        .bind(forgotten)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(steps.sweep().await, 1, "only the one nobody renewed");
    let left = number(&pool, left_s).await;
    assert!((890..=900).contains(&left), "{left} s");
    assert_eq!(steps.step(vec![renew(forgotten)]).await.unwrap(), [duplicate]);
    assert_eq!(standing(&pool, org).await, (140, 100));
    // A longer life than a renewal gives is not cut short.
    sqlx::query("update holds set expires_at = now() + interval '1 day'").execute(&pool).await.unwrap();
    steps.step(vec![renew(running)]).await.unwrap();
    assert!(number(&pool, left_s).await > 80_000);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_budget_that_can_t_be_read_holds_up_no_settlement(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let odd = budget(&pool, "search", "", "day", 1_000).await;
    sqlx::query("insert into budgets (org, window_kind, limit_nanousd) values ('umbrella', 'day', 1000)")
        .execute(&pool)
        .await
        .unwrap();
    let other = number(&pool, "select budget_id from budgets where org = 'umbrella'").await;
    let mut steps = steps(&pool);
    for (round, models) in [(1, "array[null]::text[]"), (2, "'{{a,b},{c,d}}'")] {
        let sql = format!("update budgets set models = {models} where budget_id = {odd}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        // Both went out without a verdict.
        let umbrella = Payer { org: "umbrella".to_owned(), ..ann() };
        let (call, item) = settle_for(&umbrella, id(round + 10), Some(7));
        let (ours, theirs) = (settle(id(round), 40), ((umbrella.org, call.1), item));
        let outcomes = steps.step(vec![ours, theirs]).await.unwrap();
        assert_eq!(outcomes, [Outcome::Recorded, Outcome::Recorded], "{models}");
    }
    assert_eq!(standing(&pool, org).await, (80, 0));
    assert_eq!(standing(&pool, odd).await, (0, 0));
    assert_eq!(standing(&pool, other).await, (14, 0));
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements").await, 0);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn replicas_that_write_the_same_calls_at_once_record_each_once(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000_000).await;
    budget(&pool, "search", "*", "day", 1_000_000).await;
    let ledger = ledger(&pool);
    let calls: Vec<uuid::Uuid> = (0..120).map(id).collect();
    // A third of them has no hold: their rows are made by whoever settles or voids them first.
    for call in calls.iter().filter(|call| call.as_u128() % 3 != 0) {
        granted(&ledger, *call, 10).await;
    }
    let replicas: Vec<_> = (0..4_usize)
        .map(|replica| {
            let mut steps = steps(&pool);
            // Each in an order of its own, and some also void what others settle.
            let mut items: Vec<_> = calls.iter().map(|call| settle(*call, 3)).collect();
            items.extend(calls.iter().filter(|call| call.as_u128() % 5 == 0).map(|call| void(*call)));
            items.rotate_left(replica * 37);
            if replica % 2 == 1 {
                items.reverse();
            }
            tokio::spawn(async move {
                let mut recorded = 0;
                for batch in items.chunks(30) {
                    let outcomes = steps.step(batch.to_vec()).await.unwrap();
                    let settled = batch.iter().zip(outcomes).filter(|((_, item), outcome)| {
                        matches!(item, Item::Settle(_)) && *outcome == Outcome::Recorded
                    });
                    recorded += settled.count();
                }
                recorded
            })
        })
        .collect();
    let mut recorded = 0;
    for replica in replicas {
        recorded += replica.await.unwrap();
    }
    assert_eq!(recorded, 120);
    assert_eq!(standing(&pool, org).await, (360, 0));
    assert_books_balance(&pool).await;
}
