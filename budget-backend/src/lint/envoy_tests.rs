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

/// One of several filters, off until a route switches it on.
fn off_by_default(name: &str) -> Value {
    let mut filter = purser();
    filter["name"] = json!(name);
    filter["disabled"] = json!(true);
    filter
}

fn switch(on: bool) -> Value {
    let mut config = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig"});
    config[if on { "config" } else { "disabled" }] = if on { json!({}) } else { json!(true) };
    config
}

#[test]
fn filters_are_switched_by_the_most_specific_that_speaks_of_them() {
    let (filters, first) = ([purser(), off_by_default("own")], "metering");
    let (on, off) = (switch(true), switch(false));
    // What the route table, the virtual host, the route and the weighted cluster say; and what is missing.
    let none = json!({});
    for (table, host, route, entry, expected) in [
        (&none, &none, &none, &none, None),
        (&none, &json!({first: off, "own": on}), &none, &none, None),
        (&none, &json!({first: off}), &json!({"own": on}), &none, None),
        (&json!({first: off}), &none, &none, &json!({"own": on}), None),
        (&json!({first: off}), &none, &json!({first: on}), &none, None),
        // Of somebody else's.
        (&none, &none, &json!({"other": off}), &none, None),
        (&none, &json!({first: off}), &none, &none, Some("switches the filter off and none on instead")),
        (
            &json!({"own": on}),
            &none,
            &json!({first: off, "own": off}),
            &none,
            Some("switches the filter off and none on instead"),
        ),
        (
            &none,
            &json!({"own": on}),
            &none,
            &json!({first: off, "own": off}),
            Some("switches the filter off and none on instead"),
        ),
    ] {
        let way = json!({"route": {"weighted_clusters": {"clusters": [
            {"name": "openai", "typed_per_filter_config": entry}]}}, "typed_per_filter_config": route});
        let mut chain = manager(json!(filters), json!([way]));
        let routes = &mut chain["filters"][0]["typed_config"]["route_config"];
        routes["typed_per_filter_config"] = table.clone();
        routes["virtual_hosts"][0]["typed_per_filter_config"] = host.clone();
        let messages = messages(&[chain]);
        let expected: Vec<String> = expected
            .map(|why| format!("listener l, chain 0: route v[0] to api.openai.com {why}"))
            .into_iter()
            .collect();
        assert_eq!(messages, expected, "{table} {host} {route} {entry}");
    }
    let asleep = manager(json!([off_by_default("own")]), json!([{"route": {"cluster": "openai"}}]));
    assert_eq!(
        messages(&[asleep]),
        ["listener l, chain 0: route v[0] to api.openai.com switches no filter on"]
    );
}

#[test]
fn a_name_that_a_chain_refuses_does_not_pass() {
    let refusing = |action: &str, principal: Value, permission: Value| {
        json!({"filters": [
            {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
             "rules": {"action": action, "policies": {"p": {"permissions": [permission], "principals": [principal]}}}}},
            {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
             "cluster": "any"}}]})
    };
    let any = || json!({"any": true});
    let name = |kind: &str, value: &str| json!({"requested_server_name": {kind: value}});
    let both = json!({"and_rules": {"rules": [name("prefix", "bedrock-runtime."), name("suffix", ".amazonaws.com")]}});
    for (chain, refused) in [
        (refusing("DENY", any(), name("exact", "API.groq.com")), vec!["api.groq.com"]),
        (refusing("DENY", any(), name("suffix", ".openai.azure.com")), vec!["*.openai.azure.com"]),
        (refusing("DENY", any(), name("contains", "API.nvidia")), vec!["integrate.api.nvidia.com"]),
        (refusing("DENY", any(), both.clone()), vec!["bedrock-runtime.*.amazonaws.com"]),
        (
            refusing("DENY", any(), json!({"or_rules": {"rules": [both, name("exact", "api.x.ai")]}})),
            vec!["bedrock-runtime.*.amazonaws.com", "api.x.ai"],
        ),
        // What isn't about names alone refuses nothing for sure.
        (
            refusing(
                "DENY",
                any(),
                json!({"and_rules": {"rules": [name("exact", "api.x.ai"), {"destination_port": 1}]}}),
            ),
            vec![],
        ),
        (refusing("DENY", any(), json!({"not_rule": name("exact", "api.x.ai")})), vec![]),
        (refusing("DENY", json!({"authenticated": {}}), name("exact", "api.x.ai")), vec![]),
        (refusing("ALLOW", any(), name("exact", "api.x.ai")), vec![]),
        (refusing("LOG", any(), name("exact", "api.x.ai")), vec![]),
    ] {
        let expected: Vec<&str> = LLM_HOSTS.into_iter().filter(|host| !refused.contains(host)).collect();
        assert_eq!(found(std::slice::from_ref(&chain))[0].1, expected, "{chain}");
    }
}

