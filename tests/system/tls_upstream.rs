//! TLS to the providers for apps that speak plain HTTP to Envoy.

use std::net::SocketAddr;

use purser_protocol::SettlementItem;
use serde_json::{Value, json};
use system_tests::harness::client::{Answer, ping};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{ScriptedStack, Setup};
use system_tests::harness::tls::Authority;
use system_tests::harness::tls_front::TlsFront;
use tempfile::TempDir;

use crate::billing::settlements;

/// Hosts of providers with a cluster of their own, as they stand in the configurations.
pub const HOSTS: [&str; 7] = [
    "api.openai.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "api.mistral.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "bedrock-runtime.us-east-1.amazonaws.com",
];

/// The authorities of a test: that of the providers, whom Envoy trusts, and that of the mesh.
pub struct Authorities {
    pub folder: TempDir,
    pub public: Authority,
    pub mesh: Authority,
}

impl Authorities {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (public, mesh) = (Authority::new("Public"), Authority::new("Mesh"));
        Self { folder, public, mesh }
    }

    /// A configuration with every placeholder filled. The mesh's certificate is for `names`.
    pub fn setup(&self, template: &'static str, names: &[&str]) -> Setup {
        let folder = self.folder.path();
        let (chain, key) = self.mesh.issue(names).write(folder, "mesh");
        let setup = Setup::default()
            .template(template)
            .value("UPSTREAM_CA_FILE", self.public.write(folder, "public-ca.pem").display())
            .value("AWS_REGION", "us-east-1");
        match template {
            "intercept" => setup
                .value("INTERCEPT_PORT", "0")
                .value("INTERCEPT_CERT_FILE", chain.display())
                .value("INTERCEPT_KEY_FILE", key.display()),
            "gateway" => setup
                .value("GATEWAY_HOST", "127.0.0.1")
                .value("GATEWAY_PORT", "0")
                .value("GATEWAY_CERT_FILE", chain.display())
                .value("GATEWAY_KEY_FILE", key.display())
                .value("WORKLOAD_CA_FILE", self.mesh.write(folder, "mesh-ca.pem").display())
                .value("TRUST_DOMAIN", "mesh.example")
                .value("GATEWAY_ORG", "acme"),
            _ => setup,
        }
    }
}

/// Moves the providers to an address.
pub fn upstream_at(setup: Setup, addr: SocketAddr) -> Setup {
    HOSTS.iter().fold(setup, |setup, host| {
        let there = format!("address: {}, port_value: {}}}", addr.ip(), addr.port());
        setup.edit(&format!("address: {host}, port_value: 443}}"), &there)
    })
}

/// A stack whose providers have a certificate for `names` of `authority`.
async fn start(
    authorities: &Authorities,
    authority: &Authority,
    names: &[&str],
) -> (ScriptedStack, TlsFront) {
    let setup = authorities.setup("egress-tls", &[]);
    let fake = system_tests::fake_llm::FakeLlm::start().await.unwrap();
    let front = TlsFront::start(&authority.issue(names), fake.addr).await;
    let mut stack = upstream_at(setup, front.addr).start_scripted(Script::Allow).await;
    stack.fake = fake;
    (stack, front)
}

async fn post(stack: &ScriptedStack, path: &str, host: &str, body: &Value) -> Answer {
    let request = stack.http.post(format!("http://{}{path}", stack.envoy.egress)).json(body);
    let request = request.header("x-budget-org", "acme");
    let request = if host.is_empty() { request } else { request.header("host", host) };
    Answer::read(request.send().await.unwrap()).await
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "How much is it?"}]})
}

