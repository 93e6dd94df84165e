use super::*;
use crate::journal::Store;
use crate::outage::cell::Written;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use purser_protocol::{ItemResult, Payer, SettlementBatch, SettlementResponse, Void};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn outbox(max_bytes: usize, batch_items: usize) -> Outbox {
    Outbox::new(OutboxLimits { max_bytes, batch_items, flush_interval_ms: 50 })
}

fn item(id: u128) -> SettlementItem {
    SettlementItem::Void(Void {
        hold_id: Uuid::from_u128(id),
        payer: Payer { org: "acme".to_owned(), team: None, user: None },
        lookup: None,
    })
}

fn filled(count: u128, batch_items: usize) -> Outbox {
    let mut outbox = outbox(1 << 20, batch_items);
    for id in 0..count {
        outbox.push(&item(id), 0).unwrap();
    }
    outbox
}

/// The ids in the next batch, as the backend reads it.
fn take(outbox: &mut Outbox) -> Vec<u128> {
    let body = outbox.take_batch().unwrap();
    let batch: SettlementBatch = serde_json::from_slice(&body).unwrap();
    assert_eq!(batch.version, VERSION);
    let ids = batch.items.iter().map(SettlementItem::hold_id);
    ids.map(|id| id.as_u128()).collect()
}

fn answer(outbox: &mut Outbox, status: u16, results: &[(u128, Outcome)]) -> Tally {
    let response = SettlementResponse {
        version: VERSION,
        results: results
            .iter()
            .map(|(id, outcome)| ItemResult { hold_id: Uuid::from_u128(*id), outcome: outcome.clone() })
            .collect(),
    };
    outbox.answered(Some(CalloutAnswer {
        status: Some(status),
        marker: Some(b"1"),
        body: &serde_json::to_vec(&response).unwrap(),
    }))
}

fn rejected() -> Outcome {
    Outcome::Rejected { reason: "no such org".to_owned() }
}

#[test]
fn goes_out_in_order_one_batch_at_a_time() {
    let mut outbox = filled(5, 2);
    assert_eq!(take(&mut outbox), [0, 1]);
    assert_eq!(outbox.take_batch(), None);
    outbox.push(&item(5), 0).unwrap();
    let tally = answer(&mut outbox, 200, &[(0, Outcome::Recorded), (1, Outcome::Duplicate)]);
    let expected = Tally { recorded: 1, duplicate: 1, ..Tally::default() };
    assert_eq!(tally, expected);
    assert_eq!(take(&mut outbox), [2, 3]);
    let tally = answer(&mut outbox, 200, &[(3, Outcome::Recorded), (2, rejected())]);
    assert_eq!(tally.rejected, [(Uuid::from_u128(2), "no such org".to_owned())]);
    assert_eq!(take(&mut outbox), [4, 5]);
    answer(&mut outbox, 200, &[(4, Outcome::Recorded), (5, Outcome::Recorded)]);
    assert!(outbox.is_empty() && outbox.take_batch().is_none());
    assert_eq!((outbox.bytes, outbox.wait_ms(7)), (0, None));
}

#[test]
fn what_the_answer_does_not_name_goes_out_again() {
    let mut outbox = filled(3, 10);
    take(&mut outbox);
    let tally = answer(&mut outbox, 200, &[(1, Outcome::Recorded), (77, Outcome::Recorded)]);
    assert_eq!(tally.recorded, 1);
    assert!(tally.failure.is_some());
    outbox.push(&item(9), 0).unwrap();
    assert_eq!(take(&mut outbox), [0, 2, 9]);
}

