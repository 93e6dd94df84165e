use super::*;
use crate::config::{FailureMode, FailureModes};
use crate::identity::Proxy;
use bound::Passed;
use cause::{Cause, mode};
use cell::Written;
use purser_protocol::FailureCause;
use std::collections::BTreeMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START_MS: u64 = 1_700_000_000_000;
const BREAKER: BreakerLimits =
    BreakerLimits { failures_in_a_row: 2, failure_percent: 100, first_pause_ms: 100, longest_pause_ms: 100 };
const LIMITS: FailOpenLimits = FailOpenLimits {
    per_minute: Passed { requests: 100, nanousd: 1_000 },
    per_outage: Passed { requests: 100, nanousd: 1_000 },
    unknown_call_nanousd: 300,
    recovered_after_ms: 5_000,
};

/// A cell that several workers share, and that counts what is asked of it.
#[derive(Debug, Clone, Default)]
struct Counted {
    bytes: Rc<RefCell<Vec<u8>>>,
    reads: Rc<Cell<u32>>,
    writes: Rc<Cell<u32>>,
    is_broken: bool,
}

impl SharedCell for Counted {
    fn read(&self) -> Option<(Vec<u8>, u32)> {
        self.reads.set(self.reads.get() + 1);
        (!self.is_broken).then(|| (self.bytes.borrow().clone(), 1))
    }

    fn write(&self, bytes: &[u8], _: u32) -> Written {
        self.writes.set(self.writes.get() + 1);
        self.bytes.replace(bytes.to_vec());
        Written::Done
    }
}

fn outage(cell: &Counted) -> Outage {
    Outage::new(BREAKER, LIMITS, 250).shared_by(Box::new(cell.clone()))
}

fn answer(outage: &Outage, now_unix_ms: u64) -> bool {
    let ticket = outage.ask(now_unix_ms).unwrap();
    outage.answered(Some(ticket), now_unix_ms).1
}

#[test]
fn a_call_counts_at_the_last_hold_of_its_model_or_else_as_configured() {
    let outage = outage(&Counted::default());
    outage.held("a", 900);
    outage.held("a", 100);
    outage.held("free", 0);
    outage.held("odd", -5);
    assert!((0..3).all(|_| outage.pass("a", START_MS)));
    assert!(outage.pass("never seen", START_MS));
    assert!(outage.pass("free", START_MS) && outage.pass("odd", START_MS));
    assert!(outage.pass("other", START_MS), "600 and 300 are within 1,000");
    assert!(!outage.pass("another", START_MS));
    assert!(outage.pass("a", START_MS));
    assert!(!outage.pass("a", START_MS));
}

#[test]
fn so_many_models_are_remembered() {
    let outage = outage(&Counted::default());
    outage.held("first", 1);
    for model in 0..MAX_MODELS {
        outage.held(&model.to_string(), 1);
    }
    let passes = |model: &str| (0..1_000).take_while(|_| outage.pass(model, START_MS)).count();
    assert_eq!(passes("first"), 3, "at 300 each");
    assert_eq!(passes("7"), 97, "and at 1, up to a hundred calls");
}

#[test]
fn all_workers_count_together() {
    let cell = Counted::default();
    let workers = [outage(&cell), outage(&cell)];
    let passed = (0..10).filter(|turn| workers[turn % 2].pass("m", START_MS)).count();
    assert_eq!(passed, 3);
}

#[test]
fn what_cannot_be_counted_does_not_go_out() {
    let outage = outage(&Counted { is_broken: true, ..Counted::default() });
    assert!(!outage.pass("m", START_MS));
    outage.refused(START_MS);
    assert!(!answer(&outage, START_MS), "and an answer is an answer");
}

#[test]
fn a_healthy_worker_looks_once_a_second_and_writes_nothing() {
    let cell = Counted::default();
    let outage = outage(&cell);
    for call in 0..5_000 {
        assert!(!answer(&outage, START_MS + call));
    }
    assert_eq!((cell.reads.get(), cell.writes.get()), (5, 0));
}

