//! Alerts: each once, and told to receivers that fail, hang and come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use budget_backend::alerts::webhook::Reach;
use budget_backend::alerts::{AlertSettings, deliver, evaluate};
use futures_util::future::join_all;
use ring::hmac;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::operator::execute;
use crate::support::*;

const SECRET: &str = "a-secret-of-the-test";

pub fn settings() -> AlertSettings {
    AlertSettings {
        interval: Duration::from_secs(30),
        percents: vec![50, 80, 100],
        least_spike_nanousd: 1_000_000_000,
        reach: Reach::Private,
        timeout: Duration::from_millis(300),
        retry: Duration::from_secs(30),
    }
}

/// What a receiver does with the next deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Accepts,
    Fails,
    Hangs,
    Redirects,
}

/// A receiver as people write them.
#[derive(Clone)]
struct Receiver {
    url: String,
    mood: Arc<Mutex<Mood>>,
    accepted: Arc<Mutex<Vec<(i64, Value)>>>,
    tried: Arc<Mutex<usize>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook?x=1", listener.local_addr().unwrap()),
            mood: Arc::new(Mutex::new(Mood::Accepts)),
            accepted: Arc::default(),
            tried: Arc::default(),
        };
        let router = axum::Router::new().route("/hook", axum::routing::post(receive));
        let router = router.with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How often each alert was accepted.
    fn times(&self) -> BTreeMap<i64, usize> {
        let mut times = BTreeMap::new();
        for (alert, _) in self.accepted.lock().unwrap().iter() {
            *times.entry(*alert).or_default() += 1;
        }
        times
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap) {
    *receiver.tried.lock().unwrap() += 1;
    let mood = *receiver.mood.lock().unwrap();
    match mood {
        Mood::Hangs => std::future::pending().await,
        Mood::Fails => return (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new()),
        Mood::Redirects => {
            let elsewhere = [("location".parse().unwrap(), receiver.url.parse().unwrap())];
            return (StatusCode::TEMPORARY_REDIRECT, elsewhere.into_iter().collect());
        }
        Mood::Accepts => {}
    }
    let signed = headers["purser-signature"].to_str().unwrap();
    let (at, tag) = signed.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let tag: Vec<u8> =
        (0..tag.len()).step_by(2).map(|i| u8::from_str_radix(&tag[i..i + 2], 16).unwrap()).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    if hmac::verify(&key, format!("{at}.{body}").as_bytes(), &tag).is_err() {
        return (StatusCode::UNAUTHORIZED, HeaderMap::new());
    }
    let alert = headers["purser-alert"].to_str().unwrap().parse().unwrap();
    receiver.accepted.lock().unwrap().push((alert, serde_json::from_str(&body).unwrap()));
    (StatusCode::NO_CONTENT, HeaderMap::new())
}

