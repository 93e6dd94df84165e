//! What the tests share: budgets, holds, settlements, and the invariants every commit must keep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use budget_backend::estimate::Bound;
use budget_backend::ledger::{Decision, HoldAsk, HoldFailure, Ledger, LedgerSettings};
use budget_backend::pricing::CostLine;
use budget_backend::quote::Quote;
use budget_backend::tracker::model::{Charge, Cost, Facts, Settle, Subject};
use budget_backend::tracker::{HoldKey, Item, TrackerFailure, TrackerSettings, VerdictCounts, Worker};
use purser_protocol::{Api, Outcome, Payer, Usage};
use sqlx::{PgPool, Row};
use uuid::Uuid;

pub const SETTINGS: LedgerSettings = LedgerSettings { lanes: 2, queue_len: 4_096, hold_ttl_s: 900 };

pub fn payer(team: &str, user: &str) -> Payer {
    let place = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    Payer { org: "acme".to_owned(), team: place(team), user: place(user) }
}

pub fn ann() -> Payer {
    payer("search", "ann")
}

/// A UUIDv7-shaped id that is unique within a test and dated now.
pub fn id(number: u64) -> Uuid {
    let unix_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    Uuid::from_u128((unix_ms << 80) | (7 << 76) | (2 << 62) | u128::from(number))
}

/// What can't be clamped, with a bound of ten times the amount.
pub fn quote(amount_nanousd: i64) -> Quote {
    let (line, bound) = (CostLine::default(), amount_nanousd.saturating_mul(10));
    Quote {
        amount_nanousd,
        line,
        bound: Ok(Bound { amount_nanousd: bound, line, output_cap_tokens: Some(64) }),
        unknown_model: false,
        clampable: false,
    }
}

pub fn ask(hold_id: Uuid, payer: &Payer, amount_nanousd: i64) -> HoldAsk {
    HoldAsk {
        hold_id,
        payer: payer.clone(),
        provider: "openai".to_owned(),
        model: "gpt-4o-mini".to_owned(),
        api: Api::OpenaiChat,
        quote: quote(amount_nanousd),
        others: Arc::new(BTreeMap::<String, Quote>::new()),
        tags: BTreeMap::new(),
    }
}

/// The model that [`priced_ask`]'s may be degraded to.
pub const CHEAP_MODEL: &str = "gpt-4o-nano";

/// A call whose cap is its amount, one nano-USD a token; the cheap model costs half.
pub fn priced_ask(hold_id: Uuid, payer: &Payer, amount_nanousd: i64) -> HoldAsk {
    let cap = amount_nanousd.unsigned_abs();
    let quote = |rate: i64| {
        let line = CostLine::new([(0, 0)], 1, rate).unwrap();
        let amount_nanousd = line.amount_nanousd(cap).unwrap();
        let bound = Ok(Bound { amount_nanousd, line, output_cap_tokens: None });
        Quote { amount_nanousd, line, bound, unknown_model: false, clampable: true }
    };
    HoldAsk {
        quote: quote(1_000_000),
        others: Arc::new(BTreeMap::from([(CHEAP_MODEL.to_owned(), quote(500_000))])),
        ..ask(hold_id, payer, amount_nanousd)
    }
}

pub fn in_time() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub async fn hold(
    ledger: &Ledger,
    hold_id: Uuid,
    payer: &Payer,
    amount_nanousd: i64,
) -> Result<Decision, HoldFailure> {
    ledger.hold(ask(hold_id, payer, amount_nanousd), in_time()).await
}

pub async fn granted(ledger: &Ledger, hold_id: Uuid, amount_nanousd: i64) {
    let decision = hold(ledger, hold_id, &ann(), amount_nanousd).await.unwrap();
    assert!(matches!(decision, Decision::Granted { .. }), "{decision:?}");
}

pub fn ledger(pool: &PgPool) -> Ledger {
    Ledger::start(pool, SETTINGS).0
}

