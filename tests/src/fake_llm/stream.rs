//! A streamed answer, made while it is read: what the caller never took was never produced.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt as _, stream};

use super::State;
use super::bill::OpenBill;
use super::call::{Step, Steps};
use super::controls::{Controls, Fault};

/// The state of a stream under way.
pub struct AnswerStream {
    pub(super) state: Arc<State>,
    pub(super) controls: Controls,
    pub(super) bill: OpenBill,
    /// What comes.
    pub(super) steps: Steps,
    /// The next of it.
    pub(super) next: Option<Step>,
    /// What an error halfway through looks like.
    pub(super) error: Vec<u8>,
    /// The first word of the second half.
    pub(super) half: u64,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl AnswerStream {
    pub(super) fn new(
        state: Arc<State>,
        controls: Controls,
        bill: OpenBill,
        mut steps: Steps,
        error: Vec<u8>,
        half: u64,
    ) -> Self {
        let gzip = controls.has(Fault::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        let next = steps.next();
        Self { state, controls, bill, steps, next, error, half, gzip }
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
        let step = self.next.take()?;
        if step.word == Some((self.half, 0)) {
            match self.controls.fault {
                Some(Fault::Cut) => return Some(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Fault::ErrorInStream) => return Some(Ok(std::mem::take(&mut self.error).into())),
                _ => {}
            }
        }
        if let Some((word, choice)) = step.word {
            self.wait_for_word(word, choice).await;
        }
        self.bill.produce(step.output_tokens, step.reasoning_tokens);
        self.next = self.steps.next();
        if self.next.is_none() {
            // Before the last bytes leave: who has them finds the answer on the bill.
            self.bill.close_complete();
        }
        Some(self.encode(step.bytes))
    }

    async fn wait_for_word(&mut self, word: u64, choice: u64) {
        if let (1, 0, Some(gate)) = (word, choice, &self.controls.gate) {
            self.state.gates.pass(gate).await;
        }
        if !self.controls.word_delay.is_zero() {
            tokio::time::sleep(self.controls.word_delay).await;
        }
    }

    fn encode(&mut self, bytes: Vec<u8>) -> io::Result<Bytes> {
        let Some(gzip) = &mut self.gzip else {
            return Ok(bytes.into());
        };
        gzip.write_all(&bytes)?;
        if self.next.is_none() {
            gzip.try_finish()?;
        } else {
            gzip.flush()?;
        }
        Ok(std::mem::take(gzip.get_mut()).into())
    }
}

/// Pieces of at most `piece_bytes`.
pub fn pieces(event: io::Result<Bytes>, piece_bytes: usize) -> Vec<io::Result<Bytes>> {
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
