//! Settlements while the database is away: refused at once, or kept on disk until it is back.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;

use crate::api::{hold_request, settlement};
use crate::spool_support::*;
use crate::support::*;

/// What one of [`settlement`] costs: 900 × 150 + 100 × 75 + 50 × 600 nano-USD.
const COST_NANOUSD: i64 = 172_500;

/// The id of a call, the same whenever it is asked for.
fn call(number: u64) -> Uuid {
    static DATED: LazyLock<Uuid> = LazyLock::new(|| id(0));
    Uuid::from_u128(DATED.as_u128() + u128::from(number))
}

fn path(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}

/// Files of the folder whose name has `part` in it.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part)).collect()
}

fn batch(numbers: std::ops::Range<u64>) -> Vec<Value> {
    numbers.map(|number| settlement(call(number))).collect()
}

async fn entries(pool: &PgPool) -> i64 {
    number(pool, "select count(*) from llm_requests").await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn hold_times(process: &Process, numbers: std::ops::Range<u64>, status: StatusCode) -> Duration {
    let mut times = Vec::new();
    for number in numbers {
        let begun = Instant::now();
        let (seen, answer) = process.post("/v1/holds", &hold_request(call(number))).await;
        assert_eq!(seen, status, "{answer}");
        let cause = if status == StatusCode::OK { &Value::Null } else { &json!("database") };
        assert_eq!(&answer["cause"], cause, "{answer}");
        times.push(begun.elapsed());
    }
    median(times)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn without_a_spool_a_database_that_is_away_is_told_at_once_and_what_comes_again_is_recorded(
    pool: PgPool,
) {
    budget(&pool, "", "", "total", i64::MAX).await;
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &[]).await;
    let granted = hold_times(&process, 0..21, StatusCode::OK).await;
    gate.set(Stand::Shut);
    process.is_away().await;
    let refused = hold_times(&process, 100..121, StatusCode::SERVICE_UNAVAILABLE).await;
    println!("a hold is granted in {granted:?} and refused in {refused:?}");
    assert!(refused < granted * 4, "{refused:?} against {granted:?}");
    let begun = Instant::now();
    let (status, answer) = process.settle(batch(0..3)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert!(begun.elapsed() < granted * 20, "{:?} against {granted:?}", begun.elapsed());
    let (status, ready) = process.page("/readyz").await;
    assert_eq!((status, &ready["spool"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::Null), "{ready}");
    assert_eq!(process.page("/healthz").await.0, StatusCode::NO_CONTENT, "alive all the same");
    assert_eq!(entries(&pool).await, 0);

    gate.set(Stand::Open);
    process.readiness("the database", |seen| seen["status"] == "ready").await;
    let (status, answer) = process.settle(batch(0..3)).await;
    assert_eq!((status, outcomes(&answer)), (StatusCode::OK, vec!["recorded"; 3]));
    hold_times(&process, 200..201, StatusCode::OK).await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_the_spool_acknowledged_survives_kills_and_is_recorded_once(pool: PgPool) {
    let org = budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [("SPOOL_DIR", path(&folder))];
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &settings).await;
    // One of the calls has a hold, and one is settled already.
    assert_eq!(process.post("/v1/holds", &hold_request(call(0))).await.0, StatusCode::OK);
    assert_eq!(outcomes(&process.settle(batch(1..2)).await.1), ["recorded"]);
    gate.set(Stand::Shut);
    for first in (0..40).step_by(4) {
        let (status, answer) = process.settle(batch(first..first + 4)).await;
        assert_eq!((status, outcomes(&answer)), (StatusCode::OK, vec!["recorded"; 4]), "{}", process.log());
    }
    let (status, ready) = process.page("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&ready["spool"]["batches"], &ready["database"]), (&json!(10), &json!("away")), "{ready}");
    assert!(ready["detail"].as_str().unwrap().contains("settlements are spooled"), "{ready}");
    let renewal = json!({"kind": "renew", "hold_id": call(0), "payer": {"org": "acme"}});
    assert_eq!(process.settle(vec![renewal]).await.0, StatusCode::SERVICE_UNAVAILABLE, "not worth keeping");
    assert!(process.log().contains("settlements are spooled"), "{}", process.log());
    assert_eq!(entries(&pool).await, 1, "none of it has reached the database");
    process.kill();

    // Killed again while it drains, if it gets to it.
    gate.set(Stand::Open);
    let process = Process::start(&gate.url(&pool), &settings).await;
    assert!(process.log().contains("settlements of an earlier run"), "{}", process.log());
    process.kill();
    let process = Process::start(&gate.url(&pool), &settings).await;
    process.is_drained().await;
    assert_eq!(entries(&pool).await, 40);
    assert_eq!(standing(&pool, org).await, (40 * COST_NANOUSD, 0));
    assert_eq!(outcomes(&process.settle(batch(0..40)).await.1), ["duplicate"; 40]);
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_stop_in_an_outage_keeps_the_spool_for_the_next_start(pool: PgPool) {
    budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [("PURSER_SPOOL_DIR", path(&folder))];
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &settings).await;
    gate.set(Stand::Shut);
    process.is_away().await;
    assert_eq!(process.settle(batch(0..8)).await.0, StatusCode::OK);
    let (status, took, log) = process.stop().await;
    println!("stopped in {took:?}");
    assert!(status.success() && log.contains("stay in the spool"), "{log}");
    gate.set(Stand::Open);
    let process = Process::start(&gate.url(&pool), &settings).await;
    process.is_drained().await;
    assert_eq!(entries(&pool).await, 8);
    let (status, _, log) = process.stop().await;
    assert!(status.success() && !log.contains("stay in the spool"), "{log}");
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_frozen_database_neither_holds_up_settlements_nor_counts_them_twice(pool: PgPool) {
    budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &[("PURSER_SPOOL_DIR", path(&folder))]).await;
    assert_eq!(process.settle(batch(0..1)).await.0, StatusCode::OK);
    gate.set(Stand::Frozen);
    // The first waits for its commit, which may happen yet; then it is known.
    let begun = Instant::now();
    assert_eq!(process.settle(batch(1..3)).await.0, StatusCode::OK);
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(5), "a filter has given up by then: {first:?}");
    let mut last = first;
    let mut sent = 3;
    while last > first / 10 {
        let begun = Instant::now();
        assert_eq!(process.settle(batch(sent..sent + 1)).await.0, StatusCode::OK);
        (last, sent) = (begun.elapsed(), sent + 1);
        assert!(sent < 20, "each waits for the frozen database: {last:?} after {first:?}");
    }
    println!("spooled after {first:?}, and then after {last:?}");
    gate.set(Stand::Open);
    process.is_drained().await;
    assert_eq!(u64::try_from(entries(&pool).await), Ok(sent));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_full_spool_refuses_and_loses_nothing(pool: PgPool) {
    budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let max_bytes = 1 << 20;
    let settings = [("PURSER_SPOOL_DIR", path(&folder)), ("PURSER_SPOOL_MAX_BYTES", "1048576")];
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &settings).await;
    gate.set(Stand::Shut);
    process.is_away().await;
    let mut kept = 0;
    let refusal = loop {
        let (status, answer) = process.settle(batch(kept..kept + 200)).await;
        if status != StatusCode::OK {
            break (status, answer);
        }
        kept += 200;
        assert!(kept < 20_000, "it never is full");
    };
    assert_eq!(refusal.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refusal.1["detail"].as_str().unwrap().contains("full"), "{}", refusal.1);
    let (_, ready) = process.page("/readyz").await;
    let bytes = ready["spool"]["bytes"].as_u64().unwrap();
    assert!(bytes <= max_bytes && bytes > max_bytes / 2, "{ready}");
    let on_disk = std::fs::metadata(&files(folder.path(), "settlements.redb")[0]).unwrap().len();
    println!("{kept} settlements in {bytes} bytes, {on_disk} on disk");
    assert!(on_disk < 6 * max_bytes, "{on_disk}");
    gate.set(Stand::Open);
    process.is_drained().await;
    assert_eq!(u64::try_from(entries(&pool).await), Ok(kept), "what was acknowledged, and no more");
    // The disk is of use again.
    gate.set(Stand::Shut);
    process.is_away().await;
    assert_eq!(process.settle(batch(kept..kept + 200)).await.0, StatusCode::OK);
    gate.set(Stand::Open);
    process.is_drained().await;
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_spooled_settlement_corrects_the_expiry_that_came_before_it(pool: PgPool) {
    let org = budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::open(&pool).await;
    let short =
        [("PURSER_HOLD_TTL_S", "1"), ("PURSER_SWEEP_INTERVAL_MS", "50"), ("PURSER_SWEEP_GRACE_S", "0")];
    let cut_off =
        [("PURSER_SPOOL_DIR", path(&folder)), ("PURSER_HOLD_TTL_S", "1"), ("PURSER_SWEEP_GRACE_S", "3600")];
    let process = Process::start(&gate.url(&pool), &cut_off).await;
    let other = Process::start(&crate::operator::url(&pool), &short).await;
    assert_eq!(process.post("/v1/holds", &hold_request(call(0))).await.0, StatusCode::OK);
    gate.set(Stand::Shut);
    assert_eq!(outcomes(&process.settle(batch(0..1)).await.1), ["recorded"]);
    wait_for(&pool, "select count(*) from llm_requests where cause = 'expired'").await;
    assert!(standing(&pool, org).await.0 != COST_NANOUSD, "charged its hold for now");
    gate.set(Stand::Open);
    process.is_drained().await;
    assert_eq!(entries(&pool).await, 2);
    assert_eq!(standing(&pool, org).await, (COST_NANOUSD, 0));
    assert_books_balance(&pool).await;
    drop(other);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn what_the_ledger_refuses_at_the_drain_is_quarantined_and_what_can_t_be_read_is_set_aside(
    pool: PgPool,
) {
    budget(&pool, "", "", "total", i64::MAX).await;
    let folder = tempfile::tempdir().unwrap();
    let mut bad = settlement(call(1));
    bad["usage"]["input_tokens"] = json!(u64::MAX);
    {
        let mut store = budget_backend::spool::Store::open(folder.path()).unwrap();
        let texts = [
            json!([settlement(call(0))]).to_string(),
            json!([bad]).to_string(),
            "no settlements at all".to_owned(),
            json!([settlement(call(2))]).to_string(),
        ];
        store.append(&texts.map(String::into_bytes)).unwrap();
    }
    let gate = Gate::open(&pool).await;
    let process = Process::start(&gate.url(&pool), &[("PURSER_SPOOL_DIR", path(&folder))]).await;
    process.is_drained().await;
    assert_eq!(entries(&pool).await, 2);
    assert_eq!(number(&pool, "select count(*) from quarantined_settlements").await, 1);
    let aside = files(folder.path(), "unreadable-");
    assert_eq!(aside.len(), 1);
    assert_eq!(std::fs::read_to_string(&aside[0]).unwrap(), "no settlements at all");
    assert!(process.log().contains("set aside"), "{}", process.log());
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_spool_serves_one_process_and_a_damaged_one_is_set_aside_with_a_message(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("PURSER_SPOOL_DIR", path(&folder))];
    let url = crate::operator::url(&pool);
    let process = Process::start(&url, &settings).await;
    let (status, log) = fails_to_start(&url, &settings).await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("every replica needs a folder of its own") && log.contains("PURSER_SPOOL_DIR"),
        "{log}"
    );
    process.kill();

    std::fs::write(folder.path().join("settlements.redb"), b"these bytes were settlements once").unwrap();
    let process = Process::start(&url, &settings).await;
    assert!(process.log().contains("damaged and set aside"), "{}", process.log());
    let aside = files(folder.path(), "damaged");
    assert_eq!(std::fs::read(&aside[0]).unwrap(), b"these bytes were settlements once", "kept as it was");
    process.is_drained().await;

    let file = folder.path().join("a-file");
    std::fs::write(&file, b"").unwrap();
    let (status, log) = fails_to_start(&url, &[("PURSER_SPOOL_DIR", file.to_str().unwrap())]).await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("PURSER_SPOOL_DIR") && log.contains("a-file"), "{log}");
}

#[test]
fn no_damage_to_the_file_is_taken_for_settlements_or_for_none() {
    use budget_backend::spool::Store;
    let texts: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 700]).collect();
    let (mut read_whole, mut set_aside) = (0, 0);
    for place in 0..64_usize {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settlements.redb");
        {
            let mut store = Store::open(folder.path()).unwrap();
            for text in texts.chunks(5) {
                store.append(text).unwrap();
            }
        }
        let mut bytes = std::fs::read(&file).unwrap();
        if place % 4 == 0 {
            bytes.truncate(bytes.len() / 64 * place + 1);
        } else {
            let from = bytes.len() / 64 * place;
            bytes[from..from + 64].iter_mut().for_each(|byte| *byte ^= 0x5a);
        }
        std::fs::write(&file, bytes).unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let found: Vec<Vec<u8>> = store.first(100).unwrap().into_iter().map(|(_, text)| text).collect();
        if files(folder.path(), "damaged").is_empty() {
            assert_eq!(found, texts, "damage at {place} of 64 was not noticed");
            read_whole += 1;
        } else {
            assert!(found.is_empty());
            set_aside += 1;
        }
        // Either way it is of use.
        store.append(&[b"next".to_vec()]).unwrap();
    }
    println!("{read_whole} damages did not matter, {set_aside} were set aside");
    assert!(set_aside > 8 && read_whole > 0);
}
