//! Every check on the seeds, on damaged copies of them, and on what random bytes and random JSON make.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed test is meant to stop")]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use purser_fuzz::{CHECKS, Check, seeds};

/// Random inputs of each kind for each check.
const CASES: u32 = 400;

/// Longest random input, bytes.
const MAX_BYTES: usize = 600;

fn check(name: &str) -> Check {
    CHECKS.iter().find(|(known, _)| *known == name).expect("a check of that name").1
}

fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let seeds: Vec<Vec<u8>> =
        seeds::all().into_iter().filter(|(of, _)| *of == name).map(|(_, input)| input).collect();
    assert!(!seeds.is_empty(), "no seeds for {name}");
    seeds
}

/// Bytes with one run of them replaced by others.
fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let place = (any::<prop::sample::Index>(), 0..12_usize);
    (prop::sample::select(seeds), vec((place, vec(token(), 0..3)), 1..4)).prop_map(|(mut input, changes)| {
        for ((at, length), tokens) in changes {
            let start = at.index(input.len() + 1);
            let end = (start + length).min(input.len());
            input.splice(start..end, tokens.concat());
        }
        input
    })
}

/// Pieces of which streams and JSON are made, and other bytes.
fn token() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b"\n\n",
        b"data: ",
        b"event: ",
        b"null",
        b"true",
        b"-1",
        b"1e400",
        b"18446744073709551615",
        b"\"usage\":null",
        b"\"usage\":{}",
        b"\"choices\":[]",
        b"\"model\":\"m\"",
        b"\"stream\":true",
        b"\"stream_options\":{}",
        b"\"max_tokens\":7",
        b"\"n\":2",
        b"\"\\u0075sage\":null",
        b"[DONE]",
        b"\xef\xbb\xbf",
        b"\xc3",
        b"\xa9",
        b"\0",
        b"\xff",
    ];
    prop_oneof![
        4 => prop::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..4),
    ]
}

fn run(inputs: impl Strategy<Value = Vec<u8>>, check: Check) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        check(&input);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

macro_rules! tests {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                let (check, seeds) = (check(stringify!($name)), seeds_of(stringify!($name)));
                for seed in &seeds {
                    check(seed);
                }
                run(damaged(seeds), check);
                run(vec(token(), 0..MAX_BYTES / 8).prop_map(|tokens| tokens.concat()), check);
                run(vec(any::<u8>(), 0..MAX_BYTES), check);
            }
        )+

        #[test]
        fn every_check_is_tested() {
            assert_eq!(CHECKS.map(|(name, _)| name).as_slice(), [$(stringify!($name)),+]);
        }
    };
}

tests! { request splice events stream_edit frames values answer config replies exchange }
