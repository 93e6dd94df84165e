//! Envoys with the shipped configuration and one filter each, or none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reqwest::Client;
use system_tests::harness::envoy::{EgressConfig, Envoy, Times};
use system_tests::harness::{environment, wait_until};

use crate::machine;
use crate::servers::Servers;

/// Which filter stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// None.
    None,
    /// The one that buffers and asks, and no more.
    Buffer,
    /// Purser's.
    Purser,
    /// Another build of Purser's, from `OTHER_WASM`.
    Other,
}

impl Filter {
    /// The name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Buffer => "buffers and asks",
            Self::Purser => "Purser",
            Self::Other => "other build",
        }
    }

    /// Whether it settles calls.
    pub const fn settles(self) -> bool {
        matches!(self, Self::Purser | Self::Other)
    }

    /// Its module.
    pub fn wasm(self) -> Option<PathBuf> {
        let purser = PathBuf::from(environment("PURSER_WASM"));
        match self {
            Self::None => None,
            Self::Buffer => Some(purser.with_file_name("bench_floor.wasm")),
            Self::Purser => Some(purser),
            Self::Other => Some(PathBuf::from(environment("OTHER_WASM"))),
        }
    }
}

fn config(filter: Filter, backend: SocketAddr, upstream: SocketAddr, workers: u8) -> EgressConfig {
    let patient = (r#""hold_timeout_ms": 250"#, r#""hold_timeout_ms": 60000"#);
    let mut config = EgressConfig {
        template: "egress",
        values: Vec::new(),
        place: None,
        backend,
        upstream,
        unidentified: r#""deny""#.to_owned(),
        failure_mode: "closed".to_owned(),
        workers,
        // A loaded machine must not turn a slow verdict into another path.
        edits: vec![(patient.0.to_owned(), patient.1.to_owned(), Times::Once)],
    };
    match filter {
        Filter::Purser => {}
        Filter::Buffer | Filter::Other => {
            let path = |filter: Filter| format!("filename: {:?}", filter.wasm().expect("a module"));
            config.edits.push((path(Filter::Purser), path(filter), Times::Once));
        }
        Filter::None => {
            config.edits.clear();
            let text = config.render();
            let start = text.find("          - name: purser\n").expect("the filter's place");
            let end = text.find("          - name: envoy.filters.http.router\n").expect("the router's place");
            config.edits.push((text[start..end].to_owned(), String::new(), Times::Once));
        }
    }
    config
}

/// Starts one.
pub async fn start(filter: Filter, servers: &Servers, workers: u8, folder: &Path) -> Envoy {
    std::fs::create_dir_all(folder).expect("a folder to write to");
    let config = config(filter, servers.backend, servers.upstream, workers);
    let envoy = Envoy::start(&config, folder, Client::new()).await;
    if filter != Filter::None {
        // One VM for each worker, and the main thread's.
        let expected = u64::from(workers) + 1;
        wait_until("a VM for each worker", async || {
            let stats = envoy.stats("wasm.envoy.wasm.runtime.v8.active").await;
            let active = stats.values().copied().max().unwrap_or_default();
            if active >= expected { Ok(()) } else { Err(format!("{active} of {expected}")) }
        })
        .await;
    }
    envoy
}

/// What an idle one takes, KiB resident, once that has stopped changing.
pub async fn idle_kib(filter: Filter, servers: &Servers, workers: u8, folder: &Path) -> u64 {
    /// So many looks in a row that find the same.
    const STILL: u32 = 30;
    let envoy = start(filter, servers, workers, folder).await;
    let (mut last, mut same) = (0, 0);
    wait_until("memory to stand still", async || {
        let now = machine::resident_kib(envoy.pid());
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same >= STILL { Ok(now) } else { Err(format!("{now} KiB")) }
    })
    .await
}
