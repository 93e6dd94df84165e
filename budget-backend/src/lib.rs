//! The budget backend: grants holds before LLM calls go out and records what they cost.
//!
//! Decisions are pure ([`budget`], [`window`], [`pricing`], [`estimate`], [`ledger::decide`],
//! [`tracker::fold`]); SQL lives in the ledger, the tracker and the admin queries, and nowhere else.

pub mod admin;
pub mod api;
pub mod app;
pub mod budget;
pub mod config;
pub mod db;
pub mod estimate;
pub mod ledger;
pub mod pricing;
pub mod tracker;
pub mod window;
