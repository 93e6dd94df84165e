//! What must hold in the filter whatever bytes arrive. One module for each part, with a `check` that
//! takes any bytes and panics when something doesn't hold:
//!
//! - nothing panics, and what is kept of a stream stays within its bound;
//! - however a stream is cut into chunks, it reads the same and comes out the same;
//! - a rewrite changes what it says and no other byte.
//!
//! `make fuzz` drives them with libFuzzer (the programs in `fuzz_targets/`), the tests of this package
//! with the golden corpus, with damaged copies of it and with random bytes. Each check compares with a
//! plain model of its own or with a general parser, not with the code it checks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what doesn't hold is meant to stop the run"
)]

pub mod answer;
pub mod config;
pub mod events;
pub mod exchange;
pub mod frames;
pub mod input;
pub mod replies;
pub mod request;
pub mod seeds;
pub mod splice;
pub mod stream_edit;
pub mod values;

/// Checks any bytes.
pub type Check = fn(&[u8]);

/// Every check, under the name of its target.
pub const CHECKS: [(&str, Check); 10] = [
    ("request", request::check),
    ("splice", splice::check),
    ("events", events::check),
    ("stream_edit", stream_edit::check),
    ("frames", frames::check),
    ("values", values::check),
    ("answer", answer::check),
    ("config", config::check),
    ("replies", replies::check),
    ("exchange", exchange::check),
];
