//! Who may call: whoever has shown a token, and a client certificate where one is asked for.

use std::time::Instant;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use super::holds::unix_now_s;
use super::place::words;
use crate::access::{Caller, Doors, Role};
use crate::admin::Editor;
use crate::admin::idempotency::Key;
use crate::server::{self, MutualTls};

/// Header in which an operator's tool says in whose name it edits.
const ACTOR_HEADER: &str = "x-purser-actor";

/// The operators' route that filters' tokens open as well: whose call it is, and what remains.
const FOR_FILTERS_TOO: &str = "/v1/me";

/// Lets only those in who show a certificate where one is asked for.
pub async fn require_certificate(request: Request, next: Next) -> Response {
    match certified(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn certified(request: &Request) -> Result<(), ApiError> {
    let connection = request.extensions().get::<server::Caller>();
    if connection.is_some_and(|connection| connection.mutual == MutualTls::Missing) {
        return Err(ApiError::forbidden("expected a client certificate"));
    }
    Ok(())
}

fn token(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

/// Lets only filters in.
pub async fn require_filter(State(doors): State<Doors>, request: Request, next: Next) -> Response {
    if let Err(error) = certified(&request) {
        return error.into_response();
    }
    if !token(request.headers()).is_some_and(|given| doors.is_filter(given, unix_now_s())) {
        return ApiError::unauthorized().into_response();
    }
    if let Some(connection) = request.extensions().get::<server::Caller>() {
        connection.vouch();
    }
    next.run(request).await
}

/// Lets only operators in, and notes which one for the handlers.
pub async fn require_operator(State(doors): State<Doors>, mut request: Request, next: Next) -> Response {
    match operator(&doors, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn operator(doors: &Doors, request: &Request) -> Result<Caller, ApiError> {
    certified(request)?;
    let connection = request.extensions().get::<server::Caller>();
    // A connection that has shown a good token is no guesser's, whoever shares its address.
    let address = connection.filter(|connection| !connection.is_trusted()).and_then(|c| c.address);
    let now = Instant::now();
    if let Some(wait) = address.and_then(|address| doors.failures().wait(address, now)) {
        return Err(ApiError::too_many_failures(wait));
    }
    let Some(given) = token(request.headers()) else { return Err(ApiError::unauthorized()) };
    let Some(caller) = doors.operator(given, unix_now_s()) else {
        if let Some(address) = address {
            doors.failures().note(address, now);
        }
        return Err(ApiError::unauthorized());
    };
    if let Some(connection) = connection {
        connection.vouch();
    }
    if caller.role == Role::DataPlane && request.uri().path() != FOR_FILTERS_TOO {
        return Err(ApiError::forbidden(
            "this token is a filter's; expected an admin's, editor's or viewer's",
        ));
    }
    Ok(caller)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        // Only a route outside of the operators' has none.
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// In whose name an edit is made, and under which key. A viewer has none: 403.
impl<S: Sync> FromRequestParts<S> for Editor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.edits_anything()?;
        let named = named(&parts.headers)?;
        let key = parts.extensions.get::<Key>().cloned();
        Ok(Self { name: caller.signature(named), key })
    }
}

fn named(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(ACTOR_HEADER) else { return Ok(None) };
    let expected = || ApiError::invalid(format!("{ACTOR_HEADER}: expected visible ASCII characters"));
    let name = value.to_str().map_err(|_| expected())?;
    words(ACTOR_HEADER, name).map_err(ApiError::invalid)?;
    Ok(Some(name))
}
