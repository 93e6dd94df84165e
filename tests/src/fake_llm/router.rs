//! The endpoints: what is received is logged, then the API answers that the path names.

use std::io::{self, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::State;
use super::apis::{self, Api};
use super::bill::{BilledRow, OpenBill};
use super::call::{Call, ErrorShape, JSON, Refusal, Script, Shape, Step, Steps};
use super::controls::{Controls, Fault};
use super::price::models;
use super::received::ReceivedRow;
use super::serve::DropConnection;
use super::stream::{AnswerStream, flushed, pieces};

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

/// Everything a caller of the real providers could ask; all of it goes into the log.
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
        Err(message) => return refuse(ErrorShape::OpenAi, &Refusal::bad_request(message)),
    };
    let path = parts.uri.path();
    match parts.method.as_str() {
        "POST" => {
            if let Some(api) = apis::find(path) {
                return match call(&state, &api, &parts, &body).await {
                    Ok(response) => with_trailers(&parts.headers, response),
                    Err(response) => response,
                };
            }
        }
        "GET" if path == "/v1/models" => return list_models(),
        _ => {}
    }
    let message = format!("Unknown request URL: {} {path}. Please check the URL for typos.", parts.method);
    refuse(ErrorShape::OpenAi, &Refusal { status: StatusCode::NOT_FOUND, message, code: Some("unknown_url") })
}

fn list_models() -> Response {
    let model = |id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "system"});
    Json(json!({"object": "list", "data": models().map(model).collect::<Vec<_>>()})).into_response()
}

async fn call(state: &Arc<State>, api: &Api, parts: &Parts, body: &[u8]) -> Result<Response, Response> {
    let refused = |refusal: Refusal| refuse(api.errors, &refusal);
    let controls =
        Controls::from_headers(&parts.headers).map_err(|message| refused(Refusal::bad_request(message)))?;
    if let Some(status) = controls.status {
        tokio::time::sleep(controls.delay).await;
        return Err(refused(told_to_fail(status)));
    }
    let call = Call {
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        controls: &controls,
        body,
        ids: &state.ids,
    };
    if let Some(free) = api.free {
        let answer = free(&call).map_err(refused)?;
        return Ok(([(header::CONTENT_TYPE, JSON)], answer.line()).into_response());
    }
    let script = (api.decide)(&call).map_err(refused)?;
    let mut bill = open_bill(state, &script, &controls);
    tokio::time::sleep(controls.delay).await;
    match controls.fault {
        Some(Fault::ResetBeforeHeaders) => {
            bill.forgive();
            return Err(DropConnection::response());
        }
        Some(Fault::Hang) => std::future::pending::<()>().await,
        Some(Fault::Garbage) => {
            produce_all(&mut bill, &script);
            let kind = [(header::CONTENT_TYPE, script.content_type)];
            return Ok((kind, &b"\xff\xfe{{{ not\n\nwhat you\x00 asked for"[..]).into_response());
        }
        _ => {}
    }
    let headers = answer_headers(&script, &controls);
    match script.shape {
        Shape::Plain(_) => plain(state, script, &controls, headers, bill, api.errors).await,
        Shape::Stream { steps, error } => {
            let steps = if controls.crlf { with_crlf(steps) } else { steps };
            let half = script.answer.tokens.words_per_choice / 2;
            let buffered = controls.buffered;
            let events = AnswerStream::new(Arc::clone(state), controls, bill, steps, error, half);
            if !buffered {
                return Ok((headers, Body::from_stream(events.into_body())).into_response());
            }
            let whole: Result<Vec<Bytes>, io::Error> = events.into_body().try_collect().await;
            whole
                .map(|pieces| (headers, pieces.concat()).into_response())
                .map_err(|_| DropConnection::response())
        }
    }
}

/// The steps with other line ends; those of events hold no other line ends.
fn with_crlf(steps: Steps) -> Steps {
    Box::new(steps.map(|step| {
        let ends = |byte: &u8| if *byte == b'\n' { vec![b'\r', b'\n'] } else { vec![*byte] };
        Step { bytes: step.bytes.iter().flat_map(ends).collect(), ..step }
    }))
}

