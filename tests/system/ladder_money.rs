//! The ladder with everything real: what a budget changed in a call is what the provider bills, row by
//! row, and what the ledger, the budgets and the answer say of it.

mod caps;
mod steps;
mod who_pays;

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::FromRow;
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::client::{Answer, http};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::wait_until;

use crate::ledger::{self, Entry};
use crate::policies::operate;

/// A provider with a dear model and a cheap one, nano-USD for a token of output.
struct Vendor {
    provider: &'static str,
    /// Prices beside those of the catalogue, as [`ledger::start`] takes them.
    prices: &'static str,
    dear: (&'static str, i64),
    cheap: (&'static str, i64),
    /// The path for a model, plain or streamed.
    path: fn(&str, bool) -> String,
    /// The request, with an output cap or without; with a model where the body names it.
    body: fn(&str, bool, Option<u64>) -> Value,
    needs_cap: bool,
}

const VENDORS: [Vendor; 5] = [
    Vendor {
        provider: "openai",
        prices: "",
        dear: ("gpt-4o", 10_000),
        cheap: ("gpt-4o-mini", 600),
        path: |_, _| "/v1/chat/completions".to_owned(),
        body: |model, stream, cap| {
            let mut body = chat(model, stream);
            if let Some(cap) = cap {
                body["max_completion_tokens"] = json!(cap);
            }
            body
        },
        needs_cap: false,
    },
    Vendor {
        provider: "anthropic",
        prices: "",
        dear: ("claude-sonnet-4-5", 15_000),
        cheap: ("claude-haiku-4-5", 5_000),
        path: |_, _| "/v1/messages".to_owned(),
        body: |model, stream, cap| {
            let mut body = chat(model, stream);
            body["max_tokens"] = json!(cap);
            body
        },
        needs_cap: true,
    },
    Vendor {
        provider: "gemini",
        prices: "",
        dear: ("gemini-2.5-pro", 10_000),
        cheap: ("gemini-2.5-flash", 2_500),
        path: |model, stream| {
            let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            format!("/v1beta/models/{model}:{verb}")
        },
        body: |_, _, cap| {
            let mut body = json!({"contents": [{"parts": [{"text": "How much is it?"}]}]});
            if let Some(cap) = cap {
                body["generationConfig"] = json!({"maxOutputTokens": cap});
            }
            body
        },
        needs_cap: false,
    },
    Vendor {
        provider: "mistral",
        prices: "",
        dear: ("mistral-large-latest", 1_500),
        cheap: ("mistral-small-latest", 600),
        path: |_, _| "/v1/chat/completions".to_owned(),
        body: |model, stream, cap| {
            let mut body = chat(model, stream);
            if let Some(cap) = cap {
                body["max_tokens"] = json!(cap);
            }
            body
        },
        needs_cap: false,
    },
    Vendor {
        provider: "azure",
        prices: "alias --provider azure gpt-4o --model gpt-4o --to-provider openai
                 alias --provider azure gpt-4o-mini --model gpt-4o-mini --to-provider openai",
        dear: ("gpt-4o", 10_000),
        cheap: ("gpt-4o-mini", 600),
        // The model's name is that of its deployment.
        path: |model, _| format!("/openai/deployments/{model}/chat/completions?api-version=2024-10-21"),
        body: |_, stream, cap| {
            let mut body =
                json!({"stream": stream, "messages": [{"role": "user", "content": "How much is it?"}]});
            if let Some(cap) = cap {
                body["max_tokens"] = json!(cap);
            }
            body
        },
        needs_cap: false,
    },
];

fn chat(model: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "stream": stream,
        "messages": [{"role": "user", "content": "How much is it?"}],
    })
}

/// What the ledger says of a ladder's work: the model that ran, the one asked for, the lowered cap.
#[derive(Debug, PartialEq, Eq, FromRow)]
struct Worked {
    model: String,
    asked_model: Option<String>,
    clamped_to_tokens: Option<i64>,
}

fn worked(model: &str, asked: Option<&str>, cap: Option<i64>) -> Worked {
    Worked { model: model.to_owned(), asked_model: asked.map(str::to_owned), clamped_to_tokens: cap }
}

/// So many entries of org acme with their rows of the bill, in the order of the calls, checked against
/// each other token by token and to the nano-dollar: the model that the ledger names is the one billed.
async fn booked(stack: &Stack, count: usize) -> Vec<(Worked, Entry, BilledRow)> {
    let entries = ledger::entries(stack, count).await;
    let query = "SELECT model, asked_model, clamped_to_tokens FROM llm_requests WHERE org = 'acme'
                 ORDER BY hold_id, entry";
    let worked: Vec<Worked> = sqlx::query_as(query).fetch_all(&stack.database.pool).await.unwrap();
    let bill = stack.fake.billed();
    let amounts: i64 = entries.iter().map(|entry| entry.cost_nanousd).sum();
    assert_eq!(u64::try_from(amounts), Ok(bill.total_nanousd), "ours is not the provider's bill");
    assert_eq!((entries.len(), worked.len()), (bill.rows.len(), bill.rows.len()));
    let booked: Vec<_> =
        worked.into_iter().zip(entries).zip(bill.rows).map(|((a, b), c)| (a, b, c)).collect();
    for (worked, entry, billed) in &booked {
        ledger::assert_billed(&worked.model, entry, billed, false);
        assert_eq!(worked.model, billed.model, "{billed:?}");
    }
    booked
}

