//! A lane: one task that takes everything that queued up while its last batch was committing and
//! decides it in one transaction. No timer and no added wait: a lone hold is a batch of one.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::decide::{CounterKey, Counters, Decision, Grant, KnownHold, KnownHolds, Rewritten, decide};
use super::policies::Policies;
use super::store::{Locked, NewHold, Session, Written};
use super::terms::{Terms, terms};
use super::{HoldAsk, HoldFailure};
use crate::budget::Scope;
use crate::pattern::Names;

/// Most holds decided in one transaction.
const MAX_BATCH: usize = 1_024;

/// How often a batch is decided again after something changed under it, before it is given up.
const MAX_ATTEMPTS: usize = 8;

/// Longest wait for the database within one attempt. Its own limits are shorter; this one is for a
/// session that says nothing at all.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

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
    let mut lane = Lane { pool, hold_ttl_s, session: None, policies: Policies::default(), clock: None };
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
        crate::metrics::lane_batch(live.len());
        let asks: Vec<&HoldAsk> = live.iter().map(|waiting| &waiting.ask).collect();
        let last_deadline = live.iter().map(|waiting| waiting.deadline).max().unwrap_or(now);
        let answers = lane.answer(&asks, last_deadline).await;
        for (waiting, answer) in live.into_iter().zip(answers) {
            // Nobody listens when the caller's deadline passed meanwhile; its void follows.
            let _gone = waiting.reply.send(answer);
        }
    }
}

/// What a lane keeps between batches.
struct Lane {
    pool: PgPool,
    hold_ttl_s: i64,
    session: Option<Session>,
    policies: Policies,
    /// The database's clock when it was last seen, microseconds since the Unix epoch.
    clock: Option<(Instant, i64)>,
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
    #[error("the database said nothing for {} ms", ATTEMPT_LIMIT.as_millis())]
    Silent,
}

impl BatchError {
    /// Whether the connection is gone. Then the batch may be tried on another one even if it was
    /// committed: its ids are known by then and are answered with their grants.
    fn lost_connection(&self) -> bool {
        match self {
            // Classes 08 and 57, and a transaction ended because it sat idle.
            Self::Database(sqlx::Error::Database(error)) => error
                .code()
                .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "25P03"),
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) | Self::Silent => true,
            _ => false,
        }
    }

    /// Whether what went wrong may lie with one org of the batch.
    fn may_be_one_org_s(&self) -> bool {
        match self {
            // A lock or a statement that took too long would only take as long again.
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            Self::Database(error) => {
                matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
            }
            Self::Window(_) | Self::Contended => true,
            Self::Silent => false,
        }
    }
}

/// The holds of a batch, and what they have in common.
struct Batch<'a> {
    asks: &'a [&'a HoldAsk],
    /// The different payers and models, each by its first hold: what is set for them is worked out once each.
    callers: Vec<(&'a HoldAsk, Names)>,
    /// For each hold, its caller.
    caller_of: Vec<usize>,
    scopes: BTreeSet<Scope>,
    orgs: BTreeSet<&'a str>,
    /// Ids are new almost always, so they are looked up only after an insert has found one.
    look_up_ids: bool,
}

impl<'a> Batch<'a> {
    fn new(asks: &'a [&'a HoldAsk]) -> Self {
        let mut numbers = HashMap::new();
        let mut callers = Vec::new();
        let caller_of = asks
            .iter()
            .map(|ask| {
                let caller = (&ask.payer, ask.provider.as_str(), ask.model.as_str());
                *numbers.entry(caller).or_insert_with(|| {
                    callers.push((*ask, ask.others.names(&ask.model)));
                    callers.len().saturating_sub(1)
                })
            })
            .collect();
        let scopes = callers.iter().flat_map(|(ask, _)| Scope::candidates(&ask.payer)).collect();
        let orgs = callers.iter().map(|(ask, _)| ask.payer.org.as_str()).collect();
        Self { asks, callers, caller_of, scopes, orgs, look_up_ids: false }
    }

    fn ids(&self) -> BTreeSet<(&'a str, Uuid)> {
        self.asks.iter().map(|ask| (ask.payer.org.as_str(), ask.hold_id)).collect()
    }

    /// Each hold with its terms.
    fn calls<'b>(&'b self, terms: &'b [Terms]) -> impl Iterator<Item = (&'a HoldAsk, &'b Terms)> {
        let of = |caller: &usize| terms.get(*caller);
        self.asks.iter().copied().zip(self.caller_of.iter().filter_map(of))
    }

    /// Decides in arrival order, each hold seeing what those before it took.
    fn decide(&self, terms: &[Terms], counters: &Counters, mut known: KnownHolds<'a>) -> Vec<Decision> {
        let mut counters = counters.clone();
        self.calls(terms).map(|(ask, terms)| decide(ask, terms, &mut counters, &mut known)).collect()
    }

    fn new_holds<'b>(&'b self, terms: &'b [Terms], decisions: &'b [Decision]) -> Vec<NewHold<'b>> {
        let granted = self.calls(terms).zip(decisions).filter_map(|(call, decision)| match decision {
            Decision::Granted(grant) => Some((call, grant)),
            _ => None,
        });
        granted.map(|((ask, terms), grant)| new_hold(ask, terms, grant)).collect()
    }
}

