//! A connection that prepares each statement once: half the round trips, and no planning in a loop.

use std::collections::HashMap;

use postgres::types::ToSql;
use postgres::{Client, Error, Row, Statement};

use crate::db::{ConnectError, SyncConfig};

type Statements = HashMap<&'static str, Statement>;

/// A connection and its prepared statements.
pub struct Session {
    client: Client,
    statements: Statements,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(config: &SyncConfig) -> Result<Self, ConnectError> {
        Ok(Self { client: config.connect()?, statements: Statements::new() })
    }

    /// Whether the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction; dropped without a commit, it is rolled back.
    ///
    /// # Errors
    /// The database's.
    pub fn begin(&mut self) -> Result<Open<'_>, Error> {
        self.client.batch_execute("begin")?;
        Ok(Open { client: &mut self.client, statements: &mut self.statements, running: true })
    }

    /// Runs a statement in a transaction of its own; gives the number of rows touched.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql)?;
        self.client.execute(&statement, params)
    }

    /// Runs a query in a transaction of its own.
    ///
    /// # Errors
    /// The database's.
    pub fn query(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql)?;
        self.client.query(&statement, params)
    }

    fn prepared(&mut self, sql: &'static str) -> Result<Statement, Error> {
        prepared(&mut self.client, &mut self.statements, sql)
    }
}

/// Ends a transaction so that its locks are free before its record is on the disk, and then waits until
/// it is: what comes after it in the log is written durably, and with it all that came before. Whoever
/// saw its rows meanwhile commits later in the same log, and so can't outlive it.
pub const COMMIT_AND_FLUSH: &str =
    "set local synchronous_commit = off; commit; select pg_logical_emit_message(true, 'purser', '')";

/// A running transaction; dropped without a commit, it is rolled back.
pub struct Open<'a> {
    client: &'a mut Client,
    statements: &'a mut Statements,
    running: bool,
}

impl Open<'_> {
    fn prepared(&mut self, sql: &'static str) -> Result<Statement, Error> {
        prepared(self.client, self.statements, sql)
    }

    /// Runs a statement; gives the number of rows touched.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql)?;
        self.client.execute(&statement, params)
    }

    /// Runs a query.
    ///
    /// # Errors
    /// The database's.
    pub fn query(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql)?;
        self.client.query(&statement, params)
    }

    /// Commits; comes back when that is durable.
    ///
    /// # Errors
    /// The database's; the transaction may have been committed all the same when the connection broke.
    pub fn commit(mut self) -> Result<(), Error> {
        self.client.batch_execute(COMMIT_AND_FLUSH)?;
        self.running = false;
        Ok(())
    }

    /// Rolls back.
    ///
    /// # Errors
    /// The database's.
    pub fn rollback(mut self) -> Result<(), Error> {
        self.running = false;
        self.client.batch_execute("rollback")
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.running {
            // A connection on which even this fails is closed, and its transaction with it.
            let _broken = self.client.batch_execute("rollback");
        }
    }
}

fn prepared(client: &mut Client, statements: &mut Statements, sql: &'static str) -> Result<Statement, Error> {
    if let Some(statement) = statements.get(sql) {
        return Ok(statement.clone());
    }
    let statement = client.prepare(sql)?;
    statements.insert(sql, statement.clone());
    Ok(statement)
}