async fn post(stack: &Stack, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let request = http().post(format!("http://{}{path}", stack.envoy.egress)).json(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::read(request.send().await.unwrap()).await
}

/// A call by org acme that is answered at length unless its cap cuts it.
async fn call(stack: &Stack, vendor: &Vendor, model: &str, stream: bool, cap: Option<u64>) -> Answer {
    let headers = [("x-budget-org", "acme"), ("x-fake-words", "3000")];
    post(stack, &(vendor.path)(model, stream), &headers, &(vendor.body)(model, stream, cap)).await
}

async fn change(stack: &Stack, budget: &Value, change: &Value) {
    operate(stack, Method::PATCH, &format!("/v1/budgets/{}", budget["budget_id"]), change.clone()).await;
}

/// What a budget has spent, nano-USD.
async fn spent(stack: &Stack, budget: &Value) -> i64 {
    let counters = stack.database.counters("acme").await;
    let own = counters.iter().filter(|counter| budget["budget_id"] == json!(counter.budget_id));
    own.map(|counter| counter.spent_nanousd).sum()
}

fn usd(nanousd: i64) -> String {
    purser_protocol::format_usd(nanousd)
}

/// How often each outcome, or each reason of a denial, was counted for an org.
async fn verdicts(stack: &Stack, org: &str) -> BTreeMap<String, i64> {
    let query = "SELECT CASE outcome WHEN 'denied' THEN reason ELSE outcome END, sum(verdicts)::bigint
                 FROM verdicts_hourly WHERE org = $1 AND outcome <> 'unbudgeted' GROUP BY 1";
    let rows: Vec<(String, i64)> =
        sqlx::query_as(query).bind(org).fetch_all(&stack.database.pool).await.unwrap();
    rows.into_iter().collect()
}

/// Waits until they were counted so: they are written every second or so.
async fn counted(stack: &Stack, org: &str, expected: &[(&str, i64)]) {
    let expected = expected.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect();
    wait_until("the verdicts to be counted", async || {
        let counted = verdicts(stack, org).await;
        if counted == expected { Ok(()) } else { Err(format!("{counted:?} instead of {expected:?}")) }
    })
    .await;
}

fn degrade(vendor: &Vendor) -> Value {
    json!({"at_percent": 1, "models": {vendor.dear.0: vendor.cheap.0}})
}

async fn start(vendor: &Vendor) -> Stack {
    ledger::start(Setup::default().provider(vendor.provider).one_worker(), vendor.prices).await
}

async fn a_cheaper_model_runs(vendor: &Vendor) {
    let stack = start(vendor).await;
    let (dear, cheap) = (vendor.dear.0, vendor.cheap.0);
    // The first answer is more than a hundredth of it.
    let all = json!({"org": "acme", "window": "total", "limit_usd": usd(40_000 * vendor.dear.1)});
    let all = stack.backend.create_budget(all).await;
    let of_model =
        |model: &str| json!({"org": "acme", "window": "total", "limit_usd": "1", "models": [model]});
    let of_dear = stack.backend.create_budget(of_model(dear)).await;
    let of_cheap = stack.backend.create_budget(of_model(cheap)).await;

    let first = call(&stack, vendor, dear, false, Some(700)).await.expect(200);
    assert_eq!(first.header("x-purser-degraded-from"), "");
    change(&stack, &all, &json!({"ladder": {"degrade": degrade(vendor)}})).await;
    for stream in [false, true] {
        let answer = call(&stack, vendor, dear, stream, Some(700)).await.expect(200);
        assert_eq!(answer.header("x-purser-degraded-from"), dear);
        assert_eq!(answer.header("x-purser-clamped-to"), "");
        assert!(answer.text().contains(cheap), "{}", answer.text());
        assert!(!answer.text().contains(&format!("{dear}\"")), "{}", answer.text());
    }
    // Asked for by its own name it is nobody's rewrite.
    let answer = call(&stack, vendor, cheap, true, Some(700)).await.expect(200);
    assert_eq!(answer.header("x-purser-degraded-from"), "");

    let booked = booked(&stack, 4).await;
    let told: Vec<_> = booked.iter().map(|(worked, ..)| worked).collect();
    let (asked, degraded) = (worked(dear, None, None), worked(cheap, Some(dear), None));
    assert_eq!(told, [&asked, &degraded, &degraded, &worked(cheap, None, None)]);
    // Each call is charged to the budgets of the model that ran, and to no other.
    let costs: Vec<i64> = booked.iter().map(|(_, entry, _)| entry.cost_nanousd).collect();
    let total: i64 = costs.iter().sum();
    assert!(costs[1] < costs[0], "{costs:?}");
    let standings =
        (spent(&stack, &all).await, spent(&stack, &of_dear).await, spent(&stack, &of_cheap).await);
    assert_eq!(standings, (total, costs[0], total - costs[0]));

    // That one is used up: the call is refused, and the model asked for is not tried again.
    change(&stack, &of_cheap, &json!({"limit_usd": usd(total - costs[0] + 1)})).await;
    let refused = call(&stack, vendor, dear, false, Some(700)).await.expect(429);
    assert_eq!(refused.header("x-purser-denied-budget"), of_cheap["budget_id"].to_string());
    assert_eq!(stack.fake.received().attempts, 4);
    counted(&stack, "acme", &[("degraded", 2), ("over_budget", 1)]).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_model_of_a_chat_is_the_one_billed_and_charged() {
    a_cheaper_model_runs(&VENDORS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_model_of_a_message_is_the_one_billed_and_charged() {
    a_cheaper_model_runs(&VENDORS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_model_in_a_path_is_the_one_billed_and_charged() {
    a_cheaper_model_runs(&VENDORS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_model_of_mistral_is_the_one_billed_and_charged() {
    a_cheaper_model_runs(&VENDORS[3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_deployment_of_azure_is_the_one_billed_and_charged() {
    a_cheaper_model_runs(&VENDORS[4]).await;
}

/// Room for about so many tokens of output, and for the floor no longer once they are spent.
const ROOM_TOKENS: i64 = 400;
const FLOOR_TOKENS: i64 = 100;

async fn output_is_clamped(vendor: &Vendor) {
    let stack = start(vendor).await;
    let ((dear, dear_rate), (cheap, cheap_rate)) = (vendor.dear, vendor.cheap);
    let clamp = json!({"floor_tokens": FLOOR_TOKENS});
    let mut limit = ROOM_TOKENS * dear_rate;
    let budget =
        json!({"org": "acme", "window": "total", "limit_usd": usd(limit), "ladder": {"clamp": clamp}});
    let budget = stack.backend.create_budget(budget).await;
    let without_cap = if vendor.needs_cap { Some(2_000) } else { None };
    let mut clamped_to = Vec::new();
    let mut entries = 0;
    for (stream, cap) in [(false, Some(2_000)), (true, without_cap)] {
        let left = limit - spent(&stack, &budget).await;
        let answer = call(&stack, vendor, dear, stream, cap).await.expect(200);
        let cap: i64 = answer.header("x-purser-clamped-to").parse().unwrap();
        assert!(cap >= FLOOR_TOKENS && cap * dear_rate <= left, "{cap} of {left}");
        assert_eq!(answer.header("x-purser-degraded-from"), "");
        clamped_to.push(cap);
        entries += 1;
        stack.database.settled("acme", entries).await;
        assert!(spent(&stack, &budget).await <= limit);
        // What is left pays for less than the floor.
        let refused = call(&stack, vendor, dear, stream, Some(2_000)).await.expect(429);
        assert_eq!(refused.header("x-purser-denied-budget"), budget["budget_id"].to_string());
        limit += ROOM_TOKENS * dear_rate;
        change(&stack, &budget, &json!({"limit_usd": usd(limit)})).await;
    }
    // A cheaper model that is clamped as well gets more out of the same money.
    limit = spent(&stack, &budget).await + ROOM_TOKENS * cheap_rate;
    let both = json!({"degrade": degrade(vendor), "clamp": clamp});
    change(&stack, &budget, &json!({"limit_usd": usd(limit), "ladder": both})).await;
    let answer = call(&stack, vendor, dear, true, Some(2_000)).await.expect(200);
    assert_eq!(answer.header("x-purser-degraded-from"), dear);
    clamped_to.push(answer.header("x-purser-clamped-to").parse().unwrap());

    let booked = booked(&stack, 3).await;
    let told: Vec<_> = booked.iter().map(|(worked, ..)| worked).collect();
    let cap = |number: usize| Some(clamped_to[number]);
    let (plain, streamed) = (worked(dear, None, cap(0)), worked(dear, None, cap(1)));
    assert_eq!(told, [&plain, &streamed, &worked(cheap, Some(dear), cap(2))]);
    for ((_, _, billed), cap) in booked.iter().zip(&clamped_to) {
        assert_eq!(i64::try_from(billed.tokens.output_tokens), Ok(*cap), "every answer went on to its cap");
    }
    let total: i64 = booked.iter().map(|(_, entry, _)| entry.cost_nanousd).sum();
    assert_eq!(spent(&stack, &budget).await, total);
    assert!(total <= limit, "{total} of {limit}");
    assert_eq!(stack.fake.received().attempts, 3);
    counted(&stack, "acme", &[("clamped", 3), ("degraded", 1), ("over_budget", 2)]).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_billed_to_its_lowered_cap_and_no_budget_is_overspent() {
    output_is_clamped(&VENDORS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_billed_to_its_lowered_cap_and_no_budget_is_overspent() {
    output_is_clamped(&VENDORS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_its_model_in_the_path_is_billed_to_its_lowered_cap() {
    output_is_clamped(&VENDORS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistral_and_azure_are_billed_to_their_lowered_caps() {
    output_is_clamped(&VENDORS[3]).await;
    output_is_clamped(&VENDORS[4]).await;
}
