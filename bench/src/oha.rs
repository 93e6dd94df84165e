//! Load from `oha`: an open loop at a fixed rate whose latencies count from when each call was due, or
//! as much as a number of connections gives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::call;
use crate::process::write_text;
use crate::settings::Paths;
use crate::stats::Quantiles;

/// Connections that calls are made on.
pub const CONNECTIONS: u64 = 64;

/// Longest that a measurement may run beyond its time before it counts as failed.
const OVERTIME: Duration = Duration::from_secs(120);

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// So many calls a second, whatever becomes of them.
    PerSecond(u64),
    /// The next call on a connection as soon as the last one is answered.
    Saturation,
}

impl Load {
    /// As it stands in a table.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::PerSecond(rate) => format!("{rate}/s"),
            Self::Saturation => format!("saturation, {CONNECTIONS} connections"),
        }
    }
}

/// What one measurement came to.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// From when a call was due to the end of its answer.
    pub latency: Quantiles,
    /// Calls answered a second.
    pub per_s: u64,
    /// Calls answered, by status.
    pub answers: BTreeMap<String, u64>,
    /// Calls that got no answer, by reason.
    pub errors: BTreeMap<String, u64>,
}

impl Measured {
    /// Calls answered with 200.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.answers.get("200").copied().unwrap_or_default()
    }

    /// Calls that ended otherwise.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let all =
            self.answers.values().chain(self.errors.values()).fold(0_u64, |sum, n| sum.saturating_add(*n));
        all.saturating_sub(self.served())
    }
}

/// The program, ready to be run.
#[derive(Debug, Clone)]
pub struct Oha {
    program: PathBuf,
    body: PathBuf,
}

impl Oha {
    /// `program` is where it is; the body of the calls goes into a file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn new(program: PathBuf, paths: &Paths) -> Result<Self, String> {
        let body = paths.output.join("body.json");
        write_text(&body, call::BODY)?;
        Ok(Self { program, body })
    }

    /// One measurement. No call is cut off at the end of its time, so that each can be looked for in
    /// the books.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn run(&self, to: SocketAddr, load: Load, span_s: u64) -> Result<Measured, String> {
        let mut command = Command::new(&self.program);
        command.args(["--no-tui", "--output-format", "json", "-c"]).arg(CONNECTIONS.to_string());
        match load {
            Load::PerSecond(rate) => {
                command.arg("-n").arg(rate.saturating_mul(span_s).to_string());
                command.arg("-q").arg(rate.to_string()).arg("--latency-correction");
            }
            Load::Saturation => {
                command.arg("-z").arg(format!("{span_s}s")).arg("--wait-ongoing-requests-after-deadline");
            }
        }
        self.finish(command, to, span_s).await
    }

    /// So many calls on some connections, to warm a stack up.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn warm_up(&self, to: SocketAddr, calls: u64) -> Result<Measured, String> {
        let mut command = Command::new(&self.program);
        command.args(["--no-tui", "--output-format", "json", "-c", "16", "-n"]).arg(calls.to_string());
        self.finish(command, to, 10).await
    }

    async fn finish(&self, mut command: Command, to: SocketAddr, span_s: u64) -> Result<Measured, String> {
        command.args(["-m", "POST", "-D"]).arg(&self.body);
        for (name, value) in call::HEADERS {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        command.arg(format!("http://{to}{}", call::PATH));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let most = Duration::from_secs(span_s).saturating_add(OVERTIME);
        let ended = tokio::time::timeout(most, command.output()).await;
        let output = match ended {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("{}: {error}", self.program.display())),
            Err(_) => return Err(format!("oha did not end within {} s", most.as_secs())),
        };
        if !output.status.success() {
            return Err(format!("oha: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        parse(&output.stdout)
    }
}

fn parse(json: &[u8]) -> Result<Measured, String> {
    let tree: Value = serde_json::from_slice(json).map_err(|error| format!("oha's answer: {error}"))?;
    let counts = |field: &str| {
        let counts = tree[field].as_object().into_iter().flatten();
        counts.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default())).collect()
    };
    let at = |percentile: &str| {
        let seconds = &tree["latencyPercentiles"][percentile];
        nanos(seconds).ok_or_else(|| format!("oha's answer: {percentile} of the latencies is {seconds}"))
    };
    let measured = Measured {
        latency: Quantiles { p50_ns: at("p50")?, p95_ns: at("p95")?, p99_ns: at("p99")? },
        per_s: 0,
        answers: counts("statusCodeDistribution"),
        errors: counts("errorDistribution"),
    };
    let total = nanos(&tree["summary"]["total"]).ok_or("oha's answer: no total time")?;
    let answered = measured.answers.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let per_s = answered.saturating_mul(1_000_000_000).checked_div(total).unwrap_or_default();
    Ok(Measured { per_s, ..measured })
}

/// Seconds as whole nanoseconds.
fn nanos(seconds: &Value) -> Option<u64> {
    let span = Duration::try_from_secs_f64(seconds.as_f64()?).ok()?;
    u64::try_from(span.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_oha_says() {
        let json =
            br#"{"summary":{"total":2.0},"latencyPercentiles":{"p50":5.5332e-05,"p95":0.001,"p99":1.25},
            "statusCodeDistribution":{"200":1990,"503":8},"errorDistribution":{"connection refused":2}}"#;
        let measured = parse(json).unwrap();
        assert_eq!(measured.latency.p50_ns, 55_332);
        assert_eq!(measured.latency.p99_ns, 1_250_000_000);
        assert_eq!(measured.per_s, 999);
        assert_eq!((measured.served(), measured.failed()), (1_990, 10));
    }

    #[test]
    fn what_has_no_latencies_is_no_measurement() {
        let json = br#"{"summary":{"total":2.0},"latencyPercentiles":{"p50":null}}"#;
        assert_eq!(parse(json).unwrap_err(), "oha's answer: p50 of the latencies is null");
    }
}
