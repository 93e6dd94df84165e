//! A child process with its output in files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::{PATIENCE, within};

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 40;

/// A running child, killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with standard error appended to `log`. Standard output stays as the command
    /// says.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {command:?}: {error}"));
        Self { name, child, log }
    }

    /// The child, to read its output.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its id.
    ///
    /// # Panics
    /// When it has ended and was waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended:\n{}", self.name, self.tail()))
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// Fails with the tail of the log if the process has ended.
    ///
    /// # Panics
    /// See above.
    pub fn assert_running(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} ended with {status}:\n{}", self.name, self.tail());
        }
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // It may end between the question and the signal; its status tells.
            let _gone = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it doesn't end within [`PATIENCE`].
    pub async fn wait(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => panic!("{}: {error}", self.name),
            Err(_) => panic!("{} did not end within {PATIENCE:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _status = within("a killed process to go", self.child.wait()).await;
    }

    /// The last lines of its log, with its name.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        format!("--- {} ({} lines of log)\n{}\n", self.name, lines.len(), tail.join("\n"))
    }
}

fn read_lossy(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
