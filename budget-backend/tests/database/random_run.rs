//! A seeded random run against a small in-memory oracle: after every step every counter must say what
//! the oracle says, and no invariant may be broken. Sessions are killed and callers leave on the way.
//!
//! The clock is the run's own, so that days end and holds expire when the run says so: the sessions
//! find functions `now()` and `clock_timestamp()` of the test before PostgreSQL's.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use budget_backend::ledger::decide::Rewritten;
use budget_backend::ledger::{Decision, HoldFailure, Ledger};
use budget_backend::tracker::{HoldKey, Item};
use purser_protocol::Outcome;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::oracle::{Oracle, Standings, ladders, payer_of};
use crate::support::*;

const STEPS: u64 = 250;
const IDS: u64 = 60;
/// How often something is tried again that a killed session has cut off.
const MOST_TRIES: usize = 5;

/// A generator small enough to replay by its seed anywhere (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// A number from 0 to below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// The same, signed.
    pub fn signed_below(&mut self, bound: u64) -> i64 {
        i64::try_from(self.below(bound)).unwrap()
    }
}

/// The run's seed: `PURSER_SEED`, or one of now; printed in either case.
pub fn seed() -> u64 {
    let seed = std::env::var("PURSER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros())
            .unwrap()
    });
    println!("seed {seed}; replay with PURSER_SEED={seed}");
    seed
}