#[test]
fn a_worker_that_saw_no_failure_ends_the_outage_too() {
    let cell = Counted::default();
    let (failing, healthy) = (outage(&cell), outage(&cell));
    assert!(failing.pass("m", START_MS));
    assert!(!answer(&healthy, START_MS + 1));
    assert!(!answer(&healthy, START_MS + 1_001), "the first one counted");
    failing.refused(START_MS + 3_000);
    assert!(!answer(&healthy, START_MS + 6_100), "a call failed meanwhile");
    assert!(!answer(&healthy, START_MS + 11_099));
    assert!(answer(&healthy, START_MS + 12_200));
    assert!(!answer(&healthy, START_MS + 20_000), "it ends once");
}

#[test]
fn a_ticket_that_is_dropped_lets_another_probe() {
    let outage = outage(&Counted::default());
    for _ in 0..2 {
        let ticket = outage.ask(START_MS).unwrap();
        outage.failed(Some(ticket), Failure::BrokenOff, START_MS, 0);
    }
    assert_eq!(outage.ask(START_MS).unwrap_err(), Failure::BrokenOff);
    let probe = outage.ask(START_MS + 100).unwrap();
    assert!(probe.is_probe());
    assert!(outage.ask(START_MS + 101).is_err());
    drop(probe);
    let probe = outage.ask(START_MS + 101).unwrap();
    assert_eq!(outage.spoke(Some(probe)), Some(Change::Closed), "a rejection is an answer");
    assert!(!outage.ask(START_MS + 101).unwrap().is_probe());
}

#[derive(Debug)]
struct Routed(BTreeMap<String, &'static [u8]>);

impl Proxy for Routed {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.0.get(path).map(|bytes| bytes.to_vec())
    }

    fn now_unix_ms(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_route_says_how_it_fails() {
    let [timeout, rejected] = [Cause::Timeout, Cause::Rejected];
    type Metadata = &'static [(&'static str, &'static [u8])];
    let cases: [(Metadata, Cause, bool, bool); 14] = [
        (&[], timeout, true, false),
        (&[], rejected, false, false),
        (&[("", b"open")], timeout, true, true),
        (&[("", b"closed")], timeout, false, false),
        (&[("", b"opne")], timeout, false, false),
        (&[("", b"open")], rejected, false, false),
        (&[("\0timeout", b"closed"), ("", b"\x01\0\0\0")], timeout, false, false),
        (&[("\0timeout", b"open"), ("", b"\x01\0\0\0")], timeout, true, true),
        (&[("\0timeout", b"?"), ("", b"\x01\0\0\0")], timeout, false, false),
        (&[("\0busy", b"closed"), ("", b"\x01\0\0\0")], timeout, true, false),
        (&[("\0default", b"closed")], timeout, false, false),
        (&[("\0default", b"open")], timeout, true, true),
        (&[("\0default", b"open")], rejected, false, false),
        (&[("\0rejected", b"open")], rejected, true, true),
    ];
    for (metadata, cause, of_open, of_closed) in cases {
        let path = |name: &str| format!("xds\0route_metadata\0filter_metadata\0purser\0failure_mode{name}");
        let proxy = Routed(metadata.iter().map(|(name, value)| (path(name), *value)).collect());
        for (configured, expected) in [(FailureMode::Open, of_open), (FailureMode::Closed, of_closed)] {
            let found = mode(cause, &FailureModes::all(configured), &proxy);
            let expected = if expected { FailureMode::Open } else { FailureMode::Closed };
            assert_eq!(found, expected, "{metadata:?} {cause:?} {configured:?}");
        }
    }
}

#[test]
fn every_failure_has_a_cause() {
    for (failure, cause) in [
        (Failure::NotSent, Cause::Unreachable),
        (Failure::BrokenOff, Cause::Unreachable),
        (Failure::Status(502), Cause::Unreachable),
        (Failure::Status(503), Cause::Unreachable),
        (Failure::Status(504), Cause::Timeout),
        (Failure::Named(FailureCause::Deadline), Cause::Timeout),
        (Failure::Named(FailureCause::Busy), Cause::Busy),
        (Failure::Named(FailureCause::Database), Cause::Database),
        (Failure::Own(503), Cause::Error),
        (Failure::Own(500), Cause::Error),
        (Failure::Status(401), Cause::Error),
        (Failure::NotAVerdict, Cause::Error),
        (Failure::Rejected(401), Cause::Rejected),
    ] {
        assert_eq!(Cause::of(failure), cause, "{failure:?}");
    }
    for (index, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(cause.index(), index);
    }
}
