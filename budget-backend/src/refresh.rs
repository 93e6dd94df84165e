//! Keeps what is read whole into memory (the prices in force, who is known by what) up to date: reads it
//! again when the database tells of a change, and now and then in case it could not. What was read last
//! stays in force while the database is away.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

/// How often it is read although nothing was heard.
const POLL: Duration = Duration::from_secs(60);

/// How long to wait before listening again after the connection broke.
const PAUSE: Duration = Duration::from_secs(1);

/// What is kept up to date, and where its changes are told.
#[derive(Debug, Clone, Copy)]
pub struct Kept<R> {
    /// What it is, for the log and the name of the connection.
    pub name: &'static str,
    /// The channel.
    pub channel: &'static str,
    /// Reads all of it.
    pub read: R,
}

impl<R> Kept<R> {
    /// Runs until nobody uses it any more.
    pub async fn run<T, F>(self, pool: PgPool, latest: watch::Sender<Arc<T>>)
    where
        R: Fn(PgPool) -> F,
        F: Future<Output = sqlx::Result<T>>,
    {
        while !latest.is_closed() {
            if let Err(error) = self.listen(&pool, &latest).await {
                tracing::warn!(%error, "changes of {} are not heard; the last ones stay", self.name);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Listens on a connection of its own until it breaks.
    async fn listen<T, F>(&self, pool: &PgPool, latest: &watch::Sender<Arc<T>>) -> sqlx::Result<()>
    where
        R: Fn(PgPool) -> F,
        F: Future<Output = sqlx::Result<T>>,
    {
        let application = format!("purser-{}", self.name);
        let single = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(pool.connect_options().as_ref().clone().application_name(&application));
        let mut listener = PgListener::connect_with(&single).await?;
        listener.listen(self.channel).await?;
        loop {
            // What changed before the listening began was told to nobody.
            match (self.read)(pool.clone()).await {
                Ok(read) => {
                    if latest.send(Arc::new(read)).is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "{} could not be read again; the last ones stay", self.name);
                }
            }
            tokio::select! {
                heard = listener.try_recv() => if heard?.is_none() { return Err(sqlx::Error::PoolClosed) },
                () = tokio::time::sleep(POLL) => {}
                () = latest.closed() => return Ok(()),
            }
        }
    }
}
