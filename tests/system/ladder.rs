//! What a verdict between yes and no does to a call: a warning, a cheaper model, less output. And what
//! answers tell of budgets.

use purser_protocol::{
    Allow, DeniedBudget, Deny, DenyReason, Rewrite, Settlement, SettlementItem, Tier, TierRemaining, Verdict,
    Warning, Window,
};
use serde_json::{Value, json};
use system_tests::harness::client::{Answer, App, http, ping, ping_stream};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::{ScriptedStack, Setup};

fn allowing(allow: Allow) -> Script {
    Script::Verdict(Box::new(Verdict::Allow(allow)))
}

fn rewriting(model: Option<&str>, max_output_tokens: Option<u64>) -> Allow {
    let rewrite = Rewrite { model: model.map(str::to_owned), max_output_tokens };
    Allow { rewrite: Some(rewrite), clamped: max_output_tokens.is_some(), ..grant() }
}

async fn post(stack: &ScriptedStack, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = http().post(format!("http://{}{path}", stack.envoy.egress)).json(body);
    request = request.header("x-budget-org", "acme");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.send().await.unwrap()).await
}

async fn settlement(stack: &ScriptedStack) -> Settlement {
    match stack.backend.settlements(1).await.remove(0) {
        SettlementItem::Settle(settlement) => *settlement,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheaper_model_and_less_output_are_called_billed_and_told() {
    let warning = Warning { budget_id: 1, tier: Tier::Org, window: Window::Day, used_percent: 95 };
    let allow = Allow { warnings: vec![warning], ..rewriting(Some("gpt-4o-mini"), Some(5)) };
    let stack = Setup::default().start_scripted(allowing(allow)).await;
    for mut body in [ping(), ping_stream()] {
        body["model"] = json!("gpt-4o");
        let answer = stack.chat(&App::of("acme"), &body).await.expect(200);
        assert_eq!(answer.header("x-purser-warning"), "org;window=day;used=95");
        assert_eq!(answer.header("x-purser-degraded-from"), "gpt-4o");
        assert_eq!(answer.header("x-purser-clamped-to"), "5");
    }
    let items = stack.backend.settlements(2).await;
    let bill = stack.fake.billed().rows;
    for (item, billed) in items.iter().zip(&bill) {
        let SettlementItem::Settle(settlement) = item else { panic!("{item:?}") };
        assert_eq!(settlement.asked_model.as_deref(), Some("gpt-4o"));
        assert_eq!((settlement.call.model.as_str(), billed.model.as_str()), ("gpt-4o-mini", "gpt-4o-mini"));
        assert_eq!(settlement.usage.output_tokens, 5);
        assert_eq!(settlement.size.max_output_tokens, Some(5));
    }
    assert_eq!(bill.len(), 2);
    let stats = stack.envoy.stats("purser_").await;
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=degrade;"], 2);
    assert_eq!(stats["wasmcustom.purser_warnings;tier=org;;window=day;"], 2);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_the_path_is_changed_there_and_a_request_signed_for_bedrock_is_denied() {
    let contents = json!({"contents": [{"parts": [{"text": "ping"}]}]});
    let messages = json!({"messages": [{"role": "user", "content": "ping"}]});
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "ping"}]}]});
    let sonnet = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
    for (provider, path, body, model, expected) in [
        (
            "gemini",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            &contents,
            "gemini-2.5-flash",
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ),
        (
            "azure",
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            &messages,
            "gpt-4o-mini",
            "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21",
        ),
        (
            "bedrock",
            "/model/anthropic.claude-3-opus-20240229-v1%3A0/converse",
            &converse,
            sonnet,
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
        ),
    ] {
        let setup = Setup::default().provider(provider);
        let stack = setup.start_scripted(allowing(rewriting(Some(model), None))).await;
        post(&stack, path, &[], body).await.expect(200);
        let row = &stack.fake.received().rows[0];
        assert_eq!(row.path, expected);
        let told = settlement(&stack).await;
        assert_eq!(told.call.model, model);
        assert!(path.contains(&told.asked_model.unwrap().replace(':', "%3A")), "{path}");

        // The hold pays for the cheaper model only.
        stack.backend.play(allowing(rewriting(Some(model), None)));
        let signature = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/bedrock/aws4_request, \
                         SignedHeaders=host, Signature=00";
        let answer = post(&stack, path, &[("authorization", signature)], body).await;
        if provider == "bedrock" {
            assert_eq!(answer.status.as_u16(), 400, "{}", answer.text());
            assert!(answer.text().contains("signed"), "{}", answer.text());
            let given_back = stack.backend.settlements(1).await;
            assert!(matches!(given_back[0], SettlementItem::Void(_)), "{given_back:?}");
            assert_eq!(stack.fake.received().attempts, 1);
        } else {
            // Nobody else signs requests: what looks like it is no way around the cheaper model.
            answer.expect(200);
            assert_eq!(stack.fake.received().rows[1].path, expected);
        }
        stack.assert_healthy().await;
    }
}

