use super::super::Config;
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn parse(more: &str) -> Result<Config, String> {
    let json =
        format!(r#"{{"backend":{{"cluster":"b","token":"0123456789abcdef"}},"provider":"openai"{more}}}"#);
    Config::parse(json.as_bytes()).map_err(|mistakes| mistakes.to_string())
}

/// The causes for which it fails open.
fn open(more: &str) -> Vec<&'static str> {
    let modes = parse(more).unwrap().failure_mode;
    let is_open = |cause: &&Cause| modes.of(**cause) == FailureMode::Open;
    Cause::ALL.iter().filter(is_open).map(|cause| cause.as_str()).collect()
}

#[test]
fn each_cause_may_have_a_mode_of_its_own() {
    let all_but_rejected = ["unreachable", "timeout", "error", "busy", "database"];
    assert_eq!(open(""), all_but_rejected);
    assert_eq!(open(r#","failure_mode":"open""#), all_but_rejected);
    assert_eq!(open(r#","failure_mode":{}"#), all_but_rejected);
    assert!(open(r#","failure_mode":"closed""#).is_empty());
    assert_eq!(open(r#","failure_mode":{"default":"closed","database":"open"}"#), ["database"]);
    assert_eq!(
        open(r#","failure_mode":{"timeout":"closed","busy":"closed","rejected":"open"}"#),
        ["unreachable", "error", "database", "rejected"]
    );
}

#[test]
fn bounds_are_amounts_and_numbers() {
    let limits = parse("").unwrap().fail_open;
    assert_eq!(limits.per_minute, Passed { requests: 1_200, nanousd: 20_000_000_000 });
    assert_eq!(limits.per_outage, Passed { requests: 20_000, nanousd: 200_000_000_000 });
    assert_eq!((limits.unknown_call_nanousd, limits.recovered_after_ms), (100_000_000, 30_000));
    let said = r#","fail_open":{"requests_per_minute":1,"usd_per_minute":"0.000000002","requests_per_outage":3,
        "usd_per_outage":"4","usd_per_unknown_call":"0","recovered_after_s":6},
        "breaker":{"failures_in_a_row":0,"failure_percent":1,"first_pause_ms":10,"longest_pause_ms":10}"#;
    let config = parse(said).unwrap();
    let expected = FailOpenLimits {
        per_minute: Passed { requests: 1, nanousd: 2 },
        per_outage: Passed { requests: 3, nanousd: 4_000_000_000 },
        unknown_call_nanousd: 0,
        recovered_after_ms: 6_000,
    };
    assert_eq!(config.fail_open, expected);
    assert_eq!(config.breaker.failures_in_a_row, 0);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let wrong = r#","failure_mode":{"default":"maybe","timeot":"open"},
        "fail_open":{"usd_per_minute":5,"usd_per_outage":"-1","usd_per_unknown_call":"x","requests_per_minute":-1},
        "breaker":{"failure_percent":0,"first_pause_ms":100,"longest_pause_ms":50}"#;
    let mistakes = parse(wrong).unwrap_err();
    for path in [
        "failure_mode.default: expected \"open\" or \"closed\", got \"maybe\"",
        "failure_mode.timeot: unknown field",
        "fail_open.usd_per_minute: expected an amount in USD such as \"12.50\", got 5",
        "fail_open.usd_per_outage: expected an amount",
        "fail_open.usd_per_unknown_call: expected an amount",
        "fail_open.requests_per_minute: expected an integer from 0 to 1000000000, got -1",
        "breaker.failure_percent: expected an integer from 1 to 100, got 0",
        "breaker.longest_pause_ms: expected at least first_pause_ms, which is 100",
    ] {
        assert!(mistakes.contains(path), "{path} in {mistakes}");
    }
    assert_eq!(mistakes.lines().count(), 8, "{mistakes}");
}
