//! The end of a stream: the one thing the backend gets to know about it.

use std::collections::BTreeMap;
use std::mem;

use purser_protocol::{Ending, Settlement, SettlementItem, Usage, UsageQuality};

use super::{Exchange, Note, Pending, Sent, State};
use crate::answer::{AnswerBody, BYTES_PER_TOKEN};
use crate::meter::Reading;

/// What the proxy knows at the end of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    /// Why the proxy itself ended or failed the stream, as bits of [`flags`].
    pub response_flags: u64,
    /// How often it tried to reach the upstream; absent when the proxy doesn't say.
    pub upstream_attempts: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub now_unix_ms: u64,
}

/// Envoy's response flags, as far as they matter here.
pub mod flags {
    /// No healthy upstream.
    pub const NO_HEALTHY_UPSTREAM: u64 = 0x2;
    /// The connection to the upstream failed.
    pub const UPSTREAM_CONNECTION_FAILURE: u64 = 0x20;
    /// Too many requests to the upstream already.
    pub const UPSTREAM_OVERFLOW: u64 = 0x80;
    /// No route.
    pub const NO_ROUTE: u64 = 0x100;
    /// The client went away.
    pub const CLIENT_GONE: u64 = 0x4000;
    /// No such cluster.
    pub const NO_CLUSTER: u64 = 0x0100_0000;
    /// The upstream's name did not resolve.
    pub const DNS_FAILURE: u64 = 0x0400_0000;

    /// With one of these, and without an answer from the upstream, the request never left.
    pub const NEVER_SENT: u64 = NO_HEALTHY_UPSTREAM
        | UPSTREAM_CONNECTION_FAILURE
        | UPSTREAM_OVERFLOW
        | NO_ROUTE
        | NO_CLUSTER
        | DNS_FAILURE;
}

impl Exchange {
    /// Whether what the proxy knows of the end decides anything: an answer that came whole, and isn't a
    /// stream that may have been cut, is complete whatever the proxy says.
    #[must_use]
    pub fn end_is_open(&self) -> bool {
        let State::Sent(sent) = &self.state else { return false };
        let is_stream = sent.body.as_ref().is_some_and(AnswerBody::is_stream);
        sent.http_status.is_none() || !sent.saw_end || is_stream
    }

    /// The stream is over. Returns what the backend must learn, the first time it is called.
    pub fn finish(&mut self, end: End) -> Option<SettlementItem> {
        match mem::replace(&mut self.state, State::Passing) {
            State::New | State::Passing => None,
            State::Reading(reading) => {
                if !reading.saw_body {
                    self.note(Note::NoBody);
                }
                None
            }
            State::Refused(void) => void.map(SettlementItem::Void),
            State::Asked(pending) => Some(SettlementItem::Void(pending.void())),
            State::Sent(sent) if never_left(&sent, end) => Some(SettlementItem::Void(sent.pending.void())),
            State::Sent(sent) => {
                let (settlement, was_read) = settlement(*sent, end);
                if settlement.usage_quality != UsageQuality::None {
                    self.line.usage = Some(settlement.usage);
                    self.note(Note::Used {
                        model: settlement.call.model.clone(),
                        team: settlement.payer.team.clone(),
                        usage: settlement.usage,
                    });
                }
                if !was_read {
                    self.note(Note::UnreadAnswer);
                }
                Some(SettlementItem::Settle(Box::new(settlement)))
            }
        }
    }
}

/// Whether nothing of the call reached the upstream. In doubt it did: a call that was sent and
/// voided would be free.
fn never_left(sent: &Sent, end: End) -> bool {
    sent.http_status.is_none()
        && (end.upstream_attempts == Some(0) || end.response_flags & flags::NEVER_SENT != 0)
}