#[test]
fn nothing_is_lost_while_the_backend_fails() {
    let mut outbox = filled(2, 10);
    for (status, marker, body) in [
        (None, None, ""),
        (Some(503), Some("1"), ""),
        (Some(401), Some("1"), ""),
        (Some(400), None, ""),
        (Some(200), None, r#"{"version":1,"results":[]}"#),
        (Some(200), Some("1"), "<html>"),
        (Some(200), Some("1"), r#"{"version":1,"results":[]}"#),
    ] {
        assert_eq!(take(&mut outbox), [0, 1]);
        let tally = outbox.answered(Some(CalloutAnswer {
            status,
            marker: marker.map(str::as_bytes),
            body: body.as_bytes(),
        }));
        assert!(tally.failure.is_some(), "{status:?} {marker:?} {body}");
        assert_eq!(outbox.len(), 2);
    }
    take(&mut outbox);
    assert!(outbox.answered(None).failure.is_some());
    assert_eq!(outbox.len(), 2);
}

#[test]
fn waits_grow_to_a_bound_and_end_with_success() {
    let mut outbox = filled(1, 10);
    assert_eq!(outbox.wait_ms(0), Some(50));
    let mut bounds = Vec::new();
    for _ in 0..40 {
        take(&mut outbox);
        outbox.answered(None);
        let (least, most) = (outbox.wait_ms(0).unwrap(), (0..20_000).map(|r| outbox.wait_ms(r)));
        bounds.push((least, most.max().flatten().unwrap()));
    }
    assert_eq!(bounds[..3], [(50, 99), (100, 199), (200, 399)]);
    assert_eq!(bounds[39], (1_000, 1_999));
    take(&mut outbox);
    outbox.push(&item(1), 0).unwrap();
    answer(&mut outbox, 200, &[(0, Outcome::Recorded)]);
    assert_eq!(outbox.wait_ms(0), Some(50));
}

#[test]
fn an_item_the_backend_cannot_read_does_not_hold_up_the_others() {
    let mut outbox = filled(8, 8);
    let poison = 5;
    let mut recorded = Vec::new();
    let mut lost = Vec::new();
    for _ in 0..20 {
        if outbox.is_empty() {
            break;
        }
        let ids = take(&mut outbox);
        if ids.contains(&poison) {
            let tally = answer(&mut outbox, 422, &[]);
            lost.extend(tally.rejected.into_iter().map(|(id, _)| id.as_u128()));
        } else {
            let results: Vec<_> = ids.iter().map(|id| (*id, Outcome::Recorded)).collect();
            answer(&mut outbox, 200, &results);
            recorded.extend(ids);
        }
    }
    assert_eq!(lost, [poison]);
    assert_eq!(recorded, [0, 1, 2, 3, 4, 6, 7]);
    assert_eq!(outbox.bytes, 0);
}

#[test]
fn a_full_queue_drops_the_newest() {
    let mut outbox = outbox(1000, 10);
    let mut pushed = 0;
    while outbox.push(&item(pushed), 0).is_ok() {
        pushed += 1;
        assert!(pushed < 100);
    }
    assert!(pushed > 1);
    assert_eq!(outbox.push(&item(99), 0), Err(Full));
    assert_eq!(take(&mut outbox), (0..pushed).collect::<Vec<_>>());
    answer(&mut outbox, 200, &[(0, Outcome::Recorded)]);
    assert_eq!(outbox.push(&item(100), 0), Ok(()));
}

/// What the proxy keeps, by name.
#[derive(Debug, Default)]
struct Memory(RefCell<BTreeMap<String, Vec<u8>>>);

impl Store for Memory {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.0.borrow().get(key).map(|value| (value.clone(), 1))
    }

    fn set(&self, key: &str, value: &[u8], _: u32) -> Written {
        self.0.borrow_mut().insert(key.to_owned(), value.to_vec());
        Written::Done
    }
}

fn journaled(memory: &Rc<Memory>, id: u64, max_bytes: usize) -> Outbox {
    let store = Rc::clone(memory) as Rc<dyn Store>;
    outbox(max_bytes, 3).journaled(Journal::new(store, id, 1, 1_000))
}

/// What an heir takes over, by its ids in order.
fn inherited(memory: &Rc<Memory>) -> Vec<u128> {
    let mut heir = journaled(memory, 99, 1 << 20);
    for look in 0..20 {
        let now_unix_ms = look * 2_000;
        if let Some(estate) = heir.look(now_unix_ms) {
            assert_eq!(heir.inherit(estate, now_unix_ms), 0);
        }
    }
    heir.queue.iter().map(|item| item.hold_id.as_u128()).collect()
}

#[test]
fn whenever_the_vm_traps_what_is_not_acknowledged_is_taken_over() {
    type Step = fn(&mut Outbox);
    let steps: [Step; 12] = [
        |outbox| outbox.push(&item(0), 0).unwrap(),
        |outbox| outbox.push(&item(1), 0).unwrap(),
        |outbox| drop(take(outbox)),
        |outbox| outbox.push(&item(2), 0).unwrap(),
        // One of two, and not the first.
        |outbox| drop(answer(outbox, 200, &[(1, Outcome::Recorded)])),
        |outbox| outbox.push(&item(3), 0).unwrap(),
        |outbox| drop(take(outbox)),
        |outbox| drop(answer(outbox, 422, &[])),
        |outbox| drop(take(outbox)),
        |outbox| drop(answer(outbox, 422, &[])),
        |outbox| outbox.push(&item(4), 0).unwrap(),
        |outbox| drop((take(outbox), answer(outbox, 200, &[(2, Outcome::Recorded), (3, rejected())]))),
    ];
    for survived in 0..=steps.len() {
        for says_so in [false, true] {
            let memory = Rc::new(Memory::default());
            let mut outbox = journaled(&memory, 1, 1 << 20);
            for step in &steps[..survived] {
                step(&mut outbox);
                if says_so {
                    outbox.beat(0);
                }
            }
            let open: Vec<_> = outbox.queue.iter().map(|item| item.hold_id.as_u128()).collect();
            drop(outbox);
            let found = inherited(&memory);
            let is_there = open.iter().all(|id| found.contains(id));
            assert!(is_there, "{survived} {says_so}: {open:?} in {found:?}");
            assert!(!says_so || open == found, "{survived}: {open:?} is {found:?}");
        }
    }
}

#[test]
fn an_estate_that_does_not_fit_waits_for_room() {
    let memory = Rc::new(Memory::default());
    let mut gone = journaled(&memory, 1, 1 << 20);
    for id in 0..10 {
        gone.push(&item(id), 0).unwrap();
    }
    let mut small = journaled(&memory, 2, 1_000);
    assert!((0..20).all(|look| small.look(look * 2_000).is_none()));
    assert_eq!(inherited(&memory), (0..10).collect::<Vec<_>>());
}
