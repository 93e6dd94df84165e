//! Puts the parts together, and takes them apart in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::api::{AppState, router};
use crate::config::Config;
use crate::db::{self, DatabaseError};
use crate::flagged::Flagged;
use crate::learned::LearnedLengths;
use crate::ledger::{Ledger, LedgerSettings};
use crate::maintain;
use crate::prices::catalogue;
use crate::refresh;
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
    /// The address is taken, or serving broke.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
}

/// The service, listening but not serving yet.
pub struct Application {
    listener: TcpListener,
    state: AppState,
    lanes: Vec<JoinHandle<()>>,
    tracker_thread: std::thread::JoinHandle<()>,
    prices_task: JoinHandle<()>,
    learned_task: JoinHandle<()>,
    maintenance: JoinHandle<()>,
}

impl Application {
    /// Connects, migrates, and listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`AppError`].
    pub async fn build(config: Config) -> Result<Self, AppError> {
        let pool = db::connect(&config.database).await?;
        db::migrate(&pool).await?;
        load_first_catalogue(&pool).await?;
        let book = admin::prices::price_book(&pool).await.map_err(AppError::Prices)?;
        tracing::info!(models = book.models(), "prices read");
        let (sender, prices) = watch::channel(Arc::new(book));
        let prices_task = tokio::spawn(refresh::run(pool.clone(), sender));
        let (sender, learned) = watch::channel(Arc::new(LearnedLengths::new(config.output_percentile)));
        let learned_from_unix_us = learn(&pool, &sender, 0).await;
        let learned_task = tokio::spawn(refresh_learned(pool.clone(), sender, learned_from_unix_us));
        let maintenance = tokio::spawn(maintain::run(pool.clone(), config.ledger_retention_days));
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
        let listener = TcpListener::bind(config.listen_addr)
            .await
            .map_err(|error| AppError::Io(format!("PURSER_LISTEN_ADDR {}", config.listen_addr), error))?;
        let state = AppState {
            pool,
            ledger,
            tracker,
            prices,
            learned,
            flagged: Flagged::default(),
            token: config.token.into(),
            admin_token: config.admin_token.into(),
            default_output_tokens: config.default_output_tokens,
            strict_output_tokens: config.strict_output_tokens,
        };
        Ok(Self { listener, state, lanes, tracker_thread, prices_task, learned_task, maintenance })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` completes; then takes no new requests, finishes the running ones and what
    /// is queued, within a limit.
    ///
    /// # Errors
    /// [`AppError::Io`].
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), AppError> {
        let Self { listener, state, lanes, tracker_thread, prices_task, learned_task, maintenance } = self;
        let pool = state.pool.clone();
        let (stopping, mut stopped) = watch::channel(());
        let graceful = async move {
            stop.await;
            tracing::info!("stopping");
            drop(stopping);
        };
        let serve = axum::serve(listener, router(state)).with_graceful_shutdown(graceful);
        tokio::select! {
            served = serve => served.map_err(|error| AppError::Io("serving".to_owned(), error))?,
            // A client that never finishes its request must not keep the process alive.
            () = async { let _closed = stopped.changed().await; tokio::time::sleep(SHUTDOWN_LIMIT).await; } => {
                tracing::warn!("requests still running at the shutdown limit were cut");
            }
        }
        prices_task.abort();
        learned_task.abort();
        maintenance.abort();
        finish(lanes, tracker_thread, pool).await;
        Ok(())
    }
}

/// Waits, within the limit, for the queues to run empty: every handle to them is gone by now.
async fn finish(lanes: Vec<JoinHandle<()>>, tracker_thread: std::thread::JoinHandle<()>, pool: PgPool) {
    let all = async {
        for lane in lanes {
            if lane.await.is_err() {
                tracing::error!("a lane ended in a panic");
            }
        }
        let joined = tokio::task::spawn_blocking(move || tracker_thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the tracker ended in a panic");
        }
        pool.close().await;
    };
    if tokio::time::timeout(SHUTDOWN_LIMIT, all).await.is_err() {
        tracing::warn!(
            "queued work was still running at the shutdown limit; its senders have no answer and try again"
        );
    }
}

/// Loads the catalogue into a list that nobody has added to yet.
async fn load_first_catalogue(pool: &PgPool) -> Result<(), AppError> {
    let wanted = catalogue::parse(catalogue::TEXT).map_err(AppError::Catalogue)?;
    let added = admin::prices::load_first(pool, wanted).await.map_err(AppError::Prices)?;
    if added > 0 {
        tracing::info!(added, "the catalogue of prices was loaded");
    }
    Ok(())
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
