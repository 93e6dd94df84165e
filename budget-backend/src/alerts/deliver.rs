//! Emptying the outbox.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};
use tokio::task::JoinSet;

use super::AlertSettings;
use super::payload::{self, Alert};
use super::webhook::{self, Delivery};
use crate::window::rfc3339;

/// Deliveries tried side by side.
const AT_ONCE: i64 = 16;

/// Most batches in one round, so that a dead receiver of thousands holds nobody up for long.
const MAX_BATCHES: usize = 50;

/// Attempts before a delivery is given up: with a first pause of 30 s, about two days.
pub const MAX_ATTEMPTS: i32 = 13;

/// Longest pause between two attempts, seconds.
const MAX_PAUSE_S: i64 = 6 * 3_600;

/// Longest error kept, characters.
const MAX_ERROR_CHARS: usize = 300;

/// What became of a round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Accepted by their receivers.
    pub accepted: u64,
    /// Not accepted, this time or for good.
    pub failed: u64,
}

/// Tries all deliveries that are due.
///
/// # Errors
/// The database's. What was sent by then and is not written down is sent again.
pub async fn due(pool: &PgPool, settings: &AlertSettings) -> sqlx::Result<Delivered> {
    let mut done = Delivered::default();
    for _ in 0..MAX_BATCHES {
        let claimed = claim(pool, settings).await?;
        if claimed.is_empty() {
            break;
        }
        let mut sending = JoinSet::new();
        for one in claimed {
            let (reach, limit) = (settings.reach, settings.timeout);
            sending.spawn(async move {
                let sent = webhook::send(&one.delivery, reach, limit).await;
                (one.key, sent)
            });
        }
        while let Some(ended) = sending.join_next().await {
            let Ok((key, sent)) = ended else { continue };
            match &sent {
                Ok(()) => done.accepted = done.accepted.saturating_add(1),
                Err(_) => done.failed = done.failed.saturating_add(1),
            }
            note(pool, &key, sent).await?;
        }
    }
    Ok(done)
}

/// Org, alert, receiver.
type Key = (String, i64, i64);

struct Claimed {
    key: Key,
    delivery: Delivery,
}

/// Takes some that are due. Until their next attempt is due nobody else takes them, which is later than
/// this one can take.
async fn claim(pool: &PgPool, settings: &AlertSettings) -> sqlx::Result<Vec<Claimed>> {
    let lease = settings.timeout.saturating_mul(3).saturating_add(Duration::from_secs(5));
    let seconds = |duration: Duration| i64::try_from(duration.as_secs().max(1)).unwrap_or(MAX_PAUSE_S);
    let rows = sqlx::query(
        "with due as (
             select d.org, d.alert_id, d.webhook_id from alert_deliveries d
              where d.state = 'waiting' and d.due_at <= now()
              order by d.due_at limit $1 for update skip locked),
         taken as (
             update alert_deliveries d
                set attempts = d.attempts + 1, last_tried_at = now(),
                    due_at = now() + greatest($2, least($3 * (1::bigint << least(d.attempts, 20)), $4))
                                     * interval '1 second'
               from due where (d.org, d.alert_id, d.webhook_id) = (due.org, due.alert_id, due.webhook_id)
             returning d.org, d.alert_id, d.webhook_id)
         select t.org, t.alert_id, t.webhook_id, w.url, w.secret, w.format, w.archived_at is not null as gone,
                a.kind, a.budget_id, a.facts, extract(epoch from a.raised_at)::bigint as raised_unix_s,
                extract(epoch from now())::bigint as now_unix_s
           from taken t
           join alerts a on a.org = t.org and a.alert_id = t.alert_id
           join webhooks w on w.webhook_id = t.webhook_id",
    )
    .bind(AT_ONCE)
    .bind(seconds(lease))
    .bind(seconds(settings.retry))
    .bind(MAX_PAUSE_S)
    .fetch_all(pool)
    .await?;
    let mut claimed = Vec::new();
    for row in &rows {
        let one = read(row)?;
        if row.try_get("gone")? {
            give_up(pool, &one.key, "the receiver was taken away").await?;
        } else {
            claimed.push(one);
        }
    }
    Ok(claimed)
}

fn read(row: &PgRow) -> sqlx::Result<Claimed> {
    let Json(facts): Json<Value> = row.try_get("facts")?;
    let alert = Alert {
        alert_id: row.try_get("alert_id")?,
        org: row.try_get("org")?,
        kind: row.try_get("kind")?,
        budget_id: row.try_get("budget_id")?,
        raised_at: rfc3339(row.try_get("raised_unix_s")?),
        facts,
    };
    let format: String = row.try_get("format")?;
    Ok(Claimed {
        key: (alert.org.clone(), alert.alert_id, row.try_get("webhook_id")?),
        delivery: Delivery {
            url: row.try_get("url")?,
            secret: row.try_get("secret")?,
            alert_id: alert.alert_id,
            body: payload::body(&alert, &format),
            at_unix_s: row.try_get("now_unix_s")?,
        },
    })
}

async fn note(pool: &PgPool, key: &Key, sent: Result<(), String>) -> sqlx::Result<()> {
    let error = match sent {
        Ok(()) => String::new(),
        Err(error) => error.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect(),
    };
    sqlx::query(
        "update alert_deliveries
            set last_error = $4, delivered_at = case when $4 = '' then now() end,
                state = case when $4 = '' then 'delivered' when attempts >= $5 then 'given_up' else state end
          where org = $1 and alert_id = $2 and webhook_id = $3 and state = 'waiting'",
    )
    .bind(&key.0)
    .bind(key.1)
    .bind(key.2)
    .bind(error)
    .bind(MAX_ATTEMPTS)
    .execute(pool)
    .await
    .map(drop)
}

async fn give_up(pool: &PgPool, key: &Key, why: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update alert_deliveries set state = 'given_up', last_error = $4
          where org = $1 and alert_id = $2 and webhook_id = $3",
    )
    .bind(&key.0)
    .bind(key.1)
    .bind(key.2)
    .bind(why)
    .execute(pool)
    .await
    .map(drop)
}
