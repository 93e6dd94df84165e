use super::*;
use serde_json::json;

fn manager(filters: Value, routes: Value) -> Value {
    json!({"filters": [{"name": "hcm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "http_filters": filters, "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}}}]})
}

fn purser() -> Value {
    json!({"name": "metering", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"vm_config": {"code": {"local": {"filename": "/opt/purser.wasm"}}}}}})
}

fn found(chains: &[Value]) -> Vec<(String, Vec<String>)> {
    let cluster = |name: &str, host: &str| {
        json!({"cluster": {"name": name, "load_assignment": {"endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": 443}}}}]}]}}})
    };
    let dump = json!({"configs": [
        {"static_clusters": [cluster("openai", "API.openai.com"), cluster("aws", "bedrock-runtime.eu-west-1.amazonaws.com"),
                             cluster("other", "example.com")],
         "dynamic_active_clusters": [{"cluster": {"name": "any", "type": "ORIGINAL_DST"}}]},
        {"dynamic_listeners": [{"name": "l", "active_state": {"listener": {"name": "l", "filter_chains": chains}}}]},
    ]});
    bypasses(&dump).unwrap().into_iter().map(|bypass| (bypass.chain, bypass.hosts)).collect()
}

#[test]
fn a_route_to_an_llm_without_the_filter_is_found() {
    let to = |cluster: &str| json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    let router = json!({"name": "router"});
    let off = json!({"match": {}, "route": {"cluster": "openai"}, "typed_per_filter_config": {"metering": {"disabled": true}}});
    let written =
        json!({"match": {}, "route": {"cluster": "other", "host_rewrite_literal": "api.anthropic.com"}});
    let weighted = json!({"match": {}, "route": {"weighted_clusters": {"clusters": [{"name": "other"}, {"name": "aws"}]}}});
    for (filters, route, hosts) in [
        (json!([purser(), router]), to("openai"), None),
        (json!([router]), to("openai"), Some("api.openai.com")),
        (json!([router]), to("other"), None),
        (json!([router]), written, Some("api.anthropic.com")),
        (json!([router]), weighted, Some("bedrock-runtime.eu-west-1.amazonaws.com")),
        (json!([router]), to("any"), Some("every LLM host")),
        (json!([purser(), router]), off, Some("api.openai.com")),
        // Of that name, but no filter of ours.
        (
            json!([{"name": "purser", "typed_config": {"@type": "type.googleapis.com/x.Lua"}}]),
            to("aws"),
            Some("bedrock-runtime.eu-west-1.amazonaws.com"),
        ),
    ] {
        let expected: Vec<_> =
            hosts.map(|host| ("0".to_owned(), vec![host.to_owned()])).into_iter().collect();
        assert_eq!(found(&[manager(filters.clone(), json!([route]))]), expected, "{filters} {route}");
    }
}

#[test]
fn what_is_passed_on_unread_is_found_unless_another_chain_picks_it() {
    let pass = |names: Value, cluster: &str| {
        json!({"filter_chain_match": {"server_names": names}, "filters": [{"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": cluster}}]})
    };
    let picks = |names: Vec<&str>| {
        let mut chain = manager(json!([purser()]), json!([{"route": {"cluster": "openai"}}]));
        chain["filter_chain_match"] = json!({"server_names": names});
        chain
    };
    assert_eq!(found(&[pass(json!([]), "openai")]), [("0".to_owned(), vec!["api.openai.com".to_owned()])]);
    let rest = found(&[picks(vec!["api.openai.com", "*.amazonaws.com"]), pass(json!([]), "any")]);
    let hosts = &rest[0].1;
    assert!(
        hosts.contains(&"api.anthropic.com".to_owned()) && hosts.contains(&"*.openai.azure.com".to_owned())
    );
    assert!(
        !hosts.iter().any(|host| host == "api.openai.com" || host.ends_with("amazonaws.com")),
        "{hosts:?}"
    );
    let all: Vec<String> = LLM_HOSTS.iter().map(|host| host.replace('*', "x")).collect();
    assert_eq!(found(&[picks(all.iter().map(String::as_str).collect()), pass(json!([]), "any")]), []);
    // A name picks before its suffix.
    assert_eq!(
        found(&[picks(vec!["*.openai.com"]), pass(json!(["api.openai.com"]), "any")])[0].1,
        ["api.openai.com"]
    );
}

#[test]
fn what_is_no_dump_is_said() {
    for (document, problem) in [
        (json!([]), "expected the JSON of Envoy's /config_dump"),
        (json!({"configs": {}}), "expected the JSON of Envoy's /config_dump"),
        (json!({"configs": [{"static_listeners": [3]}]}), "the dump has no listener"),
    ] {
        assert!(bypasses(&document).unwrap_err().starts_with(problem), "{document}");
    }
}
