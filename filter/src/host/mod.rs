//! The glue between the proxy's callbacks and the pure modules: events in, decisions carried out.
//! Nothing is decided here.

mod counters;
mod inherit;
mod root;
mod shared_data;
mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use purser_protocol::{MARKER_HEADER, SettlementItem};

use crate::config::Config;
use crate::exchange::Worker;
use crate::headers::Headers;
use crate::hostcalls::{self, Buffer, Level, Map};
use crate::identity::Proxy;
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::series::Series;
use crate::strict::StrictPayers;
use crate::trace;
use crate::verdict::CalloutAnswer;
use counters::{Counters, OutboxView};

/// Memory that all answers of one worker may use together for metering, bytes. The VM has 1 GiB.
const METER_POOL_BYTES: usize = 256 << 20;

/// Largest answer to a callout that is read, bytes.
const MAX_CALLOUT_BYTES: usize = 4 << 20;

/// At most one line about a failing backend in this time, milliseconds; the counters tell the rest.
const LOG_PAUSE_MS: u64 = 1_000;

thread_local! {
    /// Of all configurations of this VM, so that a new one forgets nobody.
    static STRICT_PAYERS: StrictPayers = StrictPayers::default();
    /// The proxy keeps counters for ever, whatever configuration asked for them.
    static SERIES: Series = Series::default();
}

/// The proxy, as its hostcalls show it.
#[derive(Debug)]
struct Envoy;

impl Proxy for Envoy {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        hostcalls::property(path).ok()
    }

    fn now_unix_ms(&self) -> Option<u64> {
        Some(hostcalls::now_unix_ms())
    }
}

/// What a tick is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tick {
    /// The outbox, and renewals with it.
    Outbox,
    /// Renewals, and reports of repeated denials; it may be far off, so what is due before it sets it anew.
    Others,
}

/// What the root context and its streams share; they run on one thread.
///
/// No borrow is held across a hostcall: some of them call back into this module.
struct Shared {
    worker: Rc<Worker>,
    outbox: RefCell<Outbox>,
    counters: Counters,
    /// What the root's tick, if it is running, is for.
    tick: Cell<Option<Tick>>,
    /// When it comes, milliseconds since the Unix epoch.
    tick_unix_ms: Cell<u64>,
    last_log_unix_ms: Cell<u64>,
    /// What the gauges tell of the outbox.
    shown: Cell<OutboxView>,
    /// What callouts authenticate with.
    authorization: String,
}

impl Shared {
    fn new(config: Config) -> Self {
        let strict = STRICT_PAYERS.try_with(Clone::clone).unwrap_or_default();
        let series = SERIES.try_with(Clone::clone).unwrap_or_default();
        let counters = Counters::define(series, config.max_series);
        let outbox = RefCell::new(inherit::outbox(&config));
        let authorization = format!("Bearer {}", config.backend.token);
        let worker = Worker::new(config, Pool::new(METER_POOL_BYTES), strict)
            .in_proxy(Box::new(Envoy))
            .counting_in(Box::new(shared_data::FailOpenCount::ready()));
        Self {
            outbox,
            worker: Rc::new(worker),
            counters,
            tick: Cell::new(None),
            tick_unix_ms: Cell::new(0),
            last_log_unix_ms: Cell::new(0),
            shown: Cell::new(OutboxView::default()),
            authorization,
        }
    }

    /// Queues an item; [`Shared::wake`] sees to it that it goes out.
    fn settle(&self, item: &SettlementItem, now_unix_ms: u64) {
        let pushed = self.outbox.borrow_mut().push(item, now_unix_ms);
        if pushed.is_err() {
            self.counters.outbox_dropped();
            let line = format!(
                "outbox full, settlement of hold {} lost; its hold will expire and be charged",
                item.hold_id()
            );
            self.log_seldom(Level::Error, &line);
        }
        // At once, since who takes over after a trap believes them.
        self.show_outbox(now_unix_ms);
    }

    /// Brings the gauges up to date with the outbox.
    fn show_outbox(&self, now_unix_ms: u64) {
        let outbox = self.outbox.borrow();
        let view = OutboxView {
            items: outbox.len(),
            bytes: outbox.bytes(),
            oldest_ms: outbox.oldest_ms(now_unix_ms),
        };
        drop(outbox);
        self.show(view);
    }

    /// Brings this outbox's part of the gauges to a view.
    fn show(&self, view: OutboxView) {
        self.counters.outbox(self.shown.replace(view), view);
    }

