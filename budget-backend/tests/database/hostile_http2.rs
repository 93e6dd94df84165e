//! Floods over HTTP/2, frame by frame.

use std::time::Duration;

use reqwest::StatusCode;
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api::TOKEN;
use crate::operator::url;
use crate::spool_support::*;

const PATIENCE: Duration = Duration::from_secs(30);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block: method and path from the static table, the rest as literals.
fn headers(post: bool) -> Vec<u8> {
    let mut block = vec![if post { 0x83 } else { 0x82 }, 0x86];
    let mut literal = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    };
    literal(":path", if post { "/v1/holds" } else { "/readyz" });
    literal(":authority", "b");
    literal("authorization", &format!("Bearer {TOKEN}"));
    block
}

/// Writes frames after the preface and reads all frames until the other side closes, or enough were seen.
async fn flood(
    process: &Process,
    frames: &[u8],
    enough: impl Fn(&(u8, u32, Vec<u8>)) -> bool,
) -> Vec<(u8, u32, Vec<u8>)> {
    let mut socket = TcpStream::connect(process.addr()).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend_from_slice(frames);
    let (mut reader, mut writer) = socket.split();
    let mut seen = Vec::new();
    let read = async {
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length.try_into().unwrap()];
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            seen.push((head[3], stream, payload));
            if enough(seen.last().unwrap()) {
                break;
            }
        }
    };
    // What can't be written any more is no error: the other side has had enough.
    let write = async {
        drop(writer.write_all(&bytes).await);
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! { () = read => {}, () = write => {} }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the flood is ended by the server");
    seen
}

fn code(payload: &[u8], from: usize) -> u32 {
    u32::from_be_bytes(payload[from..from + 4].try_into().unwrap())
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn streams_opened_and_reset_without_end_cost_the_connection_and_nothing_else(pool: PgPool) {
    let process = Process::start(&url(&pool), &[]).await;
    assert_eq!(process.page("/readyz").await.0, StatusCode::OK);
    let before = process.rss_bytes();
    let block = headers(false);
    let mut frames = Vec::new();
    for stream in (1..40_000_u32).step_by(2) {
        frames.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block));
        frames.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    for _ in 0..5 {
        let seen = flood(&process, &frames, |_| false).await;
        let told = seen.iter().find(|(kind, ..)| *kind == GOAWAY);
        assert!(
            told.is_some_and(|(_, _, payload)| code(payload, 4) != 0),
            "given up with a reason: {told:?}"
        );
    }
    let grown = process.rss_bytes().saturating_sub(before);
    println!("five floods of 20,000 resets grew the process by {grown} bytes");
    assert!(grown < 64 << 20, "{grown}");
    assert_eq!(process.page("/readyz").await.0, StatusCode::OK);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn heads_without_an_end_cost_the_connection(pool: PgPool) {
    let process = Process::start(&url(&pool), &[]).await;
    let mut frames = frame(HEADERS, END_STREAM, 1, &headers(false));
    for _ in 0..2_000 {
        let mut piece = Vec::new();
        for _ in 0..100 {
            piece.extend_from_slice(b"\0\x05x-abc\x0a0123456789");
        }
        frames.extend(frame(CONTINUATION, 0, 1, &piece));
    }
    let before = process.rss_bytes();
    let seen = flood(&process, &frames, |_| false).await;
    assert!(seen.iter().all(|(kind, ..)| *kind != HEADERS), "no answer");
    assert!(process.rss_bytes().saturating_sub(before) < 16 << 20);
    assert_eq!(process.page("/readyz").await.0, StatusCode::OK);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn more_streams_than_allowed_are_refused_one_by_one(pool: PgPool) {
    let process = Process::start(&url(&pool), &[]).await;
    let block = headers(true);
    let mut frames = Vec::new();
    // Requests whose bodies never come.
    for number in 0..1_100_u32 {
        frames.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &block));
    }
    let is_refusal =
        |(kind, _, payload): &(u8, u32, Vec<u8>)| *kind == RST_STREAM && code(payload, 0) == REFUSED_STREAM;
    let seen = flood(&process, &frames, is_refusal).await;
    let refused = seen.iter().find(|frame| is_refusal(frame)).expect("the refusal of a stream");
    assert!(refused.1 > 2 * 1_000, "the first thousand had a place: {}", refused.1);
    assert_eq!(process.page("/readyz").await.0, StatusCode::OK);
}
