//! The accept loop. Own instead of axum's: a fault must be able to close a connection without an
//! answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections served at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// Marks a response that must not be sent: its connection is closed instead.
#[derive(Debug, Clone, Copy)]
pub struct DropConnection;

impl DropConnection {
    pub fn response() -> Response {
        let mut response = ().into_response();
        response.extensions_mut().insert(Self);
        response
    }
}

pub async fn serve(listener: TcpListener, router: Router) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    connection(socket, router).await;
                    drop(permit);
                });
            }
            // Out of file descriptors, most likely: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(socket: TcpStream, router: Router) {
    // Best effort: without it words only arrive later.
    let _nodelay = socket.set_nodelay(true);
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let response = inner.call(request.map(Body::new));
        async move {
            let Ok(response) = response.await;
            if response.extensions().get::<DropConnection>().is_some() {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            Ok(response)
        }
    });
    // An error here is the peer's leaving or a fault asked for.
    let _ended = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
}
