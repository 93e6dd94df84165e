//! The budget backend's binary.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use purser_protocol::{SettlementBatch, SettlementResponse};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::process::Command;

use super::process::Process;
use super::within;

/// The data plane's token in every test.
pub const TOKEN: &str = "data-plane-token-of-a-test";
/// The token of the budgets API in every test.
pub const ADMIN_TOKEN: &str = "admin-token-of-a-test";

/// A loopback port that is reserved and refuses connections until somebody listens on it.
#[derive(Debug)]
pub struct ReservedPort {
    _socket: TcpSocket,
    /// Its address.
    pub addr: SocketAddr,
}

impl ReservedPort {
    /// Takes a free one. Address reuse lets a listener take it over while it stays reserved.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn take() -> Self {
        let reserve = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let addr = socket.local_addr()?;
            std::io::Result::Ok(Self { _socket: socket, addr })
        };
        reserve().unwrap_or_else(|error| panic!("cannot reserve a port: {error}"))
    }
}

/// The backend: its address stays the same from start to start.
#[derive(Debug)]
pub struct Backend {
    port: ReservedPort,
    process: Option<Process>,
    database_url: String,
    log: PathBuf,
    http: Client,
    settings: Vec<(&'static str, String)>,
}

impl Backend {
    /// A backend that isn't started yet; `settings` are environment variables.
    #[must_use]
    pub fn new(
        database_url: &str,
        folder: &Path,
        http: Client,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            port: ReservedPort::take(),
            process: None,
            database_url: database_url.to_owned(),
            log: folder.join("backend.log"),
            http,
            settings,
        }
    }

    /// Where it listens when it runs.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Starts it and waits until it says that it listens.
    ///
    /// # Panics
    /// When it doesn't.
    pub async fn start(&mut self) {
        let mut command = command();
        command
            .arg("serve")
            .env("DATABASE_URL", &self.database_url)
            .env("PURSER_TOKEN", TOKEN)
            .env("PURSER_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("PURSER_LISTEN_ADDR", self.addr().to_string())
            .env("PURSER_DB_POOL_MIN", "2")
            .env("PURSER_DB_POOL_MAX", "6")
            .envs(self.settings.iter().map(|(name, value)| (*name, value.as_str())))
            .stdout(Stdio::piped());
        let mut process = Process::start("budget-backend", &mut command, self.log.clone());
        let stdout = process.child().stdout.take().unwrap_or_else(|| panic!("no standard output"));
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let read = within("the backend's first line", reader.read_line(&mut line)).await;
        let expected = format!("listening on {}", self.addr());
        assert!(
            read.is_ok() && line.trim_end() == expected,
            "expected {expected:?}, got {line:?}\n{}",
            process.tail()
        );
        self.process = Some(process);
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Asks it to stop, and returns whether it ended with status 0.
    pub async fn stop(&mut self) -> bool {
        let Some(mut process) = self.process.take() else {
            return true;
        };
        process.signal(Signal::SIGTERM);
        process.wait().await.success()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The tail of its log, if it runs.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }

    /// Fails if it was started and has ended by itself.
    pub fn assert_running(&mut self) {
        if let Some(process) = &mut self.process {
            process.assert_running();
        }
    }

    /// Creates a budget and returns it.
    ///
    /// # Panics
    /// When the answer isn't 201.
    pub async fn create_budget(&self, budget: Value) -> Value {
        let response = self.post("/v1/budgets", ADMIN_TOKEN, &budget).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        assert_eq!(status, StatusCode::CREATED, "{budget}: {answer}");
        answer
    }

    /// Changes the limit of a budget.
    ///
    /// # Panics
    /// When the answer isn't 200.
    pub async fn set_limit(&self, budget: &Value, limit_usd: &str) -> Value {
        let url = format!("http://{}/v1/budgets/{}", self.addr(), budget["budget_id"]);
        let request = self.http.patch(url).bearer_auth(ADMIN_TOKEN).header("if-match", "*");
        let response = request.json(&json!({"limit_usd": limit_usd})).send().await;
        let response = response.unwrap_or_else(|error| panic!("PATCH of {budget}: {error}"));
        let status = response.status();
        let answer: Value = response.json().await.unwrap_or_default();
        assert_eq!(status, StatusCode::OK, "{budget}: {answer}");
        answer
    }

    /// Creates an org's budget for a month with this limit.
    pub async fn org_budget(&self, org: &str, limit_usd: &str) -> Value {
        self.create_budget(json!({"org": org, "window": "month", "limit_usd": limit_usd})).await
    }

    /// The budgets of an org as the API lists them.
    ///
    /// # Panics
    /// When there is no such answer.
    pub async fn budgets(&self, org: &str) -> Vec<Value> {
        let url = format!("http://{}/v1/budgets?org={org}", self.addr());
        let response = self.http.get(url).bearer_auth(ADMIN_TOKEN).send().await;
        let response = response.unwrap_or_else(|error| panic!("GET /v1/budgets: {error}"));
        assert_eq!(response.status(), StatusCode::OK);
        let answer: Value = response.json().await.unwrap_or_default();
        answer["budgets"].as_array().cloned().unwrap_or_else(|| panic!("no budgets in {answer}"))
    }

    /// Posts settlements as a filter would.
    ///
    /// # Panics
    /// When the answer isn't of the protocol.
    pub async fn settle(&self, batch: &SettlementBatch) -> SettlementResponse {
        let batch = serde_json::to_value(batch).unwrap_or_default();
        let response = self.post(purser_protocol::SETTLEMENTS_PATH, TOKEN, &batch).await;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("settlements: {status} {body}: {error}"))
    }

    /// Posts JSON with a token.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Response {
        let request = self.http.post(format!("http://{}{path}", self.addr())).bearer_auth(token).json(body);
        request.send().await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }
}

/// The backend's binary with an environment that has nothing of Purser's in it.
///
/// # Panics
/// When it isn't built.
#[must_use]
pub fn command() -> Command {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("no path of the test binary: {error}"));
    let folder = test.ancestors().nth(2).unwrap_or_else(|| panic!("{}: no folder", test.display()));
    let binary = folder.join("budget-backend");
    assert!(binary.is_file(), "{} is missing: cargo build -p budget-backend", binary.display());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PURSER_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command
}
