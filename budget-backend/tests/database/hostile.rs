//! Clients that mean harm, or know no better, on the backend's own port.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::api::{ADMIN, TOKEN, hold_request};
use crate::operator::url;
use crate::spool_support::*;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Short, so that a test needn't wait long; what is shown is that they hold.
const SHORT: [(&str, &str); 2] = [("PURSER_HEADER_TIMEOUT_MS", "400"), ("PURSER_BODY_TIMEOUT_MS", "400")];

async fn connected(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// Reads until the other side closes.
async fn read_to_end(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well; what came before it counts.
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
    read.map(drop)
        .unwrap_or_else(|_| panic!("still open after {PATIENCE:?}: {:?}", String::from_utf8_lossy(&answer)));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    read_to_end(connected(addr, bytes.as_ref()).await).await
}

/// One answer with a content length, on a connection that stays.
async fn answer(socket: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
            if body.len() >= length {
                return Some(all);
            }
        }
        match tokio::time::timeout(PATIENCE, socket.read_buf(&mut text)).await.expect("an answer or an end") {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

fn head(more: &str) -> String {
    format!(
        "POST /v1/holds HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n{more}\r\n"
    )
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn half_sent_heads_are_cut_whatever_they_dribble_and_make_room_for_others(pool: PgPool) {
    let settings = [SHORT[0], ("PURSER_MAX_CONNECTIONS", "64")];
    let process = Process::start(&url(&pool), &settings).await;
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for number in 0..64_u32 {
        let addr = process.addr();
        clients.spawn(async move {
            let mut socket = connected(addr, b"POST /v1/holds HTTP/1.1\r\nhost: b\r\nx-").await;
            let mut answered = String::new();
            // Every other one dribbles until it is cut; the rest say nothing more.
            while number % 2 == 0 && socket.write_all(b"a").await.is_ok() {
                let wait = Duration::from_millis(20);
                match tokio::time::timeout(wait, socket.read_to_string(&mut answered)).await {
                    Ok(_) => return,
                    Err(_) => assert!(begun.elapsed() < PATIENCE, "dribbling keeps a connection"),
                }
            }
            read_to_end(socket).await;
        });
    }
    // Whoever comes meanwhile is told so at once, or has found a place that was freed.
    let mut refused = None;
    while refused.is_none() && begun.elapsed() < PATIENCE {
        let seen =
            exchange(process.addr(), "GET /healthz HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n").await;
        if status(&seen) == "503" {
            refused = Some(seen);
        }
        if clients.is_empty() {
            break;
        }
    }
    let refused = refused.expect("with every place taken a client is refused");
    assert!(refused.contains("x-purser-backend: 1") && refused.contains("too many connections"), "{refused}");
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!("64 half-sent heads were cut within {:?}", begun.elapsed());
    assert_eq!(process.page("/healthz").await.0, StatusCode::NO_CONTENT);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_connection_kept_by_a_filter_outlives_the_time_for_a_head_and_a_half_head_on_it_does_not(
    pool: PgPool,
) {
    let process = Process::start(&url(&pool), &SHORT).await;
    let body = hold_request(id(1)).to_string();
    let request = format!("{}{body}", head(&format!("content-length: {}\r\n", body.len())));
    let mut kept = connected(process.addr(), request.as_bytes()).await;
    assert_eq!(status(&answer(&mut kept).await.unwrap()), "200");
    // Long enough for three that are silent to be cut one after the other.
    for _ in 0..3 {
        assert_eq!(read_to_end(TcpStream::connect(process.addr()).await.unwrap()).await, "");
    }
    kept.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(status(&answer(&mut kept).await.expect("it was kept")), "200");
    kept.write_all(b"POST /v1/holds HTTP/1.1\r\nhost").await.unwrap();
    assert_eq!(read_to_end(kept).await, "", "half a head is cut on any connection");
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn bodies_that_are_slow_large_or_cut_are_answered_and_not_waited_for(pool: PgPool) {
    let process = Process::start(&url(&pool), &SHORT).await;
    let slow = exchange(process.addr(), head("content-length: 100\r\n") + "{\"version\":").await;
    assert_eq!(status(&slow), "408", "{slow}");
    assert!(slow.contains("application/problem+json") && slow.contains("within 400 ms"), "{slow}");
    let slow_chunks = head("transfer-encoding: chunked\r\n") + "5\r\n{\"ver\r\n";
    assert_eq!(status(&exchange(process.addr(), slow_chunks).await), "408");

    let told = exchange(process.addr(), head("content-length: 2000000\r\nconnection: close\r\n")).await;
    assert_eq!(status(&told), "413", "before a byte of it was read: {told}");
    let mut chunks = head("transfer-encoding: chunked\r\nconnection: close\r\n").into_bytes();
    for _ in 0..20 {
        chunks.extend_from_slice(format!("{:x}\r\n{}\r\n", 65_536, "a".repeat(65_536)).as_bytes());
    }
    let mut socket = TcpStream::connect(process.addr()).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let mut seen = vec![0; 12];
    // Side by side: the answer comes before all is sent, and the rest is never read.
    let write = async { drop(writer.write_all(&chunks).await) };
    let (_sent, read) = tokio::join!(tokio::time::timeout(PATIENCE, write), reader.read_exact(&mut seen));
    read.unwrap();
    assert_eq!(seen, b"HTTP/1.1 413");

    // Without a token nothing of a body is waited for.
    let nobody =
        "POST /v1/settlements HTTP/1.1\r\nhost: b\r\ncontent-length: 900000\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&exchange(process.addr(), nobody).await), "401");
    assert_eq!(process.page("/healthz").await.0, StatusCode::NO_CONTENT);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn nothing_is_smuggled_behind_a_request(pool: PgPool) {
    let process = Process::start(&url(&pool), &SHORT).await;
    budget(&pool, "", "", "total", i64::MAX).await;
    let hidden =
        format!("GET /v1/budgets?org=acme HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
    let cases = [
        ("both lengths", format!("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}")),
        (
            "the other way",
            format!("transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        ("two lengths", format!("content-length: 0\r\ncontent-length: 9\r\n\r\n{hidden}")),
        ("two in one", format!("content-length: 0, 9\r\n\r\n{hidden}")),
        ("a signed length", format!("content-length: +0\r\n\r\n{hidden}")),
        ("a length that is none", format!("content-length: 0x0\r\n\r\n{hidden}")),
        ("a folded header", format!("x-a: 1\r\n transfer-encoding: chunked\r\n\r\n{hidden}")),
        ("a space before the colon", format!("content-length : 0\r\n\r\n{hidden}")),
        ("not chunked last", format!("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}")),
        ("an unknown coding", format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("a chunk without a size", format!("transfer-encoding: chunked\r\n\r\nzz\r\n{hidden}")),
        (
            "a chunk size too large",
            format!("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{hidden}"),
        ),
        ("a carriage return in a value", format!("x-a: 1\rcontent-length: 0\r\n\r\n{hidden}")),
        ("a NUL in a value", format!("x-a: 1\0\r\n\r\n{hidden}")),
    ];
    for (what, rest) in cases {
        let request =
            format!("POST /v1/holds HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {TOKEN}\r\n{rest}");
        let seen = exchange(process.addr(), &request).await;
        let answers = seen.matches("HTTP/1.1 ").count();
        assert_eq!(answers, 1, "{what}: {seen}");
        assert!(status(&seen).starts_with('4') && !seen.contains("budget_id"), "{what}: {seen}");
    }
    assert_eq!(process.page("/healthz").await.0, StatusCode::NO_CONTENT);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn pipelined_requests_are_answered_in_their_order(pool: PgPool) {
    let process = Process::start(&url(&pool), &SHORT).await;
    let body = hold_request(id(1)).to_string();
    let hold = format!("{}{body}", head(&format!("content-length: {}\r\n", body.len())));
    let mut requests = String::new();
    for _ in 0..100 {
        requests += "GET /nowhere HTTP/1.1\r\nhost: b\r\n\r\n";
        requests += &hold;
    }
    requests += "GET /healthz HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n";
    let seen = exchange(process.addr(), &requests).await;
    let statuses: Vec<&str> = seen.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    let mut expected = ["404", "200"].repeat(100);
    expected.push("204");
    assert_eq!(statuses, expected);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn odd_paths_and_heads_are_refused_in_the_shape_of_all_errors(pool: PgPool) {
    let process = Process::start(&url(&pool), &SHORT).await;
    let admin = format!("authorization: Bearer {ADMIN}\r\n");
    for (line, expected) in [
        ("DELETE /v1/budgets/%FF HTTP/1.1", "400"),
        ("DELETE /v1/budgets/a%00b HTTP/1.1", "404"),
        ("DELETE /v1/overrides/%C3%28 HTTP/1.1", "400"),
        ("DELETE /v1/budgets/99999999999999999999 HTTP/1.1", "404"),
        ("GET /v1/usage?org=acme&month=%FF HTTP/1.1", "422"),
        ("GET /v1/audit?org=acme&before=%00 HTTP/1.1", "400"),
        ("GET /%FF/%2e%2e/v1/budgets HTTP/1.1", "404"),
        ("PUT /v1/budgets HTTP/1.1", "405"),
    ] {
        let request = format!("{line}\r\nhost: b\r\n{admin}content-length: 0\r\nconnection: close\r\n\r\n");
        let seen = exchange(process.addr(), request).await;
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        let body: Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}: {seen}"));
        // A query that can't be read and one that can't be right are told apart by their texts alone.
        let same = status(&seen) == expected || (expected == "422" && status(&seen) == "400");
        assert!(same, "{line}: {seen}");
        assert!(head.contains("application/problem+json"), "{line}: {seen}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 5), "{line}: {seen}");
    }
    let long =
        exchange(process.addr(), format!("GET /{} HTTP/1.1\r\nhost: b\r\n\r\n", "a".repeat(100_000))).await;
    assert!(["414", "431"].contains(&status(&long)), "{long}");
    let many = exchange(process.addr(), format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000))).await;
    assert_eq!(status(&many), "431", "{many}");
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"\0\0\0\0\r\n\r\n", b"\xff\xff\xff\xff\r\n\r\n"]
    {
        let seen = exchange(process.addr(), garbage).await;
        assert!(seen.is_empty() || status(&seen) == "400", "{seen}");
    }
    assert_eq!(process.page("/healthz").await.0, StatusCode::NO_CONTENT);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn two_tokens_are_taken_while_they_are_changed(pool: PgPool) {
    let tokens = format!("the-next-token-of-filters,{TOKEN}");
    let process = Process::start(&url(&pool), &[("PURSER_TOKEN", &tokens)]).await;
    for (token, expected) in
        [(TOKEN, 200), ("the-next-token-of-filters", 200), (&tokens[..], 401), (ADMIN, 401), ("", 401)]
    {
        let request = process.client.post(format!("{}/v1/holds", process.base)).bearer_auth(token);
        let answer = request.json(&hold_request(id(1))).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{token}");
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(expected == 200 || answer["status"] == json!(expected), "{answer}");
    }
}
