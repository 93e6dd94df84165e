//! Holds through the lanes.

use std::time::{Duration, Instant};

use budget_backend::ledger::{Decision, Grant, HoldFailure, Ledger};
use budget_backend::tracker::HoldKey;
use purser_protocol::Tier;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_hold_is_held_in_every_tier(pool: PgPool) {
    let budgets = [
        budget(&pool, "", "", "month", 1_000).await,
        budget(&pool, "search", "", "day", 500).await,
        budget(&pool, "search", "ann", "day", 200).await,
    ];
    let ledger = ledger(&pool);
    let decision = hold(&ledger, id(1), &ann(), 120).await.unwrap();
    let Decision::Granted(Grant { held_nanousd: 120, remaining, .. }) = decision else {
        panic!("{decision:?}")
    };
    let left: Vec<(Tier, i64)> = remaining.iter().map(|tier| (tier.tier, tier.remaining_nanousd)).collect();
    assert_eq!(left, [(Tier::Org, 880), (Tier::Team, 380), (Tier::User, 80)]);
    for budget in budgets {
        assert_eq!(standing(&pool, budget).await, (0, 120));
    }
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn each_tier_and_window_can_refuse_and_then_nothing_is_held_anywhere(pool: PgPool) {
    let places = [("", ""), ("search", ""), ("search", "ann"), ("search", "*"), ("*", "")];
    for (number, (team, user)) in (1_u64..).zip(places) {
        for window in ["day", "week", "month", "total"] {
            sqlx::query("delete from budgets").execute(&pool).await.unwrap();
            for (team, user) in [("", ""), ("search", ""), ("search", "ann")] {
                budget(&pool, team, user, "total", 1_000).await;
            }
            // Under another name of the zone, so that the short one may stand in the same place and window.
            sqlx::query("update budgets set time_zone = 'Etc/UTC'").execute(&pool).await.unwrap();
            let short = budget(&pool, team, user, window, 99).await;
            // An own row of another window doesn't replace a `*` row; one of the same does.
            let replaced = (team == "*" || user == "*") && window == "total";
            let ledger = ledger(&pool);
            let held_before = held_in_all(&pool).await;
            let decision = hold(&ledger, id(number), &ann(), 100).await.unwrap();
            match decision {
                Decision::Refused(refusal) if !replaced => {
                    assert_eq!(refusal.touch.key.counter.budget_id, short, "{team}/{user} {window}");
                    assert_eq!(held_in_all(&pool).await, held_before);
                }
                Decision::Granted { .. } if replaced => {
                    record(&pool, vec![void(id_of_open(&pool).await)]).await;
                }
                other => panic!("{team}/{user} {window}: {other:?}"),
            }
        }
    }
}

async fn held_in_all(pool: &PgPool) -> i64 {
    number(pool, "select coalesce(sum(held_nanousd), 0)::bigint from budget_counters").await
}

async fn id_of_open(pool: &PgPool) -> uuid::Uuid {
    sqlx::query_scalar("select hold_id from holds where state = 'open'").fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_repeat_is_answered_and_holds_nothing_more(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 1_000).await;
    let ledger = ledger(&pool);
    let first = id(1);
    granted(&ledger, first, 100).await;
    let again = hold(&ledger, first, &ann(), 100).await.unwrap();
    assert!(matches!(again, Decision::Repeated(Grant { held_nanousd: 100, .. })), "{again:?}");
    assert_eq!(standing(&pool, org).await, (0, 100));
    // Together in one batch, the two are one as well.
    let (both, payer) = (id(2), ann());
    let (a, b) = tokio::join!(hold(&ledger, both, &payer, 50), hold(&ledger, both, &payer, 50));
    let grants = [a.unwrap(), b.unwrap()].iter().filter(|d| matches!(d, Decision::Granted { .. })).count();
    assert_eq!(grants, 1);
    assert_eq!(standing(&pool, org).await, (0, 150));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_repeat_is_answered_with_its_grant_even_when_nothing_is_left(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 100).await;
    let again = hold(&ledger, id_of_open(&pool).await, &ann(), 100).await.unwrap();
    assert!(matches!(again, Decision::Repeated(Grant { held_nanousd: 100, .. })), "{again:?}");
    assert!(matches!(hold(&ledger, id(2), &ann(), 1).await.unwrap(), Decision::Refused(_)));
    assert_eq!(standing(&pool, org).await, (0, 100));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_void_that_overtakes_its_hold_keeps_it_closed(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 1_000).await;
    let ledger = ledger(&pool);
    let late = id(1);
    record(&pool, vec![void(late)]).await;
    assert_eq!(hold(&ledger, late, &ann(), 100).await.unwrap(), Decision::Closed);
    assert_eq!(standing(&pool, org).await, (0, 0));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_raise_and_a_lowering_act_on_the_next_hold_and_keep_what_was_spent(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 100).await;
    record(&pool, vec![settle(id_of_open(&pool).await, 90)]).await;
    assert!(matches!(hold(&ledger, id(2), &ann(), 20).await.unwrap(), Decision::Refused(_)));
    sqlx::query("update budgets set limit_nanousd = 110").execute(&pool).await.unwrap();
    granted(&ledger, id(3), 20).await;
    sqlx::query("update budgets set limit_nanousd = 10").execute(&pool).await.unwrap();
    let Decision::Refused(refusal) = hold(&ledger, id(4), &ann(), 1).await.unwrap() else {
        panic!("granted")
    };
    assert_eq!((refusal.counter.spent_nanousd, refusal.counter.held_nanousd), (90, 20));
    assert_eq!(standing(&pool, org).await, (90, 20));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn limits_are_those_in_force_once_the_counter_is_locked(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 100).await;
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 1).await;
    // A hold waits for the counter; while it does, the limit is lowered.
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("select from budget_counters for update").execute(&mut *blocker).await.unwrap();
    let waiting = tokio::spawn(async move { hold(&ledger, id(2), &ann(), 50).await.unwrap() });
    wait_for(&pool, "select count(*) from pg_locks where not granted").await;
    sqlx::query("update budgets set limit_nanousd = 10").execute(&pool).await.unwrap();
    blocker.rollback().await.unwrap();
    let decision = waiting.await.unwrap();
    assert!(matches!(&decision, Decision::Refused(refusal) if refusal.limit_nanousd() == 10), "{decision:?}");
    assert_eq!(standing(&pool, org).await, (0, 1));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_new_budget_starts_from_what_its_running_period_has_spent(pool: PgPool) {
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 100).await;
    record(&pool, vec![settle(id_of_open(&pool).await, 60)]).await;
    let other = payer("ads", "zoe");
    hold(&ledger, id(2), &other, 10).await.unwrap();
    record(&pool, vec![settle_for(&other, id_of_open(&pool).await, Some(7))]).await;
    let org = budget(&pool, "", "", "month", 1_000).await;
    let team = budget(&pool, "search", "", "day", 1_000).await;
    let each_user = budget(&pool, "search", "*", "day", 1_000).await;
    granted(&ledger, id(3), 1).await;
    assert_eq!(standing(&pool, org).await, (67, 1));
    assert_eq!(standing(&pool, team).await, (60, 1));
    assert_eq!(standing(&pool, each_user).await, (60, 1));
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn exactly_as_many_holds_are_granted_as_the_limit_pays(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 37 * 10 + 9).await;
    budget(&pool, "search", "*", "day", 1_000_000).await;
    // Two replicas with pools of their own, 400 holds at once from many users.
    let url = pool.connect_options().as_ref().clone();
    let second = PgPoolOptions::new().max_connections(4).connect_with(url).await.unwrap();
    let ledgers = [ledger(&pool), ledger(&second)];
    let holds = (0_u64..400).map(|number| {
        let replica: Ledger = ledgers[usize::from(number % 2 == 0)].clone();
        let payer = payer("search", &format!("user-{}", number % 17));
        tokio::spawn(async move { hold(&replica, id(number), &payer, 10).await.unwrap() })
    });
    let mut grants = 0;
    for held in holds.collect::<Vec<_>>() {
        grants += i64::from(matches!(held.await.unwrap(), Decision::Granted { .. }));
    }
    assert_eq!(grants, 37);
    assert_eq!(standing(&pool, org).await, (0, 370));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn nothing_is_held_after_the_deadline(pool: PgPool) {
    let org = budget(&pool, "", "", "day", 1_000).await;
    let ledger = ledger(&pool);
    granted(&ledger, id(1), 1).await;
    // Somebody sits on the org's counter; the hold's caller gives up.
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("select from budget_counters for update").execute(&mut *blocker).await.unwrap();
    let soon = Instant::now() + Duration::from_millis(50);
    let first = ledger.hold(ask(id(2), &ann(), 5), soon).await;
    assert_eq!(first, Err(HoldFailure::Deadline));
    // It was in the batch that waits; its void follows. One that queued behind it is not even tried.
    let second = ledger.hold(ask(id(3), &ann(), 7), Instant::now() + Duration::from_millis(10)).await;
    assert_eq!(second, Err(HoldFailure::Deadline));
    blocker.rollback().await.unwrap();
    granted(&ledger, id(4), 1).await;
    let open =
        number(&pool, "select coalesce(sum(held_nanousd), 0)::bigint from holds where state = 'open'").await;
    assert!(open == 2 || open == 7, "only the batch that was under way may have held: {open}");
    record(&pool, vec![void_of(&pool, 5).await]).await;
    assert_eq!(standing(&pool, org).await, (0, 2));
}

async fn void_of(pool: &PgPool, held_nanousd: i64) -> (HoldKey, budget_backend::tracker::Item) {
    let hold_id: Option<uuid::Uuid> = sqlx::query_scalar("select hold_id from holds where held_nanousd = $1")
        .bind(held_nanousd)
        .fetch_optional(pool)
        .await
        .unwrap();
    void(hold_id.unwrap_or_else(|| id(999)))
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_full_queue_is_refused_at_once(pool: PgPool) {
    budget(&pool, "", "", "day", 1_000).await;
    let settings = budget_backend::ledger::LedgerSettings { lanes: 1, queue_len: 1, hold_ttl_s: 900 };
    let ledger = Ledger::start(&pool, settings).0;
    granted(&ledger, id(1), 1).await;
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("select from budget_counters for update").execute(&mut *blocker).await.unwrap();
    // One batch can wait for the counter and one hold in the queue; of the rest somebody is turned away.
    let holds: Vec<_> = (2_u64..20)
        .map(|number| {
            let ledger = ledger.clone();
            tokio::spawn(async move { hold(&ledger, id(number), &ann(), 1).await })
        })
        .collect();
    let mut refused = 0;
    let mut waiting = Vec::new();
    for hold in holds {
        if hold.is_finished() || waiting.len() >= 2 {
            refused += i32::from(hold.await.unwrap() == Err(HoldFailure::Overloaded));
        } else {
            waiting.push(hold);
            tokio::task::yield_now().await;
        }
    }
    assert!(refused > 0);
    blocker.rollback().await.unwrap();
    for hold in waiting {
        let answer = hold.await.unwrap();
        assert!(matches!(answer, Ok(Decision::Granted { .. }) | Err(HoldFailure::Overloaded)), "{answer:?}");
    }
}
