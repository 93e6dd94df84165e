//! A database of its own for each test, and the questions tests ask it.

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection};

use super::{environment, wait_until};

/// An empty database on the server of `DATABASE_URL`, dropped with this value.
#[derive(Debug)]
pub struct Database {
    name: String,
    admin_url: String,
    /// Its own URL.
    pub url: String,
    /// Connections for the test's questions.
    pub pool: PgPool,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LedgerRow {
    /// Number of the entry for this hold.
    pub entry: i32,
    /// The team, empty without one.
    pub team: String,
    /// The user, empty without one.
    pub user_name: String,
    /// The model asked for.
    pub model: String,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// What it cost, nano-USD.
    pub cost_nanousd: i64,
    /// What was held for it, nano-USD.
    pub held_nanousd: i64,
    /// `settled`, `estimated` or `expired`.
    pub cause: String,
    /// `held` or `fail_open`.
    pub admission: String,
    /// `exact`, `at_least` or `none`.
    pub usage_quality: String,
    /// The upstream's status.
    pub http_status: i32,
    /// `complete`, `client_gone` or `upstream_cut`.
    pub ending: String,
    /// Whether it was streamed.
    pub stream: bool,
    /// Uncached input.
    pub input_tokens: i64,
    /// Cached input.
    pub cached_input_tokens: i64,
    /// Input written to a cache of five minutes.
    pub cache_write_5m_tokens: i64,
    /// Input written to a cache of an hour.
    pub cache_write_1h_tokens: i64,
    /// Visible output.
    pub output_tokens: i64,
    /// Reasoning.
    pub reasoning_tokens: i64,
}

/// A budget's counter in one period.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Counter {
    /// The budget.
    pub budget_id: i64,
    /// The team or user of a `*` budget.
    pub subject: String,
    /// Settled, nano-USD.
    pub spent_nanousd: i64,
    /// Held, nano-USD.
    pub held_nanousd: i64,
}

impl Database {
    /// Creates one.
    ///
    /// # Panics
    /// When the server can't be reached or refuses.
    pub async fn create() -> Self {
        let admin_url = environment("DATABASE_URL");
        let name = format!("purser_test_{}", uuid::Uuid::new_v4().simple());
        let url = with_database(&admin_url, &name);
        run_admin(&admin_url, &format!("CREATE DATABASE {name}"))
            .await
            .unwrap_or_else(|error| panic!("cannot create a database on DATABASE_URL: {error}"));
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy(&url);
        let pool = pool.unwrap_or_else(|error| panic!("DATABASE_URL: {error}"));
        Self { name, admin_url, url, pool }
    }

    /// Refuses every connection from now on, and cuts those that are there; or lets them in again.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn let_in(&self, is_open: bool) {
        let name = &self.name;
        let refuse = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {is_open}");
        run_admin(&self.admin_url, &refuse).await.unwrap_or_else(|error| panic!("{refuse}: {error}"));
        if !is_open {
            let cut =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
            run_admin(&self.admin_url, &cut).await.unwrap_or_else(|error| panic!("{cut}: {error}"));
        }
    }

    /// The ledger of an org, in the order recorded.
    pub async fn ledger(&self, org: &str) -> Vec<LedgerRow> {
        let rows =
            sqlx::query_as("SELECT * FROM llm_requests WHERE org = $1 ORDER BY recorded_at, hold_id, entry")
                .bind(org)
                .fetch_all(&self.pool);
        rows.await.unwrap_or_else(|error| panic!("llm_requests: {error}"))
    }

    /// The counters of an org's budgets.
    pub async fn counters(&self, org: &str) -> Vec<Counter> {
        let rows = sqlx::query_as(
            "SELECT * FROM budget_counters WHERE org = $1 ORDER BY budget_id, subject, period_start",
        )
        .bind(org)
        .fetch_all(&self.pool);
        rows.await.unwrap_or_else(|error| panic!("budget_counters: {error}"))
    }

    /// How many holds of an org are in a state (`open`, `settled`, `voided`, `expired`).
    pub async fn holds(&self, org: &str, state: &str) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM holds WHERE org = $1 AND state = $2")
            .bind(org)
            .bind(state)
            .fetch_one(&self.pool);
        count.await.unwrap_or_else(|error| panic!("holds: {error}"))
    }

    /// What an org spent by the daily rollup, nano-USD.
    pub async fn rollup_nanousd(&self, org: &str) -> i64 {
        let sum = sqlx::query_scalar(
            "SELECT coalesce(sum(cost_nanousd), 0)::bigint FROM cost_daily_summary WHERE org = $1",
        )
        .bind(org)
        .fetch_one(&self.pool);
        sum.await.unwrap_or_else(|error| panic!("cost_daily_summary: {error}"))
    }

    /// Waits until the org's ledger has `entries` entries and none of its holds is open, then checks
    /// what must hold whenever nothing is under way: no counter holds anything, and ledger and
    /// rollup have the same sum. Returns the ledger.
    ///
    /// # Panics
    /// When it doesn't come to that.
    pub async fn settled(&self, org: &str, entries: usize) -> Vec<LedgerRow> {
        let ledger = wait_until("the calls to be settled", async || {
            let (ledger, open) = (self.ledger(org).await, self.holds(org, "open").await);
            if ledger.len() == entries && open == 0 {
                return Ok(ledger);
            }
            Err(format!("{open} open holds and {} of {entries} entries: {ledger:?}", ledger.len()))
        })
        .await;
        for counter in self.counters(org).await {
            assert_eq!(counter.held_nanousd, 0, "nothing is under way, yet {counter:?} holds");
        }
        let sum: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
        assert_eq!(self.rollup_nanousd(org).await, sum, "the rollup is not the sum of {ledger:?}");
        ledger
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop_it = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let url = self.admin_url.clone();
        // A thread with a runtime of its own: this may run while the test's runtime is going away.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(run_admin(&url, &drop_it)).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        match dropped.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("left behind: database {}: {error}", self.name),
            Err(_) => eprintln!("left behind: database {}", self.name),
        }
    }
}

async fn run_admin(url: &str, statement: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

/// `url` with another database name.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (url, String::new()),
    };
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base.get(authority..).and_then(|rest| rest.find('/'));
    let server = end.and_then(|end| base.get(..authority + end)).unwrap_or(base);
    format!("{server}/{name}{query}")
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn only_the_database_of_a_url_changes() {
        for (url, expected) in [
            ("postgres://u:p@h:5432/postgres", "postgres://u:p@h:5432/new"),
            ("postgres://u@h/postgres?sslmode=disable", "postgres://u@h/new?sslmode=disable"),
            ("postgres:///postgres?host=/run/pg", "postgres:///new?host=/run/pg"),
            ("postgres://h", "postgres://h/new"),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }
}
