//! Receivers of alerts, and alerts with what became of telling them.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};

use super::Editor;
use super::policies::begin_edit;

/// A receiver to make.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Whose alerts it gets; `*` for every org's.
    pub org: String,
    /// Where.
    pub url: String,
    /// `generic` or `slack`.
    pub format: &'static str,
    /// What its deliveries are signed with.
    pub secret: String,
}

/// A receiver, without its secret.
#[derive(Debug, Clone)]
pub struct WebhookRow {
    /// Its number.
    pub webhook_id: i64,
    /// Whose alerts it gets.
    pub org: String,
    /// Where.
    pub url: String,
    /// `generic` or `slack`.
    pub format: String,
    /// When it was made, Unix seconds.
    pub created_at_unix_s: i64,
}

/// What to change of a receiver; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// Where.
    pub url: Option<String>,
    /// `generic` or `slack`.
    pub format: Option<&'static str>,
    /// What its deliveries are signed with.
    pub secret: Option<String>,
}

/// Most receivers an org has, and most for every org.
pub const MAX_WEBHOOKS: i64 = 20;

const COLUMNS: &str =
    "webhook_id, org, url, format, extract(epoch from created_at)::bigint as created_unix_s";

fn webhook(row: &PgRow) -> sqlx::Result<WebhookRow> {
    Ok(WebhookRow {
        webhook_id: row.try_get("webhook_id")?,
        org: row.try_get("org")?,
        url: row.try_get("url")?,
        format: row.try_get("format")?,
        created_at_unix_s: row.try_get("created_unix_s")?,
    })
}

