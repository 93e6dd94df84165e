//! A replica that freezes between its lock and its commit must not freeze an org.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::ledger::{Decision, HoldFailure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use purser_protocol::{Api, Call, HOLDS_PATH, HoldRequest, HoldResponse, Size, VERSION, Verdict};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use crate::slow_link::SlowLink;
use crate::support::*;

const TOKEN: &str = "data-plane-token-of-a-test";
/// Long enough to catch the process between two messages, shorter than the session limit.
const DELAY: Duration = Duration::from_millis(300);
/// How much longer than the session limit a hold behind a frozen replica may take.
const MOST_LIMITS: u32 = 4;

/// A backend of its own; whatever becomes of the test, it goes on and then ends.
struct Backend {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Backend {
    async fn start(database_url: String) -> Self {
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_budget-backend"));
            for (name, _) in std::env::vars_os() {
                if name.as_encoded_bytes().starts_with(b"PURSER_") {
                    command.env_remove(name);
                }
            }
            let mut child = command
                .arg("serve")
                .env("DATABASE_URL", database_url)
                .env("PURSER_TOKEN", TOKEN)
                .env("PURSER_ADMIN_TOKEN", "admin-token-of-a-test")
                .env("PURSER_LISTEN_ADDR", "127.0.0.1:0")
                .env("PURSER_DB_POOL_MIN", "1")
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let stdout = child.stdout.take().unwrap();
            let mut backend = Self { child, url: String::new(), http: reqwest::Client::new() };
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            let addr = line.trim_end().strip_prefix("listening on ");
            backend.url = format!("http://{}", addr.expect("the backend says where it listens"));
            backend
        })
        .await
        .unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Asks for a hold; `None` when the backend gives no verdict.
    fn hold(&self, hold_id: Uuid) -> impl Future<Output = Option<Verdict>> + Send + 'static {
        let request = HoldRequest {
            version: VERSION,
            hold_id,
            payer: ann(),
            lookup: None,
            service_tier: None,
            call: Call {
                api: Api::OpenaiChat,
                provider: "openai".to_owned(),
                model: "gpt-4o-mini".to_owned(),
                stream: false,
            },
            size: Size { text_bytes: 100, max_output_tokens: Some(10), choices: 1, ..Size::default() },
            tags: std::collections::BTreeMap::new(),
            deadline_ms: 5_000,
        };
        let request = self.http.post(format!("{}{HOLDS_PATH}", self.url)).bearer_auth(TOKEN).json(&request);
        async move {
            let response = request.send().await.unwrap();
            if !response.status().is_success() {
                return None;
            }
            Some(response.json::<HoldResponse>().await.unwrap().verdict)
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A pool set up as the backend sets up its own, without the slow link.
async fn replica_pool(pool: &PgPool) -> PgPool {
    let server = std::env::var("DATABASE_URL").unwrap();
    let (server, _) = server.rsplit_once('/').unwrap();
    let url = format!("{server}/{}", pool.connect_options().get_database().unwrap());
    let config = DatabaseConfig {
        checks: PgConnectOptions::from_str(&url).unwrap(),
        tracker: url.parse().unwrap(),
        pool_min: 1,
        pool_max: 4,
        connect_timeout: Duration::from_secs(10),
    };
    db::connect(&config).await.unwrap()
}

/// Sessions that have locked counters and wait for their process; what else a backend does, such as reading
/// them for alerts, may sit idle too.
const IDLE_IN_TRANSACTION: &str = "select count(*) from pg_stat_activity a
     where a.datname = current_database() and a.application_name = 'purser-checks'
       and a.state = 'idle in transaction'
       and exists (select from pg_locks l where l.pid = a.pid and l.relation = 'budget_counters'::regclass
                          and l.mode = 'RowShareLock')";

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_replica_that_freezes_between_lock_and_commit_loses_its_locks(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000_000_000_000).await;
    let link = SlowLink::start(&pool, Duration::ZERO).await;
    let frozen = Backend::start(link.url(&pool)).await;
    assert!(matches!(frozen.hold(id(1)).await, Some(Verdict::Allow(_))));
    let (spent, held_before) = standing(&pool, org).await;
    assert!(spent == 0 && held_before > 0);
    let direct = replica_pool(&pool).await;
    let limit: String = sqlx::query_scalar(
        "select setting from pg_settings where name = 'idle_in_transaction_session_timeout' and unit = 'ms'",
    )
    .fetch_one(&direct)
    .await
    .unwrap();
    let limit = Duration::from_millis(limit.parse().unwrap());
    assert!(limit > DELAY, "the process must have time to freeze: {limit:?}");

    // The lock's answer is on its way, the counters are locked, and the write has not been sent.
    link.set_delay(DELAY);
    let unanswered = tokio::spawn(frozen.hold(id(2)));
    wait_for(&pool, IDLE_IN_TRANSACTION).await;
    frozen.signal(Signal::SIGSTOP);
    assert_eq!(number(&pool, IDLE_IN_TRANSACTION).await, 1, "frozen while it holds the lock");

    let asked = Instant::now();
    let replica = ledger(&direct);
    let decision = replica.hold(ask(id(3), &ann(), 7), asked + MOST_LIMITS * limit).await;
    let waited = asked.elapsed();
    println!("granted after {waited:?} with a session limit of {limit:?}");
    assert!(matches!(decision, Ok(Decision::Granted(_))), "{decision:?} after {waited:?}");
    assert!(waited <= MOST_LIMITS * limit, "{waited:?}");
    assert_eq!(standing(&pool, org).await, (0, held_before + 7), "the frozen one holds nothing");
    assert_books_balance(&pool).await;

    // It wakes up, finds its session gone, and is of use again.
    link.set_delay(Duration::ZERO);
    frozen.signal(Signal::SIGCONT);
    let _verdict_or_none = unanswered.await.unwrap();
    assert!(matches!(frozen.hold(id(4)).await, Some(Verdict::Allow(_))));
    assert_books_balance(&pool).await;
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_database_gone_silent_fails_holds_at_their_deadline_and_leaves_the_books_right(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let link = SlowLink::start(&pool, Duration::ZERO).await;
    let far = PgPoolOptions::new().max_connections(4).connect_with(link.options(&pool)).await.unwrap();
    let replica = ledger(&far);
    granted(&replica, id(1), 1).await;
    link.set_flowing(false);
    for number in 2..5 {
        let deadline = Instant::now() + Duration::from_millis(100);
        let answer = replica.hold(ask(id(number), &ann(), 10), deadline).await;
        assert_eq!(answer, Err(HoldFailure::Deadline));
    }
    assert_eq!(standing(&pool, org).await, (0, 1));
    link.set_flowing(true);
    granted(&replica, id(5), 100).await;
    // Of those that failed only the batch under way may have been held after all; its void follows.
    let (_, held) = standing(&pool, org).await;
    assert!(held == 101 || held == 111, "{held}");
    assert_books_balance(&pool).await;
}

/// A process of the server, stopped until this goes out of scope.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> Self {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_eq!(name.trim(), "postgres", "DATABASE_URL must name a server on this machine");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        Self(Pid::from_raw(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_lane_whose_session_says_nothing_goes_on_with_another(pool: PgPool) {
    let org = budget(&pool, "", "", "month", 1_000).await;
    let replica = ledger(&pool);
    granted(&replica, id(1), 1).await;
    let pid: i32 = sqlx::query_scalar(
        "select pid from pg_stat_activity
          where datname = current_database() and pid <> pg_backend_pid() and query like '%insert into holds%'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let _stopped = Stopped::new(pid);
    let started = Instant::now();
    granted(&replica, id(2), 10).await;
    println!("granted after {:?} on another connection", started.elapsed());
    assert_eq!(standing(&pool, org).await, (0, 11));
    assert_books_balance(&pool).await;
}
