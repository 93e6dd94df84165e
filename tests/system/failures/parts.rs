//! The real parts with links from Envoy to the backend and from there to its database, and as many replicas
//! as wanted.

use std::net::SocketAddr;

use reqwest::Client;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::backend::Backend;
use system_tests::harness::client::{Answer, App, http, post_chat};
use system_tests::harness::database::Database;
use system_tests::harness::envoy::Envoy;
use system_tests::harness::link::Link;
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;
use tempfile::TempDir;

/// The parts. Fields are dropped in this order: processes before the database.
pub struct Parts {
    pub envoy: Envoy,
    pub replicas: Vec<Backend>,
    /// Between Envoy and all replicas.
    pub to_backend: Link,
    /// Between all replicas and the database; the test's own questions don't go over it.
    pub to_database: Link,
    pub fake: FakeLlm,
    pub http: Client,
    pub database: Database,
    _folders: Vec<TempDir>,
}

impl Parts {
    /// Starts so many replicas, and Envoy as `setup` says, with all of them.
    pub async fn start(mut setup: Setup, count: usize) -> Self {
        let http = http();
        let (database, fake) = (Database::create().await, FakeLlm::start().await.unwrap());
        let (mut to_backend, mut to_database) = (Link::new(), Link::new());
        let url = linked(&mut to_database, &database.url).await;
        let mut folders = vec![tempfile::tempdir().unwrap()];
        let (mut replicas, mut fronts) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let folder = tempfile::tempdir().unwrap();
            let mut replica = Backend::new(&url, folder.path(), http.clone(), Vec::new());
            replica.start().await;
            fronts.push(to_backend.front(replica.addr()).await);
            replicas.push(replica);
            folders.push(folder);
        }
        let first = endpoint(fronts[0]);
        for other in &fronts[1..] {
            let both = format!("{first}\n        - endpoint:\n            address:\n              ");
            setup = setup.edit(&first, &(both + &endpoint(*other)));
        }
        let config = setup.egress_config(fronts[0], fake.addr);
        let envoy = Envoy::start(&config, folders[0].path(), http.clone()).await;
        Self { envoy, replicas, to_backend, to_database, fake, http, database, _folders: folders }
    }

    /// Calls through Envoy and reads the answer to its end.
    pub async fn chat(&self, app: &App, body: &Value) -> Answer {
        Answer::read(post_chat(&self.http, self.envoy.egress, app, body).await.unwrap()).await
    }

    /// Waits until the outboxes have so many settlements together.
    pub async fn wait_for_outbox(&self, items: u64) {
        let name = "wasmcustom.purser_outbox_items";
        wait_until("the outbox", async || {
            let stats = self.envoy.stats(name).await;
            if stats.get(name) == Some(&items) { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await;
    }

    /// To be called at the end of each test: nothing trapped, nothing was lost, nothing died.
    pub async fn assert_healthy(mut self) {
        self.envoy.assert_sound().await;
        for replica in &mut self.replicas {
            replica.assert_running();
            assert!(!replica.log().contains("panicked at"), "a replica panicked:\n{}", replica.tail());
        }
    }
}

/// An endpoint as the shipped configuration writes it.
fn endpoint(addr: SocketAddr) -> String {
    format!("socket_address: {{address: \"{}\", port_value: {}}}", addr.ip(), addr.port())
}

/// The URL of a database, by way of a link.
async fn linked(link: &mut Link, url: &str) -> String {
    let server: PgConnectOptions = url.parse().unwrap();
    let mut found = tokio::net::lookup_host((server.get_host(), server.get_port())).await.unwrap();
    let front = link.front(found.next().unwrap()).await;
    let (credentials, rest) = url.rsplit_once('@').expect("DATABASE_URL has a user");
    let (_, database) = rest.split_once('/').unwrap();
    format!("{credentials}@{front}/{database}")
}
