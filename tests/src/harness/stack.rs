//! The whole path for one test.

use std::net::SocketAddr;

use reqwest::{Client, Response};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::backend::Backend;
use super::client::{Answer, App, http, post_chat};
use super::database::Database;
use super::envoy::{EgressConfig, Envoy, Place, Times};
use super::scripted::{Script, ScriptedBackend};
use crate::fake_llm::FakeLlm;

/// Stacks that run at once; more wait. An Envoy compiles the filter when it starts, which costs a
/// core for a moment.
static FREE: Semaphore = Semaphore::const_new(4);

/// Edits that give the backend seconds instead of the shipped quarter of one: on a busy machine a
/// slow answer must not turn a test about money into one about time-outs.
const PATIENT: [(&str, &str); 2] = [
    (r#""hold_timeout_ms": 250"#, r#""hold_timeout_ms": 5000"#),
    ("connect_timeout: 0.25s", "connect_timeout: 5s"),
];

/// How a stack differs from the usual one.
#[derive(Debug, Clone)]
pub struct Setup {
    template: &'static str,
    values: Vec<(&'static str, String)>,
    place: Option<Place>,
    unidentified: String,
    failure_mode: String,
    workers: u8,
    upstream: Option<SocketAddr>,
    start_backend: bool,
    backend_settings: Vec<(&'static str, String)>,
    edits: Vec<(String, String, Times)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            template: "egress",
            values: Vec::new(),
            place: None,
            unidentified: r#""deny""#.to_owned(),
            failure_mode: "open".to_owned(),
            workers: 2,
            upstream: None,
            start_backend: true,
            backend_settings: Vec::new(),
            edits: PATIENT.map(|(from, to)| (from.to_owned(), to.to_owned(), Times::Any)).to_vec(),
        }
    }
}

impl Setup {
    /// With the shipped time-outs.
    #[must_use]
    pub fn as_shipped() -> Self {
        Self { edits: Vec::new(), ..Self::default() }
    }

    /// Another configuration of `envoy/`, by its name without the ending.
    #[must_use]
    pub const fn template(mut self, name: &'static str) -> Self {
        self.template = name;
        self
    }

    /// The value of a placeholder that only this configuration has; the last one given counts.
    #[must_use]
    pub fn value(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value.to_string()));
        self
    }

    /// Envoy runs in a network apart; the backend is reached from there by a bridge.
    #[must_use]
    pub fn place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The filter's `unidentified`, a JSON value.
    #[must_use]
    pub fn unidentified(mut self, json: &str) -> Self {
        json.clone_into(&mut self.unidentified);
        self
    }

    /// The filter's `failure_mode` becomes `closed`.
    #[must_use]
    pub fn fail_closed(mut self) -> Self {
        "closed".clone_into(&mut self.failure_mode);
        self
    }

    /// The filter's `failure_mode`, as text.
    #[must_use]
    pub fn failure_mode(mut self, text: &str) -> Self {
        text.clone_into(&mut self.failure_mode);
        self
    }

    /// One worker instead of two, so that all calls meet the same filter.
    #[must_use]
    pub const fn one_worker(mut self) -> Self {
        self.workers = 1;
        self
    }

    /// Holds of running calls are renewed every second.
    #[must_use]
    pub fn renew_every_second(self) -> Self {
        self.edit(r#""renew_interval_s": 240"#, r#""renew_interval_s": 1"#)
    }

    /// The filter's `provider`.
    #[must_use]
    pub fn provider(self, name: &str) -> Self {
        self.edit(r#""provider": "openai""#, &format!(r#""provider": "{name}""#))
    }

    /// Envoy speaks HTTP/2 with the provider.
    #[must_use]
    pub fn http2_upstream(self) -> Self {
        self.edit(
            "{http_protocol_options: {enable_trailers: true}}\n    load_assignment:\n      cluster_name: llm_upstream",
            "{http2_protocol_options: {}}\n    load_assignment:\n      cluster_name: llm_upstream",
        )
    }

    /// The provider is there instead of in this process.
    #[must_use]
    pub const fn upstream(mut self, upstream: SocketAddr) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// The backend's port is reserved, but nobody listens on it until the test starts it.
    #[must_use]
    pub const fn without_backend(mut self) -> Self {
        self.start_backend = false;
        self
    }

    /// An environment variable for the backend.
    #[must_use]
    pub fn backend_setting(mut self, name: &'static str, value: &str) -> Self {
        self.backend_settings.push((name, value.to_owned()));
        self
    }

    /// Asks the backend about every call, also just after an exhausted budget refused one.
    #[must_use]
    pub fn ask_always(self) -> Self {
        self.edit(r#""cache_ms": 1000"#, r#""cache_ms": 0"#)
    }

    /// Asks the backend about every call, however often it failed.
    #[must_use]
    pub fn without_breaker(self) -> Self {
        self.edit(r#""failures_in_a_row": 5"#, r#""failures_in_a_row": 0"#)
    }

    /// Replaces text in Envoy's rendered configuration, where it stands once.
    #[must_use]
    pub fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned(), Times::Once));
        self
    }

    /// The configuration of Envoy with these parts.
    #[must_use]
    pub fn egress_config(&self, backend: SocketAddr, upstream: SocketAddr) -> EgressConfig {
        EgressConfig {
            template: self.template,
            values: self.values.clone(),
            place: self.place.clone(),
            backend,
            upstream,
            unidentified: self.unidentified.clone(),
            failure_mode: self.failure_mode.clone(),
            workers: self.workers,
            edits: self.edits.clone(),
        }
    }

    /// Starts everything.
    pub async fn start(self) -> Stack {
        let permit = permit().await;
        let (folder, http) = (folder(), http());
        let (database, fake) = tokio::join!(Database::create(), fake());
        let mut backend =
            Backend::new(&database.url, folder.path(), http.clone(), self.backend_settings.clone());
        let upstream = self.upstream.unwrap_or(fake.addr);
        let seen = self.place.as_ref().map(|place| place.namespace.outward(backend.addr()));
        let config = self.egress_config(seen.unwrap_or(backend.addr()), upstream);
        let start_backend = async {
            if self.start_backend {
                backend.start().await;
            }
        };
        let envoy = Envoy::start(&config, folder.path(), http.clone());
        let (envoy, ()) = tokio::join!(envoy, start_backend);
        Stack { envoy, backend, fake, http, database, _folder: folder, _permit: permit }
    }

    /// Starts Envoy and the fake provider with a backend that does what a script says.
    pub async fn start_scripted(self, script: Script) -> ScriptedStack {
        let permit = permit().await;
        let (folder, http) = (folder(), http());
        let (backend, fake) = (ScriptedBackend::start(script).await, fake().await);
        let config = self.egress_config(backend.addr, self.upstream.unwrap_or(fake.addr));
        let envoy = Envoy::start(&config, folder.path(), http.clone()).await;
        ScriptedStack { envoy, backend, fake, http, _folder: folder, _permit: permit }
    }
}

