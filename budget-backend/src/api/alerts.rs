//! Alerts with what became of telling them, and the receivers they are told to.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::place::actor;
use super::{ApiError, AppState, validate};
use crate::admin::webhooks::{
    self, AlertRow, DeliveryRow, MAX_WEBHOOKS, NewWebhook, WebhookChange, WebhookRow,
};
use crate::alerts::payload::{Alert, text};
use crate::alerts::webhook::{check_url, hex};
use crate::window::rfc3339;

/// Alerts in one answer.
const ALERTS: i64 = 200;

/// Every org's alerts.
const EVERY: &str = "*";

/// Shortest and longest secret, bytes.
const SECRET_BYTES: (usize, usize) = (16, 256);

/// Which alerts to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertFilter {
    org: String,
    before: Option<i64>,
}

/// An alert.
#[derive(Debug, Serialize)]
struct AlertView {
    alert_id: i64,
    kind: String,
    budget_id: Option<i64>,
    subject: Option<String>,
    period_start: Option<String>,
    threshold_percent: Option<i32>,
    raised_at: Option<String>,
    text: String,
    facts: serde_json::Value,
    deliveries: Vec<DeliveryView>,
}

/// What became of telling it to one receiver.
#[derive(Debug, Serialize)]
struct DeliveryView {
    webhook_id: i64,
    state: String,
    attempts: i32,
    next_attempt_at: Option<String>,
    delivered_at: Option<String>,
    last_error: Option<String>,
}

/// A listing; `next_before` asks for the earlier ones.
#[derive(Debug, Serialize)]
pub struct AlertList {
    alerts: Vec<AlertView>,
    next_before: Option<i64>,
}

/// `GET /v1/alerts?org=…&before=…`: the latest first.
pub async fn list(
    State(state): State<AppState>,
    filter: Result<Query<AlertFilter>, QueryRejection>,
) -> Result<Json<AlertList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid)?;
    let before = filter.before.unwrap_or(i64::MAX);
    let (rows, mut deliveries) = webhooks::alerts_of(&state.pool, &filter.org, before, ALERTS).await?;
    let full = i64::try_from(rows.len()).is_ok_and(|count| count == ALERTS);
    let next_before = rows.last().filter(|_| full).map(|row| row.alert_id);
    let alerts = rows.into_iter().map(|row| {
        let told = deliveries.remove(&row.alert_id).unwrap_or_default();
        alert_view(&filter.org, row, told)
    });
    Ok(Json(AlertList { alerts: alerts.collect(), next_before }))
}

fn alert_view(org: &str, row: AlertRow, told: Vec<DeliveryRow>) -> AlertView {
    let raised_at = rfc3339(row.raised_at_unix_s);
    let alert = Alert {
        alert_id: row.alert_id,
        org: org.to_owned(),
        kind: row.kind,
        budget_id: row.budget_id,
        raised_at: raised_at.clone(),
        facts: row.facts,
    };
    AlertView {
        alert_id: row.alert_id,
        text: text(&alert),
        kind: alert.kind,
        budget_id: (row.budget_id != 0).then_some(row.budget_id),
        subject: Some(row.subject).filter(|subject| !subject.is_empty()),
        period_start: rfc3339(row.period_start_unix_s),
        threshold_percent: (row.threshold != 0).then_some(row.threshold),
        raised_at,
        facts: alert.facts,
        deliveries: told.into_iter().map(delivery_view).collect(),
    }
}

fn delivery_view(row: DeliveryRow) -> DeliveryView {
    let waits = row.state == "waiting";
    DeliveryView {
        webhook_id: row.webhook_id,
        attempts: row.attempts,
        next_attempt_at: rfc3339(row.due_at_unix_s).filter(|_| waits),
        delivered_at: row.delivered_at_unix_s.and_then(rfc3339),
        last_error: Some(row.last_error).filter(|error| !error.is_empty()),
        state: row.state,
    }
}

/// What a receiver takes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// The alert as JSON.
    #[default]
    Generic,
    /// What Slack and those like it take.
    Slack,
}

impl Format {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Slack => "slack",
        }
    }
}

/// A receiver to make.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Whose alerts; `*` for every org's.
    org: String,
    url: String,
    #[serde(default)]
    format: Format,
    /// Made up when not given.
    secret: Option<String>,
}

