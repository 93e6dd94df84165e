//! More than it can serve: what is too much is refused at once, and memory has a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::StatusCode;
use serde_json::json;
use sqlx::PgPool;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::api::{TOKEN, hold_request, settlement};
use crate::operator::url;
use crate::spool_support::*;
use crate::support::*;

/// What one lane queues, and one batch under way.
const LANE_HOLDS: usize = 4_096 + 1_024;

/// Holds offered in a round; all of one org, which one lane decides.
const OFFERED: usize = 7_000;

/// Rounds: together more than ten times what the lane holds.
const ROUNDS: usize = 8;

type Sender = SendRequest<Full<Bytes>>;

async fn connect(process: &Process) -> Sender {
    let socket = TcpStream::connect(process.addr()).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(async { drop(connection.await) });
    sender
}

/// Posts; gives the status and the text.
async fn post(mut sender: Sender, path: &str, body: String) -> (u16, String) {
    let request = Request::post(format!("http://b{path}"))
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Full::from(body))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&text).into_owned())
}

fn hold(number: usize) -> String {
    let mut request = hold_request(id(number.try_into().unwrap()));
    request["deadline_ms"] = json!(10_000);
    request.to_string()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn ten_times_what_is_served_is_answered_in_time_and_memory_has_a_bound(pool: PgPool) {
    let org = budget(&pool, "", "", "total", i64::MAX).await;
    let process = Process::start(&url(&pool), &[]).await;
    // The org's row is locked: its lane decides nothing, and each of its batches takes half a second to fail.
    let mut blocker = pool.begin().await.unwrap();
    let lock = "select from budget_counters where budget_id = $1 for update";
    let other = connect(&process).await;
    assert_eq!(post(other.clone(), "/v1/holds", hold(0)).await.0, 200);
    sqlx::query(lock).bind(org).execute(&mut *blocker).await.unwrap();
    let mut senders = Vec::new();
    for _ in 0..8 {
        senders.push(connect(&process).await);
    }
    let (mut peaks, mut refused) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let mut offered = JoinSet::new();
        for number in 0..OFFERED {
            let sender = senders[number % senders.len()].clone();
            offered.spawn(post(sender, "/v1/holds", hold(1_000 + round * OFFERED + number)));
        }
        let mut peak = 0;
        while let Some(answered) = offered.join_next().await {
            let (status, text) = answered.unwrap();
            assert_eq!(status, 503, "{text}");
            // The queue is full, or the lane's lock never came, or the deadline did.
            let cause: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(
                ["busy", "database", "deadline"].contains(&cause["cause"].as_str().unwrap_or_default()),
                "{text}"
            );
            refused += 1;
            if refused % 100 == 0 {
                peak = peak.max(process.rss_bytes());
            }
        }
        peaks.push(peak);
    }
    blocker.rollback().await.unwrap();
    println!("{refused} refused; memory by round: {peaks:?}");
    assert!(refused >= 10 * LANE_HOLDS);
    let (half, last) = (peaks[ROUNDS / 2 - 1], peaks[ROUNDS - 1]);
    assert!(last < half + half / 4, "it grows with what is offered: {peaks:?}");
    assert!(last < 400 << 20, "{peaks:?}");
    let (status, text) = post(other, "/v1/holds", hold(999_999)).await;
    assert_eq!(status, 200, "and serves on: {text}");
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn large_bodies_are_refused_before_they_fill_the_memory(pool: PgPool) {
    let process = Process::start(&url(&pool), &[]).await;
    let mut times = Vec::new();
    for number in 100..121 {
        let begun = Instant::now();
        let (status, answer) = process.settle(vec![settlement(id(number))]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        times.push(begun.elapsed());
    }
    let settled = median(times);
    let before = process.rss_bytes();
    // Nearly a mebibyte each and never ended: only so many are read at a time.
    let body = Arc::new(vec![b' '; 900_000]);
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        let (addr, body) = (process.addr(), Arc::clone(&body));
        clients.spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let head = format!(
                "POST /v1/settlements HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: \
                 application/json\r\ncontent-length: 1000000\r\n\r\n"
            );
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let (mut reader, mut writer) = socket.split();
            let write = async {
                drop(writer.write_all(head.as_bytes()).await);
                drop(writer.write_all(&body).await);
            };
            let mut status = vec![0; 12];
            let (_sent, read) = tokio::join!(write, reader.read_exact(&mut status));
            read.map(|_| String::from_utf8_lossy(&status[9..]).into_owned()).unwrap_or_default()
        });
    }
    let (mut peak, mut statuses, mut times) = (0, Vec::new(), Vec::new());
    while let Some(status) = clients.join_next().await {
        peak = peak.max(process.rss_bytes());
        let status = status.unwrap();
        if status == "503" && times.len() < 21 {
            // Everybody else's is refused as well while there is no room, without being waited for.
            let begun = Instant::now();
            let large = " ".repeat(900_000);
            let request = process.client.post(format!("{}/v1/settlements", process.base)).bearer_auth(TOKEN);
            if let Ok(answer) = request.body(large).send().await
                && answer.status() == StatusCode::SERVICE_UNAVAILABLE
            {
                times.push(begun.elapsed());
            }
        }
        statuses.push(status);
    }
    let refused = median(times);
    let count = |wanted: &str| statuses.iter().filter(|status| *status == wanted).count();
    let grown = peak.saturating_sub(before);
    println!("{} refused, {} too slow, {grown} bytes more at most", count("503"), count("408"));
    println!("settled in {settled:?}, refused in {refused:?}");
    assert!(refused < settled * 20, "{refused:?} against {settled:?}");
    assert!(count("503") > 0 && count("408") > 0, "{statuses:?}");
    assert!(grown < 200 << 20, "300 bodies would be 270 MB: {grown}");
    let (status, answer) = process.settle(vec![settlement(id(1))]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
