//! Two replicas on one database: exactly what the limit pays is granted, no commit overspends, and no
//! two writers ever wait for each other in a circle.

use budget_backend::ledger::{Decision, HoldFailure, Ledger};
use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::{Outcome, Payer};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::random_run::{Random, seed};
use crate::support::*;

/// Two ledgers with pools of their own on the database of `pool`.
async fn replicas(pool: &PgPool) -> [(PgPool, Ledger); 2] {
    let options = pool.connect_options().as_ref().clone();
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let own = PgPoolOptions::new().max_connections(6).connect_with(options.clone()).await.unwrap();
        replicas.push((own.clone(), ledger(&own)));
    }
    replicas.try_into().unwrap_or_else(|_| panic!("two replicas"))
}

/// From here on a commit that leaves any counter above its limit fails, and with it its writer.
pub async fn refuse_overspending(pool: &PgPool) {
    for sql in [
        "create function refuse_overspending() returns trigger language plpgsql as $$
         declare
             limit_nanousd bigint;
         begin
             select b.limit_nanousd + new.topped_up_nanousd into limit_nanousd
               from budgets b where b.org = new.org and b.budget_id = new.budget_id;
             if new.spent_nanousd + new.held_nanousd > limit_nanousd then
                 raise exception 'budget % of % overspent: % + % > %', new.budget_id, new.org,
                     new.spent_nanousd, new.held_nanousd, limit_nanousd;
             end if;
             return null;
         end $$",
        "create constraint trigger no_overspending after insert or update on budget_counters
             deferrable initially deferred for each row execute function refuse_overspending()",
    ] {
        sqlx::query(sql).execute(pool).await.unwrap();
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_trigger_of_these_tests_refuses_an_overspending_commit(pool: PgPool) {
    let org = budget(&pool, "", "", "total", 10).await;
    granted(&ledger(&pool), id(1), 10).await;
    refuse_overspending(&pool).await;
    let overspent = sqlx::query("update budget_counters set held_nanousd = 11").execute(&pool).await;
    assert!(overspent.unwrap_err().to_string().contains("overspent"));
    assert_eq!(standing(&pool, org).await, (0, 10));
}

/// The three tiers' budgets for `ann`, of which the one at `tight` has this limit and the others are ample.
async fn tiers(pool: &PgPool, tight: usize, limit_nanousd: i64, strict: bool) -> Vec<i64> {
    let mut budgets = Vec::new();
    for (tier, (team, user)) in [("", ""), ("search", ""), ("search", "ann")].into_iter().enumerate() {
        let limit = if tier == tight { limit_nanousd } else { limit_nanousd.saturating_mul(1_000) };
        budgets.push(budget(pool, team, user, ["month", "week", "total"][tier], limit).await);
    }
    sqlx::query("update budgets set strict = $1 where budget_id = $2")
        .bind(strict)
        .bind(budgets[0])
        .execute(pool)
        .await
        .unwrap();
    budgets
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn of_1000_concurrent_holds_on_two_replicas_exactly_as_many_are_granted_as_the_limit_pays(
    pool: PgPool,
) {
    let seed = seed();
    let mut random = Random(seed);
    refuse_overspending(&pool).await;
    let replicas = replicas(&pool).await;
    for round in 0..4_u64 {
        sqlx::query("update budgets set archived_at = now() where archived_at is null")
            .execute(&pool)
            .await
            .unwrap();
        let strict = round != 0;
        let amount = 1 + random.signed_below(50);
        // What a strict budget holds is the upper bound.
        let Ok(bound) = quote(amount).bound else { panic!("a bound") };
        let each = if strict { bound.amount_nanousd } else { amount };
        let fits = random.signed_below(1_000);
        let limit = fits * each + random.signed_below(each.unsigned_abs());
        let tight = usize::try_from(random.below(3)).unwrap();
        let label = format!("seed {seed}, round {round}: {fits} of {each} fit into {limit} of tier {tight}");
        let budgets = tiers(&pool, tight, limit, strict).await;
        let holds: Vec<_> = (0..1_000_u64)
            .map(|number| {
                let replica = replicas[usize::try_from(number % 2).unwrap()].1.clone();
                let hold_id = id(round * 1_000 + number);
                tokio::spawn(async move { hold(&replica, hold_id, &ann(), amount).await })
            })
            .collect();
        let mut grants = 0;
        for hold in holds {
            match hold.await.unwrap() {
                Ok(Decision::Granted(grant)) => {
                    assert_eq!(grant.held_nanousd, each, "{label}");
                    grants += 1;
                }
                Ok(Decision::Refused(_)) => {}
                other => panic!("{label}: {other:?}"),
            }
        }
        assert_eq!(grants, fits, "{label}");
        for budget in budgets {
            assert_eq!(standing(&pool, budget).await, (0, fits * each), "{label}");
        }
        assert_books_balance(&pool).await;
    }
}

/// Holds by their decision, and what their settlements charged.
#[derive(Default)]
struct Tally {
    granted: i64,
    refused: i64,
    charged_nanousd: i64,
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn no_commit_overspends_while_holds_settlements_and_voids_interleave(pool: PgPool) {
    let seed = seed();
    let mut random = Random(seed);
    refuse_overspending(&pool).await;
    let replicas = replicas(&pool).await;
    let budgets = tiers(&pool, usize::try_from(random.below(3)).unwrap(), 2_000, false).await;
    let mut works = Vec::new();
    for (number, (_, replica)) in (0..2_u64).zip(&replicas) {
        let (granted, settle) = mpsc::unbounded_channel();
        works.push((
            tokio::spawn(ask_in_waves(replica.clone(), Random(random.below(u64::MAX)), number, granted)),
            tokio::spawn(settle_or_void(pool.clone(), Random(random.below(u64::MAX)), settle)),
        ));
    }
    let mut sum = Tally::default();
    for (holds, settlements) in works {
        let (tally, charged) = (holds.await.unwrap(), settlements.await.unwrap());
        sum.granted += tally.granted;
        sum.refused += tally.refused;
        sum.charged_nanousd += charged;
    }
    println!(
        "seed {seed}: {} granted, {} refused, {} charged",
        sum.granted, sum.refused, sum.charged_nanousd
    );
    assert!(
        sum.granted > 0 && sum.refused > 0,
        "seed {seed}: the limit must matter and must not close for good"
    );
    for budget in budgets {
        assert_eq!(standing(&pool, budget).await, (sum.charged_nanousd, 0), "seed {seed}");
    }
    assert!(sum.charged_nanousd <= 2_000, "seed {seed}");
    assert_books_balance(&pool).await;
}

/// Waves of concurrent holds; what is granted goes on to be settled.
async fn ask_in_waves(
    replica: Ledger,
    mut random: Random,
    replica_number: u64,
    granted: mpsc::UnboundedSender<(Uuid, i64)>,
) -> Tally {
    let mut tally = Tally::default();
    for wave in 0..20_u64 {
        let holds: Vec<_> = (0..25_u64)
            .map(|number| {
                let hold_id = id(replica_number * 1_000_000 + wave * 1_000 + number);
                let (replica, amount) = (replica.clone(), 1 + random.signed_below(60));
                tokio::spawn(async move { (hold_id, amount, hold(&replica, hold_id, &ann(), amount).await) })
            })
            .collect();
        for hold in holds {
            match hold.await.unwrap() {
                (hold_id, amount, Ok(Decision::Granted(_))) => {
                    tally.granted += 1;
                    granted.send((hold_id, amount)).unwrap();
                }
                (_, _, Ok(Decision::Refused(_))) => tally.refused += 1,
                (_, _, other) => panic!("{other:?}"),
            }
        }
    }
    tally
}

/// A tracker that closes what was granted, at up to what was held; gives what it charged.
async fn settle_or_void(
    pool: PgPool,
    mut random: Random,
    mut granted: mpsc::UnboundedReceiver<(Uuid, i64)>,
) -> i64 {
    let mut tracker = steps(&pool);
    let (mut charged, mut holds) = (0, Vec::new());
    while granted.recv_many(&mut holds, 16).await > 0 {
        let items: Vec<_> = holds
            .drain(..)
            .map(|(hold_id, amount)| {
                if random.below(2) == 0 {
                    return void(hold_id);
                }
                let cost = random.signed_below(amount.unsigned_abs() + 1) / 8;
                charged += cost;
                settle(hold_id, cost)
            })
            .collect();
        let outcomes = tracker.step(items).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Recorded), "{outcomes:?}");
    }
    charged
}

const ORGS: u64 = 4;

fn some_payer(random: &mut Random) -> Payer {
    Payer {
        org: format!("org-{}", random.below(ORGS)),
        team: Some(format!("team-{}", random.below(3))),
        user: Some(format!("user-{}", random.below(5))),
    }
}

/// Budgets of every tier and window in every org, made in no particular order.
async fn many_budgets(pool: &PgPool, random: &mut Random) {
    let mut budgets = Vec::new();
    for org in 0..ORGS {
        for (team, user) in [("", ""), ("*", ""), ("team-1", ""), ("team-1", "*"), ("team-2", "user-3")] {
            for window in ["day", "week", "month", "total"] {
                budgets.push((random.below(u64::MAX), format!("org-{org}"), team, user, window));
            }
        }
    }
    budgets.sort();
    for (_, org, team, user, window) in budgets {
        let sql = "insert into budgets (org, team, user_name, window_kind, limit_nanousd)
                   values ($1, $2, $3, $4, 1000000000)";
        sqlx::query(sql).bind(org).bind(team).bind(user).bind(window).execute(pool).await.unwrap();
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn writers_of_many_counters_in_any_order_never_deadlock(pool: PgPool) {
    let seed = seed();
    let mut random = Random(seed);
    many_budgets(&pool, &mut random).await;
    let replicas = replicas(&pool).await;
    let mut works = Vec::new();
    for (number, (_, replica)) in (0..2_u64).zip(&replicas) {
        for part in 0..4_u64 {
            let own = Random(random.below(u64::MAX));
            let first = (number * 4 + part) * 1_000_000;
            works.push(tokio::spawn(hold_and_settle(pool.clone(), replica.clone(), own, first)));
        }
    }
    for work in works {
        work.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    for (own, replica) in replicas {
        drop(replica);
        // A session reports what it has counted when it ends.
        own.close().await;
    }
    let deadlocks =
        number(&pool, "select deadlocks from pg_stat_database where datname = current_database()").await;
    assert_eq!(deadlocks, 0, "seed {seed}");
    assert_books_balance(&pool).await;
}

/// Concurrent holds of random payers, then their settlements in random order, again and again. Every
/// failure stops the test: a deadlock's victim gets an error.
async fn hold_and_settle(pool: PgPool, replica: Ledger, mut random: Random, first: u64) {
    let mut tracker = steps(&pool);
    for wave in 0..8_u64 {
        let holds: Vec<_> = (0..24_u64)
            .map(|number| {
                let (replica, payer) = (replica.clone(), some_payer(&mut random));
                let hold_id = id(first + wave * 1_000 + number);
                tokio::spawn(async move {
                    let decision = hold(&replica, hold_id, &payer, 3).await;
                    (hold_id, payer, decision)
                })
            })
            .collect();
        let mut items: Vec<(u64, HoldKey, Item)> = Vec::new();
        for hold in holds {
            let (hold_id, payer, decision): (Uuid, Payer, Result<Decision, HoldFailure>) =
                hold.await.unwrap();
            assert!(matches!(decision, Ok(Decision::Granted(_))), "{decision:?}");
            let (_, item) = settle_for(&payer, hold_id, Some(random.signed_below(6)));
            items.push((random.below(u64::MAX), (payer.org, hold_id), item));
        }
        items.sort_by_key(|(place, _, _)| *place);
        let items = items.into_iter().map(|(_, key, item)| (key, item)).collect();
        let outcomes = tracker.step(items).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Recorded), "{outcomes:?}");
    }
}
