//! What a run asks PostgreSQL: its settings, its processes, and whether the books are right.

use postgres::{Client, NoTls};

use crate::machine;

/// The org that pays in every run.
pub const ORG: &str = "bench";
/// Its team.
pub const TEAM: &str = "team";
/// The user in that team.
pub const USER: &str = "user";

/// Settings that durability hangs on, all of which must be on, and two that speed hangs on.
const SETTINGS: [&str; 5] =
    ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size"];

/// The server.
#[derive(Debug, Clone)]
pub struct Server {
    url: String,
    /// Its version.
    pub version: String,
    /// Settings by name.
    pub settings: Vec<(String, String)>,
    /// Its first process; absent when it isn't on this machine.
    pub postmaster: Option<u32>,
}

/// What the ledger says of every call so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Books {
    /// Calls charged.
    pub settled: u64,
    /// Of these, calls that went out without a verdict.
    pub unchecked: u64,
    /// Of these, calls charged otherwise than by the provider's usage.
    pub inexact: u64,
    /// Holds that are still open.
    pub open_holds: u64,
    /// Budgets whose counters differ from their ledger.
    pub wrong_budgets: u64,
}

impl Server {
    /// Asks the server; refuses one that isn't durable.
    ///
    /// # Errors
    /// When it doesn't answer, or could lose what it has committed.
    pub async fn look(url: &str) -> Result<Self, String> {
        let server =
            Self { url: url.to_owned(), version: String::new(), settings: Vec::new(), postmaster: None };
        let (version, settings, pid) = server
            .ask(|client| {
                let mut show = |name: &str| {
                    let row = client.query_one(&format!("show {name}"), &[])?;
                    Ok::<_, postgres::Error>(row.get::<_, String>(0))
                };
                let version = show("server_version")?;
                let mut settings = Vec::new();
                for name in SETTINGS {
                    settings.push((name.to_owned(), show(name)?));
                }
                let pid: i32 = client.query_one("select pg_backend_pid()", &[])?.get(0);
                let local: bool = client
                    .query_one("select coalesce(inet_client_addr() = inet_server_addr(), true)", &[])?
                    .get(0);
                // The session still runs, so its parent is the server itself.
                let parent = u32::try_from(pid).ok().filter(|_| local).and_then(machine::parent_of);
                Ok((version, settings, parent))
            })
            .await?;
        for (name, value) in settings.iter().take(3) {
            if value != "on" {
                return Err(format!("PostgreSQL has {name} = {value}; a run measures durable commits only"));
            }
        }
        Ok(Self { version, settings, postmaster: pid, ..server })
    }

    /// What the ledger says of [`ORG`].
    ///
    /// # Errors
    /// When the database doesn't answer.
    pub async fn books(&self) -> Result<Books, String> {
        let sql = "
            with charged as (
                select (c ->> 0)::bigint as budget_id, sum(r.cost_nanousd)::bigint as spent
                  from llm_requests r cross join jsonb_array_elements(r.counters) c
                 where r.org = $1 group by 1
            ), counted as (
                select budget_id, sum(spent_nanousd)::bigint as spent, sum(held_nanousd)::bigint as held
                  from budget_counters where org = $1 group by 1
            )
            select (select count(*) from llm_requests where org = $1 and entry = 0),
                   (select count(*) from llm_requests where org = $1 and admission <> 'held'),
                   (select count(*) from llm_requests
                     where org = $1 and not (cause = 'settled' and usage_quality = 'exact' and entry = 0)),
                   (select count(*) from holds where org = $1 and state = 'open'),
                   (select count(*) from counted k full join charged c using (budget_id)
                     where coalesce(k.spent, 0) <> coalesce(c.spent, 0) or coalesce(k.held, 0) <> 0)";
        self.ask(move |client| {
            let row = client.query_one(sql, &[&ORG])?;
            let count = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
            Ok(Books {
                settled: count(0),
                unchecked: count(1),
                inexact: count(2),
                open_holds: count(3),
                wrong_budgets: count(4),
            })
        })
        .await
    }

    /// Runs `question` on a connection of its own, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Result<T, String> {
        let url = self.url.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&url, NoTls)?;
            question(&mut client)
        });
        let answer = asked.await.map_err(|error| format!("a question to PostgreSQL: {error}"))?;
        answer.map_err(|error| match error.as_db_error() {
            Some(problem) => format!("PostgreSQL: {problem}"),
            None => format!("PostgreSQL: {error}"),
        })
    }
}
