//! What Envoy's access log and statistics tell of each call.

use purser_protocol::{Allow, Deny, DenyReason, Rewrite, Verdict};
use serde_json::{Value, json};
use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::scripted::{Script, grant};
use system_tests::harness::stack::{ScriptedStack, Setup};

const FIELDS: [&str; 12] = [
    "verdict",
    "org",
    "team",
    "user",
    "model",
    "held_nanousd",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "hold_id",
];

/// The filter's fields of a line; the hold's id as whether there is one.
fn fields(line: &Value) -> Value {
    let mut fields: Vec<Value> = FIELDS.iter().map(|name| line[*name].clone()).collect();
    let id = fields.last_mut().unwrap();
    *id = json!(id.is_string());
    json!(fields)
}

fn rewriting(model: Option<&str>, cap: Option<u64>) -> Script {
    let rewrite = Rewrite { model: model.map(str::to_owned), max_output_tokens: cap };
    let allow = Allow { rewrite: Some(rewrite), clamped: cap.is_some(), ..grant() };
    Script::Verdict(Box::new(Verdict::Allow(allow)))
}

fn denying(reason: DenyReason) -> Script {
    Script::Verdict(Box::new(Verdict::Deny(Deny { reason, message: "No.".to_owned(), ..Deny::default() })))
}

