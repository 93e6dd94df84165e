//! What must be there before the first call: the schema, the catalogue, and what is kept in memory. The
//! database may go away at any moment of it; then all of it starts again, within the time that is
//! configured for the first connection.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::migrate::MigrateError;

use crate::access::book::TokenBook;
use crate::admin;
use crate::app::AppError;
use crate::config::DatabaseConfig;
use crate::db::{self, DatabaseError};
use crate::identity::Identities;
use crate::prices::catalogue;
use crate::pricing::PriceBook;

/// Between two attempts; what connects has growing pauses of its own.
const PAUSE: Duration = Duration::from_millis(250);

/// What a backend knows when it starts.
pub struct Known {
    /// Connections for holds and operators.
    pub pool: PgPool,
    /// The prices.
    pub prices: PriceBook,
    /// Who is known by what.
    pub identities: Identities,
    /// The tokens.
    pub tokens: TokenBook,
}

/// Connects, brings the schema up to date and reads what is kept in memory.
///
/// # Errors
/// [`AppError`]; that the database went away only once the time for connecting is up.
pub async fn known(config: &DatabaseConfig) -> Result<Known, AppError> {
    let started = Instant::now();
    loop {
        let pool = db::connect(config).await?;
        match read(&pool).await {
            Err(error) if is_away(&error) && started.elapsed() < config.connect_timeout => {
                tracing::warn!(%error, "the database went away during the start, which begins again");
                pool.close().await;
                tokio::time::sleep(PAUSE).await;
            }
            read => return read,
        }
    }
}

async fn read(pool: &PgPool) -> Result<Known, AppError> {
    db::migrate(pool).await?;
    let wanted = catalogue::parse(catalogue::TEXT).map_err(AppError::Catalogue)?;
    let added = admin::prices::load_first(pool, wanted).await.map_err(AppError::Prices)?;
    if added > 0 {
        tracing::info!(added, "the catalogue of prices was loaded");
    }
    let prices = admin::prices::price_book(pool).await.map_err(AppError::Prices)?;
    tracing::info!(models = prices.models(), "prices read");
    let identities = admin::identities::identities(pool).await.map_err(AppError::Identities)?;
    let tokens = admin::tokens::book(pool).await.map_err(AppError::Tokens)?;
    Ok(Known { pool: pool.clone(), prices, identities, tokens })
}

/// Whether an attempt failed because the database is not there, which may pass; not because of what it
/// said.
fn is_away(error: &AppError) -> bool {
    let sql = match error {
        AppError::Prices(error) | AppError::Identities(error) | AppError::Tokens(error) => error,
        AppError::Database(
            DatabaseError::Sql(error)
            | DatabaseError::Migration(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)),
        ) => error,
        _ => return false,
    };
    match sql {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
        // It shuts down or starts, cut the connection, or has none left.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code == "53300"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let gone = || sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into());
        assert!(is_away(&AppError::Prices(gone())));
        assert!(is_away(&AppError::Tokens(sqlx::Error::PoolTimedOut)));
        assert!(is_away(&DatabaseError::Sql(gone()).into()));
        assert!(is_away(&DatabaseError::Migration(MigrateError::Execute(gone())).into()));
        assert!(!is_away(&DatabaseError::Migration(MigrateError::VersionMissing(3)).into()));
        assert!(!is_away(&AppError::Identities(sqlx::Error::RowNotFound)));
        assert!(!is_away(&AppError::Catalogue(String::new())));
    }
}
