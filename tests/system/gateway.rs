//! The shared egress gateway: workloads come with certificates, and what they say about themselves
//! otherwise counts for nothing.

use serde_json::{Value, json};
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::backend::ADMIN_TOKEN;
use system_tests::harness::client::{Answer, App, ping};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::tls::{Authority, TlsClient};
use system_tests::harness::tls_front::TlsFront;

use crate::tls_upstream::{Authorities, HOSTS, upstream_at};

const GATEWAY: &str = "llm-gateway.mesh.example";
const CHAT: &str = "/openai/v1/chat/completions";
const CHATBOT: &str = "spiffe://mesh.example/ns/shop/sa/chatbot";

/// The providers behind a setup of the gateway.
async fn start_with(authorities: &Authorities, edit: impl FnOnce(Setup) -> Setup) -> (Stack, TlsFront) {
    let fake = FakeLlm::start().await.unwrap();
    let front = TlsFront::start(&authorities.public.issue(&HOSTS), fake.addr).await;
    let setup = edit(authorities.setup("gateway", &[GATEWAY]));
    let mut stack = upstream_at(setup, front.addr).start().await;
    stack.fake = fake;
    (stack, front)
}

async fn start(authorities: &Authorities) -> (Stack, TlsFront) {
    start_with(authorities, |setup| setup).await
}

/// A workload with the certificate of a SPIFFE id.
fn workload(authorities: &Authorities, id: &str) -> TlsClient {
    TlsClient::new(&authorities.mesh, Some(&authorities.mesh.issue(&[id])))
}

async fn post(stack: &Stack, workload: &TlsClient, app: &App) -> Answer {
    workload.post(stack.envoy.egress, GATEWAY, CHAT, app, &ping()).await.unwrap()
}

/// An app that says of itself that it is somebody else.
fn liar() -> App {
    let forged = App::of("rich").team("other").user("boss").with("x-budget-org", "richer");
    forged.with("x-forwarded-client-cert", "URI=spiffe://mesh.example/ns/rich/sa/boss")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_says_who_pays_whatever_the_headers_say() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities).await;
    stack.backend.org_budget("acme", "10.00").await;
    let chatbot = workload(&authorities, CHATBOT);
    for app in [App::unidentified(), liar()] {
        post(&stack, &chatbot, &app).await.expect(200);
    }
    let ledger = stack.database.settled("acme", 2).await;
    for row in &ledger {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("shop", "chatbot"), "{row:?}");
    }
    for forged in ["rich", "richer"] {
        assert_eq!(stack.database.ledger(forged).await, []);
    }
    for row in stack.fake.received().rows {
        for (name, value) in &row.headers {
            let internal = name.starts_with("x-budget") || name == "x-forwarded-client-cert";
            assert!(!internal && !value.contains("spiffe"), "{name} reaches the provider: {value}");
        }
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_tells_who_paid_for_what() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities).await;
    stack.backend.org_budget("acme", "10.00").await;
    let answer = post(&stack, &workload(&authorities, CHATBOT), &liar()).await.expect(200);
    let row = stack.database.settled("acme", 1).await.remove(0);
    let line = stack.envoy.access_log_line(|line| line["status"] == 200).await;
    for (field, expected) in [
        ("method", "POST"),
        ("host", "api.openai.com"),
        ("path", "/v1/chat/completions"),
        ("upstream", "openai"),
        ("peer", CHATBOT),
        ("hold_id", answer.header("x-purser-hold-id")),
        ("verdict", "allow"),
        ("org", "acme"),
        ("team", "shop"),
        ("user", "chatbot"),
        ("model", "gpt-4o-mini"),
        ("input_tokens", "8"),
        ("cached_input_tokens", "0"),
        ("cache_write_tokens", "0"),
        ("output_tokens", "16"),
        ("reasoning_tokens", "0"),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert_eq!(line["held_nanousd"], row.held_nanousd.to_string(), "{line}");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_whose_id_names_nobody_is_denied() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities).await;
    stack.backend.org_budget("acme", "10.00").await;
    for id in ["spiffe://mesh.example/vm/7", "spiffe://mesh.example/ns/shop/sa/chatbot/more"] {
        let answer = post(&stack, &workload(&authorities, id), &liar()).await.expect(403);
        assert_eq!(answer.json()["error"]["code"], "unidentified", "{id}: {}", answer.text());
    }
    // SPIFFE has one id in a certificate; of two, none counts, whichever comes first.
    let boss = "spiffe://mesh.example/ns/rich/sa/boss";
    for ids in [[CHATBOT, boss], [boss, CHATBOT], [CHATBOT, "https://chatbot.example/"]] {
        let two = TlsClient::new(&authorities.mesh, Some(&authorities.mesh.issue(&ids)));
        let answer = post(&stack, &two, &liar()).await.expect(403);
        assert_eq!(answer.json()["error"]["code"], "unidentified", "{ids:?}: {}", answer.text());
    }
    let line = stack.envoy.access_log_line(|line| line["status"] == 403).await;
    assert_eq!((&line["verdict"], &line["org"]), (&json!("unidentified"), &Value::Null), "{line}");
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