/// A route table's chain: per virtual host its domain and cluster, with our filter off.
fn by_domain(hosts: &[(&str, &str)]) -> Value {
    let hosts = hosts.iter().map(|(domain, cluster)| {
        json!({"name": domain, "domains": [domain], "routes": [{"route": {"cluster": cluster}}],
            "typed_per_filter_config": {"metering": {"disabled": true}}})
    });
    let hosts: Vec<Value> = hosts.collect();
    let mut chain = manager(json!([purser()]), json!([]));
    chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"] = json!(hosts);
    chain
}

#[test]
fn domains_that_may_be_an_llms_are_found_where_the_cluster_tells_nothing() {
    let both = ["*.api.openai.com", "api.openai.com"];
    // What is found, and whether it is said that it couldn't be checked.
    for (domain, cluster, expected, is_unchecked) in [
        ("*.openai.com", "any", Some(&both[..]), false),
        ("*.openai.com", "forward", Some(&both[..]), false),
        ("API.openai.com:443", "forward", Some(&both[1..]), false),
        ("*.example.com", "forward", None, false),
        // By its address.
        ("api.openai.com", "address", Some(&both[1..]), false),
        ("api.openai.com", "discovered", Some(&both[1..]), false),
        ("*.openai.com", "address", None, true),
        ("example.com", "address", None, false),
        ("*", "address", None, false),
        // By a name that is none of an LLM's: perhaps the next proxy's.
        ("api.openai.com", "other", None, true),
        ("*.openai.com", "other", None, false),
        ("*.openai.com", "openai", Some(&both[1..]), false),
    ] {
        let chains = [by_domain(&[(domain, cluster)])];
        let hosts: Vec<Vec<String>> = ways(&chains).into_iter().map(|bypass| bypass.hosts).collect();
        let expected: Vec<Vec<&str>> = expected.map(<[&str]>::to_vec).into_iter().collect();
        assert_eq!(hosts, expected, "{domain} {cluster}");
        let unchecked = crate::lint::unread::unread(&dump(&chains)).unwrap();
        assert_eq!(unchecked.len(), usize::from(is_unchecked), "{domain} {cluster}: {unchecked:?}");
        if let [unchecked] = &unchecked[..] {
            let message = format!(
                "listener l, chain 0: route {domain}[0] takes calls for api.openai.com to cluster {cluster}, which doesn't tell whose it is, and is not metered; not checked"
            );
            assert_eq!(unchecked.message, message);
        }
        // Metered, it may lead anywhere.
        let mut metered = chains;
        let host = &mut metered[0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0];
        host["typed_per_filter_config"] = json!({});
        assert_eq!(ways(&metered), []);
        assert_eq!(crate::lint::unread::unread(&dump(&metered)).unwrap(), []);
    }
    let for_all: Vec<String> =
        LLM_HOSTS.iter().filter(|host| host.ends_with(".com")).map(|host| (*host).to_owned()).collect();
    let found = ways(&[by_domain(&[("*.com", "forward")])]);
    assert!(for_all.iter().all(|host| found[0].hosts.contains(host)), "{found:?}");
    // A host that another domain picks isn't reached.
    let found = ways(&[by_domain(&[("*.openai.com", "forward"), ("api.openai.com", "other")])]);
    assert_eq!(found[0].hosts, both[..1]);
}

