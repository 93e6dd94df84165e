//! Asks a running backend, as any operator's program does: what may be edited, by whom and how is decided there.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Largest answer read, bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where the backend is, and who asks.
#[derive(Args, Clone)]
pub struct Backend {
    /// Where the backend is; PURSER_URL if not given.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
}

/// What went wrong, and the exit code it means: 2 for what the backend refused, 1 for anything else.
pub type Failure = (String, u8);

/// An answer's body, and whether it is JSON.
pub struct Answer {
    /// The body.
    pub text: String,
    /// The cursor of the next page of a sheet.
    pub next_cursor: Option<String>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.text)
            .map_err(|error| (format!("the backend's answer is no JSON: {error}"), 1))
    }
}

impl Backend {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Failure`]; what the backend refused is told in its words.
    pub fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, Failure> {
        let failed = |error: &dyn std::fmt::Display| (error.to_string(), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&error))?;
        let url = self.url()?;
        let asked = async { tokio::time::timeout(LIMIT, exchange(&url, method, path, body)).await };
        runtime
            .block_on(asked)
            .unwrap_or_else(|_| Err((format!("{url}: no answer within {} s", LIMIT.as_secs()), 1)))
    }

    fn url(&self) -> Result<String, Failure> {
        let given = self.url.clone().or_else(|| std::env::var("PURSER_URL").ok());
        let url = given.unwrap_or_else(|| "http://127.0.0.1:8088".to_owned());
        let sound = url.starts_with("http://") || url.starts_with("https://");
        if sound {
            Ok(url.trim_end_matches('/').to_owned())
        } else {
            Err((format!("--url: expected http://HOST:PORT or https://HOST:PORT, got {url}"), 2))
        }
    }
}

/// The token that the environment has: one for this alone, or the admin's own.
fn token() -> Result<String, Failure> {
    let of = |name| std::env::var(name).ok().filter(|token| !token.is_empty());
    let given = of("PURSER_API_TOKEN").or_else(|| of("PURSER_ADMIN_TOKEN"));
    // While it is changed there are two of them; either will do.
    given.and_then(|token| token.split(',').next().map(|first| first.trim().to_owned())).ok_or_else(|| {
        ("PURSER_API_TOKEN: expected a token in the environment (or PURSER_ADMIN_TOKEN)".to_owned(), 2)
    })
}

async fn exchange(
    url: &str,
    method: Method,
    path: &str,
    body: Option<(&'static str, String)>,
) -> Result<Answer, Failure> {
    let failed = |error: &dyn std::fmt::Display| (format!("{url}: {error}"), 1);
    let uri: Uri = format!("{url}{path}").parse().map_err(|error| failed(&error))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let (kind, text) = body.unwrap_or(("application/json", String::new()));
    let request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::AUTHORIZATION, format!("Bearer {}", token()?))
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| failed(&error))?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(&error))?;
    let sent = if is_tls {
        let name = ServerName::try_from(host).map_err(|error| failed(&error))?;
        let stream = connector().map_err(|error| failed(&error))?.connect(name, stream).await;
        send(stream.map_err(|error| failed(&error))?, request).await
    } else {
        send(stream, request).await
    };
    let (status, next_cursor, text) = sent.map_err(|error| failed(&error))?;
    match status {
        200..300 => Ok(Answer { text, next_cursor }),
        _ => Err((refusal(status, &text), if status < 500 { 2 } else { 1 })),
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Option<String>, String), String> {
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let cursor =
        answer.headers().get("x-purser-next-cursor").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    Ok((status, cursor, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// What a problem says, every mistake on a line of its own.
fn refusal(status: u16, text: &str) -> String {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    let detail = problem["detail"]
        .as_str()
        .map_or_else(|| format!("the backend answered with status {status}"), str::to_owned);
    let faults = problem["errors"].as_array().into_iter().flatten().filter_map(|fault| {
        let place = fault["pointer"].as_str().or_else(|| fault["parameter"].as_str())?;
        Some(format!("\n  {place}: {}", fault["detail"].as_str().unwrap_or_default()))
    });
    let faults: Vec<String> = faults.collect();
    // A single one is what the detail says already.
    if faults.len() > 1 { format!("{detail}{}", faults.concat()) } else { detail }
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots);
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

/// A parameter of a query, if there is a value.
pub fn parameter(name: &str, value: Option<&str>) -> Option<String> {
    let escaped = percent_encoding::utf8_percent_encode(value?, percent_encoding::NON_ALPHANUMERIC);
    Some(format!("{name}={escaped}"))
}

/// A query of the parameters that have values.
pub fn query(parameters: impl IntoIterator<Item = Option<String>>) -> String {
    let parameters: Vec<String> = parameters.into_iter().flatten().collect();
    if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) }
}
