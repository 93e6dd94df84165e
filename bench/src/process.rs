//! Starting programs, and waiting until they say that they are ready.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Longest wait for anything that should come about soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Starts a program with its standard error in a file of its own; it is killed when dropped.
///
/// # Errors
/// When it can't be started.
pub fn spawn(command: &mut Command, log: &Path) -> Result<Child, String> {
    let file = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
    let started = command.stdin(Stdio::null()).stderr(file).kill_on_drop(true).spawn();
    started.map_err(|error| format!("cannot start {:?}: {error}", command.as_std().get_program()))
}

/// Starts a program of ours and waits for the line in which it says where it listens.
///
/// # Errors
/// When it says something else or nothing: with its log.
pub async fn spawn_listening(command: &mut Command, log: &Path) -> Result<(Child, SocketAddr), String> {
    let mut child = spawn(command.stdout(Stdio::piped()), log)?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
    let addr = line.trim().strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
    match (read, addr) {
        (Ok(Ok(_)), Some(addr)) => Ok((child, addr)),
        _ => Err(format!(
            "{:?} did not come up; it said {line:?}\n{}",
            command.as_std().get_program(),
            read_text(log).unwrap_or_default()
        )),
    }
}

/// Looks until `probe` succeeds, and returns what it found.
///
/// # Errors
/// When it doesn't succeed in time: with `what`, and what was last seen instead.
pub async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(seen) if started.elapsed() > PATIENCE => {
                return Err(format!("waited {} s for {what}; last seen: {seen}", PATIENCE.as_secs()));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A file's text.
///
/// # Errors
/// When it can't be read: with its path.
pub fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file.
///
/// # Errors
/// When it can't be written: with its path.
pub fn write_text(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
