//! Who pays, from what the mesh itself knows of a caller: its certificate, its node, its token, its route,
//! its API key. What a client says of itself counts for nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use purser_protocol::{
    Admission, Allow, Claim, ClaimKind, Deny, DenyReason, Lookup, Payer, SettlementItem, Verdict,
};
use serde_json::{Value, json};
use system_tests::harness::certs::{Authority, hmac_sha256};
use system_tests::harness::client::{App, http, ping};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::{ScriptedStack, Setup};

const ORG: &str = r#""org": {"header": "x-budget-org"}"#;
const TEAM: &str = r#""team": {"header": "x-budget-team"}"#;
const USER: &str = r#""user": {"header": "x-budget-user"}"#;

fn sources(setup: Setup, org: &str, team: &str, user: &str) -> Setup {
    setup
        .edit(ORG, &format!(r#""org": {org}"#))
        .edit(TEAM, &format!(r#""team": {team}"#))
        .edit(USER, &format!(r#""user": {user}"#))
}

/// An app that says of itself that it is somebody else.
fn liar() -> App {
    App::of("forged").team("forged").user("forged")
}

fn payer(org: &str, team: Option<&str>, user: Option<&str>) -> Payer {
    Payer { org: org.to_owned(), team: team.map(str::to_owned), user: user.map(str::to_owned) }
}

/// The payers of the holds so far; none of the lies reached the provider.
fn payers(stack: &ScriptedStack) -> Vec<Payer> {
    for row in stack.fake.received().rows {
        for name in ["x-budget-org", "x-budget-team", "x-budget-user", "x-project"] {
            assert_eq!(row.header(name), None, "{row:?}");
        }
    }
    stack.backend.holds().into_iter().map(|hold| hold.payer).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_workload_says_who_pays() {
    let mesh = Authority::create().await;
    let socket = mesh.listener_socket(&mesh).await;
    let setup = sources(
        Setup::default(),
        r#"[{"spiffe": "trust_domain"}]"#,
        r#"{"spiffe": "namespace"}"#,
        r#"{"spiffe": "service_account"}"#,
    );
    let setup = setup.edit(
        "    filter_chains:\n    - filters:\n",
        &format!("    filter_chains:\n    - name: mesh{socket}\n      filters:\n"),
    );
    let stack = setup.start_scripted(Script::Allow).await;
    let egress = stack.envoy.egress;
    let forged = ["x-budget-org: forged", "x-budget-team: forged", "x-budget-user: forged"];
    let chat = mesh.issue("chat", "URI:spiffe://acme.example/ns/search/sa/chat").await;
    let (status, body) = chat.chat(egress, &forged, &ping()).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let expected = [payer("acme.example", Some("search"), Some("chat"))];
    assert_eq!(payers(&stack), expected);
    let settled = stack.backend.settlements(1).await;
    assert_eq!(settled[0].payer(), &expected[0]);

    // A certificate of the mesh that names no workload, or one malformed, is nobody's.
    for (name, alternative) in [
        ("none", ""),
        ("vm", "URI:spiffe://acme.example/vm/7"),
        ("upper", "URI:spiffe://ACME/ns/search/sa/chat"),
        ("other", "URI:https://acme.example/ns/search/sa/chat"),
        ("dots", "URI:spiffe://acme.example/ns/../sa/chat"),
    ] {
        let certificate = mesh.issue(name, alternative).await;
        let (status, body) = certificate.chat(egress, &forged, &ping()).await.unwrap();
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["code"]), (403, &json!("unidentified")), "{name}: {body}");
    }
    // A certificate of another authority gets no connection at all.
    let stranger = Authority::create().await;
    let mut foreign = stranger.issue("chat", "URI:spiffe://acme.example/ns/search/sa/chat").await;
    foreign.trust(&mesh);
    assert_eq!(foreign.chat(egress, &[], &ping()).await, None);
    assert_eq!(stack.backend.holds().len(), 1);
    assert_eq!(stack.fake.received().attempts, 1);
    let stats = stack.envoy.stats("purser_unidentified").await;
    assert_eq!(stats["wasmcustom.purser_unidentified;outcome=refused;"], 5);
    stack.assert_healthy().await;
}

const NODE: &str = r#"
node:
  id: sidecar~127.0.0.1~chat-7.search~cluster.local
  cluster: chat
  metadata: {NAMESPACE: search, LABELS: {app: chat}, ODD: 7, LONG: "LONG_NAME"}
admin:
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_node_and_the_route_say_who_pays() {
    let setup = sources(
        Setup::default(),
        r#"[{"route_metadata": ["purser", "org"]}]"#,
        r#"[{"node_metadata": "ABSENT"}, {"node_metadata": "NAMESPACE"}]"#,
        r#"{"node_metadata": ["LABELS", "app"]}"#,
    );
    let tags = r#""tags": {"project": [{"header": "x-project"}], "app": {"node_metadata": ["LABELS", "app"]},
                      "odd": {"node_metadata": "ODD"}, "long": {"node_metadata": "LONG"}},
                      "denials": {"#;
    let stack = setup
        .edit("\nadmin:\n", &NODE.replace("LONG_NAME", &"x".repeat(65)))
        .edit(
            "- match: {prefix: /}\n",
            "- match: {prefix: /}\n                metadata: {filter_metadata: {purser: {org: acme}}}\n",
        )
        .edit(r#""denials": {"#, tags)
        .start_scripted(Script::Allow)
        .await;
    stack.chat(&liar().with("x-project", "atlas"), &ping()).await.expect(200);
    assert_eq!(payers(&stack), [payer("acme", Some("search"), Some("chat"))]);
    let hold = &stack.backend.holds()[0];
    let tags = json!({"project": "atlas", "app": "chat"});
    assert_eq!(serde_json::to_value(&hold.tags).unwrap(), tags);
    let settled = stack.backend.settlements(1).await;
    let SettlementItem::Settle(settlement) = &settled[0] else { panic!("{settled:?}") };
    assert_eq!(settlement.tags, hold.tags);
    let stats = stack.envoy.stats("purser_tags_dropped").await;
    assert_eq!(stats["wasmcustom.purser_tags_dropped"], 2, "a number and a long text are no tags");
    stack.assert_healthy().await;
}

const JWT_FILTER: &str = r#"          http_filters:
          - name: jwt
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                mesh:
                  issuer: mesh
                  payload_in_metadata: jwt_payload
                  local_jwks: {inline_string: 'JWKS'}
              rules:
              - match: {prefix: /}
                requires: {requires_any: {requirements: [{provider_name: mesh}, {allow_missing: {}}]}}
"#;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

async fn token(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256", "kid": "k"})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac_sha256(secret, &signed).await);
    format!("Bearer {signed}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claims_of_a_verified_token_say_who_pays() {
    let key = json!({"kty": "oct", "kid": "k", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let jwks = json!({"keys": [key]}).to_string();
    let setup = sources(
        Setup::default(),
        r#"[{"jwt_claim": "org"}]"#,
        r#"{"jwt_claim": ["jwt_payload", "place", "team"]}"#,
        r#"{"jwt_claim": "sub"}"#,
    );
    let setup = setup.edit("          http_filters:\n", &JWT_FILTER.replace("JWKS", &jwks));
    let stack = setup.start_scripted(Script::Allow).await;
    let claims = json!({"iss": "mesh", "org": "acme", "place": {"team": "search"}, "sub": "ann"});
    let app = liar().with("authorization", &token(SECRET, &claims).await);
    stack.chat(&app, &ping()).await.expect(200);
    assert_eq!(payers(&stack), [payer("acme", Some("search"), Some("ann"))]);

    let forged = token(&SECRET.replace('0', "1"), &claims).await;
    stack.chat(&liar().with("authorization", &forged), &ping()).await.expect(401);
    stack.chat(&liar(), &ping()).await.expect(403);
    for odd in
        [json!({"iss": "mesh"}), json!({"iss": "mesh", "org": 7}), json!({"iss": "mesh", "org": ["acme"]})]
    {
        let app = liar().with("authorization", &token(SECRET, &odd).await);
        let answer = stack.chat(&app, &ping()).await.expect(403);
        assert_eq!(answer.json()["error"]["code"], "unidentified", "{odd}");
    }
    assert_eq!(stack.backend.holds().len(), 1);
    stack.assert_healthy().await;
}

/// SHA-256 of `sk-test-1`.
fn fingerprint() -> Claim {
    let value = "db567a0dd8d24a1a894b3f1ceac157727179c1d15c226c5554dd1972d0fed479".to_owned();
    Claim { kind: ClaimKind::ApiKeySha256, value }
}

fn by_key(setup: Setup) -> Setup {
    sources(setup, r#"[{"api_key": true}]"#, r#"{"constant": "search"}"#, "[]")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_learns_the_fingerprint_of_a_key_and_says_who_pays() {
    let known = Allow { payer: Some(payer("acme", Some("search"), Some("ann"))), ..grant() };
    let known = Script::Verdict(Box::new(Verdict::Allow(known)));
    let stack = by_key(Setup::default()).renew_every_second().start_scripted(known).await;
    let app = liar().with("authorization", "Bearer sk-test-1");
    stack.chat(&app, &ping()).await.expect(200);
    let hold = &stack.backend.holds()[0];
    let lookup = Lookup { claims: vec![fingerprint()], fallback: None };
    assert_eq!((&hold.payer, hold.lookup.as_ref()), (&payer("", Some("search"), None), Some(&lookup)));
    let settled = stack.backend.settlements(1).await;
    assert_eq!(settled[0].payer(), &payer("acme", Some("search"), Some("ann")));
    assert_eq!(settled[0].lookup(), None);
    let sent = &stack.fake.received().rows[0];
    assert_eq!(sent.header("authorization"), Some("Bearer sk-test-1"), "the key goes on as it came");

    // Without a verdict the claims travel with what is told afterwards.
    stack.backend.play(Script::Unmarked(503));
    stack.chat(&app, &ping()).await.expect(200);
    let settled = stack.backend.settlements(1).await;
    let SettlementItem::Settle(settlement) = &settled[0] else { panic!("{settled:?}") };
    assert_eq!((settlement.admission, settlement.lookup.as_ref()), (Admission::FailOpen, Some(&lookup)));

    // Nobody knows the key.
    let nobody = Deny { reason: DenyReason::Unidentified, message: "Unknown.".to_owned(), ..Deny::default() };
    stack.backend.play(Script::Verdict(Box::new(Verdict::Deny(nobody))));
    let answer = stack.chat(&app, &ping()).await.expect(403);
    assert_eq!(answer.json()["error"]["code"], "unidentified");
    // No key, or two of which nobody knows which counts.
    stack.backend.play(Script::Allow);
    stack.chat(&liar(), &ping()).await.expect(403);
    let two = app.clone().with("x-api-key", "sk-test-2");
    stack.chat(&two, &ping()).await.expect(403);
    assert_eq!(stack.backend.holds().len(), 0);
    let log = stack.envoy.log();
    assert!(!log.contains("sk-test"), "a key in the log");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_any_of_its_places_is_the_same_and_a_default_payer_goes_along() {
    let setup = by_key(Setup::default()).unidentified(r#"{"org": "demo"}"#);
    let stack = setup.start_scripted(Script::Allow).await;
    let url = format!("http://{}/v1/chat/completions", stack.envoy.egress);
    for (header, value) in [
        ("authorization", "Bearer sk-test-1"),
        ("x-api-key", "sk-test-1"),
        ("api-key", "sk-test-1"),
        ("x-goog-api-key", "sk-test-1"),
        ("x-other", "y"),
    ] {
        let query = if header == "x-other" { "?key=sk-test-1" } else { "" };
        let request = http().post(format!("{url}{query}")).header(header, value).json(&ping());
        assert_eq!(request.send().await.unwrap().status().as_u16(), 200, "{header}");
    }
    let lookup = Lookup { claims: vec![fingerprint()], fallback: Some(payer("demo", None, None)) };
    let holds = stack.backend.holds();
    assert_eq!(holds.len(), 5);
    for hold in holds {
        assert_eq!(hold.lookup, Some(lookup.clone()));
    }
    // Without any claim it is the default payer's at once.
    stack.chat(&liar(), &ping()).await.expect(200);
    let last = stack.backend.holds().pop().unwrap();
    assert_eq!((last.payer, last.lookup), (payer("demo", None, None), None));
    let stats = stack.envoy.stats("purser_unidentified").await;
    assert_eq!(stats["wasmcustom.purser_unidentified;outcome=looked_up;"], 5);
    assert_eq!(stats["wasmcustom.purser_unidentified;outcome=default_payer;"], 1);
    stack.assert_healthy().await;
}
