//! The budget backend: grants holds before LLM calls go out and records what they cost.
//!
//! Decisions are pure ([`budget`], [`window`], [`pricing`], [`quote`], [`ledger::decide`],
//! [`tracker::fold`]); SQL lives in the ledger, the tracker and what operators ask for ([`admin`],
//! [`report`], [`aggregate`], [`verify`], [`maintain`], [`alerts`]), and nowhere else.

pub mod access;
pub mod admin;
pub mod aggregate;
pub mod alerts;
pub mod api;
pub mod app;
pub mod budget;
pub mod budget_set;
pub mod config;
pub mod db;
pub mod estimate;
pub mod flagged;
pub mod histogram;
pub mod identity;
pub mod ladder;
pub mod learned;
pub mod ledger;
pub mod lint;
pub mod maintain;
pub mod metrics;
pub mod pattern;
pub mod prices;
pub mod pricing;
pub mod quote;
pub mod refresh;
pub mod report;
pub mod reprice;
pub mod rules;
pub mod server;
pub mod spool;
pub mod startup;
pub mod telemetry;
pub mod tracker;
pub mod verify;
pub mod window;
