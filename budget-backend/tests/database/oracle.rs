//! What the ledger should say, kept in memory: one org, a budget for all of it and one for each user a
//! day, with ladders. Small enough to be believed.

use std::collections::BTreeMap;

use purser_protocol::{Outcome, Payer};
use uuid::Uuid;

use crate::support::*;

/// Life of a hold without a renewal, seconds; as the tests set the ledger up.
const HOLD_TTL_S: i64 = SETTINGS.hold_ttl_s;
/// Age at which a closed hold's row is dropped, seconds; as the tests set the tracker up.
const TOMBSTONE_AGE_S: i64 = 3_600;
const DAY_S: i64 = 24 * 3_600;
/// From when on a user's calls are degraded, percent of the user's budget.
const DEGRADE_AT_PERCENT: i64 = 70;
/// Lowest caps of the org's and the users' budgets, tokens.
const FLOORS: [i64; 2] = [4, 8];

/// The ladders, as the budgets' rows have them: the org's, the users'.
pub fn ladders() -> [serde_json::Value; 2] {
    let models = serde_json::json!({"gpt-4o-mini": CHEAP_MODEL});
    [
        serde_json::json!({"warn_at_percent": 50, "clamp": {"floor_tokens": FLOORS[0]}}),
        serde_json::json!({"degrade": {"at_percent": DEGRADE_AT_PERCENT, "models": models},
                           "clamp": {"floor_tokens": FLOORS[1]}}),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open { expires_at_s: i64 },
    Settled,
    Voided,
    Expired,
}

/// An id the ledger has met.
#[derive(Clone, Copy)]
struct Call {
    state: State,
    held: i64,
    /// The day it counts in, if that was fixed by a hold.
    day: Option<i64>,
    closed_at_s: i64,
}

/// What an id has been charged, and on which day.
#[derive(Clone, Copy)]
struct Charge {
    nanousd: i64,
    day: i64,
    settled: bool,
}

/// The org's budget (window `total`) and the users' (`search/*`, window `day`).
pub struct Oracle {
    pub now_s: i64,
    pub org_limit: i64,
    pub org_top_up: i64,
    pub user_limit: i64,
    calls: BTreeMap<Uuid, Call>,
    charges: BTreeMap<Uuid, Charge>,
    /// Ids whose row is gone.
    dropped: BTreeMap<Uuid, Call>,
}

/// Ids with an even last bit are `ann`'s, the others `bob`'s.
pub fn payer_of(id: Uuid) -> Payer {
    payer("search", if id.as_u128().is_multiple_of(2) { "ann" } else { "bob" })
}

/// `(spent, held)` of the org, and of a user's day.
pub type Standings = BTreeMap<(String, i64), (i64, i64)>;

impl Oracle {
    pub fn new(now_s: i64, org_limit: i64, user_limit: i64) -> Self {
        Self {
            now_s,
            org_limit,
            org_top_up: 0,
            user_limit,
            calls: BTreeMap::new(),
            charges: BTreeMap::new(),
            dropped: BTreeMap::new(),
        }
    }

    fn today(&self) -> i64 {
        self.now_s.div_euclid(DAY_S)
    }

    /// Everything that is not zero: the org under `""`, users under their name with the day's first second.
    pub fn standings(&self) -> Standings {
        let mut standings = Standings::new();
        let mut add = |id: &Uuid, day: i64, spent: i64, held: i64| {
            let user = payer_of(*id).user.unwrap_or_default();
            for place in [(String::new(), 0), (user, day * DAY_S)] {
                let standing = standings.entry(place).or_default();
                standing.0 += spent;
                standing.1 += held;
            }
        };
        for (id, charge) in &self.charges {
            add(id, charge.day, charge.nanousd, 0);
        }
        for (id, call) in &self.calls {
            if let (State::Open { .. }, Some(day)) = (call.state, call.day) {
                add(id, day, 0, call.held);
            }
        }
        standings.retain(|_, standing| *standing != (0, 0));
        standings
    }

    /// Whether an id's row was dropped; its filter has long forgotten it.
    pub fn is_forgotten(&self, id: Uuid) -> bool {
        self.dropped.contains_key(&id) && !self.calls.contains_key(&id)
    }

    /// A call whose cap is `amount` tokens, of one nano-USD each; half with the cheap model.
    pub fn hold(&mut self, id: Uuid, amount: i64) -> &'static str {
        match self.calls.get(&id).map(|call| call.state) {
            Some(State::Open { .. }) => return "repeated",
            Some(_) => return "closed",
            None => {}
        }
        let standings = self.standings();
        let used = |place: &str, start_s: i64| {
            standings.get(&(place.to_owned(), start_s)).map_or(0, |(spent, held)| spent + held)
        };
        let user = payer_of(id).user.unwrap_or_default();
        let user_used = used(&user, self.today() * DAY_S);
        let cheap = (user_used + amount) * 100 >= self.user_limit * DEGRADE_AT_PERCENT;
        let needed = if cheap { (amount + 1) / 2 } else { amount };
        let left = [self.org_limit + self.org_top_up - used("", 0), self.user_limit - user_used];
        let short = || left.into_iter().zip(FLOORS).filter(|(left, _)| *left < needed);
        let held = match short().map(|(left, _)| left).min() {
            None => needed,
            Some(least) => {
                let pays = if cheap { least * 2 } else { least };
                if short().any(|(_, floor)| pays < floor) {
                    return "refused";
                }
                least
            }
        };
        let state = State::Open { expires_at_s: self.now_s + HOLD_TTL_S };
        self.calls.insert(id, Call { state, held, day: Some(self.today()), closed_at_s: 0 });
        "granted"
    }

    /// Closes an id; gives the day it counts in.
    fn close(&mut self, id: Uuid, state: State) -> i64 {
        let charged = self.charges.get(&id).map(|charge| charge.day);
        let closed_at_s = self.now_s;
        let call = self.calls.entry(id).or_insert(Call { state, held: 0, day: charged, closed_at_s });
        (call.state, call.closed_at_s) = (state, closed_at_s);
        call.day.unwrap_or(self.now_s.div_euclid(DAY_S))
    }

    pub fn settle(&mut self, id: Uuid, cost: i64) -> Outcome {
        let settled = self.calls.get(&id).is_some_and(|call| call.state == State::Settled)
            || self.charges.get(&id).is_some_and(|charge| charge.settled);
        if settled {
            return Outcome::Duplicate;
        }
        let day = self.close(id, State::Settled);
        self.charges.insert(id, Charge { nanousd: cost, day, settled: true });
        Outcome::Recorded
    }

    pub fn void(&mut self, id: Uuid) -> Outcome {
        let closed = match self.calls.get(&id) {
            Some(call) => !matches!(call.state, State::Open { .. }),
            None => self.charges.contains_key(&id),
        };
        if closed {
            return Outcome::Duplicate;
        }
        self.close(id, State::Voided);
        Outcome::Recorded
    }

    pub fn renew(&mut self, id: Uuid) -> Outcome {
        let now_s = self.now_s;
        match self.calls.get_mut(&id).map(|call| &mut call.state) {
            Some(State::Open { expires_at_s }) => {
                *expires_at_s = (*expires_at_s).max(now_s + HOLD_TTL_S);
                Outcome::Recorded
            }
            _ => Outcome::Duplicate,
        }
    }

    /// Charges what is due, then forgets what was closed long ago; gives how many were charged.
    pub fn sweep(&mut self) -> usize {
        let due =
            |call: &Call| matches!(call.state, State::Open { expires_at_s } if expires_at_s <= self.now_s);
        let due: Vec<(Uuid, i64)> =
            self.calls.iter().filter(|(_, call)| due(call)).map(|(id, call)| (*id, call.held)).collect();
        for (id, held) in &due {
            let day = self.close(*id, State::Expired);
            self.charges.insert(*id, Charge { nanousd: *held, day, settled: false });
        }
        let now_s = self.now_s;
        let old = |call: &Call| {
            !matches!(call.state, State::Open { .. }) && call.closed_at_s < now_s - TOMBSTONE_AGE_S
        };
        let old: Vec<Uuid> = self.calls.iter().filter(|(_, call)| old(call)).map(|(id, _)| *id).collect();
        for id in old {
            self.dropped.extend(self.calls.remove(&id).map(|call| (id, call)));
        }
        due.len()
    }
}
