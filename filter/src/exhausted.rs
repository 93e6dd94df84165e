//! Refusals by budgets that are exhausted for any cost: repeated for a moment without asking, so that an
//! agent that loops stays off the backend, and reported in batches afterwards.
//!
//! The reports go in batches of their own, as renewals do, and are sent again under the same ids until they
//! are answered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use purser_protocol::{
    Call, Deny, MAX_BATCH_ITEMS, Payer, RepeatedDenials, SettlementBatch, SettlementItem, VERSION,
};
use uuid::Uuid;

use crate::identity::Caller;
use crate::ids;
use crate::replies;
use crate::verdict::CalloutAnswer;

/// Most refusals that one worker remembers; the oldest is forgotten first.
pub const MAX_KNOWN: usize = 1_024;

/// Most payers and models whose repeated refusals wait to be reported; those of others are not reported.
pub const MAX_SUBJECTS: usize = 1_024;

/// Longest message of a refusal that is remembered, bytes.
const MAX_MESSAGE_BYTES: usize = 4_096;

/// How long repeated refusals wait for others to be reported with them, milliseconds.
const REPORT_AFTER_MS: u64 = 1_000;

/// A refusal, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The verdict.
    pub deny: Deny,
    /// The hold that it was the answer to.
    pub hold_id: Uuid,
    /// Who was refused.
    pub payer: Payer,
}

/// The refusals that one worker remembers.
#[derive(Debug)]
pub struct Exhausted(RefCell<State>);

#[derive(Debug)]
struct State {
    remembered_ms: u64,
    /// In the order in which they were given; those whose time is over leave at the front.
    known: VecDeque<Known>,
    /// What is to be reported, without ids.
    counts: Vec<RepeatedDenials>,
    /// What is being reported, or is to be reported again.
    reports: Vec<RepeatedDenials>,
    is_in_flight: bool,
    next_report_unix_ms: u64,
    lost: u64,
}

#[derive(Debug)]
struct Known {
    question: String,
    given_unix_ms: u64,
    refused: Rc<Refused>,
}

impl Exhausted {
    /// Nothing yet. Each refusal is repeated for `remembered_ms`; with 0, none is.
    #[must_use]
    pub fn new(remembered_ms: u32) -> Self {
        Self(RefCell::new(State {
            remembered_ms: u64::from(remembered_ms),
            known: VecDeque::new(),
            counts: Vec::new(),
            reports: Vec::new(),
            is_in_flight: false,
            next_report_unix_ms: 0,
            lost: 0,
        }))
    }

    /// Remembers a refusal of `caller`, if it says that any call of theirs would be refused.
    pub fn remember(&self, caller: &Caller, call: &Call, refused: Refused, now_unix_ms: u64) {
        let mut state = self.0.borrow_mut();
        let is_fit = refused.deny.exhausted
            && refused.deny.budget.is_some()
            && refused.deny.message.len() <= MAX_MESSAGE_BYTES
            && !refused.payer.org.is_empty();
        if state.remembered_ms > 0 && is_fit {
            let question = question(caller, call);
            state.known.retain(|known| known.question != question);
            if state.known.len() >= MAX_KNOWN {
                state.known.pop_front();
            }
            let refused = Rc::new(refused);
            state.known.push_back(Known { question, given_unix_ms: now_unix_ms, refused });
        }
    }

    /// Whether nothing is remembered, so that there is nothing to repeat.
    #[must_use]
    pub fn knows_none(&self) -> bool {
        self.0.borrow().known.is_empty()
    }

    /// The refusal that answers this call, too, and counts the call to it.
    #[must_use]
    pub fn repeat(&self, caller: &Caller, call: &Call, now_unix_ms: u64) -> Option<Rc<Refused>> {
        let mut state = self.0.borrow_mut();
        let remembered_ms = state.remembered_ms;
        // A clock that was set back makes them all old.
        let is_over = |known: &mut Known| now_unix_ms.abs_diff(known.given_unix_ms) >= remembered_ms;
        while state.known.pop_front_if(is_over).is_some() {}
        if state.known.is_empty() {
            return None;
        }
        let question = question(caller, call);
        let found = state.known.iter().find(|known| known.question == question)?;
        let refused = Rc::clone(&found.refused);
        state.count(call, &refused, now_unix_ms);
        Some(refused)
    }

