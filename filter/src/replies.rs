//! Reading the backend's messages: the same as their derived readers do, member by member. Those carry
//! code for every way that JSON may spell a tagged value, a tenth of the whole module.

use purser_protocol::{HoldResponse, ItemResult, Outcome, Verdict};
use uuid::Uuid;

use crate::json_scan::{self, Found};

/// The answer to a hold.
#[must_use]
pub fn hold(body: &[u8]) -> Option<HoldResponse> {
    let text = std::str::from_utf8(body).ok()?;
    let [version, id, verdict] = json_scan::object(text, &["version", "hold_id", "verdict"]).ok()?;
    let verdict = match json_scan::string(verdict?.raw)?.as_str() {
        "allow" => Verdict::Allow(serde_json::from_str(text).ok()?),
        "deny" => Verdict::Deny(serde_json::from_str(text).ok()?),
        _ => return None,
    };
    Some(HoldResponse { version: version?.raw.parse().ok()?, hold_id: uuid(id)?, verdict })
}

/// The answer to a batch: what became of each item.
#[must_use]
pub fn batch(body: &[u8]) -> Option<Vec<ItemResult>> {
    let [version, results] = json_scan::object_bytes(body, &["version", "results"]).ok()?;
    version?.raw.parse::<u16>().ok()?;
    json_scan::elements(results?.raw)?.into_iter().map(|item| result(item.get())).collect()
}

fn result(item: &str) -> Option<ItemResult> {
    let [id, outcome, reason] = json_scan::object(item, &["hold_id", "outcome", "reason"]).ok()?;
    let outcome = match json_scan::string(outcome?.raw)?.as_str() {
        "recorded" => Outcome::Recorded,
        "duplicate" => Outcome::Duplicate,
        "rejected" => Outcome::Rejected { reason: json_scan::string(reason?.raw)? },
        _ => return None,
    };
    Some(ItemResult { hold_id: uuid(id)?, outcome })
}

fn uuid(found: Option<Found<'_>>) -> Option<Uuid> {
    Uuid::try_parse(&json_scan::string(found?.raw)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use purser_protocol::SettlementResponse;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    macro_rules! golden {
        ($name:literal) => {
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/golden/", $name, ".json"))
        };
    }

    #[test]
    fn the_wire_s_golden_messages_read_as_the_protocol_reads_them() {
        for text in [
            golden!("hold-allow"),
            golden!("hold-allow-rewrite"),
            golden!("hold-allow-strict"),
            golden!("hold-deny"),
            golden!("hold-deny-strict"),
            golden!("hold-deny-total"),
        ] {
            assert_eq!(hold(text.as_bytes()), Some(serde_json::from_str(text).unwrap()), "{text}");
        }
        let text = golden!("settlement-response");
        let expected: SettlementResponse = serde_json::from_str(text).unwrap();
        assert_eq!(batch(text.as_bytes()), Some(expected.results));
    }

    #[test]
    fn what_is_no_message_is_none() {
        let id = "01923456-789a-7fff-bfff-ffffffffffff";
        for text in [
            "",
            "{}",
            "[]",
            &format!(r#"{{"version":1,"hold_id":"{id}","verdict":"maybe"}}"#),
            &format!(r#"{{"version":1,"hold_id":"{id}","verdict":"allow"}}"#),
            &format!(r#"{{"version":"1","hold_id":"{id}","verdict":"allow","held_nanousd":1}}"#),
            r#"{"version":1,"hold_id":"x","verdict":"allow","held_nanousd":1}"#,
            r#"{"version":1,"results":{}}"#,
            r#"{"version":1,"results":[{"hold_id":"x","outcome":"recorded"}]}"#,
            &format!(r#"{{"version":1,"results":[{{"hold_id":"{id}","outcome":"rejected"}}]}}"#),
            &format!(r#"{{"version":1,"results":[{{"hold_id":"{id}","outcome":"lost"}}]}}"#),
        ] {
            assert_eq!((hold(text.as_bytes()), batch(text.as_bytes())), (None, None), "{text}");
        }
    }
}
