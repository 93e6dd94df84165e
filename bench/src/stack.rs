//! The processes of one case, fresh for each round, on free ports of loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::case::Case;
use crate::database::{ORG, Server, TEAM, USER};
use crate::egress::{self, Addresses};
use crate::machine;
use crate::process::{read_text, spawn, spawn_listening, wait_for, write_text};
use crate::settings::Paths;

/// What the filter authenticates with.
const TOKEN: &str = "data-plane-token-of-a-benchmark";
/// What the budgets are made with.
const ADMIN_TOKEN: &str = "admin-token-of-a-benchmark";
/// Envoy's workers, as the stack of `make up` has them.
const WORKERS: &str = "2";
/// So much that no run comes to the end of it.
const LIMIT_USD: &str = "1000000.00";

/// CPU time used, nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuNs {
    /// Envoy.
    pub envoy: u64,
    /// The backend, or what stands in for it.
    pub backend: u64,
    /// All of PostgreSQL.
    pub postgres: u64,
}

impl CpuNs {
    /// What was used since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            envoy: self.envoy.saturating_sub(before.envoy),
            backend: self.backend.saturating_sub(before.backend),
            postgres: self.postgres.saturating_sub(before.postgres),
        }
    }
}

/// Memory, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryKib {
    /// The most that Envoy had resident.
    pub envoy: u64,
    /// The most that the backend had.
    pub backend: u64,
    /// What PostgreSQL has, what its processes share counted once.
    pub postgres: u64,
}

/// What runs for a case.
#[derive(Debug)]
pub struct Stack {
    case: Case,
    envoy: Child,
    backend: Option<(Child, SocketAddr)>,
    _provider: Child,
    postmaster: Option<u32>,
    admin: SocketAddr,
    http: Client,
    /// Where calls go.
    pub egress: SocketAddr,
    /// Where the provider itself is.
    pub provider: SocketAddr,
}

impl Stack {
    /// Starts the processes of a case and waits until calls can be made.
    ///
    /// # Errors
    /// When one of them doesn't come up: with its log.
    pub async fn start(case: Case, paths: &Paths, server: &Server) -> Result<Self, String> {
        let logs = paths.output.join("log");
        std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
        let (provider_child, provider) =
            spawn_listening(program("bench-answerer", paths).arg("provider"), &logs.join("provider.log"))
                .await?;
        let backend = start_backend(case, paths, &logs).await?;
        // Without a backend nobody calls its address.
        let at = Addresses { upstream: provider, backend: backend.as_ref().map_or(provider, |(_, at)| *at) };
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build();
        let http = http.map_err(|error| error.to_string())?;
        if case == Case::Purser {
            make_budgets(&http, at.backend).await?;
        }
        let config = egress::render(&read_text(&paths.egress)?, case, &at, paths, TOKEN)?;
        let (envoy, admin, egress) = start_envoy(&http, paths, &config, &logs.join("envoy.log")).await?;
        let postmaster = server.postmaster;
        Ok(Self {
            case,
            envoy,
            backend,
            _provider: provider_child,
            postmaster,
            admin,
            http,
            egress,
            provider,
        })
    }

    /// CPU time so far.
    #[must_use]
    pub fn cpu(&self) -> CpuNs {
        CpuNs {
            envoy: self.envoy.id().map_or(0, machine::cpu_ns),
            backend: self.backend_pid().map_or(0, machine::cpu_ns),
            postgres: self.postmaster().map_or(0, machine::tree_cpu_ns),
        }
    }

    /// Memory so far.
    #[must_use]
    pub fn memory(&self) -> MemoryKib {
        MemoryKib {
            envoy: self.envoy.id().map_or(0, machine::peak_resident_kib),
            backend: self.backend_pid().map_or(0, machine::peak_resident_kib),
            postgres: self.postmaster().map_or(0, machine::tree_memory_kib),
        }
    }

    fn backend_pid(&self) -> Option<u32> {
        self.backend.as_ref().and_then(|(child, _)| child.id())
    }

    /// Where the case has a part in what it does.
    fn postmaster(&self) -> Option<u32> {
        self.postmaster.filter(|_| self.case.settles())
    }

    /// Waits until the filter has no settlement left to deliver.
    ///
    /// # Errors
    /// When that doesn't come about.
    pub async fn drained(&self) -> Result<(), String> {
        if !self.case.settles() {
            return Ok(());
        }
        wait_for("the settlements to arrive", async || match self.stat("purser_outbox_items").await? {
            0 => Ok(()),
            left => Err(format!("{left} wait")),
        })
        .await
    }

    /// The sum of Envoy's statistics whose name ends so.
    ///
    /// # Errors
    /// When Envoy doesn't answer.
    pub async fn stat(&self, name: &str) -> Result<u64, String> {
        let text = get(&self.http, &format!("http://{}/stats?filter={name}", self.admin)).await?;
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let values =
            lines.filter(|(found, _)| found.ends_with(name)).filter_map(|(_, value)| value.parse().ok());
        Ok(values.fold(0, u64::saturating_add))
    }

