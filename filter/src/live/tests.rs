use super::*;
use purser_protocol::{ItemResult, SettlementResponse};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const START_MS: u64 = 1_700_000_000_000;
const INTERVAL_MS: u64 = 10_000;

fn live() -> LiveHolds {
    LiveHolds::new(10)
}

fn payer() -> Payer {
    Payer { org: "acme".to_owned(), team: Some("search".to_owned()), user: None }
}

fn enter(live: &LiveHolds, id: u128, now_unix_ms: u64) -> LiveHold {
    live.enter(Uuid::from_u128(id), payer(), now_unix_ms)
}

/// The ids in the next batch, as the backend reads it.
fn take(live: &LiveHolds, now_unix_ms: u64) -> Vec<u128> {
    let Some(body) = live.take_batch(now_unix_ms) else {
        return Vec::new();
    };
    let batch: SettlementBatch = serde_json::from_slice(&body).unwrap();
    assert_eq!(batch.version, VERSION);
    let id = |item: &SettlementItem| match item {
        SettlementItem::Renew(renew) => {
            assert_eq!(renew.payer, payer());
            renew.hold_id.as_u128()
        }
        other => panic!("{other:?}"),
    };
    batch.items.iter().map(id).collect()
}

fn answer(live: &LiveHolds, status: u16, results: &[(u128, Outcome)]) -> Renewals {
    let result = |(id, outcome): &(u128, Outcome)| ItemResult {
        hold_id: Uuid::from_u128(*id),
        outcome: outcome.clone(),
    };
    let results = results.iter().map(result).collect();
    let body = serde_json::to_vec(&SettlementResponse { version: VERSION, results }).unwrap();
    live.answered(Some(CalloutAnswer { status: Some(status), marker: Some(b"1"), body: &body }))
}

#[test]
fn a_running_call_is_renewed_every_interval_until_it_ends() {
    let live = live();
    assert_eq!(live.wait_ms(START_MS), None);
    let call = enter(&live, 1, START_MS);
    assert_eq!(live.wait_ms(START_MS + 1_000), Some(9_000));
    assert_eq!(live.take_batch(START_MS + INTERVAL_MS - 1), None);
    for turn in 1..=3 {
        let now = START_MS + turn * INTERVAL_MS;
        assert_eq!(take(&live, now), [1]);
        assert_eq!((live.wait_ms(now), live.take_batch(now + INTERVAL_MS)), (None, None), "one at a time");
        let renewals = answer(&live, 200, &[(1, Outcome::Recorded)]);
        assert_eq!(renewals, Renewals { recorded: 1, ..Renewals::default() });
        assert_eq!(live.wait_ms(now), Some(10_000));
    }
    drop(call);
    assert_eq!(live.wait_ms(START_MS), None);
    assert_eq!(live.take_batch(START_MS + 10 * INTERVAL_MS), None);
}

#[test]
fn only_those_due_are_renewed() {
    let live = live();
    let calls = [(1, 0), (2, 4_000), (3, 8_000)].map(|(id, after)| enter(&live, id, START_MS + after));
    assert_eq!(take(&live, START_MS + 14_000), [1, 2]);
    answer(&live, 200, &[(1, Outcome::Recorded), (2, Outcome::Recorded)]);
    assert_eq!(live.wait_ms(START_MS + 14_000), Some(4_000));
    assert_eq!(take(&live, START_MS + 18_000), [3]);
    drop(calls);
    // The call ended while its renewal was under way.
    let renewals = answer(&live, 200, &[(3, Outcome::Duplicate)]);
    assert_eq!(renewals, Renewals { duplicate: 1, ..Renewals::default() });
    assert_eq!(live.wait_ms(START_MS + 18_000), None);
}

