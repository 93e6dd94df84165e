//! The real Envoy with one of the shipped configurations and the built filter.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use reqwest::Client;
use serde_json::Value;
use tokio::process::Command;

use super::backend::TOKEN;
use super::netns::Namespace;
use super::process::Process;
use super::{environment, repository, wait_until, within};

/// A network where Envoy runs apart from the test, with names of its own.
#[derive(Debug, Clone)]
pub struct Place {
    /// The network.
    pub namespace: Arc<Namespace>,
    /// Envoy's own `/etc/hosts` there.
    pub hosts: PathBuf,
}

/// How often the text of an edit stands in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Exactly once.
    Once,
    /// At least once: each of several filters has it.
    Any,
}

/// The values of the configuration's placeholders, and edits a test makes to it.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// The configuration's name in `envoy/`, without its ending.
    pub template: &'static str,
    /// Values of the placeholders that only this one has.
    pub values: Vec<(&'static str, String)>,
    /// Where Envoy runs, if not beside the test.
    pub place: Option<Place>,
    /// Where the budget backend is.
    pub backend: SocketAddr,
    /// Where the provider is.
    pub upstream: SocketAddr,
    /// `unidentified` of the filter, a JSON value.
    pub unidentified: String,
    /// `failure_mode` of the filter.
    pub failure_mode: String,
    /// Envoy's workers; each has a filter of its own.
    pub workers: u8,
    /// Text to replace in the rendered configuration, by what, and how often it is there.
    pub edits: Vec<(String, String, Times)>,
}

impl EgressConfig {
    /// The shipped configuration, rendered.
    ///
    /// # Panics
    /// When it can't be read, or an edit doesn't fit it.
    #[must_use]
    pub fn render(&self) -> String {
        let path = repository().join(format!("envoy/{}.yaml", self.template));
        let template =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let values = [
            ("EGRESS_PORT", "0".to_owned()),
            ("ENVOY_ADMIN_PORT", "0".to_owned()),
            ("BACKEND_HOST", self.backend.ip().to_string()),
            ("BACKEND_PORT", self.backend.port().to_string()),
            ("UPSTREAM_HOST", self.upstream.ip().to_string()),
            ("UPSTREAM_PORT", self.upstream.port().to_string()),
            ("PURSER_WASM", environment("PURSER_WASM")),
            ("PURSER_TOKEN", TOKEN.to_owned()),
            ("UNIDENTIFIED", self.unidentified.clone()),
            ("FAILURE_MODE", self.failure_mode.clone()),
        ];
        let mut text = template;
        let given = self.values.iter().map(|(name, value)| (*name, value.clone()));
        for (name, value) in given.chain(values) {
            text = text.replace(&format!("${{{name}}}"), &value);
        }
        let mut rest = text.split("${").skip(1);
        let left = rest.find(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()));
        assert_eq!(left, None, "a placeholder without a value");
        for (from, to, times) in &self.edits {
            let found = text.matches(from.as_str()).count();
            assert!(found == 1 || (found > 1 && *times == Times::Any), "{from:?} is {found} times in {text}");
            text = text.replace(from.as_str(), to);
        }
        text
    }

    /// What `envoy --mode validate` says of this configuration.
    ///
    /// # Panics
    /// When Envoy can't be started.
    pub async fn validate(&self, folder: &Path) -> Output {
        let config = folder.join("validate.yaml");
        write(&config, &self.render());
        let mut command = Command::new(environment("ENVOY"));
        command.arg("--mode").arg("validate").arg("-c").arg(&config).kill_on_drop(true);
        let output = within("envoy --mode validate", command.output()).await;
        output.unwrap_or_else(|error| panic!("cannot start Envoy: {error}"))
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    http: Client,
    admin: SocketAddr,
    access_log: PathBuf,
    /// Where apps call; in the network where Envoy runs.
    pub egress: SocketAddr,
}

