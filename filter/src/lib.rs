//! Purser's filter: a proxy-wasm module for Envoy that holds money for an LLM call before it goes
//! out, meters its answer while it flows by, and settles what it cost.
//!
//! Everything that decides is pure and runs anywhere: [`exchange`] is the state machine of one
//! request and its answer, [`outbox`] the queue of what the backend must learn, [`live`] the
//! holds it must renew, [`outage`] what it does without verdicts, and the other modules read and change bytes for them. The glue to the proxy is in `host`, its unsafe calls in
//! `hostcalls` alone; both exist only with the feature of that name.
//!
//! A panic here would take down every stream of a proxy worker. Code that can panic is denied
//! outside tests.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod answer;
pub mod api;
pub mod base64;
pub mod chunk;
pub mod config;
pub mod denial;
pub mod dialect;
pub mod exchange;
pub mod exhausted;
pub mod frames;
pub mod headers;
pub mod identity;
pub mod ids;
pub mod journal;
pub mod json_scan;
pub mod live;
pub mod media;
pub mod meter;
pub mod outage;
pub mod outbox;
pub mod pool;
pub mod recent;
pub mod replies;
pub mod request;
pub mod rewrite;
pub mod series;
pub mod signature;
pub mod splice;
pub mod sse;
pub mod stream_edit;
pub mod strict;
pub mod success;
pub mod text;
pub mod trace;
pub mod usage;
pub mod values;
pub mod verdict;

#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
mod hostcalls;

#[cfg(test)]
mod corpus;
