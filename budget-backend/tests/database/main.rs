//! The ledger, the tracker and the API on a real PostgreSQL, a database per test.
//! `DATABASE_URL` names a server on which databases may be made; `make test` sets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

mod api;
mod holds;
mod random_run;
mod support;
mod tracker;
