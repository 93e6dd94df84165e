//! Keeps the tokens in memory as the database has them, and tells it which were used.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use super::Doors;
use super::book::TokenBook;
use crate::admin::{idempotency, tokens};
use crate::refresh::Kept;

/// How often uses are told, and old keys forgotten.
const INTERVAL: Duration = Duration::from_secs(60);

/// Reads the tokens again whenever one changes.
pub async fn keep_book(pool: PgPool, latest: watch::Sender<Arc<TokenBook>>) {
    let read = |pool| async move { tokens::book(&pool).await };
    Kept { name: "tokens", channel: tokens::CHANNEL, read }.run(pool, latest).await;
}

/// Tells which tokens were used, and forgets old idempotency keys, until the end of the process.
pub async fn note_uses(pool: PgPool, doors: Doors) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        note(&pool, &doors).await;
        match idempotency::forget(&pool).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::debug!(forgotten, "idempotency keys are forgotten"),
            Err(error) => tracing::warn!(%error, "old idempotency keys could not be forgotten yet"),
        }
    }
}

/// One round of telling.
pub async fn note(pool: &PgPool, doors: &Doors) {
    let uses = doors.take_uses();
    if uses.is_empty() {
        return;
    }
    if let Err(error) = tokens::used(pool, &uses).await {
        tracing::warn!(%error, tokens = uses.len(), "when tokens were last used could not be noted");
    }
}
