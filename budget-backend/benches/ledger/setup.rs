//! The settings of a run, its database, its budgets, and how a hold is asked for.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use budget_backend::ledger::{Decision, HoldAsk, Ledger};
use budget_backend::pricing::CostLine;
use budget_backend::quote::Quote;
use purser_protocol::{Api, Payer};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

/// What each hold takes, nano-USD.
pub const AMOUNT_NANOUSD: i64 = 1_000;

/// Enough that no budget of a run is ever used up, nano-USD.
const AMPLE_NANOUSD: i64 = 1_000_000_000_000_000_000;

/// How a run is set up.
pub struct Settings {
    /// A database that nobody else uses.
    pub database_url: String,
    /// Turns of both variants.
    pub rounds: u64,
    /// How long one measurement takes.
    pub cell: Duration,
    /// Rows of history.
    pub rows: u64,
}

impl Settings {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, String> {
        let database_url = std::env::var("BENCH_DATABASE_URL")
            .map_err(|_| "BENCH_DATABASE_URL must name an empty database; `make bench-ledger` makes one")?;
        let number = |name: &str, default: u64, least: u64| match std::env::var(name) {
            Err(_) => Ok(default),
            Ok(text) => match text.parse::<u64>() {
                Ok(value) if value >= least => Ok(value),
                _ => Err(format!("{name}: expected a whole number from {least}, got {text:?}")),
            },
        };
        Ok(Self {
            database_url,
            rounds: number("ROUNDS", 3, 1)?,
            cell: Duration::from_secs(number("CELL_S", 5, 1)?),
            rows: number("ROWS", 10_000_000, 0)?,
        })
    }
}

/// The pool as the backend makes it, on a database brought up to date.
pub async fn pool(url: &str) -> PgPool {
    let config = DatabaseConfig {
        checks: PgConnectOptions::from_str(url).expect("BENCH_DATABASE_URL is a URL"),
        tracker: url.parse().expect("BENCH_DATABASE_URL is a URL"),
        pool_min: 10,
        pool_max: 30,
        connect_timeout: Duration::from_secs(10),
    };
    let pool = db::connect(&config).await.expect("the database answers");
    db::migrate(&pool).await.expect("the schema is brought up to date");
    let budgets: i64 = sqlx::query_scalar("select count(*) from budgets").fetch_one(&pool).await.unwrap();
    assert_eq!(budgets, 0, "the database of a run must be empty");
    pool
}

/// The pool of the variant with a transaction per check; every connection is open before it starts.
pub async fn naive_pool(url: &str, connections: u32) -> PgPool {
    let options = PgConnectOptions::from_str(url).expect("BENCH_DATABASE_URL is a URL");
    let pool = PgPoolOptions::new().max_connections(connections).connect_with(options).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(pool.acquire().await.unwrap());
    }
    pool
}

/// Says what the numbers are of: the server, its durability, the machine.
pub async fn print_environment(pool: &PgPool, settings: &Settings) {
    let version: String = sqlx::query_scalar("show server_version").fetch_one(pool).await.unwrap();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!("PostgreSQL {version}, {cpus} CPUs for the server and the load together");
    for (name, sql) in [
        ("fsync", "show fsync"),
        ("synchronous_commit", "show synchronous_commit"),
        ("full_page_writes", "show full_page_writes"),
        ("shared_buffers", "show shared_buffers"),
        ("max_wal_size", "show max_wal_size"),
    ] {
        let value: String = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        println!("  {name} = {value}");
    }
    println!("  ROUNDS={} CELL_S={} ROWS={}", settings.rounds, settings.cell.as_secs(), settings.rows);
}

/// An org with a budget for itself, one for its team, and one for each of some users of the team.
pub struct Field {
    /// The org.
    pub org: String,
    /// How many users have a budget; the calls go round them.
    pub users: u64,
    next: AtomicU64,
}

impl Field {
    /// Makes the budgets, and a first hold for each user, so that every counter is there.
    pub async fn make(pool: &PgPool, ledger: &Ledger, org: &str, users: u64) -> Arc<Self> {
        sqlx::query(
            "insert into budgets (org, team, user_name, window_kind, limit_nanousd)
             select $1, '', '', 'month', $3 union all
             select $1, 'team', '', 'week', $3 union all
             select $1, 'team', 'user-' || n, 'day', $3 from generate_series(0, $2 - 1) n",
        )
        .bind(org)
        .bind(i64::try_from(users).unwrap())
        .bind(AMPLE_NANOUSD)
        .execute(pool)
        .await
        .unwrap();
        let field = Self { org: org.to_owned(), users, next: AtomicU64::new(0) };
        for _ in 0..users {
            let decision = ledger.hold(field.ask(), Instant::now() + Duration::from_secs(10)).await;
            assert!(matches!(decision, Ok(Decision::Granted(_))), "the first hold: {decision:?}");
        }
        Arc::new(field)
    }

    /// How many budgets there are.
    pub const fn budgets(&self) -> u64 {
        self.users.saturating_add(2)
    }

    /// The next hold to ask for: a new id, the users in turn.
    pub fn ask(&self) -> HoldAsk {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        HoldAsk {
            hold_id: new_id(),
            payer: Payer {
                org: self.org.clone(),
                team: Some("team".to_owned()),
                user: Some(format!("user-{}", number % self.users)),
            },
            provider: "openai".to_owned(),
            model: "gpt-4o-mini".to_owned(),
            api: Api::OpenaiChat,
            quote: Quote {
                amount_nanousd: AMOUNT_NANOUSD,
                line: CostLine::default(),
                bound: Err("not asked for"),
                unknown_model: false,
                clampable: false,
            },
            others: Arc::new(BTreeMap::<String, Quote>::new()),
            tags: BTreeMap::new(),
        }
    }
}

/// A UUIDv7 of now; its random part is a counter's hash, so that no two are the same.
fn new_id() -> Uuid {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut mixed = NUMBER.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let random = u128::from(mixed ^ (mixed >> 31));
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    Uuid::from_u128(
        (unix_ms << 80) | (7 << 76) | ((random >> 52) << 64) | (2 << 62) | (random & ((1 << 52) - 1)),
    )
}

/// The run's own check: what is held is the sum of the holds, in every counter.
pub async fn assert_held(pool: &PgPool) {
    let row = sqlx::query(
        "with held as (
             select h.org, (c ->> 0)::bigint as budget_id, sum(h.held_nanousd)::bigint as total
               from holds h cross join jsonb_array_elements(h.counters) c where h.state = 'open' group by 1, 2
         ), counted as (
             select org, budget_id, sum(held_nanousd)::bigint as total from budget_counters group by 1, 2
         )
         select count(*) filter (where k.total is distinct from h.total), coalesce(max(k.total), 0)
           from counted k full join held h using (org, budget_id)",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let wrong: i64 = row.get(0);
    assert_eq!(wrong, 0, "budgets whose counters differ from their open holds");
    println!(
        "books: every counter equals its open holds; the fullest has {}",
        row.get::<i64, _>(1) / AMOUNT_NANOUSD
    );
}