impl Envoy {
    /// Starts one and waits until it is live.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn start(config: &EgressConfig, folder: &Path, http: Client) -> Self {
        Self::start_with(config, &config.render(), &[], folder, http).await
    }

    /// The same with the configuration `text`, made of `config`, and further arguments.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn start_with(
        config: &EgressConfig,
        text: &str,
        arguments: &[&str],
        folder: &Path,
        http: Client,
    ) -> Self {
        let (yaml, admin_path) = (folder.join("envoy.yaml"), folder.join("envoy-admin"));
        write(&yaml, text);
        let binary = environment("ENVOY");
        let mut command = match &config.place {
            None => Command::new(binary),
            Some(place) => place.namespace.command_with_hosts(&place.hosts, &binary),
        };
        command
            .args(["--disable-hot-restart", "--log-level", "info", "--file-flush-interval-msec", "50"])
            .args(arguments)
            .arg("--concurrency")
            .arg(config.workers.to_string())
            .arg("-c")
            .arg(&yaml)
            .arg("--admin-address-path")
            .arg(&admin_path)
            .stdout(access_log(folder));
        let mut process = Process::start("envoy", &mut command, log_path(folder));
        let admin = wait_until("Envoy's admin address", async || {
            process.assert_running();
            let text = std::fs::read_to_string(&admin_path).map_err(|error| error.to_string())?;
            text.trim().parse::<SocketAddr>().map_err(|error| format!("{text:?}: {error}"))
        })
        .await;
        let admin = match &config.place {
            None => admin,
            Some(place) => place.namespace.inward(admin).await,
        };
        let egress = wait_until("Envoy to be live", async || {
            process.assert_running();
            let ready = get(&http, admin, "/ready").await?;
            if ready.trim() != "LIVE" {
                return Err(ready);
            }
            listener_address(&get(&http, admin, "/listeners?format=json").await?)
        })
        .await;
        Self { process, http, admin, access_log: access_log_path(folder), egress }
    }

    /// What Envoy's admin interface answers to `path`, as JSON.
    ///
    /// # Panics
    /// When it doesn't answer with JSON.
    pub async fn admin_json(&self, path: &str) -> Value {
        let text = get(&self.http, self.admin, path).await;
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"))
    }

    /// Waits for a line of the access log that `is_it`.
    ///
    /// # Panics
    /// When none comes, or a line isn't JSON.
    pub async fn access_log_line(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_until("a line of the access log", async || {
            let text = std::fs::read_to_string(&self.access_log).map_err(|error| error.to_string())?;
            // The last line may still be on its way.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines = whole.lines().map(|line| {
                let parsed: Result<Value, _> = serde_json::from_str(line);
                parsed.unwrap_or_else(|error| panic!("{line:?}: {error}"))
            });
            lines.into_iter().find(|line| is_it(line)).ok_or(text.clone())
        })
        .await
    }

    /// Envoy's counters and gauges whose name contains `filter`.
    ///
    /// # Panics
    /// When the admin interface doesn't answer.
    pub async fn stats(&self, filter: &str) -> BTreeMap<String, u64> {
        let text = get(&self.http, self.admin, "/stats").await;
        let text = text.unwrap_or_else(|error| panic!("/stats: {error}"));
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        let numbers = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        numbers.filter(|(name, _)| name.contains(filter)).collect()
    }

    /// Fails if the filter ever trapped or lost a settlement, or Envoy is gone.
    ///
    /// # Panics
    /// See above.
    pub async fn assert_sound(&mut self) {
        self.process.assert_running();
        let stats = self.stats("wasm").await;
        for name in [
            "wasm.purser.vm_reload",
            "wasm.purser.vm_reload_backoff",
            "wasm.purser.vm_reload_failure",
            "wasm.purser.vm_reload_success",
            "wasmcustom.purser_outbox_dropped",
            "wasmcustom.purser_settlements;outcome=rejected;",
        ] {
            assert_eq!(stats.get(name), Some(&0), "{name} of {stats:?}\n{}", self.tail());
        }
        let log = self.process.log();
        for sign in ["panicked at", "[critical]", "Proxy-Wasm VM failed", "Function: proxy_"] {
            assert!(!log.contains(sign), "{sign:?} in Envoy's log:\n{}", self.tail());
        }
    }

    /// The process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the access log has `count` lines, and returns them.
    pub async fn access_log(&self, count: usize) -> Vec<Value> {
        wait_until("lines of the access log", async || {
            let text = std::fs::read_to_string(&self.access_log).map_err(|error| error.to_string())?;
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            match lines {
                Ok(lines) if lines.len() == count => Ok(lines),
                _ => Err(text),
            }
        })
        .await
    }

    /// What Prometheus reads of the counters and gauges whose name begins with `filter`.
    ///
    /// # Panics
    /// When the admin interface doesn't answer.
    pub async fn prometheus(&self, filter: &str) -> Vec<String> {
        let text = get(&self.http, self.admin, "/stats/prometheus").await;
        let text = text.unwrap_or_else(|error| panic!("/stats/prometheus: {error}"));
        let is_wanted = |line: &&str| line.starts_with(filter) && !line.starts_with('#');
        text.lines().filter(is_wanted).map(str::to_owned).collect()
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The tail of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("envoy.log")
}

fn access_log_path(folder: &Path) -> PathBuf {
    folder.join("envoy-access.log")
}

fn access_log(folder: &Path) -> Stdio {
    let path = access_log_path(folder);
    let file = std::fs::File::create(&path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

async fn get(http: &Client, admin: SocketAddr, path: &str) -> Result<String, String> {
    let response = http.get(format!("http://{admin}{path}")).send().await;
    let response = response.map_err(|error| error.to_string())?;
    response.text().await.map_err(|error| error.to_string())
}

/// The address of the one listener.
fn listener_address(listeners: &str) -> Result<SocketAddr, String> {
    let tree: Value = serde_json::from_str(listeners).map_err(|error| error.to_string())?;
    let address = &tree["listener_statuses"][0]["local_address"]["socket_address"];
    let found = format!("{}:{}", address["address"].as_str().unwrap_or_default(), address["port_value"]);
    found.parse().map_err(|_| format!("no listener in {listeners}"))
}
