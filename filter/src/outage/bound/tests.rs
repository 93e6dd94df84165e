use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START_MS: u64 = 1_700_000_000_000;
const LIMITS: FailOpenLimits = FailOpenLimits {
    per_minute: Passed { requests: 5, nanousd: 100 },
    per_outage: Passed { requests: 8, nanousd: 150 },
    unknown_call_nanousd: 10,
    recovered_after_ms: 30_000,
};

/// How many calls of an amount go out at a time.
fn passes(count: &mut Count, nanousd: i64, now_unix_ms: u64) -> usize {
    (0..100).take_while(|_| count.pass(nanousd, now_unix_ms, &LIMITS)).count()
}

#[test]
fn calls_are_bounded_per_minute_and_per_outage() {
    let mut count = Count::default();
    assert_eq!(passes(&mut count, 1, START_MS), 5);
    assert_eq!(passes(&mut count, 1, START_MS + 59_999), 0);
    assert_eq!(passes(&mut count, 1, START_MS + 60_000), 3, "the outage's are used up");
    assert_eq!(passes(&mut count, 1, START_MS + 600_000), 0);
}

#[test]
fn money_is_bounded_per_minute_and_per_outage() {
    let mut count = Count::default();
    assert_eq!(passes(&mut count, 40, START_MS), 2);
    assert_eq!(passes(&mut count, 20, START_MS + 1), 1, "what fits still goes out, to the last nano-USD");
    assert_eq!(passes(&mut count, 1, START_MS + 2), 0);
    assert_eq!(passes(&mut count, 0, START_MS + 2), 2, "what is free costs a call");
    assert_eq!(passes(&mut count, 25, START_MS + 60_000), 2);
    assert_eq!(count.outage, Passed { requests: 7, nanousd: 150 });
    assert_eq!(passes(&mut count, 1, START_MS + 600_000), 0);
    assert_eq!(passes(&mut count, i64::MAX, START_MS + 600_000), 0);
}

#[test]
fn what_is_refused_is_not_counted() {
    let mut count = Count::default();
    assert_eq!(passes(&mut count, 60, START_MS), 1);
    let before = count;
    assert!(!count.pass(60, START_MS, &LIMITS));
    assert_eq!(count, before);
}

#[test]
fn the_outage_ends_when_the_backend_has_answered_for_a_while() {
    let mut count = Count::default();
    count.failed(START_MS);
    assert_eq!(passes(&mut count, 1, START_MS), 5);
    assert!(!count.answered(3, START_MS + 1_000_000, &LIMITS), "an answer is no while");
    assert!(!count.answered(3, START_MS + 1_029_999, &LIMITS));
    count.failed(START_MS + 1_029_999);
    assert!(!count.answered(3, START_MS + 1_030_000, &LIMITS));
    assert!(!count.answered(3, START_MS + 1_059_999, &LIMITS));
    assert!(count.answered(1, START_MS + 1_060_000, &LIMITS));
    assert_eq!(count.outage, Passed::default());
    assert_eq!(passes(&mut count, 1, START_MS + 1_060_000), 5);
    assert!(!Count::default().answered(1, START_MS, &LIMITS), "there was none");
}

#[test]
fn a_backend_that_goes_on_failing_is_not_back_and_one_that_seldom_fails_is() {
    for (answers, failures, ends) in [(100, 100, false), (100, 11, false), (100, 9, true), (1_000, 1, true)] {
        let mut count = Count::default();
        count.failed(START_MS);
        assert!(count.pass(1, START_MS, &LIMITS));
        let mut ended = false;
        for second in 1..=40 {
            let now_unix_ms = START_MS + second * 1_000;
            ended |= count.answered(answers, now_unix_ms, &LIMITS);
            for _ in 0..failures {
                count.failed(now_unix_ms);
            }
        }
        assert_eq!(ended, ends, "{answers} answers, {failures} failures a second");
    }
}

#[test]
fn the_end_of_an_outage_is_not_the_end_of_the_minute() {
    let soon = FailOpenLimits { recovered_after_ms: 1_000, ..LIMITS };
    let mut count = Count::default();
    assert_eq!(passes(&mut count, 1, START_MS), 5);
    assert!(!count.answered(1, START_MS + 1_000, &soon));
    assert!(count.answered(1, START_MS + 2_000, &soon));
    assert_eq!(passes(&mut count, 1, START_MS + 2_000), 0);
    assert_eq!(passes(&mut count, 1, START_MS + 60_000), 5);
}

#[test]
fn a_clock_set_back_starts_a_new_minute_and_no_new_outage() {
    let mut count = Count::default();
    assert_eq!(passes(&mut count, 1, START_MS), 5);
    assert_eq!(passes(&mut count, 1, START_MS - 1_000), 0);
    assert_eq!(passes(&mut count, 1, START_MS - 3_600_000), 3);
}

#[test]
fn bytes_read_as_they_were_written_and_others_as_nothing() {
    let mut count = Count::default();
    count.failed(START_MS);
    count.pass(7, START_MS, &LIMITS);
    count.answered(9, START_MS + 1, &LIMITS);
    let bytes = count.to_bytes();
    assert_eq!(Count::of(&bytes), count);
    let mut other_version = bytes.clone();
    other_version[0] = 9;
    for bytes in [&[][..], &bytes[..bytes.len() - 1], &[bytes.clone(), vec![0]].concat(), &other_version] {
        assert_eq!(Count::of(bytes), Count::default());
    }
}
