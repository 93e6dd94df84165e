//! Reading the backend's messages: the same as their derived readers do, member by member. Those carry
//! code for every way that JSON may spell a value, a tenth of the whole module and more.

use purser_protocol::{
    Allow, DeniedBudget, Deny, DenyReason, HoldResponse, ItemResult, Outcome, Payer, Rewrite, Tier,
    TierRemaining, Verdict, Warning, Window,
};
use uuid::Uuid;

use crate::json_scan::{self, Found};

/// The answer to a hold.
#[must_use]
pub fn hold(body: &[u8]) -> Option<HoldResponse> {
    let text = std::str::from_utf8(body).ok()?;
    // Most are grants, and these are read in one go.
    if let Ok([version, id, verdict, grant @ ..]) = json_scan::object(text, &ALLOW_KEYS)
        && verdict.is_some_and(|verdict| verdict.raw == "\"allow\"")
    {
        return response(version, id, Verdict::Allow(allow(grant)?));
    }
    let [version, id, verdict] = json_scan::object(text, &["version", "hold_id", "verdict"]).ok()?;
    let verdict = match json_scan::string(verdict?.raw)?.as_str() {
        "allow" => {
            let [_, _, _, grant @ ..] = json_scan::object(text, &ALLOW_KEYS).ok()?;
            Verdict::Allow(allow(grant)?)
        }
        "deny" => Verdict::Deny(deny(text)?),
        _ => return None,
    };
    response(version, id, verdict)
}

fn response(version: Option<Found<'_>>, id: Option<Found<'_>>, verdict: Verdict) -> Option<HoldResponse> {
    Some(HoldResponse { version: version?.raw.parse().ok()?, hold_id: uuid(id)?, verdict })
}

const ALLOW_KEYS: [&str; 10] = [
    "version",
    "hold_id",
    "verdict",
    "held_nanousd",
    "remaining",
    "rewrite",
    "strict",
    "payer",
    "warnings",
    "clamped",
];