    /// The body of the next batch of reports; nothing when there is none, when it is not time yet or a batch
    /// is under way. `random` makes ids; without randomness nothing new is reported.
    pub fn take_batch(
        &self,
        now_unix_ms: u64,
        mut random: impl FnMut() -> Option<[u8; 10]>,
    ) -> Option<Vec<u8>> {
        let mut state = self.0.borrow_mut();
        if state.is_in_flight || now_unix_ms < state.next_report_unix_ms {
            return None;
        }
        while state.reports.len() < MAX_BATCH_ITEMS
            && let Some(bytes) = random()
            && let Some(mut report) = state.counts.pop()
        {
            report.hold_id = ids::hold_id(now_unix_ms, &bytes);
            state.reports.push(report);
        }
        if state.reports.is_empty() {
            return None;
        }
        state.is_in_flight = true;
        let items =
            state.reports.iter().map(|report| SettlementItem::RepeatedDenials(Box::new(report.clone())));
        let batch = SettlementBatch { version: VERSION, items: items.collect() };
        // Texts and numbers alone can't fail to serialize; an empty body would be refused, and counted.
        Some(serde_json::to_vec(&batch).unwrap_or_default())
    }

    /// Takes in the answer to the batch under way; `None` when it could not even be sent. What it doesn't
    /// name goes out again, unless the backend can't read it at all.
    pub fn answered(&self, answer: Option<CalloutAnswer<'_>>, now_unix_ms: u64) {
        let mut state = self.0.borrow_mut();
        state.is_in_flight = false;
        state.next_report_unix_ms = now_unix_ms.saturating_add(REPORT_AFTER_MS);
        let Some(answer) = answer.filter(CalloutAnswer::is_backends) else { return };
        match answer.status {
            Some(200) => {
                let results = replies::batch(answer.body).unwrap_or_default();
                let is_open =
                    |report: &RepeatedDenials| results.iter().all(|result| result.hold_id != report.hold_id);
                state.reports.retain(is_open);
            }
            Some(400 | 413 | 422) => {
                let counts = state.reports.iter().map(|report| report.count);
                let lost = counts.fold(state.lost, u64::saturating_add);
                state.lost = lost;
                state.reports.clear();
            }
            _ => {}
        }
    }

    /// How many repeated refusals have not been and will not be reported, since the last time this was asked.
    #[must_use]
    pub fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.0.borrow_mut().lost)
    }

    /// How long to wait before looking for reports, milliseconds; nothing when there are none or a batch is
    /// under way.
    #[must_use]
    pub fn wait_ms(&self, now_unix_ms: u64) -> Option<u32> {
        let state = self.0.borrow();
        let is_quiet = state.counts.is_empty() && state.reports.is_empty();
        if is_quiet || state.is_in_flight {
            return None;
        }
        // A clock that was set back must not put it off for long.
        let left = state.next_report_unix_ms.saturating_sub(now_unix_ms).clamp(1, REPORT_AFTER_MS);
        u32::try_from(left).ok()
    }
}

impl State {
    fn count(&mut self, call: &Call, refused: &Refused, now_unix_ms: u64) {
        let Some(budget) = &refused.deny.budget else { return };
        if self.counts.is_empty() && self.reports.is_empty() {
            self.next_report_unix_ms = now_unix_ms.saturating_add(REPORT_AFTER_MS);
        }
        let (payer, call) = (refused.payer.clone(), Call { stream: false, ..call.clone() });
        let is_same = |report: &&mut RepeatedDenials| {
            report.budget_id == budget.budget_id && report.payer == payer && report.call == call
        };
        if let Some(report) = self.counts.iter_mut().find(is_same) {
            report.count = report.count.saturating_add(1);
        } else if self.counts.len() < MAX_SUBJECTS {
            let budget_id = budget.budget_id;
            self.counts.push(RepeatedDenials { hold_id: Uuid::nil(), payer, call, budget_id, count: 1 });
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

/// A text that no other caller's call of another API or model has.
fn question(caller: &Caller, call: &Call) -> String {
    format!("{}{}\0{}", caller.key(), call.api.as_str(), call.model)
}

#[cfg(test)]
mod tests;
