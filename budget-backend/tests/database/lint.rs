//! Budgets that match nothing, and an Envoy's ways around the filter.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::api::{ADMIN, Service};
use crate::operator::{backend, execute, json as document, stderr, stdout};
use crate::support::*;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn budgets_that_match_nothing_are_told(pool: PgPool) {
    let service = Service::start(&pool).await;
    record(&pool, vec![settle(id(1), 5), settle_for(&payer("search", "bob"), id(2), Some(5))]).await;
    let used = budget(&pool, "search", "", "day", 1).await;
    let unused = budget(&pool, "ads", "", "day", 1).await;
    let each = budget(&pool, "search", "*", "day", 1).await;
    let of_ann = budget(&pool, "search", "ann", "day", 1).await;
    let young = budget(&pool, "new", "", "day", 1).await;
    let patterned = budget(&pool, "search", "", "week", 1).await;
    let misspelt = budget(&pool, "", "", "week", 1).await;
    execute(&pool, &format!("update budgets set models = '{{gpt-4o-m?ni}}' where budget_id = {patterned}"))
        .await;
    execute(&pool, &format!("update budgets set models = '{{gtp-*}}' where budget_id = {misspelt}")).await;
    execute(
        &pool,
        &format!("update budgets set created_at = now() - interval '40 days' where budget_id <> {young}"),
    )
    .await;
    let ladder = r#"{"degrade": {"at_percent": 90, "models": {"gpt-4o": "house-model"}}}"#;
    execute(&pool, &format!("update budgets set ladder = '{ladder}' where budget_id = {patterned}")).await;
    let told = |query: &'static str| {
        let service = &service;
        async move {
            let path = format!("/v1/lint?org=acme{query}");
            let (status, answer) = service.send(Method::GET, &path, ADMIN, &json!(null)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let pair = |finding: &Value| {
                (finding["budget_id"].as_i64().unwrap(), finding["finding"].as_str().unwrap().to_owned())
            };
            let mut pairs: Vec<_> = answer["budgets"].as_array().unwrap().iter().map(pair).collect();
            pairs.sort();
            pairs
        }
    };
    let finding = |budget: i64, what: &str| (budget, what.to_owned());
    let mut expected = vec![
        finding(unused, "untouched"),
        finding(patterned, "model_not_covered"),
        finding(patterned, "target_not_covered"),
        finding(patterned, "target_without_price"),
        finding(misspelt, "no_such_model"),
        finding(misspelt, "untouched"),
    ];
    expected.sort();
    assert_eq!(told("").await, expected);
    // Looked back further than the budgets are old, none is untouched.
    assert!(told("&days=60").await.iter().all(|(_, what)| what != "untouched"));
    // With one of bob's as well, nobody is left for the `*` budget.
    let of_bob = budget(&pool, "search", "bob", "day", 1).await;
    expected.push(finding(each, "replaced"));
    expected.sort();
    assert_eq!(told("").await, expected);
    let command = backend(&pool, &["lint", "--org", "acme"]).await;
    assert_eq!(command.status.code(), Some(3), "{}", stderr(&command));
    let lines = stdout(&command);
    assert!(
        lines.contains(&format!("budget {each}: each of the 2 it was for has a budget that replaces it")),
        "{lines}"
    );
    for fine in [used, of_ann, of_bob, young] {
        assert!(!lines.contains(&format!("budget {fine}:")), "{lines}");
    }
    assert_eq!(backend(&pool, &["lint", "--org", "nobody"]).await.status.code(), Some(0));
    service.stop().await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn maps_that_save_nothing_or_lead_out_of_the_budget_are_told(pool: PgPool) {
    let with = async |user: &str, models: &str, map: serde_json::Value| {
        let number = budget(&pool, "search", user, "day", 1).await;
        let ladder = json!({"degrade": {"at_percent": 90, "models": map}});
        let sql =
            format!("update budgets set models = '{models}', ladder = '{ladder}' where budget_id = {number}");
        execute(&pool, &sql).await;
        number
    };
    let loaded = backend(&pool, &["prices", "load-catalogue"]).await;
    assert!(loaded.status.success(), "{}", stderr(&loaded));
    let good = with("ann", "{gpt-*}", json!({"gpt-5.4": "gpt-5.4-nano"})).await;
    let dearer = with("bob", "{}", json!({"gpt-4o-mini": "gpt-4o"})).await;
    let elsewhere = with("cid", "{}", json!({"gpt-4o": "claude-haiku-4-5"})).await;
    let embedding = with("dan", "{}", json!({"gpt-4o": "text-embedding-3-small"})).await;
    let outside = with("eve", "{gpt-5*}", json!({"gpt-5.4": "gpt-4o-mini"})).await;
    let onward = with("fay", "{}", json!({"gpt-5.2": "gpt-5.1", "gpt-5.1": "gpt-5-nano"})).await;
    let back = with("gil", "{}", json!({"gpt-6-sol": "gpt-6.1-sol"})).await;
    let forth = with("", "{}", json!({"gpt-6.1-sol": "gpt-6-sol"})).await;
    let told = backend(&pool, &["lint", "--org", "acme", "--json"]).await;
    assert_eq!(told.status.code(), Some(3), "{}", stderr(&told));
    let told = document(&told);
    let mut found: Vec<(i64, &str)> = told["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["budget_id"].as_i64().unwrap(), finding["finding"].as_str().unwrap()))
        .collect();
    found.sort_unstable();
    assert!(found.iter().all(|(budget, _)| *budget != good), "{told:#}");
    assert_eq!(
        found,
        [
            (dearer, "target_dearer"),
            (elsewhere, "target_elsewhere"),
            (embedding, "target_of_another_api"),
            (outside, "target_not_covered"),
            (onward, "chain"),
            (back, "chain"),
            (forth, "chain"),
        ],
        "{told:#}"
    );
}

/// An Envoy of the test's own.
struct Envoy {
    process: Child,
    admin: String,
}

impl Envoy {
    async fn start(folder: &Path, config: &Value) -> Self {
        let (file, address) = (folder.join("envoy.json"), folder.join("admin"));
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let binary = std::env::var("ENVOY").expect("ENVOY names the Envoy to test with");
        let mut process = Command::new(binary)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warn", "-c"])
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&address)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let until = in_time();
        loop {
            match std::fs::read_to_string(&address) {
                Ok(admin) if !admin.is_empty() => return Self { process, admin },
                _ => {}
            }
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none() && Instant::now() < until, "no Envoy: {}", log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn typed(kind: &str, fields: Value) -> Value {
    let mut typed = json!({"@type": format!("type.googleapis.com/envoy.extensions.{kind}")});
    typed.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    typed
}

fn manager(filters: Vec<Value>, cluster: &str) -> Value {
    let router = json!({"name": "router", "typed_config": typed("filters.http.router.v3.Router", json!({}))});
    let filters: Vec<Value> = filters.into_iter().chain([router]).collect();
    let routes = json!({"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]});
    let fields = json!({"stat_prefix": "x", "route_config": routes, "http_filters": filters});
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!([{"name": "http", "typed_config": typed(kind, fields)}])
}

fn purser() -> Value {
    let settings =
        json!({"backend": {"cluster": "purser_backend", "token": "0123456789abcdef"}, "provider": "openai"});
    let wasm = std::env::var("PURSER_WASM").expect("PURSER_WASM names the built filter");
    let config = json!({"name": "purser", "allow_on_headers_stop_iteration": true,
        "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": wasm}}},
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": settings.to_string()}});
    json!({"name": "metering", "typed_config": typed("filters.http.wasm.v3.Wasm", json!({"config": config}))})
}

/// Listeners that meter and that don't, before clusters that lead to LLMs and elsewhere.
fn config() -> Value {
    let listener = |name: &str, chains: Value| {
        json!({"name": name, "filter_chains": chains,
               "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}})
    };
    let pass =
        typed("filters.network.tcp_proxy.v3.TcpProxy", json!({"stat_prefix": "x", "cluster": "anywhere"}));
    let inspector = typed("filters.listener.tls_inspector.v3.TlsInspector", json!({}));
    let mut intercept = listener(
        "intercept",
        json!([
            {"filter_chain_match": {"server_names": ["api.openai.com"]}, "filters": manager(vec![purser()], "openai")},
            {"name": "rest", "filters": [{"name": "pass", "typed_config": pass}]},
        ]),
    );
    intercept["listener_filters"] = json!([{"name": "tls", "typed_config": inspector}]);
    let local = json!([{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}}}}]}]);
    let cluster = |name: &str| json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": local}});
    let mut openai = cluster("openai");
    openai["transport_socket"] = json!({"name": "tls", "typed_config":
        typed("transport_sockets.tls.v3.UpstreamTlsContext", json!({"sni": "api.openai.com"}))});
    let mut by_header = manager(vec![], "other");
    let route = &mut by_header[0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
    *route = json!({"cluster_header": "x-cluster"});
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [
                listener("metered", json!([{"filters": manager(vec![purser()], "openai")}])),
                listener("bare", json!([{"filters": manager(vec![], "openai")}])),
                listener("elsewhere", json!([{"filters": manager(vec![], "other")}])),
                listener("by_header", json!([{"filters": by_header}])),
                intercept,
            ],
            "clusters": [
                openai, cluster("other"), cluster("purser_backend"),
                {"name": "anywhere", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
            ],
        },
    })
}

#[tokio::test]
async fn ways_around_the_filter_are_found_in_a_real_dump() {
    let folder = std::env::temp_dir().join(format!("purser-lint-{}", id(7)));
    std::fs::create_dir_all(&folder).unwrap();
    let envoy = Envoy::start(&folder, &config()).await;
    let url = format!("http://{}/config_dump", envoy.admin);
    let dump = reqwest::get(url).await.unwrap().text().await.unwrap();
    drop(envoy);
    let file = folder.join("dump.json");
    std::fs::write(&file, &dump).unwrap();
    let lint = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
        // Needs no database.
        command
            .args(["lint", "--json", "--envoy-config-dump"])
            .arg(path)
            .env_remove("DATABASE_URL")
            .output()
            .unwrap()
    };
    let found = lint(&file);
    assert_eq!(found.status.code(), Some(3), "{}", stderr(&found));
    let found = document(&found);
    let bypasses = found["bypasses"].as_array().unwrap();
    let at: Vec<_> = bypasses.iter().map(|way| [&way["listener"], &way["chain"], &way["cluster"]]).collect();
    assert_eq!(at, [["bare", "0", "openai"], ["intercept", "rest", "anywhere"]], "{found:#}");
    assert_eq!(bypasses[0]["hosts"], json!(["api.openai.com"]));
    let unchecked = "listener by_header, chain 0: route all[0] leads to whatever cluster a request's header names and is not metered; not checked";
    assert_eq!(found["unchecked"], json!([{"listener": "by_header", "chain": "0", "message": unchecked}]));
    let passed: Vec<&str> =
        bypasses[1]["hosts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(passed.contains(&"api.anthropic.com") && !passed.contains(&"api.openai.com"), "{passed:?}");
    let broken = folder.join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    let refused = lint(&broken);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("broken.json: expected JSON"), "{}", stderr(&refused));
    std::fs::remove_dir_all(&folder).unwrap();
}
