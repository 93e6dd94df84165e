#![no_main]
#![allow(missing_docs, reason = "the target's macro writes items of its own")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| purser_fuzz::config::check(data));