/// A change of a receiver; what is left out stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    url: Option<String>,
    format: Option<Format>,
    secret: Option<String>,
}

/// Which receivers to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgFilter {
    org: String,
}

/// A receiver. Its secret is told when it is made, and never again.
#[derive(Serialize)]
pub struct WebhookView {
    webhook_id: i64,
    org: String,
    url: String,
    format: String,
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// A listing.
#[derive(Serialize)]
pub struct WebhookList {
    webhooks: Vec<WebhookView>,
}

/// `POST /v1/webhooks`.
pub async fn create_webhook(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<WebhookView>), ApiError> {
    let Json(body) = body?;
    org_or_every(&body.org)?;
    check_url(&body.url, state.webhook_reach).map_err(ApiError::invalid)?;
    let secret = match body.secret {
        Some(secret) => checked_secret(secret)?,
        None => new_secret()?,
    };
    let new = NewWebhook { org: body.org, url: body.url, format: body.format.as_str(), secret };
    let Some(row) = webhooks::create(&state.pool, &actor(&headers)?, &new).await? else {
        return Err(ApiError::conflict(format!("org {} has {MAX_WEBHOOKS} webhooks already", new.org)));
    };
    Ok((StatusCode::CREATED, Json(WebhookView { secret: Some(new.secret), ..webhook_view(row) })))
}

/// `GET /v1/webhooks?org=…`.
pub async fn webhooks(
    State(state): State<AppState>,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<WebhookList>, ApiError> {
    let Query(filter) = filter?;
    org_or_every(&filter.org)?;
    let rows = webhooks::of_org(&state.pool, &filter.org).await?;
    Ok(Json(WebhookList { webhooks: rows.into_iter().map(webhook_view).collect() }))
}

/// `PATCH /v1/webhooks/{webhook_id}`.
pub async fn change_webhook(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(webhook_id): Path<String>,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<WebhookView>, ApiError> {
    let Json(body) = body?;
    let number = number(&webhook_id)?;
    if body.url.is_none() && body.format.is_none() && body.secret.is_none() {
        return Err(ApiError::invalid("expected one of url, format, secret"));
    }
    if let Some(url) = &body.url {
        check_url(url, state.webhook_reach).map_err(ApiError::invalid)?;
    }
    let secret = body.secret.map(checked_secret).transpose()?;
    let change = WebhookChange { url: body.url, format: body.format.map(Format::as_str), secret };
    let changed = webhooks::change(&state.pool, &actor(&headers)?, number, &change).await?;
    changed.map(|row| Json(webhook_view(row))).ok_or_else(|| none(&webhook_id))
}

/// `DELETE /v1/webhooks/{webhook_id}`: it gets nothing more.
pub async fn delete_webhook(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(webhook_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let number = number(&webhook_id)?;
    if webhooks::archive(&state.pool, &actor(&headers)?, number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none(&webhook_id))
    }
}

fn webhook_view(row: WebhookRow) -> WebhookView {
    WebhookView {
        webhook_id: row.webhook_id,
        org: row.org,
        url: row.url,
        format: row.format,
        created_at: rfc3339(row.created_at_unix_s),
        secret: None,
    }
}

fn org_or_every(org: &str) -> Result<(), ApiError> {
    if org == EVERY { Ok(()) } else { validate::name("org", org).map_err(ApiError::invalid) }
}

fn number(webhook_id: &str) -> Result<i64, ApiError> {
    webhook_id.parse().map_err(|_| none(webhook_id))
}

fn none(webhook_id: &str) -> ApiError {
    ApiError::not_found(format!("there is no webhook {webhook_id}"))
}

fn checked_secret(secret: String) -> Result<String, ApiError> {
    let (least, most) = SECRET_BYTES;
    let sound = (least..=most).contains(&secret.len()) && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if sound {
        Ok(secret)
    } else {
        Err(ApiError::invalid(format!("secret: expected {least} to {most} visible ASCII characters")))
    }
}

fn new_secret() -> Result<String, ApiError> {
    let mut bytes = [0_u8; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| ApiError::unavailable("the system gives no random numbers"))?;
    Ok(hex(&bytes))
}
