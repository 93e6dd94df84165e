//! Envoy with the shipped configuration, its listeners taken from a file that may change: one route that
//! fails open and one that fails closed, two replicas of the backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reqwest::Client;
use system_tests::harness::backend::ReservedPort;
use system_tests::harness::envoy::{EgressConfig, Times};
use system_tests::harness::process::Process;
use system_tests::harness::{environment, wait_until};
use tokio::process::Command;

use crate::schedule::REPLICAS;

/// How long calls may go on under a configuration that was replaced, seconds.
const DRAIN_S: u32 = 3;

/// The header that names a call to the ledger, as a tag.
pub const CALL_HEADER: &str = "x-chaos-call";
/// The tag.
pub const CALL_TAG: &str = "call";

/// Whether a route lets calls out without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// It does.
    Open,
    /// It doesn't.
    Closed,
}

/// Envoy.
#[derive(Debug)]
pub struct Envoy {
    folder: PathBuf,
    replicas: [SocketAddr; REPLICAS],
    provider: SocketAddr,
    ports: [ReservedPort; 2],
    version: u32,
    process: Option<Process>,
    admin: Option<SocketAddr>,
    http: Client,
}

impl Envoy {
    /// One that isn't started yet; `replicas` and `provider` are where it reaches them.
    pub fn new(folder: &Path, replicas: [SocketAddr; REPLICAS], provider: SocketAddr, http: Client) -> Self {
        let ports = [ReservedPort::take(), ReservedPort::take()];
        let folder = folder.to_owned();
        Self { folder, replicas, provider, ports, version: 0, process: None, admin: None, http }
    }

    /// Where apps call it.
    pub const fn egress(&self, route: Route) -> SocketAddr {
        match route {
            Route::Open => self.ports[0].addr,
            Route::Closed => self.ports[1].addr,
        }
    }