/// Makes a budget of org `acme`; gives its number.
pub async fn budget(pool: &PgPool, team: &str, user: &str, window: &str, limit_nanousd: i64) -> i64 {
    sqlx::query(
        "insert into budgets (org, team, user_name, window_kind, limit_nanousd) values ('acme', $1, $2, $3, $4)
         returning budget_id",
    )
    .bind(team)
    .bind(user)
    .bind(window)
    .bind(limit_nanousd)
    .fetch_one(pool)
    .await
    .unwrap()
    .get(0)
}

/// A tracker's worker on the pool's database, stepped by hand, off the async threads as the tracker's
/// own thread would.
pub struct Steps(Option<Worker>);

impl Steps {
    pub fn new(pool: &PgPool, sweep_grace: Duration) -> Self {
        let url = std::env::var("DATABASE_URL").expect("DATABASE_URL names the test server");
        let mut config: postgres::Config = url.parse().unwrap();
        config.dbname(pool.connect_options().get_database().unwrap());
        let settings = TrackerSettings {
            queue_len: 16,
            sweep_interval: Duration::from_secs(3_600),
            sweep_grace,
            tombstone_age_s: 3_600,
            hold_ttl_s: 900,
        };
        Self(Some(Worker::new(config, settings)))
    }

    async fn run<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Worker) -> T + Send + 'static) -> T {
        let mut worker = self.0.take().unwrap();
        let (worker, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut worker);
            (worker, result)
        })
        .await
        .unwrap();
        self.0 = Some(worker);
        result
    }

    pub async fn step(&mut self, items: Vec<(HoldKey, Item)>) -> Result<Vec<Outcome>, TrackerFailure> {
        self.run(move |worker| worker.step(&items)).await
    }

    pub async fn sweep(&mut self) -> usize {
        self.run(Worker::sweep).await
    }

    pub fn verdicts(&self) -> VerdictCounts {
        self.0.as_ref().unwrap().verdicts().clone()
    }

    pub async fn flush(&mut self) {
        self.run(Worker::flush).await;
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // The sync client runs a loop of its own when it closes, which an async thread forbids.
        let worker = self.0.take();
        std::thread::spawn(move || drop(worker)).join().unwrap();
    }
}

pub fn steps(pool: &PgPool) -> Steps {
    Steps::new(pool, Duration::ZERO)
}

/// Records items with a fresh worker.
pub async fn record(pool: &PgPool, items: Vec<(HoldKey, Item)>) -> Vec<Outcome> {
    steps(pool).step(items).await.unwrap()
}

pub fn key(hold_id: Uuid) -> HoldKey {
    ("acme".to_owned(), hold_id)
}

pub fn void(hold_id: Uuid) -> (HoldKey, Item) {
    (key(hold_id), Item::Void(ann()))
}

/// A settlement of `payer` at a cost; `None` when no usage came back.
pub fn settle_for(payer: &Payer, hold_id: Uuid, cost_nanousd: Option<i64>) -> (HoldKey, Item) {
    let settle = Settle {
        payer: payer.clone(),
        subject: Subject {
            team: payer.team.clone().unwrap_or_default(),
            user: payer.user.clone().unwrap_or_default(),
            provider: "openai".to_owned(),
            model: "gpt-4o-mini".to_owned(),
            api: "openai_chat".to_owned(),
            ..Subject::default()
        },
        stands_for: Vec::new(),
        asked_model: None,
        charge: Charge {
            cost: cost_nanousd.map_or(Cost::AtLeast(0), Cost::Exactly),
            estimate_nanousd: 77,
            price_id: None,
            price_flag: "",
            unpriced: Vec::new(),
            priced_as: "gpt-4o-mini".to_owned(),
            price_match: "exact",
            price_effective_from_unix_s: Some(1_735_689_600),
        },
        facts: Facts {
            usage: Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() },
            usage_quality: if cost_nanousd.is_some() { "exact" } else { "none" },
            admission: "held",
            http_status: 200,
            ending: "complete",
            ..Facts::default()
        },
        started_at_unix_us: i64::MAX,
    };
    (key(hold_id), Item::Settle(Box::new(settle)))
}

pub fn settle(hold_id: Uuid, cost_nanousd: i64) -> (HoldKey, Item) {
    settle_for(&ann(), hold_id, Some(cost_nanousd))
}

