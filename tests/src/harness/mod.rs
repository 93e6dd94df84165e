//! Starts the real parts for a test: a database of its own, the backend's binary, the fake provider
//! and Envoy with the built filter, all on free ports.
//!
//! A test that can't get its surroundings fails with what is missing; it is never skipped.

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: what is missing here must stop the test, with a message"
)]

pub mod backend;
pub mod certs;
pub mod client;
pub mod database;
pub mod envoy;
pub mod link;
pub mod netns;
pub mod process;
pub mod raw;
pub mod scripted;
pub mod sdk;
pub mod stack;
pub mod tls;
pub mod tls_front;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything that should come at once. Generous: a loaded machine must not fail a
/// test; a thing that never comes must.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at something that can't be awaited.
const POLL: Duration = Duration::from_millis(10);

/// Looks until `probe` succeeds, and returns what it found.
///
/// # Panics
/// When it doesn't succeed within [`PATIENCE`]: with `what` and with what was last seen instead.
pub async fn wait_until<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if started.elapsed() > PATIENCE => {
                panic!("waited {PATIENCE:?} for {what}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Awaits with a bound.
///
/// # Panics
/// When `future` isn't ready within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// The folder with the workspace's manifest.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the workspace").to_path_buf()
}

/// What setup wrote into the environment.
///
/// # Panics
/// When the variable isn't set: with how to set it.
#[must_use]
pub fn environment(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{variable} is not set: run `make setup`, then `. .local/env` (or just `make test`)"),
    }
}