impl Lane {
    /// Answers a batch. What keeps one org from being decided (a row that can't be read, budgets that
    /// change all the time) must not fail the others: then each org is decided by itself.
    async fn answer(&mut self, asks: &[&HoldAsk], last_deadline: Instant) -> Vec<Answer> {
        match self.decide_batch(asks, last_deadline).await {
            Ok(decisions) => return decisions.into_iter().map(Ok).collect(),
            Err(error) => {
                tracing::error!(%error, holds = asks.len(), "a batch of holds failed");
                if !error.may_be_one_org_s() || is_one_org(asks) {
                    return asks.iter().map(|_| Err(HoldFailure::Database)).collect();
                }
            }
        }
        let mut answers: Vec<Option<Answer>> = asks.iter().map(|_| None).collect();
        let orgs: BTreeSet<&str> = asks.iter().map(|ask| ask.payer.org.as_str()).collect();
        for org in orgs {
            let (places, own): (Vec<usize>, Vec<&HoldAsk>) =
                asks.iter().enumerate().filter(|(_, ask)| ask.payer.org == org).unzip();
            let decided = self.decide_batch(&own, last_deadline).await;
            if let Err(error) = &decided {
                tracing::error!(%error, org, holds = own.len(), "the holds of an org failed");
            }
            let mut decisions = decided.ok().into_iter().flatten();
            for place in places {
                if let Some(answer) = answers.get_mut(place) {
                    *answer = Some(decisions.next().ok_or(HoldFailure::Database));
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(HoldFailure::Database))).collect()
    }

    /// Decides a batch, on another connection if the first is lost while somebody still waits.
    async fn decide_batch(
        &mut self,
        asks: &[&HoldAsk],
        last_deadline: Instant,
    ) -> Result<Vec<Decision>, BatchError> {
        let result = self.decide_on_session(asks).await;
        if Instant::now() < last_deadline && result.as_ref().is_err_and(BatchError::lost_connection) {
            return self.decide_on_session(asks).await;
        }
        result
    }

    async fn decide_on_session(&mut self, asks: &[&HoldAsk]) -> Result<Vec<Decision>, BatchError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.pool).await?,
        };
        let mut batch = Batch::new(asks);
        for _ in 0..MAX_ATTEMPTS {
            let attempt = tokio::time::timeout(ATTEMPT_LIMIT, self.attempt(&mut session, &mut batch)).await;
            match attempt.unwrap_or(Err(BatchError::Silent)) {
                Ok(Some(decisions)) => {
                    self.session = Some(session);
                    return Ok(decisions);
                }
                Ok(None) => {}
                Err(error) => {
                    // Its transaction, if it lives, must not keep its locks.
                    session.discard().await;
                    return Err(error);
                }
            }
        }
        self.session = Some(session);
        Err(BatchError::Contended)
    }

    /// Decides once; `None` when something has changed and it must be decided again. Leaves no
    /// transaction open.
    async fn attempt(
        &mut self,
        session: &mut Session,
        batch: &mut Batch<'_>,
    ) -> Result<Option<Vec<Decision>>, BatchError> {
        let missing = self.policies.missing(&batch.scopes);
        if !missing.is_empty() {
            let now_unix_us = session.read_policies(&missing, &mut self.policies).await?;
            self.clock = Some((Instant::now(), now_unix_us));
            if !self.policies.missing(&batch.scopes).is_empty() {
                // They were read at another version, and what was known at the old one is forgotten.
                return Ok(None);
            }
        }
        let terms = self.terms(batch)?;
        // Those of the models that a ladder may degrade to as well: which one runs is known only under
        // the locks, and by then none may be added.
        let touches = terms.iter().flat_map(Terms::all_touches);
        let keys: BTreeSet<CounterKey> = touches.map(|touch| touch.key.clone()).collect();
        let locked = session.lock(&keys, &batch.orgs).await?;
        self.clock = Some((Instant::now(), locked.now_unix_us));
        let in_force = !self.policies.forget_stale(&locked.versions);
        if !in_force || !terms.iter().all(|terms| terms.hold_at(locked.now_unix_us)) {
            session.roll_back().await?;
            return Ok(None);
        }
        if locked.counters.len() < keys.len() {
            session.roll_back().await?;
            let missing = keys.into_iter().filter(|key| !locked.counters.contains_key(key)).collect();
            session.insert_counters(&missing).await?;
            return Ok(None);
        }
        self.decide_locked(session, batch, &terms, locked).await
    }

    async fn decide_locked(
        &self,
        session: &mut Session,
        batch: &mut Batch<'_>,
        terms: &[Terms],
        locked: Locked,
    ) -> Result<Option<Vec<Decision>>, BatchError> {
        let known = if batch.look_up_ids { known_holds(session, batch).await? } else { KnownHolds::new() };
        let mut decisions = batch.decide(terms, &locked.counters, known);
        let turned_away =
            |decision: &Decision| matches!(decision, Decision::Refused(_) | Decision::Barred(_));
        if !batch.look_up_ids && decisions.iter().any(turned_away) {
            // A repeat of a granted id is answered with its grant, even when nothing is left by now.
            let known = known_holds(session, batch).await?;
            if !known.is_empty() {
                decisions = batch.decide(terms, &locked.counters, known);
            }
        }
        let holds = batch.new_holds(terms, &decisions);
        if holds.is_empty() {
            // What another wrote and has not told anybody yet must not be told by a repeat.
            let tells = |decision: &Decision| matches!(decision, Decision::Repeated(_) | Decision::Closed);
            if decisions.iter().any(tells) {
                session.roll_back_and_flush().await?;
            } else {
                session.roll_back().await?;
            }
            return Ok(Some(decisions));
        }
        let written = session.write(&holds, locked.now_unix_us, self.hold_ttl_s).await?;
        batch.look_up_ids = written == Written::Clash;
        Ok((written == Written::All).then_some(decisions))
    }

    /// The terms of each caller by what the database's clock should say; whether it says so is checked
    /// under the locks.
    fn terms(&self, batch: &Batch<'_>) -> Result<Vec<Terms>, BatchError> {
        let now_unix_us = self.clock.map_or(0, |(at, unix_us)| {
            unix_us.saturating_add(i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX))
        });
        let of = |(ask, names): &(&HoldAsk, Names)| {
            Ok(terms(&self.policies, &ask.payer, names, ask.others.as_ref(), now_unix_us)?)
        };
        batch.callers.iter().map(of).collect()
    }
}

