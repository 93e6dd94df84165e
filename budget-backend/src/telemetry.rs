//! The log, and traces by OTLP where a collector is configured.
//!
//! Each request has a span with an id (the caller's `x-request-id`, or one made here), which every line of the log
//! carries and the answer says. A `traceparent` in the request makes it part of the caller's trace.

use std::fmt;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The header with a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken over from a caller, bytes.
const MAX_ID_BYTES: usize = 128;

/// Longest wait for the collector.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// Largest answer of a collector that is read, bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where traces go: `PURSER_OTLP_ENDPOINT`, such as `http://127.0.0.1:4318`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    /// Reads a collector's URL.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Option<Uri> = text.parse().ok();
        let sound = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("http")
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.query().is_none()
        });
        if sound {
            Ok(Self(format!("{}/v1/traces", text.trim_end_matches('/'))))
        } else {
            Err(format!("expected http://HOST:PORT of a collector that speaks OTLP over HTTP, got {text:?}"))
        }
    }
}

/// What has to be finished at the end.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Starts the log on standard error, and traces to a collector if there is one. Once in a process.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(collector: Option<&OtlpEndpoint>, runtime: &Handle) -> Result<Self, String> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr);
        let provider = collector.map(|collector| provider(collector, runtime)).transpose()?;
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer("purser")).with_location(false)
        });
        tracing_subscriber::registry()
            .with(filter)
            .with(log)
            .with(traces)
            .try_init()
            .map_err(|error| error.to_string())?;
        Ok(Self(provider))
    }

    /// Sends what has not been sent. Blocks for a few seconds at most.
    pub fn finish(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(EXPORT_LIMIT)) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

fn provider(collector: &OtlpEndpoint, runtime: &Handle) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client(runtime.clone()))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&collector.0)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .map_err(|error| error.to_string())?;
    let provider = SdkTracerProvider::builder()
        // Whether a call is traced, Envoy has decided; what has no trace begins one.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(Resource::builder().with_service_name("purser-budget-backend").build())
        .with_batch_exporter(exporter);
    Ok(provider.build())
}

/// Sends over the HTTP stack that is there already. The exporter's thread is none of the runtime's, so that the
/// runtime does the sending.
struct Client(Handle);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

type Sent<'a> = Pin<Box<dyn Future<Output = Result<axum::http::Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'this, 'sent>(&'this self, request: axum::http::Request<Bytes>) -> Sent<'sent>
    where
        'this: 'sent,
        Self: 'sent,
    {
        // The time runs on the runtime's clock, which the exporter's thread has none of.
        let sending = self.0.spawn(async { tokio::time::timeout(EXPORT_LIMIT, post(request)).await });
        Box::pin(async move { sending.await?? })
    }
}

async fn post(request: axum::http::Request<Bytes>) -> Result<axum::http::Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let (host, port) =
        (uri.host().unwrap_or_default().trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let stream = tokio::net::TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    parts.headers.insert(header::HOST, HeaderValue::try_from(authority)?);
    parts.uri = uri.path().parse()?;
    let answer = sender.send_request(axum::http::Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok(axum::http::Response::from_parts(parts, body))
}

/// Gives each request its span and its answer its id.
pub async fn trace(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let method = request.method().clone();
    let path = route(request.uri().path());
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {path}"),
        otel.kind = "server",
        request_id = id.to_str().unwrap_or_default(),
        http.request.method = %method,
        http.route = path,
        http.response.status_code = tracing::field::Empty,
    );
    if request.headers().contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
        // Without a collector there is nothing to be a part of.
        let _untraced = span.set_parent(parent);
    }
    let mut response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The path without what names one thing, of which there are too many for a name.
fn route(path: &str) -> String {
    let named = |part: &str| {
        let one = part.starts_with(|c: char| c.is_ascii_digit()) || part.len() > 32;
        if one { "{id}" } else { part }.to_owned()
    };
    path.split('/').take(6).map(named).collect::<Vec<_>>().join("/")
}

/// The caller's id, if it is one that a log can take; else one of this process's own.
fn request_id(request: &Request) -> HeaderValue {
    static PROCESS: LazyLock<String> = LazyLock::new(|| {
        let mut bytes = [0_u8; 6];
        // Where there are no random numbers, ids are unique within the process alone.
        let _filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    });
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let given = request.headers().get(&REQUEST_ID);
    let sound = |value: &&HeaderValue| {
        (1..=MAX_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    given.filter(sound).cloned().unwrap_or_else(|| {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Hexadecimal digits and a dash are a header's value.
        HeaderValue::try_from(format!("{}-{number:x}", *PROCESS)).unwrap_or(HeaderValue::from_static("-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_reached_over_http() {
        assert_eq!(
            OtlpEndpoint::parse("http://127.0.0.1:4318/").unwrap().0,
            "http://127.0.0.1:4318/v1/traces"
        );
        for text in ["", "127.0.0.1:4318", "https://otel:4318", "http://", "http://x/?y=z", "grpc://x:4317"] {
            assert!(OtlpEndpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_route_names_no_single_thing() {
        assert_eq!(route("/v1/budgets/17/top-ups"), "/v1/budgets/{id}/top-ups");
        assert_eq!(route("/v1/requests/019a3c6f-5c00-7000-8000-000000000000"), "/v1/requests/{id}");
        assert_eq!(route("/v1/holds"), "/v1/holds");
    }

    #[test]
    fn an_id_is_the_caller_s_or_one_of_our_own() {
        let request =
            |id: &str| Request::builder().header(REQUEST_ID, id).body(axum::body::Body::empty()).unwrap();
        assert_eq!(request_id(&request("abc-1")), "abc-1");
        for odd in ["", "a b", &"x".repeat(MAX_ID_BYTES + 1)] {
            let (one, other) = (request_id(&request(odd)), request_id(&request(odd)));
            assert!(one != odd && one != other, "{odd}");
        }
    }
}
