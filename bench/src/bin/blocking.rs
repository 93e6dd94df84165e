//! A budget backend as the one before Purser was: each check is a transaction of its own, done by a
//! blocking client on a small pool of threads, and each cost write another one on the same pool.
//! With tables of its own and the fewest statements that lock, decide, write and commit: what is slow
//! about it is the way, not carelessness.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bench::wire::{self, Body};
use bytes::Bytes;
use clap::Parser;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use postgres::types::ToSql;
use postgres::{Client, NoTls, Statement};
use purser_protocol::{
    Allow, HOLDS_PATH, HoldRequest, HoldResponse, ItemResult, MARKER_HEADER, MARKER_VALUE, Outcome, Payer,
    SettlementBatch, SettlementItem, SettlementResponse, Tier, TierRemaining, VERSION, Verdict, Window,
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What every hold takes, nano-USD.
const HELD_NANOUSD: i64 = 100_000;
/// Jobs that may wait; more are refused.
const MAX_WAITING: usize = 100_000;

const SCHEMA: &str = "
    create table if not exists blocking_counters (
        tier int primary key, limit_nanousd bigint not null,
        spent_nanousd bigint not null, held_nanousd bigint not null) with (fillfactor = 50);
    insert into blocking_counters select tier, 1000000000000000, 0, 0 from generate_series(0, 2) tier
        on conflict do nothing;
    create table if not exists blocking_holds (hold_id uuid primary key, held_nanousd bigint not null);
    create table if not exists blocking_requests (
        hold_id uuid primary key, org text not null, team text, user_name text, model text not null,
        input_tokens bigint not null, output_tokens bigint not null, cost_nanousd bigint not null,
        recorded_at timestamptz not null default now());";

#[derive(Parser)]
struct Options {
    /// Threads, each with a connection.
    #[arg(long, default_value_t = 10)]
    threads: usize,
}

enum Job {
    Hold(Uuid, oneshot::Sender<Result<Vec<i64>, String>>),
    Settle(Box<SettlementItem>, oneshot::Sender<Result<bool, String>>),
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set".to_owned())?;
    let connect = || Client::connect(&url, NoTls).map_err(|error| error.to_string());
    connect()?.batch_execute(SCHEMA).map_err(|error| error.to_string())?;
    let (jobs, waiting) = sync_channel(MAX_WAITING);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..options.threads {
        let mut worker = Worker::new(connect()?)?;
        let waiting = Arc::clone(&waiting);
        std::thread::spawn(move || {
            while let Some(job) = next(&waiting) {
                worker.perform(job);
            }
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(wire::serve(move |request| {
        let jobs = jobs.clone();
        async move {
            answer(request, &jobs).await.unwrap_or_else(|problem| {
                let mut response = Response::new(wire::whole(Bytes::from(problem)));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            })
        }
    }))
}

fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().ok()?.recv().ok()
}

async fn answer(request: Request<Incoming>, jobs: &SyncSender<Job>) -> Result<Response<Body>, String> {
    let is_hold = request.uri().path() == HOLDS_PATH;
    let body = request.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    let text = if is_hold { hold(&body, jobs).await? } else { settle(&body, jobs).await? };
    let mut response = Response::new(wire::whole(Bytes::from(text)));
    response.headers_mut().insert(MARKER_HEADER, HeaderValue::from_static(MARKER_VALUE));
    Ok(response)
}

async fn hold(body: &[u8], jobs: &SyncSender<Job>) -> Result<String, String> {
    let asked: HoldRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let (sender, decided) = oneshot::channel();
    jobs.try_send(Job::Hold(asked.hold_id, sender)).map_err(|_| "too many wait".to_owned())?;
    let left = decided.await.map_err(|error| error.to_string())??;
    let tiers = [(Tier::Org, Window::Month), (Tier::Team, Window::Day), (Tier::User, Window::Day)];
    let remaining = tiers.into_iter().zip(left).map(|((tier, window), remaining_nanousd)| TierRemaining {
        tier,
        window,
        limit_nanousd: 1_000_000_000_000_000,
        remaining_nanousd,
        resets_in_s: None,
    });
    let allow = Allow { held_nanousd: HELD_NANOUSD, remaining: remaining.collect(), ..Allow::default() };
    let verdict = HoldResponse { version: VERSION, hold_id: asked.hold_id, verdict: Verdict::Allow(allow) };
    serde_json::to_string(&verdict).map_err(|error| error.to_string())
}

async fn settle(body: &[u8], jobs: &SyncSender<Job>) -> Result<String, String> {
    let batch: SettlementBatch = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut pending = Vec::new();
    for item in batch.items {
        let (sender, recorded) = oneshot::channel();
        let hold_id = item.hold_id();
        jobs.try_send(Job::Settle(Box::new(item), sender)).map_err(|_| "too many wait".to_owned())?;
        pending.push((hold_id, recorded));
    }
    let mut results = Vec::new();
    for (hold_id, recorded) in pending {
        let is_new = recorded.await.map_err(|error| error.to_string())??;
        let outcome = if is_new { Outcome::Recorded } else { Outcome::Duplicate };
        results.push(ItemResult { hold_id, outcome });
    }
    let response = SettlementResponse { version: VERSION, results };
    serde_json::to_string(&response).map_err(|error| error.to_string())
}

/// A thread's connection, with its statements prepared.
struct Worker {
    client: Client,
    lock: Statement,
    raise: Statement,
    open: Statement,
    close: Statement,
    charge: Statement,
    record: Statement,
}

impl Worker {
    fn new(mut client: Client) -> Result<Self, String> {
        let mut prepare = |sql: &str| client.prepare(sql).map_err(|error| error.to_string());
        Ok(Self {
            lock: prepare(
                "select limit_nanousd - spent_nanousd - held_nanousd from blocking_counters
                  order by tier for update",
            )?,
            raise: prepare("update blocking_counters set held_nanousd = held_nanousd + $1")?,
            open: prepare("insert into blocking_holds values ($1, $2)")?,
            close: prepare("delete from blocking_holds where hold_id = $1 returning held_nanousd")?,
            charge: prepare(
                "update blocking_counters
                    set held_nanousd = held_nanousd - $1, spent_nanousd = spent_nanousd + $2",
            )?,
            record: prepare(
                "insert into blocking_requests
                        (hold_id, org, team, user_name, model, input_tokens, output_tokens, cost_nanousd)
                 values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
            )?,
            client,
        })
    }

    /// Does it, and tells whoever still waits.
    fn perform(&mut self, job: Job) {
        match job {
            Job::Hold(hold_id, told) => {
                let left = self.hold(hold_id).map_err(|error| error.to_string());
                let _gone = told.send(left);
            }
            Job::Settle(item, told) => {
                let recorded = self.settle(&item).map_err(|error| error.to_string());
                let _gone = told.send(recorded);
            }
        }
    }

    fn hold(&mut self, hold_id: Uuid) -> Result<Vec<i64>, postgres::Error> {
        let mut transaction = self.client.transaction()?;
        let rows = transaction.query(&self.lock, &[])?;
        let left: Vec<i64> = rows.iter().map(|row| row.get::<_, i64>(0)).collect();
        // Its limits are ample; a run never comes to the end of them.
        transaction.execute(&self.raise, &[&HELD_NANOUSD])?;
        transaction.execute(&self.open, &[&hold_id, &HELD_NANOUSD])?;
        transaction.commit()?;
        Ok(left.into_iter().map(|left| left.saturating_sub(HELD_NANOUSD)).collect())
    }

    /// Whether it was new.
    fn settle(&mut self, item: &SettlementItem) -> Result<bool, postgres::Error> {
        let mut transaction = self.client.transaction()?;
        transaction.query(&self.lock, &[])?;
        let held = transaction.query_opt(&self.close, &[&item.hold_id()])?;
        let held = held.map_or(0_i64, |row| row.get(0));
        let mut is_new = held > 0;
        let mut cost_nanousd = 0;
        if let SettlementItem::Settle(call) = item {
            let input = i64::try_from(call.usage.input_tokens).unwrap_or(i64::MAX);
            let output = i64::try_from(call.usage.output_tokens).unwrap_or(i64::MAX);
            let cost = input.saturating_mul(150).saturating_add(output.saturating_mul(600));
            let Payer { org, team, user } = &call.payer;
            let values: [&(dyn ToSql + Sync); 8] =
                [&call.hold_id, org, team, user, &call.call.model, &input, &output, &cost];
            is_new = transaction.execute(&self.record, &values)? == 1;
            if is_new {
                cost_nanousd = cost;
            }
        }
        transaction.execute(&self.charge, &[&held, &cost_nanousd])?;
        transaction.commit()?;
        Ok(is_new)
    }
}
