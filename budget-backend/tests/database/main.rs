//! The ledger, the tracker and the API on a real PostgreSQL, a database per test.
//! `DATABASE_URL` names a server on which databases may be made; `make test` sets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

mod aggregate;
mod api;
mod api_audit;
mod api_policies;
mod bad_input;
mod bad_policies;
mod burst;
mod extremes;
mod frozen;
mod holds;
mod learned;
mod maintain;
mod operator;
mod oracle;
mod policies;
mod prices;
mod prices_import;
mod random_run;
mod replicas;
mod reprice;
mod restore;
mod rollup;
mod schema;
mod shutdown;
mod slow_link;
mod support;
mod sweep;
mod tracker;
mod usage;
mod verdicts;
mod verify;
