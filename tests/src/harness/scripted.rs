//! A budget backend that misbehaves as told, for failures the real one can't be brought to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use purser_protocol::{
    Allow, HOLDS_PATH, HoldRequest, HoldResponse, ItemResult, MARKER_HEADER, MARKER_VALUE, Outcome, Renew,
    RepeatedDenials, SETTLEMENTS_PATH, SettlementBatch, SettlementItem, SettlementResponse, VERSION, Verdict,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::wait_until;
use crate::fake_llm::serve::{DropConnection, serve};
use crate::fake_llm::stream::flushed;

/// What it does with holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Allows, as the protocol says.
    Allow,
    /// This verdict.
    Verdict(Box<Verdict>),
    /// This status with an empty JSON object and the marker.
    Status(u16),
    /// This status without the marker: something on the way, not the backend.
    Unmarked(u16),
    /// 200 with this body and the marker.
    Body(&'static str),
    /// A verdict that allows, without the marker: not the backend's own answer.
    WithoutMarker,
    /// A verdict that allows, for another hold.
    WrongHold,
    /// The headers and half of the body, then the connection is closed.
    Half,
    /// The connection is closed without an answer.
    Reset,
    /// No answer, ever.
    Never,
    /// A 503 of the backend's own that names this cause.
    Cause(&'static str),
    /// A verdict that allows, so much later.
    Late(Duration),
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    holds: Mutex<Vec<HoldRequest>>,
    batches: Mutex<Vec<SettlementBatch>>,
    traces: Mutex<Vec<Option<String>>>,
    knows_renewals: AtomicBool,
    is_mute: AtomicBool,
}

/// A scripted backend on a free port. It records every batch it is sent.
#[derive(Debug)]
pub struct ScriptedBackend {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl ScriptedBackend {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("no port: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("no address: {error}"));
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            holds: Mutex::default(),
            batches: Mutex::default(),
            traces: Mutex::default(),
            knows_renewals: AtomicBool::new(true),
            is_mute: AtomicBool::new(false),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { addr, shared, server: tokio::spawn(serve(listener, router)) }
    }

    /// Forgets what it was sent, and plays another script from now on.
    pub fn play(&self, script: Script) {
        *lock(&self.shared.script) = script;
        lock(&self.shared.holds).clear();
        lock(&self.shared.batches).clear();
    }

    /// Refuses batches with renewals as unreadable from now on, as a backend does that is older than
    /// they are.
    pub fn forget_renewals(&self) {
        self.shared.knows_renewals.store(false, Ordering::Relaxed);
    }

    /// Whether batches get no answer from now on. They are recorded all the same.
    pub fn mute(&self, is_mute: bool) {
        self.shared.is_mute.store(is_mute, Ordering::Relaxed);
    }

    /// The batches it was sent.
    #[must_use]
    pub fn batches(&self) -> Vec<SettlementBatch> {
        lock(&self.shared.batches).clone()
    }

    /// The renewals it was sent.
    #[must_use]
    pub fn renewals(&self) -> Vec<Renew> {
        let renew = |item| match item {
            SettlementItem::Renew(renew) => Some(renew),
            _ => None,
        };
        self.batches().into_iter().flat_map(|batch| batch.items).filter_map(renew).collect()
    }

    /// Waits until it was told of `count` repeated denials, and returns the reports.
    pub async fn repeated_denials(&self, count: u64) -> Vec<RepeatedDenials> {
        let report = |item| match item {
            SettlementItem::RepeatedDenials(report) => Some(*report),
            _ => None,
        };
        wait_until("repeated denials at the scripted backend", async || {
            let items = self.batches().into_iter().flat_map(|batch| batch.items);
            let reports: Vec<_> = items.filter_map(report).collect();
            let told: u64 = reports.iter().map(|report| report.count).sum();
            if told == count { Ok(reports) } else { Err(format!("{told} of {count}: {reports:?}")) }
        })
        .await
    }

    /// Waits until it was sent `count` renewals of a hold.
    pub async fn wait_for_renewals(&self, hold_id: Uuid, count: usize) {
        wait_until("renewals at the scripted backend", async || {
            let renewals = self.renewals();
            let of_hold = renewals.iter().filter(|renew| renew.hold_id == hold_id).count();
            if of_hold >= count { Ok(()) } else { Err(format!("{of_hold} of {count}: {renewals:?}")) }
        })
        .await;
    }

    /// The holds it was asked for.
    #[must_use]
    pub fn holds(&self) -> Vec<HoldRequest> {
        lock(&self.shared.holds).clone()
    }

    /// The `traceparent` of each hold it was asked for since it started.
    #[must_use]
    pub fn traces(&self) -> Vec<Option<String>> {
        lock(&self.shared.traces).clone()
    }

    /// Waits until it was sent `count` settlements and voids, and returns them.
    pub async fn settlements(&self, count: usize) -> Vec<SettlementItem> {
        wait_until("settlements at the scripted backend", async || {
            let all = self.batches().into_iter().flat_map(|batch| batch.items);
            let is_end =
                |item: &SettlementItem| matches!(item, SettlementItem::Settle(_) | SettlementItem::Void(_));
            let items: Vec<_> = all.filter(is_end).collect();
            if items.len() == count {
                Ok(items)
            } else {
                Err(format!("{} of {count}: {items:?}", items.len()))
            }
        })
        .await
    }
}

impl Drop for ScriptedBackend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    match uri.path() {
        HOLDS_PATH => match serde_json::from_slice::<HoldRequest>(&body) {
            Ok(hold) => {
                let script = lock(&shared.script).clone();
                let trace = headers.get("traceparent").and_then(|value| value.to_str().ok());
                lock(&shared.traces).push(trace.map(str::to_owned));
                lock(&shared.holds).push(hold.clone());
                play(script, &hold).await
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
        SETTLEMENTS_PATH => match serde_json::from_slice::<SettlementBatch>(&body) {
            Ok(batch) => {
                let answer = settle(&shared, batch);
                if shared.is_mute.load(Ordering::Relaxed) {
                    return std::future::pending().await;
                }
                answer
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Whether an item is a renewal.
#[must_use]
pub const fn is_renewal(item: &SettlementItem) -> bool {
    matches!(item, SettlementItem::Renew(_))
}

fn settle(shared: &Shared, batch: SettlementBatch) -> Response {
    let recorded = |item: &SettlementItem| ItemResult { hold_id: item.hold_id(), outcome: Outcome::Recorded };
    let results = batch.items.iter().map(recorded).collect();
    let has_renewals = batch.items.iter().any(is_renewal);
    lock(&shared.batches).push(batch);
    if has_renewals && !shared.knows_renewals.load(Ordering::Relaxed) {
        return marked(StatusCode::UNPROCESSABLE_ENTITY, &serde_json::json!({}));
    }
    marked(StatusCode::OK, &SettlementResponse { version: VERSION, results })
}

/// A grant that says nothing else.
#[must_use]
pub fn grant() -> Allow {
    Allow { held_nanousd: 1_000, ..Allow::default() }
}

async fn play(script: Script, hold: &HoldRequest) -> Response {
    let allow = Verdict::Allow(grant());
    let verdict = |hold_id, verdict| HoldResponse { version: VERSION, hold_id, verdict };
    let allowed = verdict(hold.hold_id, allow.clone());
    match script {
        Script::Allow => marked(StatusCode::OK, &allowed),
        Script::Verdict(other) => marked(StatusCode::OK, &verdict(hold.hold_id, *other)),
        Script::WrongHold => marked(StatusCode::OK, &verdict(Uuid::now_v7(), allow)),
        Script::Status(status) => marked(code(status), &serde_json::json!({})),
        Script::Unmarked(status) => (code(status), "not the backend").into_response(),
        Script::Body(body) => ([(MARKER_HEADER, MARKER_VALUE)], body).into_response(),
        Script::WithoutMarker => axum::Json(&allowed).into_response(),
        Script::Half => half(&serde_json::to_vec(&allowed).unwrap_or_default()),
        Script::Reset => DropConnection::response(),
        Script::Never => std::future::pending().await,
        Script::Cause(cause) => {
            marked(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({"status": 503, "cause": cause}))
        }
        Script::Late(after) => {
            tokio::time::sleep(after).await;
            marked(StatusCode::OK, &allowed)
        }
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or_else(|error| panic!("{status}: {error}"))
}

fn marked(status: StatusCode, body: &impl serde::Serialize) -> Response {
    (status, [(MARKER_HEADER, MARKER_VALUE)], axum::Json(body)).into_response()
}

fn half(body: &[u8]) -> Response {
    let first = Bytes::copy_from_slice(body.get(..body.len() / 2).unwrap_or_default());
    let items = [Ok(first), Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
        (header::CONTENT_LENGTH.as_str(), body.len().to_string()),
        (MARKER_HEADER, MARKER_VALUE.to_owned()),
    ];
    (headers, Body::from_stream(stream::iter(items).then(flushed))).into_response()
}
