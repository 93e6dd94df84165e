//! What bends budgets, set over the API and felt by the next call through the real path.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use system_tests::harness::backend::ADMIN_TOKEN;
use system_tests::harness::client::{Answer, App, ping, with};
use system_tests::harness::stack::{Setup, Stack};

/// An operator's request; gives back the answer's body.
pub async fn operate(stack: &Stack, method: Method, path: &str, body: Value) -> Value {
    let url = format!("http://{}{path}", stack.backend.addr());
    let request =
        stack.http.request(method, url).bearer_auth(ADMIN_TOKEN).header("if-match", "*").json(&body);
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{path} {body}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// A refusal that is not about money.
fn assert_forbidden(answer: &Answer, code: &str, part: &str) {
    assert_eq!(answer.status.as_u16(), 403, "{}", answer.text());
    assert_eq!(answer.header("x-should-retry"), "false");
    let error = &answer.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!("invalid_request_error")), "{error}");
    assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {error}");
}

/// A small request without a cap of its own.
fn uncapped() -> Value {
    let mut body = ping();
    body.as_object_mut().unwrap().remove("max_completion_tokens");
    body
}

/// The bodies that reached the provider.
fn sent(stack: &Stack) -> Vec<Value> {
    stack.fake.received().rows.iter().map(|row| serde_json::from_str(&row.body).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_switches_and_model_lists_act_on_the_next_call_and_let_go() {
    let stack = Stack::start().await;
    let ann = App::of("acme").team("search").user("ann");
    let zoe = App::of("acme").team("ads").user("zoe");
    stack.chat(&ann, &ping()).await.expect(200);

    let rule = json!({"org": "acme", "team": "search", "blocked": true, "reason": "key leaked"});
    operate(&stack, Method::PUT, "/v1/rules", rule).await;
    for stream in [false, true] {
        let answer = stack.chat(&ann, &with(ping(), &json!({"stream": stream}))).await;
        assert_forbidden(&answer, "blocked", "key leaked");
    }
    stack.chat(&zoe, &ping()).await.expect(200);
    operate(&stack, Method::DELETE, "/v1/rules?org=acme&team=search", json!(null)).await;
    stack.chat(&ann, &ping()).await.expect(200);

    let lists = json!({"org": "acme", "allowed_models": ["gpt-4o*"], "denied_models": ["gpt-4o"]});
    operate(&stack, Method::PUT, "/v1/rules", lists).await;
    for model in ["gpt-4o", "gpt-4.1"] {
        let answer = stack.chat(&ann, &with(ping(), &json!({"model": model}))).await;
        assert_forbidden(&answer, "model_not_allowed", "not allowed for org acme");
    }
    stack.chat(&ann, &ping()).await.expect(200);

    operate(&stack, Method::PUT, "/v1/rules", json!({"org": "acme", "required_tiers": ["user"]})).await;
    assert_forbidden(&stack.chat(&ann, &ping()).await, "no_budget", "tier user");
    let each = json!({"org": "acme", "team": "search", "user": "*", "window": "day", "limit_usd": "1"});
    stack.backend.create_budget(each).await;
    stack.chat(&ann, &ping()).await.expect(200);

    // None of the refused ones left anything behind, here or at the provider.
    stack.database.settled("acme", 5).await;
    assert_eq!(stack.fake.received().attempts, 5);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_budget_caps_what_goes_out_and_refuses_what_has_no_bound() {
    let stack = Stack::start().await;
    let app = App::of("acme");
    let strict = json!({"org": "acme", "window": "day", "limit_usd": "1", "strict": true});
    stack.backend.create_budget(strict).await;
    stack.chat(&app, &uncapped()).await.expect(200);
    stack.chat(&app, &with(uncapped(), &json!({"max_tokens": 9}))).await.expect(200);
    stack.chat(&app, &with(uncapped(), &json!({"stream": true, "n": 2}))).await.expect(200);
    let caps: Vec<[Value; 2]> = sent(&stack)
        .iter()
        .map(|body| [body["max_completion_tokens"].clone(), body["max_tokens"].clone()])
        .collect();
    // A cap of the app's own stays what it was.
    let expected = [[json!(4096), json!(null)], [json!(null), json!(9)], [json!(4096), json!(null)]];
    assert_eq!(caps, expected);
    for row in stack.database.settled("acme", 3).await {
        assert!(row.cost_nanousd <= row.held_nanousd, "{row:?}");
    }
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
    ]}]});
    let answer = stack.chat(&app, &with(ping(), &image)).await;
    assert_forbidden(&answer, "not_boundable", "media");
    // Another org's budget does not mind.
    stack.backend.org_budget("other", "1").await;
    stack.chat(&App::of("other"), &with(ping(), &image)).await.expect(200);
    assert_eq!(stack.fake.received().attempts, 4);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_burst_overspends_a_strict_budget() {
    const FIT: i64 = 7;
    let stack = Stack::start().await;
    let strict = |org: &str, nanousd: i64| {
        let limit_usd = purser_protocol::format_usd(nanousd);
        json!({"org": org, "window": "month", "limit_usd": limit_usd, "strict": true})
    };
    // Answers that go on until the cap, which the app does not set: each costs nearly what it holds.
    let talkative = |org: &str| App::of(org).with("x-fake-words", "6000");
    stack.backend.create_budget(strict("probe", 1_000_000_000)).await;
    // A model without service tiers: others are held at their dearest and billed at the plain one.
    let body = with(uncapped(), &json!({"model": "gpt-3.5-turbo"}));
    stack.chat(&talkative("probe"), &body).await.expect(200);
    let probe = stack.database.settled("probe", 1).await[0].clone();
    assert_eq!(probe.output_tokens, 4_096, "{probe:?}");
    let over = probe.held_nanousd - probe.cost_nanousd;
    assert!(over >= 0 && FIT * over < probe.held_nanousd / 2, "{probe:?}");

    // Room for seven holds and a half; what seven give back makes no room for an eighth.
    let limit = FIT * probe.held_nanousd + probe.held_nanousd / 2;
    stack.backend.create_budget(strict("acme", limit)).await;
    let app = talkative("acme");
    let answers = {
        let calls = join_all((0..40).map(|_| stack.chat(&app, &body)));
        tokio::pin!(calls);
        loop {
            tokio::select! {
                answers = &mut calls => break answers,
                counters = stack.database.counters("acme") => {
                    for counter in counters {
                        assert!(counter.spent_nanousd + counter.held_nanousd <= limit, "{counter:?} of {limit}");
                    }
                }
            }
        }
    };
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    let expected: Vec<u16> = (0..40).map(|number| if number < FIT { 200 } else { 429 }).collect();
    assert_eq!(statuses, expected);
    let ledger = stack.database.settled("acme", usize::try_from(FIT).unwrap()).await;
    let spent: i64 = ledger.iter().map(|row| row.cost_nanousd).sum();
    assert!(spent <= limit, "{spent} of {limit}");
    let billed = stack.fake.state.bill.view().total_nanousd;
    assert_eq!(i64::try_from(billed), Ok(spent + probe.cost_nanousd), "ours is not the provider's bill");
    stack.chat(&app, &body).await.expect(429);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shadows_overrides_and_top_ups_open_the_way_for_the_next_call() {
    let stack = Setup::default().ask_always().start().await;
    let app = App::of("acme").team("search").user("ann");
    let shadow = json!({"org": "acme", "window": "day", "limit_usd": "0", "mode": "shadow"});
    let shadow = stack.backend.create_budget(shadow).await;
    for _ in 0..3 {
        let answer = stack.chat(&app, &ping()).await.expect(200);
        assert_eq!(answer.header("x-purser-remaining-org"), "", "a shadow is nobody's remainder");
    }
    let path = format!("/v1/budgets/{}", shadow["budget_id"]);
    operate(&stack, Method::PATCH, &path, json!({"mode": "enforce"})).await;
    stack.chat(&app, &ping()).await.expect(429);

    let lift = json!({"org": "acme", "team": "search", "minutes": 5, "reason": "incident", "by": "eve"});
    let lifted = operate(&stack, Method::POST, "/v1/overrides", lift).await;
    let answer = stack.chat(&app, &ping()).await.expect(200);
    assert!(answer.header("x-purser-remaining-org").starts_with('-'), "{:?}", answer.headers);
    stack.chat(&App::of("acme").team("ads"), &ping()).await.expect(429);
    operate(&stack, Method::DELETE, &format!("/v1/overrides/{}", lifted["override_id"]), json!(null)).await;
    stack.chat(&app, &ping()).await.expect(429);

    let topped_up =
        operate(&stack, Method::POST, &format!("{path}/top-ups"), json!({"amount_usd": "1"})).await;
    assert_eq!(topped_up["topped_up_usd"], "1.00", "{topped_up}");
    stack.chat(&app, &ping()).await.expect(200);

    stack.database.settled("acme", 5).await;
    let overridden: Vec<Option<i64>> =
        sqlx::query_scalar("select override_id from llm_requests where org = 'acme' order by occurred_at")
            .fetch_all(&stack.database.pool)
            .await
            .unwrap();
    assert_eq!(overridden, [None, None, None, lifted["override_id"].as_i64(), None]);
    assert_eq!(stack.fake.received().attempts, 5);
    stack.assert_healthy().await;
}