fn open_bill(state: &State, script: &Script, controls: &Controls) -> OpenBill {
    let searches = if apis::SEARCHING.contains(&script.api) { controls.web_searches } else { 0 };
    let mut tokens = script.answer.tokens.billed_input();
    tokens.pieces += searches;
    let row = BilledRow {
        response_id: script.id.clone(),
        api: script.api,
        model: script.answer.model.clone(),
        stream: matches!(script.shape, Shape::Stream { .. }),
        complete: false,
        tokens,
        web_searches: searches,
        amount_nanousd: 0,
    };
    OpenBill::open(Arc::clone(&state.bill), script.price, row)
}

fn produce_all(bill: &mut OpenBill, script: &Script) {
    bill.produce(script.answer.tokens.output(), script.answer.tokens.reasoning());
    bill.close_complete();
}

async fn plain(
    state: &State,
    script: Script,
    controls: &Controls,
    headers: HeaderMap,
    mut bill: OpenBill,
    errors: ErrorShape,
) -> Result<Response, Response> {
    if controls.has(Fault::Endless) {
        std::future::pending::<()>().await;
    }
    if let Some(gate) = &controls.gate {
        state.gates.pass(gate).await;
    }
    if controls.has(Fault::ErrorInStream) {
        bill.forgive();
        return Err(refuse(errors, &told_to_fail(StatusCode::INTERNAL_SERVER_ERROR)));
    }
    produce_all(&mut bill, &script);
    let Shape::Plain(mut body) = script.shape else {
        return Err(DropConnection::response());
    };
    if controls.has(Fault::Gzip) {
        body = gzip(&body).map_err(|failed| refuse(errors, &Refusal::bad_request(failed.to_string())))?;
    }
    if controls.has(Fault::Cut) {
        let announced = [(header::CONTENT_LENGTH, body.len().to_string())];
        body.truncate(body.len() / 2);
        let half = [Ok(Bytes::from(body)), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        return Ok((headers, announced, Body::from_stream(stream::iter(half).then(flushed))).into_response());
    }
    if controls.chunked {
        let pieces = pieces(Ok(body.into()), controls.chunk_bytes.unwrap_or(usize::MAX));
        return Ok((headers, Body::from_stream(stream::iter(pieces).then(flushed))).into_response());
    }
    Ok((headers, body).into_response())
}

fn answer_headers(script: &Script, controls: &Controls) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(script.content_type));
    for (name, value) in &script.headers {
        if let Ok(value) = value.parse() {
            headers.insert(*name, value);
        }
    }
    if controls.has(Fault::Gzip) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers
}

/// `response` with a trailer after its body, if that was asked for.
fn with_trailers(request: &HeaderMap, response: Response) -> Response {
    if Controls::from_headers(request).is_ok_and(|controls| !controls.trailers) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // With an announced length there is no place for trailers in HTTP/1.1.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::TRAILER, HeaderValue::from_static("x-fake-trailer"));
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("x-fake-trailer"),
        HeaderValue::from_static("end"),
    )]);
    let frames = body.into_data_stream().map_ok(Frame::data);
    let frames = frames.chain(stream::iter([Ok(Frame::trailers(trailers))]));
    Response::from_parts(parts, Body::new(StreamBody::new(frames)))
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

fn told_to_fail(status: StatusCode) -> Refusal {
    Refusal { status, message: "The fake provider was told to fail.".to_owned(), code: None }
}

fn refuse(shape: ErrorShape, refusal: &Refusal) -> Response {
    let body = shape.body(refusal.status, &refusal.message, refusal.code);
    let mut response = (refusal.status, [(header::CONTENT_TYPE, JSON)], body.line()).into_response();
    if let Some((name, value)) = shape.header(refusal.status) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn received_row(parts: &Parts) -> ReceivedRow {
    let header = |(name, value): (&header::HeaderName, &HeaderValue)| {
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
