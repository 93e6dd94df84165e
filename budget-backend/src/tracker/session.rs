//! A connection that prepares each statement once: half the round trips, and no planning in a loop.

use std::collections::HashMap;

use postgres::types::ToSql;
use postgres::{Client, Error, Row, Statement, Transaction};

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
        Ok(Open { transaction: self.client.transaction()?, statements: &mut self.statements })
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
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// A running transaction.
pub struct Open<'a> {
    transaction: Transaction<'a>,
    statements: &'a mut Statements,
}

impl Open<'_> {
    fn prepared(&mut self, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.transaction.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Runs a statement; gives the number of rows touched.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql)?;
        self.transaction.execute(&statement, params)
    }

    /// Runs a query.
    ///
    /// # Errors
    /// The database's.
    pub fn query(&mut self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql)?;
        self.transaction.query(&statement, params)
    }

    /// Commits.
    ///
    /// # Errors
    /// The database's; the transaction may have been committed all the same when the connection broke.
    pub fn commit(self) -> Result<(), Error> {
        self.transaction.commit()
    }

    /// Rolls back.
    ///
    /// # Errors
    /// The database's.
    pub fn rollback(self) -> Result<(), Error> {
        self.transaction.rollback()
    }
}