fn found(chains: &[Value]) -> Vec<(String, Vec<String>)> {
    ways(chains).into_iter().map(|bypass| (bypass.chain, bypass.hosts)).collect()
}

fn messages(chains: &[Value]) -> Vec<String> {
    ways(chains).into_iter().map(|bypass| bypass.message).collect()
}

fn ways(chains: &[Value]) -> Vec<Bypass> {
    bypasses(&dump(chains)).unwrap()
}

fn dump(chains: &[Value]) -> Value {
    let cluster = |name: &str, host: &str| {
        json!({"cluster": {"name": name, "load_assignment": {"endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": host, "port_value": 443}}}}]}]}}})
    };
    let forward = json!({"cluster": {"name": "forward", "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"}}}});
    json!({"configs": [
        {"static_clusters": [cluster("openai", "API.openai.com"), cluster("aws", "bedrock-runtime.eu-west-1.amazonaws.com"),
                             cluster("other", "example.com"), cluster("address", "203.0.113.7"), forward],
         "dynamic_active_clusters": [{"cluster": {"name": "any", "type": "ORIGINAL_DST"}}, {"cluster": {"name": "discovered", "type": "EDS"}}]},
        {"dynamic_listeners": [{"name": "l", "active_state": {"listener": {"name": "l", "filter_chains": chains}}}]},
    ]})
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

#[test]
fn what_can_t_be_followed_is_said() {
    let with = |filters: Value, routes: Value, change: &dyn Fn(&mut Value)| {
        let mut chain = manager(filters, routes);
        change(&mut chain["filters"][0]["typed_config"]);
        let dump = json!({"configs": [{"static_listeners": [
            {"listener": {"name": "l", "filter_chains": [chain]}}]}]});
        let found = crate::lint::unread::unread(&dump).unwrap();
        found.into_iter().map(|unread| unread.message).collect::<Vec<_>>()
    };
    let said = |what: &str| vec![format!("listener l, chain 0: {what}; not checked")];
    let (metered, bare) = (json!([purser()]), json!([]));
    let to = |field: &str| json!([{"route": {field: "x"}}]);
    let as_is: &dyn Fn(&mut Value) = &|_| ();
    assert_eq!(with(bare.clone(), to("cluster"), as_is), Vec::<String>::new());
    let by_header = "route v[0] leads to whatever cluster a request's header names and is not metered";
    assert_eq!(with(bare.clone(), to("cluster_header"), as_is), said(by_header));
    assert_eq!(with(metered.clone(), to("cluster_header"), as_is), Vec::<String>::new());
    let by_plugin = "route v[0] leads to whatever cluster a plugin names and is not metered";
    assert_eq!(with(bare, to("inline_cluster_specifier_plugin"), as_is), said(by_plugin));
    let scoped = |manager: &mut Value| manager["scoped_routes"] = json!({"name": "s"});
    assert_eq!(with(metered.clone(), json!([]), &scoped), said("scoped routes choose the route table"));
    let vhds = |manager: &mut Value| manager["route_config"]["vhds"] = json!({"config_source": {}});
    let fetched = "virtual hosts are fetched when they are asked for (VHDS)";
    assert_eq!(with(metered.clone(), json!([]), &vhds), said(fetched));
    let rds = |manager: &mut Value| manager["rds"] = json!({"route_config_name": "gone"});
    assert_eq!(with(metered.clone(), json!([]), &rds), said("the dump lacks the route table gone"));
    let matcher = |manager: &mut Value| {
        manager["route_config"]["virtual_hosts"][0]["matcher"] = json!({"on_no_match": {}})
    };
    let in_place = "virtual host v has a matcher in place of routes";
    assert_eq!(with(metered, json!([]), &matcher), said(in_place));
    let dump = json!({"configs": [{"static_listeners": [
        {"listener": {"name": "l", "filter_chain_matcher": {}, "filter_chains": []}}]}]});
    assert!(crate::lint::unread::unread(&dump).unwrap()[0].message.contains("a matcher chooses"));
    assert!(crate::lint::unread::unread(&json!({})).is_err());
}
