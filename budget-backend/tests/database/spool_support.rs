//! The backend's binary behind a gate to its database that a test shuts.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::api::{ADMIN, TOKEN};

/// Longest wait for what should come soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Everything goes through.
    Open,
    /// Connections are cut, and new ones as soon as they are made: the server is gone.
    Shut,
    /// Nothing moves and nothing is cut: the server is frozen.
    Frozen,
}

/// A way to the database that can be shut. Ends with its test's runtime.
pub struct Gate {
    addr: SocketAddr,
    stand: watch::Sender<Stand>,
}

impl Gate {
    pub async fn open(pool: &PgPool) -> Self {
        let server = pool.connect_options();
        let upstream = (server.get_host().to_owned(), server.get_port());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let gate = Self { addr: listener.local_addr().unwrap(), stand: watch::Sender::new(Stand::Open) };
        let stand = gate.stand.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *stand.borrow() != Stand::Shut {
                    let server =
                        TcpStream::connect(upstream.clone()).await.expect("the server behind the gate");
                    tokio::spawn(carry(client, server, stand.clone()));
                }
            }
        });
        gate
    }

    pub fn set(&self, stand: Stand) {
        self.stand.send_replace(stand);
    }

    pub fn url(&self, pool: &PgPool) -> String {
        let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names the test server");
        let (credentials, _) = server.rsplit_once('@').expect("DATABASE_URL has a user");
        format!("{credentials}@{}/{}", self.addr, pool.connect_options().get_database().unwrap())
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, mut stand: watch::Receiver<Stand>) {
    loop {
        let now = *stand.borrow_and_update();
        match now {
            Stand::Shut => return,
            Stand::Frozen => stand.changed().await.unwrap_or(()),
            Stand::Open => tokio::select! {
                _ended = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                _changed = stand.changed() => {}
            },
        }
    }
}

/// The backend's process.
pub struct Process {
    child: Child,
    pub base: String,
    pub client: Client,
    log: Arc<Mutex<String>>,
}

fn command(database_url: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PURSER_") {
            command.env_remove(name);
        }
    }
    command
        .arg("serve")
        .env("DATABASE_URL", database_url)
        .env("PURSER_TOKEN", TOKEN)
        .env("PURSER_ADMIN_TOKEN", ADMIN)
        .env("PURSER_LISTEN_ADDR", "127.0.0.1:0")
        .env("PURSER_DB_POOL_MIN", "1")
        .env("PURSER_DB_POOL_MAX", "8")
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a start that is meant to fail; gives how it ended and its log.
pub async fn fails_to_start(database_url: &str, settings: &[(&str, &str)]) -> (ExitStatus, String) {
    let mut command = command(database_url, settings);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.stdout, b"", "it never was ready");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

impl Process {
    pub async fn start(database_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = command(database_url, settings);
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let log = Arc::new(Mutex::new(String::new()));
            let (mut stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            });
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let addr = line.trim_end().strip_prefix("listening on ").map(str::to_owned);
            let addr = addr.unwrap_or_else(|| panic!("it doesn't listen: {}", log.lock().unwrap()));
            Self { child, base: format!("http://{addr}"), client: Client::new(), log }
        })
        .await
        .unwrap()
    }

    pub fn addr(&self) -> SocketAddr {
        let (_, addr) = self.base.split_once("://").unwrap();
        addr.parse().unwrap()
    }

    /// Memory that it has in use, bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop; gives how it ended, how long it took, and its log.
    pub async fn stop(mut self) -> (ExitStatus, Duration, String) {
        let begun = Instant::now();
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, begun.elapsed(), self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it still runs after {PATIENCE:?}: {}", self.log());
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").unwrap();
        assert_eq!(response.headers()["x-purser-backend"], "1");
        (response.status(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    pub async fn settle(&self, items: Vec<Value>) -> (StatusCode, Value) {
        self.post("/v1/settlements", &json!({"version": 1, "items": items})).await
    }

    pub async fn page(&self, path: &str) -> (StatusCode, Value) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        let status = response.status();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }

    /// Waits until `/readyz` says this.
    pub async fn readiness(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (_, seen) = self.page("/readyz").await;
            if wanted(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "waited for {what}; last: {seen}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn is_away(&self) {
        self.readiness("the database to be away", |seen| seen["database"] == "away").await;
    }

    pub async fn is_drained(&self) {
        let drained = |seen: &Value| seen["status"] == "ready" && seen["spool"]["batches"] == 0;
        self.readiness("the spool to be empty", drained).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone where the test ended it itself.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The outcomes of a batch.
pub fn outcomes(answer: &Value) -> Vec<&str> {
    answer["results"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect()
}
