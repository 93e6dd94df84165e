//! The operators' queries on what bends a budget: top-ups, rules, overrides.

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row, Transaction};

use super::{Editor, MAX_ROWS, Standing, idempotency};
use crate::budget::Scope;
use crate::ledger::decide::CounterKey;
use crate::ledger::store::insert_counters;
use crate::pattern::Patterns;

/// A rule as an operator sets it.
#[derive(Debug, Clone)]
pub struct RuleRow {
    /// Whom it covers.
    pub scope: Scope,
    /// The kill switch.
    pub blocked: bool,
    /// Said to whoever is refused by it.
    pub reason: String,
    /// Models that may be called; none means every model.
    pub allowed_models: Patterns,
    /// Models that may not.
    pub denied_models: Patterns,
    /// Names of the tiers in which a call must find a budget.
    pub required_tiers: Vec<String>,
    /// Whether calls to models without a price of their own are refused.
    pub deny_unknown_models: bool,
}

/// An override to start.
#[derive(Debug, Clone)]
pub struct NewOverride {
    /// Whose calls no budget refuses.
    pub scope: Scope,
    /// Who breaks the glass.
    pub created_by: String,
    /// Why.
    pub reason: String,
    /// For how long.
    pub minutes: i32,
}

/// An override; instants in Unix seconds.
#[derive(Debug, Clone)]
pub struct OverrideRow {
    /// Its number.
    pub override_id: i64,
    /// Whose calls no budget refuses.
    pub scope: Scope,
    /// Who broke the glass.
    pub created_by: String,
    /// Why.
    pub reason: String,
    /// When it began.
    pub created_at_unix_s: i64,
    /// When it ends by itself.
    pub expires_at_unix_s: i64,
    /// When it was ended early.
    pub ended_at_unix_s: Option<i64>,
    /// Whether it is in force.
    pub active: bool,
}

/// An extra amount for one period of a counter.
#[derive(Debug, Clone)]
pub struct TopUp {
    /// The counter.
    pub counter: CounterKey,
    /// How much, nano-USD.
    pub amount_nanousd: i64,
    /// Why.
    pub reason: String,
}

/// Begins an edit in somebody's name; the audit log takes the name from the transaction.
///
/// # Errors
/// The database's; see [`idempotency::is_running`].
pub async fn begin_edit(pool: &PgPool, editor: &Editor) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut transaction = pool.begin().await?;
    let name = "select set_config('purser.actor', $1, true)";
    sqlx::query(name).bind(&editor.name).execute(&mut *transaction).await?;
    if let Some(key) = &editor.key {
        idempotency::note(&mut transaction, key).await?;
    }
    Ok(transaction)
}

/// Adds to a budget's limit in one period; gives back what the counter stands at then, `None` when the
/// budget is gone.
///
/// # Errors
/// The database's; a sum beyond what fits is one of class 22.
pub async fn top_up(pool: &PgPool, editor: &Editor, top_up: &TopUp) -> sqlx::Result<Option<Standing>> {
    insert_counters(pool, &[top_up.counter.clone()].into()).await?;
    let mut transaction = begin_edit(pool, editor).await?;
    let counter = &top_up.counter.counter;
    let raised = sqlx::query(
        "with raised as (
             update budget_counters c set topped_up_nanousd = topped_up_nanousd + $5
              where org = $1 and budget_id = $2 and subject = $3 and period_start = to_timestamp($4)
                and exists (select from budgets b
                             where b.org = c.org and b.budget_id = c.budget_id and b.archived_at is null)
             returning org, budget_id, subject, period_start, spent_nanousd, held_nanousd, topped_up_nanousd
         ), noted as (
             insert into budget_top_ups (org, budget_id, subject, period_start, amount_nanousd, reason)
             select org, budget_id, subject, period_start, $5, $6 from raised
         )
         select subject, spent_nanousd, held_nanousd, topped_up_nanousd from raised",
    )
    .bind(&top_up.counter.org)
    .bind(counter.budget_id)
    .bind(&counter.subject)
    .bind(counter.period_start_unix_s)
    .bind(top_up.amount_nanousd)
    .bind(&top_up.reason)
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    raised.as_ref().map(standing).transpose()
}

fn standing(row: &PgRow) -> sqlx::Result<Standing> {
    Ok(Standing {
        subject: row.try_get("subject")?,
        spent_nanousd: row.try_get("spent_nanousd")?,
        held_nanousd: row.try_get("held_nanousd")?,
        topped_up_nanousd: row.try_get("topped_up_nanousd")?,
    })
}