/// As the configuration's own comment says.
#[tokio::test(flavor = "multi_thread")]
async fn the_backend_says_whose_a_workload_is_where_orgs_share_the_gateway() {
    let authorities = Authorities::new();
    let (mut stack, _front) = start_with(&authorities, |setup| {
        let of_openai = "\"provider\": \"openai\",\n                      \"identity\": {";
        let lookup = r#""lookup": ["spiffe_id", "namespace", "api_key"],"#;
        let several = of_openai.replace("\"identity\"", &format!("{lookup} \"identity\""));
        setup.edit(&format!(r#"{of_openai}"org": {{"constant": "acme"}}, "#), &several)
    })
    .await;
    for org in ["acme", "globex", "initech"] {
        stack.backend.org_budget(org, "10.00").await;
    }
    let key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; // of "test"
    for (kind, value, org) in [
        ("spiffe_id", CHATBOT, "acme"),
        ("namespace", "search", "globex"),
        ("api_key_sha256", key, "initech"),
    ] {
        let known = json!({"kind": kind, "value": value, "org": org});
        let answer = stack.backend.post("/v1/identities", ADMIN_TOKEN, &known).await;
        assert_eq!(answer.status().as_u16(), 201, "{known}");
    }
    // It hears of them a moment later; when it starts, it knows them.
    assert!(stack.backend.stop().await);
    stack.backend.start().await;
    let others = "spiffe://mesh.example/ns/other/sa/chatbot";
    let with_key = liar().with("authorization", "Bearer test");
    for (id, app, org, team) in [
        (CHATBOT, &with_key, "acme", "shop"),
        ("spiffe://mesh.example/ns/search/sa/index", &with_key, "globex", "search"),
        (others, &with_key, "initech", "other"),
    ] {
        post(&stack, &workload(&authorities, id), app).await.expect(200);
        let row = stack.database.settled(org, 1).await.remove(0);
        assert_eq!(row.team, team, "{row:?}");
    }
    let answer = post(&stack, &workload(&authorities, others), &liar()).await.expect(403);
    assert_eq!(answer.json()["error"]["code"], "unidentified", "{}", answer.text());
    let line = stack.envoy.access_log_line(|line| line["status"] == 403).await;
    assert_eq!(line["verdict"], "unidentified", "{line}");
    assert_eq!(stack.fake.received().attempts, 3);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_workload_has_a_budget_of_its_own_and_the_neighbour_gets_through() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities).await;
    let limit = |user: &str, usd: &str| json!({"org": "acme", "team": "shop", "user": user, "window": "day", "limit_usd": usd});
    stack.backend.create_budget(limit("chatbot", "0.000000001")).await;
    stack.backend.create_budget(limit("search", "1.00")).await;
    for (id, status) in [(CHATBOT, 429), ("spiffe://mesh.example/ns/shop/sa/search", 200)] {
        post(&stack, &workload(&authorities, id), &liar()).await.expect(status);
    }
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_connection() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities).await;
    let other = Authority::new("Mesh");
    let strangers = [
        ("without a certificate", None),
        ("of another trust domain", Some(authorities.mesh.issue(&["spiffe://mesh.example.evil/ns/a/sa/b"]))),
        (
            "of a trust domain that ends alike",
            Some(authorities.mesh.issue(&["spiffe://evil-mesh.example/ns/a/sa/b"])),
        ),
        ("with a host's certificate", Some(authorities.mesh.issue(&["mesh.example"]))),
        ("of an authority of the same name", Some(other.issue(&[CHATBOT]))),
    ];
    for (who, certificate) in &strangers {
        let client = TlsClient::new(&authorities.mesh, certificate.as_ref());
        let answer = client.post(stack.envoy.egress, GATEWAY, CHAT, &App::of("acme"), &ping()).await;
        assert!(answer.is_err(), "{who}: {answer:?}");
    }
    let stats = stack.envoy.stats("http.gateway.downstream_rq_total").await;
    assert_eq!(stats.get("http.gateway.downstream_rq_total"), Some(&0), "no request got as far: {stats:?}");
    let plain = stack.http.post(format!("http://{}{CHAT}", stack.envoy.egress)).send().await;
    assert!(plain.is_err(), "no TLS at all: {plain:?}");
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}
