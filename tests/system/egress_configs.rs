//! What must hold of every configuration that speaks TLS with the providers, as Envoy reads it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use system_tests::harness::backend::{ReservedPort, command};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::Setup;
use system_tests::harness::{environment, repository, within};
use tokio::process::Command;

use crate::tls_upstream::{Authorities, HOSTS, upstream_at};

/// The configurations that speak TLS with the providers.
const TEMPLATES: [&str; 3] = ["egress-tls", "intercept", "gateway"];

async fn validate(setup: &Setup, port: SocketAddr, authorities: &Authorities) -> Output {
    setup.egress_config(port, port).validate(authorities.folder.path()).await
}

async fn validate_text(folder: &Path, config: &str) -> Output {
    let path = folder.join("whole.yaml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(environment("ENVOY"));
    let command = command.args(["--mode", "validate", "-c"]).arg(path).kill_on_drop(true);
    within("envoy --mode validate", command.output()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_is_valid_with_its_placeholders_filled() {
    let (authorities, port) = (Authorities::new(), ReservedPort::take());
    for template in TEMPLATES {
        let setup = authorities.setup(template, &HOSTS);
        let output = validate(&setup, port.addr, &authorities).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{template}: {log}");
        assert!(!log.contains("[warning]") && !log.contains("deprecated"), "{template}: {log}");
        let broken = setup.edit(r#""provider": "mistral""#, r#""provider": 7"#);
        let output = validate(&broken, port.addr, &authorities).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("provider"), "{template}: {log}");
    }
}

/// Istio is not run here. What is told to Envoy through it is, as far as that goes: the filter.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_istios_manifest_is_valid() {
    let manifest = repository().join("envoy/kubernetes/istio-sidecar.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let (_, filter) = manifest.split_once("operation: INSERT_BEFORE\n      value:\n").unwrap();
    let (filter, _) = filter.split_once("  - applyTo: ").unwrap();
    let (setup, port) = (Setup::as_shipped(), ReservedPort::take());
    let config = setup.egress_config(port.addr, port.addr).render();
    let (start, rest) = config.split_once("          - name: purser\n").unwrap();
    let (ours, end) = rest.split_once("          - name: envoy.filters.http.router\n").unwrap();
    let module = ours.lines().find(|line| line.contains("filename:")).unwrap().trim();
    let filter = filter
        .replace("code: {local: {filename: /etc/purser/purser.wasm}}", module)
        .replace("${PURSER_TOKEN}", "data-plane-token-of-a-test")
        .replace("${UNIDENTIFIED}", r#""deny""#)
        .replace("${FAILURE_MODE}", "open");
    let mut inserted = String::new();
    for (number, line) in filter.lines().enumerate() {
        let bullet = if number == 0 { "          - " } else { "            " };
        inserted += &format!("{bullet}{}\n", line.strip_prefix("        ").unwrap());
    }
    let authorities = Authorities::new();
    for (from, to, valid) in [("", "", true), (r#""openai""#, "7", false)] {
        let inserted = if from.is_empty() { inserted.clone() } else { inserted.replace(from, to) };
        let whole = format!("{start}{inserted}          - name: envoy.filters.http.router\n{end}");
        let output = validate_text(authorities.folder.path(), &whole).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), valid, "{whole}\n{log}");
    }
}

/// The lines of a filter that say who pays.
const OWN: [&str; 2] = ["\"identity\": ", "\"lookup\": "];

/// The parts of a configuration between `# >> NAME` and `# << NAME`, without what each says of its own: who
/// pays.
fn shared_parts(template: &str) -> Vec<(String, String)> {
    let path = repository().join(format!("envoy/{template}.yaml"));
    let text = std::fs::read_to_string(path).unwrap();
    let parts = text.split("# >> ").skip(1).map(|rest| {
        let name = rest.split(':').next().unwrap();
        let (part, _) = rest.split_once(&format!("# << {name}\n")).expect("an end of the part");
        let own = |line: &&str| OWN.iter().any(|field| line.trim_start().starts_with(field));
        let shared: Vec<&str> = part.lines().filter(|line| !own(line)).collect();
        (name.to_owned(), shared.join("\n"))
    });
    parts.collect()
}

#[test]
fn what_the_configurations_share_is_the_same_in_each() {
    let all: Vec<(String, String)> = TEMPLATES.iter().flat_map(|template| shared_parts(template)).collect();
    for name in ["connection", "providers", "prefixes", "filters", "clusters"] {
        let found: Vec<&String> =
            all.iter().filter(|(other, _)| other == name).map(|(_, part)| part).collect();
        // Who is intercepted has no base URL, and so no prefix.
        assert_eq!(found.len(), if name == "prefixes" { 2 } else { 3 }, "{name}");
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{name} differs between the configurations");
    }
}

/// Every object below `tree` that has a field.
fn holding<'t>(tree: &'t Value, field: &str, found: &mut Vec<&'t Value>) {
    match tree {
        Value::Object(fields) => {
            if fields.contains_key(field) {
                found.push(tree);
            }
            fields.values().for_each(|value| holding(value, field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| holding(item, field, found)),
        _ => {}
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Checks what must hold of each route to a provider; returns how many there are.
fn check_routes(manager: &Value) -> usize {
    let mut count = 0;
    for host in array(&manager["route_config"]["virtual_hosts"]) {
        let limit = host["request_body_buffer_limit"].as_str().and_then(|bytes| bytes.parse::<u64>().ok());
        assert!(limit > Some(16 << 20), "{host}");
        let retries = &host["retry_policy"];
        assert_eq!(retries["retry_on"], "connect-failure,refused-stream,reset-before-request", "{host}");
        assert!(host["hedge_policy"].is_null(), "{host}");
        for route in array(&host["routes"]) {
            let way = &route["route"];
            assert_eq!(way["timeout"], "0s", "{route}");
            assert!(way["retry_policy"].is_null() && way["hedge_policy"].is_null(), "{route}");
            let of_host = host["typed_per_filter_config"].as_object().into_iter().flatten();
            let of_route = route["typed_per_filter_config"].as_object().into_iter().flatten();
            let (off, on): (Vec<_>, Vec<_>) =
                of_host.chain(of_route).partition(|(_, config)| config["disabled"] == true);
            assert_eq!(off.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["purser"], "{route}");
            let cluster = way["cluster"].as_str().unwrap();
            let [(filter, _)] = on[..] else { panic!("one filter meters {route}: {on:?}") };
            let by_name =
                cluster == "by_name" && ["purser_azure", "purser_vertex_ai"].contains(&filter.as_str());
            assert!(by_name || *filter == format!("purser_{cluster}"), "{filter} meters {cluster}");
            count += 1;
        }
    }
    count
}

/// `identity` and `lookup` of every filter of a configuration.
fn who_pays(template: &str) -> (Value, Value) {
    match template {
        "gateway" => (
            json!({"org": {"constant": "acme"}, "team": {"spiffe": "namespace"}, "user": {"spiffe": "service_account"}}),
            Value::Null,
        ),
        "intercept" => (
            json!({"org": {"node_metadata": "ORG"}, "team": {"node_metadata": "NAMESPACE"}, "user": {"node_metadata": ["LABELS", "app"]}}),
            json!(["api_key"]),
        ),
        _ => {
            let header = |tier: &str| json!({"header": format!("x-budget-{tier}")});
            (json!({"org": header("org"), "team": header("team"), "user": header("user")}), Value::Null)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_to_a_provider_goes_around_its_filter() {
    let (authorities, port) = (Authorities::new(), ReservedPort::take());
    for template in TEMPLATES {
        let setup = upstream_at(authorities.setup(template, &HOSTS), port.addr);
        let stack = setup.start_scripted(Script::Allow).await;
        let dump = stack.envoy.admin_json("/config_dump").await;
        let mut managers = Vec::new();
        holding(&dump, "http_filters", &mut managers);
        // Once as it was written, and once as it is in force.
        assert_eq!(managers.len(), 2, "{template}");
        let manager = managers[1];
        assert_eq!(check_routes(manager), if template == "intercept" { 9 } else { 15 }, "{template}");
        assert_eq!(manager["stream_idle_timeout"], "900s", "SDKs wait 600 s");
        let filters = array(&manager["http_filters"]);
        let metering: Vec<&Value> =
            filters.iter().filter(|filter| filter["name"].as_str().unwrap().starts_with("purser")).collect();
        for filter in &metering {
            let config = &filter["typed_config"]["config"];
            assert_eq!(config["failure_policy"], "FAIL_RELOAD", "{filter}");
            assert_eq!(config["allow_on_headers_stop_iteration"], true, "{filter}");
            let name = filter["name"].as_str().unwrap();
            assert_eq!(filter["disabled"] == true, name != "purser", "{name}");
            let settings = config["configuration"]["value"].as_str().unwrap();
            let settings: Value = serde_json::from_str(settings).unwrap();
            let provider = name.strip_prefix("purser_").unwrap_or("unknown");
            assert_eq!(settings["provider"], provider);
            let (identity, lookup) = who_pays(template);
            assert_eq!((&settings["identity"], &settings["lookup"]), (&identity, &lookup), "{name}");
        }
        assert_eq!(metering.len(), 10, "{template}");
        stack.assert_healthy().await;
    }
}

/// Names resolve to nothing, at once: nobody answers there.
const NO_NAMES: &str = r#"typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{socket_address: {address: 127.0.0.1, port_value: 1}}]
admin:
"#;

/// What `lint` says of a running Envoy.
async fn lint(setup: Setup) -> (Option<i32>, Vec<Value>) {
    let stack = setup.edit("admin:\n", NO_NAMES).one_worker().start_scripted(Script::Allow).await;
    let dump = stack.envoy.admin_json("/config_dump").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.json");
    std::fs::write(&file, dump.to_string()).unwrap();
    let mut command = command();
    command.args(["lint", "--json", "--envoy-config-dump"]).arg(&file).kill_on_drop(true);
    let output = within("lint", command.output()).await.unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    stack.assert_healthy().await;
    (output.status.code(), array(&found["bypasses"]).to_vec())
}

/// A route's filter, and the same without it; the route, its cluster and its hosts.
type Removal = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

const REMOVALS: [Removal; 3] = [
    (
        "                purser: *off\n                purser_anthropic: *on\n",
        "                purser: *off\n",
        "anthropic[0]",
        "anthropic",
        &["api.anthropic.com"],
    ),
    (
        "                purser: *off\n                purser_azure: *on\n",
        "                purser: *off\n",
        "azure[0]",
        "by_name",
        &["*.cognitiveservices.azure.com", "*.openai.azure.com"],
    ),
    ("{purser: *off, purser_mistral: *on}", "{purser: *off}", "by_prefix[3]", "mistral", &["api.mistral.ai"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn lint_finds_nothing_as_shipped_and_the_one_route_whose_filter_is_removed() {
    let authorities = Authorities::new();
    for template in TEMPLATES {
        let setup = || authorities.setup(template, &HOSTS);
        assert_eq!(lint(setup()).await, (Some(0), Vec::new()), "{template}");
        for (from, to, route, cluster, hosts) in REMOVALS {
            if template == "intercept" && route.starts_with("by_prefix") {
                continue;
            }
            let (code, found) = lint(setup().edit(from, to)).await;
            let [finding] = &found[..] else { panic!("{template} without {from}: {found:#?}") };
            assert_eq!((code, &finding["route"]), (Some(3), &json!(route)), "{template}: {finding}");
            let listener = if template == "egress-tls" { "egress" } else { template };
            assert_eq!((&finding["listener"], &finding["cluster"]), (&json!(listener), &json!(cluster)));
            assert_eq!(finding["hosts"], json!(hosts), "{template}: {finding}");
            let message = finding["message"].as_str().unwrap();
            assert!(message.ends_with("switches the filter off and none on instead"), "{message}");
        }
    }
    // With neither override the first filter meters the route, as of an unknown provider.
    let whole = authorities.setup("egress-tls", &HOSTS).edit("{purser: *off, purser_mistral: *on}", "{}");
    assert_eq!(lint(whole).await, (Some(0), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn lint_finds_the_llms_that_an_interception_lets_pass() {
    let authorities = Authorities::new();
    for (from, host) in [
        ("                - {requested_server_name: {exact: api.groq.com}}\n", "api.groq.com"),
        ("        - api.openai.com\n", "api.openai.com"),
    ] {
        let (code, found) = lint(authorities.setup("intercept", &HOSTS).edit(from, "")).await;
        let [finding] = &found[..] else { panic!("without {from}: {found:#?}") };
        assert_eq!(
            (code, &finding["hosts"], &finding["chain"]),
            (Some(3), &json!([host]), &json!("default"))
        );
    }
}