pub async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(pool).await.unwrap().get(0)
}

/// Waits until a count in the database is more than zero.
pub async fn wait_for(pool: &PgPool, sql: &'static str) {
    let until = in_time();
    while number(pool, sql).await == 0 {
        assert!(Instant::now() < until, "never came true: {sql}");
        tokio::task::yield_now().await;
    }
}

/// `(spent, held)` of a budget's only counter, or zeros before it has one.
pub async fn standing(pool: &PgPool, budget_id: i64) -> (i64, i64) {
    let row = sqlx::query(
        "select coalesce(sum(spent_nanousd), 0)::bigint, coalesce(sum(held_nanousd), 0)::bigint
           from budget_counters where budget_id = $1",
    )
    .bind(budget_id)
    .fetch_one(pool)
    .await
    .unwrap();
    (row.get(0), row.get(1))
}

/// Invariant: every counter equals the sums of the rows that name it, and the summary equals the detail.
pub async fn assert_books_balance(pool: &PgPool) {
    let wrong: Vec<(i64, String, i64, i64, i64, i64)> = sqlx::query_as(
        "with spent as (
             select r.org, (c ->> 0)::bigint as budget_id, c ->> 1 as subject, (c ->> 2)::bigint as period_unix_s,
                    sum(r.cost_nanousd)::bigint as total
               from llm_requests r cross join jsonb_array_elements(r.counters) c group by 1, 2, 3, 4
         ), held as (
             select h.org, (c ->> 0)::bigint as budget_id, c ->> 1 as subject, (c ->> 2)::bigint as period_unix_s,
                    sum(h.held_nanousd)::bigint as total
               from holds h cross join jsonb_array_elements(h.counters) c where h.state = 'open' group by 1, 2, 3, 4
         )
         select k.budget_id, k.subject, k.spent_nanousd, k.opening_nanousd + coalesce(s.total, 0), k.held_nanousd, coalesce(h.total, 0)
           from budget_counters k
           left join spent s on (s.org, s.budget_id, s.subject, to_timestamp(s.period_unix_s))
                              = (k.org, k.budget_id, k.subject, k.period_start)
           left join held h on (h.org, h.budget_id, h.subject, to_timestamp(h.period_unix_s))
                             = (k.org, k.budget_id, k.subject, k.period_start)
          where k.spent_nanousd <> k.opening_nanousd + coalesce(s.total, 0)
             or k.held_nanousd <> coalesce(h.total, 0)",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(
        wrong.is_empty(),
        "counters that differ (budget, subject, spent, opening + Σ, held, Σ): {wrong:?}"
    );
    let sums: Vec<(String, i64, Vec<i64>)> = sqlx::query_as(
        "with rollups as (
             select 'detail' as what, (entry = 0)::integer as requests, cost_nanousd, input_tokens,
                    cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
                    audio_input_tokens, audio_output_tokens, image_input_tokens, image_output_tokens
               from llm_requests
             union all
             select 'hours', requests, cost_nanousd, input_tokens, cached_input_tokens, cache_write_5m_tokens,
                    cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
                    image_input_tokens, image_output_tokens from usage_hourly
             union all
             select 'days', requests, cost_nanousd, input_tokens, cached_input_tokens, cache_write_5m_tokens,
                    cache_write_1h_tokens, output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,
                    image_input_tokens, image_output_tokens from cost_daily_summary
         )
         select what, sum(requests)::bigint,
                array[sum(cost_nanousd), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_5m_tokens),
                      sum(cache_write_1h_tokens), sum(output_tokens), sum(reasoning_tokens), sum(audio_input_tokens),
                      sum(audio_output_tokens), sum(image_input_tokens), sum(image_output_tokens)]::bigint[]
           from rollups group by what order by what",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    // Days, detail and hours, or none of them.
    assert!([0, 3].contains(&sums.len()), "{sums:?}");
    for pair in sums.windows(2) {
        assert_eq!((pair[0].1, &pair[0].2), (pair[1].1, &pair[1].2), "{sums:?}");
    }
}
