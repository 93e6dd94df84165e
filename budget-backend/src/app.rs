//! Puts the parts together, and takes them apart in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::access::keep::{keep_book, note_uses};
use crate::access::{Doors, Tokens};
use crate::admin;
use crate::alerts;
use crate::api::{AppState, commit, metrics_router, router};
use crate::config::Config;
use crate::db::{self, DatabaseError};
use crate::flagged::Flagged;
use crate::identity::Identities;
use crate::learned::LearnedLengths;
use crate::ledger::{Ledger, LedgerSettings};
use crate::maintain;
use crate::pricing::PriceBook;
use crate::refresh::Kept;
use crate::server::presence::Presence;
use crate::server::tls::Tls;
use crate::server::{self, ServerLimits};
use crate::spool::{Drain, OpenError, Spool};
use crate::startup::{self, Known};
use crate::tracker::{Tracker, TrackerSettings};

/// Holds that may wait in a lane; more are refused with 503 at once.
const LANE_QUEUE_LEN: usize = 4_096;

/// Batches of settlements that may wait for the tracker; the filters keep the rest.
const TRACKER_QUEUE_LEN: usize = 256;

/// How often what was learned from answers is read again.
const REFRESH: Duration = Duration::from_secs(15);

/// How far back changed rows are read again, microseconds: a row is dated at the start of the
/// transaction that changed it, and seen after its end.
const REFRESH_OVERLAP_US: i64 = 60_000_000;

/// How long closed holds stay as tombstones. A hold that arrives after its own void is late by a
/// request's deadline, seconds at the most; what was settled is found in the ledger for ever.
const TOMBSTONE_AGE_S: i64 = 3_600;

/// Longest wait for running requests and queued settlements at shutdown.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for the database's connections to be closed in good form.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Connections that may scrape at once.
const MAX_SCRAPERS: usize = 16;

/// Start-up or serving failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The shipped catalogue can't be read: the program is broken.
    #[error("the catalogue can't be read: {0}")]
    Catalogue(String),
    /// The price list could not be read.
    #[error("the price list could not be read: {0}")]
    Prices(sqlx::Error),
    /// Who is known by what could not be read.
    #[error("the identities could not be read: {0}")]
    Identities(sqlx::Error),
    /// The tokens could not be read.
    #[error("the tokens could not be read: {0}")]
    Tokens(sqlx::Error),
    /// The spool can't be opened.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// A certificate or key can't be used.
    #[error("{0}")]
    Tls(String),
    /// The address is taken, or a thread did not start.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

/// The service, listening but not serving yet.
pub struct Application {
    listener: TcpListener,
    limits: ServerLimits,
    tls: Option<Tls>,
    metrics: Option<(TcpListener, i64)>,
    state: AppState,
    lanes: Vec<JoinHandle<()>>,
    tracker_thread: std::thread::JoinHandle<()>,
    spool_thread: Option<std::thread::JoinHandle<()>>,
    /// Those that only read and tidy, and may be ended at any time.
    helpers: Vec<JoinHandle<()>>,
}

