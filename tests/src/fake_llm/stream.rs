//! A streamed answer, made while it is read: what the caller never took was never produced.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt as _, stream};

use super::State;
use super::answer::{Answer, Delta, StreamChoice, error_body};
use super::bill::OpenBill;
use super::controls::{Controls, Fault};

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Role { choice: u64 },
    Word { word: u64, choice: u64 },
    Finish { choice: u64 },
    Usage,
    Done,
    End,
}

/// The state of a stream under way.
pub struct AnswerStream {
    pub(super) state: Arc<State>,
    pub(super) answer: Answer,
    pub(super) controls: Controls,
    /// `stream_options.include_usage` of the request.
    pub(super) include_usage: bool,
    pub(super) bill: OpenBill,
    next: Next,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl AnswerStream {
    pub(super) fn new(
        state: Arc<State>,
        answer: Answer,
        controls: Controls,
        include_usage: bool,
        bill: OpenBill,
    ) -> Self {
        let compress = controls.has(Fault::Gzip);
        Self {
            state,
            answer,
            controls,
            include_usage,
            bill,
            next: Next::Role { choice: 0 },
            gzip: compress.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }

    /// The body: one item for each write.
    pub(super) fn into_body(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let piece_bytes = self.controls.chunk_bytes.unwrap_or(usize::MAX);
        let events = stream::unfold(self, |mut this| async move {
            let item = this.advance().await?;
            Some((item, this))
        });
        events.flat_map(move |event| stream::iter(pieces(event, piece_bytes)).then(flushed))
    }

    async fn advance(&mut self) -> Option<io::Result<Bytes>> {
        if self.half_done() {
            let failed = match self.controls.fault {
                Some(Fault::Cut) => Some(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Fault::ErrorInStream) => Some(Ok(error_event())),
                _ => None,
            };
            if failed.is_some() {
                self.next = Next::End;
                return failed;
            }
        }
        let event = self.event().await?;
        Some(self.encode(event))
    }

    /// Whether the next event is the first one of the answer's second half.
    fn half_done(&self) -> bool {
        let half = self.answer.tokens.words_per_choice / 2;
        matches!(self.next, Next::Word { word, choice: 0 } if word == half)
    }

    async fn event(&mut self) -> Option<String> {
        let tokens = self.answer.tokens;
        let wants_usage = self.include_usage && !self.controls.has(Fault::NoUsage);
        let last_choice = tokens.choices - 1;
        loop {
            match self.next {
                Next::Role { choice } => {
                    self.bill.produce(tokens.reasoning_per_choice, tokens.reasoning_per_choice);
                    self.next = if choice < last_choice {
                        Next::Role { choice: choice + 1 }
                    } else {
                        Next::Word { word: 0, choice: 0 }
                    };
                    let delta = Delta::Role { role: "assistant", content: "", refusal: None };
                    return Some(self.choice_event(choice, delta, None));
                }
                Next::Word { word, .. } if word == tokens.words_per_choice => {
                    self.next = Next::Finish { choice: 0 };
                }
                Next::Word { word, choice } => {
                    self.wait_for_word(word, choice).await;
                    self.bill.produce(1, 0);
                    self.next = if choice < last_choice {
                        Next::Word { word, choice: choice + 1 }
                    } else {
                        Next::Word { word: word + 1, choice: 0 }
                    };
                    let delta = Delta::Content { content: Answer::word(word) };
                    return Some(self.choice_event(choice, delta, None));
                }
                Next::Finish { choice } => {
                    self.next = match choice {
                        _ if choice < last_choice => Next::Finish { choice: choice + 1 },
                        _ if wants_usage => Next::Usage,
                        _ => Next::Done,
                    };
                    let reason = Some(self.answer.finish_reason);
                    return Some(self.choice_event(choice, Delta::Nothing {}, reason));
                }
                Next::Usage => {
                    self.next = Next::Done;
                    return Some(self.answer.event(&[], Some(Some(tokens.usage()))));
                }
                Next::Done => {
                    // Before the last bytes leave: who has them finds the answer on the bill.
                    self.bill.close_complete();
                    self.next = Next::End;
                    if !self.controls.has(Fault::NoDone) {
                        return Some("data: [DONE]\n\n".to_owned());
                    }
                }
                Next::End => return None,
            }
        }
    }

    async fn wait_for_word(&self, word: u64, choice: u64) {
        if let (1, 0, Some(gate)) = (word, choice, &self.controls.gate) {
            self.state.gates.pass(gate).await;
        }
        if !self.controls.word_delay.is_zero() {
            tokio::time::sleep(self.controls.word_delay).await;
        }
    }

    fn choice_event(&self, index: u64, delta: Delta, finish_reason: Option<&'static str>) -> String {
        let usage = (self.include_usage && !self.controls.has(Fault::NoUsage)).then_some(None);
        let choice = StreamChoice { index, delta, logprobs: None, finish_reason };
        self.answer.event(&[choice], usage)
    }

    fn encode(&mut self, event: String) -> io::Result<Bytes> {
        let Some(gzip) = &mut self.gzip else {
            return Ok(event.into());
        };
        gzip.write_all(event.as_bytes())?;
        if self.next == Next::End {
            gzip.try_finish()?;
        } else {
            gzip.flush()?;
        }
        Ok(std::mem::take(gzip.get_mut()).into())
    }
}

fn error_event() -> Bytes {
    let message = "The server had an error while processing your request. Sorry about that!";
    let body = error_body(axum::http::StatusCode::INTERNAL_SERVER_ERROR, message, None);
    format!("data: {body}\n\n").into()
}

fn pieces(event: io::Result<Bytes>, piece_bytes: usize) -> Vec<io::Result<Bytes>> {
    match event {
        Err(error) => vec![Err(error)],
        Ok(mut event) => {
            let mut pieces = Vec::new();
            while event.len() > piece_bytes {
                pieces.push(Ok(event.split_to(piece_bytes)));
            }
            pieces.push(Ok(event));
            pieces
        }
    }
}

/// Lets the connection write what it has before it is given more.
pub async fn flushed(piece: io::Result<Bytes>) -> io::Result<Bytes> {
    tokio::task::yield_now().await;
    piece
}