    /// Starts the tick if there is something to send and nothing else will send it. A tick that is
    /// running is left alone: setting it anew would put it off for as long as requests keep coming.
    fn wake(&self, now_unix_ms: u64) {
        let (is_empty, is_in_flight) = {
            let outbox = self.outbox.borrow();
            (outbox.is_empty(), outbox.is_in_flight())
        };
        if !is_empty && !is_in_flight && self.tick.get() != Some(Tick::Outbox) {
            let random = hostcalls::random().map_or(0, u32::from_le_bytes);
            let wait_ms = self.outbox.borrow().wait_ms(random);
            self.tick_in(Tick::Outbox, wait_ms);
        }
        if self.tick.get() == Some(Tick::Outbox) {
            return;
        }
        let waits = [
            self.worker.live.wait_ms(now_unix_ms),
            self.worker.exhausted.wait_ms(now_unix_ms),
            self.outbox.borrow().look_wait_ms(),
        ];
        let Some(wait_ms) = waits.into_iter().flatten().min() else { return };
        let due_unix_ms = now_unix_ms.saturating_add(u64::from(wait_ms));
        if self.tick.get().is_none() || due_unix_ms < self.tick_unix_ms.get() {
            self.tick_unix_ms.set(due_unix_ms);
            self.tick_in(Tick::Others, Some(wait_ms));
        }
    }

    fn tick_in(&self, tick: Tick, wait_ms: Option<u32>) {
        let Some(wait_ms) = wait_ms else {
            return;
        };
        self.tick.set(Some(tick));
        if hostcalls::set_tick_ms(wait_ms).is_err() {
            self.tick.set(None);
            hostcalls::log(Level::Error, "the proxy refused a tick");
        }
    }

    /// Stops the tick.
    fn rest(&self) {
        self.tick.set(None);
        if hostcalls::set_tick_ms(0).is_err() {
            hostcalls::log(Level::Error, "the proxy refused to stop the tick");
        }
    }

    /// Logs, unless a line was logged just now.
    fn log_seldom(&self, level: Level, line: &str) {
        let now = hostcalls::now_unix_ms();
        if now.abs_diff(self.last_log_unix_ms.get()) >= LOG_PAUSE_MS {
            self.last_log_unix_ms.set(now);
            hostcalls::log(level, line);
        }
    }

    /// Sends a callout to the backend; whether it was sent.
    fn call_backend(&self, path: &str, body: &[u8], timeout_ms: u32) -> Option<u32> {
        self.call_backend_in(None, path, body, timeout_ms)
    }

    /// The same as part of a trace.
    fn call_backend_in(&self, trace: Option<&str>, path: &str, body: &[u8], timeout_ms: u32) -> Option<u32> {
        let mut headers = vec![
            (":method", "POST"),
            (":path", path),
            (":authority", "purser-backend"),
            ("content-type", "application/json"),
            ("authorization", self.authorization.as_str()),
        ];
        headers.extend(trace.map(|trace| (trace::HEADER, trace)));
        hostcalls::dispatch(&self.worker.config.backend.cluster, headers, body, timeout_ms).ok()
    }
}

/// An answer to a callout, as the proxy has it.
struct ReceivedAnswer {
    headers: Headers,
    body: Vec<u8>,
}

impl ReceivedAnswer {
    fn read(body_bytes: usize) -> Self {
        let max_bytes = body_bytes.min(MAX_CALLOUT_BYTES);
        Self {
            // Without headers the answer broke off.
            headers: hostcalls::headers(Map::CalloutResponse).unwrap_or_default(),
            body: hostcalls::buffer(Buffer::CalloutBody, max_bytes).unwrap_or_default(),
        }
    }

    fn view(&self) -> CalloutAnswer<'_> {
        let status = self.headers.get(":status").unwrap_or_default();
        CalloutAnswer {
            status: std::str::from_utf8(status).ok().and_then(|digits| digits.parse().ok()),
            marker: self.headers.get(MARKER_HEADER),
            body: &self.body,
        }
    }
}

/// Registers the filter with the SDK's dispatcher. The module's entry point calls it, once.
pub fn start() {
    // Installs the panic hook, too: should there be a trap, its place is in the log.
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}

#[cfg(all(target_arch = "wasm32", not(test)))]
mod entry {
    proxy_wasm::main! {{ super::start() }}
}