/// Sets the rule of a scope, whole.
///
/// # Errors
/// The database's.
pub async fn set_rule(pool: &PgPool, editor: &Editor, rule: &RuleRow) -> sqlx::Result<()> {
    let mut transaction = begin_edit(pool, editor).await?;
    sqlx::query(
        "insert into call_rules (org, team, user_name, blocked, reason, allowed_models, denied_models,
                                 required_tiers, unknown_models)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (org, team, user_name) do update
            set blocked = excluded.blocked, reason = excluded.reason, allowed_models = excluded.allowed_models,
                denied_models = excluded.denied_models, required_tiers = excluded.required_tiers,
                unknown_models = excluded.unknown_models, updated_at = now()",
    )
    .bind(&rule.scope.org)
    .bind(&rule.scope.team)
    .bind(&rule.scope.user)
    .bind(rule.blocked)
    .bind(&rule.reason)
    .bind(rule.allowed_models.names())
    .bind(rule.denied_models.names())
    .bind(&rule.required_tiers)
    .bind(if rule.deny_unknown_models { "deny" } else { "ceiling" })
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Takes the rule of a scope away. `false` when it had none.
///
/// # Errors
/// The database's.
pub async fn delete_rule(pool: &PgPool, editor: &Editor, scope: &Scope) -> sqlx::Result<bool> {
    let mut transaction = begin_edit(pool, editor).await?;
    let done = sqlx::query("delete from call_rules where org = $1 and team = $2 and user_name = $3")
        .bind(&scope.org)
        .bind(&scope.team)
        .bind(&scope.user)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// The rules of an org, of one team alone where one is given.
///
/// # Errors
/// The database's.
pub async fn rules_of(pool: &PgPool, org: &str, team: Option<&str>) -> sqlx::Result<Vec<RuleRow>> {
    let rows = sqlx::query(
        "select org, team, user_name, blocked, reason, allowed_models, denied_models, required_tiers,
                unknown_models = 'deny' as deny_unknown_models
           from call_rules where org = $1 and ($3::text is null or team = $3) order by team, user_name limit $2",
    )
    .bind(org)
    .bind(MAX_ROWS)
    .bind(team)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(RuleRow {
                scope: scope(row)?,
                blocked: row.try_get("blocked")?,
                reason: row.try_get("reason")?,
                allowed_models: Patterns::new(row.try_get("allowed_models")?),
                denied_models: Patterns::new(row.try_get("denied_models")?),
                required_tiers: row.try_get("required_tiers")?,
                deny_unknown_models: row.try_get("deny_unknown_models")?,
            })
        })
        .collect()
}

fn scope(row: &PgRow) -> sqlx::Result<Scope> {
    Ok(Scope::new(row.try_get("org")?, row.try_get("team")?, row.try_get("user_name")?))
}

const OVERRIDE_COLUMNS: &str = "override_id, org, team, user_name, created_by, reason,
    extract(epoch from created_at)::bigint as created_at_unix_s,
    extract(epoch from least(expires_at, '9999-12-31'))::bigint as expires_at_unix_s,
    extract(epoch from ended_at)::bigint as ended_at_unix_s, ended_at is null and expires_at > now() as active";

fn override_row(row: &PgRow) -> sqlx::Result<OverrideRow> {
    Ok(OverrideRow {
        override_id: row.try_get("override_id")?,
        scope: scope(row)?,
        created_by: row.try_get("created_by")?,
        reason: row.try_get("reason")?,
        created_at_unix_s: row.try_get("created_at_unix_s")?,
        expires_at_unix_s: row.try_get("expires_at_unix_s")?,
        ended_at_unix_s: row.try_get("ended_at_unix_s")?,
        active: row.try_get("active")?,
    })
}

/// Starts an override.
///
/// # Errors
/// The database's.
pub async fn create_override(pool: &PgPool, editor: &Editor, new: &NewOverride) -> sqlx::Result<OverrideRow> {
    let mut transaction = begin_edit(pool, editor).await?;
    let sql = format!(
        "insert into overrides (org, team, user_name, created_by, reason, expires_at)
         values ($1, $2, $3, $4, $5, now() + $6 * interval '1 minute') returning {OVERRIDE_COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&new.scope.org)
        .bind(&new.scope.team)
        .bind(&new.scope.user)
        .bind(&new.created_by)
        .bind(&new.reason)
        .bind(new.minutes)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    override_row(&row)
}

/// Ends an override early. `false` when none of that number is in force.
///
/// # Errors
/// The database's.
pub async fn end_override(pool: &PgPool, editor: &Editor, override_id: i64) -> sqlx::Result<bool> {
    let mut transaction = begin_edit(pool, editor).await?;
    let done = sqlx::query(
        "update overrides set ended_at = now()
          where override_id = $1 and ended_at is null and expires_at > now()",
    )
    .bind(override_id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Whose calls an override is for.
///
/// # Errors
/// The database's.
pub async fn override_scope(pool: &PgPool, override_id: i64) -> sqlx::Result<Option<Scope>> {
    let sql = "select org, team, user_name from overrides where override_id = $1";
    let row = sqlx::query(sql).bind(override_id).fetch_optional(pool).await?;
    row.as_ref().map(scope).transpose()
}

/// The overrides of an org, of one team alone where one is given, latest first.
///
/// # Errors
/// The database's.
pub async fn overrides_of(pool: &PgPool, org: &str, team: Option<&str>) -> sqlx::Result<Vec<OverrideRow>> {
    let sql = format!(
        "select {OVERRIDE_COLUMNS} from overrides where org = $1 and ($3::text is null or team = $3)
          order by override_id desc limit $2"
    );
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org).bind(MAX_ROWS).bind(team).fetch_all(pool).await?;
    rows.iter().map(override_row).collect()
}
