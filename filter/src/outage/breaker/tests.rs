use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START_MS: u64 = 1_700_000_000_000;
const LIMITS: BreakerLimits = BreakerLimits {
    failures_in_a_row: 3,
    failure_percent: 75,
    first_pause_ms: 1_000,
    longest_pause_ms: 5_000,
};
const TIMEOUT: Failure = Failure::Status(504);

fn breaker() -> Breaker {
    Breaker::new(LIMITS, 250)
}

fn turn(breaker: &mut Breaker, now_unix_ms: u64) -> Turn {
    match breaker.ask(now_unix_ms) {
        Asks::Yes(turn) => turn,
        Asks::No(failure) => panic!("{failure:?}"),
    }
}

fn fail(breaker: &mut Breaker, now_unix_ms: u64) -> Option<Change> {
    let turn = turn(breaker, now_unix_ms);
    breaker.failed(turn, TIMEOUT, now_unix_ms, u64::MAX)
}

fn succeed(breaker: &mut Breaker, now_unix_ms: u64) -> Option<Change> {
    let turn = turn(breaker, now_unix_ms);
    breaker.answered(turn)
}

/// One that has just opened; with this randomness its pause is 500 ms.
fn open() -> Breaker {
    let mut breaker = breaker();
    for _ in 0..2 {
        assert_eq!(fail(&mut breaker, START_MS), None);
    }
    let last = turn(&mut breaker, START_MS);
    assert_eq!(breaker.failed(last, TIMEOUT, START_MS, 0), Some(Change::Opened));
    breaker
}

#[test]
fn opens_after_so_many_failures_in_a_row() {
    let mut breaker = breaker();
    for _ in 0..10 {
        assert_eq!(fail(&mut breaker, START_MS), None);
        assert_eq!(fail(&mut breaker, START_MS), None);
        assert_eq!(succeed(&mut breaker, START_MS), None);
    }
    assert_eq!(open().ask(START_MS + 499), Asks::No(TIMEOUT));
}

#[test]
fn opens_when_most_of_the_latest_failed() {
    let limits = BreakerLimits { failures_in_a_row: 100, ..LIMITS };
    let mut breaker = Breaker::new(limits, 250);
    // Two of three are less than 75 of 100.
    for _ in 0..20 {
        assert_eq!(fail(&mut breaker, START_MS), None);
        assert_eq!(fail(&mut breaker, START_MS), None);
        assert_eq!(succeed(&mut breaker, START_MS), None);
    }
    let opened = (0..20).find(|_| fail(&mut breaker, START_MS).is_some());
    assert!(opened.is_some_and(|after| after < 10), "{opened:?}");
    // Few calls are no share.
    let mut few = Breaker::new(limits, 250);
    for _ in 0..19 {
        assert_eq!(fail(&mut few, START_MS), None);
    }
    assert_eq!(fail(&mut few, START_MS), Some(Change::Opened));
}

#[test]
fn lets_one_through_after_the_pause_and_closes_when_that_is_answered() {
    let mut breaker = open();
    assert_eq!(breaker.ask(START_MS + 499), Asks::No(TIMEOUT));
    let probe = turn(&mut breaker, START_MS + 500);
    assert!(probe.is_probe);
    for _ in 0..3 {
        assert_eq!(breaker.ask(START_MS + 510), Asks::No(TIMEOUT));
    }
    assert_eq!(breaker.answered(probe), Some(Change::Closed));
    for _ in 0..3 {
        assert!(!turn(&mut breaker, START_MS + 520).is_probe);
    }
}

#[test]
fn waits_longer_each_time_up_to_a_bound() {
    let mut breaker = open();
    let mut now = START_MS;
    let mut waits = Vec::new();
    for round in 0..70 {
        // Jitter takes away at most half.
        let random = if round % 2 == 0 { 0 } else { 5_000 };
        let begin = now;
        let probe = loop {
            now += 1;
            match breaker.ask(now) {
                Asks::Yes(probe) => break probe,
                Asks::No(failure) => assert_eq!(failure, TIMEOUT),
            }
        };
        waits.push(now - begin);
        assert_eq!(breaker.failed(probe, TIMEOUT, now, random), None, "open it was before");
    }
    assert_eq!(waits[..3], [500, 1_000, 2_000 + 5_000 % 2_001]);
    assert!(waits[3..].iter().all(|wait| (2_500..=5_000).contains(wait)), "{waits:?}");
    let probe = turn(&mut breaker, now + 5_000);
    breaker.answered(probe);
    for _ in 0..2 {
        assert_eq!(fail(&mut breaker, now), None);
    }
    let last = turn(&mut breaker, now);
    breaker.failed(last, TIMEOUT, now, 0);
    assert_eq!(breaker.ask(now + 499), Asks::No(TIMEOUT));
    assert!(turn(&mut breaker, now + 500).is_probe, "the first pause again");
}

#[test]
fn what_was_asked_before_a_change_decides_nothing_any_more() {
    let mut breaker = breaker();
    let slow = turn(&mut breaker, START_MS);
    for _ in 0..3 {
        fail(&mut breaker, START_MS);
    }
    assert_eq!(breaker.answered(slow), None);
    assert_eq!(breaker.ask(START_MS + 1), Asks::No(TIMEOUT));
    let probe = turn(&mut breaker, START_MS + 1_000);
    assert_eq!(breaker.failed(slow, Failure::BrokenOff, START_MS + 1_000, 0), None);
    assert_eq!(breaker.answered(probe), Some(Change::Closed));
    for _ in 0..5 {
        assert_eq!(breaker.failed(slow, TIMEOUT, START_MS + 1_000, 0), None);
    }
    assert!(!turn(&mut breaker, START_MS + 1_000).is_probe);
}

#[test]
fn a_probe_that_never_comes_back_is_replaced() {
    let mut breaker = open();
    let gone = turn(&mut breaker, START_MS + 500);
    breaker.abandoned(gone);
    let next = turn(&mut breaker, START_MS + 501);
    assert!(next.is_probe);
    breaker.abandoned(gone);
    assert_eq!(breaker.ask(START_MS + 502), Asks::No(TIMEOUT), "only its own turn is given back");
    assert_eq!(breaker.ask(START_MS + 501 + 1_249), Asks::No(TIMEOUT));
    assert!(turn(&mut breaker, START_MS + 501 + 1_250).is_probe, "the timeout and a second later");
    assert_eq!(breaker.answered(next), None, "too late");
}

#[test]
fn it_can_be_switched_off() {
    let mut breaker = Breaker::new(BreakerLimits { failures_in_a_row: 0, ..LIMITS }, 250);
    for _ in 0..100 {
        assert_eq!(fail(&mut breaker, START_MS), None);
    }
}

#[test]
fn a_clock_that_jumps_keeps_nobody_waiting_for_ever() {
    let mut breaker = open();
    assert!(turn(&mut breaker, START_MS - 3_600_000).is_probe);
}
