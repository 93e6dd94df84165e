//! Batches: work that is done later, whose usage never comes on the call.

use purser_protocol::Size;

use super::{CallRequest, CapPlace, Members, Thinking, Unreadable, model};
use crate::json_scan;

/// The model of a batch whose work is in a file that was uploaded before.
const UNSEEN_MODEL: &str = "batch";

/// A batch of OpenAI's. What it asks for is in a file: neither its models nor its size are known, so
/// that no price fits it.
pub fn openai(body_bytes: usize) -> CallRequest {
    let size = Size { choices: 1, server_context: true, ..Size::default() };
    deferred(UNSEEN_MODEL.to_owned(), size, body_bytes)
}

/// A batch of Anthropic's: requests in a list. Their caps add up by taking the largest so many times.
pub fn anthropic(members: &Members<'_>, body_bytes: usize) -> Result<CallRequest, Unreadable> {
    let wrong = |expected| Unreadable::Member { name: "requests", expected };
    let list = members.value("requests").and_then(|found| json_scan::elements(found.raw));
    let list = list.ok_or(wrong("a list of requests"))?;
    let mut asked: Option<String> = None;
    let mut cap = Some(0_u64);
    for item in &list {
        let item = members.within(item.get(), &["params"]).ok();
        let params = item.as_ref().and_then(|item| item.given("params"));
        let params = params.ok_or(wrong("a list of objects with params"))?;
        let params = members.within(params.raw, &["model", "max_tokens"]).map_err(Unreadable::Scan)?;
        let name = model::check(params.given("model").and_then(|found| json_scan::string(found.raw)))?;
        if asked.as_ref().is_some_and(|first| *first != name) {
            return Err(wrong("one model for all of a batch"));
        }
        asked = Some(name);
        let own: Option<u64> = params.given("max_tokens").and_then(|found| found.raw.parse().ok());
        cap = cap.zip(own).map(|(largest, own)| largest.max(own));
    }
    let size = Size {
        text_bytes: u64::try_from(body_bytes).unwrap_or(u64::MAX),
        max_output_tokens: cap,
        choices: u32::try_from(list.len()).unwrap_or(u32::MAX).max(1),
        ..Size::default()
    };
    Ok(deferred(model::check(asked)?, size, body_bytes))
}

fn deferred(model: String, size: Size, body_bytes: usize) -> CallRequest {
    CallRequest {
        model,
        stream: false,
        size,
        body_bytes,
        usage_switch: None,
        model_at: None,
        cap: CapPlace::Fixed,
        is_deferred: true,
        input_characters: None,
        service_tier: None,
        thinking: Thinking::Open,
    }
}
