//! The budget backend: grants holds before LLM calls go out and records what they cost.
//!
//! Decisions are pure ([`budget`], [`window`], [`pricing`], [`estimate`], [`ledger::decide`],
//! [`tracker::fold`]); SQL lives in the ledger, the tracker and what operators ask for ([`admin`],
//! [`report`], [`aggregate`], [`verify`], [`maintain`]), and nowhere else.

pub mod admin;
pub mod aggregate;
pub mod api;
pub mod app;
pub mod budget;
pub mod config;
pub mod db;
pub mod estimate;
pub mod flagged;
pub mod histogram;
pub mod learned;
pub mod ledger;
pub mod maintain;
pub mod pattern;
pub mod prices;
pub mod pricing;
pub mod refresh;
pub mod report;
pub mod reprice;
pub mod rules;
pub mod tracker;
pub mod verify;
pub mod window;
