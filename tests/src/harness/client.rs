//! An app that calls the LLM through Envoy.

use std::net::SocketAddr;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::PATIENCE;

/// Path of the one API budgeted so far.
pub const CHAT_PATH: &str = "/v1/chat/completions";

/// An HTTP client without proxies whose every call is bounded.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn http() -> Client {
    let client = Client::builder().no_proxy().timeout(PATIENCE).build();
    client.unwrap_or_else(|error| panic!("cannot make an HTTP client: {error}"))
}

/// Who calls: the identity headers that the trusted hop sets, and further headers.
#[derive(Debug, Clone, Default)]
pub struct App {
    headers: Vec<(String, String)>,
}

impl App {
    /// An app of an org, of no team and no user.
    #[must_use]
    pub fn of(org: &str) -> Self {
        Self::default().with("x-budget-org", org)
    }

    /// An app without identity.
    #[must_use]
    pub fn unidentified() -> Self {
        Self::default()
    }

    /// The same in a team.
    #[must_use]
    pub fn team(self, team: &str) -> Self {
        self.with("x-budget-team", team)
    }

    /// The same for a user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.with("x-budget-user", user)
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A request with this app's headers.
    pub(super) fn dress(&self, mut request: RequestBuilder) -> RequestBuilder {
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }
}

/// A small chat request of 8 prompt tokens and at most 16 output tokens.
#[must_use]
pub fn ping() -> Value {
    json!({
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "ping"}],
        "max_completion_tokens": 16,
    })
}

/// `body` with further fields.
///
/// # Panics
/// When one of the two isn't an object.
#[must_use]
pub fn with(mut body: Value, more: &Value) -> Value {
    match (body.as_object_mut(), more.as_object()) {
        (Some(fields), Some(more)) => fields.extend(more.clone()),
        _ => panic!("not an object: {body} or {more}"),
    }
    body
}

/// [`ping`] as a stream.
#[must_use]
pub fn ping_stream() -> Value {
    with(ping(), &json!({"stream": true}))
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Reads a response to its end.
    ///
    /// # Panics
    /// When it is cut.
    pub async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await;
        let body = body.unwrap_or_else(|error| panic!("{status} with a cut body: {error}"));
        Self { status, headers, body }
    }

    /// A header's text, empty when it isn't there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it isn't.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the status, and returns itself.
    ///
    /// # Panics
    /// When it is another one.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:?} {}", self.headers, self.text());
        self
    }
}

/// Posts a chat request and gives back the response with its body still coming.
///
/// # Errors
/// When no response came.
pub async fn post_chat(
    http: &Client,
    addr: SocketAddr,
    app: &App,
    body: &Value,
) -> reqwest::Result<Response> {
    let request = http.post(format!("http://{addr}{CHAT_PATH}")).json(body);
    app.dress(request).send().await
}
