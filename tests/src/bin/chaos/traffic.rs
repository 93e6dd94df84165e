//! The apps: calls at a steady rate, whatever becomes of the others, and beside them calls that ask nobody
//! for money, to know what the machine and the storm add by themselves.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response};
use system_tests::harness::client::CHAT_PATH;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::calls::{Leave, Plan};
use crate::envoy::Route;
use crate::settings::{HUNG, Settings};
use crate::world::World;

/// Calls under way at most; beyond it the apps wait for one to end.
const MAX_UNDER_WAY: usize = 2_000;

/// Time between two calls that ask nobody.
const CONTROL_INTERVAL: Duration = Duration::from_millis(100);

/// How a call ended for its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a whole answer of this status.
    Answered(u16),
    /// Within an answer of this status.
    Broken(u16),
    /// Without an answer.
    NoAnswer,
    /// The app left.
    Left,
    /// Not at all, in [`HUNG`].
    Hung,
}

/// A call as its app saw it.
#[derive(Debug, Clone)]
pub struct Called {
    /// What was meant.
    pub plan: Plan,
    /// When it was sent, and when it was over.
    pub span: (Instant, Instant),
    /// How often Envoy had been killed when it was sent.
    pub envoy_generation: u32,
    /// How it ended.
    pub end: End,
    /// Whether the answer says that it went out without a verdict.
    pub failed_open: bool,
    /// Whether it is the filter that refused it.
    pub refused: bool,
}

/// A call that asked nobody: when, and what it took beyond the delays that the storm put in its way.
#[derive(Debug, Clone, Copy)]
pub struct Control {
    /// When it began, and when it was over.
    pub span: (Instant, Instant),
    /// What it took.
    pub took: Duration,
}

fn client() -> Client {
    // Without a limit of its own: how long a call may take is what is tested.
    Client::builder().no_proxy().build().expect("an HTTP client")
}

/// Makes all calls of a run, and returns them when the last one is over.
pub async fn run(world: &Arc<World>, settings: &Settings) -> Vec<Called> {
    let client = client();
    let mut ticks =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(settings.rate_per_s).unwrap_or(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut under_way, mut called) = (JoinSet::new(), Vec::new());
    for number in 0..settings.calls() {
        ticks.tick().await;
        while let Some(over) = under_way.try_join_next() {
            called.push(over.expect("a call"));
        }
        if under_way.len() >= MAX_UNDER_WAY {
            called.extend(under_way.join_next().await.map(|over| over.expect("a call")));
        }
        let (world, client, plan) = (Arc::clone(world), client.clone(), Plan::new(settings.seed, number));
        under_way.spawn(async move { call(&world, &client, plan).await });
    }
    while let Some(over) = under_way.join_next().await {
        called.push(over.expect("a call"));
    }
    called
}

async fn call(world: &World, client: &Client, plan: Plan) -> Called {
    let (envoy_generation, started) = (world.envoy_generation(), Instant::now());
    let mut called = Called {
        plan,
        span: (started, started),
        envoy_generation,
        end: End::Hung,
        failed_open: false,
        refused: false,
    };
    let limit = match called.plan.leave {
        Some(Leave::After(patience)) => patience,
        _ => HUNG,
    };
    let exchange = exchange(world, client, &mut called);
    let in_time = tokio::time::timeout(limit, exchange).await.is_ok();
    if !in_time && limit < HUNG {
        called.end = End::Left;
    }
    called.span.1 = Instant::now();
    called
}

async fn exchange(world: &World, client: &Client, called: &mut Called) {
    let url = format!("http://{}{CHAT_PATH}", world.front(called.plan.payer.route));
    let mut request = client.post(url).json(&called.plan.body());
    for (name, value) in called.plan.app().headers() {
        request = request.header(name, value);
    }
    let Ok(response) = request.send().await else {
        called.end = End::NoAnswer;
        return;
    };
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    called.failed_open = header("x-purser-failed-open") == Some("true");
    // Every refusal of the filter's, and nobody else's answer, tells SDKs not to try again.
    called.refused = header("x-should-retry") == Some("false");
    called.end = read(response, called.plan.leave).await;
}

async fn read(mut response: Response, leave: Option<Leave>) -> End {
    let status = response.status().as_u16();
    let mut pieces = 0;
    loop {
        match response.chunk().await {
            Ok(Some(_)) => pieces += 1,
            Ok(None) => return End::Answered(status),
            Err(_) => return End::Broken(status),
        }
        if leave == Some(Leave::AfterPieces(pieces)) {
            return End::Left;
        }
    }
}

/// Makes calls that ask nobody until `stop`, by the same way to the same provider.
pub async fn controls(world: Arc<World>, stop: impl Future<Output = ()>) -> Vec<Control> {
    let client = client();
    let mut ticks = tokio::time::interval(CONTROL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let url = format!("http://{}/v1/models", world.front(Route::Open));
    let (mut under_way, mut done) = (JoinSet::new(), Vec::new());
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = ticks.tick() => {}
        }
        let (world, client, url) = (Arc::clone(&world), client.clone(), url.clone());
        under_way.spawn(async move {
            let started = Instant::now();
            let whole = async { client.get(url).send().await?.bytes().await };
            // One that broke waited as well: for an Envoy that was just starting, say.
            let ended = tokio::time::timeout(HUNG, whole).await.is_ok();
            let span = (started, Instant::now());
            let took = (span.1 - span.0).saturating_sub(world.delay_between(span.0, span.1));
            ended.then_some(Control { span, took })
        });
        while let Some(over) = under_way.try_join_next() {
            done.extend(over.expect("a call that asks nobody"));
        }
    }
    while let Some(over) = under_way.join_next().await {
        done.extend(over.expect("a call that asks nobody"));
    }
    done
}
