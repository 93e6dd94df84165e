//! Measures what Purser adds to a call: side by side with Envoy alone, with the least that any check
//! costs, and with the way it was done before. The scripts behind `make bench`, `make bench-burst` and
//! `make bench-stream` build and start it; `docs/performance.md` says what is measured and how.
//!
//! Everything is measured; a target that is missed is printed as missed.

pub mod burst;
pub mod call;
pub mod case;
pub mod clock;
pub mod database;
pub mod egress;
pub mod machine;
pub mod model;
pub mod oha;
pub mod openloop;
pub mod process;
pub mod report;
pub mod settings;
pub mod sidebyside;
pub mod stack;
pub mod stats;
pub mod stream;
pub mod wire;
