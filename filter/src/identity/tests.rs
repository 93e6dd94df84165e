use super::*;
use crate::headers::serialize;
use purser_protocol::Lookup;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BY_HEADERS: &str = r#"{"org":{"header":"x-o"},"team":{"header":"x-t"},"user":{"header":"x-u"}}"#;

/// A proxy that knows these properties, their paths written with `|`.
#[derive(Debug)]
struct Knows<'a>(&'a [(&'a str, &'a [u8])]);

impl Proxy for Knows<'_> {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        let path = path.replace('\0', "|");
        self.0.iter().find(|(known, _)| *known == path).map(|(_, value)| value.to_vec())
    }

    fn now_unix_ms(&self) -> Option<u64> {
        None
    }
}

fn config(identity: &str, more: &str) -> Config {
    let backend = r#""backend":{"cluster":"b","token":"0123456789abcdef"}"#;
    let json = format!(r#"{{{backend},"provider":"p","identity":{identity}{more}}}"#);
    Config::parse(json.as_bytes()).unwrap()
}

fn identified(
    config: &Config,
    pairs: &[(&str, &[u8])],
    knows: &[(&str, &[u8])],
) -> Result<Identified, IdentityError> {
    let headers = Headers::parse(serialize(pairs)).unwrap();
    identify(Origin { headers: &headers, proxy: &Knows(knows) }, config)
}

fn resolve(pairs: &[(&str, &[u8])], unidentified: &str) -> Result<Payer, IdentityError> {
    let config = config(BY_HEADERS, &format!(r#","unidentified":{unidentified}"#));
    let found = identified(&config, pairs, &[])?;
    assert_eq!(found.caller.lookup, None);
    Ok(found.caller.payer)
}

fn named(org: &str, team: Option<&str>, user: Option<&str>) -> Payer {
    Payer { org: org.to_owned(), team: team.map(str::to_owned), user: user.map(str::to_owned) }
}

#[test]
fn resolves_or_says_why_not() {
    let long = [b'x'; 257];
    let default = r#"{"org":"demo","team":"default"}"#;
    let header = |name: &str| format!("header {name}");
    for (pairs, unidentified, expected) in [
        (
            vec![("x-o", &b"acme"[..]), ("x-t", b" search "), ("x-u", b"ann")],
            "\"deny\"",
            Ok(named("acme", Some("search"), Some("ann"))),
        ),
        (vec![("x-o", b"acme")], "\"deny\"", Ok(named("acme", None, None))),
        // What is there and empty was meant to say something.
        (vec![("x-o", b"acme"), ("x-t", b"")], "\"deny\"", Err(IdentityError::NotAName(header("x-t")))),
        (vec![("x-o", b"")], default, Err(IdentityError::NotAName(header("x-o")))),
        // In budgets it means each one.
        (vec![("x-o", b"acme"), ("x-t", b" * ")], default, Err(IdentityError::NotAName(header("x-t")))),
        (vec![("x-o", "m\u{fc}ller".as_bytes())], "\"deny\"", Ok(named("m\u{fc}ller", None, None))),
        (vec![], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
        (vec![("x-t", b"search")], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
        (vec![("x-o", b" ")], "\"deny\"", Err(IdentityError::NotAName(header("x-o")))),
        // A header that no source names is believed by nobody.
        (vec![("x-budget-org", b"acme")], "\"deny\"", Err(IdentityError::Missing(header("x-o")))),
        (vec![("x-t", b"search")], default, Ok(named("demo", Some("default"), None))),
        (vec![("x-o", b"acme")], default, Ok(named("acme", None, None))),
        (vec![("x-o", b"a"), ("x-o", b"b")], default, Err(IdentityError::Repeated(header("x-o")))),
        (vec![("x-u", b"a"), ("x-u", b"a")], default, Err(IdentityError::Repeated(header("x-u")))),
        (vec![("x-o", b"\xff")], default, Err(IdentityError::NotAName(header("x-o")))),
        (vec![("x-o", &long[..])], default, Err(IdentityError::NotAName(header("x-o")))),
        (vec![("x-o", b"a\tb")], default, Err(IdentityError::NotAName(header("x-o")))),
    ] {
        assert_eq!(resolve(&pairs, unidentified), expected, "{pairs:?}");
    }
}

const URI: &str = "connection|uri_san_peer_certificate";
const CHAT: &[u8] = b"spiffe://acme.example/ns/search/sa/chat";

#[test]
fn every_source_names_somebody() {
    for (source, path, value, expected) in [
        (r#"{"spiffe":"trust_domain"}"#, URI, CHAT, "acme.example"),
        (r#"{"spiffe":"namespace"}"#, URI, CHAT, "search"),
        (r#"{"spiffe":"service_account"}"#, URI, CHAT, "chat"),
        (r#"{"spiffe":"id"}"#, URI, CHAT, "spiffe://acme.example/ns/search/sa/chat"),
        (r#"{"node_metadata":"NAMESPACE"}"#, "xds|node|metadata|NAMESPACE", b"search", "search"),
        (r#"{"node_metadata":["LABELS","app"]}"#, "xds|node|metadata|LABELS|app", b"chat", "chat"),
        (
            r#"{"jwt_claim":"org"}"#,
            "metadata|filter_metadata|envoy.filters.http.jwt_authn|jwt_payload|org",
            b"acme",
            "acme",
        ),
        (
            r#"{"jwt_claim":["payload","a.b","org"]}"#,
            "metadata|filter_metadata|envoy.filters.http.jwt_authn|payload|a.b|org",
            b"acme",
            "acme",
        ),
        (
            r#"{"route_metadata":["purser","org"]}"#,
            "xds|route_metadata|filter_metadata|purser|org",
            b"acme",
            "acme",
        ),
    ] {
        let identity = format!(r#"{{"org":[{source},{{"constant":"last"}}],"user":{source}}}"#);
        let config = config(&identity, "");
        let found = identified(&config, &[], &[(path, value)]).unwrap();
        assert_eq!(found.caller.payer, named(expected, None, Some(expected)), "{source}");
        assert_eq!((found.without_org, found.caller.lookup), (None, None));
        let absent = identified(&config, &[], &[]).unwrap();
        assert_eq!(absent.caller.payer, named("last", None, None), "{source}");
        // What is there but wrong is not passed over.
        for wrong in [&b"\xff"[..], b"a\0b", &[b'x'; 257]] {
            assert!(identified(&config, &[], &[(path, wrong)]).is_err(), "{source}");
        }
        // Without a certificate the proxy says that its URI is empty; whatever else is empty is wrong.
        let empty = identified(&config, &[], &[(path, b"")]);
        assert_eq!(empty.is_ok(), path == URI, "{source}: {empty:?}");
    }
}

#[test]
fn a_certificate_with_another_uri_is_refused() {
    let config = config(r#"{"org":[{"spiffe":"namespace"},{"constant":"last"}]}"#, "");
    for uri in ["spiffe://acme.example/vm/7", "https://acme.example/ns/a/sa/b", "spiffe://A/ns/a/sa/b"] {
        assert_eq!(
            identified(&config, &[], &[(URI, uri.as_bytes())]),
            Err(IdentityError::NotSpiffe),
            "{uri}"
        );
    }
    let message = IdentityError::NotSpiffe.to_string();
    assert!(message.contains("expected one, spiffe://"), "{message}");
    assert!(message.contains("spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT"), "{message}");
}

#[test]
fn a_certificate_with_two_uris_names_nobody() {
    const URIS: &str = "filter_state|purser.peer_uris";
    let config = config(r#"{"org":[{"spiffe":"namespace"},{"constant":"last"}]}"#, "");
    let two = b"spiffe://acme.example/ns/search/sa/chat,spiffe://acme.example/ns/rich/sa/boss";
    let with = |uris: &[u8]| identified(&config, &[], &[(URIS, uris), (URI, CHAT)]);
    assert_eq!(with(two), Err(IdentityError::NotSpiffe));
    for one in [CHAT, b""] {
        assert_eq!(with(one).unwrap().caller.payer, named("search", None, None));
    }
}

#[test]
fn without_an_org_the_backend_is_asked_by_what_is_there() {
    let identity = r#"{"org":[{"header":"x-o"},{"api_key":true}],"team":{"constant":"t"}}"#;
    let more = r#","lookup":["spiffe_id","namespace","node_namespace"]"#;
    let claim = |kind, value: &str| Claim { kind, value: value.to_owned() };
    let key =
        claim(ClaimKind::ApiKeySha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let id = claim(ClaimKind::SpiffeId, "spiffe://acme.example/ns/search/sa/chat");
    let namespace = claim(ClaimKind::Namespace, "search");
    let bearer: (&str, &[u8]) = ("authorization", b"Bearer abc");
    let node: (&str, &[u8]) = ("xds|node|metadata|NAMESPACE", b"search");
    let demo = named("demo", None, None);
    for (default, fallback) in [("", None), (r#","unidentified":{"org":"demo"}"#, Some(demo))] {
        let config = config(identity, &format!("{more}{default}"));
        for (pairs, knows, claims) in [
            (vec![bearer], vec![], vec![key.clone()]),
            (vec![bearer], vec![(URI, CHAT)], vec![key.clone(), id.clone(), namespace.clone()]),
            // The same namespace twice is one claim.
            (vec![], vec![(URI, CHAT), node], vec![id.clone(), namespace.clone()]),
            (vec![], vec![node], vec![namespace.clone()]),
            (vec![], vec![(URI, &b"spiffe://d/vm"[..])], vec![claim(ClaimKind::SpiffeId, "spiffe://d/vm")]),
        ] {
            let found = identified(&config, &pairs, &knows).unwrap();
            let lookup = Lookup { claims, fallback: fallback.clone() };
            assert_eq!(found.caller.lookup, Some(lookup), "{pairs:?} {knows:?}");
            assert_eq!(found.caller.payer, named("", Some("t"), None));
            assert_eq!(found.without_org, Some(WithoutOrg::LookedUp));
        }
        // A known org is not looked up.
        let known = identified(&config, &[("x-o", b"acme"), bearer], &[(URI, CHAT)]).unwrap();
        assert_eq!(known.caller, Caller { payer: named("acme", Some("t"), None), lookup: None });
        // Nothing to ask by: the configuration decides.
        let nobody = identified(&config, &[], &[]).map(|found| (found.caller, found.without_org));
        match fallback.clone() {
            Some(payer) => {
                let caller = Caller { payer, lookup: None };
                assert_eq!(nobody, Ok((caller, Some(WithoutOrg::DefaultPayer))));
            }
            None => assert_eq!(nobody, Err(IdentityError::Missing("header x-o".to_owned()))),
        }
        let long = format!("spiffe://d/{}", "x".repeat(600));
        for (pairs, uri) in
            [(vec![], long.as_str()), (vec![], "spiffe://"), (vec![bearer, ("api-key", b"x")], "")]
        {
            assert!(identified(&config, &pairs, &[(URI, uri.as_bytes())]).is_err(), "{pairs:?} {uri}");
        }
    }
}

#[test]
fn tags_come_from_the_same_sources_and_deny_nothing() {
    let tags =
        r#","tags":{"project":[{"header":"x-project"},{"node_metadata":"APP"}],"cell":{"constant":"c1"}}"#;
    let config = config(BY_HEADERS, tags);
    let long = [b'x'; 65];
    for (pairs, knows, project, dropped) in [
        (vec![("x-project", &b"atlas"[..])], vec![], Some("atlas"), 0),
        (vec![], vec![("xds|node|metadata|APP", &b"chat"[..])], Some("chat"), 0),
        (vec![], vec![], None, 0),
        (vec![("x-project", &long[..])], vec![], None, 1),
        (vec![("x-project", b"a"), ("x-project", b"b")], vec![], None, 1),
        (vec![("x-project", b"\xff")], vec![], None, 1),
        (vec![("x-project", b"")], vec![("xds|node|metadata|APP", &b"chat"[..])], None, 1),
    ] {
        let mut all = vec![("x-o", &b"acme"[..])];
        all.extend(&pairs);
        let found = identified(&config, &all, &knows).unwrap();
        assert_eq!(found.tags.get("project").map(String::as_str), project, "{pairs:?}");
        assert_eq!(found.tags["cell"], "c1");
        assert_eq!(found.dropped_tags, dropped, "{pairs:?}");
    }
    let stripped = strip(&config);
    for name in ["x-o", "x-t", "x-u", "x-project", "x-budget-org", "x-budget-team", "x-budget-user"] {
        assert!(stripped.contains(&HeaderEdit::Remove(name.to_owned())), "{name}");
    }
}