fn is_one_org(asks: &[&HoldAsk]) -> bool {
    asks.windows(2).all(|pair| matches!(pair, [a, b] if a.payer.org == b.payer.org))
}

/// Which ids of a batch have a row already.
async fn known_holds<'a>(session: &mut Session, batch: &Batch<'a>) -> sqlx::Result<KnownHolds<'a>> {
    let ids = batch.ids();
    let found = session.known_holds(&ids).await?;
    let mut known = KnownHolds::new();
    for ask in batch.asks {
        let org = ask.payer.org.as_str();
        let Some(hold) = found.get(&(org.to_owned(), ask.hold_id)) else { continue };
        let team = ask.payer.team.as_deref().unwrap_or_default();
        let user = ask.payer.user.as_deref().unwrap_or_default();
        let same_call = hold.call == [team, user, &ask.provider, &ask.model];
        let rewrite = hold.rewrite.clone();
        let entry = KnownHold { open: hold.open, held_nanousd: hold.held_nanousd, same_call, rewrite };
        // Two asks by one id are one call only if both are the one it was made for.
        known.entry((org, ask.hold_id)).or_insert(entry).same_call &= same_call;
    }
    Ok(known)
}

fn new_hold<'a>(ask: &'a HoldAsk, terms: &'a Terms, grant: &'a Grant) -> NewHold<'a> {
    let Rewritten { model, output_cap_tokens, clamped } = &grant.rewrite;
    let run = model.as_ref().and_then(|model| terms.targets.get(model)).unwrap_or(terms);
    NewHold {
        org: &ask.payer.org,
        hold_id: ask.hold_id,
        team: ask.payer.team.as_deref().unwrap_or_default(),
        user_name: ask.payer.user.as_deref().unwrap_or_default(),
        provider: &ask.provider,
        model: model.as_ref().unwrap_or(&ask.model),
        asked_model: model.as_ref().map(|_| ask.model.as_str()),
        output_cap_tokens: output_cap_tokens.map(|cap| i64::try_from(cap).unwrap_or(i64::MAX)),
        clamped: *clamped,
        api: ask.api.as_str(),
        held_nanousd: grant.held_nanousd,
        counters: run.touches.iter().map(|touch| &touch.key.counter).collect(),
        tags: &ask.tags,
        override_id: grant.override_id,
    }
}
