//! Alerts with what became of telling them, and the receivers they are told to.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, AppState, page, validate};
use crate::access::{Caller, EVERY_ORG};
use crate::admin::Editor;
use crate::admin::webhooks::{
    self, AlertRow, DeliveryRow, MAX_WEBHOOKS, NewWebhook, WebhookChange, WebhookRow,
};
use crate::alerts::payload::{Alert, text};
use crate::alerts::webhook::{check_url, hex};
use crate::budget::Scope;
use crate::window::rfc3339;

/// Shortest and longest secret, bytes.
const SECRET_BYTES: (usize, usize) = (16, 256);

/// Which alerts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlertFilter {
    /// The org.
    #[param(example = "acme")]
    org: String,
    /// The `next_cursor` of the part before.
    cursor: Option<String>,
    /// Most rows in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// An alert.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Alert)]
struct AlertView {
    alert_id: i64,
    kind: String,
    #[schema(required)]
    budget_id: Option<i64>,
    #[schema(required)]
    subject: Option<String>,
    #[schema(required)]
    period_start: Option<String>,
    #[schema(required)]
    threshold_percent: Option<i32>,
    #[schema(required)]
    raised_at: Option<String>,
    text: String,
    #[schema(value_type = Object)]
    facts: serde_json::Value,
    deliveries: Vec<DeliveryView>,
}

/// What became of telling it to one receiver.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryView {
    webhook_id: i64,
    state: String,
    attempts: i32,
    #[schema(required)]
    next_attempt_at: Option<String>,
    #[schema(required)]
    delivered_at: Option<String>,
    #[schema(required)]
    last_error: Option<String>,
}

/// Part of a listing; `next_cursor` continues it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertList {
    alerts: Vec<AlertView>,
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Lists alerts and what became of telling them, the latest first.
#[utoipa::path(get, path = "/v1/alerts", tag = "alerts", params(AlertFilter),
    responses((status = 200, description = "Part of the listing.", body = AlertList)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<AlertFilter>, QueryRejection>,
) -> Result<Json<AlertList>, ApiError> {
    let Query(filter) = filter?;
    validate::name("org", &filter.org).map_err(ApiError::invalid_parameter)?;
    let seen = caller.reads_org(&filter.org)?;
    let before = page::number(filter.cursor.as_deref())?.unwrap_or(i64::MAX);
    let limit = page::limit(filter.limit)?;
    let whose = (filter.org.as_str(), seen.team.as_deref());
    let (rows, mut deliveries) =
        webhooks::alerts_of(&state.pool, whose, before, limit.saturating_add(1)).await?;
    let (rows, next_cursor) = page::cut(rows, limit, |row| row.alert_id);
    let alerts = rows.into_iter().map(|row| {
        let told = deliveries.remove(&row.alert_id).unwrap_or_default();
        alert_view(&filter.org, row, told)
    });
    Ok(Json(AlertList { alerts: alerts.collect(), next_cursor }))
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
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WebhookFormat)]
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
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook)]
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
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChange)]
pub struct Change {
    url: Option<String>,
    format: Option<Format>,
    secret: Option<String>,
}

/// Which receivers to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OrgFilter {
    /// The org; `*` for receivers of every org's alerts.
    #[param(example = "acme")]
    org: String,
}

/// A receiver. Its secret is told when it is made, and never again.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    webhook_id: i64,
    org: String,
    url: String,
    format: String,
    #[schema(required)]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    secret: Option<String>,
}

/// A listing.
#[derive(Serialize, ToSchema)]
pub struct WebhookList {
    webhooks: Vec<WebhookView>,
}

/// Makes a receiver of alerts. Its secret is told in the answer, and never again. For those who edit the
/// whole org.
#[utoipa::path(post, path = "/v1/webhooks", tag = "alerts", request_body = Create,
    responses((status = 201, description = "Made.", body = WebhookView)))]
pub async fn create_webhook(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    body: Result<Json<Create>, JsonRejection>,
) -> Result<(StatusCode, Json<WebhookView>), ApiError> {
    let Json(body) = body?;
    org_or_every(&body.org)?;
    edits(&caller, &body.org)?;
    check_url(&body.url, state.webhook_reach).map_err(ApiError::invalid)?;
    let secret = match body.secret {
        Some(secret) => checked_secret(secret)?,
        None => new_secret()?,
    };
    let new = NewWebhook { org: body.org, url: body.url, format: body.format.as_str(), secret };
    let Some(row) = webhooks::create(&state.pool, &editor, &new).await? else {
        return Err(ApiError::conflict(format!("org {} has {MAX_WEBHOOKS} webhooks already", new.org)));
    };
    Ok((StatusCode::CREATED, Json(WebhookView { secret: Some(new.secret), ..webhook_view(row) })))
}

/// Lists the receivers of alerts. For those who read the whole org.
#[utoipa::path(get, path = "/v1/webhooks", tag = "alerts", params(OrgFilter),
    responses((status = 200, description = "The receivers.", body = WebhookList)))]
pub async fn webhooks(
    State(state): State<AppState>,
    caller: Caller,
    filter: Result<Query<OrgFilter>, QueryRejection>,
) -> Result<Json<WebhookList>, ApiError> {
    let Query(filter) = filter?;
    if filter.org == EVERY_ORG {
        caller.administers()?;
    } else {
        validate::name("org", &filter.org).map_err(ApiError::invalid_parameter)?;
        caller.reads_whole(&filter.org)?;
    }
    let rows = webhooks::of_org(&state.pool, &filter.org).await?;
    Ok(Json(WebhookList { webhooks: rows.into_iter().map(webhook_view).collect() }))
}

/// The number of a receiver.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "for the document alone")]
pub struct WebhookId {
    /// Its number.
    #[param(example = 1)]
    webhook_id: i64,
}

/// Changes a receiver; what is left out stays.
#[utoipa::path(patch, path = "/v1/webhooks/{webhook_id}", tag = "alerts", params(WebhookId), request_body = Change,
    responses((status = 200, description = "Changed.", body = WebhookView)))]
pub async fn change_webhook(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
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
    own(&state, &caller, number, &webhook_id).await?;
    let changed = webhooks::change(&state.pool, &editor, number, &change).await?;
    changed.map(|row| Json(webhook_view(row))).ok_or_else(|| none(&webhook_id))
}

/// Takes a receiver away: it gets nothing more.
#[utoipa::path(delete, path = "/v1/webhooks/{webhook_id}", tag = "alerts", params(WebhookId),
    responses((status = 204, description = "Taken away.")))]
pub async fn delete_webhook(
    State(state): State<AppState>,
    caller: Caller,
    editor: Editor,
    Path(webhook_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let number = number(&webhook_id)?;
    own(&state, &caller, number, &webhook_id).await?;
    if webhooks::archive(&state.pool, &editor, number).await? {
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
    if org == EVERY_ORG { Ok(()) } else { validate::name("org", org).map_err(ApiError::invalid) }
}

/// Receivers are a whole org's; those of every org are the admins'.
fn edits(caller: &Caller, org: &str) -> Result<(), ApiError> {
    if org == EVERY_ORG {
        caller.administers()?;
    }
    Ok(caller.edits(&Scope::new(org, "", ""))?)
}

/// Whether a receiver is this caller's to edit; another's is as if it did not exist.
async fn own(state: &AppState, caller: &Caller, number: i64, webhook_id: &str) -> Result<(), ApiError> {
    let org = webhooks::org_of(&state.pool, number).await?.ok_or_else(|| none(webhook_id))?;
    edits(caller, &org).map_err(|_| none(webhook_id))
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
