//! A budget that is exhausted for any cost refuses again without the backend being asked, and says so later.

use purser_protocol::{DeniedBudget, Deny, DenyReason, Payer, RepeatedDenials, Tier, Verdict, Window};
use system_tests::harness::client::{App, ping, ping_stream};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

const PATIENT: (&str, &str) = (r#""cache_ms": 1000"#, r#""cache_ms": 60000"#);

fn denial(exhausted: bool, payer: Option<Payer>) -> Script {
    let budget = DeniedBudget {
        budget_id: 17,
        tier: Tier::Org,
        window: Window::Day,
        limit_nanousd: 5,
        spent_nanousd: 5,
        held_nanousd: 0,
        needed_nanousd: 4,
        resets_at: None,
    };
    let message = "The day budget of org acme is exhausted.".to_owned();
    Script::Verdict(Box::new(Verdict::Deny(Deny {
        reason: DenyReason::OverBudget,
        message,
        budget: Some(budget),
        exhausted,
        payer,
        ..Deny::default()
    })))
}

fn told(reports: &[RepeatedDenials], model: &str) -> u64 {
    reports.iter().filter(|report| report.call.model == model).map(|report| report.count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_looping_agent_stays_off_the_backend_and_is_counted() {
    let setup = Setup::default().one_worker().edit(PATIENT.0, PATIENT.1);
    let stack = setup.start_scripted(denial(true, None)).await;
    let acme = App::of("acme");
    let first = stack.chat(&acme, &ping()).await.expect(429);
    assert_eq!(first.header("x-purser-denial-cached"), "");
    for number in 0..20 {
        let body = if number % 2 == 0 { ping() } else { ping_stream() };
        let again = stack.chat(&acme, &body).await.expect(429);
        assert_eq!(again.body, first.body);
        assert_eq!(again.header("x-purser-denial-cached"), "true");
        assert_eq!(again.header("x-should-retry"), "false");
        assert_eq!(again.header("x-purser-hold-id"), first.header("x-purser-hold-id"));
    }
    assert_eq!(stack.backend.holds().len(), 1, "nobody asked again");

    // Another payer, and another model of the same payer, are other questions.
    let mut other_model = ping();
    other_model["model"] = "gpt-4o".into();
    stack.chat(&App::of("other"), &ping()).await.expect(429);
    stack.chat(&acme.clone().team("search"), &ping()).await.expect(429);
    for _ in 0..2 {
        stack.chat(&acme, &other_model).await.expect(429);
    }
    assert_eq!(stack.backend.holds().len(), 4);

    let reports = stack.backend.repeated_denials(21).await;
    assert_eq!((told(&reports, "gpt-4o-mini"), told(&reports, "gpt-4o")), (20, 1));
    for report in &reports {
        assert_eq!((report.budget_id, report.payer.org.as_str(), report.call.stream), (17, "acme", false));
    }
    for batch in stack.backend.batches() {
        let kinds: Vec<_> = batch.items.iter().map(std::mem::discriminant).collect();
        assert!(kinds.windows(2).all(|pair| pair[0] == pair[1]), "reports come in batches of their own");
    }
    let stats = stack.envoy.stats("purser_verdicts").await;
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny;"], 4);
    assert_eq!(stats["wasmcustom.purser_verdicts;outcome=deny_cached;"], 21);
    assert_eq!(stack.fake.received().attempts, 0);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_exhausted_is_repeated_and_only_for_its_time() {
    // By configuration, or because a cheaper call might still pass.
    for (edit, exhausted) in [(r#""cache_ms": 0"#, true), (r#""cache_ms": 60000"#, false)] {
        let stack = Setup::default().edit(PATIENT.0, edit).start_scripted(denial(exhausted, None)).await;
        for asked in 1..=3 {
            stack.chat(&App::of("acme"), &ping()).await.expect(429);
            assert_eq!(stack.backend.holds().len(), asked);
        }
        stack.assert_healthy().await;
    }
    // As shipped it is a second.
    let stack = Setup::default().one_worker().start_scripted(denial(true, None)).await;
    stack.chat(&App::of("acme"), &ping()).await.expect(429);
    stack.backend.play(Script::Allow);
    wait_until("the budget to be asked for again", async || {
        let answer = stack.chat(&App::of("acme"), &ping()).await;
        if answer.status.as_u16() == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_that_was_looked_up_is_reported_by_name() {
    let acme = Payer { org: "acme".to_owned(), team: Some("search".to_owned()), user: None };
    let setup = Setup::default().one_worker().edit(PATIENT.0, PATIENT.1);
    let setup = setup.edit(r#""org": {"header": "x-budget-org"}"#, r#""org": {"api_key": true}"#);
    let stack = setup.start_scripted(denial(true, Some(acme.clone()))).await;
    let app = |key: &str| App::unidentified().with("authorization", &format!("Bearer {key}"));
    for _ in 0..3 {
        stack.chat(&app("one"), &ping()).await.expect(429);
    }
    stack.chat(&app("two"), &ping()).await.expect(429);
    assert_eq!(stack.backend.holds().len(), 2, "a key at a time");
    let reports = stack.backend.repeated_denials(2).await;
    assert_eq!(reports[0].payer, acme);
    stack.assert_healthy().await;
}
