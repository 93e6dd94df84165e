//! Envoy's configuration for each case: the shipped one, with nothing changed but the filter.

use std::net::SocketAddr;

use crate::case::Case;
use crate::settings::Paths;

/// First line of the filter, as far as it is the same.
const FILTER: &str = "          - name: purser\n";
/// First line of what follows it.
const ROUTER: &str = "          - name: envoy.filters.http.router\n";
/// How long the filter waits for a verdict, as shipped.
const HOLD_TIMEOUT: &str = "\"hold_timeout_ms\": 250";
/// The history had no such limit, and what was slow showed.
const NO_HOLD_TIMEOUT: &str = "\"hold_timeout_ms\": 60000";
/// Calls without a verdict are counted by the run and must not be refused: the bounds as shipped, and lifted.
const BOUNDS: [(&str, &str); 4] = [
    ("\"requests_per_minute\": 1200", "\"requests_per_minute\": 1000000000"),
    ("\"usd_per_minute\": \"20.00\"", "\"usd_per_minute\": \"1000000000\""),
    ("\"requests_per_outage\": 20000", "\"requests_per_outage\": 1000000000"),
    ("\"usd_per_outage\": \"200.00\"", "\"usd_per_outage\": \"1000000000\""),
];

/// Where the parts of a stack are.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The provider.
    pub upstream: SocketAddr,
    /// The backend; in cases without one, an address that nobody calls.
    pub backend: SocketAddr,
}

/// The configuration of a case, with the shipped one as `template`.
///
/// # Errors
/// When the template no longer has what is replaced.
pub fn render(
    template: &str,
    case: Case,
    at: &Addresses,
    paths: &Paths,
    token: &str,
) -> Result<String, String> {
    let text = match case {
        Case::Alone => replace_filter(template, "")?,
        Case::Noop => replace_filter(template, &floor("noop", paths))?,
        Case::Floor => replace_filter(template, &floor("callout", paths))?,
        Case::Purser => without_bounds(template)?,
        Case::Blocking => replace_once(&without_bounds(template)?, HOLD_TIMEOUT, NO_HOLD_TIMEOUT)?,
    };
    let mut text = text;
    for (name, value) in [
        ("EGRESS_PORT", "0".to_owned()),
        ("ENVOY_ADMIN_PORT", "0".to_owned()),
        ("BACKEND_HOST", at.backend.ip().to_string()),
        ("BACKEND_PORT", at.backend.port().to_string()),
        ("UPSTREAM_HOST", at.upstream.ip().to_string()),
        ("UPSTREAM_PORT", at.upstream.port().to_string()),
        ("PURSER_WASM", paths.purser_wasm.display().to_string()),
        ("PURSER_TOKEN", token.to_owned()),
        ("UNIDENTIFIED", "\"deny\"".to_owned()),
        ("FAILURE_MODE", "open".to_owned()),
    ] {
        text = text.replace(&format!("${{{name}}}"), &value);
    }
    let mut rest = text.split("${").skip(1);
    match rest.find(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase())) {
        Some(left) => {
            Err(format!("a placeholder without a value: {}", left.lines().next().unwrap_or_default()))
        }
        None => Ok(text),
    }
}

fn without_bounds(template: &str) -> Result<String, String> {
    let mut text = template.to_owned();
    for (shipped, lifted) in BOUNDS {
        text = replace_once(&text, shipped, lifted)?;
    }
    Ok(text)
}

fn replace_filter(template: &str, with: &str) -> Result<String, String> {
    let parts = template.split_once(FILTER).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(ROUTER)?;
        Some(format!("{before}{with}{ROUTER}{after}"))
    });
    parts.ok_or_else(|| format!("Envoy's configuration has no {FILTER:?} followed by {ROUTER:?}"))
}

fn replace_once(text: &str, from: &str, to: &str) -> Result<String, String> {
    match text.matches(from).count() {
        1 => Ok(text.replace(from, to)),
        count => Err(format!("Envoy's configuration has {from} {count} times, not once")),
    }
}

fn floor(does: &str, paths: &Paths) -> String {
    format!(
        r#"          - name: floor
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: floor
                allow_on_headers_stop_iteration: true
                failure_policy: FAIL_RELOAD
                vm_config:
                  vm_id: floor
                  runtime: envoy.wasm.runtime.v8
                  code: {{local: {{filename: "{}"}}}}
                configuration:
                  "@type": type.googleapis.com/google.protobuf.StringValue
                  value: {does}
"#,
        paths.floor_wasm.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(case: Case) -> String {
        let paths = Paths {
            envoy: "envoy".into(),
            egress: "egress.yaml".into(),
            purser_wasm: "purser.wasm".into(),
            floor_wasm: "floor.wasm".into(),
            programs: "bin".into(),
            output: "out".into(),
            database_url: "postgres://h/d".to_owned(),
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 9));
        let at = Addresses { upstream: any, backend: any };
        render(include_str!("../../envoy/egress.yaml"), case, &at, &paths, "a-token").unwrap()
    }

    #[test]
    fn the_cases_differ_in_the_filter_alone() {
        let router = |text: &str| text.split_once(ROUTER).unwrap().1.to_owned();
        let shipped = rendered(Case::Purser);
        for case in Case::ALL {
            let text = rendered(case);
            assert_eq!(router(&text), router(&shipped), "{case:?}");
            assert_eq!(
                text.split_once("http_filters:").unwrap().0,
                shipped.split_once("http_filters:").unwrap().0
            );
            assert_eq!(text.contains("purser.wasm"), case.settles(), "{case:?}");
            assert_eq!(text.contains("floor.wasm"), matches!(case, Case::Noop | Case::Floor), "{case:?}");
        }
        assert!(shipped.contains(HOLD_TIMEOUT));
        assert!(BOUNDS.iter().all(|(from, to)| !shipped.contains(from) && shipped.contains(to)));
        assert!(rendered(Case::Blocking).contains(NO_HOLD_TIMEOUT));
    }
}