impl Application {
    /// Connects, migrates, and listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn build(config: Config) -> Result<Self, AppError> {
        // What a person has to put right is found before the wait for the database.
        let tls = config.listener.tls.map(Tls::start).transpose().map_err(AppError::Tls)?;
        let (spool, spool_thread) = match &config.spool {
            Some(settings) => Spool::start(settings).map(|(spool, thread)| (Some(spool), Some(thread)))?,
            None => (None, None),
        };
        let Known { pool, prices, identities, tokens } = startup::known(&config.database).await?;
        let (sender, prices) = watch::channel(Arc::new(prices));
        let prices_task = tokio::spawn(keep_prices(pool.clone(), sender));
        let (sender, identities) = watch::channel(Arc::new(identities));
        let identities_task = tokio::spawn(keep_identities(pool.clone(), sender));
        let (sender, book) = watch::channel(Arc::new(tokens));
        let tokens_task = tokio::spawn(keep_book(pool.clone(), sender));
        let doors = Doors::new(Tokens::new(config.tokens), Tokens::new(config.admin_tokens), book);
        let uses_task = tokio::spawn(note_uses(pool.clone(), doors.clone()));
        let (sender, learned) =
            watch::channel(Arc::new(LearnedLengths::new(config.estimates.output_percentile)));
        let learned_from_unix_us = learn(&pool, &sender, 0).await;
        let learned_task = tokio::spawn(refresh_learned(pool.clone(), sender, learned_from_unix_us));
        let alerting = (!config.alerts.interval.is_zero())
            .then(|| tokio::spawn(alerts::run(pool.clone(), config.alerts.clone())));
        let maintenance = tokio::spawn(maintain::run(pool.clone(), config.retention));
        let settings =
            LedgerSettings { lanes: config.lanes, queue_len: LANE_QUEUE_LEN, hold_ttl_s: config.hold_ttl_s };
        let (ledger, lanes) = Ledger::start(&pool, settings);
        let settings = TrackerSettings {
            queue_len: TRACKER_QUEUE_LEN,
            sweep_interval: config.sweep_interval,
            sweep_grace: config.sweep_grace,
            tombstone_age_s: TOMBSTONE_AGE_S,
            hold_ttl_s: config.hold_ttl_s,
        };
        let (tracker, tracker_thread) = Tracker::start(db::tracker_config(&config.database), settings)
            .map_err(|error| AppError::Io("the tracker thread did not start".to_owned(), error))?;
        let listener = listen("PURSER_LISTEN_ADDR", config.listen_addr).await?;
        let metrics = match config.metrics_addr {
            Some(addr) => Some((listen("PURSER_METRICS_ADDR", addr).await?, config.metrics_budgets)),
            None => None,
        };
        let presence = Presence::default();
        let presence_task = tokio::spawn(presence.clone().watch(config.database.checks.clone()));
        let state = AppState {
            pool,
            ledger,
            tracker,
            prices,
            identities,
            learned,
            flagged: Flagged::default(),
            webhook_reach: config.alerts.reach,
            doors,
            presence,
            spool,
            body_limit: config.listener.body_limit,
            estimates: config.estimates,
        };
        // Beside connections: the pool, the tracker, looks at the database, files.
        let elsewhere = usize::try_from(config.database.pool_max).unwrap_or(0).saturating_add(64);
        let mut limits = config.listener.limits;
        limits.connections = server::affordable_connections(limits.connections, elsewhere);
        let mut helpers = vec![prices_task, identities_task, learned_task, maintenance, presence_task];
        helpers.extend([tokens_task, uses_task]);
        helpers.extend(alerting);
        Ok(Self { listener, limits, tls, metrics, state, lanes, tracker_thread, spool_thread, helpers })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address it listens on for scrapes, if it does.
    ///
    /// # Errors
    /// The operating system's.
    pub fn metrics_addr(&self) -> std::io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(|(listener, _)| listener.local_addr()).transpose()
    }

    /// Serves until `stop` completes; then takes no new requests, finishes the running ones and what
    /// is queued, within a limit.
    ///
    /// # Errors
    /// [`AppError::Io`].
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AppError> {
        let Self { listener, limits, tls, metrics, state, lanes, tracker_thread, spool_thread, helpers } =
            self;
        let pool = state.pool.clone();
        let metrics_task = metrics.map(|(listener, max_budgets)| {
            let router = metrics_router(pool.clone(), max_budgets);
            let limits = ServerLimits::new(MAX_SCRAPERS, limits.head);
            tokio::spawn(server::serve(
                listener,
                router,
                limits,
                None,
                std::future::pending(),
                Duration::ZERO,
            ))
        });
        let (served, stopped) = oneshot::channel::<()>();
        let drain_task = state.spool.clone().map(|spool| {
            let (presence, state) = (state.presence.clone(), state.clone());
            let commit = move |items| {
                let state = state.clone();
                async move { commit(&state, items).await }
            };
            tokio::spawn(Drain::new(spool, presence, commit).run(async { drop(stopped.await) }))
        });
        let stop = async {
            stop.await;
            tracing::info!("stopping");
        };
        if !server::serve(listener, router(state), limits, tls, stop, SHUTDOWN_LIMIT).await {
            // A client that never finishes its request must not keep the process alive.
            tracing::warn!("requests still running at the shutdown limit were cut");
        }
        if let Some(task) = metrics_task {
            task.abort();
        }
        drop(served);
        let all = finish(lanes, tracker_thread, drain_task, spool_thread);
        if tokio::time::timeout(SHUTDOWN_LIMIT, all).await.is_err() {
            tracing::warn!(
                "queued work was still running at the shutdown limit; its senders have no answer and try again"
            );
        }
        for helper in helpers {
            helper.abort();
        }
        // Connections that are still in use are closed by the process's end.
        drop(tokio::time::timeout(CLOSE_LIMIT, pool.close()).await);
        Ok(())
    }
}

