use crate::config::{Config, Source, SpiffePart};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn parse(more: &str) -> Result<Config, String> {
    let backend = r#""backend":{"cluster":"b","token":"0123456789abcdef"}"#;
    let json = format!(r#"{{{backend},"provider":"p",{more}}}"#);
    Config::parse(json.as_bytes()).map_err(|mistakes| mistakes.to_string())
}

#[test]
fn one_source_is_a_list_of_one_and_what_is_not_named_is_not_believed() {
    let header = Source::Header("x-o".to_owned());
    for org in [r#"{"header":"x-o"}"#, r#"[{"header":"x-o"}]"#] {
        let identity = parse(&format!(r#""identity":{{"org":{org}}}"#)).unwrap().identity;
        assert_eq!((identity.org, identity.team, identity.user), (vec![header.clone()], vec![], vec![]));
    }
    let identity =
        parse(r#""identity":{"org":[{"spiffe":"id"},{"header":"x-o"}],"team":[]}"#).unwrap().identity;
    assert_eq!(identity.org, [Source::Spiffe(SpiffePart::Id), header]);
    assert_eq!(identity.stripped, ["x-budget-org", "x-budget-team", "x-budget-user", "x-o"]);
}

#[test]
fn each_mistake_names_its_path() {
    let kinds = "expected one of header, spiffe, node_metadata, jwt_claim, route_metadata, api_key and constant, alone";
    let payer = "expected a text of 1 to 256 bytes without control characters, other than \"*\"";
    let long = "x".repeat(65);
    let lookup = "at most 4 of api_key, spiffe_id, namespace, node_namespace, none twice";
    let last = "expected as the last source: none after it would ever be asked";
    let nobody = "identity.org: expected a source, a lookup, or a payer in unidentified";
    let org = |sources: &str| format!(r#""identity":{{"org":{sources}}}"#);
    for (more, expected) in [
        (org(r#"[{"spiffe":"ns"}]"#), "identity.org[0].spiffe: expected \"trust_domain\" or \"namespace\" or \"service_account\" or \"id\", got \"ns\"".to_owned()),
        (org("[]"), "identity.org: expected at least one source, got []; leave the field out for none".to_owned()),
        (r#""identity":{"org":[]},"lookup":["api_key"]"#.to_owned(), "identity.org: expected at least one source, got []; leave the field out for none".to_owned()),
        (org("[7]"), "identity.org[0]: expected an object, got 7".to_owned()),
        (org("[{}]"), format!("identity.org[0]: {kinds}")),
        (org(r#"{"header":"x-o","constant":"a"}"#), format!("identity.org: {kinds}")),
        (org(r#"[{"headers":"x-o"}]"#), "identity.org[0].headers: unknown field, expected one of header, spiffe, node_metadata, jwt_claim, route_metadata, api_key, constant".to_owned()),
        (org(r#"[{"header":"X-O"}]"#), "identity.org[0].header: expected the name of a header in lower case, none that requests can't do without, got \"X-O\"".to_owned()),
        (org(r#"[{"node_metadata":[]}]"#), "identity.org[0].node_metadata: expected a path of 1 to 8 names, got []".to_owned()),
        (org(r#"[{"node_metadata":["a",7]}]"#), "identity.org[0].node_metadata: expected a path of 1 to 8 names, got [\"a\",7]".to_owned()),
        (org(r#"[{"node_metadata":"a\u0000b"}]"#), "identity.org[0].node_metadata: expected a path of 1 to 8 names, got \"a\\u0000b\"".to_owned()),
        (org(r#"[{"jwt_claim":["org"]}]"#), "identity.org[0].jwt_claim: expected a path of 2 to 8 names, got [\"org\"]".to_owned()),
        (org(r#"[{"route_metadata":"org"}]"#), "identity.org[0].route_metadata: expected a path of 2 to 8 names, got \"org\"".to_owned()),
        (org(r#"[{"constant":""}]"#), format!("identity.org[0].constant: {payer}, got \"\"")),
        (org(r#"{"constant":"*"}"#), format!("identity.org.constant: {payer}, got \"*\"")),
        (r#""identity":{"team":[{"header":"x-t"},{"constant":"*"}]}"#.to_owned(), format!("identity.team[1].constant: {payer}, got \"*\"")),
        (r#""unidentified":{"org":"acme","user":"*"}"#.to_owned(), format!("unidentified.user: {payer}, got \"*\"")),
        (format!(r#""tags":{{"project":[{{"header":"x-p"}},{{"constant":"{long}"}}]}}"#), format!("tags.project[1].constant: expected a text of 1 to 64 bytes without control characters, got \"{}...", &long[..60])),
        (org(r#"[{"constant":"a"},{"header":"x-o"}]"#), format!("identity.org[0]: {last}")),
        (org(r#"[{"api_key":true},{"header":"x-o"}]"#), format!("identity.org[0]: {last}")),
        (org(r#"[{"api_key":false}]"#), "identity.org[0]: expected api_key to be true".to_owned()),
        (org(r#"[{"header":"x-o"},{"header":"x-o"}]"#), "identity.org[1]: expected no source twice".to_owned()),
        (org(&format!("[{}]", [r#"{"header":"x"}"#; 9].join(","))), "identity.org: expected at most 8 sources, got 9".to_owned()),
        (r#""identity":{"org":{"header":"x-o"},"team":{"api_key":true}}"#.to_owned(), "identity.team: expected api_key in identity.org alone".to_owned()),
        (r#""identity":{"org":[{"spiffe":"id"},{"header":"x-o"}],"user":[{"header":"x-o"}]}"#.to_owned(), "identity: expected three different headers".to_owned()),
        (r#""identity":{}"#.to_owned(), nobody.to_owned()),
        (r#""lookup":"api_key""#.to_owned(), format!("lookup: expected a list of {lookup}, got \"api_key\"")),
        (r#""lookup":["key"]"#.to_owned(), format!("lookup: expected {lookup}, got \"key\"")),
        (r#""lookup":["api_key","api_key"]"#.to_owned(), format!("lookup: expected {lookup}, got \"api_key\"")),
        (format!(r#"{},"lookup":["api_key"]"#, org(r#"{"api_key":true}"#)), format!("lookup: expected {lookup}, got \"api_key\"")),
        (r#""tags":[]"#.to_owned(), "tags: expected an object, got []".to_owned()),
        (r#""tags":{"":{"constant":"a"}}"#.to_owned(), "tags.: expected a name of 1 to 64 bytes without control characters".to_owned()),
        (r#""tags":{"project":"x"}"#.to_owned(), "tags.project: expected an object or a list of objects, got \"x\"".to_owned()),
        (r#""tags":{"project":{"api_key":true}}"#.to_owned(), "tags.project: expected api_key in identity.org alone".to_owned()),
        (
            format!(r#""tags":{{{}}}"#, (0..9).map(|n| format!(r#""t{n}":{{"constant":"a"}}"#)).collect::<Vec<_>>().join(",")),
            "tags: expected at most 8 tags, got 9".to_owned(),
        ),
    ] {
        let mistakes = parse(&more).unwrap_err();
        assert!(mistakes.lines().any(|line| line == expected), "{more}: {mistakes}\n is not {expected}");
    }
    for enough in [
        r#""identity":{},"lookup":["spiffe_id"]"#,
        r#""identity":{},"unidentified":{"org":"demo"}"#,
        // Of a tag it is a value like any other.
        r#""tags":{"project":{"constant":"*"}}"#,
        &format!(r#""tags":{{"project":{{"constant":"{}"}}}}"#, &long[1..]),
    ] {
        parse(enough).unwrap();
    }
}
