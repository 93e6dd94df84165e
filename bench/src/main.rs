//! Starts one of the measurements; the scripts say where everything is.

use std::process::ExitCode;

use bench::settings::Paths;
use bench::{burst, sidebyside, stream};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
enum Measurement {
    /// Every case at fixed rates and at saturation.
    SideBySide,
    /// Calls to a model that thinks, with bursts.
    Burst,
    /// Many streams at a time.
    Stream,
}

fn main() -> ExitCode {
    let measurement = Measurement::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            // Dropped on a signal, it takes its processes with it.
            tokio::select! {
                ended = run(&measurement) => ended,
                stopped = stopped() => Err(stopped),
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(measurement: &Measurement) -> Result<(), String> {
    let paths = Paths::from_env()?;
    match measurement {
        Measurement::SideBySide => sidebyside::run(&paths).await,
        Measurement::Burst => burst::run(&paths).await,
        Measurement::Stream => stream::run(&paths).await,
    }
}

/// Waits until the run is asked to stop.
async fn stopped() -> String {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return "cannot listen for signals".to_owned();
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    "stopped by a signal".to_owned()
}
