//! Keeps the prices in force up to date: reads them again when the database tells of a change, and now
//! and then in case it could not. The last ones stay in force while the database is away.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;

use crate::admin::prices::{CHANNEL, price_book};
use crate::pricing::PriceBook;

/// How often the list is read although nothing was heard.
const POLL: Duration = Duration::from_secs(60);

/// How long to wait before listening again after the connection broke.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until nobody uses the prices any more.
pub async fn run(pool: PgPool, prices: watch::Sender<Arc<PriceBook>>) {
    while !prices.is_closed() {
        if let Err(error) = listen(&pool, &prices).await {
            tracing::warn!(%error, "changes of prices are not heard; the last prices stay");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Listens on a connection of its own until it breaks.
async fn listen(pool: &PgPool, prices: &watch::Sender<Arc<PriceBook>>) -> sqlx::Result<()> {
    let single = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(pool.connect_options().as_ref().clone().application_name("purser-prices"));
    let mut listener = PgListener::connect_with(&single).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // What changed before the listening began was told to nobody.
        match price_book(pool).await {
            Ok(book) => {
                if prices.send(Arc::new(book)).is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the price list could not be read again; the last one stays");
            }
        }
        tokio::select! {
            heard = listener.try_recv() => if heard?.is_none() { return Err(sqlx::Error::PoolClosed) },
            () = tokio::time::sleep(POLL) => {}
            () = prices.closed() => return Ok(()),
        }
    }
}