/// Path, `Host` of the app (empty: Envoy's own), body, provider that is to bill, host that is to be called.
fn calls() -> Vec<(&'static str, &'static str, Value, &'static str, &'static str)> {
    let contents = json!({"contents": [{"parts": [{"text": "How much is it?"}]}]});
    let mut claude = chat("claude-sonnet-4-5");
    claude["max_tokens"] = json!(64);
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "How much is it?"}]}]});
    let bedrock = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
    let gemini = "/gemini/v1beta/models/gemini-2.5-flash:generateContent";
    vec![
        ("/openai/v1/chat/completions", "", ping(), "openai", HOSTS[0]),
        ("/v1/chat/completions", "api.openai.com", ping(), "openai", HOSTS[0]),
        ("/v1/chat/completions", "api.openai.com:10000", ping(), "openai", HOSTS[0]),
        ("/anthropic/v1/messages", "", claude.clone(), "anthropic", HOSTS[1]),
        ("/v1/messages", "api.anthropic.com", claude, "anthropic", HOSTS[1]),
        (gemini, "", contents, "gemini", HOSTS[2]),
        ("/mistral/v1/chat/completions", "", chat("mistral-large-latest"), "mistral", HOSTS[3]),
        ("/cohere/v2/chat", "", chat("command-r-08-2024"), "cohere", HOSTS[4]),
        ("/deepseek/v1/chat/completions", "", chat("deepseek-chat"), "deepseek", HOSTS[5]),
        (bedrock, HOSTS[6], converse, "bedrock", HOSTS[6]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_provider_is_called_over_tls_and_billed_as_itself() {
    let authorities = Authorities::new();
    let (stack, front) = start(&authorities, &authorities.public, &HOSTS).await;
    for (path, host, body, ..) in calls() {
        post(&stack, path, host, &body).await.expect(200);
    }
    let settled = settlements(&stack, calls().len()).await;
    let received = stack.fake.received().rows;
    for (((path, _, _, provider, host), settlement), row) in calls().iter().zip(&settled).zip(&received) {
        assert_eq!(settlement.call.provider, *provider, "{path}");
        let called = row.header("host").or(row.header(":authority"));
        assert!(called.is_none_or(|name| name == *host), "{path}: {called:?}");
        assert!(!row.path.starts_with(&format!("/{provider}/")), "the prefix stays here: {}", row.path);
        assert_eq!(row.header("x-budget-org"), None, "{path}");
    }
    let mut names: Vec<String> = front.greetings().into_iter().filter_map(|seen| seen.server_name).collect();
    names.sort();
    names.dedup();
    let mut expected = HOSTS.map(str::to_owned);
    expected.sort();
    assert_eq!(names, expected, "each is asked for by its own name");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_gets_no_call() {
    let authorities = Authorities::new();
    for (authority, names, why) in [
        (&authorities.public, "api.openai.example", "another name"),
        (&authorities.mesh, "api.openai.com", "an authority that nobody trusts"),
    ] {
        let (stack, front) = start(&authorities, authority, &[names]).await;
        post(&stack, "/openai/v1/chat/completions", "", &ping()).await.expect(503);
        assert_eq!((stack.fake.received().attempts, front.greetings()), (0, Vec::new()), "{why}");
        let items = stack.backend.settlements(1).await;
        assert!(
            matches!(items[..], [SettlementItem::Void(_)]),
            "nothing was sent, so nothing is owed: {items:?}"
        );
        let line = stack.envoy.access_log_line(|line| line["status"] == 503).await;
        assert_eq!(line["upstream"], "openai", "{line}");
        assert!(line["upstream_failure"].as_str().unwrap().contains("CERTIFICATE_VERIFY_FAILED"), "{line}");
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_hosts_are_called() {
    let authorities = Authorities::new();
    let (stack, front) = start(&authorities, &authorities.public, &HOSTS).await;
    for (path, host) in
        [("/v1/chat/completions", "llm.example"), ("/v1/chat/completions", ""), ("/other/v1/x", "")]
    {
        let answer = post(&stack, path, host, &ping()).await;
        assert!(answer.status.is_client_error(), "{path} {host}: {answer:?}");
    }
    assert_eq!((stack.fake.received().attempts, front.greetings()), (0, Vec::new()));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_sixteen_mebibytes_fits_and_a_larger_one_is_refused() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities, &authorities.public, &HOSTS).await;
    let text =
        |bytes| json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x".repeat(bytes)}]});
    let fits = text((16 << 20) - 4096);
    post(&stack, "/openai/v1/chat/completions", "", &fits).await.expect(200);
    assert_eq!(stack.fake.received().rows[0].body_bytes, fits.to_string().len());
    let refused = post(&stack, "/openai/v1/chat/completions", "", &text(16 << 20)).await.expect(413);
    assert!(refused.json()["error"]["message"].is_string(), "{}", refused.text());
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_tells_the_call_by_its_hold() {
    let authorities = Authorities::new();
    let (stack, _front) = start(&authorities, &authorities.public, &HOSTS).await;
    let answer = post(&stack, "/openai/v1/chat/completions?key=secret", "", &ping()).await.expect(200);
    let line = stack.envoy.access_log_line(|line| line["status"] == 200).await;
    for (field, expected) in [
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("host", "api.openai.com"),
        ("upstream", "openai"),
        ("hold_id", answer.header("x-purser-hold-id")),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    for field in CALL_FIELDS {
        assert!(line.as_object().unwrap().contains_key(field), "{field} is not in {line}");
    }
    assert!(!line.to_string().contains("secret"), "{line}");
    stack.assert_healthy().await;
}

/// What the filter may tell of a call in the access log.
const CALL_FIELDS: [&str; 12] = [
    "hold_id",
    "org",
    "team",
    "user",
    "model",
    "held_nanousd",
    "verdict",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
];
