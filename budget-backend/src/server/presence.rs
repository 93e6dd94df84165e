//! Whether the database is there. Found out once for all who ask, so that an outage costs one connection
//! attempt at a time and everybody else an answer at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;

/// Longest wait for one look.
const LOOK_LIMIT: Duration = Duration::from_millis(1_000);

/// Looks in a row without an answer that make a database away: a busy one may be slow to let somebody in.
const SILENT_LOOKS: u32 = 2;

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What is known of the database. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    away: AtomicBool,
    /// Grows with everything that the database did for somebody.
    served: AtomicU64,
    suspected: Notify,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    There,
    /// It refuses or cuts connections, or says itself that it is going or coming.
    Away(String),
    Silent,
}

impl Presence {
    /// Whether it was away when it was last looked at.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    /// Something that needs the database failed: have it looked at.
    pub fn suspect(&self) {
        self.0.suspected.notify_one();
    }

    /// The database did something for somebody: it is there, whatever a look has seen meanwhile.
    pub fn served(&self) {
        self.0.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks whenever it is suspected to be away, and until it is back.
    pub async fn watch(self, database: PgConnectOptions) {
        let database = database.application_name("purser-presence");
        let mut silent = 0_u32;
        loop {
            if !self.is_away() && silent == 0 {
                self.0.suspected.notified().await;
            }
            let served_before = self.0.served.load(Ordering::Relaxed);
            let seen = look(&database).await;
            let served = self.0.served.load(Ordering::Relaxed) != served_before;
            let problem = match seen {
                Look::There => None,
                _ if served => None,
                Look::Away(error) => Some(error),
                Look::Silent => {
                    silent = silent.saturating_add(1);
                    Some(format!("no answer within {} ms, {silent} times", LOOK_LIMIT.as_millis()))
                }
            };
            match problem {
                None => {
                    silent = 0;
                    if self.0.away.swap(false, Ordering::Relaxed) {
                        tracing::info!("the database is back");
                    }
                }
                Some(_) if (1..SILENT_LOOKS).contains(&silent) && !self.is_away() => {}
                Some(error) => {
                    if !self.0.away.swap(true, Ordering::Relaxed) {
                        tracing::error!(error, "the database is away: holds are refused at once");
                    }
                }
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// A connection of its own: those of the pool may be as dead as the server that they led to.
async fn look(database: &PgConnectOptions) -> Look {
    let asked = async {
        let mut connection = PgConnection::connect_with(database).await?;
        connection.ping().await?;
        connection.close().await
    };
    match tokio::time::timeout(LOOK_LIMIT, asked).await {
        Ok(Ok(())) => Look::There,
        Ok(Err(error)) => found(&error),
        Err(_) => Look::Silent,
    }
}

/// A server that says why it lets nobody in (too many connections, a wrong password) is there: those who
/// are in already are served. One that is starting or stopping is not.
fn found(error: &sqlx::Error) -> Look {
    let code = error.as_database_error().map(|error| error.code().unwrap_or_default().into_owned());
    match code {
        Some(code) if !code.starts_with("57P") => Look::There,
        _ => Look::Away(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_a_database_that_is_away() {
        let refused = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(found(&refused), Look::Away(_)));
    }
}
