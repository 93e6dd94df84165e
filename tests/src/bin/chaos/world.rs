//! Everything that runs, with a proxy between each pair, and what is done to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::json;
use sqlx::postgres::PgPool;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::backend::ADMIN_TOKEN;
use system_tests::harness::client::http;
use system_tests::harness::link::{Link, Weather};
use system_tests::harness::wait_until;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::calls::{LOOSE_ORG, PAYERS, STRICT_ORG};
use crate::envoy::{Envoy, Route};
use crate::postgres::Postgres;
use crate::replica::Replica;
use crate::schedule::{Act, Event, Pair, REPLICAS};
use crate::settings::Settings;

/// A delay on the path of calls.
#[derive(Debug, Clone, Copy)]
pub struct Delayed {
    from: Instant,
    until: Option<Instant>,
    each_way: Duration,
}

/// The parts. Fields are dropped in this order: processes before their data.
#[derive(Debug)]
pub struct World {
    /// Envoy.
    pub envoy: Mutex<Envoy>,
    /// The backend.
    pub replicas: [Mutex<Replica>; REPLICAS],
    /// The database.
    pub postgres: Mutex<Postgres>,
    /// Connections to the database, past every link.
    pub pool: PgPool,
    /// The provider, with its bill.
    pub fake: FakeLlm,
    /// A client for questions to the parts.
    pub http: Client,
    /// Where apps call, by way of a link.
    fronts: [SocketAddr; 2],
    links: Vec<(Pair, Mutex<Link>)>,
    envoy_generation: AtomicU32,
    delays: Lock<Vec<Delayed>>,
    /// When the calls began.
    pub started: Instant,
    folder: TempDir,
}

impl World {
    /// Starts everything, with the budgets.
    pub async fn start(settings: &Settings) -> Arc<Self> {
        let folder = tempfile::Builder::new().prefix("purser-chaos").tempdir().expect("a folder");
        let http = http();
        let (postgres, fake) = tokio::join!(Postgres::start(), FakeLlm::start());
        let fake = fake.expect("the fake provider");
        let mut links: Vec<(Pair, Link)> = Pair::ALL.map(|pair| (pair, Link::new())).into();
        let mut replicas = Vec::new();
        let mut replica_fronts = Vec::new();
        for number in 0..REPLICAS {
            let database = front(&mut links, Pair::ReplicaDatabase(number), postgres.addr()).await;
            // One keeps settlements on its disk while the database is away, one leaves them to Envoy.
            let spool = (number == 0).then(|| folder.path().join("spool"));
            let log = folder.path().join(format!("replica-{number}.log"));
            let mut replica = Replica::new(settings, Postgres::url(database), log, spool);
            replica.start();
            replica_fronts.push(front(&mut links, Pair::EnvoyReplica(number), replica.addr()).await);
            wait_until("a replica to be ready", async || replica.readiness(&http).await).await;
            replicas.push(Mutex::new(replica));
        }
        let provider = front(&mut links, Pair::EnvoyProvider, fake.addr).await;
        let replica_fronts = <[_; REPLICAS]>::try_from(replica_fronts).expect("all replicas");
        let mut envoy = Envoy::new(folder.path(), replica_fronts, provider, http.clone());
        envoy.start().await;
        let fronts = [
            front(&mut links, Pair::ClientEnvoy, envoy.egress(Route::Open)).await,
            front(&mut links, Pair::ClientEnvoy, envoy.egress(Route::Closed)).await,
        ];
        let world = Self {
            envoy: Mutex::new(envoy),
            replicas: <[_; REPLICAS]>::try_from(replicas).expect("all replicas"),
            pool: postgres.pool(),
            postgres: Mutex::new(postgres),
            fake,
            http,
            fronts,
            links: links.into_iter().map(|(pair, link)| (pair, Mutex::new(link))).collect(),
            envoy_generation: AtomicU32::new(0),
            delays: Lock::default(),
            started: Instant::now(),
            folder,
        };
        world.make_budgets(settings).await;
        Arc::new(world)
    }

    async fn make_budgets(&self, settings: &Settings) {
        let mut budgets: Vec<_> = [STRICT_ORG, LOOSE_ORG]
            .map(|org| json!({"org": org, "window": "total", "limit_usd": "100000"}))
            .into();
        for payer in &PAYERS {
            budgets.push(json!({
                "org": payer.org,
                "team": payer.team,
                "window": "total",
                "limit_usd": purser_protocol::format_usd(payer.limit_nanousd(settings)),
                "strict": payer.is_strict(),
            }));
        }
        let addr = self.replicas[0].lock().await.addr();
        for budget in budgets {
            let request = self.http.post(format!("http://{addr}/v1/budgets")).bearer_auth(ADMIN_TOKEN);
            let answer = request.json(&budget).send().await.expect("an answer to a budget");
            let status = answer.status().as_u16();
            assert_eq!(status, 201, "{budget}: {}", answer.text().await.unwrap_or_default());
        }
    }

