//! One budget through all its steps, a ladder in the shadow, and a call that no step can change.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use system_tests::fake_llm::bill::BilledRow;
use system_tests::harness::client::{Answer, App, with};
use system_tests::harness::stack::{Setup, Stack};

use super::{VENDORS, booked, call, change, counted, degrade, post, spent, usd, worked};
use crate::ledger::{self, Entry};

/// The warned percentage in an answer's header, as in `org;window=total;used=95`.
fn warned(answer: &Answer) -> Option<i64> {
    answer.header("x-purser-warning").strip_prefix("user;window=total;used=")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_walks_down_its_ladder_and_the_neighbour_goes_on() {
    let vendor = &VENDORS[0];
    let stack = Setup::default().one_worker().start().await;
    for place in [json!({}), json!({"team": "search"}), json!({"team": "search", "user": "bob"})] {
        let budget = with(json!({"org": "acme", "window": "total", "limit_usd": "1"}), &place);
        stack.backend.create_budget(budget).await;
    }
    // 3,000 tokens of output; each call asks for 1,000 at most.
    let ladder = json!({
        "warn_at_percent": 50,
        "degrade": {"at_percent": 90, "models": {"gpt-4o": "gpt-4o-mini"}},
        "clamp": {"floor_tokens": 50},
    });
    let of_ann = json!({"org": "acme", "team": "search", "user": "ann", "window": "total", "limit_usd": "0.03",
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
        let (degraded, clamped) =
            (answer.header("x-purser-degraded-from"), answer.header("x-purser-clamped-to"));
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
    for ((limit_usd, ladder), window) in ladders.into_iter().zip(["total", "month", "week"]) {
        let shadow = json!({"org": "acme", "window": window, "limit_usd": limit_usd, "mode": "shadow", "ladder": ladder});
        stack.backend.create_budget(shadow).await;
    }
    for stream in [false, true] {
        let answer = call(&stack, vendor, dear, stream, Some(700)).await.expect(200);
        for name in
            ["x-purser-warning", "x-purser-degraded-from", "x-purser-clamped-to", "x-purser-denied-tier"]
        {
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
    let expected =
        [("shadow_warned", 2), ("shadow_degraded", 2), ("shadow_clamped", 1), ("shadow_denied", 3)];
    counted(&stack, "acme", &expected).await;
    stack.assert_healthy().await;
}

const CONVERSE: &str = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_falls_through_the_ladder_to_a_denial() {
    let setup = Setup::default().provider("bedrock").one_worker();
    let price = "set --provider bedrock --model claude-haiku-4-5 --rate input=1 --rate output=5";
    let stack = ledger::start(setup, price).await;
    let model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
    let ladder = json!({
        "warn_at_percent": 1,
        "degrade": {"at_percent": 1, "models": {model: "claude-haiku-4-5"}},
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
    // The same without a signature is let through by the first step, and on less money by the next one.
    let unsigned = [signed[0], signed[1], ("authorization", "Bearer key")];
    let answer = post(&stack, CONVERSE, &unsigned, &body).await.expect(200);
    assert_eq!(answer.header("x-purser-degraded-from"), model);
    stack.database.settled("acme", 2).await;
    let limit = spent(&stack, &budget).await + 5_000_000;
    change(&stack, &budget, &json!({"limit_usd": usd(limit), "ladder": {"clamp": {"floor_tokens": 1}}}))
        .await;
    let answer = post(&stack, CONVERSE, &unsigned, &body).await.expect(200);
    let cap = answer.header("x-purser-clamped-to").parse().unwrap();
    let booked = booked(&stack, 3).await;
    let told: Vec<_> = booked.iter().map(|(worked, ..)| worked).collect();
    let (degraded, clamped) = (worked("claude-haiku-4-5", Some(model), None), worked(model, None, Some(cap)));
    assert_eq!(told, [&worked(model, None, None), &degraded, &clamped]);
    let output: Vec<u64> = booked.iter().map(|(.., billed)| billed.tokens.output_tokens).collect();
    assert_eq!(output, [500, 500, u64::try_from(cap).unwrap()]);
    assert!(spent(&stack, &budget).await <= limit);
    assert_eq!(stack.fake.received().attempts, 3);
    let expected = [("warned", 2), ("over_budget", 2), ("degraded", 1), ("clamped", 1)];
    counted(&stack, "acme", &expected).await;
    stack.assert_healthy().await;
}

/// So many entries and the rows of the bill that they are for, of calls that were made side by side.
async fn booked_in_any_order(stack: &Stack, count: usize) -> (Vec<Entry>, Vec<BilledRow>) {
    stack.database.settled("acme", count).await;
    let mut entries = ledger::entries(stack, count).await;
    let mut bill = stack.fake.billed().rows;
    entries.sort_by(|one, other| one.response_id.cmp(&other.response_id));
    bill.sort_by(|one, other| one.response_id.cmp(&other.response_id));
    assert_eq!(bill.len(), count);
    for (entry, billed) in entries.iter().zip(&bill) {
        ledger::assert_billed("one of many", entry, billed, false);
    }
    (entries, bill)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_down_the_ladder_is_booked_as_billed_and_overspends_nothing() {
    const LIMIT_NANOUSD: i64 = 20_000_000;
    let vendor = &VENDORS[0];
    let stack = Stack::start().await;
    let ladder = json!({
        "degrade": {"at_percent": 60, "models": {vendor.dear.0: vendor.cheap.0}},
        "clamp": {"floor_tokens": 10},
    });
    let budget = json!({"org": "acme", "window": "total", "limit_usd": usd(LIMIT_NANOUSD), "ladder": ladder});
    let budget = stack.backend.create_budget(budget).await;
    // Room for four answers of the dear model: two of it, then the cheaper one runs until all is spent.
    let ask = async |number: usize| call(&stack, vendor, vendor.dear.0, number % 2 == 1, Some(500)).await;
    let answers = join_all((0..60).map(ask)).await;
    let mut steps = BTreeMap::new();
    for answer in &answers {
        let changed =
            ["x-purser-degraded-from", "x-purser-clamped-to"].map(|name| !answer.header(name).is_empty());
        *steps.entry((answer.status.as_u16(), changed)).or_insert(0_usize) += 1;
    }
    let granted = answers.iter().filter(|answer| answer.status.as_u16() == 200).count();
    let plain = steps.get(&(200, [false, false])).copied().unwrap_or_default();
    assert!((1..4).contains(&plain) && granted > 10, "{steps:?}");
    assert!(
        steps.contains_key(&(200, [true, false])) && steps.contains_key(&(429, [false, false])),
        "{steps:?}"
    );

    let (_, bill) = booked_in_any_order(&stack, granted).await;
    let dear = bill.iter().filter(|billed| billed.model == vendor.dear.0).count();
    let clamped_dear = steps.get(&(200, [false, true])).copied().unwrap_or_default();
    assert_eq!(dear, plain + clamped_dear, "{steps:?}");
    let total: u64 = bill.iter().map(|billed| billed.amount_nanousd).sum();
    assert_eq!(u64::try_from(spent(&stack, &budget).await), Ok(total));
    assert!(spent(&stack, &budget).await <= LIMIT_NANOUSD, "{total} of {LIMIT_NANOUSD}");
    stack.assert_healthy().await;
}

/// A strict budget holds what a call may cost at most: bytes for tokens of input, the cap for its output.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_budget_walks_down_its_ladder_and_is_never_overspent() {
    const LIMIT_NANOUSD: i64 = 30_000_000;
    let vendor = &VENDORS[0];
    let stack = Setup::default().one_worker().ask_always().start().await;
    let ladder = json!({
        "degrade": {"at_percent": 70, "models": {vendor.dear.0: vendor.cheap.0}},
        "clamp": {"floor_tokens": 50},
    });
    let budget = json!({"org": "acme", "window": "total", "limit_usd": usd(LIMIT_NANOUSD), "strict": true,
                        "ladder": ladder});
    let budget = stack.backend.create_budget(budget).await;
    let ask = async |number: usize, cap| call(&stack, vendor, vendor.dear.0, number % 2 == 1, cap).await;
    let mut told = Vec::new();
    let mut settled = 0;
    while told.last() != Some(&"denied") && told.len() < 60 {
        let answer = ask(told.len(), Some(1_000)).await;
        let degraded = answer.header("x-purser-degraded-from") == vendor.dear.0;
        let clamped = !answer.header("x-purser-clamped-to").is_empty();
        let step = match (answer.status.as_u16(), degraded, clamped) {
            (200, false, false) => "plain",
            (200, true, false) => "degraded",
            (200, true, true) => "clamped",
            (429, false, false) => "denied",
            other => panic!("{other:?}: {}", answer.text()),
        };
        told.push(step);
        settled += usize::from(step != "denied");
        stack.database.settled("acme", settled).await;
        assert!(spent(&stack, &budget).await <= LIMIT_NANOUSD, "{told:?}");
        if step == "denied" {
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains(" even by the cheaper model gpt-4o-mini;"), "{message}");
        }
    }
    told.dedup();
    assert_eq!(told, ["plain", "degraded", "clamped", "denied"]);

    // All at once, some without a cap of their own: then the bound is what the filter writes.
    let limit = 2 * LIMIT_NANOUSD;
    change(&stack, &budget, &json!({"limit_usd": usd(limit)})).await;
    let caps = [Some(400), None, Some(2_000)];
    let answers = join_all((0..40).map(|number| ask(number, caps[number % caps.len()]))).await;
    let granted = answers.iter().filter(|answer| answer.status.as_u16() == 200).count();
    assert!(granted > 0 && granted < answers.len(), "{granted} of {}", answers.len());
    let (entries, bill) = booked_in_any_order(&stack, settled + granted).await;
    let total: u64 = bill.iter().map(|billed| billed.amount_nanousd).sum();
    assert_eq!(u64::try_from(spent(&stack, &budget).await), Ok(total));
    assert!(spent(&stack, &budget).await <= limit, "{total} of {limit}");
    for entry in &entries {
        assert!(entry.cost_nanousd <= entry.held_nanousd, "beyond its bound: {entry:?}");
    }
    stack.assert_healthy().await;
}