/// A grant by its members, in the order of their keys.
fn allow(members: [Option<Found<'_>>; 7]) -> Option<Allow> {
    let [held, remaining, rewrite, strict, who, warnings, clamped] = members;
    Some(Allow {
        held_nanousd: number(held.as_ref())?,
        remaining: list(remaining.as_ref(), tier_remaining)?,
        rewrite: optional(rewrite.as_ref(), self::rewrite)?,
        strict: flag(strict.as_ref())?,
        payer: optional(who.as_ref(), payer)?,
        warnings: list(warnings.as_ref(), warning)?,
        clamped: flag(clamped.as_ref())?,
    })
}

fn deny(text: &str) -> Option<Deny> {
    let keys = ["reason", "message", "budget", "strict", "exhausted", "payer"];
    let [reason, message, budget, strict, exhausted, who] = json_scan::object(text, &keys).ok()?;
    let reason = string(reason.as_ref())?;
    Some(Deny {
        reason: named(&REASONS, DenyReason::as_str, &reason).unwrap_or(DenyReason::Other),
        message: string(message.as_ref())?,
        budget: optional(budget.as_ref(), denied_budget)?,
        strict: flag(strict.as_ref())?,
        exhausted: flag(exhausted.as_ref())?,
        payer: optional(who.as_ref(), payer)?,
    })
}

const REASONS: [DenyReason; 8] = [
    DenyReason::OverBudget,
    DenyReason::Closed,
    DenyReason::NotPriceable,
    DenyReason::Blocked,
    DenyReason::ModelNotAllowed,
    DenyReason::NoBudget,
    DenyReason::NotBoundable,
    DenyReason::Unidentified,
];

fn payer(raw: &str) -> Option<Payer> {
    let [org, team, user] = json_scan::object(raw, &["org", "team", "user"]).ok()?;
    Some(Payer {
        org: string(org.as_ref())?,
        team: optional(team.as_ref(), json_scan::string)?,
        user: optional(user.as_ref(), json_scan::string)?,
    })
}

fn rewrite(raw: &str) -> Option<Rewrite> {
    let [model, cap] = json_scan::object(raw, &["model", "max_output_tokens"]).ok()?;
    Some(Rewrite {
        model: optional(model.as_ref(), json_scan::string)?,
        max_output_tokens: optional(cap.as_ref(), count)?,
    })
}

fn tier_remaining(raw: &str) -> Option<TierRemaining> {
    let keys = ["tier", "window", "limit_nanousd", "remaining_nanousd", "resets_in_s"];
    let [tier, window, limit, remaining, resets] = json_scan::object(raw, &keys).ok()?;
    Some(TierRemaining {
        tier: self::tier(tier.as_ref())?,
        window: self::window(window.as_ref())?,
        limit_nanousd: number(limit.as_ref())?,
        remaining_nanousd: number(remaining.as_ref())?,
        resets_in_s: optional(resets.as_ref(), count)?,
    })
}

fn warning(raw: &str) -> Option<Warning> {
    let keys = ["budget_id", "tier", "window", "used_percent"];
    let [budget, tier, window, used] = json_scan::object(raw, &keys).ok()?;
    Some(Warning {
        budget_id: number(budget.as_ref())?,
        tier: self::tier(tier.as_ref())?,
        window: self::window(window.as_ref())?,
        used_percent: u32::try_from(number(used.as_ref())?).ok()?,
    })
}

fn denied_budget(raw: &str) -> Option<DeniedBudget> {
    let keys = [
        "budget_id",
        "tier",
        "window",
        "limit_nanousd",
        "spent_nanousd",
        "held_nanousd",
        "needed_nanousd",
        "resets_at",
    ];
    let [budget, tier, window, limit, spent, held, needed, resets] = json_scan::object(raw, &keys).ok()?;
    Some(DeniedBudget {
        budget_id: number(budget.as_ref())?,
        tier: self::tier(tier.as_ref())?,
        window: self::window(window.as_ref())?,
        limit_nanousd: number(limit.as_ref())?,
        spent_nanousd: number(spent.as_ref())?,
        held_nanousd: number(held.as_ref())?,
        needed_nanousd: number(needed.as_ref())?,
        resets_at: optional(resets.as_ref(), json_scan::string)?,
    })
}

#[inline(never)]
fn tier(found: Option<&Found<'_>>) -> Option<Tier> {
    named(&[Tier::Org, Tier::Team, Tier::User], Tier::as_str, &string(found)?)
}

#[inline(never)]
fn window(found: Option<&Found<'_>>) -> Option<Window> {
    Window::from_name(&string(found)?)
}

/// The value that goes by a name.
fn named<T: Copy>(values: &[T], name_of: fn(T) -> &'static str, name: &str) -> Option<T> {
    values.iter().copied().find(|value| name_of(*value) == name)
}

#[inline(never)]
fn string(found: Option<&Found<'_>>) -> Option<String> {
    json_scan::string(found?.raw)
}

#[inline(never)]
fn number(found: Option<&Found<'_>>) -> Option<i64> {
    // In JSON, zero with a sign is no whole number.
    let raw = found?.raw;
    (raw != "-0").then(|| raw.parse().ok())?
}

/// A number that is never negative.
fn count(raw: &str) -> Option<u64> {
    raw.parse().ok()
}

/// A member that may be absent or null; nothing when it is there and wrong.
fn optional<T>(found: Option<&Found<'_>>, read: fn(&str) -> Option<T>) -> Option<Option<T>> {
    match found {
        Some(found) if !found.is_null() => read(found.raw).map(Some),
        _ => Some(None),
    }
}

/// A flag that is off when it is absent.
fn flag(found: Option<&Found<'_>>) -> Option<bool> {
    found.map_or(Some(false), |found| found.raw.parse().ok())
}

/// A list that is empty when it is absent.
fn list<T>(found: Option<&Found<'_>>, read: fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let Some(found) = found else { return Some(Vec::new()) };
    json_scan::elements(found.raw)?.into_iter().map(|item| read(item.get())).collect()
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
    fn every_member_reads_as_the_protocol_reads_it_and_so_does_its_absence() {
        let id = r#""version":1,"hold_id":"01923456-789a-7fff-bfff-ffffffffffff""#;
        let allow = r#""verdict":"allow","held_nanousd":-7,"remaining":[{"tier":"org","window":"day",
            "limit_nanousd":5,"remaining_nanousd":-1,"resets_in_s":60},{"tier":"user","window":"total",
            "limit_nanousd":5,"remaining_nanousd":1}],"rewrite":{"model":"b","max_output_tokens":9},
            "strict":true,"payer":{"org":"a","team":"t\u0041","user":null},"clamped":true,
            "warnings":[{"budget_id":3,"tier":"team","window":"week","used_percent":95}],"new":{"x":[1]}"#;
        let deny = r#""verdict":"deny","reason":"over_budget","message":"n\"o","strict":true,"exhausted":true,
            "payer":{"org":"a"},"budget":{"budget_id":3,"tier":"team","window":"month","limit_nanousd":5,
            "spent_nanousd":4,"held_nanousd":3,"needed_nanousd":2,"resets_at":"2026-01-02T00:00:00Z"}"#;
        let mut texts = vec![format!("{{{id},{allow}}}"), format!("{{{id},{deny}}}")];
        // Each member gone, null, and of another type.
        for whole in texts.clone() {
            let tree: serde_json::Value = serde_json::from_str(&whole).unwrap();
            for value in
                ["null", "7", "-1", "1.5", "\"x\"", "true", "[]", "[7]", "{}", "[{}]", "99999999999999999999"]
            {
                // A derived reader takes a list for an object, too; nobody writes it so.
                let is_spelt_so =
                    |path: &String| value.starts_with('[') && tree.pointer(path).unwrap().is_object();
                for path in paths(&tree, "").into_iter().filter(|path| !is_spelt_so(path)) {
                    let mut changed = tree.clone();
                    *changed.pointer_mut(&path).unwrap() = serde_json::from_str(value).unwrap();
                    texts.push(changed.to_string());
                }
            }
            for path in paths(&tree, "") {
                let (parent, key) = path.rsplit_once('/').unwrap();
                let mut changed = tree.clone();
                if let Some(object) = changed.pointer_mut(parent).unwrap().as_object_mut() {
                    object.remove(key);
                    texts.push(changed.to_string());
                }
            }
        }
        for reason in [
            "closed",
            "not_priceable",
            "blocked",
            "model_not_allowed",
            "no_budget",
            "not_boundable",
            "unidentified",
            "?",
        ] {
            texts.push(format!(r#"{{{id},"verdict":"deny","message":"","reason":"{reason}"}}"#));
        }
        let mut read = 0;
        for text in &texts {
            let expected: Option<HoldResponse> = serde_json::from_str(text).ok();
            read += usize::from(expected.is_some());
            assert_eq!(hold(text.as_bytes()), expected, "{text}");
        }
        assert!(read > 40 && texts.len() > read + 100, "{read} of {}", texts.len());
    }

    /// Pointers to everything in a tree.
    fn paths(tree: &serde_json::Value, at: &str) -> Vec<String> {
        let mut found = Vec::new();
        let inner: Vec<(String, &serde_json::Value)> = match tree {
            serde_json::Value::Object(object) => {
                object.iter().map(|(key, value)| (key.clone(), value)).collect()
            }
            serde_json::Value::Array(list) => {
                list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
            }
            _ => Vec::new(),
        };
        for (key, value) in inner {
            let path = format!("{at}/{key}");
            found.extend(paths(value, &path));
            found.push(path);
        }
        found
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
