//! The backend's answers: they read as the protocol's own readers have them, and only a marked answer
//! about this very hold decides.

use purser_filter::replies;
use purser_filter::verdict::{self, CalloutAnswer, Outcome};
use purser_protocol::{HoldResponse, SettlementResponse};
use serde_json::Value;
use uuid::Uuid;

use crate::input::Input;

/// The input: the status, whether the marker is there, the body.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let status = [None, Some(200), Some(401), Some(503)][input.below(4)];
    let is_marked = input.flag();
    let body = input.rest();
    let hold: Option<HoldResponse> = serde_json::from_slice(body).ok();
    let read = replies::hold(body);
    // Members that nobody knows are passed over unread, also numbers beyond all bounds, on which the
    // protocol's own readers stumble.
    let is_plain = serde_json::from_slice::<Value>(body).is_ok();
    if let Some(read) = read.as_ref().filter(|_| is_plain) {
        assert_eq!(hold.as_ref(), Some(read), "read otherwise than the protocol says");
    }
    let batch: Option<SettlementResponse> = serde_json::from_slice(body).ok();
    if let Some(read) = replies::batch(body).filter(|_| is_plain) {
        assert_eq!(batch.map(|batch| batch.results), Some(read));
    }
    let answer = CalloutAnswer { status, marker: is_marked.then_some(b"1"), body };
    let own_id = read.as_ref().map_or(Uuid::max(), |read| read.hold_id);
    for hold_id in [own_id, Uuid::nil()] {
        match verdict::read(answer, hold_id) {
            Outcome::Decided(verdict) => {
                assert!(status == Some(200) && is_marked && own_id == hold_id);
                assert_eq!(read.as_ref().map(|read| &read.verdict), Some(&verdict));
            }
            Outcome::Rejected(status) => assert!(is_marked && status == 401),
            Outcome::Failed(_) => {}
        }
    }
}
