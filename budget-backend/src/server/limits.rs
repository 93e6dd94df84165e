//! How much may run, and how large and slow a request may be. What is too much is refused at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::ApiError;

/// Largest request body, bytes: a full batch of settlements with every name at its longest fits.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Bodies are counted in pieces of this size, bytes.
const PIECE_BYTES: usize = 1024;

/// Pieces of the largest body.
const PIECES_OF_ONE: usize = MAX_BODY_BYTES / PIECE_BYTES;

/// Bodies that may be in memory together, pieces: 64 MiB.
const BODY_PIECES: usize = 64 * 1024;

/// Requests of filters that may run at once. The queues behind are shorter; this bounds what waits to
/// get into them.
const MAX_RUNNING: usize = 8_192;

/// Requests of operators that may run at once.
const MAX_OPERATORS: usize = 64;

/// Probes that may run at once: each asks the database.
const MAX_PROBES: usize = 16;

/// What bounds requests of one kind. Cheap to clone.
#[derive(Clone)]
pub struct Load {
    running: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    body_limit: Duration,
}

impl Load {
    /// Of filters. Each kind has a share of its own, which the others can't take from it.
    #[must_use]
    pub fn of_filters(body_limit: Duration) -> Self {
        Self::new(MAX_RUNNING, BODY_PIECES, body_limit)
    }

    /// Of operators.
    #[must_use]
    pub fn of_operators(body_limit: Duration) -> Self {
        Self::new(MAX_OPERATORS, MAX_OPERATORS * PIECES_OF_ONE, body_limit)
    }

    /// Of probes, which anybody may send.
    #[must_use]
    pub fn of_probes(body_limit: Duration) -> Self {
        Self::new(MAX_PROBES, MAX_PROBES * PIECES_OF_ONE, body_limit)
    }

    fn new(running: usize, pieces: usize, body_limit: Duration) -> Self {
        let (running, bodies) = (Arc::new(Semaphore::new(running)), Arc::new(Semaphore::new(pieces)));
        Self { running, bodies, body_limit }
    }
}

/// Reads the body whole, in time and within what is free, before anything else happens.
pub async fn bound(State(load): State<Load>, request: Request, next: Next) -> Response {
    let Ok(_place) = load.running.try_acquire() else {
        return ApiError::busy("too many requests are running").into_response();
    };
    let (parts, body) = request.into_parts();
    let told = parts.headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let told = if body.is_end_stream() { Some(0) } else { told };
    let whole = match read(&load, told, body).await {
        Ok(whole) => whole,
        Err(error) => return error.into_response(),
    };
    let (bytes, _room) = whole;
    next.run(Request::from_parts(parts, bytes)).await
}

async fn read(
    load: &Load,
    told_bytes: Option<usize>,
    body: Body,
) -> Result<(Body, OwnedSemaphorePermit), ApiError> {
    let bytes = told_bytes.unwrap_or(MAX_BODY_BYTES);
    if bytes > MAX_BODY_BYTES {
        return Err(ApiError::too_large(MAX_BODY_BYTES));
    }
    let pieces = u32::try_from(bytes.div_ceil(PIECE_BYTES).max(1)).unwrap_or(u32::MAX);
    let room = Arc::clone(&load.bodies).try_acquire_many_owned(pieces);
    let room = room.map_err(|_| ApiError::busy("too much is being received"))?;
    match tokio::time::timeout(load.body_limit, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok((Body::from(bytes), room)),
        Ok(Err(error)) => Err(if error.into_inner().is::<LengthLimitError>() {
            ApiError::too_large(MAX_BODY_BYTES)
        } else {
            ApiError::bad_request("the body broke off or is not framed as HTTP has it")
        }),
        Err(_) => Err(ApiError::too_slow(load.body_limit)),
    }
}
