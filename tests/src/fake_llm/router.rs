//! The endpoints.

use std::io::{self, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;

use super::State;
use super::answer::{Answer, error_body};
use super::bill::{BilledRow, OpenBill};
use super::chat::ChatRequest;
use super::controls::{Controls, Fault};
use super::price::{BilledTokens, models, price_of};
use super::received::ReceivedRow;
use super::serve::DropConnection;
use super::stream::{AnswerStream, flushed};

/// Largest request body read.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/billed", get(|Shared(state): Shared<Arc<State>>| async move { Json(state.bill.view()) }))
        .route(
            "/requests",
            get(|Shared(state): Shared<Arc<State>>| async move { Json(state.received.view()) }),
        )
        .route("/gate/{name}", post(open_gate))
        .fallback(api)
        .with_state(state)
}

async fn open_gate(Shared(state): Shared<Arc<State>>, Path(name): Path<String>) -> StatusCode {
    state.gates.open(&name);
    StatusCode::NO_CONTENT
}

/// Everything a caller of the real provider could ask; all of it goes into the log.
async fn api(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    state.received.count_attempt();
    let (parts, body) = request.into_parts();
    let mut row = received_row(&parts);
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned().unwrap_or_default();
            row.trailers = trailers.keys().map(ToString::to_string).collect();
            row.complete = true;
            Ok(collected.to_bytes())
        }
        Err(error) => Err(error.to_string()),
    };
    row.set_body(body.as_deref().unwrap_or_default());
    state.received.push(row);
    let body = match body {
        Ok(body) => body,
        Err(message) => return error(StatusCode::BAD_REQUEST, &message, None),
    };
    match (parts.method.as_str(), parts.uri.path()) {
        ("POST", "/v1/chat/completions") => match chat(&state, &parts.headers, &body).await {
            Ok(response) | Err(response) => response,
        },
        ("GET", "/v1/models") => {
            let model =
                |id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "system"});
            Json(json!({"object": "list", "data": models().map(model).collect::<Vec<_>>()})).into_response()
        }
        (method, path) => {
            let message = format!("Unknown request URL: {method} {path}. Please check the URL for typos.");
            error(StatusCode::NOT_FOUND, &message, Some("unknown_url"))
        }
    }
}

async fn chat(state: &Arc<State>, headers: &HeaderMap, body: &[u8]) -> Result<Response, Response> {
    let bad_request = |message: String| error(StatusCode::BAD_REQUEST, &message, None);
    let controls = Controls::from_headers(headers).map_err(bad_request)?;
    if let Some(status) = controls.status {
        tokio::time::sleep(controls.delay).await;
        return Err(error(status, "The fake provider was told to fail.", None));
    }
    let request = ChatRequest::parse(body).map_err(bad_request)?;
    let unknown_model = || {
        let message =
            format!("The model `{}` does not exist or you do not have access to it.", request.model);
        error(StatusCode::NOT_FOUND, &message, Some("model_not_found"))
    };
    let asked_price = price_of(&request.model).ok_or_else(unknown_model)?;
    let answer = Answer::decide(&request, &controls, &state.ids);
    let row = BilledRow {
        response_id: answer.id.clone(),
        model: answer.model.clone(),
        stream: request.streams(),
        complete: false,
        tokens: BilledTokens {
            input_tokens: answer.tokens.prompt - answer.tokens.cached,
            cached_tokens: answer.tokens.cached,
            ..BilledTokens::default()
        },
        amount_nanousd: 0,
    };
    let price = price_of(&answer.model).unwrap_or(asked_price);
    let mut bill = OpenBill::open(Arc::clone(&state.bill), price, row);

    tokio::time::sleep(controls.delay).await;
    match controls.fault {
        Some(Fault::ResetBeforeHeaders) => {
            bill.forgive();
            return Err(DropConnection::response());
        }
        Some(Fault::Hang) => std::future::pending::<()>().await,
        Some(Fault::Garbage) => {
            let usage = answer.tokens.usage();
            let output = usage.completion_tokens;
            bill.produce(output, usage.completion_tokens_details.reasoning_tokens);
            bill.close_complete();
            let kind = if request.streams() { EVENT_STREAM } else { JSON };
            return Ok(([(header::CONTENT_TYPE, kind)], &b"\xff\xfe{{{ not\n\nwhat you\x00 asked for"[..])
                .into_response());
        }
        _ => {}
    }
    if request.streams() {
        Ok(streamed(state, &request, answer, controls, bill).await)
    } else {
        plain(state, &answer, &controls, bill).await
    }
}

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

async fn streamed(
    state: &Arc<State>,
    request: &ChatRequest,
    answer: Answer,
    controls: Controls,
    bill: OpenBill,
) -> Response {
    let headers = answer_headers(&answer, &controls, EVENT_STREAM);
    let (include_usage, buffered) = (request.includes_usage(), controls.buffered);
    let events = AnswerStream::new(Arc::clone(state), answer, controls, include_usage, bill);
    if !buffered {
        return (headers, Body::from_stream(events.into_body())).into_response();
    }
    let whole: Result<Vec<Bytes>, io::Error> = events.into_body().try_collect().await;
    match whole {
        Ok(pieces) => (headers, pieces.concat()).into_response(),
        Err(_) => DropConnection::response(),
    }
}

async fn plain(
    state: &State,
    answer: &Answer,
    controls: &Controls,
    mut bill: OpenBill,
) -> Result<Response, Response> {
    if controls.has(Fault::Endless) {
        std::future::pending::<()>().await;
    }
    if let Some(gate) = &controls.gate {
        state.gates.pass(gate).await;
    }
    if controls.has(Fault::ErrorInStream) {
        bill.forgive();
        return Err(error(StatusCode::INTERNAL_SERVER_ERROR, "The fake provider was told to fail.", None));
    }
    let usage = answer.tokens.usage();
    bill.produce(usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens);
    bill.close_complete();
    let mut body = answer.plain(!controls.has(Fault::NoUsage));
    if controls.has(Fault::Gzip) {
        body = gzip(&body)
            .map_err(|failed| error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string(), None))?;
    }
    let headers = answer_headers(answer, controls, JSON);
    if !controls.has(Fault::Cut) {
        return Ok((headers, body).into_response());
    }
    let announced = [(header::CONTENT_LENGTH, body.len().to_string())];
    body.truncate(body.len() / 2);
    let half = [Ok(Bytes::from(body)), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
    Ok((headers, announced, Body::from_stream(stream::iter(half).then(flushed))).into_response())
}

fn answer_headers(answer: &Answer, controls: &Controls, content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert("openai-version", header::HeaderValue::from_static("2020-10-01"));
    if let Ok(id) = answer.id.replace("chatcmpl-", "req_").parse() {
        headers.insert("x-request-id", id);
    }
    if controls.has(Fault::Gzip) {
        headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    headers
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

fn error(status: StatusCode, message: &str, code: Option<&str>) -> Response {
    (status, Json(error_body(status, message, code))).into_response()
}

fn received_row(parts: &Parts) -> ReceivedRow {
    let header = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        (name.to_string(), value.as_bytes().escape_ascii().to_string())
    };
    ReceivedRow {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        version: format!("{:?}", parts.version),
        headers: parts.headers.iter().map(header).collect(),
        ..ReceivedRow::default()
    }
}
