//! What the fake provider received, for tests that ask what reached upstream.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::Serialize;
use tokio::sync::watch;

use super::lock;

/// Rows kept; older ones are dropped.
const MAX_ROWS: usize = 512;
/// Bytes of each body that are kept.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// A request to the API that was read to its end, or to where its sender broke off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReceivedRow {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Names (lower case) and values in the order received; a value that isn't text is escaped.
    pub headers: Vec<(String, String)>,
    /// The first 16 KiB of the body; bytes that aren't UTF-8 are replaced.
    pub body: String,
    /// Bytes of the whole body.
    pub body_bytes: usize,
    /// Names of the trailers after the body.
    pub trailers: Vec<String>,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl ReceivedRow {
    /// The first value of a header (lower-case name).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set_body(&mut self, body: &[u8]) {
        self.body_bytes = body.len();
        let kept = body.get(..MAX_BODY_BYTES).unwrap_or(body);
        self.body = String::from_utf8_lossy(kept).into_owned();
    }
}

/// The log as `GET /requests` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReceivedView {
    /// Requests to the API whose headers arrived, ever.
    pub attempts: u64,
    /// The newest 512 rows, oldest first.
    pub rows: Vec<ReceivedRow>,
}

/// The log.
#[derive(Debug)]
pub struct ReceivedLog {
    attempts: watch::Sender<u64>,
    rows: Mutex<VecDeque<ReceivedRow>>,
}

impl Default for ReceivedLog {
    fn default() -> Self {
        Self { attempts: watch::Sender::new(0), rows: Mutex::default() }
    }
}

impl ReceivedLog {
    /// The log so far.
    #[must_use]
    pub fn view(&self) -> ReceivedView {
        ReceivedView { attempts: *self.attempts.borrow(), rows: lock(&self.rows).iter().cloned().collect() }
    }

    /// Waits until the headers of `count` requests have arrived.
    pub async fn wait_for_attempts(&self, count: u64) {
        let mut attempts = self.attempts.subscribe();
        // The sender is in `self`, so that the channel can't close meanwhile.
        let _reached = attempts.wait_for(|attempts| *attempts >= count).await;
    }

    pub(super) fn count_attempt(&self) {
        self.attempts.send_modify(|attempts| *attempts += 1);
    }

    pub(super) fn push(&self, row: ReceivedRow) {
        let mut rows = lock(&self.rows);
        if rows.len() == MAX_ROWS {
            rows.pop_front();
        }
        rows.push_back(row);
    }
}
