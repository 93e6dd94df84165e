//! Org, team, user: who denies, and that a denial leaves no trace.

use futures_util::future::join_all;
use purser_protocol::{format_usd, parse_usd};
use serde_json::{Value, json};
use system_tests::harness::client::{Answer, App, ping};
use system_tests::harness::stack::Stack;
use system_tests::harness::wait_until;

/// A budget of a tier of org `org`, team `search`, user `ann`.
fn budget(org: &str, tier: &str, window: &str, limit_usd: &str) -> Value {
    let mut budget = json!({"org": org, "window": window, "limit_usd": limit_usd});
    if tier != "org" {
        budget["team"] = json!("search");
    }
    if tier == "user" {
        budget["user"] = json!("ann");
    }
    budget
}

fn assert_denied(answer: &Answer, tier: &str, window: &str, limit_usd: &str) {
    assert_eq!(answer.status.as_u16(), 429, "{}", answer.text());
    for (name, expected) in [
        ("content-type", "application/json"),
        ("x-should-retry", "false"),
        ("x-purser-denied-tier", tier),
        ("x-purser-denied-window", window),
    ] {
        assert_eq!(answer.header(name), expected, "{name}");
    }
    assert_eq!(parse_usd(answer.header("x-purser-limit")), parse_usd(limit_usd));
    assert!(!answer.header("x-purser-hold-id").is_empty());
    assert!(!answer.headers.contains_key("retry-after"));
    let body = answer.json();
    let message = body["error"]["message"].as_str().unwrap_or_default().to_owned();
    let expected = json!({"error": {
        "message": message, "type": "insufficient_quota", "param": null, "code": "insufficient_quota",
    }});
    assert_eq!(body, expected);
    for word in [tier, window] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tier_and_window_can_be_the_one_that_denies() {
    let stack = Stack::start().await;
    let tiers = ["org", "team", "user"];
    for denied_tier in tiers {
        for denied_window in ["day", "month"] {
            let org = format!("{denied_tier}-{denied_window}");
            let mut resets_at = Value::Null;
            for tier in tiers {
                for window in ["day", "month"] {
                    let is_denied = (tier, window) == (denied_tier, denied_window);
                    let limit = if is_denied { "0.000000001" } else { "1.00" };
                    stack.backend.create_budget(budget(&org, tier, window, limit)).await;
                    let listed = stack.backend.budgets(&org).await;
                    let own =
                        listed.iter().find(|row| row["tier"] == tier && row["window"] == window).unwrap();
                    if is_denied {
                        resets_at = own["resets_at"].clone();
                    }
                }
            }
            let answer = stack.chat(&App::of(&org).team("search").user("ann"), &ping()).await;
            assert_denied(&answer, denied_tier, denied_window, "0.000000001");
            assert_eq!(answer.header("x-purser-resets-at"), resets_at.as_str().unwrap());
            for counter in stack.database.counters(&org).await {
                assert_eq!((counter.spent_nanousd, counter.held_nanousd), (0, 0), "{org} {counter:?}");
            }
            assert_eq!(stack.database.holds(&org, "open").await, 0);
        }
    }
    assert_eq!(stack.fake.received().attempts, 0, "a denied call reached the provider");
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_row_gives_each_one_a_budget_unless_there_is_an_own_one() {
    let stack = Stack::start().await;
    let own = json!({"org": "acme", "team": "search", "user": "ann", "window": "day", "limit_usd": "1.00"});
    let each =
        json!({"org": "acme", "team": "search", "user": "*", "window": "day", "limit_usd": "0.000000001"});
    stack.backend.create_budget(own).await;
    stack.backend.create_budget(each).await;
    let user = |name: &str| App::of("acme").team("search").user(name);
    stack.chat(&user("ann"), &ping()).await.expect(200);
    assert_denied(&stack.chat(&user("bob"), &ping()).await, "user", "day", "0.000000001");
    // Another team has no such row, and a call without a user is nobody's.
    stack.chat(&App::of("acme").team("ads").user("bob"), &ping()).await.expect(200);
    stack.chat(&App::of("acme").team("search"), &ping()).await.expect(200);
    stack.database.settled("acme", 3).await;

    // Each one has a counter: what one spends is not another's.
    let teams = json!({"org": "wide", "team": "*", "window": "month", "limit_usd": "1.00"});
    stack.backend.create_budget(teams).await;
    for team in ["a", "a", "b"] {
        stack.chat(&App::of("wide").team(team), &ping()).await.expect(200);
    }
    let costs: Vec<i64> =
        stack.database.settled("wide", 3).await.iter().map(|row| row.cost_nanousd).collect();
    let counters = stack.database.counters("wide").await;
    let spent: Vec<_> =
        counters.iter().map(|counter| (counter.subject.as_str(), counter.spent_nanousd)).collect();
    assert_eq!(spent, [("a", 2 * costs[0]), ("b", costs[0])]);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_spends_counts_in_every_tier() {
    let stack = Stack::start().await;
    for tier in ["org", "team", "user"] {
        stack.backend.create_budget(budget("acme", tier, "day", "1.00")).await;
    }
    for user in ["ann", "bob"] {
        stack.chat(&App::of("acme").team("search").user(user), &ping()).await.expect(200);
    }
    stack.chat(&App::of("acme").team("ads").user("ann"), &ping()).await.expect(200);
    let cost = stack.database.settled("acme", 3).await[0].cost_nanousd;
    for budget in stack.backend.budgets("acme").await {
        let calls = match budget["tier"].as_str() {
            Some("org") => 3,
            Some("team") => 2,
            _ => 1,
        };
        assert_eq!(budget["spent_usd"], format_usd(calls * cost), "{budget}");
        assert_eq!(budget["held_usd"], "0.00", "{budget}");
        assert_eq!(budget["remaining_usd"], format_usd(1_000_000_000 - calls * cost), "{budget}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_never_overspend() {
    let stack = Stack::start().await;
    stack.backend.org_budget("probe", "1.00").await;
    stack.chat(&App::of("probe"), &ping()).await.expect(200);
    let held = stack.database.settled("probe", 1).await[0].held_nanousd;
    assert!(held > 0);

    // Room for five holds and a half. All calls are under way until the gate opens.
    let limit = 5 * held + held / 2;
    stack.backend.org_budget("acme", &format_usd(limit)).await;
    let app = App::of("acme").team("search").user("ann").with("x-fake-gate", "all");
    let body = ping();
    let calls = join_all((0..24).map(|_| stack.chat(&app, &body)));
    let meanwhile = async {
        let gates = &stack.fake.state.gates;
        gates.wait_for_arrivals("all", 5).await;
        let counters = wait_until("five holds", async || {
            let counters = stack.database.counters("acme").await;
            let total: i64 =
                counters.iter().map(|counter| counter.spent_nanousd + counter.held_nanousd).sum();
            if total == 5 * held { Ok(counters) } else { Err(format!("{counters:?}")) }
        })
        .await;
        assert!(counters.iter().all(|counter| counter.spent_nanousd + counter.held_nanousd <= limit));
        gates.open("all");
    };
    let (answers, ()) = tokio::join!(calls, meanwhile);
    let allowed = answers.iter().filter(|answer| answer.status.as_u16() == 200).count();
    for answer in answers.iter().filter(|answer| answer.status.as_u16() != 200) {
        assert_denied(answer, "org", "month", &format_usd(limit));
    }
    // What the first ones did not use may have let later ones pass; more than the budget never.
    assert!(allowed >= 5, "{allowed} allowed");
    let spent: i64 = stack.database.settled("acme", allowed).await.iter().map(|row| row.cost_nanousd).sum();
    assert!(spent <= limit, "{spent} of {limit}");
    assert_eq!(stack.fake.received().attempts, 1 + allowed as u64);
    stack.assert_healthy().await;
}