async fn permit() -> SemaphorePermit<'static> {
    FREE.acquire().await.unwrap_or_else(|error| panic!("{error}"))
}

async fn fake() -> FakeLlm {
    let fake = FakeLlm::start().await;
    fake.unwrap_or_else(|error| panic!("cannot start the fake provider: {error}"))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap_or_else(|error| panic!("cannot make a folder: {error}"))
}

/// The real parts, running. Fields are dropped in this order: processes before the database.
#[derive(Debug)]
pub struct Stack {
    /// Envoy with the filter.
    pub envoy: Envoy,
    /// The budget backend.
    pub backend: Backend,
    /// The provider.
    pub fake: FakeLlm,
    /// A client to call with.
    pub http: Client,
    /// The database.
    pub database: Database,
    _folder: TempDir,
    _permit: SemaphorePermit<'static>,
}

impl Stack {
    /// The usual one: fails open, denies callers without identity.
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// Calls through Envoy and reads the answer to its end.
    ///
    /// # Panics
    /// When no whole answer comes.
    pub async fn chat(&self, app: &App, body: &Value) -> Answer {
        Answer::read(self.open(app, body).await).await
    }

    /// Calls through Envoy; the body is still coming.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn open(&self, app: &App, body: &Value) -> Response {
        let response = post_chat(&self.http, self.envoy.egress, app, body).await;
        response.unwrap_or_else(|error| panic!("no answer to {app:?} {body}: {error:?}"))
    }

    /// To be called at the end of each test: nothing trapped, nothing was lost, nothing died.
    pub async fn assert_healthy(mut self) {
        self.envoy.assert_sound().await;
        self.backend.assert_running();
        let log = self.backend.log();
        assert!(!log.contains("panicked at"), "the backend panicked:\n{}", self.backend.tail());
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}{}", self.envoy.tail(), self.backend.tail());
        }
    }
}

/// Envoy with the filter between an app and the fake provider, and a scripted backend.
#[derive(Debug)]
pub struct ScriptedStack {
    /// Envoy with the filter.
    pub envoy: Envoy,
    /// The backend that does what its script says.
    pub backend: ScriptedBackend,
    /// The provider.
    pub fake: FakeLlm,
    /// A client to call with.
    pub http: Client,
    _folder: TempDir,
    _permit: SemaphorePermit<'static>,
}

impl ScriptedStack {
    /// Calls through Envoy and reads the answer to its end.
    ///
    /// # Panics
    /// When no whole answer comes.
    pub async fn chat(&self, app: &App, body: &Value) -> Answer {
        Answer::read(self.open(app, body).await).await
    }

    /// Calls through Envoy; the body is still coming.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn open(&self, app: &App, body: &Value) -> Response {
        let response = post_chat(&self.http, self.envoy.egress, app, body).await;
        response.unwrap_or_else(|error| panic!("no answer to {app:?} {body}: {error:?}"))
    }

    /// To be called at the end of each test: nothing trapped, nothing was lost, nothing died.
    pub async fn assert_healthy(mut self) {
        self.envoy.assert_sound().await;
    }
}

impl Drop for ScriptedStack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.envoy.tail());
        }
    }
}