    /// Where apps call.
    pub const fn front(&self, route: Route) -> SocketAddr {
        match route {
            Route::Open => self.fronts[0],
            Route::Closed => self.fronts[1],
        }
    }

    /// How often Envoy was killed.
    pub fn envoy_generation(&self) -> u32 {
        self.envoy_generation.load(Ordering::SeqCst)
    }

    /// What the storm's delays add to an exchange on the path of calls: each delayed link, there and back,
    /// for each delay of which it saw a part.
    pub fn delay_between(&self, from: Instant, until: Instant) -> Duration {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let met = delays
            .iter()
            .filter(|delay| delay.from <= until && delay.until.is_none_or(|until| until >= from));
        met.map(|delay| delay.each_way * 2).sum()
    }

    /// Lets the storm happen.
    pub async fn storm(&self, events: &[Event]) {
        let happening = events.iter().map(|event| async move {
            tokio::time::sleep_until(self.started + event.at).await;
            println!("{:>7.1} s  {event}", event.at.as_secs_f32());
            self.happen(event).await;
        });
        join_all(happening).await;
    }

    /// One thing goes wrong, and right again. What concerns the same part happens one after the other.
    async fn happen(&self, event: &Event) {
        let wait = tokio::time::sleep(event.lasts);
        match event.act {
            Act::KillReplica(number) => {
                let mut replica = self.replicas[number].lock().await;
                replica.kill().await;
                wait.await;
                replica.start();
            }
            Act::FreezeReplica(number) => {
                let replica = self.replicas[number].lock().await;
                replica.set_frozen(true);
                wait.await;
                replica.set_frozen(false);
            }
            Act::KillDatabase => {
                let mut postgres = self.postgres.lock().await;
                postgres.kill().await;
                wait.await;
                postgres.restart().await;
            }
            Act::FreezeDatabase => {
                let mut postgres = self.postgres.lock().await;
                postgres.freeze();
                wait.await;
                postgres.thaw();
            }
            Act::Cut(pair) => self.weather(pair, Weather::Cut, event.lasts).await,
            Act::Silence(pair) => self.weather(pair, Weather::Silent, event.lasts).await,
            Act::Delay(pair, ms) => {
                self.weather(pair, Weather::Slow(Duration::from_millis(ms)), event.lasts).await;
            }
            Act::ReloadEnvoy => self.envoy.lock().await.reload(),
            Act::KillEnvoy => {
                let mut envoy = self.envoy.lock().await;
                envoy.kill().await;
                // Not before it is gone: a call that begins later can only meet the next one.
                self.envoy_generation.fetch_add(1, Ordering::SeqCst);
                envoy.start().await;
            }
        }
    }

    async fn weather(&self, pair: Pair, weather: Weather, lasts: Duration) {
        let link = self.links.iter().find(|(known, _)| *known == pair);
        let link = link.map(|(_, link)| link).expect("a link for each pair").lock().await;
        if let (Weather::Slow(each_way), true) = (weather, pair.is_path_of_calls()) {
            self.delays.lock().unwrap_or_else(PoisonError::into_inner).push(Delayed {
                from: Instant::now(),
                until: None,
                each_way,
            });
        }
        link.set(weather);
        tokio::time::sleep(lasts).await;
        link.set(Weather::Fair);
        if let (Weather::Slow(delay), true) = (weather, pair.is_path_of_calls()) {
            // What was on the way when it ended is late all the same.
            let until = Instant::now() + delay;
            let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
            let own = delays.iter_mut().find(|known| known.until.is_none() && known.each_way == delay);
            if let Some(own) = own {
                own.until = Some(until);
            }
        }
    }

    /// Copies the parts' logs to a folder that outlives this value.
    pub fn keep_logs(&self, to: &Path) {
        let files = std::fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        for file in files.filter(|file| file.path().extension().is_some_and(|ending| ending == "log")) {
            let copied = std::fs::copy(file.path(), to.join(format!("chaos-{}", file.file_name().display())));
            if let Err(error) = copied {
                println!("{} is not kept in {}: {error}", file.path().display(), to.display());
            }
        }
    }
}

async fn front(links: &mut [(Pair, Link)], pair: Pair, target: SocketAddr) -> SocketAddr {
    let link = links.iter_mut().find(|(known, _)| *known == pair);
    link.expect("a link for each pair").1.front(target).await
}
