//! `Idempotency-Key`: a create that is sent again is answered again, not done again.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{Context, SHA256};
use serde_json::Value;
use sqlx::PgPool;

use super::ApiError;
use crate::access::Caller;
use crate::admin::idempotency::{self, Answer, Key, Known};
use crate::server::limits::MAX_BODY_BYTES;

/// The header.
pub const HEADER: &str = "idempotency-key";

/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, bytes.
const MAX_KEY_BYTES: usize = 255;

/// Longest answer that is kept, bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What is told once and kept nowhere.
const SECRETS: [&str; 2] = ["token", "secret"];

/// Answers a repeat; else lets the request through, with its key for the edit to note.
pub async fn once(State(pool): State<PgPool>, request: Request, next: Next) -> Response {
    let given = request.headers().get(HEADER).filter(|_| request.method() == Method::POST).cloned();
    let Some(given) = given else { return next.run(request).await };
    match carried_out(&pool, &given, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn carried_out(
    pool: &PgPool,
    given: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let expected = || {
        ApiError::invalid(format!("Idempotency-Key: expected 1 to {MAX_KEY_BYTES} visible ASCII characters"))
    };
    let key =
        given.to_str().ok().filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len())).ok_or_else(expected)?;
    let caller = parts.extensions.get::<Caller>().ok_or_else(ApiError::unauthorized)?;
    let caller = caller.token_id.map_or_else(|| "environment".to_owned(), |id| format!("token {id}"));
    let bytes = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::too_large(MAX_BODY_BYTES))?;
    let mut hash = Context::new(&SHA256);
    for part in [parts.method.as_str().as_bytes(), parts.uri.to_string().as_bytes(), &bytes] {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    }
    let key = Key { caller, key: key.to_owned(), request_sha256: hash.finish().as_ref().to_vec() };
    match idempotency::find(pool, &key).await? {
        Known::Fresh => {}
        Known::Other => return Err(ApiError::key_reused()),
        Known::Done(Some(answer)) => return Ok(again(answer)),
        Known::Done(None) => {
            return Err(ApiError::conflict(
                "Idempotency-Key: the request with this key was carried out, but its answer is not known (yet)",
            ));
        }
    }
    parts.extensions.insert(key.clone());
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    if response.status().is_success() { keep(pool, &key, response).await } else { Ok(response) }
}

fn again(answer: Answer) -> Response {
    let status = u16::try_from(answer.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = (status.unwrap_or(StatusCode::OK), answer.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(etag) = answer.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        headers.insert(header::ETAG, etag);
    }
    response
}

async fn keep(pool: &PgPool, key: &Key, response: Response) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::unavailable("it was carried out, but its answer broke off"))?;
    if let Some(body) = without_secrets(&bytes) {
        let etag = parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let answer = Answer { status: i32::from(parts.status.as_u16()), etag, body };
        if let Err(error) = idempotency::keep(pool, key, &answer).await {
            // It was done, and a repeat is told so.
            tracing::warn!(%error, "an answer could not be kept for its Idempotency-Key");
        }
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// The answer as it is kept: a secret is told once.
fn without_secrets(bytes: &[u8]) -> Option<String> {
    if bytes.len() > MAX_ANSWER_BYTES {
        return None;
    }
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    if let Some(fields) = answer.as_object_mut() {
        for secret in SECRETS {
            fields.remove(secret);
        }
    }
    Some(answer.to_string())
}
