//! Outboxes that outlive their VM: each has a journal in the proxy's memory, and what a VM that trapped has
//! left there is taken over by another.

use std::rc::Rc;

use super::counters::OutboxView;
use super::shared_data::SharedValues;
use super::{Counters, Shared};
use crate::config::Config;
use crate::hostcalls::{self, Level};
use crate::journal::{Estate, Journal, Kept};
use crate::outbox::Outbox;

/// An empty outbox with a journal; without one when the proxy gives no randomness to name it by.
pub fn outbox(config: &Config) -> Outbox {
    let outbox = Outbox::new(config.outbox);
    let Ok(random) = hostcalls::random() else {
        hostcalls::log(Level::Error, "the proxy gives no randomness: settlements will not outlive a trap");
        return outbox;
    };
    let backend = &config.backend;
    let group = u64::from(crc32fast::hash(backend.cluster.as_bytes()));
    let id = u64::from_le_bytes(random).max(1);
    outbox.journaled(Journal::new(Rc::new(SharedValues), id, group, backend.settle_timeout_ms))
}

impl Shared {
    /// Takes over what a VM that is gone has left, if there is any.
    pub fn inherit(&self) {
        let now_unix_ms = hostcalls::now_unix_ms();
        let found = self.outbox.borrow_mut().look(now_unix_ms);
        let Some(estate) = found else { return };
        let items = estate.items.len();
        // The gauges still tell what they told of that VM.
        if estate.is_first_claim {
            self.counters.outbox(view_of(&estate), OutboxView::default());
        }
        let lost = self.outbox.borrow_mut().inherit(estate, now_unix_ms);
        inherited(&self.counters, items, lost);
        self.show_outbox(now_unix_ms);
        self.wake(now_unix_ms);
    }
}

fn view_of(estate: &Estate) -> OutboxView {
    let bytes = estate.items.iter().map(Kept::bytes).fold(0, usize::saturating_add);
    let oldest = estate.items.first().map_or(estate.seen_unix_ms, |item| item.queued_unix_ms);
    OutboxView { items: estate.items.len(), bytes, oldest_ms: estate.seen_unix_ms.saturating_sub(oldest) }
}

fn inherited(counters: &Counters, items: usize, lost: usize) {
    counters.outbox_inherited(items);
    for _ in 0..lost {
        counters.outbox_dropped();
    }
    let line = format!("took over {items} settlements of a worker that trapped or was retired; lost: {lost}");
    hostcalls::log(Level::Warn, &line);
}
