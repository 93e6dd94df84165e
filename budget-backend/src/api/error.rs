//! Errors at the edge: an external message for the caller; what the log must see is logged where it
//! happens. Bodies are RFC 9457 problem details.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use purser_protocol::FailureCause;
use serde::Serialize;

use crate::ledger::HoldFailure;
use crate::tracker::TrackerFailure;

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    detail: String,
    cause: Option<FailureCause>,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// For filters; only with a 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<FailureCause>,
}

impl ApiError {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), cause: None }
    }

    /// 400: the question itself is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "expected a valid token as Authorization: Bearer TOKEN")
    }

    /// 403: who it is is known, or not asked for, and that is not enough.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this path doesn't take that method")
    }

    /// 409: it exists already.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 408: the body did not come in time.
    pub fn too_slow(limit: std::time::Duration) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, format!("the body: expected within {} ms", limit.as_millis()))
    }

    /// 413: a larger body than is read.
    pub fn too_large(max_bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body: expected at most {max_bytes} bytes"))
    }

    /// What the framework refused by itself, in words of its own.
    pub fn of_framework(status: StatusCode, words: impl Into<String>) -> Self {
        Self::new(status, words)
    }

    /// 413: more items than a batch may carry.
    pub fn too_many_items(max: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("items: expected at most {max}"))
    }

    /// 422: understood, but can't be right.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 503: not now; nothing was decided or written.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 503: too much is going on.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self { cause: Some(FailureCause::Busy), ..Self::unavailable(detail) }
    }

    /// 503: the database is not there.
    pub fn without_database() -> Self {
        let detail = "the database is not available";
        Self { cause: Some(FailureCause::Database), ..Self::unavailable(detail) }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<HoldFailure> for ApiError {
    fn from(failure: HoldFailure) -> Self {
        let cause = match failure {
            HoldFailure::Overloaded | HoldFailure::Stopping => FailureCause::Busy,
            HoldFailure::Database => FailureCause::Database,
            HoldFailure::Deadline => FailureCause::Deadline,
        };
        Self { cause: Some(cause), ..Self::unavailable(failure.to_string()) }
    }
}

impl From<TrackerFailure> for ApiError {
    fn from(failure: TrackerFailure) -> Self {
        let cause = match failure {
            TrackerFailure::Overloaded | TrackerFailure::Stopping => FailureCause::Busy,
            TrackerFailure::Database => FailureCause::Database,
        };
        Self { cause: Some(cause), ..Self::unavailable(failure.to_string()) }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "an operator's query failed");
        Self::without_database()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            cause: self.cause,
        };
        let mut response = (self.status, axum::Json(problem)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
