//! System tests: the real Envoy with the built filter, the backend's binary, a real PostgreSQL and
//! a fake provider with a bill of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

mod access_log;
mod backend_start;
mod bad_input;
mod billing;
mod budgets;
mod callers;
mod chaos;
mod config;
mod cost;
mod docs;
mod egress_configs;
mod failure_bounds;
mod failure_breaker;
mod failure_modes;
mod failures;
mod framing;
mod gateway;
mod identity;
mod intercept;
mod ladder;
mod ladder_money;
mod ledger;
mod outages;
mod path;
mod policies;
mod proxy_headers;
mod reloads;
mod renewals;
mod repeated_denials;
mod sdks;
mod sdks_of_others;
mod seen;
mod strict;
mod tidy;
mod tiers;
mod tls_upstream;
mod tracing;
mod traps;
mod unmeterable;
mod vendor_list;
mod vendors;
mod verdicts;