    /// Starts it and waits until it takes calls.
    pub async fn start(&mut self) {
        self.write_listeners();
        let admin_path = self.folder.join("envoy-admin");
        let _none_yet = std::fs::remove_file(&admin_path);
        let config = self.folder.join("envoy.yaml");
        std::fs::write(&config, self.bootstrap()).expect("Envoy's configuration");
        let mut command = Command::new(environment("ENVOY"));
        command
            .args(["--disable-hot-restart", "--log-level", "warn", "--concurrency", "2"])
            .args(["--drain-time-s", &DRAIN_S.to_string(), "--service-node", "chaos"])
            .args(["--service-cluster", "chaos"])
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_path)
            .stdout(std::process::Stdio::null());
        let process =
            self.process.insert(Process::start("envoy", &mut command, self.folder.join("envoy.log")));
        let admin = wait_until("Envoy's admin address", async || {
            process.assert_running();
            let text = std::fs::read_to_string(&admin_path).map_err(|error| error.to_string())?;
            text.trim().parse::<SocketAddr>().map_err(|error| format!("{text:?}: {error}"))
        })
        .await;
        self.admin = Some(admin);
        wait_until("Envoy's listeners", async || {
            let stats = self.stats("listener_manager.total_listeners_active").await?;
            if stats.values().sum::<u64>() >= 2 { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await;
    }

    /// Has it take on another configuration of the filter.
    pub fn reload(&mut self) {
        self.version += 1;
        self.write_listeners();
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Its process, if it runs.
    pub fn pid(&mut self) -> Option<u32> {
        self.process.as_mut()?.child().id()
    }

    /// Its counters and gauges whose name contains `filter`.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>, String> {
        let admin = self.admin.ok_or("no admin interface")?;
        let asked = self.http.get(format!("http://{admin}/stats")).send().await;
        let text = asked.map_err(|error| error.to_string())?.text().await;
        let text = text.map_err(|error| error.to_string())?;
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        let numbers = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(numbers.filter(|(name, _)| name.contains(filter)).collect())
    }

    /// Its counters that must be 0 and aren't: settlements that were dropped or refused, filters that trapped.
    pub async fn faults(&self) -> Vec<String> {
        let is_fault = |name: &str| {
            name.starts_with("wasm.purser.vm_reload")
                || name.contains("purser_outbox_dropped")
                || name.contains("purser_settlements;outcome=rejected")
        };
        let counters = self.stats("purser").await.unwrap_or_default();
        let faults = counters.into_iter().filter(|(name, count)| *count > 0 && is_fault(name));
        faults.map(|(name, _)| format!("{name} is not 0")).collect()
    }

    /// Most calls that its configuration lets out without a verdict between two deliveries: those of an
    /// outage, or of a minute that an outage begins or ends in. None where nothing limits them.
    pub fn fail_open_bound(&self) -> Option<u64> {
        let text = self.rendered("open");
        let number = |key: &str| {
            let (_, rest) = text.split_once(&format!("\"{key}\": "))?;
            rest.split(|next: char| !next.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        let of_minutes = number("requests_per_minute").map(|requests| requests * 2);
        [number("requests_per_outage"), of_minutes].into_iter().flatten().min()
    }

    /// Its log, of every start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("envoy.log")).unwrap_or_default())
            .into_owned()
    }

    fn rendered(&self, failure_mode: &str) -> String {
        let edits = [
            (
                r#""unidentified":"#,
                format!(r#""tags": {{"{CALL_TAG}": {{"header": "{CALL_HEADER}"}}}}, "unidentified":"#),
            ),
            // Shorter than a hold lives, also in a short run.
            (r#""renew_interval_s": 240"#, r#""renew_interval_s": 1"#.to_owned()),
            (r#""cache_ms": 1000"#, format!(r#""cache_ms": {}"#, 1_000 + self.version)),
        ];
        EgressConfig {
            template: "egress",
            values: Vec::new(),
            place: None,
            backend: self.replicas[0],
            upstream: self.provider,
            unidentified: r#""deny""#.to_owned(),
            failure_mode: failure_mode.to_owned(),
            workers: 2,
            edits: edits.map(|(from, to)| (from.to_owned(), to, Times::Once)).to_vec(),
        }
        .render()
    }

    /// Everything but the listeners.
    fn bootstrap(&self) -> String {
        let text = self.rendered("open");
        let (head, _, clusters) = parts(&text);
        let endpoint = |addr: SocketAddr| {
            let (host, port) = (addr.ip(), addr.port());
            format!("socket_address: {{address: \"{host}\", port_value: {port}}}")
        };
        let first = endpoint(self.replicas[0]);
        let second = endpoint(self.replicas[1]);
        let both = format!("{first}\n        - endpoint:\n            address:\n              {second}");
        assert_eq!(clusters.matches(&first).count(), 1, "the backend's endpoint in {clusters}");
        let folder = self.folder.display();
        format!(
            "{head}dynamic_resources:\n  lds_config:\n    resource_api_version: V3\n    path_config_source:\n      \
             path: {folder}/listeners.yaml\n      watched_directory: {{path: {folder}}}\n\nstatic_resources:\n{}",
            clusters.replace(&first, &both)
        )
    }

    /// The listeners, whole or not at all.
    fn write_listeners(&self) {
        let mut text = format!("version_info: \"{}\"\nresources:\n", self.version);
        for (route, name) in [(Route::Open, "open"), (Route::Closed, "closed")] {
            let rendered = self.rendered(name);
            let (_, listeners, _) = parts(&rendered);
            let kind = "type.googleapis.com/envoy.config.listener.v3.Listener";
            let own = listeners
                .replace("  - name: egress\n", &format!("  - \"@type\": {kind}\n    name: egress_{name}\n"))
                .replace("port_value: 0", &format!("port_value: {}", self.egress(route).port()));
            assert!(own.contains(kind), "no listener named egress in {listeners}");
            let outdented = own.lines().map(|line| line.strip_prefix("  ").unwrap_or(line));
            text.extend(outdented.flat_map(|line| [line, "\n"]));
        }
        let (new, path) = (self.folder.join("listeners.new"), self.folder.join("listeners.yaml"));
        std::fs::write(&new, text).expect("Envoy's listeners");
        std::fs::rename(&new, &path).expect("Envoy's listeners");
    }
}

/// What stands before the static resources, in the listeners, and from the clusters on.
fn parts(rendered: &str) -> (&str, &str, &str) {
    let (head, rest) = rendered.split_once("static_resources:\n").expect("static resources");
    let (_, rest) = rest.split_once("  listeners:\n").expect("listeners");
    let at = rest.find("  clusters:\n").expect("clusters");
    (head, &rest[..at], &rest[at..])
}
