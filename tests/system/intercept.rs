//! TLS interception: an app that calls the provider's own address is budgeted, and whatever else it
//! calls is left alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use purser_protocol::{Claim, ClaimKind};
use serde_json::Value;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::client::{App, CHAT_PATH, ping};
use system_tests::harness::envoy::Place;
use system_tests::harness::netns::Namespace;
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::tls::{TlsClient, shown};
use system_tests::harness::tls_front::{Tap, TlsFront};
use system_tests::harness::{environment, repository};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::tls_upstream::{Authorities, HOSTS, upstream_at};

const PAYER: &str = r#"{"org": "acme", "team": "shop", "user": "chatbot"}"#;
/// A host of Azure's, which the configuration knows by its domain only.
const AZURE: &str = "acme.openai.azure.com";
/// A host that is none of an LLM.
const OTHER: &str = "shop.example";

/// The configuration with a certificate of the mesh for the hosts it decrypts.
fn setup(authorities: &Authorities) -> Setup {
    let names: Vec<&str> = HOSTS.into_iter().chain(["*.openai.azure.com"]).collect();
    authorities.setup("intercept", &names).unidentified(PAYER)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_decrypted_by_the_name_of_the_connection() {
    let authorities = Authorities::new();
    let fake = FakeLlm::start().await.unwrap();
    let front = TlsFront::start(&authorities.public.issue(&HOSTS), fake.addr).await;
    let mut stack = upstream_at(setup(&authorities), front.addr).start().await;
    stack.fake = fake;
    stack.backend.org_budget("acme", "10.00").await;
    let (app, at) = (TlsClient::new(&authorities.mesh, None), stack.envoy.egress);
    let forged = App::of("rich").team("other").user("boss");
    app.post(at, HOSTS[0], CHAT_PATH, &forged, &ping()).await.unwrap().expect(200);
    let row = &stack.database.settled("acme", 1).await[0];
    assert_eq!((row.team.as_str(), row.user_name.as_str()), ("shop", "chatbot"), "headers name nobody");
    assert_eq!(row.cost_nanousd.unsigned_abs(), stack.fake.billed().total_nanousd);
    // Let in as one host, and asking for another: a provider's own rules apply, or nobody is called.
    let mut stray = App::unidentified();
    stray = stray.with("host", OTHER);
    let answer = app.post(at, HOSTS[0], CHAT_PATH, &stray, &ping()).await.unwrap();
    assert!(answer.status.is_client_error(), "{answer:?}");
    assert_eq!(stack.fake.received().attempts, 1);
    stack.assert_healthy().await;
}

/// The node of a sidecar, as the configuration's own comment has it.
const NODE: &str = "node: {id: chatbot-1, cluster: chatbot, metadata: {ORG: globex, NAMESPACE: web, LABELS: {app: shop}}}\nadmin:";

#[tokio::test(flavor = "multi_thread")]
async fn the_node_pays_or_whose_the_key_is_and_nobody_else() {
    let authorities = Authorities::new();
    let fake = FakeLlm::start().await.unwrap();
    let front = TlsFront::start(&authorities.public.issue(&HOSTS), fake.addr).await;
    let app = TlsClient::new(&authorities.mesh, None);
    let forged = App::of("rich").team("other").user("boss").with("authorization", "Bearer sk-test");
    for (node, unidentified, expected) in [
        (NODE, PAYER, Some(("globex", Some("web"), Some("shop")))),
        ("admin:", PAYER, None),
        ("admin:", r#""deny""#, None),
    ] {
        let setup = setup(&authorities).unidentified(unidentified).edit("admin:", node);
        let stack = upstream_at(setup, front.addr).start_scripted(Script::Allow).await;
        app.post(stack.envoy.egress, HOSTS[0], CHAT_PATH, &forged, &ping()).await.unwrap().expect(200);
        let hold = stack.backend.holds().remove(0);
        let payer = (hold.payer.org.as_str(), hold.payer.team.as_deref(), hold.payer.user.as_deref());
        assert_eq!(payer, expected.unwrap_or(("", None, None)));
        match (&hold.lookup, expected) {
            (None, Some(_)) => {}
            (Some(lookup), None) => {
                let value = "f3abf2a6cc4f00987743db5f544ba345b4899ae31f326d8ee9c4816de153c9e0".to_owned();
                assert_eq!(lookup.claims, [Claim { kind: ClaimKind::ApiKeySha256, value }]);
                assert_eq!(lookup.fallback.is_some(), unidentified == PAYER);
            }
            unexpected => panic!("{unexpected:?}"),
        }
        // Without a key there is nothing to ask by.
        let keyless = App::of("rich");
        let answer = app.post(stack.envoy.egress, HOSTS[0], CHAT_PATH, &keyless, &ping()).await.unwrap();
        assert_eq!(
            answer.status.as_u16(),
            if unidentified == PAYER { 200 } else { 403 },
            "{}",
            answer.text()
        );
        stack.assert_healthy().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_pass_byte_for_byte_with_their_own_certificate() {
    let authorities = Authorities::new();
    let own = authorities.public.issue(&["localhost"]);
    let echo = Tap::start(echo_server().await).await;
    let front = TlsFront::start(&own, echo.addr).await;
    let far = Tap::start(front.addr).await;
    let setup = setup(&authorities).edit("port_value: 443\n", &format!("port_value: {}\n", far.addr.port()));
    let stack = setup.start().await;
    let near = Tap::start(stack.envoy.egress).await;
    let client = TlsClient::new(&authorities.public, None);
    let mut stream = client.connect(near.addr, "localhost").await.unwrap();
    assert_eq!(shown(&stream), Some(own.der()), "the far end's own certificate");
    let text = "POST /v1/chat/completions\r\n".repeat(5_000).into_bytes();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let mut back = vec![0; text.len()];
    let (sent, received) = tokio::join!(writer.write_all(&text), reader.read_exact(&mut back));
    assert!(sent.is_ok() && received.is_ok() && back == text);
    assert_eq!(near.kept(), far.kept(), "what leaves the app is what arrives, and back");
    assert!(far.kept().sent.len() > text.len());
    assert!(
        client.connect(near.addr, HOSTS[0]).await.is_err(),
        "the mesh's certificate is not the public one"
    );
    // An address is no name to ask for: who asks for none is not led anywhere.
    assert!(client.connect(stack.envoy.egress, "127.0.0.1").await.is_err());
    assert_eq!(front.greetings().len(), 1, "and nobody but the first got as far");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llm_hosts_that_have_no_filter_get_no_connection() {
    let authorities = Authorities::new();
    let echo = echo_server().await;
    let names = ["s3.eu-west-1.localhost", "bedrock-runtime.eu-west-1.localhost"];
    let front = TlsFront::start(&authorities.public.issue(&names), echo).await;
    // A domain whose names lead here by themselves, for a rule of each kind.
    let setup = setup(&authorities)
        .edit("{suffix: .amazonaws.com}", "{suffix: .localhost}")
        .edit("{suffix: .vpce.amazonaws.com}", "{suffix: .vpce.localhost}")
        .edit("{suffix: .api.aws}", "{suffix: .api.localhost}")
        .edit("{suffix: .rep.googleapis.com}", "{suffix: .rep.localhost}")
        .edit("{suffix: -aiplatform.googleapis.com}", "{suffix: -aiplatform.localhost}")
        .edit("{exact: api.groq.com}", "{exact: groq.localhost}")
        .edit("port_value: 443\n", &format!("port_value: {}\n", front.addr.port()));
    let stack = setup.start().await;
    let client = TlsClient::new(&authorities.public, None);
    let connect = async |name: &str| client.connect(stack.envoy.egress, name).await.is_ok();
    assert!(connect(names[0]).await, "others of that domain pass");
    let refused = [
        names[1],
        "bedrock-runtime-fips.us-gov-west-1.localhost",
        "vpce-1-2.bedrock-runtime.us-east-1.vpce.localhost",
        "bedrock-mantle.us-east-1.api.localhost",
        "aiplatform.eu.rep.localhost",
        "europe-west4-aiplatform.localhost",
        "groq.localhost",
    ];
    for name in refused {
        assert!(!connect(name).await, "{name}");
    }
    let denied = stack.envoy.stats("unmetered.rbac.denied").await;
    assert_eq!(denied.values().sum::<u64>(), refused.len() as u64, "{denied:?}");
    assert_eq!(front.greetings().len(), 1, "none of them got as far");
    for (name, details) in
        [(names[0], Value::Null), (names[1], "rbac_access_denied_matched_policy[unmetered]".into())]
    {
        let line = stack.envoy.access_log_line(|line| line["sni"] == name).await;
        assert_eq!(line["details"], details, "{line}");
    }
    stack.assert_healthy().await;
}

/// A server that sends back what it gets.
async fn echo_server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    addr
}

/// A machine of its own: an app with the names of the world, of which some lead to Envoy, and Envoy
/// with names that lead to the hosts themselves.
struct World {
    authorities: Authorities,
    namespace: Arc<Namespace>,
    place: Place,
    /// Authorities that the app trusts: the public one and the mesh's.
    bundle: PathBuf,
}

/// Where Envoy listens, on the port that apps call.
const ENVOY: &str = "127.0.0.1:443";
/// The providers' address.
const PROVIDERS: &str = "127.0.0.2:443";
/// Before Envoy and after it, on the way to the other host.
const NEAR: &str = "127.0.0.3:443";
const FAR: &str = "127.0.0.4:443";
/// The other host itself.
const SERVER: &str = "127.0.0.5:443";

impl World {
    /// Says on standard error why there can be none.
    async fn create() -> Option<Self> {
        let authorities = Authorities::new();
        let folder = authorities.folder.path();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let of_app = format!("127.0.0.1 localhost {} {AZURE}\n127.0.0.3 {OTHER}\n", HOSTS.join(" "));
        let of_envoy =
            format!("127.0.0.1 localhost\n127.0.0.2 {} {AZURE}\n127.0.0.4 {OTHER}\n", HOSTS.join(" "));
        let namespace = match Namespace::create(&write("hosts-of-app", &of_app)).await {
            Ok(namespace) => namespace,
            Err(why) => {
                eprintln!("skipped: no namespaces here, which take root: {why}");
                return None;
            }
        };
        let place = Place { namespace: Arc::clone(&namespace), hosts: write("hosts-of-envoy", &of_envoy) };
        let trusted = [authorities.public.pem(), authorities.mesh.pem()].concat();
        let bundle = write("bundle.pem", &trusted);
        Some(Self { authorities, namespace, place, bundle })
    }

    fn listen(&self, addr: &str) -> tokio::net::TcpListener {
        self.namespace.listen(addr.parse().unwrap())
    }

    /// Keeps what passes between two addresses here.
    fn tap(&self, from: &str, to: &'static str) -> Tap {
        let namespace = Arc::clone(&self.namespace);
        Tap::on(self.listen(from), move || std::future::ready(namespace.connect(to.parse().unwrap())))
    }

    async fn start(&self) -> (Stack, TlsFront) {
        let fake = FakeLlm::start().await.unwrap();
        let names: Vec<&str> = HOSTS.into_iter().chain([AZURE]).collect();
        let front = TlsFront::on(self.listen(PROVIDERS), &self.authorities.public.issue(&names), fake.addr);
        let setup = setup(&self.authorities).value("INTERCEPT_PORT", "443").place(self.place.clone());
        let mut stack = setup.start().await;
        assert_eq!(stack.envoy.egress.to_string(), ENVOY);
        stack.fake = fake;
        (stack, front)
    }

    /// Runs the app here, with nothing but the environment to tell it whom to trust.
    async fn run(&self, calls: &[&str]) -> Value {
        app(self.namespace.command(&environment("SDK_PYTHON")), Some(&self.bundle), None, calls).await
    }
}

/// Runs an app that knows of OpenAI's SDK only.
async fn app(
    mut command: Command,
    trusted: Option<&Path>,
    base_url: Option<String>,
    calls: &[&str],
) -> Value {
    command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").env("OPENAI_API_KEY", "sk-test");
    command.env("PATH", std::env::var("PATH").unwrap_or_default());
    if let Some(bundle) = trusted {
        command.env("SSL_CERT_FILE", bundle);
    }
    if let Some(url) = base_url {
        command.env("OPENAI_BASE_URL", url);
    }
    let script = repository().join("tests/sdks/unmodified_app.py");
    command.arg(script).args(calls).stdin(Stdio::null()).kill_on_drop(true);
    let limit = std::time::Duration::from_secs(90);
    let output = tokio::time::timeout(limit, command.output()).await.expect("the app ends").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_app_is_budgeted() {
    let Some(world) = World::create().await else { return };
    let (stack, front) = world.start().await;
    stack.backend.org_budget("acme", "10.00").await;
    let calls = ["plain", "stream", "azure", "models"];
    let seen = world.run(&calls).await;
    // The same app without Envoy, and with a provider that speaks plain HTTP.
    let direct = FakeLlm::start().await.unwrap();
    let url = format!("http://{}/v1", direct.addr);
    let python = Command::new(environment("SDK_PYTHON"));
    let expected = app(python, None, Some(url), &["plain", "stream"]).await;
    for name in ["plain", "stream"] {
        assert!(expected[name]["text"].as_str().is_some_and(|text| text.len() > 20), "{expected}");
        assert_eq!(seen[name], expected[name], "{name}");
    }
    assert_eq!(seen["azure"]["text"], expected["plain"]["text"], "{seen}");
    assert!(seen["models"].as_array().is_some_and(|models| !models.is_empty()), "{seen}");
    let ledger = stack.database.settled("acme", 3).await;
    for row in &ledger {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("shop", "chatbot"), "{row:?}");
        assert_eq!((row.cause.as_str(), row.usage_quality.as_str()), ("settled", "exact"), "{row:?}");
    }
    // The third is Azure's, whose deployments have no price before somebody gives them one.
    let first: Vec<String> =
        stack.fake.billed().rows[..2].iter().map(|row| row.response_id.clone()).collect();
    let of_first = ledger.iter().filter(|row| row.response_id.as_ref().is_some_and(|id| first.contains(id)));
    let openai: i64 = of_first.map(|row| row.cost_nanousd).sum();
    assert_eq!(openai.unsigned_abs(), direct.billed().total_nanousd, "{ledger:?}");
    let names: Vec<Option<String>> = front.greetings().into_iter().map(|seen| seen.server_name).collect();
    assert!(
        names.contains(&Some(HOSTS[0].to_owned())) && names.contains(&Some(AZURE.to_owned())),
        "{names:?}"
    );
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_app_is_denied_in_words_of_its_sdk() {
    let Some(world) = World::create().await else { return };
    let (stack, front) = world.start().await;
    stack.backend.org_budget("acme", "0.000000001").await;
    let seen = world.run(&["plain", "stream"]).await;
    for name in ["plain", "stream"] {
        assert_eq!(seen[name]["failure"]["classes"][0], "RateLimitError", "{seen}");
        assert_eq!(seen[name]["failure"]["code"], "insufficient_quota", "{seen}");
    }
    let stats = stack.envoy.stats("http.intercept.downstream_rq_total").await;
    assert_eq!(stats.get("http.intercept.downstream_rq_total"), Some(&2), "no SDK asks again");
    assert_eq!((stack.fake.received().attempts, front.greetings()), (0, Vec::new()));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmodified_app_meets_other_hosts_themselves() {
    let Some(world) = World::create().await else { return };
    let (stack, _front) = world.start().await;
    // Whoever answers there is no LLM's host; that it speaks HTTP is all the app needs.
    let host = FakeLlm::start().await.unwrap();
    let own = world.authorities.public.issue(&[OTHER]);
    let _server = TlsFront::on(world.listen(SERVER), &own, host.addr);
    let (far, near) = (world.tap(FAR, SERVER), world.tap(NEAR, ENVOY));
    let seen = world.run(&["other"]).await;
    let der: Vec<String> = own.der().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen["other"]["certificate"], der.concat(), "the host's own certificate");
    assert!(seen["other"]["body"].as_str().is_some_and(|body| body.contains("gpt-4o-mini")), "{seen}");
    let (near, far) = (near.kept(), far.kept());
    assert!(
        near.sent.len() > 200 && near.received.len() > 1_000,
        "{} {}",
        near.sent.len(),
        near.received.len()
    );
    assert_eq!(near, far, "what leaves the app is what arrives, and back");
    let line = stack.envoy.access_log_line(|line| !line["sni"].is_null()).await;
    assert_eq!((&line["sni"], &line["details"]), (&OTHER.into(), &Value::Null), "{line}");
    stack.assert_healthy().await;
}
