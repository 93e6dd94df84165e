//! A seeded random run against a small in-memory oracle: the books must balance after every step.

use std::collections::BTreeMap;

use budget_backend::ledger::Decision;
use purser_protocol::Outcome;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::*;

const STEPS: u64 = 150;

/// A generator small enough to replay by its seed anywhere (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Settled,
    Voided,
    Expired,
}

/// What the ledger should say, for one budget that covers everything.
#[derive(Default)]
struct Oracle {
    limit: i64,
    holds: BTreeMap<Uuid, (State, i64)>,
    charged: BTreeMap<Uuid, i64>,
}

impl Oracle {
    fn held(&self) -> i64 {
        self.holds.values().filter(|(state, _)| *state == State::Open).map(|(_, amount)| amount).sum()
    }

    fn spent(&self) -> i64 {
        self.charged.values().sum()
    }

    fn hold(&mut self, id: Uuid, amount: i64) -> &'static str {
        match self.holds.get(&id) {
            Some((State::Open, _)) => "repeated",
            Some(_) => "closed",
            None if self.spent() + self.held() + amount <= self.limit => {
                self.holds.insert(id, (State::Open, amount));
                "granted"
            }
            None => "refused",
        }
    }

    fn settle(&mut self, id: Uuid, cost: i64) -> Outcome {
        let (state, amount) = self.holds.get(&id).copied().unwrap_or((State::Voided, 0));
        if state == State::Settled {
            return Outcome::Duplicate;
        }
        self.holds.insert(id, (State::Settled, amount));
        self.charged.insert(id, cost);
        Outcome::Recorded
    }

    fn void(&mut self, id: Uuid) -> Outcome {
        match self.holds.get(&id).copied() {
            Some((State::Open, amount)) => self.holds.insert(id, (State::Voided, amount)),
            Some(_) => return Outcome::Duplicate,
            None => self.holds.insert(id, (State::Voided, 0)),
        };
        Outcome::Recorded
    }

    fn expire_all(&mut self) {
        for (id, (state, amount)) in &mut self.holds {
            if *state == State::Open {
                *state = State::Expired;
                self.charged.insert(*id, *amount);
            }
        }
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn the_ledger_agrees_with_the_oracle_after_every_step(pool: PgPool) {
    let seed = std::env::var("PURSER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros())
            .unwrap()
    });
    println!("seed {seed}; replay with PURSER_SEED={seed}");
    let mut random = Random(seed);
    let mut oracle = Oracle { limit: 500, ..Oracle::default() };
    let org = budget(&pool, "", "", "total", oracle.limit).await;
    let ledger = ledger(&pool);
    let ids: Vec<Uuid> = (0..40).map(id).collect();
    let mut steps = steps(&pool);
    for step in 0..STEPS {
        let chosen = ids[usize::try_from(random.below(40)).unwrap()];
        let amount = i64::try_from(random.below(60)).unwrap();
        let what = random.below(20);
        let label = format!("seed {seed}, step {step}, action {what}, id {chosen}, amount {amount}");
        match what {
            0..=8 => {
                let decision = hold(&ledger, chosen, &ann(), amount).await.unwrap();
                let name = match decision {
                    Decision::Granted { .. } => "granted",
                    Decision::Repeated { .. } => "repeated",
                    Decision::Closed => "closed",
                    Decision::Refused(_) => "refused",
                };
                assert_eq!(name, oracle.hold(chosen, amount), "{label}");
            }
            9..=17 => {
                let item = if what < 15 { settle(chosen, amount) } else { void(chosen) };
                let expected = if what < 15 { oracle.settle(chosen, amount) } else { oracle.void(chosen) };
                let outcomes = steps.step(vec![item]).await.unwrap();
                assert_eq!(outcomes, [expected], "{label}");
            }
            18 => {
                sqlx::query("update holds set expires_at = now() where state = 'open'")
                    .execute(&pool)
                    .await
                    .unwrap();
                steps.sweep().await;
                oracle.expire_all();
            }
            _ => {
                oracle.limit = i64::try_from(random.below(2_000)).unwrap();
                sqlx::query("update budgets set limit_nanousd = $1")
                    .bind(oracle.limit)
                    .execute(&pool)
                    .await
                    .unwrap();
            }
        }
        assert_eq!(standing(&pool, org).await, (oracle.spent(), oracle.held()), "{label}");
    }
    assert_books_balance(&pool).await;
}
