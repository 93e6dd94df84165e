//! A replica of the backend: the program as operators start it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::Value;
use system_tests::harness::backend::{ADMIN_TOKEN, ReservedPort, TOKEN};
use system_tests::harness::process::Process;
use tokio::process::Command;

use crate::settings::Settings;

/// The cap that a strict budget writes into a call without one, tokens.
const STRICT_OUTPUT_TOKENS: &str = "128";

/// A replica. Its address stays the same from start to start.
#[derive(Debug)]
pub struct Replica {
    port: ReservedPort,
    log: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Process>,
    /// How often it ended by itself.
    pub ended: usize,
}

impl Replica {
    /// One that isn't started yet. With a `spool`, it keeps settlements there while the database is away.
    pub fn new(settings: &Settings, database_url: String, log: PathBuf, spool: Option<PathBuf>) -> Self {
        let port = ReservedPort::take();
        let mut environment = vec![
            ("DATABASE_URL", database_url),
            ("PURSER_TOKEN", TOKEN.to_owned()),
            ("PURSER_ADMIN_TOKEN", ADMIN_TOKEN.to_owned()),
            ("PURSER_LISTEN_ADDR", port.addr.to_string()),
            ("PURSER_DB_POOL_MIN", "2".to_owned()),
            ("PURSER_DB_POOL_MAX", "6".to_owned()),
            ("PURSER_HOLD_TTL_S", settings.hold_ttl_s.to_string()),
            ("PURSER_SWEEP_INTERVAL_MS", "200".to_owned()),
            ("PURSER_SWEEP_GRACE_S", settings.sweep_grace_s.to_string()),
            ("PURSER_STRICT_OUTPUT_TOKENS", STRICT_OUTPUT_TOKENS.to_owned()),
        ];
        environment.extend(spool.map(|folder| ("PURSER_SPOOL_DIR", folder.display().to_string())));
        Self { port, log, environment, process: None, ended: 0 }
    }

    /// Where it listens when it runs.
    pub const fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Starts it; it listens once it has reached the database.
    pub fn start(&mut self) {
        let mut command = program();
        command.arg("serve").envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command.stdout(Stdio::null());
        self.process = Some(Process::start("budget-backend", &mut command, self.log.clone()));
    }

    /// Kills it.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Stops it where it is, or lets it go on.
    pub fn set_frozen(&self, frozen: bool) {
        if let Some(process) = &self.process {
            process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
    }

    /// Starts it again if it has ended by itself, as whoever runs it would.
    pub fn revive(&mut self) {
        let ended = self
            .process
            .as_mut()
            .is_some_and(|process| process.child().try_wait().is_ok_and(|status| status.is_some()));
        if ended {
            self.ended += 1;
            self.start();
        }
    }

    /// Its process, if it runs.
    pub fn pid(&mut self) -> Option<u32> {
        self.process.as_mut()?.child().id()
    }

    /// What it says of itself: its status and, on `/readyz`, what is in its spool.
    pub async fn readiness(&self, http: &Client) -> Result<Value, String> {
        let asked = http.get(format!("http://{}/readyz", self.addr())).send().await;
        let answer = asked.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(body) } else { Err(format!("{status} {body}")) }
    }

    /// Its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// The backend's program with an environment that has nothing of Purser's in it.
pub fn program() -> Command {
    let own = std::env::current_exe().expect("the path of this program");
    let binary = own.with_file_name("budget-backend");
    assert!(binary.is_file(), "{} is missing: cargo build -p budget-backend", binary.display());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"PURSER_") || name == "DATABASE_URL" || name == "SPOOL_DIR" {
            command.env_remove(name);
        }
    }
    command
}
