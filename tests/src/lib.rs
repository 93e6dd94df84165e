//! What the system tests and the demonstration stand on: a fake LLM provider with a bill of its
//! own, and a harness that starts the real parts on free ports.

pub mod fake_llm;
pub mod harness;