/// Makes a receiver; `None` when its org has as many as it may.
///
/// # Errors
/// The database's.
pub async fn create(pool: &PgPool, editor: &Editor, new: &NewWebhook) -> sqlx::Result<Option<WebhookRow>> {
    let mut transaction = begin_edit(pool, editor).await?;
    sqlx::query("select pg_advisory_xact_lock(hashtext('purser.webhooks'))")
        .execute(&mut *transaction)
        .await?;
    let sql = format!(
        "insert into webhooks (org, url, format, secret) select $1, $2, $3, $4
          where (select count(*) from webhooks where org = $1 and archived_at is null) < $5 returning {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&new.org)
        .bind(&new.url)
        .bind(new.format)
        .bind(&new.secret)
        .bind(MAX_WEBHOOKS)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    row.as_ref().map(webhook).transpose()
}

/// An org's receivers; with `*` those of every org's alerts.
///
/// # Errors
/// The database's.
pub async fn of_org(pool: &PgPool, org: &str) -> sqlx::Result<Vec<WebhookRow>> {
    let sql =
        format!("select {COLUMNS} from webhooks where org = $1 and archived_at is null order by webhook_id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org).fetch_all(pool).await?;
    rows.iter().map(webhook).collect()
}

/// Changes a receiver; `None` when there is none of that number.
///
/// # Errors
/// The database's.
pub async fn change(
    pool: &PgPool,
    editor: &Editor,
    webhook_id: i64,
    change: &WebhookChange,
) -> sqlx::Result<Option<WebhookRow>> {
    let mut transaction = begin_edit(pool, editor).await?;
    let sql = format!(
        "update webhooks set url = coalesce($2, url), format = coalesce($3, format), secret = coalesce($4, secret)
          where webhook_id = $1 and archived_at is null returning {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(webhook_id)
        .bind(&change.url)
        .bind(change.format)
        .bind(&change.secret)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    row.as_ref().map(webhook).transpose()
}

/// Takes a receiver away; what it was sent stays known. `false` when there is none of that number.
///
/// # Errors
/// The database's.
pub async fn archive(pool: &PgPool, editor: &Editor, webhook_id: i64) -> sqlx::Result<bool> {
    let mut transaction = begin_edit(pool, editor).await?;
    let done =
        sqlx::query("update webhooks set archived_at = now() where webhook_id = $1 and archived_at is null")
            .bind(webhook_id)
            .execute(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// An alert.
#[derive(Debug, Clone)]
pub struct AlertRow {
    /// Its number.
    pub alert_id: i64,
    /// As in the table.
    pub kind: String,
    /// The budget, or 0.
    pub budget_id: i64,
    /// For a `*` budget the team or user; for an unknown price the provider and the model.
    pub subject: String,
    /// First second of the period or the hour.
    pub period_start_unix_s: i64,
    /// Percent of the limit, or 0.
    pub threshold: i32,
    /// When it was raised, Unix seconds.
    pub raised_at_unix_s: i64,
    /// What there is to tell.
    pub facts: serde_json::Value,
}

/// What became of telling an alert to one receiver.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// The receiver.
    pub webhook_id: i64,
    /// `waiting`, `delivered` or `given_up`.
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next, Unix seconds; of a waiting one.
    pub due_at_unix_s: i64,
    /// When it was accepted, Unix seconds.
    pub delivered_at_unix_s: Option<i64>,
    /// Why the last attempt failed.
    pub last_error: String,
}

/// Whose alerts a receiver gets.
///
/// # Errors
/// The database's.
pub async fn org_of(pool: &PgPool, webhook_id: i64) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("select org from webhooks where webhook_id = $1 and archived_at is null")
        .bind(webhook_id)
        .fetch_optional(pool)
        .await
}

/// An org's alerts, those on one team's budgets alone where one is given, before a number, the latest first, with their deliveries by alert.
///
/// # Errors
/// The database's.
pub async fn alerts_of(
    pool: &PgPool,
    (org, team): (&str, Option<&str>),
    before: i64,
    limit: i64,
) -> sqlx::Result<(Vec<AlertRow>, BTreeMap<i64, Vec<DeliveryRow>>)> {
    let rows = sqlx::query(
        "select alert_id, kind, budget_id, subject, extract(epoch from period_start)::bigint as start_unix_s,
                threshold, extract(epoch from raised_at)::bigint as raised_unix_s, facts
           from alerts a where org = $1 and alert_id < $2
            and ($4::text is null or exists (
                    select from budgets b where b.org = a.org and b.budget_id = a.budget_id
                       and (b.team = $4 or (b.team = '*' and a.subject = $4))))
          order by alert_id desc limit $3",
    )
    .bind(org)
    .bind(before)
    .bind(limit)
    .bind(team)
    .fetch_all(pool)
    .await?;
    let alerts = rows.iter().map(alert).collect::<sqlx::Result<Vec<_>>>()?;
    let ids: Vec<i64> = alerts.iter().map(|alert| alert.alert_id).collect();
    let rows = sqlx::query(
        "select alert_id, webhook_id, state, attempts, extract(epoch from due_at)::bigint as due_unix_s,
                extract(epoch from delivered_at)::bigint as delivered_unix_s, last_error
           from alert_deliveries where org = $1 and alert_id = any($2) order by alert_id, webhook_id",
    )
    .bind(org)
    .bind(ids)
    .fetch_all(pool)
    .await?;
    let mut deliveries: BTreeMap<i64, Vec<DeliveryRow>> = BTreeMap::new();
    for row in &rows {
        deliveries.entry(row.try_get("alert_id")?).or_default().push(DeliveryRow {
            webhook_id: row.try_get("webhook_id")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            due_at_unix_s: row.try_get("due_unix_s")?,
            delivered_at_unix_s: row.try_get("delivered_unix_s")?,
            last_error: row.try_get("last_error")?,
        });
    }
    Ok((alerts, deliveries))
}

fn alert(row: &PgRow) -> sqlx::Result<AlertRow> {
    let Json(facts): Json<serde_json::Value> = row.try_get("facts")?;
    Ok(AlertRow {
        alert_id: row.try_get("alert_id")?,
        kind: row.try_get("kind")?,
        budget_id: row.try_get("budget_id")?,
        subject: row.try_get("subject")?,
        period_start_unix_s: row.try_get("start_unix_s")?,
        threshold: row.try_get("threshold")?,
        raised_at_unix_s: row.try_get("raised_unix_s")?,
        facts,
    })
}
