use std::collections::BTreeMap;

use super::*;
use crate::outage::bound::Passed;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const LEAST: &str =
    r#"{"backend":{"cluster":"purser_backend","token":"0123456789abcdef"},"provider":"openai"}"#;

const FULL: &str = r#"{
    "backend":{"cluster":"b","token":"0123456789abcdef","hold_timeout_ms":1,"settle_timeout_ms":2,
        "renew_interval_s":3},
    "provider":"p",
    "identity":{"org":{"header":"x-o"},"team":{"header":"x-t"},"user":{"header":"x-u"}},
    "unidentified":{"org":"demo","user":"u"},
    "failure_mode":"closed","unknown_api":"allow","unreadable_request":"pass",
    "max_request_body_bytes":1024,"max_metered_body_bytes":2048,
    "outbox":{"max_bytes":65536,"batch_items":256,"flush_interval_ms":3},
    "lookup":["spiffe_id"],"tags":{"project":[{"constant":"p"}]},
    "denials":{"amounts":"hide","cache_ms":0},
    "headers":{"remaining":false,"warnings":false,"ratelimit":true},
    "metrics":{"max_series":7},"access_log":false}"#;

fn header(name: &str) -> Vec<Source> {
    vec![Source::Header(name.to_owned())]
}

fn mistakes(json: &str) -> String {
    Config::parse(json.as_bytes()).unwrap_err().to_string()
}

