//! The root context: reads the configuration, sends the outbox, renews holds.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use purser_protocol::SETTLEMENTS_PATH;

use super::counters::OutboxView;
use super::stream::Stream;
use super::{ReceivedAnswer, Shared, Tick};
use crate::config::Config;
use crate::hostcalls::{self, Buffer, Level};
use crate::outbox::Tally;

/// How long a retired root goes on trying to send its last settlements, milliseconds.
const DRAIN_MS: u64 = 60_000;

/// One root context: a configuration on one worker.
#[derive(Default)]
pub struct Root {
    shared: Option<Rc<Shared>>,
    /// The batch under way.
    token: Option<u32>,
    /// The batch of renewals under way.
    renewals_token: Option<u32>,
    /// The batch of repeated denials under way.
    denials_token: Option<u32>,
    /// The root is retired and has until then to send what it has, milliseconds since the epoch.
    drain_until_unix_ms: Option<u64>,
}

impl Root {
    /// Sends the next batch, and while that fails at once, waits for the next tick.
    fn flush(&mut self, shared: &Shared) {
        let body = shared.outbox.borrow_mut().take_batch();
        if let Some(body) = body {
            let timeout_ms = shared.worker.config.backend.settle_timeout_ms;
            self.token = shared.call_backend(SETTLEMENTS_PATH, &body, timeout_ms);
            if self.token.is_none() {
                let tally = shared.outbox.borrow_mut().answered(None);
                report(shared, &tally);
            }
        }
        shared.wake(hostcalls::now_unix_ms());
    }

    /// Sends the renewals that are due.
    fn renew(&mut self, shared: &Shared) {
        let Some(body) = shared.worker.live.take_batch(hostcalls::now_unix_ms()) else {
            return;
        };
        let timeout_ms = shared.worker.config.backend.settle_timeout_ms;
        self.renewals_token = shared.call_backend(SETTLEMENTS_PATH, &body, timeout_ms);
        if self.renewals_token.is_none() {
            shared.counters.renewals(shared.worker.live.answered(None));
        }
    }

    /// Reports the denials that were repeated.
    fn report_denials(&mut self, shared: &Shared) {
        let exhausted = &shared.worker.exhausted;
        let now_unix_ms = hostcalls::now_unix_ms();
        if let Some(body) = exhausted.take_batch(now_unix_ms, || hostcalls::random().ok()) {
            let timeout_ms = shared.worker.config.backend.settle_timeout_ms;
            self.denials_token = shared.call_backend(SETTLEMENTS_PATH, &body, timeout_ms);
            if self.denials_token.is_none() {
                exhausted.answered(None, now_unix_ms);
            }
        }
        shared.counters.repeats_lost(exhausted.take_lost());
    }

    /// The answer to that report is there.
    fn denials_reported(&mut self, shared: &Shared, body_bytes: usize) {
        self.denials_token = None;
        let answer = ReceivedAnswer::read(body_bytes);
        let exhausted = &shared.worker.exhausted;
        exhausted.answered(Some(answer.view()), hostcalls::now_unix_ms());
        shared.counters.repeats_lost(exhausted.take_lost());
        shared.wake(hostcalls::now_unix_ms());
    }

    /// The answer to the batch is there.
    fn settled(&mut self, shared: &Shared, body_bytes: usize) {
        self.token = None;
        let answer = ReceivedAnswer::read(body_bytes);
        let tally = shared.outbox.borrow_mut().answered(Some(answer.view()));
        report(shared, &tally);
        let is_due = shared.outbox.borrow().is_batch_full() || self.drain_until_unix_ms.is_some();
        if tally.failure.is_none() && is_due {
            self.flush(shared);
        } else {
            shared.wake(hostcalls::now_unix_ms());
        }
        self.end_drain(shared);
    }

    /// The answer to the renewals is there.
    fn renewed(&mut self, shared: &Shared, body_bytes: usize) {
        self.renewals_token = None;
        let answer = ReceivedAnswer::read(body_bytes);
        shared.counters.renewals(shared.worker.live.answered(Some(answer.view())));
        shared.wake(hostcalls::now_unix_ms());
    }

    /// Lets the proxy forget a retired root once it has nothing left to send, or no time.
    fn end_drain(&mut self, shared: &Shared) {
        let Some(until) = self.drain_until_unix_ms else {
            return;
        };
        let left = shared.outbox.borrow().len();
        if left > 0 && hostcalls::now_unix_ms() < until {
            return;
        }
        if left > 0 {
            let line =
                format!("gave up on {left} settlements at shutdown; their holds will expire and be charged");
            hostcalls::log(Level::Error, &line);
            shared.show(OutboxView::default());
        }
        self.drain_until_unix_ms = None;
        shared.rest();
        if hostcalls::done().is_err() {
            hostcalls::log(Level::Error, "the proxy refused the end of a root context");
        }
    }
}

fn report(shared: &Shared, tally: &Tally) {
    shared.counters.tally(tally);
    shared.show_outbox(hostcalls::now_unix_ms());
    if let Some((hold_id, reason)) = tally.rejected.first() {
        let count = tally.rejected.len();
        let line = format!("settlements rejected: {count}; the first, of hold {hold_id}: {reason:?}");
        hostcalls::log(Level::Error, &line);
    }
    if let Some(failure) = &tally.failure {
        let waiting = shared.outbox.borrow().len();
        let line = format!("settlements not taken, {waiting} wait: {failure}");
        shared.log_seldom(Level::Warn, &line);
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, _: usize, body_bytes: usize, _: usize) {
        let Some(shared) = self.shared.clone() else {
            return;
        };
        if self.token == Some(token) {
            self.settled(&shared, body_bytes);
        } else if self.renewals_token == Some(token) {
            self.renewed(&shared, body_bytes);
        } else if self.denials_token == Some(token) {
            self.denials_reported(&shared, body_bytes);
        }
    }

    fn on_done(&mut self) -> bool {
        let Some(shared) = self.shared.clone() else {
            return true;
        };
        self.report_denials(&shared);
        if shared.outbox.borrow().is_empty() {
            // A root outlives its streams, so no hold is left either; but its tick may be.
            if shared.tick.get().is_some() {
                shared.rest();
            }
            return true;
        }
        self.drain_until_unix_ms = Some(hostcalls::now_unix_ms().saturating_add(DRAIN_MS));
        self.flush(&shared);
        false
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let json = match hostcalls::buffer(Buffer::PluginConfiguration, size) {
            Ok(json) => json,
            Err(status) => {
                let line = format!("the proxy hands out no configuration: {status:?}");
                hostcalls::log(Level::Error, &line);
                return false;
            }
        };
        match Config::parse(&json) {
            Ok(config) => {
                self.shared = Some(Rc::new(Shared::new(config)));
                true
            }
            Err(mistakes) => {
                let count = mistakes.0.len();
                let line = format!("configuration refused, mistakes: {count}\n{mistakes}");
                hostcalls::log(Level::Error, &line);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(shared) = self.shared.clone() else {
            return;
        };
        let tick = shared.tick.get();
        shared.rest();
        self.renew(&shared);
        self.report_denials(&shared);
        // The outbox has a back-off of its own, which others don't shorten.
        if tick == Some(Tick::Others) {
            shared.wake(hostcalls::now_unix_ms());
        } else {
            self.flush(&shared);
        }
        shared.show_outbox(hostcalls::now_unix_ms());
        self.end_drain(&shared);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(self.shared.clone())))
    }
}