/// Plays a script, makes one call and returns its line.
async fn line(stack: &ScriptedStack, script: Script, app: &App, body: &Value, count: usize) -> Value {
    stack.backend.play(script);
    stack.chat(app, body).await;
    stack.envoy.access_log(count).await.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_tells_who_paid_for_what_and_why() {
    let stack = Setup::default().start_scripted(Script::Allow).await;
    let ann = App::of("acme").team("search").user("ann \"a\"");
    let tokens = ann
        .clone()
        .with("x-fake-cached-tokens", "3")
        .with("x-fake-cache-write-5m-tokens", "2")
        .with("x-fake-reasoning-tokens", "7");
    let who = |verdict: &str| vec![json!(verdict), json!("acme"), json!("search"), json!("ann \"a\"")];
    let all = |verdict: &str, rest: &[Value]| {
        let mut all = who(verdict);
        all.extend_from_slice(rest);
        json!(all)
    };
    let (null, yes) = (Value::Null, json!(true));
    let used = |model: &str, held: Value, output: &str| {
        let counts = ["8", "0", "0", output, "0"].map(|count| json!(count));
        [vec![json!(model), held], counts.to_vec(), vec![json!(true)]].concat()
    };
    let nothing = |model: Value, id: bool| [vec![model], vec![Value::Null; 6], vec![json!(id)]].concat();
    let mini = "gpt-4o-mini";
    let mut lines = 0;
    for (script, app, body, expected) in [
        (Script::Allow, &ann, ping(), all("allow", &used(mini, json!("1000"), "16"))),
        (Script::Allow, &ann, ping_stream(), all("allow", &used(mini, json!("1000"), "16"))),
        (
            rewriting(Some("gpt-4o"), None),
            &ann,
            ping(),
            all("degraded", &used("gpt-4o", json!("1000"), "16")),
        ),
        (rewriting(None, Some(5)), &ann, ping(), all("clamped", &used(mini, json!("1000"), "5"))),
        (
            rewriting(Some("gpt-4o"), Some(5)),
            &ann,
            ping_stream(),
            all("degraded_clamped", &used("gpt-4o", json!("1000"), "5")),
        ),
        (Script::Unmarked(503), &ann, ping(), all("failed_open", &used(mini, null.clone(), "16"))),
        (Script::Status(401), &ann, ping(), all("failed_closed", &nothing(json!(mini), true))),
        (denying(DenyReason::OverBudget), &ann, ping(), all("denied", &nothing(json!(mini), true))),
        (denying(DenyReason::Unidentified), &ann, ping(), all("unidentified", &nothing(json!(mini), true))),
        (Script::Allow, &ann, json!({}), all("refused", &nothing(null.clone(), false))),
        (
            Script::Allow,
            &App::unidentified(),
            ping(),
            json!(
                [
                    ["unidentified"].map(|word| json!(word)).to_vec(),
                    vec![null.clone(); 10],
                    vec![json!(false)]
                ]
                .concat()
            ),
        ),
    ] {
        lines += 1;
        let line = line(&stack, script.clone(), app, &body, lines).await;
        assert_eq!(fields(&line), expected, "{script:?} {body}");
    }
    // Every class of tokens.
    let line = line(&stack, Script::Allow, &tokens, &ping(), lines + 1).await;
    let count = |name: &str| line[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(count("cached_input_tokens"), 3, "{line}");
    assert_eq!(count("reasoning_tokens"), 7, "{line}");
    let input = count("input_tokens") + count("cached_input_tokens") + count("cache_write_tokens");
    assert_eq!(input, 8);
    assert_eq!(line["hold_id"], stack.backend.holds()[0].hold_id.to_string());

    // What costs nothing passes.
    let models = format!("http://{}/v1/models", stack.envoy.egress);
    assert_eq!(stack.http.get(models).send().await.unwrap().status().as_u16(), 200);
    let passed = stack.envoy.access_log(lines + 2).await.pop().unwrap();
    assert_eq!((&passed["verdict"], &passed["model"]), (&json!("passed"), &null), "{passed}");
    assert_eq!(yes, json!(passed["path"] == "/v1/models"));
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_have_labels_and_only_so_many() {
    let setup = Setup::default().one_worker().edit(r#""max_series": 200"#, r#""max_series": 4"#);
    let stack = setup.start_scripted(Script::Allow).await;
    for team in ["a", "b;x=1", "c", "d"] {
        stack.chat(&App::of("acme").team(team), &ping()).await.expect(200);
    }
    stack.backend.settlements(4).await;
    for script in [Script::Unmarked(504), Script::Reset] {
        stack.backend.play(script);
        stack.chat(&App::of("acme"), &ping()).await.expect(200);
        stack.backend.settlements(1).await;
    }
    let lines = stack.envoy.prometheus("purser_").await;
    for expected in [
        r#"purser_tokens{model="gpt-4o-mini",team="a",class="input"} 8"#,
        r#"purser_tokens{model="gpt-4o-mini",team="a",class="output"} 16"#,
        r#"purser_tokens{model="gpt-4o-mini",team="b_x_1",class="input"} 8"#,
        r#"purser_tokens{model="gpt-4o-mini",team="b_x_1",class="output"} 16"#,
        r#"purser_tokens{model="other",team="other",class="input"} 32"#,
        r#"purser_tokens{model="other",team="other",class="output"} 64"#,
        r#"purser_callout_failures{cause="timeout"} 1"#,
        r#"purser_callout_failures{cause="unreachable"} 1"#,
        r#"purser_callout_failures{cause="not_sent"} 0"#,
        r#"purser_verdicts{outcome="allow"} 4"#,
        r#"purser_verdicts{outcome="deny_cached"} 0"#,
        r#"purser_outbox_overdue{older_than_s="60"} 0"#,
        r#"purser_unidentified{outcome="refused"} 0"#,
        "purser_failed_open{} 2",
        "purser_outbox_items{} 0",
        "purser_outbox_bytes{} 0",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is not in {lines:#?}");
    }
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_nobody_empties_shows_its_size_and_age() {
    let stack = Setup::default().one_worker().without_backend().start().await;
    stack.chat(&App::of("acme"), &ping()).await.expect(200);
    let overdue = "wasmcustom.purser_outbox_overdue;older_than_s=1;";
    system_tests::harness::wait_until("an overdue outbox", async || {
        let stats = stack.envoy.stats("purser_outbox").await;
        let is_full =
            stats["wasmcustom.purser_outbox_items"] == 1 && stats["wasmcustom.purser_outbox_bytes"] > 300;
        if is_full && stats[overdue] == 1 { Ok(()) } else { Err(format!("{stats:?}")) }
    })
    .await;
    assert_eq!(
        stack.envoy.stats("purser_outbox").await["wasmcustom.purser_outbox_overdue;older_than_s=600;"],
        0
    );
}