#[test]
fn what_is_not_said_has_a_default() {
    let config = Config::parse(LEAST.as_bytes()).unwrap();
    let expected = Config {
        backend: Backend {
            cluster: "purser_backend".to_owned(),
            token: "0123456789abcdef".to_owned(),
            hold_timeout_ms: 250,
            settle_timeout_ms: 5_000,
            renew_interval_s: 240,
        },
        provider: "openai".to_owned(),
        dialect: Dialect::Openai,
        identity: Identity {
            org: header("x-budget-org"),
            team: header("x-budget-team"),
            user: header("x-budget-user"),
            lookup: Vec::new(),
            tags: BTreeMap::new(),
            stripped: ["x-budget-org", "x-budget-team", "x-budget-user"].map(str::to_owned).to_vec(),
        },
        unidentified: Unidentified::Deny,
        failure_mode: FailureModes::all(FailureMode::Open),
        fail_open: FailOpenLimits {
            per_minute: Passed { requests: 1_200, nanousd: 20_000_000_000 },
            per_outage: Passed { requests: 20_000, nanousd: 200_000_000_000 },
            unknown_call_nanousd: 100_000_000,
            recovered_after_ms: 30_000,
        },
        breaker: BreakerLimits {
            failures_in_a_row: 5,
            failure_percent: 75,
            first_pause_ms: 500,
            longest_pause_ms: 5_000,
        },
        unknown_api: Policy::Deny,
        unreadable_request: Policy::Deny,
        max_request_body_bytes: 16_777_216,
        max_metered_body_bytes: 8_388_608,
        outbox: OutboxLimits { max_bytes: 8_388_608, batch_items: 128, flush_interval_ms: 50 },
        denials: Denials { show_amounts: true, cache_ms: 1_000 },
        headers: AnswerHeaders { remaining: true, warnings: true, ratelimit: false },
        max_series: 200,
        access_log: true,
    };
    assert_eq!(config, expected);
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn everything_can_be_said() {
    let config = Config::parse(FULL.as_bytes()).unwrap();
    assert_eq!(config.backend.hold_timeout_ms, 1);
    assert_eq!(config.backend.settle_timeout_ms, 2);
    assert_eq!(config.backend.renew_interval_s, 3);
    assert_eq!(config.identity.user, header("x-u"));
    assert_eq!(config.identity.lookup, [LookupBy::SpiffeId]);
    assert_eq!(config.identity.tags["project"], [Source::Constant("p".to_owned())]);
    let stripped = ["x-budget-org", "x-budget-team", "x-budget-user", "x-o", "x-t", "x-u"];
    assert_eq!(config.identity.stripped, stripped);
    assert_eq!(config.denials, Denials { show_amounts: false, cache_ms: 0 });
    assert_eq!(config.headers, AnswerHeaders { remaining: false, warnings: false, ratelimit: true });
    assert_eq!(config.max_series, 7);
    assert!(!config.access_log);
    assert_eq!(
        config.unidentified,
        Unidentified::Payer(Payer { org: "demo".to_owned(), team: None, user: Some("u".to_owned()) })
    );
    assert_eq!(config.failure_mode, FailureModes::all(FailureMode::Closed));
    assert_eq!(config.unknown_api, Policy::Pass);
    assert_eq!(config.unreadable_request, Policy::Pass);
    assert_eq!(config.max_request_body_bytes, 1024);
    assert_eq!(config.max_metered_body_bytes, 2048);
    assert_eq!(config.outbox, OutboxLimits { max_bytes: 65_536, batch_items: 256, flush_interval_ms: 3 });
}

/// A complete configuration with one field replaced, and the one mistake that makes.
#[test]
fn each_mistake_names_its_path() {
    let name = "a text of 1 to 256 bytes without control characters";
    let header = "the name of a header in lower case, none that requests can't do without";
    for (pointer, value, expected) in [
        ("/backend", "7", "backend: expected an object, got 7".to_owned()),
        ("/backend/cluster", "\"\"", format!("backend.cluster: expected {name}, got \"\"")),
        (
            "/backend/token",
            "7",
            "backend.token: expected at least 16 visible ASCII characters, got another type".to_owned(),
        ),
        (
            "/backend/token",
            "\"hush\"",
            "backend.token: expected at least 16 visible ASCII characters, got a text of 4 bytes".to_owned(),
        ),
        (
            "/backend/token",
            "\"sixteen chars ok\"",
            "backend.token: expected at least 16 visible ASCII characters, got a text of 16 bytes".to_owned(),
        ),
        (
            "/backend/hold_timeout_ms",
            "\"abc\"",
            "backend.hold_timeout_ms: expected an integer from 1 to 60000, got \"abc\"".to_owned(),
        ),
        (
            "/backend/hold_timeout_ms",
            "0",
            "backend.hold_timeout_ms: expected an integer from 1 to 60000, got 0".to_owned(),
        ),
        (
            "/backend/settle_timeout_ms",
            "1.5",
            "backend.settle_timeout_ms: expected an integer from 1 to 600000, got 1.5".to_owned(),
        ),
        (
            "/backend/renew_interval_s",
            "3601",
            "backend.renew_interval_s: expected an integer from 1 to 3600, got 3601".to_owned(),
        ),
        ("/provider", "null", format!("provider: expected {name}, got null")),
        ("/identity", "[]", "identity: expected an object, got []".to_owned()),
        (
            "/identity/org",
            "\"x-org\"",
            "identity.org: expected an object or a list of objects, got \"x-org\"".to_owned(),
        ),
        (
            "/identity/org/header",
            "\"X-Org\"",
            format!("identity.org.header: expected {header}, got \"X-Org\""),
        ),
        (
            "/identity/team/header",
            "\"authorization\"",
            format!("identity.team.header: expected {header}, got \"authorization\""),
        ),
        (
            "/identity/user/header",
            "\":path\"",
            format!("identity.user.header: expected {header}, got \":path\""),
        ),
        ("/identity/user/header", "\"x-o\"", "identity: expected three different headers".to_owned()),
        (
            "/unidentified",
            "\"allow\"",
            "unidentified: expected \"deny\" or an object with org, team and user, got \"allow\"".to_owned(),
        ),
        (
            "/unidentified/user",
            "\"a\\u0007\"",
            format!("unidentified.user: expected {name}, other than \"*\", got \"a\\u0007\""),
        ),
        (
            "/failure_mode",
            "\"shut\"",
            "failure_mode: expected \"open\" or \"closed\", got \"shut\"".to_owned(),
        ),
        ("/unknown_api", "true", "unknown_api: expected \"deny\" or \"allow\", got true".to_owned()),
        (
            "/unreadable_request",
            "\"allow\"",
            "unreadable_request: expected \"deny\" or \"pass\", got \"allow\"".to_owned(),
        ),
        (
            "/max_request_body_bytes",
            "-1",
            "max_request_body_bytes: expected an integer from 1024 to 268435456, got -1".to_owned(),
        ),
        (
            "/max_metered_body_bytes",
            "{}",
            "max_metered_body_bytes: expected an integer from 1024 to 268435456, got {}".to_owned(),
        ),
        (
            "/denials/amounts",
            "\"no\"",
            "denials.amounts: expected \"show\" or \"hide\", got \"no\"".to_owned(),
        ),
        (
            "/denials/cache_ms",
            "60001",
            "denials.cache_ms: expected an integer from 0 to 60000, got 60001".to_owned(),
        ),
        ("/headers/remaining", "1", "headers.remaining: expected true or false, got 1".to_owned()),
        (
            "/metrics/max_series",
            "-1",
            "metrics.max_series: expected an integer from 0 to 10000, got -1".to_owned(),
        ),
        ("/outbox", "1", "outbox: expected an object, got 1".to_owned()),
        (
            "/outbox/max_bytes",
            "1",
            "outbox.max_bytes: expected an integer from 65536 to 268435456, got 1".to_owned(),
        ),
        (
            "/outbox/batch_items",
            "257",
            "outbox.batch_items: expected an integer from 1 to 256, got 257".to_owned(),
        ),
        (
            "/outbox/flush_interval_ms",
            "60001",
            "outbox.flush_interval_ms: expected an integer from 1 to 60000, got 60001".to_owned(),
        ),
    ] {
        let mut config: Value = serde_json::from_str(FULL).unwrap();
        *config.pointer_mut(pointer).unwrap() = serde_json::from_str(value).unwrap();
        assert_eq!(mistakes(&config.to_string()), expected);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = mistakes(
        r#"{"backend":{"cluster":"b","tokn":"x","hold_timeout_ms":"abc"},
            "failure_mode":"maybe","unidentified":{"team":"t","orgs":"o"},"outbox":{"size":1},"extra":[]}"#,
    );
    let expected = [
        "backend.token: missing, expected at least 16 visible ASCII characters",
        "backend.hold_timeout_ms: expected an integer from 1 to 60000, got \"abc\"",
        "backend.tokn: unknown field, expected one of cluster, token, hold_timeout_ms, settle_timeout_ms, \
         renew_interval_s",
        "provider: missing, expected a text of 1 to 256 bytes without control characters",
        "unidentified.org: missing, expected a text of 1 to 256 bytes without control characters, other than \"*\"",
        "unidentified.orgs: unknown field, expected one of org, team, user",
        "failure_mode: expected \"open\" or \"closed\", got \"maybe\"",
        "outbox.size: unknown field, expected one of max_bytes, batch_items, flush_interval_ms",
        "extra: unknown field, expected one of backend, provider, dialect, identity, lookup, tags, unidentified, \
         failure_mode, fail_open, breaker, unknown_api, unreadable_request, max_request_body_bytes, \
         max_metered_body_bytes, outbox, denials, headers, metrics, access_log",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        mistakes("{}").lines().collect::<Vec<_>>(),
        [
            "backend: missing, expected an object",
            "provider: missing, expected a text of 1 to 256 bytes without control characters",
        ]
    );
}

#[test]
fn what_is_no_object_is_one_mistake() {
    for (json, expected) in [
        ("", "configuration: expected a JSON object: EOF while parsing a value at line 1 column 0"),
        ("{\"a\":}", "configuration: expected a JSON object: expected value at line 1 column 6"),
        ("[1]", "configuration: expected a JSON object, got [1]"),
    ] {
        assert_eq!(mistakes(json), expected);
    }
    assert!(Config::parse(b"\xff").is_err());
}

#[test]
fn the_dialect_follows_the_provider_unless_it_is_said() {
    for (provider, more, expected) in [
        ("openai", "", Dialect::Openai),
        ("azure", "", Dialect::Openai),
        ("Mistral-eu", "", Dialect::Mistral),
        ("vertex_ai/mistral", "", Dialect::Mistral),
        ("vertex", "", Dialect::Gemini),
        ("deepseek", "", Dialect::Mistral),
        ("openrouter", "", Dialect::Openrouter),
        ("our-gateway", r#","dialect":"mistral""#, Dialect::Mistral),
        ("mistral", r#","dialect":"openai""#, Dialect::Openai),
    ] {
        let backend = r#""backend":{"cluster":"b","token":"0123456789abcdef"}"#;
        let json = format!(r#"{{{backend},"provider":"{provider}"{more}}}"#);
        assert_eq!(Config::parse(json.as_bytes()).unwrap().dialect, expected, "{provider} {more}");
    }
}

#[test]
fn a_field_given_twice_is_refused_wherever_it_stands() {
    for (json, expected) in [
        (
            r#"{"backend":{"cluster":"b","token":"0123456789abcdef"},"provider":"a","provider":"b"}"#,
            "provider: expected once, got a second time",
        ),
        (
            r#"{"backend":{"cluster":"b","token":"0123456789abcdef","token":"0123456789abcdeg"},"provider":"a"}"#,
            "backend.token: expected once, got a second time",
        ),
        (
            r#"{"backend":{"cluster":"b","token":"0123456789abcdef"},"provider":"a",
                "identity":{"org":[{"header":"x-a"},{"header":"x-o","h\u0065ader":"x-p"}]}}"#,
            "identity.org[1].header: expected once, got a second time",
        ),
    ] {
        assert_eq!(mistakes(json), expected);
    }
}
