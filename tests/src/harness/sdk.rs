//! The providers' own SDKs, driven by the scripts in `tests/sdks`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{environment, repository};

/// Longest time for the calls of one run: importing an SDK takes seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Makes calls with an SDK, one after the other, and returns by name what it gave to the app.
/// `driver` is the script's name without its ending.
///
/// # Panics
/// When the SDKs aren't installed, or the script fails.
pub async fn run(driver: &str, base: SocketAddr, org: &str, calls: &[&str]) -> Value {
    let python = environment("SDK_PYTHON");
    assert!(
        Path::new(&python).exists(),
        "the SDKs are not installed at {python}: run `scripts/setup.sh --tests`"
    );
    let folder = repository().join("tests/sdks");
    let mut command = Command::new(python);
    // A proxy or a key of whoever runs the tests has no place in them.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().to_ascii_uppercase();
        let foreign =
            ["_PROXY", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_", "AWS_", "MISTRAL_", "OLLAMA_"];
        if foreign.iter().any(|part| name.contains(part)) || name.starts_with("CO_API") {
            command.env_remove(name);
        }
    }
    command
        // Nothing is written into the working tree.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .arg(folder.join(format!("{driver}.py")))
        .arg(format!("http://{base}"))
        .arg(org)
        .args(calls)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("cannot start {driver}: {error}"),
        Err(_) => panic!("{driver} did not end within {LIMIT:?}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{driver} ended with {}:\n{errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{driver}: {error}\n{errors}"))
}

/// Checks call by call that an app saw the same on both ways.
///
/// # Panics
/// When it didn't.
pub fn assert_same(direct: &Value, through: &Value, calls: &[&str]) {
    for name in calls {
        let (direct, through) = (&direct[name], &through[name]);
        assert!(direct.is_object(), "{name} was not made");
        assert_eq!(
            serde_json::to_string_pretty(through).ok(),
            serde_json::to_string_pretty(direct).ok(),
            "{name}: left through Envoy, right without it"
        );
    }
}