async fn listen(variable: &str, addr: SocketAddr) -> Result<TcpListener, AppError> {
    let bound = TcpListener::bind(addr).await;
    bound.map_err(|error| AppError::Io(format!("{variable} {addr}"), error))
}

/// Waits for the queues to run empty: every handle to them is gone, or goes with the task before.
async fn finish(
    lanes: Vec<JoinHandle<()>>,
    tracker_thread: std::thread::JoinHandle<()>,
    drain_task: Option<JoinHandle<()>>,
    spool_thread: Option<std::thread::JoinHandle<()>>,
) {
    if let Some(task) = drain_task
        && task.await.is_err()
    {
        tracing::error!("the drain of the spool ended in a panic");
    }
    for lane in lanes {
        if lane.await.is_err() {
            tracing::error!("a lane ended in a panic");
        }
    }
    for thread in std::iter::once(tracker_thread).chain(spool_thread) {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!(name, "a thread ended in a panic");
        }
    }
}

/// Loads the catalogue into a list that nobody has added to yet.
async fn keep_prices(pool: PgPool, latest: watch::Sender<Arc<PriceBook>>) {
    let read = |pool| async move { admin::prices::price_book(&pool).await };
    Kept { name: "prices", channel: admin::prices::CHANNEL, read }.run(pool, latest).await;
}

async fn keep_identities(pool: PgPool, latest: watch::Sender<Arc<Identities>>) {
    let read = |pool| async move { admin::identities::identities(&pool).await };
    Kept { name: "identities", channel: admin::identities::CHANNEL, read }.run(pool, latest).await;
}

/// Reads again and again what answers needed; what was read stays in force while the database is away.
async fn refresh_learned(pool: PgPool, learned: watch::Sender<Arc<LearnedLengths>>, mut from_unix_us: i64) {
    let mut tick = tokio::time::interval(REFRESH);
    tick.tick().await;
    loop {
        tick.tick().await;
        if learned.is_closed() {
            return;
        }
        from_unix_us = learn(&pool, &learned, from_unix_us).await;
    }
}

/// Takes over lengths of answers that changed since an instant; gives the instant to go on from.
async fn learn(pool: &PgPool, learned: &watch::Sender<Arc<LearnedLengths>>, from_unix_us: i64) -> i64 {
    match admin::output_lengths_since(pool, from_unix_us).await {
        Ok((rows, latest_unix_us)) => {
            let mut ignored = 0;
            // In place, unless somebody is just reading a copy.
            learned.send_modify(|learned| ignored = Arc::make_mut(learned).apply(rows));
            if ignored > 0 {
                tracing::warn!(
                    ignored,
                    "answers of too many teams and models; the default is held for these"
                );
            }
            from_unix_us.max(latest_unix_us.saturating_sub(REFRESH_OVERLAP_US))
        }
        Err(error) => {
            tracing::warn!(%error, "lengths of answers could not be read; the last ones stay");
            from_unix_us
        }
    }
}
