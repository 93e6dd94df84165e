//! A lane: one task that takes everything that queued up while its last batch was committing and
//! decides it in one transaction. No timer and no added wait: a lone hold is a batch of one.

use std::collections::BTreeSet;
use std::time::Instant;

use sqlx::{Connection, PgPool};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::decide::{Counters, Decision, KnownHolds, Touch, decide, touched};
use super::store::{self, BudgetsRead, NewHold, Written};
use super::{HoldAsk, HoldFailure};
use crate::budget::Scope;

/// Most holds decided in one transaction.
const MAX_BATCH: usize = 256;

/// How often a batch is decided again after something changed under it, before it is given up.
const MAX_ATTEMPTS: usize = 6;

/// What comes back for one hold.
pub type Answer = Result<Decision, HoldFailure>;

/// A hold waiting in a lane.
pub struct Waiting {
    /// What is asked.
    pub ask: HoldAsk,
    /// After this nobody waits any more, and nothing is held.
    pub deadline: Instant,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Runs until the queue is closed and empty.
pub async fn run(pool: PgPool, hold_ttl_s: i64, mut queue: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let now = Instant::now();
        let (live, late): (Vec<Waiting>, Vec<Waiting>) =
            batch.drain(..).partition(|waiting| waiting.deadline > now && !waiting.reply.is_closed());
        for waiting in late {
            let _gone = waiting.reply.send(Err(HoldFailure::Deadline));
        }
        if live.is_empty() {
            continue;
        }
        let asks: Vec<&HoldAsk> = live.iter().map(|waiting| &waiting.ask).collect();
        let answers = settle_on(&pool, hold_ttl_s, &asks).await;
        for (waiting, answer) in live.into_iter().zip(answers) {
            // Nobody listens when the caller's deadline passed meanwhile; its void follows.
            let _gone = waiting.reply.send(answer);
        }
    }
}

async fn settle_on(pool: &PgPool, hold_ttl_s: i64, asks: &[&HoldAsk]) -> Vec<Answer> {
    match decide_batch(pool, hold_ttl_s, asks).await {
        Ok(decisions) => decisions.into_iter().map(Ok).collect(),
        Err(error) => {
            tracing::error!(%error, holds = asks.len(), "a batch of holds failed");
            asks.iter().map(|_| Err(HoldFailure::Database)).collect()
        }
    }
}

/// Why a batch could not be decided.
#[derive(Debug, thiserror::Error)]
enum BatchError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Window(#[from] crate::window::WindowError),
    #[error("budgets or holds changed under the batch {MAX_ATTEMPTS} times")]
    Contended,
}

/// One attempt's end.
enum Attempt {
    Done(Vec<Decision>),
    /// Counters to make before trying again.
    Missing(BTreeSet<super::decide::CounterKey>),
    Stale,
    /// Some ids exist already; look them up next time.
    Clash,
}

async fn decide_batch(
    pool: &PgPool,
    hold_ttl_s: i64,
    asks: &[&HoldAsk],
) -> Result<Vec<Decision>, BatchError> {
    let scopes: BTreeSet<Scope> = asks.iter().flat_map(|ask| Scope::candidates(&ask.payer)).collect();
    let ids: BTreeSet<(String, Uuid)> = asks.iter().map(|ask| (ask.payer.org.clone(), ask.hold_id)).collect();
    // Ids are new almost always, so they are looked up only after an insert has found one.
    let mut look_up_ids = false;
    let mut conn = pool.acquire().await?;
    for _ in 0..MAX_ATTEMPTS {
        let mut transaction = conn.begin().await?;
        let read = store::read_budgets(&mut transaction, &scopes).await?;
        let touches = touch_all(asks, &read)?;
        let keys = touches.iter().flatten().map(|touch| touch.key.clone()).collect::<BTreeSet<_>>();
        let counters = store::lock_counters(&mut transaction, &keys).await?;
        let known =
            if look_up_ids { store::known_holds(&mut transaction, &ids).await? } else { KnownHolds::new() };
        let attempt = if counters.len() < keys.len() {
            Attempt::Missing(keys.into_iter().filter(|key| !counters.contains_key(key)).collect())
        } else {
            decide_locked(&mut transaction, hold_ttl_s, asks, &read, &touches, counters, known).await?
        };
        match attempt {
            Attempt::Done(decisions) => {
                transaction.commit().await?;
                return Ok(decisions);
            }
            Attempt::Missing(missing) => {
                transaction.rollback().await?;
                store::insert_counters(pool, &missing).await?;
            }
            Attempt::Stale => transaction.rollback().await?,
            Attempt::Clash => {
                transaction.rollback().await?;
                look_up_ids = true;
            }
        }
    }
    Err(BatchError::Contended)
}

fn touch_all(asks: &[&HoldAsk], read: &BudgetsRead) -> Result<Vec<Vec<Touch>>, BatchError> {
    let now_unix_s = read.now_unix_us.div_euclid(1_000_000);
    asks.iter().map(|ask| touched(&read.budgets, &ask.payer, now_unix_s).map_err(BatchError::from)).collect()
}

async fn decide_locked(
    transaction: &mut sqlx::PgConnection,
    hold_ttl_s: i64,
    asks: &[&HoldAsk],
    read: &BudgetsRead,
    touches: &[Vec<Touch>],
    counters: Counters,
    mut known: KnownHolds,
) -> Result<Attempt, BatchError> {
    let (mut decisions, mut holds) = decide_all(asks, touches, counters.clone(), known.clone());
    if known.is_empty() && decisions.iter().any(|decision| matches!(decision, Decision::Refused(_))) {
        // A repeat of a granted id is answered with its grant, even when nothing is left by now.
        let ids = asks.iter().map(|ask| (ask.payer.org.clone(), ask.hold_id)).collect();
        known = store::known_holds(transaction, &ids).await?;
        if !known.is_empty() {
            (decisions, holds) = decide_all(asks, touches, counters, known);
        }
    }
    if holds.is_empty() {
        return Ok(Attempt::Done(decisions));
    }
    Ok(match store::write(transaction, read, &holds, hold_ttl_s).await? {
        Written::All => Attempt::Done(decisions),
        Written::Stale => Attempt::Stale,
        Written::Clash => Attempt::Clash,
    })
}

/// Decides in arrival order, each hold seeing what those before it took.
fn decide_all(
    asks: &[&HoldAsk],
    touches: &[Vec<Touch>],
    mut counters: Counters,
    mut known: KnownHolds,
) -> (Vec<Decision>, Vec<NewHold>) {
    let mut decisions = Vec::with_capacity(asks.len());
    let mut holds = Vec::new();
    for (ask, touches) in asks.iter().zip(touches) {
        let id = (ask.payer.org.as_str(), ask.hold_id);
        let decision = decide(id, ask.amount_nanousd, touches, &mut counters, &mut known);
        if matches!(decision, Decision::Granted { .. }) {
            holds.push(new_hold(ask, touches));
        }
        decisions.push(decision);
    }
    (decisions, holds)
}

fn new_hold(ask: &HoldAsk, touches: &[Touch]) -> NewHold {
    NewHold {
        org: ask.payer.org.clone(),
        hold_id: ask.hold_id,
        team: ask.payer.team.clone().unwrap_or_default(),
        user: ask.payer.user.clone().unwrap_or_default(),
        provider: ask.provider.clone(),
        model: ask.model.clone(),
        api: ask.api.as_str(),
        held_nanousd: ask.amount_nanousd,
        counters: touches.iter().map(|touch| touch.key.counter.clone()).collect(),
    }
}
