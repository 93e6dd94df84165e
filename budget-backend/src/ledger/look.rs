//! A look at what would decide a call, holding nothing: one snapshot, no locks.

use std::collections::BTreeSet;

use purser_protocol::Payer;
use sqlx::PgPool;

use super::counters::{KeyColumns, READ_COUNTERS};
use super::decide::{CounterKey, Counters};
use super::policies::Policies;
use super::policy_rows::read_policies;
use super::store::counter;
use super::terms::{Terms, terms};
use crate::budget::Scope;
use crate::pattern::Names;
use crate::quote::Quotes;
use crate::window::WindowError;

/// Why nothing could be seen.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The database's.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A period can't be placed on the calendar.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// The terms of a call to the model of these names just now, and every counter that it may touch.
///
/// # Errors
/// [`LookError`].
pub async fn look(
    pool: &PgPool,
    payer: &Payer,
    model: &Names,
    others: &dyn Quotes,
) -> Result<(Terms, Counters), LookError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *transaction)
        .await?;
    let scopes: BTreeSet<Scope> = Scope::candidates(payer).into_iter().collect();
    let mut policies = Policies::default();
    let now_unix_us = read_policies(&mut transaction, &scopes, &mut policies).await?;
    let terms = terms(&policies, payer, model, others, now_unix_us)?;
    let keys: BTreeSet<CounterKey> = terms.all_touches().map(|touch| touch.key.clone()).collect();
    let k = KeyColumns::new(&keys);
    let rows = sqlx::query(READ_COUNTERS)
        .bind(&k.orgs)
        .bind(&k.budget_ids)
        .bind(&k.subjects)
        .bind(&k.periods)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let counters = rows.iter().map(counter).collect::<sqlx::Result<_>>()?;
    Ok((terms, counters))
}