/// The settlement of a call that went out, and whether its answer told its usage if it should have.
fn settlement(sent: Sent, end: End) -> (Settlement, bool) {
    let is_stream = sent.body.as_ref().is_some_and(AnswerBody::is_stream);
    let reading = sent.body.map(AnswerBody::finish).unwrap_or_default();
    let ending = ending(&reading, is_stream, sent.saw_end, end);
    let http_status = sent.http_status.unwrap_or(0);
    let is_success = (200..300).contains(&http_status);
    let request = &sent.pending.request;
    let usage_never_comes = request.is_deferred && is_success && reading.usage.is_none();
    let (usage, usage_quality) = match reading.usage {
        Some(usage)
            if (reading.usage_is_final || ending == Ending::Complete)
                && !reading.output_is_open
                && !is_blank(usage, &reading) =>
        {
            (usage, UsageQuality::Exact)
        }
        Some(usage) => (at_least(usage, &reading, sent.pending.size.text_bytes), UsageQuality::AtLeast),
        None if usage_never_comes => (Usage::default(), UsageQuality::None),
        None => seen_usage(&reading, ending, is_success, sent.pending.size.text_bytes),
    };
    let is_unread = usage_quality == UsageQuality::AtLeast
        || (usage_quality == UsageQuality::None && is_success && reading.is_opaque);
    let was_read = !is_unread || ending != Ending::Complete;
    let mut units = BTreeMap::new();
    for (name, count) in reading.units {
        units.insert(name.to_owned(), count);
    }
    if let Some(characters) = request.input_characters.filter(|_| is_success) {
        units.insert("input_characters".to_owned(), characters);
    }
    let started_at_unix_ms = sent.pending.started_at_unix_ms;
    let may_think = may_think(&sent.pending, reading.answered_model.as_deref());
    let settlement = Settlement {
        hold_id: sent.pending.hold_id,
        payer: sent.pending.caller.payer,
        lookup: sent.pending.caller.lookup,
        call: sent.pending.call,
        asked_model: sent.pending.asked_model,
        size: sent.pending.size,
        admission: sent.admission,
        answered_model: reading.answered_model,
        response_id: reading.response_id,
        usage,
        usage_quality,
        http_status,
        ending,
        started_at_unix_ms: i64::try_from(started_at_unix_ms).unwrap_or(i64::MAX),
        duration_ms: end.now_unix_ms.saturating_sub(started_at_unix_ms),
        first_byte_ms: sent.first_byte_ms,
        tags: sent.pending.tags,
        service_tier: reading.service_tier,
        units,
        reported_cost_nanousd: reading.reported_cost_nanousd,
        usage_never_comes,
        may_think,
    };
    (settlement, was_read)
}

/// Whether the model may have thought unseen. What a provider adds to a request may be of other models.
fn may_think(pending: &Pending, answered_model: Option<&str>) -> Option<bool> {
    let model = answered_model.unwrap_or(&pending.call.model);
    let told = pending.request.thinking.may_think(pending.call.api, model);
    told.filter(|_| !pending.size.server_context)
}

/// Whether a usage counts nothing though something came: a server that doesn't count writes zeros.
fn is_blank(usage: Usage, reading: &Reading) -> bool {
    usage == Usage::default() && reading.output_bytes > 0
}

fn ending(reading: &Reading, is_stream: bool, saw_end: bool, end: End) -> Ending {
    // A stream that ends without saying so and without its last usage was cut by the upstream. One of
    // which nothing can be read can't say so, nor one whose last part may have been too long to be read.
    let is_foreign = reading.is_opaque || (reading.saw_unread && !reading.saw_readable);
    let ended_well = saw_end && (!is_stream || is_foreign || (reading.usage_is_final && !reading.saw_error));
    // Some streams tell of an error and then end as always.
    let is_done = reading.is_done && (!is_stream || reading.usage_is_final || !reading.saw_error);
    if is_done || ended_well {
        Ending::Complete
    } else if end.response_flags & flags::CLIENT_GONE != 0 {
        Ending::ClientGone
    } else {
        Ending::UpstreamCut
    }
}

/// A usage that was told along the way, and then the answer broke off or didn't tell it again: what was
/// seen of its output counts where it is more. One without any input was told too early.
fn at_least(usage: Usage, reading: &Reading, text_bytes: u64) -> Usage {
    let seen = reading.output_tokens_seen.unwrap_or(0).saturating_sub(usage.reasoning_tokens);
    let of_input = [usage.cached_input_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens];
    let tells_input = usage.input_tokens > 0 || of_input.iter().any(|count| *count > 0);
    let input_tokens = if tells_input { usage.input_tokens } else { text_bytes.div_ceil(BYTES_PER_TOKEN) };
    Usage { input_tokens, output_tokens: usage.output_tokens.max(seen), ..usage }
}

/// The usage of an answer that didn't tell it. One that had begun used its input and what was seen of
/// its output; both are counted from their bytes. An error is no output, and one that came before any
/// costs nothing. Where bytes say nothing, the hold has to do.
fn seen_usage(reading: &Reading, ending: Ending, is_success: bool, text_bytes: u64) -> (Usage, UsageQuality) {
    let is_opaque = reading.is_opaque && (reading.output_bytes == 0 || ending != Ending::Complete);
    match reading.output_tokens_seen {
        Some(_) if is_success && reading.is_only_an_error() => (Usage::default(), UsageQuality::Exact),
        Some(_) if is_opaque => (Usage::default(), UsageQuality::None),
        Some(output_tokens) if is_success => {
            let input_tokens = text_bytes.div_ceil(BYTES_PER_TOKEN);
            (Usage { input_tokens, output_tokens, ..Usage::default() }, UsageQuality::AtLeast)
        }
        _ => (Usage::default(), UsageQuality::None),
    }
}
