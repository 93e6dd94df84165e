//! The way down: the answer's headers and body on their way to the app.

use std::mem;

use super::{Exchange, State};
use crate::answer::{AnswerBody, Plan};
use crate::headers::{HeaderEdit, Headers};

impl Exchange {
    /// The answer's headers are there. `is_upstreams` tells an upstream's answer from one that the
    /// proxy gives in its place. Returns the changes to make.
    pub fn response_headers(
        &mut self,
        headers: &Headers,
        is_whole: bool,
        is_upstreams: bool,
    ) -> Vec<HeaderEdit> {
        let sent = match &mut self.state {
            State::Sent(sent) => sent,
            // The proxy answers in our place while the call waits; it must not go out any more.
            State::Asked(pending) => {
                let void = pending.void();
                self.state = State::Refused(Some(void));
                return Vec::new();
            }
            State::Reading(_) => {
                self.state = State::Refused(None);
                return Vec::new();
            }
            State::New | State::Passing | State::Refused(_) => return Vec::new(),
        };
        let mut edits = mem::take(&mut sent.answer_headers);
        if is_upstreams {
            let status = headers
                .get(":status")
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| digits.parse().ok());
            sent.http_status = Some(status.unwrap_or(0));
            sent.saw_end = is_whole;
            let plan = Plan {
                reader: sent.pending.reader,
                stream: sent.pending.call.stream,
                edit: sent.pending.request.usage_switch.is_some(),
                max_bytes: self.worker.config.max_metered_body_bytes,
            };
            let body = AnswerBody::new(headers, plan, &self.worker.pool);
            if body.may_edit() {
                edits.push(HeaderEdit::Remove("content-length".to_owned()));
            }
            sent.body = Some(body);
        }
        edits
    }

    /// A chunk of the answer's body. Returns what goes on in its place, or nothing when the chunk
    /// goes on as it is. `now_unix_ms` is asked once at most.
    pub fn response_body(
        &mut self,
        chunk: &[u8],
        is_last: bool,
        now_unix_ms: impl FnOnce() -> u64,
    ) -> Option<Vec<u8>> {
        let State::Sent(sent) = &mut self.state else {
            return None;
        };
        let body = sent.body.as_mut()?;
        if sent.first_byte_ms.is_none() && !chunk.is_empty() {
            let elapsed = now_unix_ms().saturating_sub(sent.pending.started_at_unix_ms);
            sent.first_byte_ms = Some(elapsed);
        }
        sent.saw_end = is_last;
        body.push(chunk, is_last)
    }

    /// Whether the answer is of interest at all; when it isn't, not even its headers need to be read.
    #[must_use]
    pub fn awaits_response(&self) -> bool {
        !matches!(self.state, State::New | State::Passing | State::Refused(_))
    }

    /// Whether the answer's body is of interest; when it isn't, no chunk needs to be read.
    #[must_use]
    pub fn meters_response(&self) -> bool {
        matches!(&self.state, State::Sent(sent) if sent.body.is_some())
    }

    /// Trailers end the answer; a body with trailers has no last chunk. A stream of events that is
    /// being edited and stops in the middle of an event loses that part here: the proxy takes no more
    /// body once there are trailers. Readers of events drop an unfinished one, too.
    pub fn response_trailers(&mut self) {
        if let State::Sent(sent) = &mut self.state {
            sent.saw_end = sent.body.is_some();
        }
    }
}