/// Gives the test's database a clock that stands still until it is moved.
async fn own_clock(pool: &PgPool, start_s: i64) {
    let database = pool.connect_options().get_database().unwrap().to_owned();
    for sql in [
        "create schema clock".to_owned(),
        format!("create table clock.at as select to_timestamp({start_s}) as instant"),
        "create function clock.now() returns timestamptz stable language sql as 'select instant from clock.at'"
            .to_owned(),
        "create function clock.clock_timestamp() returns timestamptz volatile language sql
             as 'select instant from clock.at'"
            .to_owned(),
        format!("alter database \"{database}\" set search_path = clock, pg_catalog, public"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(pool).await.unwrap();
    }
}

struct Run {
    /// Sessions that came after the clock.
    pool: PgPool,
    /// One that is never killed.
    survivor: PgPool,
    ledger: Ledger,
    tracker: Steps,
    oracle: Oracle,
    random: Random,
    /// What the verdicts of granted ids changed.
    rewrites: BTreeMap<Uuid, Rewritten>,
    label: String,
}

impl Run {
    async fn new(pool: &PgPool, seed: u64) -> Self {
        // Noon of some day.
        let now_s = 1_790_000_000 / 86_400 * 86_400 + 43_200;
        own_clock(pool, now_s).await;
        let options = pool.connect_options().as_ref().clone();
        let survivor = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(6).connect_with(options).await.unwrap();
        let oracle = Oracle::new(now_s, 900, 300);
        budget(&pool, "", "", "total", oracle.org_limit).await;
        budget(&pool, "search", "*", "day", oracle.user_limit).await;
        for (place, ladder) in ["team = ''", "team <> ''"].into_iter().zip(ladders()) {
            let sql = AssertSqlSafe(format!("update budgets set ladder = $1 where {place}"));
            sqlx::query(sql).bind(ladder).execute(&pool).await.unwrap();
        }
        let (ledger, tracker) = (ledger(&pool), steps(&pool));
        let (random, rewrites) = (Random(seed), BTreeMap::new());
        Self { pool, survivor, ledger, tracker, oracle, random, rewrites, label: String::new() }
    }

    /// Does something while every other session is killed at some point of it, or not at all.
    async fn perhaps_killing<T>(
        survivor: &PgPool,
        after_us: Option<u64>,
        work: impl Future<Output = T>,
    ) -> T {
        let kill = async {
            let Some(after_us) = after_us else { return };
            tokio::time::sleep(Duration::from_micros(after_us)).await;
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()",
            )
            .execute(survivor)
            .await
            .unwrap();
        };
        tokio::join!(work, kill).0
    }

    fn killing(&mut self) -> Option<u64> {
        (self.random.below(8) == 0).then(|| self.random.below(4_000))
    }

    async fn hold(&mut self, id: Uuid, amount: i64) {
        let payer = payer_of(id);
        let mut cut_off = false;
        if self.random.below(8) == 0 {
            // A caller that leaves early, and asks again.
            let patience = Duration::from_micros(self.random.below(3_000));
            let asked = self.ledger.hold(priced_ask(id, &payer, amount), Instant::now() + patience).await;
            // On a busy machine a lock can take longer than a session may wait; asked again, it must do.
            cut_off = matches!(asked, Err(HoldFailure::Deadline | HoldFailure::Database));
            if !cut_off {
                return self.check_hold(id, amount, asked, false);
            }
        }
        for _ in 0..MOST_TRIES {
            let after_us = self.killing();
            let asked = self.ledger.hold(priced_ask(id, &payer, amount), in_time());
            let answer = Self::perhaps_killing(&self.survivor, after_us, asked).await;
            if answer != Err(HoldFailure::Database) {
                // A lane whose session dies tries again by itself.
                return self.check_hold(id, amount, answer, cut_off || after_us.is_some());
            }
            cut_off = true;
        }
        panic!("{}: no answer in {MOST_TRIES} tries", self.label);
    }

    fn check_hold(&mut self, id: Uuid, amount: i64, answer: Result<Decision, HoldFailure>, repeats: bool) {
        let said = match answer {
            Ok(Decision::Granted(grant)) => {
                self.rewrites.insert(id, grant.rewrite);
                "granted"
            }
            Ok(Decision::Repeated(grant)) => {
                let first = self.rewrites.entry(id).or_insert_with(|| grant.rewrite.clone());
                assert_eq!(*first, grant.rewrite, "{}", self.label);
                "repeated"
            }
            Ok(Decision::Closed) => "closed",
            Ok(Decision::Refused(_)) => "refused",
            other => panic!("{}: {other:?}", self.label),
        };
        let expected = self.oracle.hold(id, amount);
        // What was cut off may have been granted the first time.
        let same = said == expected || (repeats && (said, expected) == ("repeated", "granted"));
        assert!(same, "{}: {said}, expected {expected}; cut off before: {repeats}", self.label);
    }

    async fn record(&mut self, item: (HoldKey, Item), expected: Outcome) {
        let mut cut_off = false;
        for _ in 0..MOST_TRIES {
            let after_us = self.killing();
            let step = self.tracker.step(vec![item.clone()]);
            match Self::perhaps_killing(&self.survivor, after_us, step).await {
                Ok(outcomes) => {
                    let same =
                        outcomes == [expected.clone()] || (cut_off && outcomes == [Outcome::Duplicate]);
                    assert!(same, "{}: {outcomes:?}, expected {expected:?}", self.label);
                    return;
                }
                Err(_) => cut_off = true,
            }
        }
        panic!("{}: not recorded in {MOST_TRIES} tries", self.label);
    }

    async fn step(&mut self, what: u64, id: Uuid, amount: i64) {
        match what {
            0..=11 if self.oracle.is_forgotten(id) => {}
            0..=11 => self.hold(id, amount).await,
            12..=18 => {
                let expected = self.oracle.settle(id, amount);
                self.record(settle_for(&payer_of(id), id, Some(amount)), expected).await;
            }
            19..=21 => {
                let expected = self.oracle.void(id);
                self.record((key(id), Item::Void(payer_of(id))), expected).await;
            }
            22..=23 => {
                let expected = self.oracle.renew(id);
                self.record((key(id), Item::Renew), expected).await;
            }
            24..=25 => {
                // Some minutes, or into another day.
                let by_s = [self.random.signed_below(900), 3_600 + self.random.signed_below(100_000)];
                self.oracle.now_s += by_s[usize::from(what == 25)];
                self.write("update clock.at set instant = to_timestamp($1::bigint)", self.oracle.now_s).await;
            }
            26 => {
                // The first may find its session killed; the next sweep goes on.
                let expired = self.tracker.sweep().await + self.tracker.sweep().await;
                assert_eq!(expired, self.oracle.sweep(), "{}", self.label);
            }
            27 => {
                self.oracle.org_limit = self.random.signed_below(2_500);
                self.write("update budgets set limit_nanousd = $1 where team = ''", self.oracle.org_limit)
                    .await;
            }
            28 => {
                self.oracle.user_limit = self.random.signed_below(600);
                self.write("update budgets set limit_nanousd = $1 where team <> ''", self.oracle.user_limit)
                    .await;
            }
            _ => {
                let top_up = "update budget_counters c set topped_up_nanousd = c.topped_up_nanousd + $1
                                from budgets b where b.budget_id = c.budget_id and b.team = ''";
                if self.write(top_up, amount).await > 0 {
                    self.oracle.org_top_up += amount;
                }
            }
        }
    }

    async fn write(&self, sql: &'static str, value: i64) -> u64 {
        sqlx::query(sql).bind(value).execute(&self.pool).await.unwrap().rows_affected()
    }

    async fn assert_agrees(&self) {
        let counters: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "select subject, extract(epoch from period_start)::bigint, spent_nanousd, held_nanousd
               from budget_counters where (spent_nanousd, held_nanousd) <> (0, 0)",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let said: Standings = counters
            .into_iter()
            .map(|(subject, start_s, spent, held)| ((subject, start_s), (spent, held)))
            .collect();
        assert_eq!(said, self.oracle.standings(), "{}", self.label);
        assert_books_balance(&self.pool).await;
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_ledger_agrees_with_the_oracle_after_every_step(pool: PgPool) {
    let seed = seed();
    let mut run = Run::new(&pool, seed).await;
    let ids: Vec<Uuid> = (0..IDS).map(id).collect();
    for step in 0..STEPS {
        let id = ids[usize::try_from(run.random.below(IDS)).unwrap()];
        let (what, amount) = (run.random.below(30), run.random.signed_below(60));
        run.label = format!("seed {seed}, step {step}, action {what}, id {id}, amount {amount}");
        run.step(what, id, amount).await;
        run.assert_agrees().await;
    }
}