    /// The budgets in play, a line each; none where no backend keeps any.
    ///
    /// # Errors
    /// When the backend doesn't list them.
    pub async fn budgets(&self) -> Result<Vec<String>, String> {
        let Some((_, addr)) = self.backend.as_ref().filter(|_| self.case == Case::Purser) else {
            return Ok(Vec::new());
        };
        let request = self.http.get(format!("http://{addr}/v1/budgets?org={ORG}")).bearer_auth(ADMIN_TOKEN);
        let response = request.send().await.map_err(|error| error.to_string())?;
        let listed: Value = response.json().await.map_err(|error| error.to_string())?;
        let budgets = listed["budgets"].as_array().ok_or_else(|| format!("no budgets in {listed}"))?;
        let word = |budget: &Value, field: &str| budget[field].as_str().unwrap_or("-").to_owned();
        let line = |budget: &Value| {
            let place: Vec<String> = ["org", "team", "user"].map(|tier| word(budget, tier)).into();
            let place = place.join("/");
            format!(
                "{place} {} {} USD {}",
                word(budget, "window"),
                word(budget, "limit_usd"),
                word(budget, "mode")
            )
        };
        Ok(budgets.iter().map(line).collect())
    }
}

fn program(name: &str, paths: &Paths) -> Command {
    let mut command = Command::new(paths.programs.join(name));
    // Nothing that a shell happens to have set may change what is measured.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PURSER_") {
            command.env_remove(name);
        }
    }
    command
}

async fn start_backend(
    case: Case,
    paths: &Paths,
    logs: &Path,
) -> Result<Option<(Child, SocketAddr)>, String> {
    let (mut command, argument) = match case {
        Case::Alone | Case::Noop => return Ok(None),
        Case::Floor => (program("bench-answerer", paths), Some("constant")),
        Case::Purser => (program("budget-backend", paths), Some("serve")),
        Case::Blocking => (program("bench-blocking", paths), None),
    };
    command.args(argument);
    command.env("DATABASE_URL", &paths.database_url);
    command.env("PURSER_TOKEN", TOKEN).env("PURSER_ADMIN_TOKEN", ADMIN_TOKEN);
    command.env("PURSER_LISTEN_ADDR", "127.0.0.1:0");
    spawn_listening(&mut command, &logs.join("backend.log")).await.map(Some)
}

/// As an operator would: a budget at each tier. Those of an earlier round are there already.
async fn make_budgets(http: &Client, backend: SocketAddr) -> Result<(), String> {
    for budget in [
        json!({"org": ORG, "window": "month", "limit_usd": LIMIT_USD}),
        json!({"org": ORG, "team": TEAM, "window": "week", "limit_usd": LIMIT_USD}),
        json!({"org": ORG, "team": TEAM, "user": USER, "window": "day", "limit_usd": LIMIT_USD}),
    ] {
        let request = http.post(format!("http://{backend}/v1/budgets")).bearer_auth(ADMIN_TOKEN);
        let response = request.json(&budget).send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        if status != StatusCode::CONFLICT && !status.is_success() {
            return Err(format!("making {budget}: {status} {}", response.text().await.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Starts Envoy; gives its admin address and that of its listener.
async fn start_envoy(
    http: &Client,
    paths: &Paths,
    config: &str,
    log: &Path,
) -> Result<(Child, SocketAddr, SocketAddr), String> {
    let (config_path, admin_path) = (paths.output.join("envoy.yaml"), paths.output.join("envoy-admin"));
    write_text(&config_path, config)?;
    write_text(&admin_path, "")?;
    let mut command = Command::new(&paths.envoy);
    command.args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", WORKERS, "-c"]);
    command.arg(&config_path).arg("--admin-address-path").arg(&admin_path);
    // The access log is written as shipped, and goes nowhere.
    command.stdout(Stdio::null());
    let mut envoy = spawn(&mut command, log)?;
    let found = wait_for("Envoy", async || {
        if let Ok(Some(status)) = envoy.try_wait() {
            return Ok(Err(format!("it ended with {status}")));
        }
        let text = read_text(&admin_path)?;
        let admin: SocketAddr = text.trim().parse().map_err(|error| format!("{text:?}: {error}"))?;
        get(http, &format!("http://{admin}/ready")).await?;
        let listeners = get(http, &format!("http://{admin}/listeners")).await?;
        let egress = listeners.lines().find_map(|line| line.split_once("::")?.1.trim().parse().ok());
        Ok(Ok((admin, egress.ok_or(listeners)?)))
    })
    .await
    .and_then(|found| found);
    match found {
        Ok((admin, egress)) => Ok((envoy, admin, egress)),
        Err(problem) => Err(format!("Envoy: {problem}\n{}", read_text(log).unwrap_or_default())),
    }
}

async fn get(http: &Client, url: &str) -> Result<String, String> {
    let response = http.get(url).send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    let text = response.text().await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
}
