//! System tests: the real Envoy with the built filter, the backend's binary, a real PostgreSQL and
//! a fake provider with a bill of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

mod backend_start;
mod bad_input;
mod billing;
mod budgets;
mod config;
mod cost;
mod docs;
mod failures;
mod framing;
mod identity;
mod outages;
mod path;
mod policies;
mod renewals;
mod sdks;
mod sdks_of_others;
mod seen;
mod strict;
mod tidy;
mod tiers;
mod vendors;
mod verdicts;
