//! A service that is told to stop finishes what it took on.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::watch;
use uuid::Uuid;

use crate::api::{Service, TOKEN, settlement};
use crate::spool_support::{Gate, Process, Stand};
use crate::support::*;

/// Filters that send at once.
const SENDERS: u64 = 24;

/// Settlements in each of their batches.
const BATCH_ITEMS: u32 = 4;

/// Batches acknowledged before the stop.
const BATCHES_BEFORE: usize = 60;

/// Far below the 10 s after which the service would cut what still runs.
const MOST_TO_STOP: Duration = Duration::from_secs(8);

/// What a sender knows of its batches.
#[derive(Default)]
struct Sent {
    acknowledged: Vec<Vec<Uuid>>,
    unanswered: Vec<Vec<Uuid>>,
}

/// Sends batch after batch until one has no good answer.
async fn send(base: String, sender: u64, acknowledged: watch::Sender<usize>) -> Sent {
    let client = Client::new();
    let mut sent = Sent::default();
    for batch in 0.. {
        let first = (sender << 32) + batch * u64::from(BATCH_ITEMS);
        let ids: Vec<Uuid> = (first..first + u64::from(BATCH_ITEMS)).map(id).collect();
        let items: Vec<Value> = ids.iter().map(|call| settlement(*call)).collect();
        let request = client.post(format!("{base}/v1/settlements")).bearer_auth(TOKEN);
        let body = json!({"version": 1, "items": items}).to_string();
        let answer = request.header("content-type", "application/json").body(body).send().await;
        let Ok(answer) = answer else {
            sent.unanswered.push(ids);
            break;
        };
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            sent.unanswered.push(ids);
            break;
        }
        // Once the status is out, the answer must come whole.
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let results = answer["results"].as_array().unwrap();
        assert!(
            results.len() == ids.len() && results.iter().all(|item| item["outcome"] == "recorded"),
            "{answer}"
        );
        sent.acknowledged.push(ids);
        acknowledged.send_modify(|count| *count += 1);
    }
    sent
}

/// How many of a batch's settlements are in the ledger.
async fn recorded(pool: &PgPool, batch: &[Uuid]) -> i64 {
    sqlx::query_scalar("select count(*) from llm_requests where org = 'acme' and hold_id = any($1)")
        .bind(batch)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_is_acknowledged_around_a_stop_is_recorded(pool: PgPool) {
    let org = budget(&pool, "", "", "total", i64::MAX).await;
    let service = Service::start(&pool).await;
    let (acknowledged, mut count) = watch::channel(0);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| tokio::spawn(send(service.base.clone(), sender, acknowledged.clone())))
        .collect();
    count.wait_for(|count| *count >= BATCHES_BEFORE).await.unwrap();

    // Somebody holds the counter up, so that the stop finds a batch under way and others queued.
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("select from budget_counters where budget_id = $1 for update")
        .bind(org)
        .execute(&mut *blocker)
        .await
        .unwrap();
    wait_for(&pool, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").await;
    let before = *count.borrow();
    let addr = service.base.strip_prefix("http://").unwrap().to_owned();
    let begun = Instant::now();
    let stopping = tokio::spawn(service.stop());
    while tokio::net::TcpStream::connect(&addr).await.is_ok() {
        assert!(begun.elapsed() < MOST_TO_STOP, "it still listens");
        tokio::task::yield_now().await;
    }
    assert_eq!(*count.borrow(), before, "nothing is acknowledged before its commit");
    blocker.rollback().await.unwrap();
    stopping.await.expect("the service ends without an error");
    assert!(begun.elapsed() < MOST_TO_STOP, "{:?}", begun.elapsed());

    let (mut in_ledger, mut unanswered) = (0, 0);
    for sender in senders {
        let sent = sender.await.unwrap();
        for batch in &sent.acknowledged {
            assert_eq!(recorded(&pool, batch).await, i64::from(BATCH_ITEMS), "acknowledged and not recorded");
            in_ledger += i64::from(BATCH_ITEMS);
        }
        for batch in &sent.unanswered {
            let count = recorded(&pool, batch).await;
            assert!([0, i64::from(BATCH_ITEMS)].contains(&count), "{count} of a batch");
            in_ledger += count;
            unanswered += 1;
        }
    }
    assert_eq!(unanswered, SENDERS, "the stop came in the middle");
    assert!(*count.borrow() > before, "the batch under way was finished and answered");
    assert_eq!(number(&pool, "select count(*) from llm_requests").await, in_ledger);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_frozen_database_and_a_client_that_never_ends_don_t_keep_it_from_stopping(pool: PgPool) {
    use tokio::io::AsyncWriteExt as _;
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &[("PURSER_BODY_TIMEOUT_MS", "600000")]).await;
    assert_eq!(process.settle(vec![settlement(id(1))]).await.0, StatusCode::OK);
    let mut endless = tokio::net::TcpStream::connect(process.addr()).await.unwrap();
    let head = format!(
        "POST /v1/settlements HTTP/1.1\r\nhost: b\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
    );
    endless.write_all(head.as_bytes()).await.unwrap();
    gate.set(Stand::Frozen);
    // Told in time, though the tracker's thread hangs on its session.
    let asked = Instant::now();
    assert_eq!(process.settle(vec![settlement(id(2))]).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let told = asked.elapsed();
    let (status, took, log) = process.stop().await;
    // Else its sessions outlive the test.
    gate.set(Stand::Shut);
    println!("told after {told:?}, stopped in {took:?}");
    assert!(status.success(), "{log}");
    assert!(log.contains("requests still running at the shutdown limit were cut"), "{log}");
    assert!(told < Duration::from_secs(5), "before the filter gives up: {told:?}");
    // Ten seconds for requests, ten for what is queued, one to close.
    assert!(took < Duration::from_secs(25), "{took:?}");
}