#[test]
fn a_failure_waits_for_the_next_interval() {
    let live = live();
    let _calls = [enter(&live, 1, START_MS), enter(&live, 2, START_MS)];
    let both_failed = Renewals { failed: 2, ..Renewals::default() };
    let recorded = [(1, Outcome::Recorded), (2, Outcome::Recorded)];
    let mut now = START_MS;
    let mut next = || {
        now += INTERVAL_MS;
        assert_eq!(take(&live, now), [1, 2]);
        now
    };
    next();
    assert_eq!(live.answered(None), both_failed);
    for status in [400, 422, 500, 503] {
        let now = next();
        assert_eq!(answer(&live, status, &recorded), both_failed, "{status}");
        assert_eq!(live.wait_ms(now), Some(10_000), "{status}");
        assert_eq!(live.take_batch(now + INTERVAL_MS - 1), None, "{status}");
    }
    for (marker, body) in [(None, r#"{"version":1,"results":[]}"#), (Some("1"), "<html>"), (Some("1"), "")] {
        next();
        let answer =
            CalloutAnswer { status: Some(200), marker: marker.map(str::as_bytes), body: body.as_bytes() };
        assert_eq!(live.answered(Some(answer)), both_failed, "{marker:?} {body}");
    }
    next();
    let renewals = answer(&live, 200, &[(2, Outcome::Recorded), (2, Outcome::Recorded), (7, rejected())]);
    assert_eq!(renewals, Renewals { recorded: 1, duplicate: 0, failed: 1 }, "what wasn't asked is no answer");
    next();
}

fn rejected() -> Outcome {
    Outcome::Rejected { reason: "no such org".to_owned() }
}

#[test]
fn a_hold_that_is_not_open_is_not_renewed_again() {
    let live = live();
    let calls = [1, 2, 3].map(|id| enter(&live, id, START_MS));
    assert_eq!(take(&live, START_MS + INTERVAL_MS), [1, 2, 3]);
    let results = [(1, Outcome::Duplicate), (2, Outcome::Recorded), (3, rejected())];
    assert_eq!(answer(&live, 200, &results), Renewals { recorded: 1, duplicate: 1, failed: 1 });
    assert_eq!(take(&live, START_MS + 2 * INTERVAL_MS), [2]);
    drop(calls);
}

#[test]
fn many_at_once_go_out_in_paced_batches() {
    let live = live();
    let most = u128::try_from(MAX_BATCH_ITEMS).unwrap();
    let _calls: Vec<LiveHold> = (0..=most).map(|id| enter(&live, id, START_MS)).collect();
    let now = START_MS + INTERVAL_MS;
    assert_eq!(take(&live, now), (0..most).collect::<Vec<_>>());
    live.answered(None);
    assert_eq!(live.wait_ms(now), Some(50));
    assert_eq!(take(&live, now + 50), [most]);
    live.answered(None);
    assert_eq!(live.wait_ms(now + 50), Some(9_950));
}

#[test]
fn beyond_the_bound_the_oldest_is_left_out() {
    let live = LiveHolds::bounded(10, 2);
    let _first = enter(&live, 1, START_MS);
    assert!(!live.is_full());
    let second = enter(&live, 2, START_MS);
    assert!(live.is_full());
    let _third = enter(&live, 3, START_MS);
    assert_eq!(take(&live, START_MS + INTERVAL_MS), [2, 3]);
    live.answered(None);
    drop(second);
    assert!(!live.is_full());
    assert_eq!(take(&live, START_MS + 2 * INTERVAL_MS), [3]);
}

#[test]
fn a_clock_set_back_does_not_end_the_renewals() {
    let live = live();
    let _call = enter(&live, 1, START_MS);
    let back = START_MS - 3_600_000;
    assert_eq!(live.wait_ms(back), Some(50));
    assert_eq!(take(&live, back), [1]);
    answer(&live, 200, &[(1, Outcome::Recorded)]);
    assert_eq!(live.wait_ms(back + 1_000), Some(9_000));
    // Seen from just before the grant, it is as young as from just after.
    assert_eq!(live.wait_ms(back - 1_000), Some(9_000));
}
