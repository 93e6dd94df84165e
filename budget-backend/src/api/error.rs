//! Errors at the edge: an external message for the caller; what the log must see is logged where it
//! happens. Bodies are RFC 9457 problem details, with a `type` that stays.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use purser_protocol::FailureCause;
use serde::Serialize;
use utoipa::ToSchema;

use super::fault::{Fault, of_parameter, path_of, pointer_of, without_place};
use crate::access::Refused;
use crate::admin::idempotency;
use crate::ledger::HoldFailure;
use crate::tracker::TrackerFailure;

/// What the types of problems begin with.
const TYPE: &str = "urn:purser:problem:";

/// What a problem is served as.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What kind of problem; each has a status and a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The question itself is malformed.
    Malformed,
    /// No token, or none that is known.
    Unauthenticated,
    /// Who it is is known, and that is not enough.
    Forbidden,
    /// Nothing there, or nothing for this caller.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The body did not come in time.
    TooSlow,
    /// It exists already.
    Conflict,
    /// It was changed meanwhile.
    Changed,
    /// A larger body than is read.
    TooLarge,
    /// A body of a kind that is not read.
    MediaType,
    /// Understood, but can't be right.
    Invalid,
    /// Another request went under the same `Idempotency-Key`.
    KeyReused,
    /// An edit must say what it edits.
    PreconditionRequired,
    /// Too many wrong tokens.
    TooManyFailures,
    /// Not now; nothing was decided or written.
    Unavailable,
    /// What is left.
    Other(StatusCode),
}

impl Kind {
    const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Changed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::TooManyFailures => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Other(status) => status,
        }
    }

    const fn slug(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::TooSlow => "too-slow",
            Self::Conflict => "conflict",
            Self::Changed => "changed-meanwhile",
            Self::TooLarge => "too-large",
            Self::MediaType => "unsupported-media-type",
            Self::Invalid => "invalid",
            Self::KeyReused => "idempotency-key-reused",
            Self::PreconditionRequired => "precondition-required",
            Self::TooManyFailures => "too-many-failures",
            Self::Unavailable => "unavailable",
            Self::Other(_) => "other",
        }
    }

    const fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_REQUEST => Self::Malformed,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::MediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Self::Invalid,
            other => Self::Other(other),
        }
    }
}

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    kind: Kind,
    detail: String,
    faults: Vec<Fault>,
    retry_after_s: Option<u64>,
    cause: Option<FailureCause>,
}

/// RFC 9457: what went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem; stays the same from version to version.
    #[serde(rename = "type")]
    #[schema(example = "urn:purser:problem:invalid")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What went wrong here, and what was expected.
    detail: String,
    /// Where, if it can be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    /// For filters, with some 503s: `busy`, `database` or `deadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    cause: Option<FailureCause>,
}

impl ApiError {
    fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), faults: Vec::new(), retry_after_s: None, cause: None }
    }

    /// 400: the question itself is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, detail)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(Kind::Unauthenticated, "expected a valid token as Authorization: Bearer TOKEN")
    }

    /// 403: who it is is known, or not asked for, and that is not enough.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(Kind::MethodNotAllowed, "this path doesn't take that method")
    }

    /// 409: it exists already.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, detail)
    }

    /// 412: it is not what the caller has seen.
    pub fn changed_meanwhile(detail: impl Into<String>) -> Self {
        Self::new(Kind::Changed, detail)
    }

    /// 428: an edit must say what it edits.
    pub fn precondition_required(detail: impl Into<String>) -> Self {
        Self::new(Kind::PreconditionRequired, detail)
    }

    /// 422: another request went under this key.
    pub fn key_reused() -> Self {
        Self::new(Kind::KeyReused, "Idempotency-Key: another request has used this key; take a fresh one")
    }

    /// 429: too many wrong tokens from this address.
    pub fn too_many_failures(wait: std::time::Duration) -> Self {
        let detail = "too many wrong tokens from this address; try again later";
        let retry_after_s = Some(wait.as_secs().max(1));
        Self { retry_after_s, ..Self::new(Kind::TooManyFailures, detail) }
    }

    /// 408: the body did not come in time.
    pub fn too_slow(limit: std::time::Duration) -> Self {
        Self::new(Kind::TooSlow, format!("the body: expected within {} ms", limit.as_millis()))
    }

    /// 413: a larger body than is read.
    pub fn too_large(max_bytes: usize) -> Self {
        Self::new(Kind::TooLarge, format!("the body: expected at most {max_bytes} bytes"))
    }

    /// 415: a body of a kind that is not read.
    pub fn media_type(detail: impl Into<String>) -> Self {
        Self::new(Kind::MediaType, detail)
    }

    /// 422, or 400 for what is not even readable: where a deserialiser stopped.
    pub fn unreadable(path: &serde_path_to_error::Path, detail: &str, is_data: bool) -> Self {
        let fault = Fault { pointer: Some(pointer_of(path)), parameter: None, detail: without_place(detail) };
        let kind = if is_data { Kind::Invalid } else { Kind::Malformed };
        Self { faults: vec![fault], ..Self::new(kind, format!("{path}: {detail}")) }
    }

    /// What the framework refused by itself, in words of its own.
    pub fn of_framework(status: StatusCode, words: impl Into<String>) -> Self {
        Self::new(Kind::of(status), words)
    }

    /// 413: more items than a batch may carry.
    pub fn too_many_items(max: usize) -> Self {
        Self::new(Kind::TooLarge, format!("items: expected at most {max}"))
    }

    /// 422: understood, but can't be right. A message that begins with a field of the body says where.
    pub fn invalid(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let faults = Fault::in_body(&detail, "").into_iter().collect();
        Self { faults, ..Self::new(Kind::Invalid, detail) }
    }

    /// 422, for several reasons at once.
    pub fn faulty(detail: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self { faults, ..Self::new(Kind::Invalid, detail) }
    }

    /// 422: a parameter of the query can't be right. The message begins with its name.
    pub fn invalid_parameter(detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let faults = of_parameter(&detail).into_iter().collect();
        Self { faults, ..Self::new(Kind::Invalid, detail) }
    }

    /// 503: not now; nothing was decided or written.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, detail)
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
        let fault = path_of::<serde_json::Error>(&rejection).map(|(path, detail)| Fault {
            pointer: Some(pointer_of(path)),
            parameter: None,
            detail: without_place(&detail),
        });
        let faults = fault.into_iter().collect();
        Self { faults, ..Self::new(Kind::of(rejection.status()), rejection.body_text()) }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        let detail = text.rsplit("query string: ").next().unwrap_or_default();
        // Its name stands before the message, or in it in backticks.
        let in_it = || Fault {
            pointer: None,
            parameter: detail.split('`').nth(1).map(str::to_owned),
            detail: detail.to_owned(),
        };
        let faults = vec![of_parameter(detail).unwrap_or_else(in_it)];
        Self { faults, ..Self::new(Kind::of(rejection.status()), text) }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Role { .. } => Self::forbidden(refused.to_string()),
            Refused::OutOfReach(_) => Self::not_found(refused.to_string()),
        }
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
        if idempotency::is_running(&error) {
            return Self::conflict(
                "Idempotency-Key: a request with this key is just being carried out; send it again for its answer",
            );
        }
        tracing::error!(%error, "an operator's query failed");
        Self::without_database()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let problem = Problem {
            kind: format!("{TYPE}{}", self.kind.slug()),
            title: status.canonical_reason().unwrap_or("error"),
            status: status.as_u16(),
            detail: self.detail,
            errors: self.faults,
            cause: self.cause,
        };
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
