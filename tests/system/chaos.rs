//! The storm of `make chaos`, in short: each kind of damage about once, and the same questions at the end.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

/// Only a run that hangs takes as long.
const LIMIT: Duration = Duration::from_secs(600);

const SEED: &str = "1";

#[tokio::test(flavor = "multi_thread")]
async fn a_short_storm_loses_and_doubles_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.env("CHAOS_S", "18").env("CHAOS_RATE", "40").env("PURSER_SEED", SEED).env_remove("CHAOS_LOGS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = command.spawn().unwrap();
    let pid = i32::try_from(run.id().unwrap()).unwrap();
    let finished = tokio::spawn(run.wait_with_output());
    let stopped = tokio::spawn(async move {
        tokio::time::sleep(LIMIT).await;
        // It takes what it has started along, and then `finished` is.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    });
    let output = finished.await.unwrap().unwrap();
    stopped.abort();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let result = said.lines().last().unwrap_or_default();
    assert!(
        result.starts_with("RESULT requests=720 ") && result.contains(" lost=0 duplicated=0 "),
        "{result}"
    );
    // Not by doing nothing: calls were held, calls failed open, and both were settled exactly.
    for story in ["held settled exact", "fail_open settled exact"] {
        assert!(said.contains(&format!("\"{story}\": ")), "no call {story}");
    }
    for damage in [
        "kill -9 replica 0",
        "kill -9 replica 1",
        "freeze replica",
        "kill -9 PostgreSQL",
        "freeze PostgreSQL",
        "reload Envoy",
        "kill -9 Envoy",
        "silence EnvoyReplica",
        "silence ReplicaDatabase",
        "cut ClientEnvoy",
        "cut EnvoyReplica",
        "cut ReplicaDatabase",
        "cut EnvoyProvider",
        "delay ClientEnvoy",
        "delay EnvoyReplica",
        "delay ReplicaDatabase",
        "delay EnvoyProvider",
    ] {
        assert!(said.contains(&format!("  {damage}")), "no {damage}");
    }
}