fn remaining() -> Allow {
    let left = |tier, window, remaining_nanousd, resets_in_s| TierRemaining {
        tier,
        window,
        limit_nanousd: 5_000_000_000,
        remaining_nanousd,
        resets_in_s,
    };
    Allow {
        remaining: vec![
            left(Tier::Org, Window::Month, 4_500_000_000, Some(86_400)),
            left(Tier::Team, Window::Day, -1, Some(60)),
        ],
        ..grant()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_tell_of_budgets_is_configured() {
    let shipped = r#""headers": {"remaining": true, "warnings": true, "ratelimit": false}"#;
    let other = r#""headers": {"remaining": false, "warnings": false, "ratelimit": true}"#;
    let warning = Warning { budget_id: 1, tier: Tier::Team, window: Window::Day, used_percent: 100 };
    for (setup, org, warned, ratelimit) in [
        (Setup::default(), "4.50", "team;window=day;used=100", ("", "")),
        (
            Setup::default().edit(shipped, other),
            "",
            "",
            (
                "\"org\";q=5000000;qu=\"micro-usd\", \"team\";q=5000000;qu=\"micro-usd\";w=86400",
                "\"org\";r=4500000;t=86400, \"team\";r=0;t=60",
            ),
        ),
    ] {
        let allow = Allow { warnings: vec![warning.clone()], ..remaining() };
        let stack = setup.start_scripted(allowing(allow)).await;
        let answer = stack.chat(&App::of("acme"), &ping()).await.expect(200);
        assert_eq!(answer.header("x-purser-remaining-org"), org);
        assert_eq!(answer.header("x-purser-warning"), warned);
        assert_eq!((answer.header("ratelimit-policy"), answer.header("ratelimit")), ratelimit);
        stack.assert_healthy().await;
    }
}

fn over_budget() -> Deny {
    Deny {
        reason: DenyReason::OverBudget,
        message: "The day budget of team search in org acme is exhausted: limit 5.00 USD, spent 4.97 USD; it resets \
                  at 2026-01-02T00:00:00Z."
            .to_owned(),
        budget: Some(DeniedBudget {
            budget_id: 17,
            tier: Tier::Team,
            window: Window::Day,
            limit_nanousd: 5_000_000_000,
            spent_nanousd: 4_970_000_000,
            held_nanousd: 0,
            needed_nanousd: 40_000_000,
            resets_at: Some("2026-01-02T00:00:00Z".to_owned()),
        }),
        ..Deny::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_names_budget_window_and_reset_and_amounts_only_where_they_may_show() {
    let contents = json!({"contents": [{"parts": [{"text": "ping"}]}]});
    let converse = json!({"messages": [{"role": "user", "content": [{"text": "ping"}]}]});
    let cohere = json!({"model": "command-a", "messages": [{"role": "user", "content": "ping"}]});
    let mut anthropic = ping();
    anthropic["max_tokens"] = json!(9);
    for (amounts, shows) in [("show", true), ("hide", false)] {
        let setup = Setup::default().edit(r#""amounts": "show""#, &format!(r#""amounts": "{amounts}""#));
        let stack = setup.start_scripted(Script::Verdict(Box::new(Verdict::Deny(over_budget())))).await;
        for (path, body, status, kind) in [
            ("/v1/chat/completions", &ping(), 429, "insufficient_quota"),
            ("/v1/responses", &json!({"model": "gpt-5.4", "input": "ping"}), 429, "insufficient_quota"),
            ("/v1/messages", &anthropic, 429, "enforced_spend_limit_reached"),
            ("/v1beta/models/gemini-2.5-pro:generateContent", &contents, 429, "RESOURCE_EXHAUSTED"),
            ("/model/m/converse", &converse, 400, "message"),
            ("/v2/chat", &cohere, 402, "message"),
        ] {
            let answer = post(&stack, path, &[], body).await.expect(status);
            let text = answer.text();
            assert!(text.contains(kind), "{path}: {text}");
            assert_eq!(answer.header("content-type"), "application/json", "{path}");
            assert_eq!(answer.header("x-should-retry"), "false", "{path}");
            assert_eq!(answer.header("retry-after"), "", "{path}");
            let class = if path.ends_with("converse") { "ServiceQuotaExceededException" } else { "" };
            assert_eq!(answer.header("x-amzn-errortype"), class, "{path}");
            for part in ["day budget", "team", "2026-01-02T00:00:00Z"] {
                assert!(text.contains(part), "{part}: {path}: {text}");
            }
            for (name, value) in [
                ("x-purser-denied-tier", "team"),
                ("x-purser-denied-window", "day"),
                ("x-purser-denied-budget", "17"),
                ("x-purser-resets-at", "2026-01-02T00:00:00Z"),
                ("x-purser-limit", if shows { "5.00" } else { "" }),
            ] {
                assert_eq!(answer.header(name), value, "{path} {name}");
            }
            let tells = text.contains("USD") || format!("{:?}", answer.headers).contains("5.00");
            assert_eq!(tells, shows, "{path}: {text} {:?}", answer.headers);
        }
        assert_eq!(stack.fake.received().attempts, 0);
        stack.assert_healthy().await;
    }
}