async fn webhook(pool: &PgPool, org: &str, url: &str, format: &str) -> i64 {
    sqlx::query_scalar(
        "insert into webhooks (org, url, format, secret) values ($1, $2, $3, $4) returning webhook_id",
    )
    .bind(org)
    .bind(url)
    .bind(format)
    .bind(SECRET)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Says what a budget has spent in its running period.
pub async fn spent(pool: &PgPool, budget_id: i64, subject: &str, nanousd: i64) {
    sqlx::query(
        "insert into budget_counters (org, budget_id, subject, period_start, spent_nanousd)
         select org, budget_id, $2, case window_kind when 'total' then timestamptz 'epoch'
                    else date_trunc(window_kind, now() at time zone 'UTC') at time zone 'UTC' end, $3
           from budgets where budget_id = $1
         on conflict (org, budget_id, subject, period_start) do update set spent_nanousd = $3",
    )
    .bind(budget_id)
    .bind(subject)
    .bind(nanousd)
    .execute(pool)
    .await
    .unwrap();
}

pub async fn round(pool: &PgPool) -> u64 {
    evaluate::round(pool, &settings()).await.unwrap()
}

/// Kind, subject, threshold of every alert, in the order raised.
pub async fn raised(pool: &PgPool) -> Vec<(String, String, i32)> {
    sqlx::query_as("select kind, subject, threshold from alerts order by alert_id")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn threshold(percent: i32) -> (String, String, i32) {
    ("budget_threshold".to_owned(), String::new(), percent)
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn each_threshold_is_told_once_a_window_and_budget_whoever_looks(pool: PgPool) {
    let budget_id = budget(&pool, "", "", "total", 100).await;
    webhook(&pool, "acme", "https://example.com/", "generic").await;
    webhook(&pool, "*", "https://example.com/", "generic").await;
    webhook(&pool, "other", "https://example.com/", "generic").await;
    spent(&pool, budget_id, "", 49).await;
    assert_eq!(round(&pool).await, 0);
    spent(&pool, budget_id, "", 50).await;
    // Many replicas at once.
    let at_once = join_all((0..6).map(|_| round(&pool))).await;
    assert_eq!(at_once.iter().sum::<u64>(), 1, "{at_once:?}");
    assert_eq!(round(&pool).await, 0);
    // Given back and spent again: it was told.
    spent(&pool, budget_id, "", 10).await;
    assert_eq!(round(&pool).await, 0);
    spent(&pool, budget_id, "", 120).await;
    assert_eq!(round(&pool).await, 2);
    assert_eq!(raised(&pool).await, [threshold(50), threshold(80), threshold(100)]);
    // What was passed on the way is noted, and only the highest is told, to the org's and to everyone's.
    let told: Vec<(i32, i64)> = sqlx::query_as(
        "select threshold, count(*) from alerts join alert_deliveries using (org, alert_id) group by 1 order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(told, [(50, 2), (100, 2)]);
    // Each one counted under a `*` budget has its own.
    let each = budget(&pool, "*", "", "month", 100).await;
    spent(&pool, each, "search", 90).await;
    spent(&pool, each, "ads", 60).await;
    assert_eq!(round(&pool).await, 3);
    let facts: Value =
        sqlx::query_scalar("select facts from alerts where subject = 'ads'").fetch_one(&pool).await.unwrap();
    assert_eq!(
        (&facts["team"], &facts["tier"], &facts["threshold_percent"]),
        (&json!("ads"), &json!("team"), &json!(50))
    );
    // A warning of its own counts; one that was written by hand and is none doesn't stop the round.
    execute(&pool, r#"update budgets set ladder = '{"warn_at_percent": 55}' where team = '*'"#).await;
    assert_eq!(round(&pool).await, 2);
    execute(&pool, r#"update budgets set ladder = '{"warn_at_percent": "soon"}' where team = '*'"#).await;
    assert_eq!(round(&pool).await, 0);
    execute(&pool, "update budgets set archived_at = now()").await;
    spent(&pool, each, "ads", 100).await;
    assert_eq!(round(&pool).await, 0);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_receiver_that_fails_hangs_and_comes_back_gets_each_alert_once(pool: PgPool) {
    let (receiver, slack) = (Receiver::start().await, Receiver::start().await);
    let hook = webhook(&pool, "acme", &receiver.url, "generic").await;
    webhook(&pool, "*", &slack.url, "slack").await;
    for limit in [100, 1_000] {
        let budget_id = budget(&pool, if limit == 100 { "" } else { "search" }, "", "month", limit).await;
        spent(&pool, budget_id, "", limit * 9 / 10).await;
    }
    assert_eq!(round(&pool).await, 4);
    let mut attempts = 0;
    for mood in [Mood::Fails, Mood::Hangs, Mood::Redirects] {
        receiver.is(mood);
        let done = deliver::due(&pool, &settings()).await.unwrap();
        assert_eq!((done.accepted, done.failed), (if attempts == 0 { 2 } else { 0 }, 2), "{mood:?}");
        attempts += 1;
        // Its turn comes later: nothing is due now.
        assert_eq!(deliver::due(&pool, &settings()).await.unwrap(), deliver::Delivered::default());
        let waits = format!(
            "select count(*) from alert_deliveries where state = 'waiting' and attempts = {attempts} and last_error <> ''
                and due_at > now() + interval '5 seconds'"
        );
        let waiting: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(waits)).fetch_one(&pool).await.unwrap();
        assert_eq!(waiting, 2, "{mood:?}");
        execute(&pool, "update alert_deliveries set due_at = now() where state = 'waiting'").await;
    }
    // It is down altogether, then it is back; several replicas deliver at once.
    let url = format!("update webhooks set url = replace(url, '/hook', '/none') where webhook_id = {hook}");
    execute(&pool, &url).await;
    assert_eq!(deliver::due(&pool, &settings()).await.unwrap().failed, 2);
    let url = format!("update webhooks set url = '{}' where webhook_id = {hook}", receiver.url);
    execute(&pool, &url).await;
    execute(&pool, "update alert_deliveries set due_at = now() where state = 'waiting'").await;
    receiver.is(Mood::Accepts);
    let replicas =
        join_all((0..4).map(|_| async { deliver::due(&pool, &settings()).await.unwrap().accepted })).await;
    assert_eq!(replicas.iter().sum::<u64>(), 2, "{replicas:?}");
    execute(&pool, "update alert_deliveries set due_at = now()").await;
    assert_eq!(deliver::due(&pool, &settings()).await.unwrap(), deliver::Delivered::default());
    assert_eq!(receiver.times().values().copied().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(slack.times(), receiver.times());
    assert_eq!(*receiver.tried.lock().unwrap(), 2 * 4);
    let (_, generic) = receiver.accepted.lock().unwrap()[0].clone();
    assert_eq!((&generic["kind"], &generic["org"]), (&json!("budget_threshold"), &json!("acme")));
    let (_, slack) = slack.accepted.lock().unwrap()[0].clone();
    assert!(slack["text"].as_str().unwrap().contains("has reached 80%"), "{slack}");
    assert_eq!(slack.as_object().unwrap().len(), 1);
    assert_eq!(number(&pool, "select count(*) from alert_deliveries where state = 'delivered'").await, 4);
}

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn a_delivery_is_given_up_after_so_many_attempts_and_where_it_may_not_go(pool: PgPool) {
    let receiver = Receiver::start().await;
    webhook(&pool, "acme", &receiver.url, "generic").await;
    let budget_id = budget(&pool, "", "", "month", 100).await;
    spent(&pool, budget_id, "", 50).await;
    round(&pool).await;
    // Reached by its address at the time of sending, whatever was checked when it was made.
    let public = AlertSettings { reach: Reach::Public, ..settings() };
    assert_eq!(deliver::due(&pool, &public).await.unwrap().failed, 1);
    let error: String =
        sqlx::query_scalar("select last_error from alert_deliveries").fetch_one(&pool).await.unwrap();
    assert!(error.contains("private network"), "{error}");
    assert_eq!(*receiver.tried.lock().unwrap(), 0);
    let last = deliver::MAX_ATTEMPTS - 1;
    execute(&pool, &format!("update alert_deliveries set attempts = {last}, due_at = now()")).await;
    receiver.is(Mood::Fails);
    deliver::due(&pool, &settings()).await.unwrap();
    execute(&pool, "update alert_deliveries set due_at = now()").await;
    receiver.is(Mood::Accepts);
    assert_eq!(deliver::due(&pool, &settings()).await.unwrap(), deliver::Delivered::default());
    assert_eq!(number(&pool, "select count(*) from alert_deliveries where state = 'given_up'").await, 1);
}
