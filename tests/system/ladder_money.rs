//! The ladder with everything real: what a budget changed in a call is what the provider bills, row by
//! row, and what the ledger, the budgets and the answer say of it.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::FromRow;
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::backend::ADMIN_TOKEN;
use system_tests::harness::client::{Answer, App, http, ping, ping_stream, with};
use system_tests::harness::stack::{Setup, Stack};
use system_tests::harness::wait_until;

use crate::ledger::{self, Entry};

/// A provider with a dear model and a cheap one, nano-USD for a token of output.
struct Vendor {
    provider: &'static str,
    dear: (&'static str, i64),
    cheap: (&'static str, i64),
    /// The path for a model, plain or streamed.
    path: fn(&str, bool) -> String,
    /// The request, with an output cap or without; with a model where the body names it.
    body: fn(&str, bool, Option<u64>) -> Value,
    needs_cap: bool,
}

const VENDORS: [Vendor; 3] = [
    Vendor {
        provider: "openai",
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

/// An operator's request; gives back the answer's body.
async fn operate(stack: &Stack, method: Method, path: &str, body: &Value) -> Value {
    let url = format!("http://{}{path}", stack.backend.addr());
    let response = stack.http.request(method, url).bearer_auth(ADMIN_TOKEN).json(body).send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{path} {body}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

async fn change(stack: &Stack, budget: &Value, change: &Value) {
    operate(stack, Method::PATCH, &format!("/v1/budgets/{}", budget["budget_id"]), change).await;
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

async fn a_cheaper_model_runs(vendor: &Vendor) {
    let stack = Setup::default().provider(vendor.provider).one_worker().start().await;
    let (dear, cheap) = (vendor.dear.0, vendor.cheap.0);
    let all = json!({"org": "acme", "window": "day", "limit_usd": "0.50"});
    let all = stack.backend.create_budget(all).await;
    let of_model = |model: &str| json!({"org": "acme", "window": "day", "limit_usd": "1", "models": [model]});
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

/// Room for about so many tokens of output, and for the floor no longer once they are spent.
const ROOM_TOKENS: i64 = 400;
const FLOOR_TOKENS: i64 = 100;

async fn output_is_clamped(vendor: &Vendor) {
    let stack = Setup::default().provider(vendor.provider).one_worker().start().await;
    let ((dear, dear_rate), (cheap, cheap_rate)) = (vendor.dear, vendor.cheap);
    let clamp = json!({"floor_tokens": FLOOR_TOKENS});
    let mut limit = ROOM_TOKENS * dear_rate;
    let budget = json!({"org": "acme", "window": "day", "limit_usd": usd(limit), "ladder": {"clamp": clamp}});
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

/// The warned percentage in an answer's header, as in `org;window=day;used=95`.
fn warned(answer: &Answer) -> Option<i64> {
    answer.header("x-purser-warning").strip_prefix("user;window=day;used=")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_walks_down_its_ladder_and_the_neighbour_goes_on() {
    let vendor = &VENDORS[0];
    let stack = Setup::default().one_worker().start().await;
    for place in [json!({}), json!({"team": "search"}), json!({"team": "search", "user": "bob"})] {
        let budget = with(json!({"org": "acme", "window": "day", "limit_usd": "1"}), &place);
        stack.backend.create_budget(budget).await;
    }
    // 3,000 tokens of output; each call asks for 1,000 at most.
    let ladder = json!({
        "warn_at_percent": 50,
        "degrade": {"at_percent": 90, "models": {"gpt-4o": "gpt-4o-mini"}},
        "clamp": {"floor_tokens": 50},
    });
    let of_ann = json!({"org": "acme", "team": "search", "user": "ann", "window": "day", "limit_usd": "0.03",
                        "ladder": ladder});
    let of_ann = stack.backend.create_budget(of_ann).await;
    let ask = async |user: &str, stream: bool| {
        let app = App::of("acme").team("search").user(user).with("x-fake-words", "3000");
        stack.chat(&app, &(vendor.body)("gpt-4o", stream, Some(1_000))).await
    };
    let mut settled = 0;
    let mut told = Vec::new();
    while told.len() < 40 {
        let stream = told.len() % 2 == 1;
        let answer = ask("ann", stream).await;
        let (degraded, clamped) = (answer.header("x-purser-degraded-from"), answer.header("x-purser-clamped-to"));
        let step = match (answer.status.as_u16(), warned(&answer), degraded, clamped) {
            (200, None, "", "") => "plain",
            (200, Some(50..), "", "") => "warned",
            (200, Some(50..), "gpt-4o", "") => "degraded",
            (200, Some(90..), "gpt-4o", cap) if cap.parse::<u64>().is_ok_and(|cap| cap >= 50) => "clamped",
            (429, None, "", "") => "denied",
            other => panic!("{other:?}: {}", answer.text()),
        };
        told.push(step);
        // Each call stands in the books before the next one: what is held beside it would change its step.
        settled += usize::from(step != "denied");
        stack.database.settled("acme", settled).await;
        if step == "denied" {
            assert_eq!(answer.header("x-purser-denied-tier"), "user");
            assert_eq!(answer.header("x-purser-denied-budget"), of_ann["budget_id"].to_string());
            break;
        }
    }
    told.dedup();
    assert_eq!(told, ["plain", "warned", "degraded", "clamped", "denied"]);
    let bob = ask("bob", true).await.expect(200);
    assert_eq!((bob.header("x-purser-degraded-from"), bob.header("x-purser-warning")), ("", ""));
    let booked = booked(&stack, settled + 1).await;
    assert_eq!(booked.last().map(|(worked, ..)| worked.model.as_str()), Some("gpt-4o"));
    assert!(spent(&stack, &of_ann).await <= 30_000_000);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_ladder_changes_nothing_and_says_what_it_would_have_done() {
    let vendor = &VENDORS[0];
    let stack = Stack::start().await;
    let (dear, rate) = vendor.dear;
    // Room for the cheaper model's answer, for a part of the dear one's, and for none of any.
    let ladders = [
        (usd(1_000 * rate), json!({"warn_at_percent": 1, "degrade": degrade(vendor)})),
        (usd(400 * rate), json!({"clamp": {"floor_tokens": 100}})),
        (usd(400 * rate), json!({"clamp": {"floor_tokens": 900}})),
    ];
    for ((limit_usd, ladder), window) in ladders.into_iter().zip(["day", "week", "month"]) {
        let shadow = json!({"org": "acme", "window": window, "limit_usd": limit_usd, "mode": "shadow", "ladder": ladder});
        stack.backend.create_budget(shadow).await;
    }
    for stream in [false, true] {
        let answer = call(&stack, vendor, dear, stream, Some(700)).await.expect(200);
        for name in ["x-purser-warning", "x-purser-degraded-from", "x-purser-clamped-to", "x-purser-denied-tier"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        let sent = stack.fake.received().rows.pop().unwrap();
        let sent: Value = serde_json::from_str(&sent.body).unwrap();
        assert_eq!((&sent["model"], &sent["max_completion_tokens"]), (&json!(dear), &json!(700)));
        stack.database.settled("acme", 1 + usize::from(stream)).await;
    }
    for (told, _, billed) in booked(&stack, 2).await {
        assert_eq!((told, billed.tokens.output_tokens), (worked(dear, None, None), 700));
    }
    // The second call would have found the clamping budgets overspent by the first.
    let expected = [("shadow_warned", 2), ("shadow_degraded", 2), ("shadow_clamped", 1), ("shadow_denied", 3)];
    counted(&stack, "acme", &expected).await;
    stack.assert_healthy().await;
}

const CONVERSE: &str = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_falls_through_the_ladder_to_a_denial() {
    let stack = Setup::default().provider("bedrock").one_worker().start().await;
    let model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
    let ladder = json!({
        "warn_at_percent": 1,
        "degrade": {"at_percent": 1, "models": {model: "us.anthropic.claude-haiku-4-5-20251001-v1:0"}},
        "clamp": {"floor_tokens": 1},
    });
    let budget = json!({"org": "acme", "window": "total", "limit_usd": "0.05", "ladder": ladder});
    let budget = stack.backend.create_budget(budget).await;
    let body = json!({
        "messages": [{"role": "user", "content": [{"text": "How much is it?"}]}],
        "inferenceConfig": {"maxTokens": 500},
    });
    let signature = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/bedrock/aws4_request, \
                     SignedHeaders=host, Signature=00";
    let signed = [("x-budget-org", "acme"), ("x-fake-words", "600"), ("authorization", signature)];
    // While there is room it runs as it was signed; it can't be made cheaper, only be warned of.
    let answer = post(&stack, CONVERSE, &signed, &body).await.expect(200);
    assert_eq!((answer.header("x-purser-degraded-from"), answer.header("x-purser-clamped-to")), ("", ""));
    assert!(answer.header("x-purser-warning").starts_with("org;window=total;used="), "{:?}", answer.headers);
    stack.database.settled("acme", 1).await;
    let limit = spent(&stack, &budget).await + 5_000_000;
    change(&stack, &budget, &json!({"limit_usd": usd(limit)})).await;
    for _ in 0..2 {
        let answer = post(&stack, CONVERSE, &signed, &body).await.expect(400);
        assert_eq!(answer.header("x-amzn-errortype"), "ServiceQuotaExceededException");
        assert_eq!(answer.header("x-purser-denied-budget"), budget["budget_id"].to_string());
        assert_eq!(answer.header("x-purser-denial-cached"), "", "a cheaper call might still pass");
    }
    // One that carries no signature is clamped: there is money left, after all.
    change(&stack, &budget, &json!({"ladder": {"clamp": {"floor_tokens": 1}}})).await;
    let unsigned = [signed[0], signed[1], ("authorization", "Bearer key")];
    let answer = post(&stack, CONVERSE, &unsigned, &body).await.expect(200);
    let cap: i64 = answer.header("x-purser-clamped-to").parse().unwrap();
    let booked = booked(&stack, 2).await;
    assert_eq!(booked[0].0, worked(model, None, None));
    assert_eq!(booked[1].0, worked(model, None, Some(cap)));
    assert_eq!(booked.iter().map(|(.., billed)| billed.tokens.output_tokens).collect::<Vec<_>>()[0], 500);
    assert!(spent(&stack, &budget).await <= limit);
    assert_eq!(stack.fake.received().attempts, 2);
    counted(&stack, "acme", &[("warned", 1), ("over_budget", 2), ("clamped", 1)]).await;
    stack.assert_healthy().await;
}

/// Where the first identity source stands in the shipped configuration.
const ORG_SOURCE: &str = r#""org": {"header": "x-budget-org"}"#;

fn by_key() -> Setup {
    Setup::default().edit(ORG_SOURCE, r#""org": [{"api_key": true}]"#)
}

/// SHA-256 of `sk-test-1`.
const FINGERPRINT: &str = "db567a0dd8d24a1a894b3f1ceac157727179c1d15c226c5554dd1972d0fed479";

fn with_key(key: &str) -> App {
    App::unidentified().with("authorization", &format!("Bearer {key}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fingerprint_of_a_key_says_who_is_charged() {
    let stack = by_key().start().await;
    let of_ann = json!({"org": "acme", "team": "search", "user": "ann", "window": "day", "limit_usd": "1"});
    let of_ann = stack.backend.create_budget(of_ann).await;
    for key in ["sk-test-1", "sk-test-2"] {
        let refused = stack.chat(&with_key(key), &ping()).await.expect(403);
        assert_eq!(refused.json()["error"]["code"], "unidentified");
    }
    let known = json!({"kind": "api_key_sha256", "value": FINGERPRINT, "org": "acme", "team": "search",
                       "user": "ann"});
    let known = operate(&stack, Method::POST, "/v1/identities", &known).await;
    let mut refusals = 2;
    let answer = wait_until("the key to be known", async || {
        let answer = stack.chat(&with_key("sk-test-1"), &ping()).await;
        refusals += i64::from(answer.status.as_u16() == 403);
        if answer.status.as_u16() == 200 { Ok(answer) } else { Err(answer.text()) }
    })
    .await;
    assert_ne!(answer.header("x-purser-remaining-user"), "");
    // Who says of itself that it is somebody else is still the owner of its key.
    let liar = with_key("sk-test-1").with("x-budget-org", "other");
    stack.chat(&liar, &ping_stream()).await.expect(200);
    stack.chat(&with_key("sk-test-2").with("x-budget-org", "acme"), &ping()).await.expect(403);
    refusals += 1;

    let rows = stack.database.settled("acme", 2).await;
    for row in &rows {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("search", "ann"));
    }
    booked(&stack, 2).await;
    assert_eq!(spent(&stack, &of_ann).await, rows.iter().map(|row| row.cost_nanousd).sum::<i64>());
    counted(&stack, "", &[("unidentified", refusals)]).await;

    // Forgotten, it is a stranger's again.
    let path = format!("/v1/identities/{}", known["identity_id"]);
    operate(&stack, Method::DELETE, &path, &json!(null)).await;
    let mut passed = 2;
    wait_until("the key to be forgotten", async || {
        let answer = stack.chat(&with_key("sk-test-1"), &ping()).await;
        passed += usize::from(answer.status.as_u16() == 200);
        if answer.status.as_u16() == 403 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    stack.database.settled("acme", passed).await;
    for log in [stack.envoy.log(), stack.backend.log()] {
        assert!(!log.contains("sk-test"), "a key in the log");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_knows_is_the_default_payers() {
    let stack = by_key().unidentified(r#"{"org": "acme", "team": "guests"}"#).start().await;
    stack.backend.org_budget("acme", "1").await;
    for app in [with_key("sk-test-1"), App::unidentified()] {
        stack.chat(&app, &ping()).await.expect(200);
    }
    for row in stack.database.settled("acme", 2).await {
        assert_eq!((row.team.as_str(), row.user_name.as_str()), ("guests", ""));
    }
    booked(&stack, 2).await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_budget_is_asked_once_and_counted_for_every_call() {
    const AGAIN: u64 = 40;
    let setup = Setup::default().one_worker().edit(r#""cache_ms": 1000"#, r#""cache_ms": 60000"#);
    let stack = setup.start().await;
    let budget = stack.backend.org_budget("acme", "1").await;
    let app = App::of("acme");
    stack.chat(&app, &ping()).await.expect(200);
    stack.database.settled("acme", 1).await;
    stack.backend.set_limit(&budget, "0").await;
    let first = stack.chat(&app, &ping()).await.expect(429);
    assert_eq!(first.header("x-purser-denial-cached"), "");
    let asked = "cluster.purser_backend.upstream_rq_total";
    let before = stack.envoy.stats(asked).await[asked];
    for number in 0..AGAIN {
        let body = if number % 2 == 0 { ping() } else { ping_stream() };
        let again = stack.chat(&app, &body).await.expect(429);
        assert_eq!((again.header("x-purser-denial-cached"), &again.body), ("true", &first.body));
    }
    // What it was asked meanwhile are reports, one a second.
    let asked = stack.envoy.stats(asked).await[asked] - before;
    assert!(asked < AGAIN / 2, "the backend was called {asked} times for {AGAIN} calls");
    let stats = stack.envoy.stats("purser_verdicts").await;
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny;"], 1);
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny_cached;"], AGAIN);
    counted(&stack, "acme", &[("over_budget", 1 + i64::try_from(AGAIN).unwrap())]).await;
    // Nothing of it cost anything; and what is not the refused question is asked.
    booked(&stack, 1).await;
    stack.backend.set_limit(&budget, "1").await;
    stack.chat(&app.clone().team("search"), &ping()).await.expect(200);
    stack.chat(&app, &ping()).await.expect(429);
    booked(&stack, 2).await;
    stack.assert_healthy().await;
}
