//! The tracker locks counters last: lanes don't wait for what else it does, and what changes under it until
//! then is found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use budget_backend::ledger::{Decision, HoldFailure};
use budget_backend::tracker::{HoldKey, Item, TrackerFailure};
use purser_protocol::Outcome;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::random_run::{Random, seed};
use crate::support::*;

/// Sessions that wait for the summary. They show the beginning of their query only.
const WAITING: &str = "select count(*) from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock' and query like '%insert into usage_hourly%'
       and pid <> pg_backend_pid()";

/// Keeps everybody from writing to the summary until it ends.
async fn lock_summary(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("lock table usage_hourly in exclusive mode").execute(&mut *transaction).await.unwrap();
    transaction
}

type Recorded = Result<Vec<Outcome>, TrackerFailure>;

/// A tracker that has begun to write an item and waits for the summary.
async fn begun(pool: &PgPool, item: (HoldKey, Item)) -> JoinHandle<Recorded> {
    let mut tracker = steps(pool);
    let step = tokio::spawn(async move { tracker.step(vec![item]).await });
    wait_for(pool, WAITING).await;
    step
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_does_not_wait_for_a_settlement_that_waits_for_its_summary(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let ledger = ledger(&pool);
    let first = id(1);
    granted(&ledger, first, 100).await;
    let summary = lock_summary(&pool).await;
    let step = begun(&pool, settle(first, 40)).await;
    granted(&ledger, id(2), 200).await;
    assert!(!step.is_finished());
    assert_eq!(standing(&pool, org).await, (0, 300));
    summary.rollback().await.unwrap();
    assert_eq!(step.await.unwrap().unwrap(), [Outcome::Recorded]);
    assert_eq!(standing(&pool, org).await, (40, 200));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_that_is_closed_or_renewed_under_its_settlement_is_settled_once(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let ledger = ledger(&pool);
    for (number, other) in (1..).zip([Item::Void(ann()), Item::Renew]) {
        let hold_id = id(number);
        granted(&ledger, hold_id, 100).await;
        let (spent, held) = standing(&pool, org).await;
        let summary = lock_summary(&pool).await;
        let step = begun(&pool, settle(hold_id, 40)).await;
        let renews = other == Item::Renew;
        assert_eq!(record(&pool, vec![(key(hold_id), other)]).await, [Outcome::Recorded]);
        assert_eq!(standing(&pool, org).await, (spent, held - if renews { 0 } else { 100 }));
        summary.rollback().await.unwrap();
        assert_eq!(step.await.unwrap().unwrap(), [Outcome::Recorded]);
        assert_eq!(standing(&pool, org).await, (spent + 40, held - 100));
        assert_books_balance(&pool).await;
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn one_settlement_at_two_replicas_at_once_is_charged_once(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let (held, without) = (id(1), id(2));
    granted(&ledger(&pool), held, 100).await;
    // One with a hold, one without.
    for (hold_id, expected) in [(held, (40, 0)), (without, (80, 0))] {
        let summary = lock_summary(&pool).await;
        let step = begun(&pool, settle(hold_id, 40)).await;
        let mut replica = steps(&pool);
        let again = tokio::spawn(async move { replica.step(vec![settle(hold_id, 40)]).await });
        wait_for(
            &pool,
            "select count(*) from pg_stat_activity where datname = current_database()
                and wait_event_type = 'Lock' and query like '%insert into llm_requests%'
                and pid <> pg_backend_pid()",
        )
        .await;
        summary.rollback().await.unwrap();
        assert_eq!(step.await.unwrap().unwrap(), [Outcome::Recorded]);
        assert_eq!(again.await.unwrap().unwrap(), [Outcome::Duplicate]);
        assert_eq!(standing(&pool, org).await, expected);
        assert_books_balance(&pool).await;
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn voids_that_race_their_holds_deadlock_with_nobody(pool: PgPool) {
    let seed = seed();
    let mut random = Random(seed);
    budget(&pool, "", "", "month", 1_000_000).await;
    let ledger = ledger(&pool);
    let mut settled = steps(&pool);
    let done = Arc::new(AtomicBool::new(false));
    // Settlements that move the same counter all the while.
    let busy = tokio::spawn({
        let (ledger, done) = (ledger.clone(), Arc::clone(&done));
        async move {
            let mut number = 1_000_000;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                let hold_id = id(number);
                granted(&ledger, hold_id, 1).await;
                assert_eq!(settled.step(vec![settle(hold_id, 1)]).await.unwrap(), [Outcome::Recorded]);
            }
        }
    });
    let mut voided = steps(&pool);
    for wave in 0..15_u64 {
        let ids: Vec<Uuid> = (0..20).map(|number| id(wave * 100 + number)).collect();
        let holds: Vec<_> = ids
            .iter()
            .map(|hold_id| {
                let (ledger, hold_id) = (ledger.clone(), *hold_id);
                tokio::spawn(async move { hold(&ledger, hold_id, &ann(), 3).await })
            })
            .collect();
        let mut voids: Vec<_> = ids.iter().map(|hold_id| (random.below(u64::MAX), void(*hold_id))).collect();
        voids.sort_by_key(|(place, _)| *place);
        let outcomes = voided.step(voids.into_iter().map(|(_, item)| item).collect()).await.unwrap();
        assert_eq!(outcomes, vec![Outcome::Recorded; ids.len()], "seed {seed}");
        for hold in holds {
            let decision: Result<Decision, HoldFailure> = hold.await.unwrap();
            assert!(
                matches!(decision, Ok(Decision::Granted(_) | Decision::Closed)),
                "seed {seed}: {decision:?}"
            );
        }
    }
    done.store(true, Ordering::Relaxed);
    busy.await.unwrap();
    assert_eq!(number(&pool, "select count(*) from holds where state = 'open'").await, 0, "seed {seed}");
    assert_books_balance(&pool).await;
    // The victim of a deadlock gets an error and is tried again, so it shows in this count only.
    drop((ledger, voided));
    pool.close().await;
    let fresh = PgPool::connect_with(pool.connect_options().as_ref().clone()).await.unwrap();
    let deadlocks =
        number(&fresh, "select deadlocks from pg_stat_database where datname = current_database()").await;
    fresh.close().await;
    assert_eq!(deadlocks, 0, "seed {seed}");
}
