//! Requests that a well-mannered client can't be brought to send.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Answer, App, CHAT_PATH};
use super::within;

/// Most bytes read of an answer.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// Writes bytes to a connection and reads until the other side closes it. Ask for
/// `connection: close` in the request.
///
/// # Panics
/// When there is no end within bounds.
pub async fn http1(addr: SocketAddr, request: &[u8]) -> String {
    let exchange = async {
        let (reader, mut writer) = TcpStream::connect(addr).await?.into_split();
        let mut answer = Vec::new();
        let mut reader = reader.take(MAX_ANSWER_BYTES);
        // Side by side: an answer may come before the request is read. What can't be written then
        // is no error of the exchange.
        let (_written, read) = tokio::join!(writer.write_all(request), reader.read_to_end(&mut answer));
        match read {
            // A reset after the answer, because the rest of the request was never read.
            Err(error) if answer.is_empty() => Err(error),
            _ => Ok(answer),
        }
    };
    let answer = within("a raw HTTP/1.1 exchange", exchange).await;
    let answer = answer.unwrap_or_else(|error| panic!("raw HTTP/1.1: {error}"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Writes bytes to a connection and closes it.
///
/// # Panics
/// When that isn't possible.
pub async fn http1_then_leave(addr: SocketAddr, request: &[u8]) {
    let exchange = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.write_all(request).await?;
        socket.shutdown().await
    };
    within("a connection", exchange).await.unwrap_or_else(|error| panic!("raw HTTP/1.1: {error}"));
}

/// An HTTP/1.1 request for a chat completion, from its header lines and its body as sent.
#[must_use]
pub fn chat_request(app: &App, header_lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut request = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: llm.example\r\nconnection: close\r\n");
    for (name, value) in app.headers() {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("{header_lines}\r\n"));
    let mut request = request.into_bytes();
    request.extend_from_slice(body.as_ref());
    request
}

/// Writes a request's head, waits for `100 Continue`, writes the body, and reads until the other side
/// closes the connection. Ask for both in the head.
///
/// # Panics
/// When it doesn't come to that within bounds.
pub async fn http1_expecting(addr: SocketAddr, head: &[u8], body: &[u8]) -> String {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let exchange = async {
        let mut socket = TcpStream::connect(addr).await?;
        socket.write_all(head).await?;
        let mut interim = vec![0; CONTINUE.len()];
        socket.read_exact(&mut interim).await?;
        assert_eq!(String::from_utf8_lossy(&interim), String::from_utf8_lossy(CONTINUE));
        socket.write_all(body).await?;
        let mut answer = Vec::new();
        socket.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = within("an exchange with 100 Continue", exchange).await;
    let answer = answer.unwrap_or_else(|error| panic!("raw HTTP/1.1: {error}"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// A server that answers each connection's first request with these bytes and closes it. It stops with
/// the test's runtime.
///
/// # Panics
/// When no port is free.
pub async fn answer_and_close(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.unwrap_or_else(|error| panic!("no port: {error}"));
    let addr = listener.local_addr().unwrap_or_else(|error| panic!("no address: {error}"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            // Requests here are JSON objects, whose last byte is a brace.
            while !request.ends_with(b"}") {
                match socket.read_buf(&mut request).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            // Whoever asked may be gone; the test sees it.
            let _written = socket.write_all(&answer).await;
            let _closed = socket.shutdown().await;
        }
    });
    addr
}

/// One chat completion over HTTP/2 without TLS: the body in `pieces`, then `trailers` if there are
/// any.
///
/// # Panics
/// When there is no whole answer within bounds.
pub async fn http2(addr: SocketAddr, app: &App, pieces: &[&str], trailers: Option<HeaderMap>) -> Answer {
    http2_with_trailers(addr, app, pieces, trailers).await.0
}

/// The same, with the trailers of the answer.
///
/// # Panics
/// When there is no whole answer within bounds.
pub async fn http2_with_trailers(
    addr: SocketAddr,
    app: &App,
    pieces: &[&str],
    trailers: Option<HeaderMap>,
) -> (Answer, HeaderMap) {
    let exchange = async {
        let socket = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let frames = pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece.as_bytes())));
        let frames = frames.chain(trailers.map(Frame::trailers));
        let frames: Vec<_> = frames.map(Ok::<_, std::convert::Infallible>).collect();
        let mut request = Request::post(format!("http://llm.example{CHAT_PATH}"))
            .header("content-type", "application/json");
        for (name, value) in app.headers() {
            request = request.header(name, value);
        }
        let request =
            request.body(StreamBody::new(stream::iter(frames))).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        driver.abort();
        let answer = Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() };
        Ok::<_, String>((answer, trailers))
    };
    let answer = within("an HTTP/2 exchange", exchange).await;
    answer.unwrap_or_else(|error| panic!("HTTP/2: {error}"))
}
