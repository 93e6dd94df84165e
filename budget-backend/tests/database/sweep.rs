//! Holds that nobody settles, and tombstones: what a sweep takes away.

use sqlx::PgPool;

use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn after_a_reconnection_the_sweep_waits_its_grace(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    granted(&ledger(&pool), id(1), 100).await;
    sqlx::query("update holds set expires_at = now()").execute(&pool).await.unwrap();
    let expired = Steps::new(&pool, std::time::Duration::from_secs(3_600)).sweep().await;
    assert_eq!(expired, 0);
    assert_eq!(number(&pool, "select count(*) from holds where state = 'open'").await, 1);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn one_sweep_takes_more_than_one_batch(pool: PgPool) {
    budget(&pool, "", "", "month", 1_000).await;
    granted(&ledger(&pool), id(0), 1).await;
    let copy = |count: i64, state: &'static str| {
        sqlx::query(
            "insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd, counters,
                                held_at, expires_at, closed_at)
             select org, gen_random_uuid(), team, user_name, provider, model, api, $2, 0, counters, held_at, now(),
                    case when $2 <> 'open' then now() - interval '2 hours' end
               from generate_series(1, $1), (select * from holds limit 1) h",
        )
        .bind(count)
        .bind(state)
        .execute(&pool)
    };
    copy(600, "open").await.unwrap();
    copy(4_500, "voided").await.unwrap();
    assert_eq!(steps(&pool).sweep().await, 600);
    assert_eq!(number(&pool, "select count(*) from holds where state = 'voided'").await, 0);
    assert_eq!(number(&pool, "select count(*) from llm_requests where cause = 'expired'").await, 600);
    assert_books_balance(&pool).await;
}

/// Holds for ann, whose charge would overflow a counter, and for bob; gives the full counter's budget.
async fn hold_one_that_can_t_be_charged(pool: &PgPool) -> i64 {
    budget(pool, "", "", "month", i64::MAX).await;
    let full = budget(pool, "search", "ann", "day", i64::MAX).await;
    let ledger = ledger(pool);
    granted(&ledger, id(1), 10).await;
    hold(&ledger, id(2), &payer("search", "bob"), 10).await.unwrap();
    sqlx::query("update budget_counters set spent_nanousd = $1 where budget_id = $2")
        .bind(i64::MAX)
        .bind(full)
        .execute(pool)
        .await
        .unwrap();
    full
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_that_can_t_be_charged_does_not_keep_others_from_expiring(pool: PgPool) {
    hold_one_that_can_t_be_charged(&pool).await;
    sqlx::query("update holds set expires_at = now()").execute(&pool).await.unwrap();
    assert_eq!(steps(&pool).sweep().await, 1);
    assert_eq!(number(&pool, "select count(*) from holds where state = 'open'").await, 1);
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements").await, 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn many_holds_that_can_t_be_charged_don_t_keep_later_ones_from_expiring(pool: PgPool) {
    let full = hold_one_that_can_t_be_charged(&pool).await;
    // More than a batch of them, all due before the others.
    for (user, holds, due) in [("ann", 299, "1 minute"), ("bob", 4, "1 second")] {
        sqlx::query(
            "insert into holds (org, hold_id, team, user_name, provider, model, api, state, held_nanousd, counters,
                                held_at, expires_at)
             select org, gen_random_uuid(), team, user_name, provider, model, api, state, held_nanousd, counters,
                    held_at, expires_at
               from generate_series(1, $2), holds where user_name = $1",
        )
        .bind(user)
        .bind(holds)
        .execute(&pool)
        .await
        .unwrap();
        // Many are due in the same instant, and a batch ends among them.
        sqlx::query("update holds set expires_at = date_trunc('second', now()) - $2::text::interval where user_name = $1")
            .bind(user)
            .bind(due)
            .execute(&pool)
            .await
            .unwrap();
    }
    sqlx::query(
        "update budget_counters set held_nanousd = (select sum(held_nanousd) from holds
          where counters @> jsonb_build_array(jsonb_build_array(budget_id)))",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut steps = steps(&pool);
    let charged = "select count(*) from llm_requests where cause = 'expired' and user_name = 'bob'";
    assert_eq!(steps.sweep().await, 5);
    assert_eq!(number(&pool, charged).await, 5);
    assert_eq!(number(&pool, "select count(*) from holds where state = 'open'").await, 300);
    // They are tried again, and charged once they can be.
    sqlx::query("update budget_counters set spent_nanousd = 0 where budget_id = $1")
        .bind(full)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(steps.sweep().await, 300);
    assert_eq!(number(&pool, "select count(*) from holds where state = 'open'").await, 0);
    assert_books_balance(&pool).await;
}
